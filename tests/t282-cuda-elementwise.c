/* t282 -- fill, add, cast, rope and the activations on CUDA give what they give on the CPU, at any address and count, in place too. */
#include <math.h>
#include <string.h>

#include "tests/support/twin.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
/* Whole packs, a rest behind them, less than one, more than one block. */
static const int64_t counts[] = {0, 1, 7, 8, 31, 33, 257, 1009, 2048, 4099};
enum { COUNTS = sizeof counts / sizeof *counts };

static void test_fill(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    for (int k = 0; k < COUNTS; k++)
        for (int64_t first = 0; first < 2; first++) {
            TwinArray whole = twin_floats(&twin, counts[k] + first, 1, 1.0), x = twin_from(whole, first);
#define ARGS(side, type) ((FillArgs){.x = x.side, .count = counts[k], .value = -2.5f})
            twin_run(&twin, OP_fill, ARGS);
#undef ARGS
            twin_expect_bits(&twin, whole, "x");
        }
    twin_close(&twin);
}

static void test_add(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (int k = 0; k < COUNTS; k++)
            for (int64_t first = 0; first < 2; first++) {
                TwinArray a = twin_from(twin_normal(&twin, counts[k] + first, 1, 1.0), first),
                          b = twin_from(twin_normal(&twin, counts[k] + first, 2, 1.0), first),
                          c = twin_empty(&twin, counts[k]);
#define ARGS(side, type)                                                                                               \
    ((AddArgs){.dtype = type, .out = c.side, .a = a.side, .b = b.side, .scale = -0.75f, .count = counts[k]})
                twin_run(&twin, OP_add, ARGS);
                twin_expect(&twin, c, "sum");
                c = a;
                twin_run(&twin, OP_add, ARGS);
                twin_expect(&twin, a, "sum on a");
                a = twin_normal(&twin, counts[k], 3, 1.0);
                c = b;
                twin_run(&twin, OP_add, ARGS);
                twin_expect(&twin, b, "sum on b");
#undef ARGS
            }
        twin_close(&twin);
    }
}

/* Bit for bit what dtype.h says: ties to even, what is too large becomes infinite, NaN stays NaN. */
static void test_cast(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    for (int k = 1; k < COUNTS; k++)
        for (int64_t first = 0; first < 2; first++) {
            int64_t n = counts[k];
            TwinArray x = twin_floats(&twin, n + first, 1, 1.0), back = twin_floats_empty(&twin, n + first);
            static const float hard[] = {1.00390625f, 1.01171875f, -1.00390625f, 3.4e38f,
                                         INFINITY,    -INFINITY,   1e-40f,       -0.0f};
            for (int64_t i = 0; i < n && i < 8; i++)
                ((float *)x.cpu)[first + i] = hard[i];
            x = twin_from(twin_floats_given(&twin, x.cpu, n + first), first);
            back = twin_from(back, first);
            uint16_t *narrow = tensor_new1(&twin.cuda_arena, DTYPE_BF16, n + first).data, got[4099];
            narrow += first;
            device_run(
                &twin.cuda, OP_cast,
                &(CastArgs){.from_dtype = DTYPE_F32, .to_dtype = DTYPE_BF16, .from = x.cuda, .to = narrow, .count = n});
            tensor_read(&twin.cuda, tensor_at(narrow, DTYPE_BF16, 1, &n), got);
            for (int64_t i = 0; i < n; i++)
                assert_int_equal(got[i], bf16_of(((const float *)x.cpu)[i]));
            device_run(
                &twin.cuda, OP_cast,
                &(CastArgs){
                    .from_dtype = DTYPE_BF16, .to_dtype = DTYPE_F32, .from = narrow, .to = back.cuda, .count = n});
            dtype_to_f32(DTYPE_BF16, got, back.cpu, (size_t)n);
            twin_expect_bits(&twin, back, "widened");
        }
    TwinArray nan = twin_floats_given(&twin, (const float[]){NAN}, 1);
    device_run(
        &twin.cuda, OP_cast,
        &(CastArgs){.from_dtype = DTYPE_F32, .to_dtype = DTYPE_BF16, .from = nan.cuda, .to = nan.cuda, .count = 0});
    Tensor narrow = tensor_new1(&twin.cuda_arena, DTYPE_BF16, 1);
    device_run(
        &twin.cuda, OP_cast,
        &(CastArgs){.from_dtype = DTYPE_F32, .to_dtype = DTYPE_BF16, .from = nan.cuda, .to = narrow.data, .count = 1});
    uint16_t got;
    tensor_read(&twin.cuda, narrow, &got);
    assert_true((got & 0x7f80) == 0x7f80 && got & 0x7f);
    twin_close(&twin);
}

