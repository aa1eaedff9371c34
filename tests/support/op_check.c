/* op_check.c -- devices, guarded buffers and comparisons for tests of ops. */
#include "tests/support/op_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "kernels/cpu/device_cpu.h"

enum { BUFFERS_MAX = 4096, GUARD_BYTES = 256, GUARD = 0xA5 };

static struct {
    unsigned char *base;
    size_t bytes;
} buffers[BUFFERS_MAX];
static int buffers_count;
static uint64_t kept_hash;
static size_t kept_bytes;

static void *buffer_new(int64_t count, size_t size)
{
    REQUIRE(buffers_count < BUFFERS_MAX && count >= 0, "too many buffers");
    size_t bytes = (size_t)count * size;
    unsigned char *base = memory_new(bytes + 2 * GUARD_BYTES, 1);
    memset(base, GUARD, bytes + 2 * GUARD_BYTES);
    buffers[buffers_count].base = base;
    buffers[buffers_count++].bytes = bytes;
    return base + GUARD_BYTES;
}

static void buffers_check_and_free(void)
{
    for (int i = 0; i < buffers_count; i++) {
        const unsigned char *base = buffers[i].base;
        for (size_t k = 0; k < GUARD_BYTES; k++)
            if (base[k] != GUARD || base[GUARD_BYTES + buffers[i].bytes + k] != GUARD)
                fail_msg("buffer %d of %zu bytes was written past an end", i, buffers[i].bytes);
        memory_free(&buffers[i].base);
    }
    buffers_count = 0;
}

float *op_floats(int64_t count)
{
    float *x = buffer_new(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = NAN;
    return x;
}
double *op_doubles(int64_t count)
{
    double *x = buffer_new(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = (double)NAN;
    return x;
}
int32_t *op_ints(int64_t count)
{
    int32_t *x = buffer_new(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = -1;
    return x;
}
int64_t *op_longs(int64_t count)
{
    int64_t *x = buffer_new(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = -1;
    return x;
}
float *op_normal(int64_t count, uint64_t seed, double scale)
{
    float *x = op_floats(count);
    RngStream stream = rng_stream(seed, RNG_TEST, 0, 0);
    double normal[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        if (i % 4 == 0)
            rng_normal4(stream, (uint64_t)(i / 4), normal);
        x[i] = (float)(scale * normal[i % 4]);
    }
    return x;
}
float *op_copy(const float *x, int64_t count)
{
    float *y = op_floats(count);
    memcpy(y, x, sizeof(float) * (size_t)count);
    return y;
}
double *op_widen(const float *x, int64_t count)
{
    double *y = op_doubles(count);
    for (int64_t i = 0; i < count; i++)
        y[i] = (double)x[i];
    return y;
}
int32_t *op_below(int64_t count, uint64_t seed, int64_t bound)
{
    int32_t *x = op_ints(count);
    RngStream stream = rng_stream(seed, RNG_TEST, 1, 0);
    for (int64_t i = 0; i < count; i++)
        x[i] = (int32_t)rng_below(stream, (uint64_t)i, (uint64_t)bound);
    return x;
}

void op_keep(const void *bits, size_t bytes)
{
    const unsigned char *at = bits;
    for (size_t i = 0; i < bytes; i++)
        kept_hash = (kept_hash ^ at[i]) * 1099511628211u; /* FNV-1a */
    kept_bytes += bytes;
}

static uint64_t run_once(OpCheck check, Device *device)
{
    kept_hash = 14695981039346656037u;
    kept_bytes = 0;
    check(device);
    buffers_check_and_free();
    return kept_hash;
}

void op_on_devices(OpCheck check, bool same_for_all_threads)
{
    static const char *const isas[] = {"baseline", "avx2", "avx512"};
    int ran = 0;
    for (size_t k = 0; k < sizeof isas / sizeof isas[0]; k++) {
        uint64_t first = 0;
        for (int threads = 1; threads <= 3; threads++) {
            Device device;
            Status status = device_open_cpu(&device, threads, isas[k]);
            if (status_failed(status)) {
                if (threads == 1)
                    print_message("%s\n", status_message());
                break;
            }
            uint64_t once = run_once(check, &device), again = run_once(check, &device);
            if (once != again)
                fail_msg("%s: a second run gave other bits", device_describe(&device));
            if (threads == 1)
                first = once;
            if (same_for_all_threads && once != first)
                fail_msg("%s: other bits than with one thread", device_describe(&device));
            if (kept_bytes == 0)
                fail_msg("the check kept no results");
            device_close(&device);
            ran++;
        }
    }
    assert_true(ran >= 3);
}

void op_assert_slopes(double *x, int64_t count, OpLoss loss, void *context, const float *slope, double tolerance,
                      const char *name, const char *file, int line)
{
    enum { PLACES_MAX = 48 };
    int64_t step = count > PLACES_MAX ? count / PLACES_MAX : 1, places[PLACES_MAX + 1], seen = 0;
    double expected[PLACES_MAX + 1], largest = 0.0;
    for (int64_t i = 0; i < count && seen <= PLACES_MAX; i += step) {
        double kept = x[i], h = 1e-5 * (1.0 + fabs(kept));
        x[i] = kept + h;
        double up = loss(context);
        x[i] = kept - h;
        double down = loss(context);
        x[i] = kept;
        places[seen] = i;
        expected[seen] = (up - down) / (2.0 * h);
        largest = fmax(largest, fabs(expected[seen]));
        seen++;
    }
    for (int64_t k = 0; k < seen; k++) {
        double difference = fabs((double)slope[places[k]] - expected[k]);
        if (!(difference <= tolerance * (largest + 1e-3))) {
            print_error("%s[%lld] = %.9g, by differences %.9g (largest %.3g)\n", name, (long long)places[k],
                        (double)slope[places[k]], expected[k], largest);
            _fail(file, line);
        }
    }
}

void op_assert_near(const float *a, const double *b, int64_t count, double relative, double absolute, const char *name,
                    const char *file, int line)
{
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)a[i] - b[i]) <= absolute + relative * fabs(b[i]))) {
            print_error("%s[%lld] of %lld = %.9g, expected %.9g\n", name, (long long)i, (long long)count, (double)a[i],
                        b[i]);
            _fail(file, line);
        }
}
