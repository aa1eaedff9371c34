/* t102 -- what a checked build does after every op: the first output that is not finite aborts with the op's name. */
#include "tests/support/support.h"

#include <math.h>

#include "core/tensor/op_finite.h"

static void broken_gemm(void *argument)
{
    (void)argument;
    float c[2][4] = {{1, 2, 3, NAN}, {4, INFINITY, 6, NAN}};
    GemmArgs args = {.m = 2, .n = 3, .c = &c[0][0], .ldc = 4};
    op_require_finite(OP_gemm, &args);
}

static void broken_norm(void *argument)
{
    (void)argument;
    float dx[3] = {0, -1, NAN}, dgain[3] = {0, 0, 0};
    NormBackwardArgs args = {.dx = dx, .dgain = dgain, .rows = 1, .width = 3};
    op_require_finite(OP_norm_backward, &args);
}

static void test_broken_outputs_abort(void **state)
{
    (void)state;
    assert_true(support_aborts(broken_gemm, NULL, "op gemm made c[1][1] = inf"));
    assert_true(support_aborts(broken_norm, NULL, "op norm_backward made dx[0][2] = "));
}

static void test_what_may_be_broken_passes(void **state)
{
    (void)state;
    /* Beyond the columns of a product with a leading dimension, and a norm that is not finite, is nobody's bug. */
    float c[2][4] = {{1, 2, 3, NAN}, {4, 5, 6, NAN}};
    GemmArgs gemm = {.m = 2, .n = 3, .c = &c[0][0], .ldc = 4};
    op_require_finite(OP_gemm, &gemm);
    double block = INFINITY, norm = INFINITY;
    float scale = -1;
    ClipScaleArgs clip = {.block = &block, .blocks = 1, .scale = &scale, .norm = &norm};
    op_require_finite(OP_clip_scale, &clip);
}

#ifdef TERCET_CHECKED
#include "kernels/cpu/device_cpu.h"

static void broken_run(void *argument)
{
    float x[2] = {1, NAN}, y[2];
    ActForwardArgs args = {.kind = ACT_GELU, .x = x, .y = y, .rows = 1, .width = 2};
    device_run(argument, OP_act_forward, &args);
}

static void test_device_run_looks(void **state)
{
    (void)state;
    Device device;
    assert_ok(device_open_cpu(&device, 1, NULL));
    assert_true(support_aborts(broken_run, &device, "op act_forward made y[0][1]"));
    device_close(&device);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_outputs_abort),
        cmocka_unit_test(test_what_may_be_broken_passes),
#ifdef TERCET_CHECKED
        cmocka_unit_test(test_device_run_looks),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
