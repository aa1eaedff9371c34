/* Sequences end to end in one batch give the loss and all gradients that they give one at a time; without a tape the
 * numbers are the same bits. Rows that nobody wants change nothing by being left out. Scalar heads: gradients agree with
 * finite differences. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { SEQUENCES = 6, TOKENS = 64 };
static const int32_t start[SEQUENCES + 1] = {0, 9, 10, 31, 33, 60, 64};

static float *read_gradient(Tiny *tiny)
{
    float *host = memory_new((size_t)tiny->model.params.count, sizeof *host);
    tensor_read(&tiny->device, tiny->grad, host);
    return host;
}

static void packed_equals_alone(const char *arch, bool tied)
{
    ModelShape shape = tiny_shape(arch, tied);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 3, 6);
    int32_t tokens[TOKENS];
    float weight[TOKENS], packed_logprob[TOKENS], alone_logprob[TOKENS], inference_logprob[TOKENS];
    tiny_tokens(7, shape.vocab, tokens, TOKENS);
    for (int i = 0; i < TOKENS; i++)
        weight[i] = (float)(1 + i % 5) / 150;

    double packed = tiny_nll(&tiny, true, tokens, start, SEQUENCES, weight, packed_logprob);
    float *packed_gradient = read_gradient(&tiny);
    double inference = tiny_nll(&tiny, false, tokens, start, SEQUENCES, weight, inference_logprob);
    assert_true(inference == packed);
    assert_memory_equal(inference_logprob, packed_logprob, sizeof packed_logprob);

    double alone = 0;
    size_t count = (size_t)tiny.model.params.count;
    double *sum = memory_new(count, sizeof *sum);
    for (int s = 0; s < SEQUENCES; s++) {
        int32_t one[2] = {0, start[s + 1] - start[s]};
        alone += tiny_nll(&tiny, true, tokens + start[s], one, 1, weight + start[s], alone_logprob + start[s]);
        float *gradient = read_gradient(&tiny);
        for (size_t i = 0; i < count; i++)
            sum[i] += gradient[i];
        memory_free(&gradient);
    }
    assert_close(packed, alone, 1e-6, 0);
    assert_floats_close(packed_logprob, alone_logprob, TOKENS, 0, 1e-5);
    float *alone_gradient = memory_new(count, sizeof *alone_gradient);
    for (size_t i = 0; i < count; i++)
        alone_gradient[i] = (float)sum[i];
    for (int v = 0; v < tiny.model.params.views; v++) {
        const ParamView *view = &tiny.model.params.view[v];
        assert_relative_l2(packed_gradient + view->offset, alone_gradient + view->offset, (size_t)view->count, 1e-5);
        /* A gradient that is zero everywhere would agree with anything. */
        double largest = 0;
        for (int64_t i = 0; i < view->count; i++)
            largest = fmax(largest, fabs((double)alone_gradient[view->offset + i]));
        assert_true(largest > 0);
    }
    memory_free(&alone_gradient);
    memory_free(&sum);
    memory_free(&packed_gradient);
    tiny_close(&tiny);
}

static void test_llama(void **state)
{
    (void)state;
    packed_equals_alone("llama", false);
    packed_equals_alone("llama", true);
}

static void test_gpt2(void **state)
{
    (void)state;
    packed_equals_alone("gpt2", true);
}

/* sum of weight * (score(last row of each sequence) - target)^2 / 2; `whole`: the rows are picked after all layers. */
static double score_loss(Tiny *tiny, bool train, bool whole, const int32_t *tokens)
{
    static const float target[SEQUENCES] = {0.5f, -1, 0.2f, 2, -0.3f, 0},
                       weight[SEQUENCES] = {0.2f, 0.1f, 0.3f, 0.1f, 0.2f, 0.1f};
    Exec exec = train ? tiny_train_exec(tiny) : tiny->exec;
    int32_t last[SEQUENCES];
    for (int s = 0; s < SEQUENCES; s++)
        last[s] = start[s + 1] - 1;
    TokenBatch batch = token_batch_make(&tiny->device, &tiny->step, tokens, start, SEQUENCES, NULL);
    Tensor rows = tiny_upload(tiny, DTYPE_I32, last, SEQUENCES);
    Tensor hidden = model_hidden(&tiny->model, &exec, &batch, whole ? tensor_absent() : rows, NULL);
    if (whole)
        hidden = gather_forward(&exec, hidden, rows);
    Tensor score = model_score(&tiny->model, &exec, hidden);
    assert_int_equal(score.ndim, 1);
    assert_int_equal(score.shape[0], SEQUENCES);
    Tensor stats = tensor_new1(&tiny->step, DTYPE_F64, VALUE_STATS);
    tensor_zero(&tiny->device, stats);
    Tensor wanted = tiny_upload(tiny, DTYPE_F32, target, SEQUENCES);
    value_loss(&exec, score, wanted, wanted, tiny_upload(tiny, DTYPE_F32, weight, SEQUENCES), 0, 1, stats);
    if (train)
        tape_backward(&exec);
    double host[VALUE_STATS];
    tensor_read(&tiny->device, stats, host);
    tiny_rewind(tiny);
    return host[VALUE_LOSS];
}

