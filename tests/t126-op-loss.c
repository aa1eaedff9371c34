/* t126 -- the four losses over scalars equal their formulas written once more, and their gradients equal differences. */
#include <math.h>

#include "tests/support/op_check.h"

enum { ROWS = 257 };

/* Adds to what was there: every stats array starts from these. */
static double *stats_of(int count)
{
    double *stats = op_doubles(count);
    for (int i = 0; i < count; i++)
        stats[i] = 10.0 + i;
    return stats;
}

static void check_nll(Device *device)
{
    float *logprob = op_normal(ROWS, 1, 2.0), *weight = op_normal(ROWS, 2, 1.0), *slope = op_floats(ROWS);
    weight[5] = 0.0f;
    logprob[5] = -INFINITY; /* a row without weight adds nothing */
    double loss = 0.0, total = 0.0, *stats = stats_of(NLL_STATS), *expected = op_doubles(ROWS);
    for (int i = 0; i < ROWS; i++) {
        loss -= i == 5 ? 0.0 : (double)weight[i] * (double)logprob[i];
        total += (double)weight[i];
        expected[i] = -(double)weight[i];
    }
    NllLossArgs args = {logprob, weight, slope, ROWS, stats};
    device_run(device, OP_nll_loss, &args);
    assert_close(stats[NLL_LOSS], 10.0 + loss, 1e-12, 1e-12);
    assert_close(stats[NLL_WEIGHT], 11.0 + total, 1e-12, 1e-12);
    assert_near(slope, expected, ROWS, 0.0, 0.0);
    args.dlogprob = NULL;
    device_run(device, OP_nll_loss, &args);
    assert_close(stats[NLL_LOSS], 10.0 + 2.0 * loss, 1e-12, 1e-12);
    op_keep(stats, sizeof(double) * NLL_STATS);
}

typedef struct Policy {
    double *logprob, *entropy;
    const double *old, *advantage, *weight;
    int64_t rows;
    double low, high, coefficient;
} Policy;
static double policy_value(void *context)
{
    const Policy *p = context;
    double loss = 0.0;
    for (int64_t i = 0; i < p->rows; i++) {
        double ratio = exp(fmin(20.0, fmax(-20.0, p->logprob[i] - p->old[i])));
        double limited = fmin(1.0 + p->high, fmax(1.0 - p->low, ratio)), a = p->advantage[i];
        loss += p->weight[i] * (fmax(-a * ratio, -a * limited) - p->coefficient * p->entropy[i]);
    }
    return loss;
}

static void check_policy(Device *device)
{
    float *logprob = op_normal(ROWS, 3, 1.0), *old = op_copy(logprob, ROWS), *moves = op_normal(ROWS, 4, 0.3);
    float *advantage = op_normal(ROWS, 5, 1.0), *entropy = op_normal(ROWS, 6, 1.0), *weight = op_normal(ROWS, 7, 1.0);
    float *dlogprob = op_floats(ROWS), *dentropy = op_floats(ROWS);
    int moved = 0;
    for (int i = 0; i < ROWS; i++) {
        weight[i] = fabsf(weight[i]);
        if (i % 3) {
            logprob[i] += moves[i];
            moved += logprob[i] != old[i];
        }
    }
    logprob[1] = old[1] + 50.0f;
    logprob[2] = old[2] - 50.0f;
    advantage[1] = 1.0f; /* else the loss is e^20 and hides the others */
    Policy p = {op_widen(logprob, ROWS),
                op_widen(entropy, ROWS),
                op_widen(old, ROWS),
                op_widen(advantage, ROWS),
                op_widen(weight, ROWS),
                ROWS,
                (double)0.2f,
                (double)0.3f,
                (double)0.01f};
    PolicyLossArgs args = {logprob,  old,  advantage, entropy, weight, dlogprob,
                           dentropy, ROWS, 0.2f,      0.3f,    0.01f,  stats_of(POLICY_STATS)};
    device_run(device, OP_policy_loss, &args);
    assert_slopes(p.logprob, ROWS, policy_value, &p, dlogprob, 1e-5);
    assert_slopes(p.entropy, ROWS, policy_value, &p, dentropy, 1e-5);
    double sum[POLICY_STATS] = {0};
    for (int i = 0; i < ROWS; i++) {
        double w = p.weight[i], d = p.logprob[i] - p.old[i], ratio = exp(fmin(20.0, fmax(-20.0, d))),
               a = p.advantage[i];
        double limited = fmin(1.0 + p.high, fmax(1.0 - p.low, ratio));
        sum[POLICY_LOSS] += w * fmax(-a * ratio, -a * limited);
        sum[POLICY_ENTROPY] += w * p.entropy[i];
        sum[POLICY_CLIPPED] += -a * limited > -a * ratio ? w : 0.0;
        sum[POLICY_APPROX_KL] += w * 0.5 * d * d;
        sum[POLICY_KL_K3] += w * (exp(d) - 1.0 - d);
        sum[POLICY_RATIO] += w * ratio;
        sum[POLICY_RATIO_NOT_ONE] += ratio != 1.0;
        sum[POLICY_WEIGHT] += w;
    }
    assert_true((double)moved == sum[POLICY_RATIO_NOT_ONE]);
    for (int k = 0; k < POLICY_STATS; k++)
        assert_close(args.stats[k], 10.0 + k + sum[k], 2e-6, 1e-9);
    /* Equal log-probs: ratio is one to the bit in every row, and the slope is -A w. */
    PolicyLossArgs first = {old,  old,  advantage, NULL, weight, dlogprob,
                            NULL, ROWS, 0.2f,      0.2f, 0.0f,   stats_of(POLICY_STATS)};
    device_run(device, OP_policy_loss, &first);
    assert_true(first.stats[POLICY_RATIO_NOT_ONE] == 10.0 + POLICY_RATIO_NOT_ONE);
    assert_true(first.stats[POLICY_CLIPPED] == 10.0 + POLICY_CLIPPED);
    for (int i = 0; i < ROWS; i++)
        assert_true(dlogprob[i] == -advantage[i] * weight[i]);
    /* Clipped on the bad side: no slope. On the good side the penalty stays. */
    float four[4] = {0.5f, 0.5f, -0.5f, -0.5f}, zero[4] = {0}, sign[4] = {1.0f, -1.0f, 1.0f, -1.0f};
    float one[4] = {1.0f, 1.0f, 1.0f, 1.0f}, slope[4];
    PolicyLossArgs sides = {four, zero, sign, NULL, one, slope, NULL, 4, 0.2f, 0.2f, 0.0f, stats_of(POLICY_STATS)};
    device_run(device, OP_policy_loss, &sides);
    assert_true(slope[0] == 0.0f && slope[1] > 0.0f && slope[2] < 0.0f && slope[3] == 0.0f);
#ifndef TERCET_CHECKED /* there, a number that is none aborts by name first */
    four[0] = NAN;
    device_run(device, OP_policy_loss, &sides);
    assert_true(isnan(sides.stats[POLICY_LOSS]));
#endif
    op_keep(args.stats, sizeof(double) * POLICY_STATS);
    op_keep(dlogprob, sizeof(float) * ROWS);
}

