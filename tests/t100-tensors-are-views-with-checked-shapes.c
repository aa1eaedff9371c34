/* t100 -- dtypes widen exactly; views name the right elements; a wrong shape aborts and says so. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "core/tensor/tensor.h"

static void test_sixteen_bits_widen_exactly(void **state)
{
    (void)state;
    const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x83ff, 0x7bff, 0x0000, 0x3555, 0x0400};
    const float expected[] = {1.0f, -2.0f, 0x1p-24f, -0x3ffp-24f, 65504.0f, 0.0f, 0x1.554p-2f, 0x1p-14f};
    float found[8];
    dtype_to_f32(DTYPE_F16, half, found, 8);
    for (int i = 0; i < 8; i++)
        assert_true(found[i] == expected[i]);
    const uint16_t special[] = {0x7c00, 0xfc00, 0x7e00, 0x8000};
    dtype_to_f32(DTYPE_F16, special, found, 4);
    assert_true(found[0] == INFINITY && found[1] == -INFINITY && isnan(found[2]));
    assert_true(found[3] == 0 && signbit(found[3]));
    const uint16_t brain[] = {0x3f80, 0xc049, 0x0001, 0x7f80};
    dtype_to_f32(DTYPE_BF16, brain, found, 4);
    assert_true(found[0] == 1.0f && found[1] == -3.140625f && found[2] == 0x1p-133f && found[3] == INFINITY);
}

static void test_views(void **state)
{
    (void)state;
    Arena arena;
    assert_ok(arena_open(&arena, "t100", arena_memory_host(), 1 << 20));
    Tensor cube = tensor_new3(&arena, DTYPE_F32, 2, 3, 5);
    assert_int_equal(tensor_count(cube), 30);
    assert_int_equal(tensor_bytes(cube), 120);
    assert_int_equal(tensor_rows_count(cube), 6);
    assert_int_equal(tensor_width(cube), 5);
    cube.node = 7;
    Tensor rows = tensor_rows(cube, 1, 1);
    assert_ptr_equal(rows.data, (char *)cube.data + 60);
    assert_int_equal(rows.shape[0], 1);
    assert_int_equal(rows.node, 0);
    Tensor flat = tensor_reshape2(cube, 6, 5);
    assert_int_equal(flat.node, 7);
    assert_int_equal(flat.ndim, 2);
    Tensor range = tensor_range(cube, 4, 3);
    assert_ptr_equal(range.data, (char *)cube.data + 16);
    assert_int_equal(range.node, 0);
    tensor_check(flat, "flat", DTYPE_F32, 2, 6, -1);
    arena_close(&arena);
}

static void too_many_rows(void *argument)
{
    tensor_rows(*(Tensor *)argument, 2, 2);
}

static void wrong_reshape(void *argument)
{
    tensor_reshape2(*(Tensor *)argument, 4, 4);
}

static void wrong_shape(void *argument)
{
    tensor_check(*(Tensor *)argument, "hidden", DTYPE_F32, 2, 3, 6);
}

static void wrong_type(void *argument)
{
    tensor_check(*(Tensor *)argument, "hidden", DTYPE_I32, 2, 3, 5);
}

static void overflow(void *argument)
{
    (void)argument;
    tensor_count(tensor_at(NULL, DTYPE_F32, 2, (int64_t[]){INT64_C(1) << 40, INT64_C(1) << 40}));
}

static void test_wrong_shapes_abort(void **state)
{
    (void)state;
    float data[15];
    Tensor tensor = tensor_at(data, DTYPE_F32, 2, (int64_t[]){3, 5});
    assert_true(support_aborts(too_many_rows, &tensor, "rows [2, 4)"));
    assert_true(support_aborts(wrong_reshape, &tensor, "4 x 4"));
    assert_true(support_aborts(wrong_shape, &tensor, "hidden: second dimension 6 is wanted, 5 was given"));
    assert_true(support_aborts(wrong_type, &tensor, "hidden: i32 is wanted"));
    assert_true(support_aborts(overflow, NULL, "overflow"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sixteen_bits_widen_exactly),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_wrong_shapes_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
