/* text.c -- byte strings, and files that are whole or absent. */
#include "core/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"

void text_reserve(Text *text, size_t extra)
{
    REQUIRE(extra < SIZE_MAX / 2 - text->size, "text of %zu bytes cannot grow by %zu", text->size, extra);
    size_t wanted = text->size + extra + 1;
    if (wanted <= text->capacity)
        return;
    size_t capacity = text->capacity ? text->capacity : 64;
    while (capacity < wanted)
        capacity *= 2;
    text->bytes = memory_resize(text->bytes, capacity, 1);
    text->capacity = capacity;
}

void text_append(Text *text, const void *bytes, size_t size)
{
    text_reserve(text, size);
    if (size)
        memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = 0;
}

void text_append_string(Text *text, const char *string)
{
    text_append(text, string, strlen(string));
}

void text_vprintf(Text *text, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    REQUIRE(length >= 0, "format '%s' cannot be printed", format);
    text_reserve(text, (size_t)length);
    vsnprintf(text->bytes + text->size, (size_t)length + 1, format, arguments);
    text->size += (size_t)length;
}

void text_printf(Text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    text_vprintf(text, format, arguments);
    va_end(arguments);
}

void text_append_float(Text *text, float value)
{
    char digits[32];
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value)
            break;
    }
    text_append_string(text, digits);
}

void text_clear(Text *text)
{
    text->size = 0;
    if (text->bytes)
        text->bytes[0] = 0;
}

void text_free(Text *text)
{
    memory_free(&text->bytes);
    *text = (Text){0};
}

const char *text_string(const Text *text)
{
    return text->bytes ? text->bytes : "";
}

bool text_starts_with(const char *string, const char *prefix)
{
    return strncmp(string, prefix, strlen(prefix)) == 0;
}

bool text_ends_with(const char *string, const char *suffix)
{
    size_t length = strlen(string), tail = strlen(suffix);
    return length >= tail && memcmp(string + length - tail, suffix, tail) == 0;
}

/* Levenshtein's distance, one row at a time. `row` has room for strlen(b) + 1. */
static size_t edit_distance(const char *a, const char *b, size_t *row)
{
    size_t columns = strlen(b);
    for (size_t j = 0; j <= columns; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            size_t above = row[j];
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best)
                best = above + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = above;
            row[j] = best;
        }
    }
    return row[columns];
}

const char *text_nearest(const char *key, const char *const *candidates, size_t count)
{
    size_t limit = (strlen(key) + 2) / 3; /* a third, rounded up: one letter of a short key may be wrong */
    size_t best = limit + 1;
    const char *nearest = NULL;
    for (size_t i = 0; i < count; i++) {
        size_t *row = memory_new(strlen(candidates[i]) + 1, sizeof *row);
        size_t distance = edit_distance(key, candidates[i], row);
        if (distance < best) {
            best = distance;
            nearest = candidates[i];
        }
        memory_free(&row);
    }
    return nearest;
}

size_t text_utf8_length(const char *bytes, size_t size)
{
    const unsigned char *at = (const unsigned char *)bytes;
    if (size == 0)
        return 0;
    if (at[0] < 0x80)
        return 1;
    size_t length = at[0] >= 0xC2 && at[0] <= 0xDF   ? 2
                    : at[0] >= 0xE0 && at[0] <= 0xEF ? 3
                    : at[0] >= 0xF0 && at[0] <= 0xF4 ? 4
                                                     : 0;
    if (length == 0 || length > size)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    /* Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF. */
    if ((at[0] == 0xE0 && at[1] < 0xA0) || (at[0] == 0xED && at[1] > 0x9F) || (at[0] == 0xF0 && at[1] < 0x90) ||
        (at[0] == 0xF4 && at[1] > 0x8F))
        return 0;
    return length;
}

enum { RING_ENTRIES = 16, RING_BYTES = 48 };

static char *ring_next(void)
{
    static _Thread_local char ring[RING_ENTRIES][RING_BYTES];
    static _Thread_local unsigned next;
    return ring[next++ % RING_ENTRIES];
}

static const char *scaled(double value, double unit, const char *const *names, size_t names_count, const char *gap)
{
    size_t scale = 0;
    while (scale + 1 < names_count && fabs(value) >= unit * (scale ? 0.99995 : 1.0)) {
        value /= unit;
        scale++;
    }
    char *result = ring_next();
    if (scale == 0)
        snprintf(result, RING_BYTES, "%.*f%s%s", value == floor(value) ? 0 : 1, value, gap, names[0]);
    else
        snprintf(result, RING_BYTES, "%.1f%s%s", value, gap, names[scale]);
    return result;
}

const char *text_bytes(double bytes)
{
    static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    return scaled(bytes, 1024.0, names, sizeof names / sizeof *names, " ");
}

