/* op_profile.h -- where the time of a run goes: by phase and op, beside what the machine could have done, and a bounded record of when.
 *
 * Why:   "share of the limit" says which op is worth work, and whether any is. The limit of a call is max(bytes / bandwidth, FLOPs / peak)
 *        with the op's own cost (cost.c) and a bandwidth and a peak that this very device was measured at when profiling began.
 * Cost:  with device->profile NULL, none: device_run() reads no clock. While profiling, two clock reads per call; memory is taken once, at the
 *        start. The bandwidth is that of reading memory: operands that are still in a cache can beat it, and so can ops that write as much as they
 *        read, where a processor does both at once. */
#ifndef CORE_TENSOR_OP_PROFILE_H
#define CORE_TENSOR_OP_PROFILE_H

#include "core/base/profile.h"
#include "core/base/status.h"
#include "core/tensor/ops.h"

enum {
    PROFILE_TRANSFER = OP_COUNT, /* copies and zeroing, which are no ops */
    PROFILE_ROWS,
    PROFILE_EVENTS_MAX = 100000, /* 14 MB of JSON */
    PROFILE_SPANS_MAX = 10000,
};

typedef struct ProfileRow {
    uint64_t calls;
    double seconds, flops, bytes;
    double limit; /* seconds: sum over calls */
} ProfileRow;

typedef struct ProfilePhase {
    const char *name; /* static string */
    double seconds;   /* what is not in rows is the host's: its own work, files, other ranks */
    ProfileRow row[PROFILE_ROWS];
} ProfilePhase;

/* One call. */
typedef struct ProfileEvent {
    double start;    /* seconds since `began` */
    int32_t size[3]; /* of a product: m, n, k */
    int16_t row, phase;
    float seconds, flops, bytes;
} ProfileEvent;

/* One stay in a phase. */
typedef struct ProfileSpan {
    double start, seconds; /* since `began` */
    int phase;
} ProfileSpan;

typedef struct OpProfile {
    double peak, bandwidth; /* measured: FLOP/s of a product, bytes/s read from memory */
    double began, since;    /* the clock at the start, and where the phase at hand began */
    ProfilePhase phase[PROFILE_PHASES_MAX];
    int phases, current;
    ProfileEvent *event; /* the first PROFILE_EVENTS_MAX */
    ProfileSpan *span;
    int64_t events, spans; /* kept */
    uint64_t events_dropped, spans_dropped;
    double seconds_dropped; /* of the events that were dropped */
} OpProfile;

/* Measure the device, which takes a fraction of a second and 200 MB, and count from here on, in a phase "start". */
Status op_profile_open(Device *device);
/* Frees it; a device without one is left as it is. */
void op_profile_close(Device *device);
/* End the phase at hand and begin `name` (a static string; compared by content). */
void op_profile_phase(OpProfile *profile, const char *name);
/* Count one call of `row` that began at `since` (profile_seconds) and has just ended. `args`: its Args, or NULL for a transfer. */
void op_profile_add(OpProfile *profile, int row, const void *args, double since, double flops, double bytes);
/* "gemm", or "copy and zero" */
const char *op_profile_row_name(int row);

#endif
