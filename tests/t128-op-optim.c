/* t128 -- sums of squares, clipping and both forms of AdamW equal plain double over several steps. */
#include <math.h>
#include <string.h>

#include "tests/support/op_check.h"

static const int64_t counts[] = {1, 31, 4096, 4097, 100003};

static void check_norm(Device *device)
{
    for (int k = 0; k < 5; k++) {
        int64_t n = counts[k], blocks = (n + SUM_BLOCK - 1) / SUM_BLOCK;
        float *x = op_normal(n, 1, 2.0), *scale = op_floats(1);
        double *block = op_doubles(blocks), *norm = op_doubles(1), total = 0.0;
        SumSquaresArgs squares = {x, n, block};
        device_run(device, OP_sum_squares, &squares);
        for (int64_t b = 0; b < blocks; b++) {
            double sum = 0.0;
            for (int64_t i = b * SUM_BLOCK; i < n && i < (b + 1) * SUM_BLOCK; i++)
                sum += (double)x[i] * (double)x[i];
            assert_close(block[b], sum, 1e-12, 0.0);
            total += sum;
        }
        ClipScaleArgs clip = {block, blocks, 0.5, scale, norm};
        device_run(device, OP_clip_scale, &clip);
        assert_close(norm[0], sqrt(total), 1e-12, 0.0);
        assert_close(scale[0], fmin(1.0, 0.5 / (sqrt(total) + 1e-6)), 1e-6, 0.0);
        clip.max_norm = 1e9;
        device_run(device, OP_clip_scale, &clip);
        assert_true(scale[0] == 1.0f);
        clip.max_norm = 0.0;
        device_run(device, OP_clip_scale, &clip);
        assert_true(scale[0] == 1.0f);
        op_keep(block, sizeof(double) * (size_t)blocks);
#ifndef TERCET_CHECKED /* there, a sum that is not finite aborts by name first */
        x[n / 2] = NAN;
        device_run(device, OP_sum_squares, &squares);
        device_run(device, OP_clip_scale, &clip);
        assert_true(scale[0] == -1.0f);
        x[n / 2] = INFINITY;
        device_run(device, OP_sum_squares, &squares);
        device_run(device, OP_clip_scale, &clip);
        assert_true(scale[0] == -1.0f);
#endif
    }
}

static void check_adamw(Device *device)
{
    const double lr = 3e-3, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-5, decay = 0.1;
    for (int k = 0; k < 5; k++)
        for (int form = ADAM_TORCH; form <= ADAM_TF; form++) {
            int64_t n = counts[k];
            float *p = op_normal(n, 2, 1.0), *m = op_floats(n), *v = op_floats(n), *scale = op_floats(1);
            double *pd = op_widen(p, n), *md = op_doubles(n), *vd = op_doubles(n);
            memset(m, 0, sizeof(float) * (size_t)n);
            memset(v, 0, sizeof(float) * (size_t)n);
            memset(md, 0, sizeof(double) * (size_t)n);
            memset(vd, 0, sizeof(double) * (size_t)n);
            scale[0] = 0.5f;
            for (int step = 1; step <= 4; step++) {
                float *g = op_normal(n, 10 + (uint64_t)step, 1.0);
                double first = 1.0 - pow(beta1, step), second = 1.0 - pow(beta2, step);
                for (int64_t i = 0; i < n; i++) {
                    double gradient = 0.5 * (double)g[i];
                    md[i] = beta1 * md[i] + (1.0 - beta1) * gradient;
                    vd[i] = beta2 * vd[i] + (1.0 - beta2) * gradient * gradient;
                    if (form == ADAM_TORCH)
                        pd[i] -= lr * (md[i] / first / (sqrt(vd[i] / second) + epsilon) + decay * pd[i]);
                    else
                        pd[i] -= lr * sqrt(second) / first * md[i] / (sqrt(vd[i]) + epsilon) + lr * decay * pd[i];
                }
                AdamWArgs args = {form, p, m, v, NULL, g, scale, n, step, lr, beta1, beta2, epsilon, decay};
                device_run(device, OP_adamw, &args);
                assert_near(m, md, n, 1e-5, 1e-7);
                assert_near(v, vd, n, 1e-5, 1e-9);
                assert_near(p, pd, n, 1e-6, 2e-7);
            }
            op_keep(p, sizeof(float) * (size_t)n);
            /* A gradient that is not finite leaves everything as it is. */
            float *before = op_copy(p, n), *m_before = op_copy(m, n), *v_before = op_copy(v, n);
            float *bad = op_floats(n);
            scale[0] = -1.0f;
            AdamWArgs args = {form, p, m, v, NULL, bad, scale, n, 5, lr, beta1, beta2, epsilon, decay};
            device_run(device, OP_adamw, &args);
            assert_memory_equal(p, before, sizeof(float) * (size_t)n);
            assert_memory_equal(m, m_before, sizeof(float) * (size_t)n);
            assert_memory_equal(v, v_before, sizeof(float) * (size_t)n);
        }
}

static void test_norm(void **state)
{
    (void)state;
    op_on_devices(check_norm, true);
}
static void test_adamw(void **state)
{
    (void)state;
    op_on_devices(check_adamw, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_norm), cmocka_unit_test(test_adamw)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