static void test_rope(void **state)
{
    (void)state;
    static const int64_t dims[] = {2, 6, 16, 31, 62, 64, 80, 128}, rotated[] = {1, 3, 14};
    enum { POSITIONS = 50 };
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (size_t k = 0; k < sizeof dims / sizeof *dims; k++)
            for (int h = 0; h < 3; h++) {
                int64_t head_dim = dims[k], half = head_dim / 2, heads = rotated[h], tokens = h == 1 ? 1 : 31;
                int64_t stride = (heads + 2) * head_dim + (h == 1);
                TwinArray qkv = twin_normal(&twin, tokens * stride, 1, 1.0),
                          before = twin_normal(&twin, tokens * stride, 1, 1.0);
                TwinArray position = twin_ints_below(&twin, tokens, 2, POSITIONS);
                float table[POSITIONS * 64 * 2];
                for (int64_t p = 0; p < POSITIONS; p++)
                    for (int64_t j = 0; j < half; j++) {
                        double angle = (double)p * pow(10000.0, -(double)j / (double)half);
                        table[(p * half + j) * 2] = (float)cos(angle);
                        table[(p * half + j) * 2 + 1] = (float)sin(angle);
                    }
                TwinArray turns = twin_floats_given(&twin, table, POSITIONS * half * 2);
                bool inverse = false;
#define ARGS(side, type)                                                                                               \
    ((RopeArgs){.dtype = type,                                                                                         \
                .qkv = qkv.side,                                                                                       \
                .position = position.side,                                                                             \
                .table = turns.side,                                                                                   \
                .tokens = tokens,                                                                                      \
                .stride = stride,                                                                                      \
                .heads = heads,                                                                                        \
                .head_dim = head_dim,                                                                                  \
                .positions_max = POSITIONS,                                                                            \
                .inverse = inverse})
                twin_run(&twin, OP_rope, ARGS);
                twin_expect(&twin, qkv, "rotated");
                inverse = true;
                twin_run(&twin, OP_rope, ARGS);
#undef ARGS
                memcpy(qkv.cpu, before.cpu, sizeof(float) * (size_t)(tokens * stride));
                twin_expect(&twin, qkv, "rotated there and back");
            }
        twin_close(&twin);
    }
}

static void rope_behind_the_table(void *argument)
{
    (void)argument;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    TwinArray qkv = twin_floats(&twin, 4, 1, 1.0), table = twin_floats(&twin, 10, 2, 1.0),
              position = twin_ints(&twin, (const int32_t[]){2}, 1);
    device_run(&twin.cuda, OP_rope,
               &(RopeArgs){.qkv = qkv.cuda,
                           .position = position.cuda,
                           .table = table.cuda,
                           .tokens = 1,
                           .stride = 4,
                           .heads = 1,
                           .head_dim = 4,
                           .positions_max = 2});
    device_finish(&twin.cuda);
}

static void test_rope_refuses(void **state)
{
    (void)state;
    assert_true(support_aborts(rope_behind_the_table, NULL, ""));
}

