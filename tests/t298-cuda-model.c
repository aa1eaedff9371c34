/* t298 -- whole models on the CUDA backend: losses, log-probs and gradients are the CPU's, in fp32 closely and in bf16 nearly; generation draws the CPU's tokens,
 * reads once per 16 steps, and computes at most 15 rows per response for nothing. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/generate.h"
#include "kernels/cuda/device_cuda.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

static DType flow;

static Status open_cuda(Device *device)
{
    TRY(device_open_cuda(device, &(CudaOptions){.threads = 1}));
    return device_set_flow(device, flow);
}

static const char *const families[] = {"gpt2", "llama"};
enum { FAMILIES = 2, SEQUENCES = 4, TOKENS = 90 };
static const int32_t start[SEQUENCES + 1] = {0, 33, 34, 57, TOKENS};

/* --- One loss and its gradients --- */

typedef struct Outcome {
    double loss;
    float logprob[TOKENS];
    float *grad;
    int64_t count;
} Outcome;

static void train_once(const char *family, bool tied, Status (*open)(Device *), Outcome *outcome)
{
    tiny_use_device(open);
    ModelShape shape = tiny_shape(family, tied);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 5, 4);
    int32_t tokens[TOKENS];
    float weight[TOKENS];
    tiny_tokens(9, shape.vocab, tokens, TOKENS);
    for (int t = 0; t < TOKENS; t++)
        weight[t] = t % 7 == 0 ? 0.0f : 0.02f;
    outcome->loss = tiny_nll(&tiny, true, tokens, start, SEQUENCES, weight, outcome->logprob);
    outcome->count = tiny.model.params.count;
    outcome->grad = memory_new((size_t)outcome->count, sizeof(float));
    tensor_read(&tiny.device, tiny.grad, outcome->grad);
    tiny_close(&tiny);
    tiny_use_device(NULL);
}

static void compare(DType dtype, double loss_within, double grad_within)
{
    flow = dtype;
    for (int f = 0; f < FAMILIES; f++)
        for (int tied = 0; tied < 2; tied++) {
            Outcome cpu, cuda;
            train_once(families[f], tied, NULL, &cpu);
            train_once(families[f], tied, open_cuda, &cuda);
            double logprobs = support_relative_l2(cuda.logprob, cpu.logprob, TOKENS),
                   grads = support_relative_l2(cuda.grad, cpu.grad, (size_t)cpu.count);
            print_message("%s, %s, %s: loss %.7f and %.7f, log-probs %.2g, gradients %.2g apart\n", families[f],
                          tied ? "tied" : "untied", dtype_name(dtype), cuda.loss, cpu.loss, logprobs, grads);
            assert_true(fabs(cuda.loss - cpu.loss) <= loss_within * fabs(cpu.loss));
            assert_true(logprobs <= 2 * loss_within);
            assert_true(grads <= grad_within);
            memory_free(&cpu.grad);
            memory_free(&cuda.grad);
        }
}

static void test_fp32_is_the_cpus(void **state)
{
    (void)state;
    compare(DTYPE_F32, 2e-6, 1e-5);
}

/* 8 bits of mantissa through two layers. */
static void test_bf16_is_near(void **state)
{
    (void)state;
    compare(DTYPE_BF16, 2e-3, 2e-2);
}

/* A frozen model computes the same with a third of the memory. */
static void test_frozen_models_are_small(void **state)
{
    (void)state;
    flow = DTYPE_BF16;
    tiny_use_device(open_cuda);
    for (int f = 0; f < FAMILIES; f++) {
        ModelShape shape = tiny_shape(families[f], false);
        Tiny tiny;
        tiny_open(&tiny, &shape, HEAD_LM, 5, 4);
        params_set_grad(&tiny.model.params, tensor_absent());
        int32_t tokens[TOKENS];
        float weight[TOKENS] = {0}, before[TOKENS], after[TOKENS];
        tiny_tokens(9, shape.vocab, tokens, TOKENS);
        tiny_nll(&tiny, false, tokens, start, SEQUENCES, weight, before);
        size_t bytes = model_bytes(&tiny.model);
        model_freeze(&tiny.model);
        tiny_nll(&tiny, false, tokens, start, SEQUENCES, weight, after);
        assert_memory_equal(before, after, sizeof before);
        size_t gone = sizeof(float) * (size_t)tiny.model.params.count,
               kept = sizeof(float) * (size_t)tiny.model.params.beside_count;
        assert_true(model_bytes(&tiny.model) <= bytes - gone + kept + 512);
        tiny_close(&tiny);
    }
    tiny_use_device(NULL);
}

