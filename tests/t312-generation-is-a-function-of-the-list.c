/* Generation: cached decoding scores as the full forward does, answers do not depend on slots, no row is decoded in vain,
 * and responses end where they should. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/model/generate.h"
#include "kernels/cpu/device_cpu.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { REQUESTS = 9, MAX_NEW = 20, PROMPT_MAX = 30 };
static const int prompt_lengths[REQUESTS] = {5, 1, 17, 3, 30, 8, 2, 11, 4};

typedef struct Job {
    int32_t prompt[REQUESTS][PROMPT_MAX];
    GenerateRequest request[REQUESTS];
    int32_t token[REQUESTS][MAX_NEW];
    float logprob[REQUESTS][MAX_NEW];
    GenerateResult result[REQUESTS];
} Job;

static void job_make(Job *job, int64_t vocab, uint64_t seed)
{
    memset(job, 0, sizeof *job);
    for (int i = 0; i < REQUESTS; i++) {
        tiny_tokens(100 + (uint64_t)i, vocab, job->prompt[i], prompt_lengths[i]);
        job->request[i] = (GenerateRequest){.prompt = job->prompt[i],
                                            .prompt_count = prompt_lengths[i],
                                            .stream = rng_stream(seed, RNG_GENERATE, 0, (uint64_t)i)};
        job->result[i] = (GenerateResult){.token = job->token[i], .logprob = job->logprob[i]};
    }
}

static GenerateOptions options_make(int64_t slots, float temperature)
{
    GenerateOptions options = {.slots = slots, .max_new = MAX_NEW, .temperature = temperature, .top_p = 1};
    return options;
}

static int64_t job_run(Tiny *tiny, Job *job, const GenerateOptions *options)
{
    uint64_t before = generate_decoded_rows();
    size_t mark = arena_mark(&tiny->step);
    assert_ok(generate(&tiny->model, &tiny->exec, job->request, REQUESTS, options, job->result));
    assert_int_equal(arena_mark(&tiny->step), mark);
    int64_t made = 0;
    for (int i = 0; i < REQUESTS; i++)
        made += job->result[i].count;
    /* The first token of a response comes from its prefill, each further one from one decoded row. */
    assert_int_equal(generate_decoded_rows() - before, made - REQUESTS);
    return made;
}

/* Log-probs of the drawn tokens by one forward over prompt and response. */
static void rescore(Tiny *tiny, const Job *job, int i, float *logprob)
{
    int32_t tokens[PROMPT_MAX + MAX_NEW];
    float weight[PROMPT_MAX + MAX_NEW] = {0}, all[PROMPT_MAX + MAX_NEW];
    int32_t prompt = prompt_lengths[i], total = prompt + (int32_t)job->result[i].count, start[2] = {0, total};
    memcpy(tokens, job->prompt[i], sizeof(int32_t) * (size_t)prompt);
    memcpy(tokens + prompt, job->token[i], sizeof(int32_t) * (size_t)job->result[i].count);
    tiny_nll(tiny, false, tokens, start, 1, weight, all);
    memcpy(logprob, all + prompt - 1, sizeof(float) * (size_t)job->result[i].count);
}

static void cache_equals_full(const char *arch)
{
    ModelShape shape = tiny_shape(arch, true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 21, 15);
    Job job;
    job_make(&job, shape.vocab, 1);
    GenerateOptions options = options_make(4, 1);
    assert_int_equal(job_run(&tiny, &job, &options), REQUESTS * MAX_NEW);
    double mean = 0;
    for (int i = 0; i < REQUESTS; i++) {
        float full[MAX_NEW];
        rescore(&tiny, &job, i, full);
        assert_floats_close(job.logprob[i], full, (size_t)job.result[i].count, 0, 1e-4);
        for (int t = 0; t < MAX_NEW; t++)
            mean += (double)full[t] / (REQUESTS * MAX_NEW);
    }
    /* Far from uniform, or a cache that returns garbage could agree. */
    assert_true(mean > -0.9 * log((double)shape.vocab));
    tiny_close(&tiny);
}

static void test_cache_equals_full_forward(void **state)
{
    (void)state;
    cache_equals_full("llama");
    cache_equals_full("gpt2");
}

