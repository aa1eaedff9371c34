//TEST timeout=120
/* t292 -- norm, clipping and AdamW on the CUDA backend are the CPU's over several steps, and PyTorch's (golden/adamw.py); an element does not depend on
 * where its slice begins; the BF16 copy is the new parameter, rounded; a gradient that is no number changes nothing. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/twin.h"

static const int64_t sizes[] = {1, 7, 8, 31, 33, 257, 1009, 4095, 4096, 4097, 100003};
enum { SIZES = sizeof sizes / sizeof *sizes };

typedef struct Clip {
    TwinArray block, scale, norm;
} Clip;

static Clip clip_new(Twin *twin, int64_t count)
{
    return (Clip){twin_doubles(twin, NULL, (count + SUM_BLOCK - 1) / SUM_BLOCK), twin_floats_empty(twin, 1),
                  twin_doubles(twin, NULL, 1)};
}

/* Both sides: norm of `count` numbers from place `from` of x on, and the factor. */
static void clip_run(Twin *twin, const Clip *clip, TwinArray x, int64_t from, int64_t count, double max_norm)
{
    const int64_t blocks = (count + SUM_BLOCK - 1) / SUM_BLOCK;
    SumSquaresArgs cpu = {(float *)x.cpu + from, count, clip->block.cpu};
    SumSquaresArgs cuda = {(float *)x.cuda + from, count, clip->block.cuda};
    device_run(&twin->cpu, OP_sum_squares, &cpu);
    device_run(&twin->cuda, OP_sum_squares, &cuda);
    ClipScaleArgs cpu_clip = {clip->block.cpu, blocks, max_norm, clip->scale.cpu, clip->norm.cpu};
    ClipScaleArgs cuda_clip = {clip->block.cuda, blocks, max_norm, clip->scale.cuda, clip->norm.cuda};
    device_run(&twin->cpu, OP_clip_scale, &cpu_clip);
    device_run(&twin->cuda, OP_clip_scale, &cuda_clip);
}

static void test_norm(void **state)
{
    (void)state;
    for (int k = 0; k < SIZES; k++)
        for (int from = 0; from < 2; from++) { /* on 16 bytes, and beside */
            const int64_t count = sizes[k];
            Twin twin;
            twin_open(&twin, DTYPE_F32);
            TwinArray x = twin_floats(&twin, count + from, 1, 2.0);
            Clip clip = clip_new(&twin, count);
            static const double limits[] = {1.0, 1e9, 0.0, -1.0};
            for (int i = 0; i < 4; i++) {
                clip_run(&twin, &clip, x, from, count, limits[i]);
                twin_expect_within(&twin, clip.block, 1e-14, "sums of squares", __FILE__, __LINE__);
                twin_expect_within(&twin, clip.norm, 1e-14, "norm", __FILE__, __LINE__);
                twin_expect_within(&twin, clip.scale, 1e-7, "scale", __FILE__, __LINE__);
            }
            twin_close(&twin);
        }
}

/* More sums than the block that adds them has threads; any of them that is no number. */
static void test_many_blocks(void **state)
{
    (void)state;
    enum { BLOCKS = 70001 };
    static const double bad[] = {0.5, NAN, INFINITY, 1e308};
    for (int k = 0; k < 4; k++) {
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        double *values = memory_new(BLOCKS, sizeof *values);
        for (int i = 0; i < BLOCKS; i++)
            values[i] = 1.0 + i % 17 * 0.01;
        values[BLOCKS - 1] = values[4321] = bad[k];
        TwinArray block = twin_doubles(&twin, values, BLOCKS), scale = twin_floats_empty(&twin, 1);
        TwinArray norm = twin_doubles(&twin, NULL, 1);
        ClipScaleArgs cpu = {block.cpu, BLOCKS, 1.5, scale.cpu, norm.cpu};
        ClipScaleArgs cuda = {block.cuda, BLOCKS, 1.5, scale.cuda, norm.cuda};
        device_run(&twin.cpu, OP_clip_scale, &cpu);
        device_run(&twin.cuda, OP_clip_scale, &cuda);
        twin_expect_within(&twin, norm, 1e-13, "norm", __FILE__, __LINE__);
        twin_expect_within(&twin, scale, 1e-7, "scale", __FILE__, __LINE__);
        assert_true(*(float *)scale.cpu > 0 || k > 0);
        memory_free(&values);
        twin_close(&twin);
    }
}

typedef struct Adam {
    TwinArray parameter, exp_avg, exp_avg_sq, copy, scale;
} Adam;

static Adam adam_new(Twin *twin, int64_t count)
{
    Adam adam = {.parameter = twin_floats(twin, count, 2, 1.0), .scale = twin_floats_empty(twin, 1)};
    float *zeros = twin_floats(twin, count, 3, 0.0).cpu;
    adam.exp_avg = twin_floats_given(twin, zeros, count);
    adam.exp_avg_sq = twin_floats_given(twin, zeros, count);
    adam.copy = twin_empty(twin, count);
    return adam;
}

