/* t120 -- matrix products and the gradient of a bias equal a plain loop in double, at odd shapes and in all forms. */
#include <math.h>

#include "tests/support/op_check.h"

typedef struct Shape {
    int64_t m, n, k;
} Shape;

/* One form of one shape; alpha, beta and a bias take part only in what is made of the products' sums, which are made once. */
static void check_product(Device *device, Shape s, bool transpose_a, bool transpose_b)
{
    static const struct {
        float alpha, beta;
        bool bias;
    } uses[] = {{1.0f, 0.0f, false}, {1.0f, 1.0f, false}, {0.5f, -2.0f, true}, {1.0f, 0.0f, true}};
    int64_t lda = (transpose_a ? s.m : s.k) + 3, ldb = (transpose_b ? s.k : s.n) + 1, ldc = s.n + 2;
    int64_t rows_a = transpose_a ? s.k : s.m, rows_b = transpose_b ? s.n : s.k;
    const float *a = op_normal(rows_a * lda, 1, 1.0), *b = op_normal(rows_b * ldb, 2, 1.0);
    const float *before = op_normal(s.m * ldc, 3, 1.0), *row = op_normal(s.n, 4, 1.0);
    double *sum = op_doubles(s.m * s.n); // (m, n)
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < s.n; j++) {
            sum[i * s.n + j] = 0.0;
            for (int64_t p = 0; p < s.k; p++)
                sum[i * s.n + j] += (double)(transpose_a ? a[p * lda + i] : a[i * lda + p]) *
                                    (double)(transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
        }
    for (size_t u = 0; u < sizeof uses / sizeof uses[0]; u++) {
        const float alpha = uses[u].alpha, beta = uses[u].beta;
        float *c = op_copy(before, s.m * ldc);
        double *expected = op_widen(before, s.m * ldc);
        for (int64_t i = 0; i < s.m; i++)
            for (int64_t j = 0; j < s.n; j++) {
                double *at = &expected[i * ldc + j];
                *at = (double)alpha * sum[i * s.n + j] + (double)beta * *at + (uses[u].bias ? (double)row[j] : 0.0);
                if (beta == 0.0f) /* what stood there must not matter */
                    c[i * ldc + j] = NAN;
            }
        GemmArgs args = {.transpose_a = transpose_a,
                         .transpose_b = transpose_b,
                         .m = s.m,
                         .n = s.n,
                         .k = s.k,
                         .alpha = alpha,
                         .beta = beta,
                         .a = a,
                         .lda = lda,
                         .b = b,
                         .ldb = ldb,
                         .c = c,
                         .ldc = ldc,
                         .bias = uses[u].bias ? row : NULL};
        device_run(device, OP_gemm, &args);
        /* Columns between n and ldc keep what they had. */
        assert_near(c, expected, s.m * ldc, 1e-5, 2e-6 * (1.0 + sqrt((double)s.k)) * 4.0);
        op_keep(c, sizeof(float) * (size_t)(s.m * ldc));
    }
}

static void check_products(Device *device)
{
    static const Shape shapes[] = {
        {1, 1, 1},      {1, 257, 31},   {257, 1, 33},    {31, 33, 1},   {2, 67, 64},   {5, 300, 40},   {33, 31, 257},
        {8, 128, 172},  {64, 17, 3},    {127, 131, 37},  {7, 1, 400},   {1, 512, 300}, {16, 192, 64},  {3, 5, 1000},
        {8, 33, 259},   {6, 128, 256},  {4, 301, 768},   {7, 50, 1300}, {8, 61, 2050}, {9, 67, 300},   {16, 80, 256},
        {31, 45, 520},  {33, 48, 256},  {48, 64, 260},   {50, 35, 400}, {65, 49, 257}, {100, 40, 256}, {257, 19, 256},
        {70, 401, 331}, {67, 777, 171}, {260, 390, 340}, {2, 67, 0},    {70, 33, 0}};
    for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++)
        for (int form = 0; form < 4; form++)
            check_product(device, shapes[k], form & 1, form & 2);
}

