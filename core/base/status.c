/* status.c -- the thread-local message behind a Status, and the abort of a programmer's error. */
#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGE_BYTES = 4096 };

static _Thread_local char message[MESSAGE_BYTES];
static int process_rank;
static void (*process_leave)(StatusCode code);

Status status_error(StatusCode code, const char *format, ...)
{
    char formatted[MESSAGE_BYTES]; /* arguments may point into `message` itself */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(formatted, sizeof formatted, format, arguments);
    va_end(arguments);
    memcpy(message, formatted, sizeof message);
    return (Status){code};
}

Status status_prefix(Status status, const char *format, ...)
{
    if (!status_failed(status))
        return status;
    char formatted[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(formatted, sizeof formatted, format, arguments);
    va_end(arguments);
    if (length < 0)
        return status;
    size_t used = (size_t)length < sizeof formatted ? (size_t)length : sizeof formatted - 1;
    for (const char *at = ": "; *at && used < sizeof formatted - 1; at++)
        formatted[used++] = *at;
    for (const char *at = message; *at && used < sizeof formatted - 1; at++) /* too long: the tail is what goes */
        formatted[used++] = *at;
    formatted[used] = 0;
    memcpy(message, formatted, sizeof message);
    return status;
}

const char *status_message(void)
{
    return message;
}

const char *status_name(StatusCode code)
{
    static const char *const names[] = {
        [STATUS_OK] = "ok",           [STATUS_INTERNAL] = "internal",
        [STATUS_USAGE] = "usage",     [STATUS_INPUT] = "input",
        [STATUS_IO] = "io",           [STATUS_MEMORY] = "memory",
        [STATUS_NUMERIC] = "numeric", [STATUS_PEER] = "peer",
        [STATUS_STOPPED] = "stopped",
    };
    size_t index = (size_t)code;
    return index < sizeof names / sizeof *names ? names[index] : "unknown";
}

/* By one write: on this stream the lines of ranks meet, and what mpirun says of them. */
static void say(const char *before, const char *format, va_list arguments)
{
    char line[2 * MESSAGE_BYTES];
    size_t used = (size_t)snprintf(line, MESSAGE_BYTES, "tercet: rank %d: %s", process_rank, before);
    used = used < MESSAGE_BYTES ? used : MESSAGE_BYTES - 1;
    vsnprintf(line + used, sizeof line - used - 1, format, arguments);
    strcat(line, "\n");
    fputs(line, stderr);
    fflush(stderr);
}

void status_abort(const char *file, int line, const char *condition, const char *format, ...)
{
    char before[MESSAGE_BYTES];
    snprintf(before, sizeof before, "%s:%d: REQUIRE(%s) failed: ", file, line, condition);
    va_list arguments;
    va_start(arguments, format);
    say(before, format, arguments);
    va_end(arguments);
    abort();
}

void status_leave(StatusCode code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say("", format, arguments);
    va_end(arguments);
    if (process_leave)
        process_leave(code);
    _exit((int)code);
}

void status_on_leave(void (*leave)(StatusCode code))
{
    process_leave = leave;
}

void status_set_rank(int rank)
{
    process_rank = rank;
}

int status_rank(void)
{
    return process_rank;
}
