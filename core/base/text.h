/* text.h -- a growing byte string, and the few string questions the program asks. */
#ifndef CORE_BASE_TEXT_H
#define CORE_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

/* Invariant: bytes[size] == 0 once anything was appended; may hold zero bytes before that. {0} is an empty Text. */
typedef struct Text {
    char *bytes;
    size_t size, capacity;
} Text;

/* Room for `extra` more bytes. */
void text_reserve(Text *text, size_t extra);
void text_append(Text *text, const void *bytes, size_t size);
void text_append_string(Text *text, const char *string);
void text_printf(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_vprintf(Text *text, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
/* The shortest decimal form that reads back as the same float: 1e-05, not 9.99999975e-06. `value` is finite. */
void text_append_float(Text *text, float value);
void text_clear(Text *text);
void text_free(Text *text);
/* Never NULL. */
const char *text_string(const Text *text);

bool text_starts_with(const char *string, const char *prefix);
bool text_ends_with(const char *string, const char *suffix);
/* The candidate with the smallest edit distance, or NULL if none is within a third of the key's length (rounded up). */
const char *text_nearest(const char *key, const char *const *candidates, size_t count);
/* Length of the UTF-8 sequence at `bytes` (1..4), or 0 if it is malformed or cut off by `size`. */
size_t text_utf8_length(const char *bytes, size_t size);
/* "1.5 GiB", "12.3k"; the result is a fresh entry of a small ring of static buffers per thread. */
const char *text_bytes(double bytes);
const char *text_count(double count);
/* "1:02:03", "0:41"; "?" for what is no duration. */
const char *text_duration(double seconds);

/* The whole of a regular file, in place of what `text` held. size_max guards against reading a disk; errors name the
 * path. [local] */
Status text_read_file(const char *path, size_t size_max, Text *text);
/* Write to `path` whole or not at all: temporary name (PATH.PID.tmp), fsync, rename, fsync of the directory. [local] */
Status text_write_file(const char *path, const void *bytes, size_t size);
/* mkdir -p. Errors name the directory that could not be made. [local] */
Status text_make_directories(const char *path);
/* "a/b": joins with exactly one slash into a new string (memory_free it). */
char *text_join_path(const char *directory, const char *name);

#endif
