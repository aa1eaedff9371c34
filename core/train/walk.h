/* walk.h -- this rank's lanes of a step: unit after unit by all threads, or several lanes at a time, each from its first unit to its last by one thread.
 *
 * Why:   an op of a small model is some ten microseconds on a unit's rows. Cut over threads, it waits for them as long, and what it leaves in one core's
 *        cache is read by another.
 * Rule:  which of the two is a matter of the model and of lanes, never of ranks or threads; and a strand's bits do not depend on who runs it, nor on
 *        what runs beside it. */
#ifndef CORE_TRAIN_WALK_H
#define CORE_TRAIN_WALK_H

#include "core/comm/comm.h"
#include "core/comm/shard.h"
#include "core/model/model.h"

/* Forward, loss and backward of one unit. Gradients accumulate into the model's parameters' grad, and nothing is added behind tape_backward; `stats`
 * (stats_count) F64 on the device, zeroed, is the unit's own. exec->tape is set (the unit runs tape_backward), or NULL in units_evaluate. After each unit the
 * step arena is rewound, but to what the unit holds (arena_hold). What a unit reads from the device may arrive only when the walk is over: the work may be noted
 * first and done later. */
typedef Status (*UnitFunction)(void *context, int64_t unit, Exec *exec, Tensor stats);

typedef struct Walk {
    UnitFunction unit;
    void *context;
    int64_t units, lanes; /* of the step */
    Span own_lanes, own;  /* this rank's lanes, and their units */
    bool strands;         /* lanes go to threads */
    Tensor stats;         /* (own, stats_count) F64 on the device */
} Walk;

/* Do lanes of this model go to threads? */
bool walk_by_strands(const Model *model, int64_t lanes);
/* Lanes that are under way at a time, of `own` that a rank has: 1 where they do not go to threads. */
int64_t walk_width(bool strands, int64_t own, const Device *device);
/* One unit, or all units of a lane, by all threads. */
Status walk_unit(const Walk *walk, Exec *exec, int64_t unit);
Status walk_lane(const Walk *walk, Exec *exec, int64_t lane);
/* The wave that begins with lane `from`: walk_width lanes, or as many as are left, each on a thread of its own from its first unit to its last. `gradient`
 * (walk_width) NULL: no gradients; else lane from + i leaves its own in gradient[i], a buffer of params->count floats. */
Status walk_wave(const Walk *walk, Exec *exec, int64_t from, Params *params, const Tensor *gradient);

#endif
