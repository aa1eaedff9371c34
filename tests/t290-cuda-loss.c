//TEST timeout=120
/* t290 -- losses, their statistics and their gradients on the CUDA backend are the CPU's: any number of rows, rows without weight that hold anything,
 * statistics added to what was there and the same bits twice, a ratio that is one to the bit. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/twin.h"

static const int64_t sizes[] = {0, 1, 31, 33, 257, 1009, 1024, 1025, 5003, 40000};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* What stands in the statistics before. */
static TwinArray stats_new(Twin *twin, int count)
{
    double values[16];
    for (int k = 0; k < count; k++)
        values[k] = 10.0 + k;
    return twin_doubles(twin, values, count);
}

/* Each within 1e-9: they are doubles, and one that is small stands beside large ones. */
static void expect_stats(Twin *twin, TwinArray stats, double relative, const char *name)
{
    double *got = twin_read(twin, stats);
    for (int64_t k = 0; k < stats.count; k++)
        if (!support_is_close(got[k], ((double *)stats.cpu)[k], relative, 1e-9))
            fail_msg("%s statistic %d is %.12g on cuda, %.12g on the cpu", name, (int)k, got[k],
                     ((double *)stats.cpu)[k]);
    memory_free(&got);
}

/* Every third row has no weight, and numbers that are none. */
static float *weights_of(Twin *twin, int64_t rows, uint64_t seed)
{
    float *weight = twin_floats(twin, rows, seed, 1.0).cpu;
    for (int64_t i = 0; i < rows; i++)
        weight[i] = i % 3 == 1 ? 0.0f : fabsf(weight[i]) / (float)rows;
    return weight;
}

static void check_nll(Twin *twin, int64_t rows)
{
    float *weight = weights_of(twin, rows, 1), *logprob = twin_floats(twin, rows, 2, 3.0).cpu;
    for (int64_t i = 1; i < rows; i += 3)
        logprob[i] = i % 2 ? NAN : -INFINITY;
    TwinArray w = twin_floats_given(twin, weight, rows), l = twin_floats_given(twin, logprob, rows);
    TwinArray slope = twin_floats_empty(twin, rows), stats = stats_new(twin, NLL_STATS);
    for (int round = 0; round < 2; round++) { /* with gradients, then without */
        NllLossArgs cpu = {l.cpu, w.cpu, round ? NULL : slope.cpu, rows, stats.cpu};
        NllLossArgs cuda = {l.cuda, w.cuda, round ? NULL : slope.cuda, rows, stats.cuda};
        device_run(&twin->cpu, OP_nll_loss, &cpu);
        device_run(&twin->cuda, OP_nll_loss, &cuda);
    }
    twin_expect_bits(twin, slope, "nll dlogprob");
    expect_stats(twin, stats, 1e-12, "nll");
}

static void check_policy(Twin *twin, int64_t rows, bool entropies)
{
    float *old = twin_floats(twin, rows, 3, 1.0).cpu, *move = twin_floats(twin, rows, 4, 0.3).cpu;
    float *logprob = twin_floats(twin, rows, 5, 1.0).cpu, *advantage = twin_floats(twin, rows, 6, 1.0).cpu;
    float *weight = weights_of(twin, rows, 7);
    for (int64_t i = 0; i < rows; i++)
        logprob[i] = old[i] + (i % 4 == 0 ? 0.0f : move[i]);
    for (int64_t i = 9; i + 2 < rows && !entropies; i += 50) { /* far off, where the others need not be seen */
        logprob[i] = old[i] + 25.0f;
        advantage[i] = 1.0f;
        logprob[i + 2] = old[i + 2] - 30.0f;
    }
    TwinArray l = twin_floats_given(twin, logprob, rows), o = twin_floats_given(twin, old, rows);
    TwinArray a = twin_floats_given(twin, advantage, rows), w = twin_floats_given(twin, weight, rows);
    TwinArray entropy = twin_floats(twin, rows, 8, 1.0), dlogprob = twin_floats_empty(twin, rows);
    TwinArray dentropy = twin_floats_empty(twin, rows), stats = stats_new(twin, POLICY_STATS);
    PolicyLossArgs cpu = {l.cpu, o.cpu, a.cpu,    entropies ? entropy.cpu : NULL, w.cpu, dlogprob.cpu, NULL, rows, 0.2f,
                          0.3f,  0.01f, stats.cpu};
    PolicyLossArgs cuda = {l.cuda, o.cuda,        a.cuda, entropies ? entropy.cuda : NULL,
                           w.cuda, dlogprob.cuda, NULL,   rows,
                           0.2f,   0.3f,          0.01f,  stats.cuda};
    if (entropies) {
        cpu.dentropy = dentropy.cpu;
        cuda.dentropy = dentropy.cuda;
    }
    device_run(&twin->cpu, OP_policy_loss, &cpu);
    device_run(&twin->cuda, OP_policy_loss, &cuda);
    twin_expect_within(twin, dlogprob, 1e-6, "dlogprob", __FILE__, __LINE__);
    if (entropies)
        twin_expect_bits(twin, dentropy, "dentropy");
    expect_stats(twin, stats, 1e-6, "policy");
    double *got = twin_read(twin, stats), *slope = twin_read(twin, dlogprob), same = 0.0;
    for (int64_t i = 0; i < rows; i++) {
        same += logprob[i] != old[i];
        if (fabsf(logprob[i] - old[i]) > 20.0f) /* bounded */
            assert_true(slope[i] == 0.0);
        if (logprob[i] == old[i]) /* unclipped: the slope is -A w to the bit */
            assert_true(slope[i] == (double)(-advantage[i] * weight[i]));
    }
    assert_true(got[POLICY_RATIO_NOT_ONE] == 10.0 + POLICY_RATIO_NOT_ONE + same);
    memory_free(&got);
    memory_free(&slope);
}

