/* t285 -- products on CUDA give what they give on the CPU: every transposition, leading dimensions, alpha and beta, bias, products over nothing, F32
 * results of BF16 matrices; and gradients of biases. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "kernels/cuda/device_cuda.h"
#include "tests/support/twin.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};

typedef struct Shape {
    int64_t m, n, k;
} Shape;

typedef struct Case {
    Shape shape;
    bool transpose_a, transpose_b, bias, wide; /* wide: C is F32 whatever A and B are */
    float alpha, beta;
    int64_t gap; /* elements between rows */
} Case;

static void check_gemm(Twin *twin, Case c)
{
    int64_t m = c.shape.m, n = c.shape.n, k = c.shape.k;
    int64_t a_rows = c.transpose_a ? k : m, lda = (c.transpose_a ? m : k) + c.gap, b_rows = c.transpose_b ? n : k,
            ldb = (c.transpose_b ? k : n) + c.gap, ldc = n + c.gap;
    TwinArray a = twin_normal(twin, a_rows * lda, 1, 1.0), b = twin_normal(twin, b_rows * ldb, 2, 1.0), out,
              bias = twin_floats(twin, n, 4, 1.0);
    /* Not read when beta is 0, and then NaN; gaps stay as they are. */
    bool fresh = c.beta == 0.0f && c.gap == 0;
    if (c.wide)
        out = fresh ? twin_floats_empty(twin, m * ldc) : twin_floats(twin, m * ldc, 3, 1.0);
    else
        out = fresh ? twin_empty(twin, m * ldc) : twin_normal(twin, m * ldc, 3, 1.0);
#define ARGS(side, type)                                                                                               \
    ((GemmArgs){.dtype = type,                                                                                         \
                .c_dtype = c.wide ? DTYPE_F32 : type,                                                                  \
                .transpose_a = c.transpose_a,                                                                          \
                .transpose_b = c.transpose_b,                                                                          \
                .m = m,                                                                                                \
                .n = n,                                                                                                \
                .k = k,                                                                                                \
                .alpha = c.alpha,                                                                                      \
                .beta = c.beta,                                                                                        \
                .a = a.side,                                                                                           \
                .lda = lda,                                                                                            \
                .b = b.side,                                                                                           \
                .ldb = ldb,                                                                                            \
                .c = out.side,                                                                                         \
                .ldc = ldc,                                                                                            \
                .bias = c.bias ? bias.side : NULL})
    twin_run(twin, OP_gemm, ARGS);
#undef ARGS
    twin_expect(twin, out, "c");
}

static void test_gemm(void **state)
{
    (void)state;
    static const Shape shapes[] = {{1, 1, 1},    {1, 257, 33}, {33, 31, 257}, {257, 1, 31},
                                   {7, 64, 128}, {31, 33, 1},  {64, 80, 72},  {3, 8, 1009}};
    for (int d = 0; d < 2; d++)
        for (int wide = 0; wide < 2; wide++) {
            Twin twin;
            twin_open(&twin, dtypes[d]);
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
                for (int t = 0; t < 4; t++) {
                    Case c = {.shape = shapes[s], .transpose_a = t & 1, .transpose_b = t & 2, .wide = wide, .alpha = 1};
                    check_gemm(&twin, c);
                    c.bias = true;
                    check_gemm(&twin, c);
                    c.alpha = -0.5f;
                    c.beta = 1;
                    c.gap = 5;
                    check_gemm(&twin, c);
                    c.bias = false;
                    c.beta = 0.25f;
                    c.gap = 8;
                    check_gemm(&twin, c);
                }
            twin_close(&twin);
        }
}

/* The sum of no products is 0: beta C and the bias are left. */
static void test_over_nothing(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (int t = 0; t < 8; t++) {
            Case c = {.shape = {5, t & 4 ? 40 : 33, 0},
                      .bias = t & 1,
                      .wide = d && t & 4,
                      .alpha = 1,
                      .beta = t & 2 ? -0.5f : 0,
                      .gap = 3};
            check_gemm(&twin, c);
            c.gap = 0;
            check_gemm(&twin, c);
        }
        check_gemm(&twin, (Case){.shape = {0, 5, 3}, .bias = true, .alpha = 1});
        check_gemm(&twin, (Case){.shape = {5, 0, 3}, .bias = true, .alpha = 1});
        twin_close(&twin);
    }
}

