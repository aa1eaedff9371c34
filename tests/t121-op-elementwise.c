/* t121 -- fill, add, rotary positions and activations equal plain double; the activations' slopes equal differences. */
#include <math.h>

#include "tests/support/op_check.h"

static const int64_t counts[] = {0, 1, 31, 33, 257, 40009};
enum { COUNTS = sizeof counts / sizeof counts[0] };

static void check_fill_add(Device *device)
{
    for (int k = 0; k < COUNTS; k++) {
        int64_t n = counts[k];
        float *a = op_normal(n, 1, 1.0), *b = op_normal(n, 2, 1.0), *out = op_floats(n);
        double *expected = op_doubles(n), *halves = op_doubles(n);
        for (int64_t i = 0; i < n; i++) {
            expected[i] = (double)a[i] - 0.25 * (double)b[i];
            halves[i] = 0.5;
        }
        AddArgs add = {.out = out, .a = a, .b = b, .scale = -0.25f, .count = n};
        device_run(device, OP_add, &add);
        assert_near(out, expected, n, 2e-7, 1e-7);
        add.out = a;
        device_run(device, OP_add, &add);
        assert_memory_equal(a, out, sizeof(float) * (size_t)n);
        FillArgs fill = {b, n, 0.5f};
        device_run(device, OP_fill, &fill);
        assert_near(b, halves, n, 0.0, 0.0);
        op_keep(out, sizeof(float) * (size_t)n);
        op_keep("x", 1);
    }
}

static void check_rope(Device *device)
{
    static const int64_t dims[] = {2, 4, 8, 10, 16, 64}, tokens_of[] = {1, 37, 300};
    enum { POSITIONS = 41, HEADS = 3, EXTRA = 5 };
    for (int k = 0; k < 18; k++) {
        int64_t dim = dims[k % 6], half = dim / 2, tokens = tokens_of[k / 6], stride = HEADS * dim + EXTRA;
        float *qkv = op_normal(tokens * stride, 3, 1.0), *table = op_floats(POSITIONS * dim);
        int32_t *position = op_below(tokens, 4, POSITIONS);
        for (int64_t p = 0; p < POSITIONS; p++)
            for (int64_t j = 0; j < half; j++) {
                double angle = (double)p * pow(10000.0, -2.0 * (double)j / (double)dim);
                table[(p * half + j) * 2] = (float)cos(angle);
                table[(p * half + j) * 2 + 1] = (float)sin(angle);
            }
        double *before = op_widen(qkv, tokens * stride), *expected = op_widen(qkv, tokens * stride);
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t h = 0; h < HEADS; h++)
                for (int64_t j = 0; j < half; j++) {
                    double c = (double)table[(position[t] * half + j) * 2];
                    double s = (double)table[(position[t] * half + j) * 2 + 1];
                    int64_t low = t * stride + h * dim + j;
                    expected[low] = before[low] * c - before[low + half] * s;
                    expected[low + half] = before[low + half] * c + before[low] * s;
                }
        RopeArgs args = {DTYPE_F32, qkv, position, table, tokens, stride, HEADS, dim, POSITIONS, false};
        device_run(device, OP_rope, &args);
        assert_near(qkv, expected, tokens * stride, 1e-6, 5e-7); /* what follows the heads is left alone */
        op_keep(qkv, sizeof(float) * (size_t)(tokens * stride));
        args.inverse = true;
        device_run(device, OP_rope, &args);
        assert_near(qkv, before, tokens * stride, 1e-6, 1e-6);
    }
}

