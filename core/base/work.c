/* work.c -- OpenMP hands out the pieces; messages of failures, which belong to the thread that failed, are carried to the caller's. */
#include "core/base/work.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>

#include "core/base/memory.h"

int work_threads(void)
{
    return omp_get_max_threads();
}

int work_waiting_threads(void)
{
    enum { MOST = 32 };
    int threads = 2 * work_threads();
    return threads < MOST ? threads : MOST;
}

/* The failure of the lowest index so far. */
typedef struct Failure {
    _Atomic int64_t index; /* INT64_MAX: none */
    Status status;
    char *message;
} Failure;

static void note(Failure *failure, int64_t index, Status status)
{
    if (!status_failed(status))
        return;
#pragma omp critical(work_failure)
    if (index < atomic_load(&failure->index)) {
        memory_free(&failure->message);
        failure->message = memory_strdup(status_message());
        failure->status = status;
        atomic_store(&failure->index, index);
    }
}

static void run_one(WorkJob job, void *context, int64_t index, Failure *failure)
{
    if (atomic_load(&failure->index) > index)
        note(failure, index, job(context, index, omp_get_thread_num()));
}

static Status run(int threads, int64_t count, WorkJob job, WorkJob turn, void *context)
{
    Failure failure = {.index = INT64_MAX, .status = status_ok()};
    if (count < threads)
        threads = count > 0 ? (int)count : 1;
    if (turn) {
#pragma omp parallel for ordered schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < count; i++) {
            run_one(job, context, i, &failure);
#pragma omp ordered
            run_one(turn, context, i, &failure);
        }
    } else {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < count; i++)
            run_one(job, context, i, &failure);
    }
    Status status = failure.message ? status_error(failure.status.code, "%s", failure.message) : status_ok();
    memory_free(&failure.message);
    return status;
}

Status work_run(int64_t count, WorkJob job, WorkJob turn, void *context)
{
    return run(work_threads(), count, job, turn, context);
}

Status work_run_waiting(int64_t count, WorkJob job, void *context)
{
    return run(work_waiting_threads(), count, job, NULL, context);
}

/* --- Aside --------------------------------------------------------------------------------------------------------- */

struct WorkAside {
    pthread_t thread;
    Status (*job)(void *context);
    void *context;
    Status status;
    char *message;
};

static void *aside_main(void *self)
{
    WorkAside *aside = self;
    aside->status = aside->job(aside->context);
    if (status_failed(aside->status))
        aside->message = memory_strdup(status_message());
    return NULL;
}

WorkAside *work_aside_begin(Status (*job)(void *context), void *context)
{
    WorkAside *aside = memory_new(1, sizeof *aside);
    aside->job = job;
    aside->context = context;
    REQUIRE(pthread_create(&aside->thread, NULL, aside_main, aside) == 0, "the system gives no thread");
    return aside;
}

Status work_aside_end(WorkAside **address)
{
    WorkAside *aside = *address;
    pthread_join(aside->thread, NULL);
    Status status = aside->message ? status_error(aside->status.code, "%s", aside->message) : aside->status;
    memory_free(&aside->message);
    memory_free(address);
    return status;
}