static void test_unwanted_rows_may_be_left_out(void **state)
{
    (void)state;
    for (int family = 0; family < 2; family++) {
        ModelShape shape = tiny_shape(family ? "gpt2" : "llama", true);
        Tiny tiny;
        tiny_open(&tiny, &shape, HEAD_SCALAR, 11, 5);
        int32_t tokens[TOKENS];
        tiny_tokens(8, shape.vocab, tokens, TOKENS);
        double whole = score_loss(&tiny, true, true, tokens);
        float *whole_gradient = read_gradient(&tiny);
        double wanted = score_loss(&tiny, true, false, tokens);
        float *wanted_gradient = read_gradient(&tiny);
        assert_close(wanted, whole, 1e-6, 0);
        for (int v = 0; v < tiny.model.params.views; v++) {
            const ParamView *view = &tiny.model.params.view[v];
            assert_relative_l2(wanted_gradient + view->offset, whole_gradient + view->offset, (size_t)view->count,
                               1e-5);
        }
        assert_true(score_loss(&tiny, false, false, tokens) == wanted);
        memory_free(&wanted_gradient);
        memory_free(&whole_gradient);
        tiny_close(&tiny);
    }
}

/* Along a random direction of each view, so that every element takes part. */
static void test_scalar_head_against_differences(void **state)
{
    (void)state;
    for (int family = 0; family < 2; family++) {
        ModelShape shape = tiny_shape(family ? "gpt2" : "llama", true);
        Tiny tiny;
        tiny_open(&tiny, &shape, HEAD_SCALAR, 11, 5);
        int32_t tokens[TOKENS];
        tiny_tokens(8, shape.vocab, tokens, TOKENS);
        score_loss(&tiny, true, false, tokens);
        float *gradient = read_gradient(&tiny);
        const Params *params = &tiny.model.params;
        for (int v = 0; v < params->views; v++) {
            const ParamView *view = &params->view[v];
            Tensor value = params_get(params, v).value;
            size_t count = (size_t)view->count;
            float *before = memory_new(count, sizeof *before), *moved = memory_new(count, sizeof *moved);
            tensor_read(&tiny.device, value, before);
            double slope = 0, loss[2];
            double scale = 0;
            for (size_t i = 0; i < count; i++)
                scale += (double)gradient[view->offset + (int64_t)i] * gradient[view->offset + (int64_t)i];
            assert_true(scale > 0);
            scale = 1 / sqrt(scale);
            double h = 2e-3;
            for (int side = 0; side < 2; side++) {
                for (size_t i = 0; i < count; i++)
                    moved[i] = (float)(before[i] + (side ? h : -h) * scale * gradient[view->offset + (int64_t)i]);
                tensor_write(&tiny.device, value, moved);
                loss[side] = score_loss(&tiny, false, false, tokens);
            }
            tensor_write(&tiny.device, value, before);
            slope = (loss[1] - loss[0]) / (2 * h);
            if (!support_is_close(slope, 1 / scale, 0.01, 2e-4))
                print_error("%s %s\n", shape.arch->name, view->name);
            assert_close(slope, 1 / scale, 0.01, 2e-4);
            memory_free(&before);
            memory_free(&moved);
        }
        memory_free(&gradient);
        tiny_close(&tiny);
    }
}

static void test_frozen_parameters_get_no_gradient(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 3, 6);
    params_set_grad(&tiny.model.params, tensor_absent());
    int32_t tokens[TOKENS];
    float weight[TOKENS];
    tiny_tokens(7, shape.vocab, tokens, TOKENS);
    for (int i = 0; i < TOKENS; i++)
        weight[i] = 0.01f;
    assert_true(tiny_nll(&tiny, true, tokens, start, SEQUENCES, weight, NULL) > 0);
    float *gradient = read_gradient(&tiny);
    for (int64_t i = 0; i < tiny.model.params.count; i++)
        assert_true(gradient[i] == 0);
    memory_free(&gradient);
    tiny_close(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_unwanted_rows_may_be_left_out),
        cmocka_unit_test(test_scalar_head_against_differences),
        cmocka_unit_test(test_frozen_parameters_get_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