static void test_slots_change_nothing(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", false);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 22, 6);
    for (int sampled = 0; sampled < 2; sampled++) {
        Job one;
        job_make(&one, shape.vocab, 2);
        GenerateOptions options = options_make(1, (float)sampled);
        /* Stop tokens make lengths ragged, so that slots are refilled at different times. */
        static const int32_t stop[] = {3, 11, 23, 31, 47};
        options.stop = stop;
        options.stop_count = 5;
        int64_t made = job_run(&tiny, &one, &options);
        assert_true(made < REQUESTS * MAX_NEW);
        static const int64_t slots[] = {2, 3, 5, 9, 40};
        for (int k = 0; k < 5; k++) {
            Job many;
            job_make(&many, shape.vocab, 2);
            options.slots = slots[k];
            assert_int_equal(job_run(&tiny, &many, &options), made);
            for (int i = 0; i < REQUESTS; i++) {
                assert_int_equal(many.result[i].count, one.result[i].count);
                assert_int_equal(many.result[i].stopped, one.result[i].stopped);
                assert_memory_equal(many.token[i], one.token[i], sizeof one.token[i]);
                assert_floats_close(many.logprob[i], one.logprob[i], (size_t)one.result[i].count, 0, 1e-4);
            }
        }
        /* The same list again: the same bits. */
        Job again, first;
        options.slots = 3;
        job_make(&first, shape.vocab, 2);
        job_make(&again, shape.vocab, 2);
        job_run(&tiny, &first, &options);
        job_run(&tiny, &again, &options);
        assert_memory_equal(first.logprob, again.logprob, sizeof first.logprob);
    }
    tiny_close(&tiny);
}

static void test_stop_token_is_kept_and_last(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("gpt2", true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 23, 6);
    Job free_run, job;
    job_make(&free_run, shape.vocab, 3);
    job_make(&job, shape.vocab, 3);
    GenerateOptions options = options_make(4, 1);
    job_run(&tiny, &free_run, &options);
    int32_t stop = free_run.token[2][6];
    options.stop = &stop;
    options.stop_count = 1;
    job_run(&tiny, &job, &options);
    for (int i = 0; i < REQUESTS; i++) {
        int64_t expected = 0;
        while (expected < MAX_NEW && free_run.token[i][expected++] != stop)
            ;
        bool stopped = free_run.token[i][expected - 1] == stop;
        assert_int_equal(job.result[i].count, expected);
        assert_int_equal(job.result[i].stopped, stopped);
        assert_memory_equal(job.token[i], free_run.token[i], sizeof(int32_t) * (size_t)expected);
    }
    assert_true(job.result[2].stopped && job.result[2].count <= 7);
    tiny_close(&tiny);
}

typedef struct Watch {
    int64_t seen[REQUESTS], limit;
    const Job *job;
} Watch;

static bool watch_accept(void *context, int64_t request, int32_t token)
{
    Watch *watch = context;
    assert_int_equal(token, watch->job->token[request][watch->seen[request]]);
    return ++watch->seen[request] < watch->limit + request;
}

static void test_accept_ends_a_response(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 24, 6);
    Job job;
    job_make(&job, shape.vocab, 4);
    Watch watch = {.limit = 1, .job = &job};
    GenerateOptions options = options_make(3, 1);
    options.accept = watch_accept;
    options.context = &watch;
    job_run(&tiny, &job, &options);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(job.result[i].count, 1 + i);
        assert_true(job.result[i].stopped);
    }
    tiny_close(&tiny);
}

static void test_one_read_per_round_and_greedy_takes_the_best(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 25, 6);
    Job greedy, cold;
    job_make(&greedy, shape.vocab, 5);
    job_make(&cold, shape.vocab, 5);
    GenerateOptions options = options_make(REQUESTS, 0);
    uint64_t reads = tiny.device.reads;
    job_run(&tiny, &greedy, &options);
    assert_int_equal(tiny.device.reads - reads, MAX_NEW);
    options.temperature = 1;
    options.top_k = 1;
    job_run(&tiny, &cold, &options);
    assert_memory_equal(greedy.token, cold.token, sizeof greedy.token);
    tiny_close(&tiny);
}

static void test_errors_name_the_request(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 26, 6);
    Job job;
    job_make(&job, shape.vocab, 6);
    GenerateOptions options = options_make(3, 1);
    options.max_new = 35;
    assert_fails(generate(&tiny.model, &tiny.exec, job.request, REQUESTS, &options, job.result), STATUS_USAGE,
                 "prompt 4");
    options.max_new = 5;
    job.prompt[3][1] = (int32_t)shape.vocab;
    assert_fails(generate(&tiny.model, &tiny.exec, job.request, REQUESTS, &options, job.result), STATUS_USAGE,
                 "prompt 3 has token 70");
    job.prompt[3][1] = 0;
    job.request[7].prompt_count = 0;
    assert_fails(generate(&tiny.model, &tiny.exec, job.request, REQUESTS, &options, job.result), STATUS_USAGE,
                 "prompt 7 is empty");
    job.request[7].prompt_count = 1;
    assert_int_equal(arena_mark(&tiny.step), 0);
