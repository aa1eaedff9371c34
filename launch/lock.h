/* lock.h -- who may write in an output directory: flock() on files in it, so that a lock dies with its holder.
 *
 * Files: .run.lock    the orchestrator (tercet run), exclusive.
 *        .lock        rank 0 of a running stage, exclusive: one job at a time, with or without an orchestrator.
 *        .ranks.lock  every rank of that stage, shared. A new job takes it exclusively once before it begins, so it waits
 *                     for the last rank of a killed job, not only for its rank 0.
 *        Nobody hands a lock to a child (close on exec), and a holder writes its name into the file for messages. */
#ifndef LAUNCH_LOCK_H
#define LAUNCH_LOCK_H

#include <stdbool.h>

#include "core/base/status.h"

enum { LOCK_TIMEOUT_SECONDS = 60 };

typedef struct Lock {
    int file; /* descriptor + 1, so that {0} holds nothing */
} Lock;

/* Take the lock file at `path`, made if need be; says whom it waits for after half a second, and gives up after the
 * timeout (STATUS_IO, naming the holder) or when this process is asked to stop (STATUS_STOPPED). `holder`: what to write
 * into the file ("tercet run"). [local] */
Status lock_take(const char *path, bool shared, double timeout_seconds, const char *holder, Lock *lock);
/* Is it free right now? Takes and releases it; a file that does not exist is free. */
bool lock_is_free(const char *path);
void lock_release(Lock *lock);

typedef struct StageLock {
    Lock job, ranks;
} StageLock;

/* A stage's locks on its output directory. Rank 0 first, alone; when it has them (comm_agree), the other ranks. All keep
 * them until they end. [local] */
Status lock_stage_first(const char *output, const char *stage, double timeout_seconds, StageLock *lock);
Status lock_stage_other(const char *output, double timeout_seconds, StageLock *lock);
void lock_stage_release(StageLock *lock);

#endif