/* One activation at one shape; `first`: elements by which x and y are off a 16-byte address. */
static void check_act(Twin *twin, ActKind kind, int64_t rows, int64_t width, int64_t first, double scale)
{
    int64_t inner = (kind == ACT_SWIGLU ? 2 : 1) * width;
    TwinArray x = twin_from(twin_normal(twin, rows * inner + first, 1, scale), first),
              y = twin_from(twin_empty(twin, rows * width + first), first), dx = twin_empty(twin, rows * inner),
              dy = twin_normal(twin, rows * width, 2, 1.0);
#define FORWARD(side, type)                                                                                            \
    ((ActForwardArgs){.kind = kind, .dtype = type, .x = x.side, .y = y.side, .rows = rows, .width = width})
#define BACKWARD(side, type)                                                                                           \
    ((ActBackwardArgs){.kind = kind,                                                                                   \
                       .dtype = type,                                                                                  \
                       .x = x.side,                                                                                    \
                       .dy = dy.side,                                                                                  \
                       .dx = dx.side,                                                                                  \
                       .y = again.side,                                                                                \
                       .rows = rows,                                                                                   \
                       .width = width})
    TwinArray again = {0};
    twin_run(twin, OP_act_forward, FORWARD);
    twin_expect(twin, y, "y");
    twin_run(twin, OP_act_backward, BACKWARD);
    twin_expect(twin, dx, "dx");
    again = twin_from(twin_empty(twin, rows * width + first), first);
    twin_run(twin, OP_act_backward, BACKWARD);
    twin_expect(twin, dx, "dx beside y again");
    twin_expect(twin, again, "y again");
    again = dy;
    dx = x;
    twin_run(twin, OP_act_backward, BACKWARD);
    twin_expect(twin, dx, "dx on x");
    twin_expect(twin, dy, "y again on dy");
#undef FORWARD
#undef BACKWARD
}

static void test_act(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (ActKind kind = ACT_GELU; kind <= ACT_SWIGLU; kind++) {
            for (int k = 0; k < TWIN_SIZES; k++) {
                check_act(&twin, kind, 3, twin_sizes[k], 0, 1.5);
                check_act(&twin, kind, twin_sizes[k], 8, 0, 1.5);
            }
            check_act(&twin, kind, 5, 64, 1, 1.5);
            check_act(&twin, kind, 2, 2056, 0, 1.5);
            check_act(&twin, kind, 0, 8, 0, 1.5);
        }
        twin_close(&twin);
    }
}

/* Far out nothing overflows or loses its accuracy: each value alone, since a sum of squares hides small ones. */
static void test_act_far_out(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    static const float far[] = {0.0f,  1e-30f, -1e-6f, -3.0f, -5.0f, -8.0f,  8.0f,  -30.0f,
                                40.0f, -90.0f, 1e5f,   -1e5f, 3e18f, -3e18f, 1e20f, -1e20f};
    for (ActKind kind = ACT_GELU; kind <= ACT_SWIGLU; kind++)
        for (size_t k = 0; k < sizeof far / sizeof *far; k++) {
            TwinArray x = twin_floats_given(&twin, (const float[]){far[k], 1.25f}, kind == ACT_SWIGLU ? 2 : 1),
                      y = twin_floats_empty(&twin, 1), dy = twin_floats_given(&twin, (const float[]){0.5f}, 1),
                      dx = twin_floats_empty(&twin, kind == ACT_SWIGLU ? 2 : 1);
#define FORWARD(side, type)                                                                                            \
    ((ActForwardArgs){.kind = kind, .dtype = type, .x = x.side, .y = y.side, .rows = 1, .width = 1})
#define BACKWARD(side, type)                                                                                           \
    ((ActBackwardArgs){.kind = kind, .dtype = type, .x = x.side, .dy = dy.side, .dx = dx.side, .rows = 1, .width = 1})
            twin_run(&twin, OP_act_forward, FORWARD);
            twin_expect_within(&twin, y, 2e-5, "y", __FILE__, __LINE__);
            twin_run(&twin, OP_act_backward, BACKWARD);
            twin_expect_within(&twin, dx, 2e-5, "dx", __FILE__, __LINE__);
#undef FORWARD
#undef BACKWARD
        }
    twin_close(&twin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rope_refuses), cmocka_unit_test(test_fill),
                                       cmocka_unit_test(test_add),          cmocka_unit_test(test_cast),
                                       cmocka_unit_test(test_rope),         cmocka_unit_test(test_act),
                                       cmocka_unit_test(test_act_far_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
