/* t125 -- log-sum-exp, log-prob and entropy equal plain double; their gradient equals differences; the tail is masked. */
#include <math.h>

#include "tests/support/op_check.h"

typedef struct Problem {
    int64_t rows, vocab, ld;
    double temperature;
    double *logits;
    const int32_t *target;
    const double *dlogprob, *dentropy; /* the latter may be NULL */
    double *lse, *logprob, *entropy;
} Problem;

static void reference(const Problem *p)
{
    for (int64_t i = 0; i < p->rows; i++) {
        const double *row = p->logits + i * p->ld;
        double largest = -INFINITY, sum = 0.0, weighted = 0.0;
        for (int64_t j = 0; j < p->vocab; j++)
            largest = fmax(largest, row[j] / p->temperature);
        for (int64_t j = 0; j < p->vocab; j++) {
            double z = row[j] / p->temperature - largest;
            sum += exp(z);
            weighted += exp(z) * z;
        }
        p->lse[i] = largest + log(sum);
        p->logprob[i] = row[p->target[i]] / p->temperature - p->lse[i];
        p->entropy[i] = log(sum) - weighted / sum;
    }
}

static double loss_value(void *context)
{
    const Problem *p = context;
    reference(p);
    double sum = 0.0;
    for (int64_t i = 0; i < p->rows; i++)
        sum += p->dlogprob[i] * p->logprob[i] + (p->dentropy ? p->dentropy[i] * p->entropy[i] : 0.0);
    return sum;
}

static void check_shape(Device *device, int64_t rows, int64_t vocab, int64_t ld, float temperature, double spread,
                        bool entropies)
{
    float *logits = op_normal(rows * ld, 1, spread), *lse = op_floats(rows), *logprob = op_floats(rows);
    float *entropy = op_floats(rows), *dlogprob = op_normal(rows, 2, 1.0), *dentropy = op_normal(rows, 3, 1.0);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = vocab; j < ld; j++)
            logits[i * ld + j] = 1e30f; /* the stored tail must not be seen */
    int32_t *target = op_below(rows, 4, vocab);
    Problem p = {rows,
                 vocab,
                 ld,
                 (double)temperature,
                 op_widen(logits, rows * ld),
                 target,
                 op_widen(dlogprob, rows),
                 entropies ? op_widen(dentropy, rows) : NULL,
                 op_doubles(rows),
                 op_doubles(rows),
                 op_doubles(rows)};
    reference(&p);
    LogitsStatsArgs stats = {logits, target, lse, logprob, entropies ? entropy : NULL, rows, vocab, ld, temperature};
    device_run(device, OP_logits_stats, &stats);
    double size = spread * 5.0 / (double)temperature;
    assert_near(lse, p.lse, rows, 5e-7, 1e-6);
    assert_near(logprob, p.logprob, rows, 1e-6, 1e-6 + 2e-7 * size);
    if (entropies)
        assert_near(entropy, p.entropy, rows, 5e-6, 1e-6 + 2e-7 * size);
    op_keep(lse, sizeof(float) * (size_t)rows);
    op_keep(logprob, sizeof(float) * (size_t)rows);
    /* Outputs that nobody asks for */
    LogitsStatsArgs alone = {logits, NULL, NULL, NULL, NULL, rows, vocab, ld, temperature};
    device_run(device, OP_logits_stats, &alone);

    LogitsBackwardArgs backward = {
        DTYPE_F32, logits, logits, target,     lse, entropies ? entropy : NULL, dlogprob, entropies ? dentropy : NULL,
        rows,      vocab,  ld,     temperature};
    if (rows > 1) {
        dlogprob[0] = dentropy[0] = 0.0f; /* a row without weight */
        ((double *)p.dlogprob)[0] = 0.0;
        if (entropies)
            ((double *)p.dentropy)[0] = 0.0;
    }
    device_run(device, OP_logits_backward, &backward);
    op_keep(logits, sizeof(float) * (size_t)(rows * ld));
    for (int64_t i = 0; i < rows; i++) {
        double largest = 0.0;
        for (int64_t j = 0; j < vocab; j++) {
            double z = p.logits[i * ld + j] / p.temperature - p.lse[i], prob = exp(z);
            double expected = p.dlogprob[i] * ((j == target[i]) - prob);
            if (entropies && prob > 0.0)
                expected -= p.dentropy[i] * prob * (z + p.entropy[i]);
            expected /= p.temperature;
            largest = fmax(largest, fabs(expected));
            assert_close(logits[i * ld + j], expected, 1e-5, (1e-6 + 2e-6 * size) / (double)temperature);
        }
        for (int64_t j = vocab; j < ld; j++)
            assert_true(logits[i * ld + j] == 0.0f);
    }
    if (spread < 5.0 && rows * ld <= 3000 && vocab > 1) /* one id alone has no slope */
        assert_slopes(p.logits, rows * ld, loss_value, &p, logits, 2e-5);
}

static void check_logits(Device *device)
{
    static const int64_t shapes[][3] = {{0, 4, 4},     {1, 1, 1},      {1, 31, 128},    {3, 33, 33},
                                        {5, 257, 384}, {31, 512, 512}, {2, 5003, 5120}, {1, 50257, 50304}};
    for (int k = 0; k < 8; k++)
        for (int entropies = 0; entropies < 2; entropies++) {
            check_shape(device, shapes[k][0], shapes[k][1], shapes[k][2], 1.0f, 1.0, entropies);
            check_shape(device, shapes[k][0], shapes[k][1], shapes[k][2], 0.7f, 3.0, entropies);
            check_shape(device, shapes[k][0], shapes[k][1], shapes[k][2], 1.0f, 300.0, entropies);
        }
}

static void wrong_target(void *argument)
{
    Device *device = argument;
    int32_t *target = op_ints(1);
    target[0] = 7; /* below ld, above vocab */
    LogitsStatsArgs stats = {op_normal(8, 1, 1.0), target, NULL, op_floats(1), NULL, 1, 7, 8, 1.0f};
    device_run(device, OP_logits_stats, &stats);
}
static void check_range(Device *device)
{
    assert_true(support_aborts(wrong_target, device, "target 0 is 7, outside [0, 7)"));
    op_keep("x", 1);
}

static void test_logits(void **state)
{
    (void)state;
    op_on_devices(check_logits, true);
}
static void test_range(void **state)
{
    (void)state;
    op_on_devices(check_range, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_logits), cmocka_unit_test(test_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
