/* twin.h -- an op on the CUDA backend beside the same op on the CPU: the same numbers in, results compared.
 *
 *        Twin twin; twin_open(&twin, DTYPE_BF16);
 *        TwinArray x = twin_normal(&twin, n, 1, 1.0), y = twin_empty(&twin, n);
 *        device_run(&twin.cpu, OP_add, &(AddArgs){.out = y.cpu, ...});
 *        device_run(&twin.cuda, OP_add, &(AddArgs){.dtype = twin.dtype, .out = y.cuda, ...});
 *        twin_expect(&twin, y, "y");
 *
 * What flows between layers is F32 on the CPU and `dtype` on the CUDA side; with BF16 both hold the same rounded numbers. Every array is NaN
 * before it is filled and has guards of NaN behind it on both sides: a read behind the end poisons the result, a write is found. The tests are linked with the emulation, and
 * with the real backend where there is one; without a device they skip. */
#ifndef TESTS_SUPPORT_TWIN_H
#define TESTS_SUPPORT_TWIN_H

#include "core/tensor/device.h"
#include "tests/support/support.h"

typedef struct Twin {
    Device cpu, cuda;
    Arena cuda_arena;
    DType dtype;
    struct TwinBlock *blocks;
} Twin;

typedef struct TwinArray {
    void *cpu, *cuda;
    DType cpu_dtype, cuda_dtype;
    int64_t count;
} TwinArray;

/* Shapes at which kernels go wrong. */
enum { TWIN_SIZES = 5 };
extern const int64_t twin_sizes[TWIN_SIZES]; /* 1, 31, 33, 257, 1009 */

/* Skips the test program (support_skip, "cuda") where there is no device. */
void twin_open(Twin *twin, DType dtype);
/* Frees all arrays. */
void twin_close(Twin *twin);

/* Of `twin->dtype` on the CUDA side. Normal values times scale; contents undefined (NaN); given values. */
TwinArray twin_normal(Twin *twin, int64_t count, uint64_t seed, double scale);
TwinArray twin_empty(Twin *twin, int64_t count);
TwinArray twin_given(Twin *twin, const float *values, int64_t count);
/* F32 on both sides. */
TwinArray twin_floats(Twin *twin, int64_t count, uint64_t seed, double scale);
TwinArray twin_floats_empty(Twin *twin, int64_t count);
TwinArray twin_floats_given(Twin *twin, const float *values, int64_t count);
/* Whole numbers and doubles. */
TwinArray twin_ints(Twin *twin, const int32_t *values, int64_t count);
TwinArray twin_ints_below(Twin *twin, int64_t count, uint64_t seed, int64_t bound);
TwinArray twin_longs(Twin *twin, const int64_t *values, int64_t count);
TwinArray twin_doubles(Twin *twin, const double *values, int64_t count); /* NULL: zeros */

/* The same arrays without their first elements, so that they begin at any address. */
TwinArray twin_from(TwinArray array, int64_t first);

/* An op on both sides. `ARGS(side, dtype)` is a macro that gives its arguments, array.side for every array. */
#define twin_run(twin, op, ARGS)                                                                                       \
    do {                                                                                                               \
        device_run(&(twin)->cpu, (op), &ARGS(cpu, DTYPE_F32));                                                         \
        device_run(&(twin)->cuda, (op), &ARGS(cuda, (twin)->dtype));                                                   \
    } while (0)

/* What the CUDA side holds, widened to double. Caller frees by memory_free. */
double *twin_read(Twin *twin, TwinArray array);
/* Relative L2 distance within 1e-5 for F32, 4e-3 for BF16 (doubles: 1e-6), every element finite where the twin's is, whole numbers equal, guards whole. */
#define twin_expect(twin, array, name) twin_expect_within((twin), (array), -1.0, (name), __FILE__, __LINE__)
void twin_expect_within(Twin *twin, TwinArray array, double relative, const char *name, const char *file, int line);
/* The same bits. */
void twin_expect_bits(Twin *twin, TwinArray array, const char *name);

/* What main() returns of a test program whose one check is made in both types. */
int twin_main(void (*check)(DType dtype));

#endif