/* One row and one column as the program asks for them: leading dimensions of 1 and no gaps. */
static void check_thin(Device *device)
{
    enum { ROWS = 4099, WIDTH = 67 };
    float *x = op_normal(ROWS * WIDTH, 1, 1.0), *w = op_normal(WIDTH, 2, 1.0), *y = op_floats(ROWS);
    float *dy = op_normal(ROWS, 3, 1.0), *dw = op_normal(WIDTH, 4, 1.0), *dx = op_floats(ROWS * WIDTH);
    double *value = op_doubles(ROWS), *slope = op_widen(dw, WIDTH), *outer = op_doubles(ROWS * WIDTH);
    for (int64_t i = 0; i < ROWS; i++) {
        value[i] = 0.0;
        for (int64_t j = 0; j < WIDTH; j++) {
            value[i] += (double)x[i * WIDTH + j] * (double)w[j];
            slope[j] += (double)dy[i] * (double)x[i * WIDTH + j];
            outer[i * WIDTH + j] = (double)dy[i] * (double)w[j];
        }
    }
    GemmArgs forward = {.transpose_b = true,
                        .m = ROWS,
                        .n = 1,
                        .k = WIDTH,
                        .alpha = 1.0f,
                        .a = x,
                        .lda = WIDTH,
                        .b = w,
                        .ldb = WIDTH,
                        .c = y,
                        .ldc = 1};
    device_run(device, OP_gemm, &forward);
    assert_near(y, value, ROWS, 1e-5, 2e-5);
    GemmArgs weight = {.transpose_a = true,
                       .m = 1,
                       .n = WIDTH,
                       .k = ROWS,
                       .alpha = 1.0f,
                       .beta = 1.0f,
                       .a = dy,
                       .lda = 1,
                       .b = x,
                       .ldb = WIDTH,
                       .c = dw,
                       .ldc = WIDTH};
    device_run(device, OP_gemm, &weight);
    assert_near(dw, slope, WIDTH, 1e-5, 1e-3);
    GemmArgs input = {
        .m = ROWS, .n = WIDTH, .k = 1, .alpha = 1.0f, .a = dy, .lda = 1, .b = w, .ldb = WIDTH, .c = dx, .ldc = WIDTH};
    device_run(device, OP_gemm, &input);
    assert_near(dx, outer, ROWS * WIDTH, 1e-6, 1e-30);
    op_keep(y, sizeof(float) * ROWS);
    op_keep(dw, sizeof(float) * WIDTH);
    op_keep(dx, sizeof(float) * ROWS * WIDTH);
}

static void check_bias(Device *device)
{
    static const int64_t rows[] = {0, 1, 31, 33, 257, 5003}, widths[] = {1, 31, 64, 172};
    for (int r = 0; r < 6; r++)
        for (int w = 0; w < 4; w++) {
            float *dy = op_normal(rows[r] * widths[w], 1, 1.0), *dbias = op_normal(widths[w], 2, 1.0);
            double *expected = op_widen(dbias, widths[w]);
            for (int64_t i = 0; i < rows[r]; i++)
                for (int64_t j = 0; j < widths[w]; j++)
                    expected[j] += (double)dy[i * widths[w] + j];
            BiasBackwardArgs args = {DTYPE_F32, dy, dbias, rows[r], widths[w]};
            device_run(device, OP_bias_backward, &args);
            assert_near(dbias, expected, widths[w], 1e-6, 1e-5);
            op_keep(dbias, sizeof(float) * (size_t)widths[w]);
        }
}

static void test_products(void **state)
{
    (void)state;
    op_on_devices(check_products, false);
}
static void test_thin(void **state)
{
    (void)state;
    op_on_devices(check_thin, false);
}
static void test_bias(void **state)
{
    (void)state;
    op_on_devices(check_bias, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_thin),
                                       cmocka_unit_test(test_bias)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