typedef struct Value {
    double *value;
    const double *old, *returns, *weight;
    int64_t rows;
    double clip, coefficient;
} Value;
static double value_value(void *context)
{
    const Value *p = context;
    double loss = 0.0;
    for (int64_t i = 0; i < p->rows; i++) {
        double square = pow(p->value[i] - p->returns[i], 2.0);
        if (p->clip > 0.0) {
            double move = fmin(p->clip, fmax(-p->clip, p->value[i] - p->old[i]));
            square = fmax(square, pow(p->old[i] + move - p->returns[i], 2.0));
        }
        loss += p->coefficient * p->weight[i] * 0.5 * square;
    }
    return loss;
}

static void check_value(Device *device)
{
    for (int clipped = 0; clipped < 2; clipped++) {
        float *value = op_normal(ROWS, 8, 1.0), *old = op_normal(ROWS, 9, 1.0), *returns = op_normal(ROWS, 10, 1.0);
        float *weight = op_normal(ROWS, 11, 1.0), *slope = op_floats(ROWS);
        for (int i = 0; i < ROWS; i++)
            weight[i] = fabsf(weight[i]);
        Value p = {
            op_widen(value, ROWS),        op_widen(old, ROWS), op_widen(returns, ROWS), op_widen(weight, ROWS), ROWS,
            clipped ? (double)0.2f : 0.0, (double)0.1f};
        ValueLossArgs args = {
            value, old, returns, weight, slope, ROWS, clipped ? 0.2f : 0.0f, 0.1f, stats_of(VALUE_STATS)};
        device_run(device, OP_value_loss, &args);
        assert_slopes(p.value, ROWS, value_value, &p, slope, 1e-5);
        double squares = 0.0, total = 0.0, limited = 0.0;
        for (int i = 0; i < ROWS; i++) {
            double error = p.value[i] - p.returns[i], move = fmin(0.2, fmax(-0.2, p.value[i] - p.old[i]));
            squares += p.weight[i] * error * error;
            total += p.weight[i];
            limited += clipped && pow(p.old[i] + move - p.returns[i], 2.0) > error * error + 1e-6 ? p.weight[i] : 0.0;
        }
        assert_close(args.stats[VALUE_LOSS], 10.0 + value_value(&p), 1e-9, 0.0);
        assert_close(args.stats[VALUE_CLIPPED], 11.0 + limited, 1e-9, 0.0);
        assert_close(args.stats[VALUE_SQUARED_ERROR], 12.0 + squares, 1e-9, 0.0);
        assert_close(args.stats[VALUE_WEIGHT], 13.0 + total, 1e-9, 0.0);
        args.dvalue = NULL;
        args.old_value = clipped ? old : NULL;
        device_run(device, OP_value_loss, &args);
        op_keep(args.stats, sizeof(double) * VALUE_STATS);
        op_keep(slope, sizeof(float) * ROWS);
    }
}