static double act(ActKind kind, double x)
{
    if (kind == ACT_GELU)
        return 0.5 * x * erfc(-x * sqrt(0.5));
    if (kind == ACT_GELU_TANH)
        return x / (1.0 + exp(-2.0 * sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    return x / (1.0 + exp(-x));
}

typedef struct Loss {
    ActKind kind;
    int64_t rows, width;
    const double *x, *dy;
} Loss;
static double loss_value(void *context)
{
    const Loss *l = context;
    double sum = 0.0;
    for (int64_t i = 0; i < l->rows; i++)
        for (int64_t j = 0; j < l->width; j++) {
            double y = l->kind == ACT_SWIGLU
                           ? act(l->kind, l->x[2 * i * l->width + j]) * l->x[(2 * i + 1) * l->width + j]
                           : act(l->kind, l->x[i * l->width + j]);
            sum += y * l->dy[i * l->width + j];
        }
    return sum;
}

static void check_act(Device *device)
{
    static const int64_t shapes[][2] = {{1, 1}, {3, 31}, {7, 33}, {5, 172}, {300, 257}, {0, 8}};
    for (int k = 0; k < 6; k++)
        for (int kind = ACT_GELU; kind <= ACT_SWIGLU; kind++) {
            int64_t rows = shapes[k][0], width = shapes[k][1], wide = kind == ACT_SWIGLU ? 2 * width : width;
            float *x = op_normal(rows * wide, 5, 2.5), *y = op_floats(rows * width),
                  *dy = op_normal(rows * width, 6, 1.0);
            double *xd = op_widen(x, rows * wide), *expected = op_doubles(rows * width);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < width; j++)
                    expected[i * width + j] = kind == ACT_SWIGLU
                                                  ? act(kind, xd[2 * i * width + j]) * xd[(2 * i + 1) * width + j]
                                                  : act(kind, xd[i * width + j]);
            ActForwardArgs forward = {kind, DTYPE_F32, x, y, rows, width};
            device_run(device, OP_act_forward, &forward);
            assert_near(y, expected, rows * width, 4e-6, 1e-12);
            op_keep(y, sizeof(float) * (size_t)(rows * width));
            float *dx = op_floats(rows * wide);
            ActBackwardArgs backward = {kind, DTYPE_F32, x, dy, dx, NULL, rows, width};
            device_run(device, OP_act_backward, &backward);
            op_keep(dx, sizeof(float) * (size_t)(rows * wide));
            Loss loss = {kind, rows, width, xd, op_widen(dy, rows * width)};
            if (rows)
                assert_slopes(xd, rows * wide, loss_value, &loss, dx, 2e-6);
            backward.dx = x;
            backward.y = dy;
            device_run(device, OP_act_backward, &backward);
            assert_memory_equal(x, dx, sizeof(float) * (size_t)(rows * wide));
            assert_near(dy, expected, rows * width, 4e-6, 1e-12);
            op_keep(dy, sizeof(float) * (size_t)(rows * width));
            op_keep("x", 1);
        }
}

/* Far from zero: finite, and with the right sign and size. */
static void check_act_far(Device *device)
{
    float *x = op_floats(12), *y = op_floats(12), *dx = op_floats(12), *dy = op_floats(12);
    static const float far[12] = {-1e30f, -1000.0f, -90.0f, -12.0f, -6.0f,   -0.0f,
                                  0.0f,   1e-20f,   6.0f,   12.0f,  1000.0f, 1e12f};
    for (int i = 0; i < 12; i++) {
        x[i] = far[i];
        dy[i] = 1.0f;
    }
    for (int kind = ACT_GELU; kind <= ACT_GELU_TANH; kind++) {
        ActForwardArgs forward = {kind, DTYPE_F32, x, y, 1, 12};
        device_run(device, OP_act_forward, &forward);
        ActBackwardArgs backward = {kind, DTYPE_F32, x, dy, dx, NULL, 1, 12};
        device_run(device, OP_act_backward, &backward);
        for (int i = 0; i < 12; i++) {
            assert_close(y[i], i == 0 ? 0.0 : act(kind, (double)x[i]), 1e-5, 1e-30);
            assert_true(isfinite(dx[i]));
        }
        assert_close(dx[11], 1.0, 1e-6, 0.0);
        assert_close(dx[5], 0.5, 1e-6, 0.0);
        assert_close(dx[1], 0.0, 0.0, 1e-20);
        op_keep(y, sizeof(float) * 12);
        op_keep(dx, sizeof(float) * 12);
    }
}

static void wrong_position(void *argument)
{
    Device *device = argument;
    int32_t *position = op_ints(1);
    position[0] = 7;
    RopeArgs args = {DTYPE_F32, op_normal(8, 1, 1.0), position, op_normal(7 * 8, 1, 1.0), 1, 8, 1, 8, 7, false};
    device_run(device, OP_rope, &args);
}

static void check_range(Device *device)
{
    assert_true(support_aborts(wrong_position, device, "outside [0, 7)"));
    op_keep("x", 1);
}

#define TEST(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        op_on_devices(check_##name, true);                                                                             \
    }
/* Every BF16 widened is itself when narrowed; a float between two goes to the nearer, a tie to the even one. */
static void check_cast(Device *device)
{
    enum { N = 65536 };
    uint16_t *narrow = (uint16_t *)op_floats(N), *again = (uint16_t *)op_floats(N);
    float *wide = op_floats(N);
    for (int i = 0; i < N; i++)
        narrow[i] = (uint16_t)i;
    CastArgs args = {DTYPE_BF16, DTYPE_F32, narrow, wide, N};
    device_run(device, OP_cast, &args);
    args = (CastArgs){DTYPE_F32, DTYPE_BF16, wide, again, N};
    device_run(device, OP_cast, &args);
    op_keep(again, sizeof *again * N);
    for (int i = 0; i < N; i++) {
        bool nan = (i & 0x7f80) == 0x7f80 && (i & 0x7f);
        assert_int_equal(again[i], nan ? i | 0x40 : i);
        assert_true(isnan(wide[i]) == nan);
    }
    const float between[] = {1.0f + 0x1p-9f,   1.0f + 0x1p-8f,  1.0f + 0x1.8p-8f,
                             1.0f + 0x1.8p-7f, -1.0f - 0x1p-8f, 3.4e38f};
    const float nearest[] = {1.0f, 1.0f, 1.0f + 0x1p-7f, 1.0f + 0x1p-6f, -1.0f, 0x1.fep127f};
    args = (CastArgs){DTYPE_F32, DTYPE_BF16, between, narrow, 6};
    device_run(device, OP_cast, &args);
    args = (CastArgs){DTYPE_BF16, DTYPE_F32, narrow, wide, 6};
    device_run(device, OP_cast, &args);
    op_keep(wide, sizeof *wide * 6);
    for (int i = 0; i < 5; i++)
        assert_true(wide[i] == nearest[i]);
    assert_true(isinf(wide[5])); /* above half way to the next power of two */
}

TEST(cast)
TEST(fill_add)
TEST(rope)
TEST(act)
TEST(act_far)
TEST(range)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fill_add), cmocka_unit_test(test_cast),
                                       cmocka_unit_test(test_rope),     cmocka_unit_test(test_act),
                                       cmocka_unit_test(test_act_far),  cmocka_unit_test(test_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
