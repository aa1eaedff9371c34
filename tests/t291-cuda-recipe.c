//TEST timeout=120
/* t291 -- shaped rewards, advantages, moments and whitening on the CUDA backend are the CPU's, for sequences of no, one, 31, 32, 33 and many tokens. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/twin.h"

static const int32_t lengths[] = {0, 1, 31, 32, 33, 0, 64, 65, 2, 257, 1, 1009, 5, 0};
enum { SEQUENCES = sizeof lengths / sizeof *lengths };

/* Returns the tokens of the first `sequences`. */
static int64_t starts_of(Twin *twin, int64_t sequences, TwinArray *start)
{
    int32_t at[SEQUENCES + 1] = {0};
    for (int64_t s = 0; s < sequences; s++)
        at[s + 1] = at[s] + lengths[s];
    *start = twin_ints(twin, at, sequences + 1);
    return at[sequences];
}

static void check_shape(Twin *twin, int64_t sequences, KlKind kind)
{
    TwinArray start;
    const int64_t tokens = starts_of(twin, sequences, &start);
    TwinArray logprob = twin_floats(twin, tokens, 1, 1.0), reference = twin_floats(twin, tokens, 2, 1.0);
    TwinArray score = twin_floats(twin, sequences, 3, 2.0), reward = twin_floats_empty(twin, tokens);
    TwinArray kl = twin_floats_empty(twin, tokens);
    RewardShapeArgs cpu = {kind,       logprob.cpu, reference.cpu, score.cpu, start.cpu,
                           reward.cpu, kl.cpu,      tokens,        sequences, 0.07f};
    RewardShapeArgs cuda = {kind,        logprob.cuda, reference.cuda, score.cuda, start.cuda,
                            reward.cuda, kl.cuda,      tokens,         sequences,  0.07f};
    device_run(&twin->cpu, OP_reward_shape, &cpu);
    device_run(&twin->cuda, OP_reward_shape, &cuda);
    twin_expect_within(twin, reward, 2e-7, "reward", __FILE__, __LINE__);
    twin_expect_within(twin, kl, 2e-7, "kl", __FILE__, __LINE__);
}

static void check_gae(Twin *twin, int64_t sequences, float gamma, float lambda)
{
    TwinArray start;
    const int64_t tokens = starts_of(twin, sequences, &start);
    TwinArray reward = twin_floats(twin, tokens, 4, 1.0), value = twin_floats(twin, tokens, 5, 1.0);
    TwinArray advantage = twin_floats_empty(twin, tokens), returns = twin_floats_empty(twin, tokens);
    GaeArgs cpu = {reward.cpu, value.cpu, start.cpu, advantage.cpu, returns.cpu, tokens, sequences, gamma, lambda};
    GaeArgs cuda = {reward.cuda, value.cuda, start.cuda, advantage.cuda, returns.cuda,
                    tokens,      sequences,  gamma,      lambda};
    device_run(&twin->cpu, OP_gae, &cpu);
    device_run(&twin->cuda, OP_gae, &cuda);
    twin_expect_within(twin, advantage, 2e-7, "advantage", __FILE__, __LINE__);
    twin_expect_within(twin, returns, 2e-7, "returns", __FILE__, __LINE__);
}

static void test_sequences(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 2, 3, 9, SEQUENCES};
    static const float factors[][2] = {{1.0f, 0.95f}, {0.99f, 0.9f}, {1.0f, 1.0f}, {0.9f, 0.0f}, {0.0f, 0.95f}};
    for (int k = 0; k < 6; k++) {
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        for (int kind = KL_K1; kind <= KL_K3; kind++)
            check_shape(&twin, counts[k], (KlKind)kind);
        for (int f = 0; f < 5; f++)
            check_gae(&twin, counts[k], factors[f][0], factors[f][1]);
        twin_close(&twin);
    }
}

/* What is no number reaches the tokens before it and no others. */
static void test_gae_of_nan(void **state)
{
    (void)state;
    enum { TOKENS = 100, AT = 50 };
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    float *values = twin_floats(&twin, TOKENS, 6, 1.0).cpu;
    values[AT] = NAN;
    const int32_t starts[] = {0, 20, TOKENS};
    TwinArray start = twin_ints(&twin, starts, 3), value = twin_floats(&twin, TOKENS, 7, 1.0);
    TwinArray reward = twin_floats_given(&twin, values, TOKENS);
    TwinArray advantage = twin_floats_empty(&twin, TOKENS), returns = twin_floats_empty(&twin, TOKENS);
    GaeArgs cuda = {reward.cuda, value.cuda, start.cuda, advantage.cuda, returns.cuda, TOKENS, 2, 1.0f, 0.95f};
    device_run(&twin.cuda, OP_gae, &cuda);
    double *got = twin_read(&twin, advantage);
    for (int t = 0; t < TOKENS; t++)
        assert_int_equal(isnan(got[t]) != 0, t >= 20 && t <= AT);
    memory_free(&got);
    twin_close(&twin);
}

static void test_moments(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 31, 33, 257, 1009, 1024, 1025, 16384, 50001};
    for (int k = 0; k < 10; k++) {
        const int64_t count = counts[k];
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        TwinArray x = twin_floats(&twin, count, 8, 3.0), result = twin_doubles(&twin, (double[]){7.0, 7.0}, MOMENTS);
        MomentsArgs cpu = {x.cpu, count, 0.5, result.cpu}, cuda = {x.cuda, count, 0.5, result.cuda};
        device_run(&twin.cpu, OP_moments, &cpu);
        device_run(&twin.cuda, OP_moments, &cuda);
        double *got = twin_read(&twin, result);
        for (int m = 0; m < MOMENTS; m++)
            assert_close(got[m], ((double *)result.cpu)[m], 1e-12, 1e-9);
        device_run(&twin.cuda, OP_moments, &cuda);
        double *again = twin_read(&twin, result);
        assert_memory_equal(got, again, sizeof *got * MOMENTS); /* written, not added; the same bits */
        memory_free(&got);
        memory_free(&again);
        const int64_t some = count > 1 ? count - 1 : count; /* the last stays as it is */
        WhitenArgs cpu_whiten = {x.cpu, some, 0.3, 1.7, -0.1}, cuda_whiten = {x.cuda, some, 0.3, 1.7, -0.1};
        device_run(&twin.cpu, OP_whiten, &cpu_whiten);
        device_run(&twin.cuda, OP_whiten, &cuda_whiten);
        twin_expect_within(&twin, x, 1e-7, "whitened", __FILE__, __LINE__);
        twin_close(&twin);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sequences), cmocka_unit_test(test_gae_of_nan),
                                       cmocka_unit_test(test_moments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
