/* log.h -- what the program tells a person: plain lines, and one live line on a terminal.
 *
 * Rules: lines go to standard error, so standard output stays for results. log_info is printed by rank 0 only; warnings
 *        and errors by any rank, with its number when that is not 0. The live line (progress) exists only on a
 *        terminal; in a log the same text appears as a plain line at most every so many seconds. */
#ifndef CORE_BASE_LOG_H
#define CORE_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

typedef enum LogLevel { LOG_QUIET, LOG_WARN, LOG_INFO, LOG_DEBUG } LogLevel;

void log_set_level(LogLevel level);
/* Also append every line to this file (rank 0); NULL closes it. False: it could not be opened. */
bool log_set_file(const char *path);
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Progress of one phase: "sft 120/400  31%  2.4k tok/s  ETA 0:41  loss 1.83". Rank 0 prints, others count. */
typedef struct Progress {
    const char *name;
    int64_t done, total; /* steps */
    int64_t tokens;      /* processed since start */
    double started, printed;
    int64_t first; /* steps done before this process started (a resumed run), for an honest rate */
} Progress;

Progress progress_start(const char *name, int64_t done, int64_t total);
/* `note` is the tail of the line ("loss 1.83  lr 1e-4"). */
void progress_update(Progress *progress, int64_t done, int64_t tokens, const char *note);
void progress_finish(Progress *progress, const char *note);
/* Draw the live line even where standard error is no terminal: behind a launcher's pipe that leads to one. */
void log_set_live(bool live);
/* Seconds between plain lines of one progress when standard error is no terminal (default 10). */
void progress_set_interval(double seconds);

#endif