typedef struct Rank {
    RankKind kind;
    double *reward;
    const double *strength, *weight;
    const int32_t *start;
    int64_t groups;
    double margin;
} Rank;
static double rank_value(void *context)
{
    const Rank *p = context;
    double loss = 0.0;
    for (int64_t g = 0; g < p->groups; g++) {
        int from = p->start[g], to = p->start[g + 1], order[16], n = to - from;
        double group = 0.0, pairs = 0.0;
        for (int i = from; i < to; i++)
            for (int j = from; j < to; j++)
                if (p->strength[i] > p->strength[j]) {
                    double x = p->reward[i] - p->reward[j] - p->margin * (p->strength[i] - p->strength[j]);
                    group += log(1.0 + exp(-x));
                    pairs += 1.0;
                }
        group = pairs > 0.0 ? group / pairs : 0.0;
        if (p->kind == RANK_PLACKETT_LUCE) {
            group = 0.0;
            for (int i = 0; i < n; i++)
                order[i] = from + i;
            for (int i = 0; i < n; i++) /* by strength, falling */
                for (int j = i + 1; j < n; j++)
                    if (p->strength[order[j]] > p->strength[order[i]]) {
                        int kept = order[i];
                        order[i] = order[j];
                        order[j] = kept;
                    }
            for (int i = 0; i < n && n > 1; i++) {
                double sum = 0.0;
                for (int j = i; j < n; j++)
                    sum += exp(p->reward[order[j]]);
                group -= (p->reward[order[i]] - log(sum)) / (n - 1);
            }
        }
        loss += p->weight[g] * group;
    }
    return loss;
}

static void check_rank(Device *device)
{
    enum { GROUPS = 7, ANSWERS = 24 };
    static const int32_t start[GROUPS + 1] = {0, 2, 2, 3, 7, 16, 20, 24};
    for (int kind = RANK_ALL_PAIRS; kind <= RANK_PLACKETT_LUCE; kind++) {
        float *reward = op_normal(ANSWERS, 12, 1.0), *strength = op_normal(ANSWERS, 13, 1.0);
        float *weight = op_normal(GROUPS, 14, 1.0), *slope = op_floats(ANSWERS);
        if (kind == RANK_ALL_PAIRS) {
            strength[4] = strength[3];                                        /* a tied pair */
            strength[16] = strength[17] = strength[18] = strength[19] = 1.0f; /* a group of ties alone */
            reward[5] = reward[6];
        }
        Rank p = {kind,
                  op_widen(reward, ANSWERS),
                  op_widen(strength, ANSWERS),
                  op_widen(weight, GROUPS),
                  start,
                  GROUPS,
                  kind == RANK_ALL_PAIRS ? (double)0.3f : 0.0};
        RankLossArgs args = {kind, reward, strength, start, weight, slope, GROUPS, ANSWERS, 0.3f, stats_of(RANK_STATS)};
        device_run(device, OP_rank_loss, &args);
        assert_slopes(p.reward, ANSWERS, rank_value, &p, slope, 1e-6);
        double sum[RANK_STATS] = {0};
        sum[RANK_LOSS] = rank_value(&p);
        for (int g = 0; g < GROUPS; g++) {
            sum[RANK_WEIGHT] += p.weight[g];
            for (int i = start[g]; i < start[g + 1]; i++) {
                sum[RANK_REWARD] += p.reward[i];
                sum[RANK_REWARD_SQUARED] += p.reward[i] * p.reward[i];
                sum[RANK_ANSWERS] += 1.0;
                for (int j = start[g]; j < start[g + 1]; j++)
                    if (p.strength[i] > p.strength[j]) {
                        double margin = p.reward[i] - p.reward[j];
                        sum[RANK_PAIRS] += 1.0;
                        sum[RANK_MARGIN] += margin;
                        sum[RANK_CORRECT] += margin > 0.0 ? 1.0 : margin == 0.0 ? 0.5 : 0.0;
                    }
            }
        }
        for (int k = 0; k < RANK_STATS; k++)
            assert_close(args.stats[k], 10.0 + k + sum[k], 1e-9, 1e-9);
        op_keep(args.stats, sizeof(double) * RANK_STATS);
        op_keep(slope, sizeof(float) * ANSWERS);
        /* Rewards far apart stay finite, with the slope of a lost pair. */
        float far[2] = {-1e4f, 1e4f}, pair[2] = {1.0f, 0.0f}, one[1] = {1.0f}, far_slope[2];
        static const int32_t far_start[2] = {0, 2};
        RankLossArgs lost = {kind, far, pair, far_start, one, far_slope, 1, 2, 0.0f, stats_of(RANK_STATS)};
        device_run(device, OP_rank_loss, &lost);
        assert_close(lost.stats[RANK_LOSS], 10.0 + 2e4, 1e-9, 0.0);
        assert_close(far_slope[0], -1.0, 1e-6, 0.0);
        assert_close(far_slope[1], 1.0, 1e-6, 0.0);
    }
}

#define TEST(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        op_on_devices(check_##name, true);                                                                             \
    }
TEST(nll)
TEST(policy)
TEST(value)
TEST(rank)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nll), cmocka_unit_test(test_policy),
                                       cmocka_unit_test(test_value), cmocka_unit_test(test_rank)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