/* What is no number must be seen, in the loss and in the slope. */
static void check_policy_nan(Twin *twin)
{
    float four[4] = {0.0f, 0.0f, NAN, 0.0f}, zero[4] = {0}, one[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    TwinArray l = twin_floats_given(twin, four, 4), o = twin_floats_given(twin, zero, 4);
    TwinArray w = twin_floats_given(twin, one, 4), slope = twin_floats_empty(twin, 4);
    TwinArray stats = stats_new(twin, POLICY_STATS);
    PolicyLossArgs cuda = {l.cuda, o.cuda, w.cuda, NULL, w.cuda, slope.cuda, NULL, 4, 0.2f, 0.2f, 0.0f, stats.cuda};
    device_run(&twin->cuda, OP_policy_loss, &cuda);
    double *got = twin_read(twin, stats), *slopes = twin_read(twin, slope);
    assert_true(isnan(got[POLICY_LOSS]) && isnan(slopes[2]) && slopes[1] == -1.0);
    memory_free(&got);
    memory_free(&slopes);
}

static void check_value(Twin *twin, int64_t rows, float clip)
{
    TwinArray value = twin_floats(twin, rows, 9, 1.0), old = twin_floats(twin, rows, 10, 1.0);
    TwinArray returns = twin_floats(twin, rows, 11, 1.0),
              weight = twin_floats_given(twin, weights_of(twin, rows, 12), rows);
    TwinArray slope = twin_floats_empty(twin, rows), stats = stats_new(twin, VALUE_STATS);
    for (int round = 0; round < 2; round++) {
        ValueLossArgs cpu = {
            value.cpu, clip > 0 ? old.cpu : NULL, returns.cpu, weight.cpu, round ? NULL : slope.cpu, rows, clip, 0.1f,
            stats.cpu};
        ValueLossArgs cuda = {value.cuda,
                              clip > 0 ? old.cuda : NULL,
                              returns.cuda,
                              weight.cuda,
                              round ? NULL : slope.cuda,
                              rows,
                              clip,
                              0.1f,
                              stats.cuda};
        device_run(&twin->cpu, OP_value_loss, &cpu);
        device_run(&twin->cuda, OP_value_loss, &cuda);
    }
    twin_expect_bits(twin, slope, "dvalue");
    expect_stats(twin, stats, 1e-12, "value");
}

static void test_rows(void **state)
{
    (void)state;
    for (int k = 0; k < SIZES; k++) {
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        check_nll(&twin, sizes[k]);
        check_policy(&twin, sizes[k], false);
        check_policy(&twin, sizes[k], true);
        check_value(&twin, sizes[k], 0.0f);
        check_value(&twin, sizes[k], 0.2f);
        if (k == 0)
            check_policy_nan(&twin);
        twin_close(&twin);
    }
}

static void check_rank(Twin *twin, RankKind kind, const int32_t *start, int64_t groups, float margin)
{
    const int64_t answers = start[groups];
    float *reward = twin_floats(twin, answers, 13, 1.0).cpu, *strength = twin_floats(twin, answers, 14, 1.0).cpu;
    for (int64_t i = 0; i + 1 < answers; i++) {
        if (i % 5 == 1)
            strength[i + 1] = strength[i]; /* ties, and groups of ties alone */
        if (i % 7 == 2)
            reward[i + 1] = reward[i];
    }
    TwinArray r = twin_floats_given(twin, reward, answers), s = twin_floats_given(twin, strength, answers);
    TwinArray at = twin_ints(twin, start, groups + 1), weight = twin_floats(twin, groups, 15, 1.0);
    TwinArray slope = twin_floats_empty(twin, answers), stats = stats_new(twin, RANK_STATS);
    for (int round = 0; round < 2; round++) {
        RankLossArgs cpu = {kind,   r.cpu,   s.cpu,  at.cpu,   weight.cpu, round ? NULL : slope.cpu,
                            groups, answers, margin, stats.cpu};
        RankLossArgs cuda = {kind,   r.cuda,  s.cuda, at.cuda,   weight.cuda, round ? NULL : slope.cuda,
                             groups, answers, margin, stats.cuda};
        device_run(&twin->cpu, OP_rank_loss, &cpu);
        device_run(&twin->cuda, OP_rank_loss, &cuda);
    }
    twin_expect_within(twin, slope, 1e-7, "dreward", __FILE__, __LINE__);
    expect_stats(twin, stats, 1e-12, "rank");
}

static void test_ranking(void **state)
{
    (void)state;
    static const int32_t several[] = {0, 2, 2, 3, 7, 16, 20, 24, 57, 122, 124}, one[] = {0, 1}, none[] = {0};
    int32_t pairs[301];
    for (int g = 0; g <= 300; g++)
        pairs[g] = 2 * g;
    for (int kind = RANK_ALL_PAIRS; kind <= RANK_PLACKETT_LUCE; kind++) {
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        check_rank(&twin, (RankKind)kind, several, 10, 0.3f);
        check_rank(&twin, (RankKind)kind, one, 1, 0.0f);
        check_rank(&twin, (RankKind)kind, none, 0, 0.0f);
        check_rank(&twin, (RankKind)kind, pairs, 300, 0.0f);
        /* Rewards far apart: finite, and the slope of a lost pair. */
        const float far[2] = {-1e4f, 1e4f}, strength[2] = {1.0f, 0.0f}, weight[1] = {1.0f};
        const int32_t start[2] = {0, 2};
        TwinArray r = twin_floats_given(&twin, far, 2), s = twin_floats_given(&twin, strength, 2);
        TwinArray at = twin_ints(&twin, start, 2), w = twin_floats_given(&twin, weight, 1);
        TwinArray slope = twin_floats_empty(&twin, 2), stats = stats_new(&twin, RANK_STATS);
        RankLossArgs cuda = {(RankKind)kind, r.cuda, s.cuda, at.cuda, w.cuda, slope.cuda, 1, 2, 0.0f, stats.cuda};
        device_run(&twin.cuda, OP_rank_loss, &cuda);
        double *loss = twin_read(&twin, stats), *slopes = twin_read(&twin, slope);
        assert_close(loss[RANK_LOSS], 10.0 + 2e4, 1e-9, 0.0);
        assert_close(slopes[0], -1.0, 1e-6, 0.0);
        assert_close(slopes[1], 1.0, 1e-6, 0.0);
        memory_free(&loss);
        memory_free(&slopes);
        twin_close(&twin);
    }
}

/* The same call twice, over several blocks: the same bits. */
static void test_repeats(void **state)
{
    (void)state;
    enum { ROWS = 12345 };
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    TwinArray l = twin_floats(&twin, ROWS, 16, 1.0), o = twin_floats(&twin, ROWS, 17, 1.0);
    TwinArray w = twin_floats(&twin, ROWS, 18, 1.0);
    double *first = NULL;
    for (int round = 0; round < 2; round++) {
        TwinArray stats = stats_new(&twin, POLICY_STATS);
        PolicyLossArgs cuda = {l.cuda, o.cuda, w.cuda, NULL, w.cuda, NULL, NULL, ROWS, 0.2f, 0.2f, 0.0f, stats.cuda};
        device_run(&twin.cuda, OP_policy_loss, &cuda);
        double *got = twin_read(&twin, stats);
        if (round)
            assert_memory_equal(got, first, sizeof *got * POLICY_STATS);
        else
            first = got;
        if (round)
            memory_free(&got);
    }
    memory_free(&first);
    twin_close(&twin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_ranking),
                                       cmocka_unit_test(test_repeats)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
