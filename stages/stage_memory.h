/* stage_memory.h -- what one rank's arenas came to in a stage: measured after a run, foretold by a plan.
 *
 * A plan is a run of the same code on a device that computes nothing (core/tensor/device.h), so both fill this struct in the same places.
 * Left out: host memory for names, data and rollouts. */
#ifndef STAGES_STAGE_MEMORY_H
#define STAGES_STAGE_MEMORY_H

#include "core/base/profile.h"
#include "core/base/text.h"

typedef struct StageMemory {
    int ranks;
    int64_t lanes;
    int gradient_buffers; /* of each trained model: wave + log2(lanes / ranks) */
    int wave;             /* lanes under way at a time */
    size_t models;        /* bytes: parameters of all models, trained or not, and their tables */
    size_t training;      /* bytes: optimizer moments of the trained ones */
    /* Most bytes of the step arena (activations, gradients, caches, batches) in each phase. */
    struct {
        const char *name; /* static string */
        size_t bytes;
    } phase[PROFILE_PHASES_MAX];
    int phases;
    size_t scratch; /* bytes inside ops, which depend on backend and threads */
    size_t
        beside; /* bytes that the device takes for itself and its libraries; an estimate, 0 on the CPU and after a run */
} StageMemory;

/* The phase's entry, made if it is new. */
int stage_memory_phase(StageMemory *memory, const char *name);
/* Most bytes at once: what stays, scratch, and the hungriest phase, whose name goes to *phase ("" if there is none; may be NULL). */
size_t stage_memory_most(const StageMemory *memory, const char **phase);
/* Each entry becomes the larger of both: the worst of several ranks. */
void stage_memory_join(StageMemory *memory, const StageMemory *other);
/* Append a table, one line per entry, in bytes of one rank; its last lines are the most at once, for a rank and for all of them. */
void stage_memory_print(const StageMemory *memory, Text *text);

#endif
