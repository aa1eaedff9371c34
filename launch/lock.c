/* lock.c -- flock with patience, a message and a name: see lock.h. */
#define _GNU_SOURCE
#include "launch/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/base/signal.h"
#include "core/base/text.h"

static const double QUIET_SECONDS = 0.5;
static const struct timespec PAUSE = {.tv_nsec = 50 * 1000 * 1000};

/* What the holder wrote: "tercet run, pid 12 on node1". */
static const char *read_holder(int file, char *line, size_t size)
{
    ssize_t length = pread(file, line, size - 1, 0);
    line[length > 0 ? length : 0] = 0;
    line[strcspn(line, "\n")] = 0;
    return *line ? line : "another process";
}

static void write_holder(int file, const char *holder)
{
    char host[256] = "", line[512];
    gethostname(host, sizeof host - 1);
    int length = snprintf(line, sizeof line, "%s, pid %ld on %s\n", holder, (long)getpid(), host);
    /* Only for messages: a full disk must not stop who holds the lock. */
    if (ftruncate(file, 0) != 0 || pwrite(file, line, (size_t)length, 0) != length)
        log_debug("the lock's holder could not be noted: %s", strerror(errno));
}

Status lock_take(const char *path, bool shared, double timeout_seconds, const char *holder, Lock *lock)
{
    char line[512];
    const int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0)
        return status_error(STATUS_IO, "%s: cannot make the lock file: %s", path, strerror(errno));
    bool told = false;
    for (const double started = profile_seconds();;) {
        if (flock(file, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0)
            break;
        const int reason = errno;
        const double waited = profile_seconds() - started;
        Status status = status_ok();
        if (reason != EWOULDBLOCK && reason != EINTR)
            status = status_error(STATUS_IO, "%s: this file system cannot lock: %s", path, strerror(reason));
        else if (signal_stop_requested())
            status = status_error(STATUS_STOPPED, "asked to stop while waiting for %s", path);
        else if (waited > timeout_seconds)
            status = status_error(STATUS_IO, "%s: held by %s, for longer than %.0f s; stop that one, or wait for it",
                                  path, read_holder(file, line, sizeof line), timeout_seconds);
        if (status_failed(status)) {
            close(file);
            return status;
        }
        if (!told && waited > QUIET_SECONDS) {
            log_info("waiting up to %.0f s for %s, held by %s", timeout_seconds, path,
                     read_holder(file, line, sizeof line));
            told = true;
        }
        nanosleep(&PAUSE, NULL);
    }
    if (!shared)
        write_holder(file, holder);
    lock->file = file + 1;
    return status_ok();
}

bool lock_is_free(const char *path)
{
    const int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT;
    const bool is_free = flock(file, LOCK_EX | LOCK_NB) == 0;
    close(file);
    return is_free;
}

void lock_release(Lock *lock)
{
    if (lock->file)
        close(lock->file - 1);
    lock->file = 0;
}

static Status take_in(const char *output, const char *name, bool shared, double timeout_seconds, const char *holder,
                      Lock *lock)
{
    char *path = text_join_path(output, name);
    Status status = lock_take(path, shared, timeout_seconds, holder, lock);
    memory_free(&path);
    return status;
}

Status lock_stage_first(const char *output, const char *stage, double timeout_seconds, StageLock *lock)
{
    Text holder = {0};
    text_printf(&holder, "tercet %s", stage);
    *lock = (StageLock){{0}, {0}};
    Status status = take_in(output, ".lock", false, timeout_seconds, text_string(&holder), &lock->job);
    if (!status_failed(status))
        status = take_in(output, ".ranks.lock", false, timeout_seconds, text_string(&holder), &lock->ranks);
    /* Turned into a shared one, for the ranks that come after. Nobody else can want it: .lock is held. */
    if (!status_failed(status) && flock(lock->ranks.file - 1, LOCK_SH) != 0)
        status = status_error(STATUS_IO, "%s/.ranks.lock: %s", output, strerror(errno));
    if (status_failed(status))
        lock_stage_release(lock);
    text_free(&holder);
    return status;
}

Status lock_stage_other(const char *output, double timeout_seconds, StageLock *lock)
{
    *lock = (StageLock){{0}, {0}};
    return take_in(output, ".ranks.lock", true, timeout_seconds, "", &lock->ranks);
}

void lock_stage_release(StageLock *lock)
{
    lock_release(&lock->ranks);
    lock_release(&lock->job);
}