static void adam_run(Twin *twin, const Adam *adam, TwinArray gradient, AdamForm form, int64_t from, int64_t count,
                     int64_t step, bool scaled, bool copied)
{
    AdamWArgs args = {.form = form,
                      .count = count,
                      .step = step,
                      .lr = 0.01,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .epsilon = 1e-8,
                      .decay = 0.1};
    AdamWArgs cpu = args, cuda = args;
    cpu.parameter = (float *)adam->parameter.cpu + from;
    cpu.exp_avg = (float *)adam->exp_avg.cpu + from;
    cpu.exp_avg_sq = (float *)adam->exp_avg_sq.cpu + from;
    cpu.gradient = (float *)gradient.cpu + from;
    cpu.scale = scaled ? adam->scale.cpu : NULL;
    cuda.parameter = (float *)adam->parameter.cuda + from;
    cuda.exp_avg = (float *)adam->exp_avg.cuda + from;
    cuda.exp_avg_sq = (float *)adam->exp_avg_sq.cuda + from;
    cuda.gradient = (float *)gradient.cuda + from;
    cuda.scale = scaled ? adam->scale.cuda : NULL;
    cuda.copy = copied ? (uint16_t *)adam->copy.cuda + from : NULL;
    device_run(&twin->cpu, OP_adamw, &cpu);
    device_run(&twin->cuda, OP_adamw, &cuda);
}

/* Every element within `ulps` units in the last place of the largest of its kind, or relative to itself where that is more. */
static void expect_ulps(Twin *twin, TwinArray array, double ulps, const char *name)
{
    double *got = twin_read(twin, array);
    for (int64_t i = 0; i < array.count; i++) {
        double expected = (double)((float *)array.cpu)[i], step = ldexp(fmax(fabs(expected), 1e-2), -23);
        if (!(fabs(got[i] - expected) <= ulps * step))
            fail_msg("%s[%lld] of %lld is %.9g on cuda, %.9g on the cpu", name, (long long)i, (long long)array.count,
                     got[i], expected);
    }
    memory_free(&got);
}

static void check_adam(int64_t count, AdamForm form, int from, bool copied)
{
    Twin twin;
    twin_open(&twin, DTYPE_BF16);
    Adam adam = adam_new(&twin, count + from);
    Clip clip = clip_new(&twin, count);
    adam.scale = clip.scale;
    for (int64_t step = 1; step <= 5; step++) {
        TwinArray gradient = twin_floats(&twin, count + from, 10 + (uint64_t)step, 0.3);
        clip_run(&twin, &clip, gradient, from, count, 1.0);
        adam_run(&twin, &adam, gradient, form, from, count, step, step != 3, copied);
    }
    expect_ulps(&twin, adam.parameter, 4.0, "parameter");
    expect_ulps(&twin, adam.exp_avg, 4.0, "exp_avg");
    expect_ulps(&twin, adam.exp_avg_sq, 4.0, "exp_avg_sq");
    double *parameter = twin_read(&twin, adam.parameter), *copy = twin_read(&twin, adam.copy);
    for (int64_t i = 0; i < count + from; i++) {
        uint16_t bits = bf16_of((float)parameter[i]);
        float rounded;
        dtype_to_f32(DTYPE_BF16, &bits, &rounded, 1);
        if (copied && i >= from)
            assert_true(copy[i] == (double)rounded);
        else
            assert_true(isnan(copy[i]));
    }
    memory_free(&parameter);
    memory_free(&copy);
    twin_close(&twin);
}

static void test_adamw(void **state)
{
    (void)state;
    for (int k = 0; k < SIZES; k++)
        for (int variant = 0; variant < 4; variant++)
            check_adam(sizes[k], variant % 2 ? ADAM_TF : ADAM_TORCH, variant / 2, variant % 2 == variant / 2);
}

/* One call over all, and several over slices cut anywhere: the same bits. */
static void test_slices(void **state)
{
    (void)state;
    enum { COUNT = 1003 };
    static const int64_t cuts[] = {0, 3, 64, 67, 512, 1000, COUNT};
    double *kept[3] = {NULL, NULL, NULL};
    for (int sliced = 0; sliced < 2; sliced++) {
        Twin twin;
        twin_open(&twin, DTYPE_BF16);
        Adam adam = adam_new(&twin, COUNT);
        for (int64_t step = 1; step <= 4; step++) {
            TwinArray gradient = twin_floats(&twin, COUNT, 20 + (uint64_t)step, 0.3);
            if (!sliced)
                adam_run(&twin, &adam, gradient, ADAM_TORCH, 0, COUNT, step, false, true);
            for (int k = 0; sliced && k < 6; k++)
                adam_run(&twin, &adam, gradient, ADAM_TORCH, cuts[k], cuts[k + 1] - cuts[k], step, false, true);
        }
        double *got[3] = {twin_read(&twin, adam.parameter), twin_read(&twin, adam.exp_avg),
                          twin_read(&twin, adam.copy)};
        for (int i = 0; i < 3; i++) {
            if (sliced) {
                assert_memory_equal(got[i], kept[i], COUNT * sizeof **got);
                memory_free(&kept[i]);
                memory_free(&got[i]);
            } else {
                kept[i] = got[i];
            }
        }
        twin_close(&twin);
    }
}