const char *text_count(double count)
{
    static const char *const names[] = {"", "k", "M", "G", "T", "P"};
    return scaled(count, 1000.0, names, sizeof names / sizeof *names, "");
}

const char *text_duration(double seconds)
{
    char *result = ring_next();
    if (!(seconds >= 0.0 && seconds < 1e12)) {
        snprintf(result, RING_BYTES, "?");
        return result;
    }
    long long whole = (long long)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(result, RING_BYTES, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(result, RING_BYTES, "%lld:%02lld", whole / 60, whole % 60);
    return result;
}

Status text_read_file(const char *path, size_t size_max, Text *text)
{
    text_clear(text);
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (file < 0)
        return status_error(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    Status status = status_ok();
    struct stat info;
    if (fstat(file, &info) != 0)
        status = status_error(STATUS_IO, "%s: cannot stat: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = status_error(STATUS_INPUT, "%s: expected a regular file, found %s", path,
                              S_ISDIR(info.st_mode) ? "a directory" : "a device, pipe or socket");
    else if ((uintmax_t)info.st_size > size_max)
        status = status_error(STATUS_INPUT, "%s: %lld bytes, more than the %zu that such a file may have", path,
                              (long long)info.st_size, size_max);
    else
        text_reserve(text, (size_t)info.st_size);
    while (!status_failed(status)) { /* until end of file: the size may have changed, and /proc says 0 */
        text_reserve(text, 4096);
        ssize_t got = read(file, text->bytes + text->size, text->capacity - text->size - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = status_error(STATUS_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got <= 0)
            break;
        text->size += (size_t)got;
        if (text->size > size_max)
            status =
                status_error(STATUS_INPUT, "%s: more than the %zu bytes that such a file may have", path, size_max);
    }
    close(file);
    if (status_failed(status))
        text_clear(text);
    else
        text->bytes[text->size] = 0;
    return status;
}

static bool write_all(int file, const char *bytes, size_t size)
{
    while (size) {
        ssize_t written = write(file, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

/* The new name is durable only when its directory is. */
static Status sync_directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    Text directory = {0};
    if (!slash)
        text_append_string(&directory, ".");
    else
        text_append(&directory, path, slash == path ? 1 : (size_t)(slash - path));
    Status status = status_ok();
    int file = open(directory.bytes, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0)
        status = status_error(STATUS_IO, "%s: cannot open: %s", directory.bytes, strerror(errno));
    else if (fsync(file) != 0 && errno != EINVAL && errno != ENOTSUP) /* some network file systems cannot */
        status = status_error(STATUS_IO, "%s: cannot sync: %s", directory.bytes, strerror(errno));
    if (file >= 0)
        close(file);
    text_free(&directory);
    return status;
}

Status text_write_file(const char *path, const void *bytes, size_t size)
{
    Status status = status_ok();
    Text temporary = {0};
    text_printf(&temporary, "%s.%ld.tmp", path, (long)getpid());
    int file = open(temporary.bytes, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0) {
        status = status_error(STATUS_IO, "%s: cannot create: %s", temporary.bytes, strerror(errno));
        text_free(&temporary);
        return status;
    }
    if (!write_all(file, bytes, size) || fsync(file) != 0)
        status = status_error(STATUS_IO, "%s: cannot write %zu bytes: %s", path, size, strerror(errno));
    if (close(file) != 0 && !status_failed(status)) /* where a quota of a network file system shows */
        status = status_error(STATUS_IO, "%s: cannot close: %s", path, strerror(errno));
    if (!status_failed(status) && rename(temporary.bytes, path) != 0)
        status = status_error(STATUS_IO, "%s: cannot rename the finished file to this name: %s", path, strerror(errno));
    if (status_failed(status))
        unlink(temporary.bytes);
    else
        status = sync_directory_of(path);
    text_free(&temporary);
    return status;
}

Status text_make_directories(const char *path)
{
    Status status = status_ok();
    char *partial = memory_strdup(path);
    for (char *at = partial;; at++) {
        if (*at != '/' && *at != 0)
            continue;
        char ended_by = *at;
        *at = 0;
        struct stat info;
        if (*partial && mkdir(partial, 0777) != 0 &&
            !(errno == EEXIST && stat(partial, &info) == 0 && S_ISDIR(info.st_mode))) {
            status = status_error(STATUS_IO, "%s: cannot make the directory: %s", partial, strerror(errno));
            break;
        }
        *at = ended_by;
        if (!ended_by)
            break;
    }
    memory_free(&partial);
    return status;
}

char *text_join_path(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    while (length > 1 && directory[length - 1] == '/')
        length--;
    while (*name == '/')
        name++;
    Text path = {0};
    text_append(&path, directory, length);
    if (length && directory[length - 1] != '/')
        text_append_string(&path, "/");
    text_append_string(&path, name);
    return path.bytes;
}
