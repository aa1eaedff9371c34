/* op_profile.c -- counting calls by phase, and measuring what the device gives at best. */
#include "core/tensor/op_profile.h"

#include <string.h>

#include "core/base/memory.h"
#include "core/tensor/device.h"

/* --- What the machine gives --- */

enum {
    PEAK_SIZE = 1024,         /* of a square product: large enough to be at the peak, 4 ms of a fast machine */
    STREAM_FLOATS = 48 << 20, /* 192 MiB, more than caches hold */
    STREAM_BLOCKS = STREAM_FLOATS / SUM_BLOCK
};
static const double MEASURE_SECONDS = 0.08;

/* Calls of `op` per second at best. */
static double measure(Device *device, OpKind op, const void *args)
{
    double best = 0;
    const double began = profile_seconds();
    for (int run = 0; run < 3 || (run < 1000 && profile_seconds() - began < MEASURE_SECONDS); run++) {
        const double since = profile_seconds();
        device_run(device, op, args);
        device_finish(device);
        const double rate = 1 / (profile_seconds() - since);
        best = rate > best ? rate : best;
    }
    return best;
}

static double measure_peak(Device *device, Arena *arena)
{
    const int64_t n = PEAK_SIZE;
    Tensor a = tensor_new2(arena, DTYPE_F32, n, n), b = tensor_new2(arena, DTYPE_F32, n, n),
           c = tensor_new2(arena, DTYPE_F32, n, n);
    device_run(device, OP_fill, &(FillArgs){a.data, n * n, 0.75f}); /* zeros would draw less power */
    device_run(device, OP_fill, &(FillArgs){b.data, n * n, 1.25f});
    GemmArgs args = {.transpose_b = true,
                     .m = n,
                     .n = n,
                     .k = n,
                     .alpha = 1,
                     .a = a.data,
                     .lda = n,
                     .b = b.data,
                     .ldb = n,
                     .c = c.data,
                     .ldc = n};
    return measure(device, OP_gemm, &args) * 2 * (double)n * (double)n * (double)n;
}

/* The best rate at which long operands are read: by a sum alone, or by an addition, which writes beside it. */
static double measure_bandwidth(Device *device, Arena *arena)
{
    Tensor x = tensor_new1(arena, DTYPE_F32, STREAM_FLOATS), sums = tensor_new1(arena, DTYPE_F64, STREAM_BLOCKS);
    tensor_zero(device, x);
    const Tensor half = tensor_range(x, STREAM_FLOATS / 2, STREAM_FLOATS / 2);
    const SumSquaresArgs sum = {x.data, STREAM_FLOATS, sums.data};
    const AddArgs add = {.out = x.data, .a = x.data, .b = half.data, .scale = 1, .count = STREAM_FLOATS / 2};
    const double calls = measure(device, OP_sum_squares, &sum), adds = measure(device, OP_add, &add);
    return sizeof(float) * STREAM_FLOATS * (calls > adds ? calls : adds);
}

Status op_profile_open(Device *device)
{
    Arena arena;
    TRY(device_arena(device, &arena, "profile", 0));
    OpCounter counter[OP_COUNT]; /* the measurement is no part of the run's work */
    memcpy(counter, device->counter, sizeof counter);
    OpProfile *profile = memory_new(1, sizeof *profile);
    profile->peak = measure_peak(device, &arena);
    profile->bandwidth = measure_bandwidth(device, &arena);
    memcpy(device->counter, counter, sizeof counter);
    arena_close(&arena);
    profile->event = memory_new(PROFILE_EVENTS_MAX, sizeof *profile->event);
    profile->span = memory_new(PROFILE_SPANS_MAX, sizeof *profile->span);
    profile->began = profile->since = profile_seconds();
    profile->phase[profile->phases++].name = "start";
    device->profile = profile;
    return status_ok();
}

void op_profile_close(Device *device)
{
    if (!device->profile)
        return;
    memory_free(&device->profile->event);
    memory_free(&device->profile->span);
    memory_free(&device->profile);
}

/* --- Counting --- */

void op_profile_phase(OpProfile *profile, const char *name)
{
    const double now = profile_seconds();
    profile->phase[profile->current].seconds += now - profile->since;
    if (profile->spans < PROFILE_SPANS_MAX)
        profile->span[profile->spans++] =
            (ProfileSpan){profile->since - profile->began, now - profile->since, profile->current};
    else
        profile->spans_dropped++;
    int index = 0;
    while (index < profile->phases && strcmp(profile->phase[index].name, name) != 0)
        index++;
    REQUIRE(index < PROFILE_PHASES_MAX, "phase %s is one more than the %d there is room for", name, PROFILE_PHASES_MAX);
    if (index == profile->phases)
        profile->phase[profile->phases++].name = name;
    profile->current = index;
    profile->since = now;
}

void op_profile_add(OpProfile *profile, int row, const void *args, double since, double flops, double bytes)
{
    const double seconds = profile_seconds() - since, moving = bytes / profile->bandwidth,
                 computing = flops / profile->peak;
    ProfileRow *counted = &profile->phase[profile->current].row[row];
    counted->calls++;
    counted->seconds += seconds;
    counted->flops += flops;
    counted->bytes += bytes;
    counted->limit += moving > computing ? moving : computing;
    if (profile->events == PROFILE_EVENTS_MAX) {
        profile->events_dropped++;
        profile->seconds_dropped += seconds;
        return;
    }
    ProfileEvent *event = &profile->event[profile->events++];
    *event = (ProfileEvent){.start = since - profile->began,
                            .row = (int16_t)row,
                            .phase = (int16_t)profile->current,
                            .seconds = (float)seconds,
                            .flops = (float)flops,
                            .bytes = (float)bytes};
    if (row == OP_gemm) {
        const GemmArgs *gemm = args;
        event->size[0] = (int32_t)gemm->m;
        event->size[1] = (int32_t)gemm->n;
        event->size[2] = (int32_t)gemm->k;
    }
}

const char *op_profile_row_name(int row)
{
    return row == PROFILE_TRANSFER ? "copy and zero" : op_name((OpKind)row);
}