static void test_bad_gradient_changes_nothing(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int k = 0; k < 3; k++) {
        Twin twin;
        twin_open(&twin, DTYPE_BF16);
        Adam adam = adam_new(&twin, COUNT);
        Clip clip = clip_new(&twin, COUNT);
        adam.scale = clip.scale;
        float *values = twin_floats(&twin, COUNT, 30, 1.0).cpu;
        values[4999 - k] = bad[k];
        TwinArray gradient = twin_floats_given(&twin, values, COUNT);
        clip_run(&twin, &clip, gradient, 0, COUNT, 1.0);
        double *scale = twin_read(&twin, clip.scale), *norm = twin_read(&twin, clip.norm);
        assert_true(*scale == -1.0 && !isfinite(*norm));
        adam_run(&twin, &adam, gradient, ADAM_TORCH, 0, COUNT, 1, true, true);
        twin_expect_bits(&twin, adam.parameter, "parameter");
        twin_expect_bits(&twin, adam.exp_avg, "exp_avg");
        double *copy = twin_read(&twin, adam.copy);
        assert_true(isnan(copy[0]) && isnan(copy[COUNT - 1]));
        memory_free(&scale);
        memory_free(&norm);
        memory_free(&copy);
        twin_close(&twin);
    }
}

/* --- PyTorch's own numbers, as in t422 --- */

enum { GOLDEN_COUNT = 256, GOLDEN_VIEW = 64 };

static double golden_next(char **at)
{
    while (**at == '#')
        *at += strcspn(*at, "\n") + 1;
    char *end = *at;
    double value = strtod(*at, &end);
    assert_true(end != *at);
    *at = end + strspn(end, " \n");
    return value;
}

static const float *golden_input(Twin *twin, int64_t seed, double scale)
{
    float *values = twin_floats(twin, GOLDEN_COUNT, 0, 0.0).cpu;
    for (int64_t i = 0; i < GOLDEN_COUNT; i++)
        values[i] = (float)((double)((i * 37 + seed * 61) % 101 - 50) * scale);
    return values;
}

static void test_golden(void **state)
{
    (void)state;
    Text file = {0};
    assert_ok(text_read_file(support_source("tests/golden/adamw.txt"), 1 << 20, &file));
    char *golden = file.bytes;
    Twin twin;
    twin_open(&twin, DTYPE_BF16);
    Adam adam = adam_new(&twin, GOLDEN_COUNT);
    adam.parameter = twin_floats_given(&twin, golden_input(&twin, 0, 0.01), GOLDEN_COUNT);
    Clip clip = clip_new(&twin, GOLDEN_COUNT);
    for (int64_t step = 1; step <= 3; step++) {
        TwinArray gradient = twin_floats_given(&twin, golden_input(&twin, step, 0.002 * (double)step), GOLDEN_COUNT);
        clip_run(&twin, &clip, gradient, 0, GOLDEN_COUNT, 1.0);
        double *norm = twin_read(&twin, clip.norm);
        assert_close(*norm, golden_next(&golden), 1e-6, 0.0);
        memory_free(&norm);
        for (int64_t view = 0; view < GOLDEN_COUNT; view += GOLDEN_VIEW) { /* matrices decay, vectors do not */
            AdamWArgs args = {.parameter = (float *)adam.parameter.cuda + view,
                              .exp_avg = (float *)adam.exp_avg.cuda + view,
                              .exp_avg_sq = (float *)adam.exp_avg_sq.cuda + view,
                              .gradient = (float *)gradient.cuda + view,
                              .scale = clip.scale.cuda,
                              .count = GOLDEN_VIEW,
                              .step = step,
                              .lr = 0.01,
                              .beta1 = 0.9,
                              .beta2 = 0.95,
                              .epsilon = 1e-8,
                              .decay = view / GOLDEN_VIEW % 2 == 0 ? 0.1 : 0.0};
            device_run(&twin.cuda, OP_adamw, &args);
        }
    }
    const TwinArray all[] = {adam.parameter, adam.exp_avg, adam.exp_avg_sq};
    for (int k = 0; k < 3; k++) {
        double *got = twin_read(&twin, all[k]);
        for (int i = 0; i < GOLDEN_COUNT; i++)
            assert_close(got[i], golden_next(&golden), 2e-6, 2e-7);
        memory_free(&got);
    }
    assert_int_equal(*golden, 0);
    twin_close(&twin);
    text_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm),   cmocka_unit_test(test_many_blocks),
        cmocka_unit_test(test_adamw),  cmocka_unit_test(test_slices),
        cmocka_unit_test(test_golden), cmocka_unit_test(test_bad_gradient_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