#ifndef TERCET_CHECKED /* a checked build aborts in the op that makes the first number that is none */
    /* One weight that is no number: every logit of the first token is none. */
    float bad = NAN;
    tensor_write(&tiny.device, tensor_range(params_of(&tiny.model.params, VIEW_FINAL_NORM_GAIN, 0).value, 0, 1), &bad);
    assert_fails(generate(&tiny.model, &tiny.exec, job.request, REQUESTS, &options, job.result), STATUS_NUMERIC,
                 "not finite");
    assert_int_equal(arena_mark(&tiny.step), 0);
#endif
    tiny_close(&tiny);
}

/* More prompt tokens than one prefill takes: the batch is cut, and nothing changes. */
static void test_long_lists_are_prefilled_in_pieces(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    shape.positions_max = 1024;
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 27, 6);
    enum { LONG = 7, LENGTH = 1000 };
    int32_t *prompt = memory_new((size_t)LONG * LENGTH, sizeof *prompt), token[LONG][4], alone[4];
    tiny_tokens(9, shape.vocab, prompt, (int64_t)LONG * LENGTH);
    GenerateRequest request[LONG];
    GenerateResult result[LONG];
    for (int i = 0; i < LONG; i++) {
        request[i] =
            (GenerateRequest){prompt + i * LENGTH, LENGTH - i, rng_stream(1, RNG_GENERATE, 0, (uint64_t)i), false};
        result[i] = (GenerateResult){.token = token[i]};
    }
    GenerateOptions options = options_make(LONG, 0);
    options.max_new = 4;
    assert_ok(generate(&tiny.model, &tiny.exec, request, LONG, &options, result));
    for (int i = 0; i < LONG; i++) {
        GenerateResult single = {.token = alone};
        assert_ok(generate(&tiny.model, &tiny.exec, &request[i], 1, &options, &single));
        assert_memory_equal(alone, token[i], sizeof alone);
    }
    memory_free(&prompt);
    tiny_close(&tiny);
}

/* Samples of one prompt draw what they draw each by itself, from one prefill where they have slots at the same time. */
static void samples_share_their_prompt(const char *arch)
{
    enum { PROMPTS = 3, SAMPLES = 4, ALL = PROMPTS * SAMPLES };
    static const int lengths[PROMPTS] = {9, 1, 14};
    ModelShape shape = tiny_shape(arch, true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 29, 6);
    int32_t prompt[PROMPTS][16], token[2][ALL][MAX_NEW];
    GenerateRequest request[ALL];
    for (int i = 0; i < ALL; i++) {
        int p = i / SAMPLES;
        tiny_tokens(200 + (uint64_t)p, shape.vocab, prompt[p], lengths[p]);
        request[i] = (GenerateRequest){prompt[p], lengths[p], rng_stream(3, RNG_GENERATE, 0, (uint64_t)i), false};
    }
    static const int64_t slots[] = {1, 3, 4, 7, ALL};
    /* Prompt tokens that are computed. Answers are of one length, so slots come free together. */
    static const int computed[] = {4 * (9 + 1 + 14), 2 * (9 + 1 + 14), 9 + 1 + 14, 9 + 2 * 1 + 14, 9 + 1 + 14};
    for (int k = 0; k < 5; k++) {
        GenerateOptions options = options_make(slots[k], 1);
        double bytes[2];
        for (int shared = 0; shared < 2; shared++) {
            GenerateResult result[ALL];
            for (int i = 0; i < ALL; i++) {
                request[i].same_prompt = shared && i % SAMPLES > 0;
                result[i] = (GenerateResult){.token = token[shared][i]};
            }
            device_counters_reset(&tiny.device);
            assert_ok(generate(&tiny.model, &tiny.exec, request, ALL, &options, result));
            bytes[shared] = tiny.device.counter[OP_embed_forward].bytes;
        }
        const double decoded = ALL * (MAX_NEW - 1), each = bytes[0] / (ALL / PROMPTS * (9 + 1 + 14) + decoded);
        assert_close(bytes[1], (computed[k] + decoded) * each, 1e-9, 0);
        assert_memory_equal(token[0], token[1], sizeof token[0]);
    }
    tiny_close(&tiny);
}

static void test_samples_share_their_prompt(void **state)
{
    (void)state;
    samples_share_their_prompt("llama");
    samples_share_their_prompt("gpt2");
}