/* With TF32 allowed, F32 products have 10 bits of mantissa in their inputs; BF16 ones are as they were. */
static void test_tf32(void **state)
{
    (void)state;
    enum { N = 64 };
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    Device fast;
    assert_false(status_failed(device_open_cuda(&fast, &(CudaOptions){.tf32 = true, .threads = 1})));
    assert_non_null(strstr(device_describe(&fast), "tf32"));
    TwinArray a = twin_floats(&twin, N * N, 1, 1.0), b = twin_floats(&twin, N * N, 2, 1.0),
              c = twin_floats_empty(&twin, N * N);
#define ARGS(side, type)                                                                                               \
    ((GemmArgs){                                                                                                       \
        .m = N, .n = N, .k = N, .alpha = 1, .a = a.side, .lda = N, .b = b.side, .ldb = N, .c = c.side, .ldc = N})
    device_run(&twin.cpu, OP_gemm, &ARGS(cpu, DTYPE_F32));
    device_run(&twin.cuda, OP_gemm, &ARGS(cuda, DTYPE_F32));
    twin_expect(&twin, c, "c");
    device_finish(&twin.cuda);
    device_run(&fast, OP_gemm, &ARGS(cuda, DTYPE_F32));
#undef ARGS
    device_finish(&fast);
    twin_expect_within(&twin, c, 1e-3, "c by TF32", __FILE__, __LINE__);
    double *got = twin_read(&twin, c), error = 0.0, length = 0.0;
    for (int i = 0; i < N * N; i++) {
        double exact = ((const float *)c.cpu)[i], sizes = 0.0;
        for (int k = 0; k < N; k++)
            sizes +=
                fabs((double)((const float *)a.cpu)[i / N * N + k] * (double)((const float *)b.cpu)[k * N + i % N]);
        assert_true(fabs(got[i] - exact) <=
                    sizes / 512); /* each of two inputs is off by 2^-10 at most, were it cut off */
        error += (got[i] - exact) * (got[i] - exact);
        length += exact * exact;
    }
    memory_free(&got);
    assert_true(sqrt(error / length) > 1e-5);
    device_close(&fast);
    twin_close(&twin);
}

static void check_bias_backward(Twin *twin, int64_t rows, int64_t width, int64_t first)
{
    TwinArray dy = twin_from(twin_normal(twin, rows * width + first, 1, 1.0), first),
              dbias = twin_floats(twin, width, 2, 1.0);
#define ARGS(side, type)                                                                                               \
    ((BiasBackwardArgs){.dtype = type, .dy = dy.side, .dbias = dbias.side, .rows = rows, .width = width})
    twin_run(twin, OP_bias_backward, ARGS);
    twin_expect(twin, dbias, "dbias");
    double *before = twin_read(twin, dbias);
    dbias = twin_floats(twin, width, 2, 1.0);
    device_run(&twin->cuda, OP_bias_backward, &ARGS(cuda, twin->dtype));
#undef ARGS
    double *after = twin_read(twin, dbias);
    assert_memory_equal(before, after, sizeof(double) * (size_t)width);
    memory_free(&before);
    memory_free(&after);
}

static void test_bias_backward(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (int k = 0; k < TWIN_SIZES; k++) {
            check_bias_backward(&twin, 70, twin_sizes[k], 0);
            check_bias_backward(&twin, twin_sizes[k], 40, 0);
        }
        check_bias_backward(&twin, 66, 264, 0);
        check_bias_backward(&twin, 66, 64, 1);
        check_bias_backward(&twin, 40000, 8, 0); /* more rows than blocks of the least size */
        check_bias_backward(&twin, 0, 64, 0);
        twin_close(&twin);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gemm), cmocka_unit_test(test_over_nothing),
                                       cmocka_unit_test(test_tf32), cmocka_unit_test(test_bias_backward)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
