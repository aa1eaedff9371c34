/* t127 -- shaped rewards, advantages, moments and whitening equal plain double, on ragged batches with empty sequences. */
#include <math.h>

#include "tests/support/op_check.h"

enum { SEQUENCES = 7 };
static const int32_t start[SEQUENCES + 1] = {0, 0, 1, 32, 32, 65, 322, 322};
enum { TOKENS = 322 };

static void check_reward_shape(Device *device)
{
    float *logprob = op_normal(TOKENS, 1, 1.0), *reference = op_normal(TOKENS, 2, 1.0);
    float *score = op_normal(SEQUENCES, 3, 1.0), *reward = op_floats(TOKENS), *kl = op_floats(TOKENS);
    logprob[3] = reference[3];
    for (int kind = KL_K1; kind <= KL_K3; kind++) {
        double *expected = op_doubles(TOKENS), *expected_kl = op_doubles(TOKENS);
        for (int t = 0; t < TOKENS; t++) {
            double d = (double)logprob[t] - (double)reference[t];
            expected_kl[t] = kind == KL_K1 ? d : kind == KL_K2 ? d * d / 2.0 : exp(-d) - 1.0 + d;
            expected[t] = -(double)0.15f * expected_kl[t];
        }
        for (int s = 0; s < SEQUENCES; s++)
            if (start[s + 1] > start[s])
                expected[start[s + 1] - 1] += (double)score[s];
        RewardShapeArgs args = {kind, logprob, reference, score, start, reward, kl, TOKENS, SEQUENCES, 0.15f};
        device_run(device, OP_reward_shape, &args);
        assert_near(kl, expected_kl, TOKENS, 1e-6, 1e-7);
        assert_near(reward, expected, TOKENS, 1e-6, 3e-7);
        assert_true(kl[3] == 0.0f);
        op_keep(reward, sizeof(reward[0]) * TOKENS);
    }
}

static void check_gae(Device *device)
{
    float *reward = op_normal(TOKENS, 4, 1.0), *value = op_normal(TOKENS, 5, 1.0);
    float *advantage = op_floats(TOKENS), *returns = op_floats(TOKENS);
    for (int form = 0; form < 3; form++) {
        float gamma = form == 1 ? 0.9f : 1.0f, lambda = form == 2 ? 1.0f : 0.95f;
        double *expected = op_doubles(TOKENS), *expected_returns = op_doubles(TOKENS);
        for (int s = 0; s < SEQUENCES; s++)
            for (int t = start[s]; t < start[s + 1]; t++) { /* the sum as it is defined, not the recursion */
                double sum = 0.0, factor = 1.0;
                for (int u = t; u < start[s + 1]; u++) {
                    double next = u + 1 < start[s + 1] ? (double)value[u + 1] : 0.0;
                    sum += factor * ((double)reward[u] + (double)gamma * next - (double)value[u]);
                    factor *= (double)gamma * (double)lambda;
                }
                expected[t] = sum;
                expected_returns[t] = sum + (double)value[t];
            }
        GaeArgs args = {reward, value, start, advantage, returns, TOKENS, SEQUENCES, gamma, lambda};
        device_run(device, OP_gae, &args);
        assert_near(advantage, expected, TOKENS, 1e-6, 1e-6);
        assert_near(returns, expected_returns, TOKENS, 1e-6, 1e-6);
        op_keep(advantage, sizeof(float) * TOKENS);
    }
}

static void check_moments(Device *device)
{
    static const int64_t counts[] = {0, 1, 31, 16384, 16385, 100003};
    for (int k = 0; k < 6; k++) {
        float *x = op_normal(counts[k], 6, 3.0);
        double *result = op_doubles(MOMENTS), sum = 0.0, squares = 0.0, centre = 1.25;
        for (int64_t i = 0; i < counts[k]; i++) {
            sum += (double)x[i] - centre;
            squares += ((double)x[i] - centre) * ((double)x[i] - centre);
        }
        MomentsArgs args = {x, counts[k], centre, result};
        device_run(device, OP_moments, &args);
        assert_close(result[MOMENT_SUM], sum, 1e-12, 1e-9);
        assert_close(result[MOMENT_SUM_SQUARES], squares, 1e-12, 1e-9);
        op_keep(result, sizeof(double) * MOMENTS);

        double *expected = op_doubles(counts[k]);
        for (int64_t i = 0; i < counts[k]; i++)
            expected[i] = ((double)x[i] - 0.5) * 1.7 + 0.1;
        WhitenArgs whiten = {x, counts[k], 0.5, 1.7, 0.1};
        device_run(device, OP_whiten, &whiten);
        assert_near(x, expected, counts[k], 1e-7, 0.0);
        op_keep(x, sizeof(float) * (size_t)counts[k]);
    }
}

#define TEST(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        op_on_devices(check_##name, true);                                                                             \
    }
TEST(reward_shape)
TEST(gae)
TEST(moments)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reward_shape), cmocka_unit_test(test_gae),
                                       cmocka_unit_test(test_moments)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
