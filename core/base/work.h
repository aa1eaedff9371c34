/* work.h -- independent pieces of work on the process's threads, for what is no op: reading files, tokenising.
 *
 * Rules: results must not depend on which thread does a piece, nor on how many there are. What has to happen in order goes into `turn`. */
#ifndef CORE_BASE_WORK_H
#define CORE_BASE_WORK_H

#include <stdint.h>

#include "core/base/status.h"

/* One piece of work; `worker` is in [0, threads of the call), and no two pieces have the same one at the same time. */
typedef Status (*WorkJob)(void *context, int64_t index, int worker);

/* Threads of work_run: OpenMP's number, which launch/bootstrap sets. */
int work_threads(void);
/* job(index) for 0 <= index < count, begun in this order; and turn(index), unless `turn` is NULL, one at a time in this order, each after its job and
 * by the same worker. The failure of the lowest index is returned; after it nothing more is begun. */
Status work_run(int64_t count, WorkJob job, WorkJob turn, void *context);
/* The same without turns, for pieces of which each waits for a disk half of its time: on more threads than there are cores, up to what a disk needs.
 * They end with the call, so a job may not memory_borrow. */
Status work_run_waiting(int64_t count, WorkJob job, void *context);
int work_waiting_threads(void);

/* One job on a thread of its own, beside whatever the caller does until it ends it. */
typedef struct WorkAside WorkAside;
WorkAside *work_aside_begin(Status (*job)(void *context), void *context);
/* Waits; what the job returned. Frees it and sets it to NULL. */
Status work_aside_end(WorkAside **aside);

#endif
