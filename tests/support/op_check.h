/* op_check.h -- what every test of an op shares: devices of all kinds, guarded buffers, repeated bits, slopes by
 * differences.
 *
 *        static void check_fill(Device *device) { ... device_run(device, OP_fill, &args); op_keep(x, bytes); ... }
 *        static void test_fill(void **state) { op_on_devices(check_fill, true); }
 *
 * op_on_devices() runs a check on every instruction set that this processor has, with 1, 2 and 3 threads, twice each. What
 * the check keeps by op_keep() must be the same bits both times, and, where asked, for every number of threads. Buffers
 * are full of NaN and stand between guards; a write past either end fails the test. */
#ifndef TESTS_SUPPORT_OP_CHECK_H
#define TESTS_SUPPORT_OP_CHECK_H

#include "core/tensor/device.h"
#include "tests/support/support.h"

typedef void (*OpCheck)(Device *device);
void op_on_devices(OpCheck check, bool same_for_all_threads);
/* Result bits, to be compared between runs. */
void op_keep(const void *bits, size_t bytes);

/* Buffers live until the check returns. */
float *op_floats(int64_t count);   /* NaN */
double *op_doubles(int64_t count); /* NaN */
int32_t *op_ints(int64_t count);   /* -1 */
int64_t *op_longs(int64_t count);  /* -1 */
/* Normal values times `scale`; the same for the same arguments. */
float *op_normal(int64_t count, uint64_t seed, double scale);
float *op_copy(const float *x, int64_t count);
double *op_widen(const float *x, int64_t count);
/* Uniform integers in [0, bound). */
int32_t *op_below(int64_t count, uint64_t seed, int64_t bound);

/* Central differences of loss(context) in each of x[0 .. count) (at most 48 of them, spread out) against `slope`;
 * tolerance relative to the largest slope seen. */
typedef double (*OpLoss)(void *context);
#define assert_slopes(x, count, loss, context, slope, tolerance)                                                       \
    op_assert_slopes((x), (count), (loss), (context), (slope), (tolerance), #slope, __FILE__, __LINE__)
void op_assert_slopes(double *x, int64_t count, OpLoss loss, void *context, const float *slope, double tolerance,
                      const char *name, const char *file, int line);
/* |a[i] - b[i]| <= absolute + relative |b[i]| against a double reference. */
#define assert_near(a, b, count, relative, absolute)                                                                   \
    op_assert_near((a), (b), (count), (relative), (absolute), #a, __FILE__, __LINE__)
void op_assert_near(const float *a, const double *b, int64_t count, double relative, double absolute, const char *name,
                    const char *file, int line);

#endif
