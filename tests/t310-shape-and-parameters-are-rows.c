/* A shape is checked field by field and survives its text form; parameters lie where the layout says and start alike. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

static void test_shape_text_returns(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        ModelShape shape = tiny_shape(i ? "gpt2" : "llama", i == 0), back;
        shape.norm_epsilon = 1.23456789e-6f;
        shape.rope_base = 500000.1f;
        char *text = model_shape_to_text(&shape);
        assert_ok(model_shape_from_text(text, "test", &back));
        assert_true(model_shape_equal(&shape, &back));
        back.ffn++;
        assert_false(model_shape_equal(&shape, &back));
        memory_free(&text);
    }
}

static void test_every_family_is_found_by_its_name(void **state)
{
    (void)state;
    char names[128];
    snprintf(names, sizeof names, "%s", arch_names());
    int count = 0;
    for (char *rest = names, *name; (name = strtok_r(rest, ", ", &rest)); count++) {
        assert_string_equal(arch_find(name)->name, name);
        assert_ptr_equal(arch_find_huggingface(arch_find(name)->huggingface), arch_find(name));
    }
    assert_int_equal(count, 2);
    assert_null(arch_find("t5"));
}

static void test_shape_errors_name_the_field(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    shape.kv_heads = 3;
    assert_fails(model_shape_check(&shape, "a.json"), STATUS_INPUT, "kv_heads");
    shape = tiny_shape("llama", true);
    shape.head_dim = 7;
    assert_fails(model_shape_check(&shape, "a.json"), STATUS_INPUT, "head_dim");
    shape.head_dim = 0;
    assert_fails(model_shape_check(&shape, "a.json"), STATUS_INPUT, "head_dim");
    shape = tiny_shape("llama", true);
    shape.norm_epsilon = NAN;
    assert_fails(model_shape_check(&shape, "a.json"), STATUS_INPUT, "norm_epsilon");
    shape = tiny_shape("llama", true);
    shape.vocab = INT64_MAX;
    assert_fails(model_shape_check(&shape, "a.json"), STATUS_INPUT, "vocab");
    assert_fails(model_shape_from_text("{\"arch\": \"t5\"}", "a.h5", &shape), STATUS_INPUT, "llama, gpt2");
    assert_fails(model_shape_from_text("{\"arch\": \"gpt2\", \"layers\": \"2\"}", "a.h5", &shape), STATUS_INPUT,
                 "layers");
    assert_fails(model_shape_from_text("{", "a.h5", &shape), STATUS_INPUT, "a.h5");
    ModelConfig config = {.arch = "llama",
                          .layers = 1,
                          .width = 30,
                          .heads = 4,
                          .kv_heads = CONFIG_AUTO,
                          .ffn = CONFIG_AUTO,
                          .positions_max = 8,
                          .norm_epsilon = 1e-5,
                          .rope_base = 1e4};
    assert_fails(model_shape_from_config(&config, 10, &shape), STATUS_USAGE, "model.width");
    config.width = 48;
    assert_ok(model_shape_from_config(&config, 10, &shape));
    assert_int_equal(shape.ffn, 128);
    assert_int_equal(shape.kv_heads, 4);
}

static void test_layout(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        ModelShape shape = tiny_shape(i ? "gpt2" : "llama", false);
        Params params;
        params_layout(&params, &shape, HEAD_LM);
        int64_t end = 0, learned = 0;
        for (int v = 0; v < params.views; v++) {
            const ParamView *view = &params.view[v];
            assert_int_equal(view->offset % 64, 0);
            assert_true(view->offset >= end);
            assert_int_equal(view->count, view->rows_stored * view->shape[1]);
            assert_int_equal(params_find(&params, view->name), v);
            end = view->offset + view->count;
            learned += view->shape[0] * view->shape[1];
            /* Decay is for matrices that multiply; never for norms, biases or positions. */
            bool matrix = view->ndim == 2 && !strstr(view->name, "position");
            assert_int_equal(view->decay, matrix);
        }
        assert_true(end <= params.count && params.count - end < 64 && params.count % 64 == 0);
        assert_int_equal(params_learned(&params), learned);
        int64_t layer =
            i ? 64 * 32 + 64 + 32 * 32 + 32 + 2 * 32 * 48 + 48 + 32 + 4 * 32 : 64 * 32 + 32 * 32 + 3 * 32 * 48 + 2 * 32;
        assert_int_equal(learned, 2 * 70 * 32 + 2 * layer + (i ? 64 * 32 + 64 : 32));
        const ParamView *token = &params.view[params_find(&params, "embed.token")];
        assert_int_equal(token->shape[0], 70);
        assert_int_equal(token->rows_stored, 128);
        assert_int_equal(params_index(&params, VIEW_DOWN_WEIGHT, 1), params_find(&params, "layer.1.down.weight"));
        assert_int_equal(params_index(&params, VIEW_SCORE_WEIGHT, 0), -1);
        assert_int_equal(params_find(&params, "head.weight") >= 0, 1);
        params_free(&params);
        shape.tied = true;
        params_layout(&params, &shape, HEAD_SCALAR);
        assert_int_equal(params_find(&params, "head.weight"), -1);
        assert_int_equal(params.view[params_find(&params, "score.weight")].shape[0], 1);
        params_free(&params);
    }
}

