/* twin.c -- arrays on both sides, and what it means that they are equal. */
#include "tests/support/twin.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "kernels/cpu/device_cpu.h"
#include "kernels/cuda/device_cuda.h"

enum { GUARD = 64 };

const int64_t twin_sizes[TWIN_SIZES] = {1, 31, 33, 257, 1009};

/* Host memory of one array, guards included. */
struct TwinBlock {
    struct TwinBlock *next;
    void *memory;
};

void twin_open(Twin *twin, DType dtype)
{
    *twin = (Twin){.dtype = dtype};
    Status status = device_open_cuda(&twin->cuda, &(CudaOptions){.threads = 2});
    if (status_failed(status))
        support_skip("cuda", "%s", status_message());
    assert_false(status_failed(device_open_cpu(&twin->cpu, 2, NULL)));
    assert_false(status_failed(device_arena(&twin->cuda, &twin->cuda_arena, "twin", 0)));
}

void twin_close(Twin *twin)
{
    while (twin->blocks) {
        struct TwinBlock *block = twin->blocks;
        twin->blocks = block->next;
        memory_free(&block->memory);
        memory_free(&block);
    }
    arena_close(&twin->cuda_arena);
    device_close(&twin->cuda);
    device_close(&twin->cpu);
}

static void *host_new(Twin *twin, size_t bytes)
{
    struct TwinBlock *block = memory_new(1, sizeof *block);
    block->memory = memory_new(bytes, 1);
    block->next = twin->blocks;
    twin->blocks = block;
    return block->memory;
}

/* NaN of each type; whole numbers get one that no index is. */
static void fill_guard(void *at, DType dtype, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++) {
        switch (dtype) {
        case DTYPE_F32:
            ((float *)at)[i] = NAN;
            break;
        case DTYPE_F64:
            ((double *)at)[i] = NAN;
            break;
        case DTYPE_I32:
            ((int32_t *)at)[i] = -1234567;
            break;
        case DTYPE_I64:
            ((int64_t *)at)[i] = -1234567;
            break;
        case DTYPE_BF16:
            ((uint16_t *)at)[i] = 0x7fc0;
            break;
        default:
            fail_msg("no twin arrays of %s", dtype_name(dtype));
        }
    }
}

static bool is_guard(const void *at, DType dtype, int64_t i)
{
    switch (dtype) {
    case DTYPE_F32:
        return isnan(((const float *)at)[i]);
    case DTYPE_F64:
        return isnan(((const double *)at)[i]);
    case DTYPE_I32:
        return ((const int32_t *)at)[i] == -1234567;
    case DTYPE_I64:
        return ((const int64_t *)at)[i] == -1234567;
    default:
        return ((const uint16_t *)at)[i] == 0x7fc0;
    }
}

static Tensor cuda_side(TwinArray array)
{
    int64_t count = array.count + GUARD;
    return tensor_at(array.cuda, array.cuda_dtype, 1, &count);
}

/* Both sides hold `values` (of cpu_dtype, or NULL: nothing yet). */
static TwinArray array_new(Twin *twin, DType cpu_dtype, DType cuda_dtype, const void *values, int64_t count)
{
    TwinArray array = {.cpu_dtype = cpu_dtype, .cuda_dtype = cuda_dtype, .count = count};
    array.cpu = host_new(twin, (size_t)(count + GUARD) * dtype_size(cpu_dtype));
    array.cuda = tensor_new1(&twin->cuda_arena, cuda_dtype, count + GUARD).data;
    void *copy = host_new(twin, (size_t)(count + GUARD) * dtype_size(cuda_dtype));
    fill_guard(array.cpu, cpu_dtype, 0, count + GUARD);
    fill_guard(copy, cuda_dtype, 0, count + GUARD);
    if (values && cuda_dtype == DTYPE_BF16) {
        const float *floats = values;
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)copy)[i] = bf16_of(floats[i]);
        dtype_to_f32(DTYPE_BF16, copy, array.cpu, (size_t)count);
    } else if (values) {
        memcpy(array.cpu, values, (size_t)count * dtype_size(cpu_dtype));
        memcpy(copy, values, (size_t)count * dtype_size(cuda_dtype));
    }
    tensor_write(&twin->cuda, cuda_side(array), copy);
    return array;
}

TwinArray twin_given(Twin *twin, const float *values, int64_t count)
{
    return array_new(twin, DTYPE_F32, twin->dtype, values, count);
}

TwinArray twin_empty(Twin *twin, int64_t count)
{
    return array_new(twin, DTYPE_F32, twin->dtype, NULL, count);
}

TwinArray twin_floats_given(Twin *twin, const float *values, int64_t count)
{
    return array_new(twin, DTYPE_F32, DTYPE_F32, values, count);
}

TwinArray twin_floats_empty(Twin *twin, int64_t count)
{
    return array_new(twin, DTYPE_F32, DTYPE_F32, NULL, count);
}

static float *normal_values(Twin *twin, int64_t count, uint64_t seed, double scale)
{
    float *values = host_new(twin, (size_t)(count + 1) * sizeof *values);
    RngStream stream = rng_stream(seed, RNG_TEST, 2, 0);
    for (int64_t i = 0; i < count; i += 4) {
        double four[4];
        rng_normal4(stream, (uint64_t)i / 4, four);
        for (int64_t j = 0; j < 4 && i + j < count; j++)
            values[i + j] = (float)(scale * four[j]);
    }
    return values;
}

TwinArray twin_normal(Twin *twin, int64_t count, uint64_t seed, double scale)
{
    return twin_given(twin, normal_values(twin, count, seed, scale), count);
}

