/* t123 -- RMSNorm and LayerNorm with a residual equal plain double, and every gradient equals differences. */
#include <math.h>
#include <string.h>

#include "tests/support/op_check.h"

typedef struct Problem {
    NormKind kind;
    int64_t rows, width;
    double epsilon;
    double *x, *gain, *bias; /* x: the sum that is normalised */
    const double *dy, *dsum; /* dsum may be NULL */
    double *y, *mean, *rstd;
} Problem;

static void reference(const Problem *p)
{
    for (int64_t i = 0; i < p->rows; i++) {
        const double *s = p->x + i * p->width;
        double mean = 0.0, square = 0.0;
        for (int64_t j = 0; j < p->width && p->kind == NORM_LAYER; j++)
            mean += s[j] / (double)p->width;
        for (int64_t j = 0; j < p->width; j++)
            square += (s[j] - mean) * (s[j] - mean) / (double)p->width;
        p->mean[i] = mean;
        p->rstd[i] = 1.0 / sqrt(square + p->epsilon);
        for (int64_t j = 0; j < p->width; j++)
            p->y[i * p->width + j] =
                (s[j] - mean) * p->rstd[i] * p->gain[j] + (p->kind == NORM_LAYER ? p->bias[j] : 0.0);
    }
}

static double loss_value(void *context)
{
    const Problem *p = context;
    reference(p);
    double sum = 0.0;
    for (int64_t i = 0; i < p->rows * p->width; i++)
        sum += p->y[i] * p->dy[i] + (p->dsum ? p->dsum[i] * p->x[i] : 0.0);
    return sum;
}

static void check_shape(Device *device, NormKind kind, int64_t rows, int64_t width, bool residual)
{
    int64_t count = rows * width;
    float *x = op_normal(count, 1, 1.5), *r = op_normal(count, 2, 1.0), *sum = op_floats(count), *y = op_floats(count);
    float *gain = op_normal(width, 3, 1.0), *bias = op_normal(width, 4, 1.0), *mean = op_floats(rows);
    float *rstd = op_floats(rows), *dy = op_normal(count, 5, 1.0), *dsum = op_normal(count, 6, 1.0);
    Problem p = {kind,
                 rows,
                 width,
                 1e-5,
                 op_widen(x, count),
                 op_widen(gain, width),
                 op_widen(bias, width),
                 op_widen(dy, count),
                 residual ? op_widen(dsum, count) : NULL,
                 op_doubles(count),
                 op_doubles(rows),
                 op_doubles(rows)};
    for (int64_t i = 0; i < count && residual; i++)
        p.x[i] = (double)(x[i] + r[i]);
    reference(&p);
    NormForwardArgs forward = {.kind = kind,
                               .x = x,
                               .residual = residual ? r : NULL,
                               .sum = residual ? sum : NULL,
                               .gain = gain,
                               .bias = kind == NORM_LAYER ? bias : NULL,
                               .y = y,
                               .mean = mean,
                               .rstd = rstd,
                               .rows = rows,
                               .width = width,
                               .epsilon = 1e-5f};
    device_run(device, OP_norm_forward, &forward);
    assert_near(y, p.y, count, 1e-5, 5e-6);
    assert_near(rstd, p.rstd, rows, 1e-5, 0.0);
    if (kind == NORM_LAYER)
        assert_near(mean, p.mean, rows, 1e-5, 1e-6);
    if (residual)
        assert_near(sum, p.x, count, 0.0, 0.0);
    op_keep(y, sizeof(float) * (size_t)count);

    float *dx = op_floats(count), *dgain = op_normal(width, 7, 1.0), *dbias = op_normal(width, 8, 1.0);
    double *dgain_before = op_widen(dgain, width), *dbias_before = op_widen(dbias, width);
    NormBackwardArgs backward = {.kind = kind,
                                 .dy = dy,
                                 .dsum = residual ? dsum : NULL,
                                 .sum = residual ? sum : x,
                                 .mean = mean,
                                 .rstd = rstd,
                                 .gain = gain,
                                 .dx = dx,
                                 .dgain = dgain,
                                 .dbias = kind == NORM_LAYER ? dbias : NULL,
                                 .rows = rows,
                                 .width = width};
    device_run(device, OP_norm_backward, &backward);
    op_keep(dx, sizeof(float) * (size_t)count);
    op_keep(dgain, sizeof(float) * (size_t)width);
    float *dgain_alone = op_floats(width), *dbias_alone = op_floats(width);
    for (int64_t j = 0; j < width; j++) {
        dgain_alone[j] = (float)((double)dgain[j] - dgain_before[j]);
        dbias_alone[j] = (float)((double)dbias[j] - dbias_before[j]);
    }
    if (count && count <= 20000) {
        assert_slopes(p.x, count, loss_value, &p, dx, 2e-5);
        assert_slopes(p.gain, width, loss_value, &p, dgain_alone, 2e-5);
        if (kind == NORM_LAYER)
            assert_slopes(p.bias, width, loss_value, &p, dbias_alone, 2e-5);
    } else if (count) {
        for (int64_t j = 0; j < width; j++) {
            double expected = dgain_before[j];
            for (int64_t i = 0; i < rows; i++)
                expected +=
                    p.dy[i * width + j] * (p.x[i * width + j] - (kind == NORM_LAYER ? p.mean[i] : 0.0)) * p.rstd[i];
            assert_close(dgain[j], expected, 1e-5, 1e-4);
        }
    }
    /* dx may stand on dsum or dy, and a frozen gain is skipped. */
    backward.dgain = NULL;
    backward.dbias = NULL;
    backward.dx = residual ? dsum : dy;
    device_run(device, OP_norm_backward, &backward);
    assert_memory_equal(backward.dx, dx, sizeof(float) * (size_t)count);
    /* sum may be x or the residual. */
    if (residual) {
        forward.sum = rows % 2 ? x : r;
        device_run(device, OP_norm_forward, &forward);
        assert_memory_equal(forward.sum, sum, sizeof(float) * (size_t)count);
    }
}

static void check_norms(Device *device)
{
    static const int64_t shapes[][2] = {{0, 8}, {1, 1}, {1, 31}, {3, 33}, {31, 64}, {33, 257}, {2053, 67}};
    for (int k = 0; k < 7; k++)
        for (int kind = NORM_RMS; kind <= NORM_LAYER; kind++)
            for (int residual = 0; residual < 2; residual++)
                check_shape(device, kind, shapes[k][0], shapes[k][1], residual);
}

static void test_norms(void **state)
{
    (void)state;
    op_on_devices(check_norms, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_norms)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
