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

void status_abort(const char *file, int line, const char *condition, const char *format, ...)
{
    fprintf(stderr, "tercet: rank %d: %s:%d: REQUIRE(%s) failed: ", process_rank, file, line, condition);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}

void status_leave(StatusCode code, const char *format, ...)
{
    fprintf(stderr, "tercet: rank %d: ", process_rank);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    fflush(stderr);
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