TwinArray twin_floats(Twin *twin, int64_t count, uint64_t seed, double scale)
{
    return twin_floats_given(twin, normal_values(twin, count, seed, scale), count);
}

TwinArray twin_ints(Twin *twin, const int32_t *values, int64_t count)
{
    return array_new(twin, DTYPE_I32, DTYPE_I32, values, count);
}

TwinArray twin_longs(Twin *twin, const int64_t *values, int64_t count)
{
    return array_new(twin, DTYPE_I64, DTYPE_I64, values, count);
}

TwinArray twin_doubles(Twin *twin, const double *values, int64_t count)
{
    if (!values)
        values = host_new(twin, (size_t)(count + 1) * sizeof *values);
    return array_new(twin, DTYPE_F64, DTYPE_F64, values, count);
}

TwinArray twin_ints_below(Twin *twin, int64_t count, uint64_t seed, int64_t bound)
{
    int32_t *values = host_new(twin, (size_t)(count + 1) * sizeof *values);
    RngStream stream = rng_stream(seed, RNG_TEST, 3, 0);
    for (int64_t i = 0; i < count; i++)
        values[i] = (int32_t)rng_below(stream, (uint64_t)i, (uint64_t)bound);
    return twin_ints(twin, values, count);
}

TwinArray twin_from(TwinArray array, int64_t first)
{
    array.cpu = (char *)array.cpu + first * (int64_t)dtype_size(array.cpu_dtype);
    array.cuda = (char *)array.cuda + first * (int64_t)dtype_size(array.cuda_dtype);
    array.count -= first;
    return array;
}

/* --- Comparing --- */

static double value_at(const void *at, DType dtype, int64_t i)
{
    float wide;
    switch (dtype) {
    case DTYPE_F32:
        return (double)((const float *)at)[i];
    case DTYPE_F64:
        return ((const double *)at)[i];
    case DTYPE_I32:
        return ((const int32_t *)at)[i];
    case DTYPE_I64:
        return (double)((const int64_t *)at)[i];
    default:
        dtype_to_f32(dtype, (const uint16_t *)at + i, &wide, 1);
        return (double)wide;
    }
}

/* The CUDA side's memory, guards included and checked. */
static void *fetch(Twin *twin, TwinArray array, const char *name)
{
    void *host = host_new(twin, (size_t)(array.count + GUARD) * dtype_size(array.cuda_dtype));
    tensor_read(&twin->cuda, cuda_side(array), host);
    for (int64_t i = array.count; i < array.count + GUARD; i++) {
        if (!is_guard(host, array.cuda_dtype, i))
            fail_msg("%s: cuda wrote behind the end, at %lld of %lld", name, (long long)i, (long long)array.count);
        if (!is_guard(array.cpu, array.cpu_dtype, i))
            fail_msg("%s: cpu wrote behind the end, at %lld of %lld", name, (long long)i, (long long)array.count);
    }
    return host;
}

double *twin_read(Twin *twin, TwinArray array)
{
    const void *host = fetch(twin, array, "array");
    double *values = memory_new((size_t)array.count, sizeof *values);
    for (int64_t i = 0; i < array.count; i++)
        values[i] = value_at(host, array.cuda_dtype, i);
    return values;
}

void twin_expect_within(Twin *twin, TwinArray array, double relative, const char *name, const char *file, int line)
{
    const void *host = fetch(twin, array, name);
    bool whole = array.cuda_dtype == DTYPE_I32 || array.cuda_dtype == DTYPE_I64;
    if (relative < 0)
        relative = whole ? 0.0 : array.cuda_dtype == DTYPE_BF16 ? 4e-3 : array.cuda_dtype == DTYPE_F64 ? 1e-6 : 1e-5;
    double distance = 0.0, length = 0.0, worst = -1.0;
    int64_t at = 0;
    for (int64_t i = 0; i < array.count; i++) {
        double theirs = value_at(host, array.cuda_dtype, i), ours = value_at(array.cpu, array.cpu_dtype, i);
        if (isfinite(ours) != isfinite(theirs) || isnan(ours) != isnan(theirs))
            fail_msg("%s:%d: %s[%lld] of %lld is %g on cuda, %g on the cpu", file, line, name, (long long)i,
                     (long long)array.count, theirs, ours);
        if (!isfinite(ours))
            continue;
        double difference = fabs(theirs - ours);
        if (difference > worst) {
            worst = difference;
            at = i;
        }
        distance += difference * difference;
        length += ours * ours;
    }
    if (!(sqrt(distance) <= relative * sqrt(length) + 1e-30))
        fail_msg("%s:%d: %s is %.3g off (relative L2; %.3g is allowed); worst at %lld of %lld: %.9g on cuda, %.9g on "
                 "the cpu",
                 file, line, name, sqrt(distance / (length > 0 ? length : 1)), relative, (long long)at,
                 (long long)array.count, value_at(host, array.cuda_dtype, at),
                 value_at(array.cpu, array.cpu_dtype, at));
}

void twin_expect_bits(Twin *twin, TwinArray array, const char *name)
{
    assert_true(array.cpu_dtype == array.cuda_dtype);
    const void *host = fetch(twin, array, name);
    if (memcmp(host, array.cpu, (size_t)array.count * dtype_size(array.cpu_dtype)) != 0)
        fail_msg("%s: other bits than on the cpu", name);
}

static void (*check_both)(DType dtype);

static void test_f32(void **state)
{
    (void)state;
    check_both(DTYPE_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    check_both(DTYPE_BF16);
}

int twin_main(void (*check)(DType dtype))
{
    check_both = check;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
