/* status.h -- how a failure travels from where it happens to the one place that turns it into an exit code.
 *
 * Why:   three kinds of trouble deserve three treatments.
 *          - Operating failure (bad file, full disk, unknown key): return a Status with a message that names the
 *            file, key, line or tensor, what was expected and what was found; pass it up with TRY().
 *          - Programmer's error (a shape that cannot be): REQUIRE()/DCHECK(), which abort with rank and values.
 *          - A peer's failure: comm_agree() (core/comm) makes one rank's failure every rank's, so nobody hangs.
 * Rules: a Status may not be ignored (the compiler says so). Only launch/main turns one into an exit code.
 *        The message lives in a thread-local buffer until the next status_error() of that thread. */
#ifndef CORE_BASE_STATUS_H
#define CORE_BASE_STATUS_H

#include <stdbool.h>

/* Exit codes of the program are these values, so a script can tell a typing error from a full disk. */
typedef enum StatusCode {
    STATUS_OK = 0,
    STATUS_INTERNAL = 1, /* a check of our own failed: please report */
    STATUS_USAGE = 2,    /* command line or configuration */
    STATUS_INPUT = 3,    /* a file's contents: malformed, truncated, wrong kind, wrong shape */
    STATUS_IO = 4,       /* the system refused: open, write, rename, lock, spawn */
    STATUS_MEMORY = 5,   /* does not fit; the message says the plan's bytes */
    STATUS_NUMERIC = 6,  /* NaN or infinity where a number must be; a broken invariant of the recipe */
    STATUS_PEER = 7,     /* another rank failed; its own message says why */
    STATUS_STOPPED = 8,  /* asked to stop (SIGTERM, SIGINT); everything is saved and resumable */
} StatusCode;

#if defined(__cplusplus) && __cplusplus < 201703L
#define STATUS_NODISCARD
#elif defined(__clang__) && !defined(__cplusplus)
#define STATUS_NODISCARD
#else
#define STATUS_NODISCARD [[nodiscard]]
#endif

typedef struct STATUS_NODISCARD Status {
    StatusCode code;
} Status;

static inline Status status_ok(void)
{
    Status status = {STATUS_OK};
    return status;
}
static inline bool status_failed(Status status)
{
    return status.code != STATUS_OK;
}

/* Make a failure with a message. */
Status status_error(StatusCode code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Put "context: " before the message of a failure on its way up ("configs/demo.yaml:12"). Returns `status`. */
Status status_prefix(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The message of this thread's last failure; "" if none. Borrowed until the next status_error(). */
const char *status_message(void);
/* "input", "io", ... for logs. */
const char *status_name(StatusCode code);

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        Status try_status_ = (expression);                                                                             \
        if (status_failed(try_status_))                                                                                \
            return try_status_;                                                                                        \
    } while (0)

/* For functions with clean-up: sets `status` (declared by the caller) and jumps. */
#define TRY_GOTO(expression, label)                                                                                    \
    do {                                                                                                               \
        status = (expression);                                                                                         \
        if (status_failed(status))                                                                                     \
            goto label;                                                                                                \
    } while (0)

/* A programmer's error: prints file, line, rank and the formatted values, then aborts (the launcher ends the job). */
void status_abort(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((noreturn, format(printf, 4, 5)));
/* An operating failure with no way back up (memory that the system refuses in the middle of a step): says so, and ends the program with the code. */
void status_leave(StatusCode code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
/* What takes the other ranks along when this one leaves so; launch/bootstrap sets it once. */
void status_on_leave(void (*leave)(StatusCode code));
/* The rank printed by aborts and logs; launch/bootstrap sets it once. */
void status_set_rank(int rank);
int status_rank(void);

#define REQUIRE(condition, ...)                                                                                        \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            status_abort(__FILE__, __LINE__, #condition, __VA_ARGS__);                                                 \
    } while (0)

#ifdef TERCET_CHECKED
#define DCHECK(condition, ...) REQUIRE(condition, __VA_ARGS__)
#else
#define DCHECK(condition, ...) ((void)0)
#endif

#endif