/* --- Generation --- */

enum { REQUESTS = 9, MAX_NEW = 37, PROMPT = 12 };

typedef struct Job {
    int32_t prompt[REQUESTS][PROMPT];
    GenerateRequest request[REQUESTS];
    int32_t token[REQUESTS][MAX_NEW];
    float logprob[REQUESTS][MAX_NEW];
    GenerateResult result[REQUESTS];
    uint64_t reads, decoded, wasted;
} Job;

static void generate_once(const char *family, Status (*open)(Device *), const GenerateOptions *options, Job *job)
{
    memset(job, 0, sizeof *job);
    tiny_use_device(open);
    ModelShape shape = tiny_shape(family, true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 21, 8);
    for (int i = 0; i < REQUESTS; i++) {
        tiny_tokens(100 + (uint64_t)i, shape.vocab, job->prompt[i], PROMPT);
        job->request[i] = (GenerateRequest){.prompt = job->prompt[i],
                                            .prompt_count = 1 + i * 11 / 8,
                                            .stream = rng_stream(3, RNG_GENERATE, 0, (uint64_t)i)};
        job->result[i] = (GenerateResult){.token = job->token[i], .logprob = job->logprob[i]};
    }
    device_counters_reset(&tiny.device);
    uint64_t decoded = generate_decoded_rows(), wasted = generate_wasted_rows();
    assert_ok(generate(&tiny.model, &tiny.exec, job->request, REQUESTS, options, job->result));
    job->reads = tiny.device.reads;
    job->decoded = generate_decoded_rows() - decoded;
    job->wasted = generate_wasted_rows() - wasted;
    tiny_close(&tiny);
    tiny_use_device(NULL);
}

static void check_generation(const char *family, float temperature, float top_p, int64_t top_k, int64_t slots)
{
    static const int32_t stop[] = {4, 55};
    GenerateOptions options = {.slots = slots,
                               .max_new = MAX_NEW,
                               .temperature = temperature,
                               .top_p = top_p,
                               .top_k = top_k,
                               .stop = stop,
                               .stop_count = 2};
    static Job cpu, cuda;
    generate_once(family, NULL, &options, &cpu);
    generate_once(family, open_cuda, &options, &cuda);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(cuda.result[i].count, cpu.result[i].count);
        assert_int_equal(cuda.result[i].stopped, cpu.result[i].stopped);
        assert_memory_equal(cuda.token[i], cpu.token[i], sizeof(int32_t) * (size_t)cpu.result[i].count);
        assert_true(support_relative_l2(cuda.logprob[i], cpu.logprob[i], (size_t)cpu.result[i].count) < 1e-4);
    }
    print_message("%s, %lld slots: %llu rows decoded, %llu for nothing, %llu reads (cpu: %llu)\n", family,
                  (long long)slots, (unsigned long long)cuda.decoded, (unsigned long long)cuda.wasted,
                  (unsigned long long)cuda.reads, (unsigned long long)cpu.reads);
    assert_int_equal(cuda.decoded, cpu.decoded);
    assert_int_equal(cpu.wasted, 0);
    assert_true(cuda.wasted <= 15 * REQUESTS);
}

static void test_generation_is_the_cpus(void **state)
{
    (void)state;
    flow = DTYPE_F32;
    check_generation("gpt2", 1.0f, 1.0f, 0, 4);
    check_generation("llama", 1.0f, 1.0f, 0, 9);
    check_generation("llama", 0.8f, 0.9f, 20, 3);
    check_generation("gpt2", 0.0f, 1.0f, 0, 5);
}

/* With all slots taken at once: one prefill, then a read per 16 steps. */
static void test_reads_are_one_per_burst(void **state)
{
    (void)state;
    flow = DTYPE_F32;
    GenerateOptions options = {.slots = REQUESTS, .max_new = MAX_NEW, .temperature = 1, .top_p = 1};
    static Job job;
    generate_once("llama", open_cuda, &options, &job);
    assert_int_equal(job.decoded, REQUESTS * (MAX_NEW - 1));
    assert_int_equal(job.wasted, 0);
    assert_int_equal(job.reads, 1 + (MAX_NEW - 1 + 15) / 16);
}

int main(void)
{
    int count;
    if (status_failed(cuda_devices_count(&count)))
        support_skip("cuda", "%s", status_message());
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fp32_is_the_cpus), cmocka_unit_test(test_bf16_is_near),
                                       cmocka_unit_test(test_frozen_models_are_small),
                                       cmocka_unit_test(test_generation_is_the_cpus),
                                       cmocka_unit_test(test_reads_are_one_per_burst)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