/* The same code on the device that computes nothing asks for the same memory: that is what a plan prints. */
static void test_a_dry_run_plans_the_memory(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, 28, 6);
    Job job;
    job_make(&job, shape.vocab, 7);
    GenerateOptions options = options_make(4, 1);
    job_run(&tiny, &job, &options);

    Device dry;
    Model model;
    Arena step;
    assert_ok(device_open_dry(&dry));
    assert_ok(model_open(&model, &dry, &shape, HEAD_LM));
    assert_ok(device_arena(&dry, &step, "step", 0));
    Exec exec = {&dry, &step, NULL};
    Job planned;
    job_make(&planned, shape.vocab, 7);
    assert_ok(generate(&model, &exec, planned.request, REQUESTS, &options, planned.result));
    assert_int_equal(step.high_water, tiny.step.high_water);
    arena_close(&step);
    model_close(&model);
    device_close(&dry);
    tiny_close(&tiny);
}

static Status open_two_threads(Device *device)
{
    return device_open_cpu(device, 2, NULL);
}

/* (query, key) pairs of one head in one layer, whatever the steps were: each token meets itself and all before it. */
static double pairs_of(const Job *job)
{
    double pairs = 0;
    for (int i = 0; i < REQUESTS; i++) {
        double fed = prompt_lengths[i] + (double)job->result[i].count - 1; /* the last token is not */
        pairs += fed * (fed + 1) / 2;
    }
    return pairs;
}

/* Two threads each take their rows through a whole step, kept and replayed at once, or asked for op by op: the same bits, the memory that a dry
 * run says, and the same count, though a step is kept with a shorter past than it is replayed with, and replayed with one that others have left. */
static void test_kept_steps_give_the_same_bits(void **state)
{
    (void)state;
    ModelShape shape = tiny_shape("llama", true);
    static const int32_t stop[] = {3, 11, 23};
    GenerateOptions options = options_make(5, 1);
    options.stop = stop;
    options.stop_count = 3;
    options.top_p = 0.9f;
    tiny_use_device(open_two_threads);
    Job job[2];
    size_t step_bytes[2], scratch_bytes[2];
    OpCounter counter[2][OP_COUNT];
    for (int keeps = 0; keeps < 2; keeps++) {
        Tiny tiny;
        tiny_open(&tiny, &shape, HEAD_LM, 29, 6);
        DeviceBackend backend = *tiny.device.backend;
        if (!keeps)
            backend.keep_begin = NULL;
        tiny.device.backend = &backend;
        assert_int_equal(device_keeps(&tiny.device), keeps);
        job_make(&job[keeps], shape.vocab, 8);
        device_counters_reset(&tiny.device);
        job_run(&tiny, &job[keeps], &options);
        step_bytes[keeps] = tiny.step.high_water;
        scratch_bytes[keeps] = tiny.device.scratch.high_water;
        memcpy(counter[keeps], tiny.device.counter, sizeof counter[keeps]);
        tiny_close(&tiny);
    }
    tiny_use_device(NULL);
    assert_memory_equal(job[0].token, job[1].token, sizeof job[0].token);
    assert_memory_equal(job[0].logprob, job[1].logprob, sizeof job[0].logprob);
    assert_int_equal(step_bytes[0], step_bytes[1]);
    assert_int_equal(scratch_bytes[0], scratch_bytes[1]);
    assert_int_equal(scratch_bytes[0] > 0, 1);
    for (int op = 0; op < OP_COUNT; op++) {
        assert_int_equal(counter[1][op].calls, counter[0][op].calls);
        assert_close(counter[1][op].flops, counter[0][op].flops, 1e-9, 0);
        assert_close(counter[1][op].bytes, counter[0][op].bytes, 1e-9, 0);
    }
    const double per_pair = 4 * (4 * 8 + 4); /* heads of 8: two products, and softmax as cost.c counts it */
    assert_close(counter[1][OP_attention_forward].flops, 2 * per_pair * pairs_of(&job[1]), 1e-9, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cache_equals_full_forward),
        cmocka_unit_test(test_slots_change_nothing),
        cmocka_unit_test(test_stop_token_is_kept_and_last),
        cmocka_unit_test(test_accept_ends_a_response),
        cmocka_unit_test(test_one_read_per_round_and_greedy_takes_the_best),
        cmocka_unit_test(test_errors_name_the_request),
        cmocka_unit_test(test_long_lists_are_prefilled_in_pieces),
        cmocka_unit_test(test_samples_share_their_prompt),
        cmocka_unit_test(test_a_dry_run_plans_the_memory),
        cmocka_unit_test(test_kept_steps_give_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
