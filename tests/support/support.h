/* support.h -- what tests share: a place for files, loud skips, comparisons that NaN fails, and running programs.
 *
 * Use:   #include "tests/support/support.h" brings cmocka too. Skips are decided in main(), before the group runs:
 *
 *            int main(void)
 *            {
 *                support_need_data();
 *                const struct CMUnitTest tests[] = {cmocka_unit_test(test_something)};
 *                return cmocka_run_group_tests(tests, NULL, NULL);
 *            }
 *
 * Under mpirun a failed assertion aborts the rank (CMOCKA_TEST_ABORT, set by tests/CMakeLists.txt), so that the launcher
 * ends the others instead of letting them wait. */
#ifndef TESTS_SUPPORT_SUPPORT_H
#define TESTS_SUPPORT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "core/base/status.h"
#include "core/base/text.h"

/* --- Files -------------------------------------------------------------------------------------------------------- */

/* A directory of this test's own, made at the first call and removed at exit (kept when TERCET_KEEP is set, and its path
 * printed). The ranks of one mpirun share one. */
const char *support_directory(void);
/* "<support_directory>/NAME"; NAME is a format. A ring of 32 static strings. */
const char *support_path(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A path in the repository ("tests/golden/x.h5"). Same ring. */
const char *support_source(const char *name);
/* A file of the real data ("$TERCET_DATA/NAME"): without TERCET_DATA the whole test program skips; with it, a missing
 * file is a failure. Same ring. */
const char *support_data(const char *name);
/* Has the next read of a file take the disk's bytes, not the cache's. */
void support_leave_cache(const char *path);

/* --- Skips -------------------------------------------------------------------------------------------------------- */

/* Ends the program: prints "SKIP: ..." and exits 77, or, where TERCET_REQUIRE (a comma list of resources: data, mpi4,
 * cuda, clang-format, ...) names `resource`, prints "FAIL: ..." and exits 1. */
void support_skip(const char *resource, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
void support_need_data(void);

/* --- Comparisons -------------------------------------------------------------------------------------------------- */

/* |a - b| <= absolute + relative * |b|. Not so when any of them is NaN. */
bool support_is_close(double a, double b, double relative, double absolute);
#define assert_close(a, b, relative, absolute)                                                                         \
    support_assert_close((a), (b), (relative), (absolute), #a, __FILE__, __LINE__)
/* The first and the worst offender are named. `a`, `b`: float arrays. */
#define assert_floats_close(a, b, count, relative, absolute)                                                           \
    support_assert_floats_close((a), (b), (count), (relative), (absolute), #a, __FILE__, __LINE__)
/* ‖a - b‖ / ‖b‖ in double; ‖a‖ where b is zero everywhere. */
double support_relative_l2(const float *a, const float *b, size_t count);
#define assert_relative_l2(a, b, count, limit)                                                                         \
    support_assert_relative_l2((a), (b), (count), (limit), #a, __FILE__, __LINE__)
/* `status` must be fine; prints the message where it is not. */
#define assert_ok(expression) support_assert_status((expression), STATUS_OK, NULL, #expression, __FILE__, __LINE__)
/* `status` must have failed with `code`, and its message must hold `part` (NULL: anything). */
#define assert_fails(expression, code, part)                                                                           \
    support_assert_status((expression), (code), (part), #expression, __FILE__, __LINE__)
/* `text` must hold `part`. */
#define assert_contains(text, part) support_assert_contains((text), (part), true, __FILE__, __LINE__)
#define assert_lacks(text, part) support_assert_contains((text), (part), false, __FILE__, __LINE__)

void support_assert_close(double a, double b, double relative, double absolute, const char *name, const char *file,
                          int line);
void support_assert_floats_close(const float *a, const float *b, size_t count, double relative, double absolute,
                                 const char *name, const char *file, int line);
void support_assert_relative_l2(const float *a, const float *b, size_t count, double limit, const char *name,
                                const char *file, int line);
void support_assert_status(Status status, StatusCode code, const char *part, const char *name, const char *file,
                           int line);
void support_assert_contains(const char *text, const char *part, bool expected, const char *file, int line);

/* --- Programs ----------------------------------------------------------------------------------------------------- */

typedef struct SupportRun {
    int exit_code; /* 128 + signal when it died by one; 124 when the time was over */
    Text out, err;
    double seconds;
} SupportRun;

/* A command of the shell, its standard input /dev/null unless redirected, its output captured. At the timeout the
 * process group gets SIGTERM, five seconds later SIGKILL. */
SupportRun support_run(double timeout_seconds, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The program: ranks 0 runs it plain, ranks >= 1 under mpirun. `format` gives its arguments, as the shell reads them. */
SupportRun support_run_tercet(int ranks, double timeout_seconds, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void support_run_free(SupportRun *run);
/* The run must have ended with this code; prints what it wrote where it did not. */
#define assert_exit(run, code) support_assert_exit((run), (code), __FILE__, __LINE__)
void support_assert_exit(const SupportRun *run, int code, const char *file, int line);
/* The path of the program, and the launcher with its flags up to the count of ranks ("mpirun ... -np 4"). */
const char *support_tercet(void);
const char *support_mpirun(int ranks);

/* The same in two halves, for tests that interrupt what they started. */
typedef struct SupportProcess {
    pid_t pid; /* also its process group */
    char *out_path, *err_path;
    double started;
} SupportProcess;

SupportProcess support_start(const char *format, ...) __attribute__((format(printf, 1, 2)));
SupportRun support_wait(SupportProcess *process, double timeout_seconds);
/* Poll until `path` exists; false after the timeout. */
bool support_wait_for_file(const char *path, double timeout_seconds);

/* Does function(argument) abort, in a child process, with a message that holds `part`? */
bool support_aborts(void (*function)(void *argument), void *argument, const char *part);

#endif
