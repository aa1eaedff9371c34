/* log.c -- every line leaves in one write(), so lines of several ranks do not mix. */
#include "core/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/base/profile.h"
#include "core/base/status.h"
#include "core/base/text.h"

static const double LIVE_INTERVAL_SECONDS = 0.1;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static LogLevel log_level = LOG_INFO;
static int log_file = -1;
static bool live_line_shown;
static bool live_forced;
static double plain_interval_seconds = 10.0;

static void write_all(int file, const char *bytes, size_t size)
{
    while (size) {
        ssize_t written = write(file, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return; /* there is nobody left to tell */
        bytes += written;
        size -= (size_t)written;
    }
}

/* One line to standard error (unless `file_only`) and to the log file. `line` has no line feed. */
static void emit(Text *line, bool file_only)
{
    text_append(line, "\n", 1);
    pthread_mutex_lock(&mutex);
    if (!file_only) {
        if (live_line_shown)
            write_all(STDERR_FILENO, "\r\033[K", 4);
        live_line_shown = false;
        write_all(STDERR_FILENO, line->bytes, line->size);
    }
    if (log_file >= 0 && status_rank() == 0)
        write_all(log_file, line->bytes, line->size);
    pthread_mutex_unlock(&mutex);
}

static void __attribute__((format(printf, 2, 0))) log_line(const char *kind, const char *format, va_list arguments)
{
    Text line = {0};
    if (kind && status_rank() > 0)
        text_printf(&line, "rank %d: ", status_rank());
    if (kind)
        text_printf(&line, "%s: ", kind);
    text_vprintf(&line, format, arguments);
    emit(&line, false);
    text_free(&line);
}

#define LOG_LINE(condition, kind)                                                                                      \
    do {                                                                                                               \
        if (condition) {                                                                                               \
            va_list arguments;                                                                                         \
            va_start(arguments, format);                                                                               \
            log_line(kind, format, arguments);                                                                         \
            va_end(arguments);                                                                                         \
        }                                                                                                              \
    } while (0)

void log_set_level(LogLevel level)
{
    log_level = level;
}

bool log_set_file(const char *path)
{
    int file = -1;
    if (path && status_rank() == 0) {
        file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (file < 0)
            return false;
    }
    pthread_mutex_lock(&mutex);
    if (log_file >= 0)
        close(log_file);
    log_file = file;
    pthread_mutex_unlock(&mutex);
    return true;
}

void log_info(const char *format, ...)
{
    LOG_LINE(log_level >= LOG_INFO && status_rank() == 0, NULL);
}

void log_warn(const char *format, ...)
{
    LOG_LINE(log_level >= LOG_WARN, "warning");
}

void log_error(const char *format, ...)
{
    LOG_LINE(true, "error");
}

void log_debug(const char *format, ...)
{
    LOG_LINE(log_level >= LOG_DEBUG, "debug");
}

void log_set_live(bool live)
{
    live_forced = live;
}

Progress progress_start(const char *name, int64_t done, int64_t total)
{
    double now = profile_seconds();
    return (Progress){.name = name, .done = done, .total = total, .started = now, .printed = now, .first = done};
}

void progress_set_interval(double seconds)
{
    plain_interval_seconds = seconds;
}

static Text progress_text(const Progress *progress, double now, bool finished, const char *note)
{
    Text line = {0};
    double elapsed = now - progress->started;
    int64_t made = progress->done - progress->first;
    text_printf(&line, "%s %lld", progress->name, (long long)progress->done);
    if (progress->total > 0)
        text_printf(&line, "/%lld  %d%%", (long long)progress->total,
                    (int)(100.0 * (double)progress->done / (double)progress->total));
    if (progress->tokens > 0 && elapsed > 0)
        text_printf(&line, "  %s tok/s", text_count((double)progress->tokens / elapsed));
    if (finished)
        text_printf(&line, "  in %s", text_duration(elapsed));
    else if (made > 0 && progress->total >= progress->done)
        text_printf(&line, "  ETA %s",
                    text_duration(elapsed / (double)made * (double)(progress->total - progress->done)));
    if (note && *note)
        text_printf(&line, "  %s", note);
    return line;
}

/* Redraws the live line, cut to the terminal's width so that it stays one line. */
static void show_live(const Text *line)
{
    struct winsize window = {0};
    size_t columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 ? window.ws_col - 1u : 79;
    size_t size = 0;
    for (size_t column = 0; size < line->size && column < columns; column++) {
        size_t length = text_utf8_length(line->bytes + size, line->size - size);
        size += length ? length : 1;
    }
    Text drawn = {0};
    text_append_string(&drawn, "\r");
    text_append(&drawn, line->bytes, size);
    text_append_string(&drawn, "\033[K");
    pthread_mutex_lock(&mutex);
    write_all(STDERR_FILENO, drawn.bytes, drawn.size);
    live_line_shown = true;
    pthread_mutex_unlock(&mutex);
    text_free(&drawn);
}

void progress_update(Progress *progress, int64_t done, int64_t tokens, const char *note)
{
    progress->done = done;
    progress->tokens = tokens;
    if (status_rank() != 0 || log_level < LOG_INFO)
        return;
    static double live_drawn; /* the live line has a beat of its own: `printed` paces the plain lines */
    double now = profile_seconds();
    bool terminal = live_forced || isatty(STDERR_FILENO);
    bool plain_due = now - progress->printed >= plain_interval_seconds;
    bool live_due = terminal && now - live_drawn >= LIVE_INTERVAL_SECONDS;
    if (!plain_due && !live_due)
        return;
    Text line = progress_text(progress, now, false, note);
    if (live_due) {
        show_live(&line);
        live_drawn = now;
    }
    if (plain_due) {
        emit(&line, terminal);
        progress->printed = now;
    }
    text_free(&line);
}

void progress_finish(Progress *progress, const char *note)
{
    if (status_rank() != 0 || log_level < LOG_INFO)
        return;
    Text line = progress_text(progress, profile_seconds(), true, note);
    emit(&line, false);
    text_free(&line);
}
