/* metrics.c -- JSON lines: what a run computed in one file, how long it took in another. */
#include "core/train/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"

static const char step_field[] = "{\"step\":";

/* Keep the complete lines of `path` whose step is at most `step`. A last line without its end was cut off by a crash. */
static Status cut_back(const char *path, int64_t step)
{
    if (access(path, F_OK) != 0)
        return errno == ENOENT ? status_ok() : status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    Text text = {0}, kept = {0};
    Status status = text_read_file(path, SIZE_MAX / 4, &text);
    for (size_t at = 0; !status_failed(status) && at < text.size;) {
        const char *line = text.bytes + at, *end = memchr(line, '\n', text.size - at);
        if (!end)
            break;
        size_t length = (size_t)(end - line) + 1;
        bool above = text_starts_with(line, step_field) && strtoll(line + strlen(step_field), NULL, 10) > step;
        if (!above)
            text_append(&kept, line, length);
        at += length;
    }
    if (!status_failed(status) && kept.size != text.size)
        status = text_write_file(path, text_string(&kept), kept.size);
    text_free(&text);
    text_free(&kept);
    return status;
}

enum { LINE_BYTES = 4000 };

static Status open_file(const char *directory, const char *name, int64_t step, FILE **file)
{
    char *path = text_join_path(directory, name);
    Status status = cut_back(path, step);
    if (!status_failed(status)) {
        *file = fopen(path, "ae");
        if (!*file)
            status = status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    }
    memory_free(&path);
    return status;
}

Status metrics_open(Metrics *metrics, const char *directory, int rank, int64_t step)
{
    *metrics = (Metrics){0};
    if (rank != 0)
        return status_ok();
    Status status = open_file(directory, "metrics.jsonl", step, &metrics->metrics);
    if (!status_failed(status))
        status = open_file(directory, "timings.jsonl", step, &metrics->timings);
    if (status_failed(status))
        metrics_close(metrics);
    else
        text_reserve(&metrics->line,
                     LINE_BYTES); /* what a line takes depends on the clock: no step may have to grow it */
    return status;
}

void metrics_close(Metrics *metrics)
{
    if (metrics->metrics)
        fclose(metrics->metrics);
    if (metrics->timings)
        fclose(metrics->timings);
    text_free(&metrics->line);
    *metrics = (Metrics){0};
}

/* A JSON string; bytes that are no UTF-8 become U+FFFD. */
static void append_string(Text *line, const char *string)
{
    size_t size = strlen(string);
    text_append(line, "\"", 1);
    for (size_t at = 0; at < size;) {
        unsigned char byte = (unsigned char)string[at];
        size_t length = text_utf8_length(string + at, size - at);
        if (!length)
            text_append_string(line, "\\ufffd");
        else if (byte == '"' || byte == '\\')
            text_printf(line, "\\%c", byte);
        else if (byte < 0x20 || byte == 0x7f)
            text_printf(line, "\\u%04x", byte);
        else
            text_append(line, string + at, length);
        at += length ? length : 1;
    }
    text_append(line, "\"", 1);
}

static void append_name(Text *line, const char *name)
{
    text_append(line, ",", 1);
    append_string(line, name);
    text_append(line, ":", 1);
}

static void append_number(Text *line, double value)
{
    if (isfinite(value))
        text_printf(line, "%.17g", value);
    else
        text_append_string(line, "null");
}

static Status write_line(FILE *file, Text *line, const char *name)
{
    text_append_string(line, "}\n");
    if (fwrite(line->bytes, 1, line->size, file) != line->size || fflush(file) != 0)
        return status_error(STATUS_IO, "%s: cannot write: %s", name, strerror(errno));
    return status_ok();
}

void metrics_begin(Metrics *metrics, int64_t step, const char *phase)
{
    if (!metrics->metrics)
        return;
    text_clear(&metrics->line);
    text_printf(&metrics->line, "%s%" PRId64, step_field, step);
    metrics_text(metrics, "phase", phase);
}

void metrics_number(Metrics *metrics, const char *name, double value)
{
    if (!metrics->metrics)
        return;
    append_name(&metrics->line, name);
    append_number(&metrics->line, value);
}

void metrics_text(Metrics *metrics, const char *name, const char *value)
{
    if (!metrics->metrics)
        return;
    append_name(&metrics->line, name);
    append_string(&metrics->line, value);
}

Status metrics_end(Metrics *metrics)
{
    if (!metrics->metrics)
        return status_ok();
    return write_line(metrics->metrics, &metrics->line, "metrics.jsonl");
}

Status metrics_timings(Metrics *metrics, int64_t step, const PhaseTimer *timer)
{
    if (!metrics->timings)
        return status_ok();
    Text *line = &metrics->line;
    text_clear(line);
    text_printf(line, "%s%" PRId64 ",\"phases\":{", step_field, step);
    double total = 0.0;
    for (int i = 0; i < timer->count; i++) {
        double seconds = timer->phase[i].seconds, tokens = timer->phase[i].tokens;
        total += seconds;
        if (i)
            text_append(line, ",", 1);
        append_string(line, timer->phase[i].name);
        text_printf(line, ":{\"seconds\":%.6f", seconds);
        if (tokens > 0.0)
            text_printf(line, ",\"tokens\":%.0f,\"tokens_per_second\":%.6g", tokens,
                        seconds > 0.0 ? tokens / seconds : 0.0);
        text_printf(line, ",\"allocations\":%" PRIu64, timer->phase[i].allocations);
        text_append(line, "}", 1);
    }
    text_printf(line, "},\"seconds\":%.6f", total);
    return write_line(metrics->timings, line, "timings.jsonl");
}
