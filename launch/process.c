/* process.c -- fork, exec, relay and wait: see process.h. */
#define _GNU_SOURCE
#include "launch/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/profile.h"
#include "core/base/signal.h"
#include "launch/environment.h"

enum { POLL_MS = 100, LINE_MAX_BYTES = 8192, ASK_AGAIN_SECONDS = 2 };

typedef struct Relay {
    int log_file;
    Text line; /* what came since the last line feed or carriage return */
    ProcessResult *result;
    bool error_seen;
} Relay;

static void write_all(int file, const char *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(file, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return; /* nobody reads any more, or the disk is full: the stage goes on */
        bytes += written;
        size -= (size_t)written;
    }
}

static void line_ended(Relay *relay)
{
    const char *line = text_string(&relay->line);
    if (text_starts_with(line, "\033[K")) /* what a live line's eraser leaves before a plain line */
        line += 3;
    const bool error = strstr(line, "error: ") != NULL;
    if (*line && (error || !relay->error_seen)) {
        text_clear(&relay->result->last_line);
        text_append_string(&relay->result->last_line, line);
    }
    relay->error_seen |= error;
    if (relay->log_file >= 0) {
        Text whole = {0};
        text_printf(&whole, "%s\n", line);
        write_all(relay->log_file, whole.bytes, whole.size);
        text_free(&whole);
    }
    text_clear(&relay->line);
}

static void relay_bytes(Relay *relay, const char *bytes, size_t size)
{
    write_all(STDERR_FILENO, bytes, size);
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] == '\n' || relay->line.size >= LINE_MAX_BYTES)
            line_ended(relay);
        if (bytes[i] == '\r')
            text_clear(&relay->line);
        else if (bytes[i] != '\n' && bytes[i] != 0)
            text_append(&relay->line, &bytes[i], 1);
    }
}

/* In the child: never returns. `failure`: where to tell why exec did not work; closes itself when it did. */
static void child_begin(const Command *command, pid_t parent, int error_output, int failure, bool live)
{
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it ended before the kernel was told */
        _exit(127);
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0)
        dup2(nothing, STDIN_FILENO);
    dup2(error_output, STDERR_FILENO);
    if (live)
        environment_set_live();
    execvp(command->words[0], command->words);
    const int reason = errno;
    write_all(failure, (const char *)&reason, sizeof reason);
    _exit(127);
}

static Status start(const Command *command, pid_t *child, int *output)
{
    int error_pipe[2], failure_pipe[2];
    if (pipe2(error_pipe, O_CLOEXEC) != 0)
        return status_error(STATUS_IO, "cannot make a pipe: %s", strerror(errno));
    if (pipe2(failure_pipe, O_CLOEXEC) != 0) {
        close(error_pipe[0]);
        close(error_pipe[1]);
        return status_error(STATUS_IO, "cannot make a pipe: %s", strerror(errno));
    }
    const pid_t parent = getpid();
    const bool live = isatty(STDERR_FILENO);
    *child = fork();
    if (*child == 0)
        child_begin(command, parent, error_pipe[1], failure_pipe[1], live);
    int reason = *child < 0 ? errno : 0;
    close(error_pipe[1]);
    close(failure_pipe[1]);
    if (*child > 0) {
        ssize_t size;
        do
            size = read(failure_pipe[0], &reason, sizeof reason);
        while (size < 0 && errno == EINTR);
        if (size == (ssize_t)sizeof reason)
            waitpid(*child, NULL, 0);
        else
            reason = 0;
    }
    close(failure_pipe[0]);
    *output = error_pipe[0];
    if (reason == 0)
        return status_ok();
    close(error_pipe[0]);
    return status_error(STATUS_IO, "cannot start '%s': %s", command->words[0], strerror(reason));
}

/* Read what is there; false at the end of the stream. */
static bool drain(Relay *relay, int output)
{
    char bytes[4096];
    for (;;) {
        const ssize_t size = read(output, bytes, sizeof bytes);
        if (size > 0)
            relay_bytes(relay, bytes, (size_t)size);
        else if (size == 0)
            return false;
        else if (errno != EINTR)
            return true;
    }
}

Status process_run(const Command *command, int stop_signal, int log_file, ProcessResult *result)
{
    pid_t child = -1;
    int output = -1, state = 0;
    double asked_at = 0;
    *result = (ProcessResult){.exit_code = -1};
    TRY(start(command, &child, &output));
    fcntl(output, F_SETFL, O_NONBLOCK);
    Relay relay = {.log_file = log_file, .result = result};
    for (bool open = true;;) {
        struct pollfd wait_for = {.fd = open ? output : -1, .events = POLLIN};
        poll(&wait_for, 1, POLL_MS);
        if (open)
            open = drain(&relay, output);
        if (signal_stop_requested() && !result->asked)
            log_info("asked to stop: passing it on, and waiting for the checkpoint (a second Ctrl-C ends everything at "
                     "once)");
        /* Again and again: a launcher that has not yet started its ranks passes nothing on. */
        if (signal_stop_requested() && (!result->asked || profile_seconds() - asked_at >= ASK_AGAIN_SECONDS)) {
            kill(child, stop_signal);
            asked_at = profile_seconds();
            result->asked = true;
        }
        if (waitpid(child, &state, WNOHANG) == child)
            break;
    }
    drain(&relay, output);
    if (relay.line.size > 0)
        line_ended(&relay);
    text_free(&relay.line);
    close(output);
    kill(-child, SIGKILL); /* what a launcher's script may have left in its group */
    if (WIFEXITED(state))
        result->exit_code = WEXITSTATUS(state);
    else
        result->signal = WTERMSIG(state);
    return status_ok();
}