static void test_initialisation(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("gpt2", true);
    shape.width = 256;
    shape.head_dim = 64;
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_SCALAR, 5, 1);
    const Params *params = &tiny.model.params;
    float *value = memory_new((size_t)params->count, sizeof *value);
    tensor_read(&tiny.device, params->value, value);
    uint8_t *covered = memory_new((size_t)params->count, 1);
    for (int v = 0; v < params->views; v++) {
        const ParamView *view = &params->view[v];
        int64_t learned = view->shape[0] * view->shape[1];
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < learned; i++) {
            double x = value[view->offset + i];
            covered[view->offset + i] = 1;
            sum += x;
            squares += x * x;
        }
        double mean = sum / (double)learned, deviation = sqrt(squares / (double)learned - mean * mean);
        double expected = strcmp(view->name, "score.weight") == 0 ? 1 / sqrt(257.0)
                          : strstr(view->name, "projection.weight") || strstr(view->name, "down.weight")
                              ? 0.02 / sqrt(4)
                          : view->ndim == 2 ? 0.02
                                            : 0;
        /* Within four standard errors. */
        assert_close(deviation, expected, 4 / sqrt(2.0 * (double)learned), 1e-9);
        assert_close(mean, strstr(view->name, "gain") ? 1 : 0, 0, 4 * expected / sqrt((double)learned) + 1e-12);
    }
    for (int64_t i = 0; i < params->count; i++)
        if (!covered[i])
            assert_true(value[i] == 0);
    /* A score head alone starts as it does with the rest. */
    int score = params_find(params, "score.weight");
    tensor_zero(&tiny.device, params_get(params, score).value);
    params_initialise_view(&tiny.device, &tiny.model.params, 5, score);
    float *again = memory_new((size_t)params->count, sizeof *again);
    tensor_read(&tiny.device, params->value, again);
    assert_memory_equal(value, again, (size_t)params->count * sizeof *value);
    memory_free(&again);
    memory_free(&covered);
    memory_free(&value);
    tiny_close(&tiny);
}

static void test_copy_takes_what_both_have(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", false);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 1, 1);
    Model critic;
    assert_ok(model_open(&critic, &tiny.device, &shape, HEAD_SCALAR));
    params_initialise(&tiny.device, &critic.params, 2);
    model_copy(&critic, &tiny.model);
    for (int v = 0; v < critic.params.views; v++) {
        Tensor mine = params_get(&critic.params, v).value;
        int source = params_find(&tiny.model.params, critic.params.view[v].name);
        float *a = memory_new((size_t)tensor_count(mine), sizeof *a),
              *b = memory_new((size_t)tensor_count(mine), sizeof *b);
        tensor_read(&tiny.device, mine, a);
        if (source >= 0) {
            tensor_read(&tiny.device, params_get(&tiny.model.params, source).value, b);
            assert_memory_equal(a, b, tensor_bytes(mine));
        } else {
            assert_true(strstr(critic.params.view[v].name, "score.") != NULL);
        }
        if (strcmp(critic.params.view[v].name, "score.weight") == 0)
            assert_true(a[0] != 0);
        memory_free(&a);
        memory_free(&b);
    }
    model_close(&critic);
    tiny_close(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape_text_returns),
        cmocka_unit_test(test_every_family_is_found_by_its_name),
        cmocka_unit_test(test_shape_errors_name_the_field),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_initialisation),
        cmocka_unit_test(test_copy_takes_what_both_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
