/* json.h -- JSON as the data sets and tokenizers need it: a thin layer over jansson that always knows where it is.
 *
 * Why:   jansson parses and validates; what it lacks is a stream of records that may be a JSONL file or one big JSON
 *        array, limits that hold for a stranger's file, and errors that name path, line and key.
 * Rules: every error reads "path:line: what was expected, what was found". Nothing here aborts on any input. A value
 *        handed out by a reader is borrowed until the next json_reader_next() (json_incref it to keep it).
 *        Duplicate keys in one object and invalid UTF-8 are errors; "\u0000" inside strings is allowed, so strings have
 *        sizes. Nesting deeper than jansson's limit (2048) is an error. */
#ifndef CORE_DATA_JSON_H
#define CORE_DATA_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/text.h"

enum { JSON_RECORD_BYTES_MAX = 256 << 20 }; /* one record of a stream */

/* Where a value came from; printed as "path:line: " ("path: " when line is 0). `path` is borrowed. */
typedef struct JsonPlace {
    const char *path;
    int64_t line;
} JsonPlace;

/* A file that is one JSON value. In a file with an integer beyond 64 bits all integers are read as reals. *value is owned by the caller (json_decref). [local] */
Status json_read_file(const char *path, size_t size_max, json_t **value);
/* The same from memory; `path` is for messages. */
Status json_read_bytes(const char *path, const void *bytes, size_t size, json_t **value);
/* `value` as compact JSON in the order its keys were inserted; appended to `text`. */
void json_append(Text *text, const json_t *value);
/* A new real with the fewest digits that give the float back: 0.1f is 0.1 in a file, not 0.10000000149011612. */
json_t *json_float(float value);

/* --- A stream of records: JSONL (one value per line, blank lines skipped) or the elements of one JSON array.
 * Which of the two is read from the first byte that is not a space (a byte order mark is skipped): '[' is an array.
 * A JSONL file whose first record is itself an array is therefore read as one array. Files are read in pieces; memory is
 * one record. */
typedef struct JsonReader JsonReader;
/* `path` "-" is standard input. [local] */
Status json_reader_open(JsonReader **reader, const char *path);
/* The next record, or *value == NULL at the end. After an error the reader only repeats STATUS_INPUT. */
Status json_reader_next(JsonReader *reader, json_t **value);
/* Path and line (from 1) at which the current record starts. */
JsonPlace json_reader_place(const JsonReader *reader);
/* Records handed out so far. */
int64_t json_reader_count(const JsonReader *reader);
/* NULL is ignored; *reader becomes NULL. */
void json_reader_close(JsonReader **reader);

/* --- Typed getters. `need` JSON_REQUIRED: a missing key is an error. JSON_OPTIONAL: a missing key or null leaves the
 * output as it was, so set the default first. A value of another type is an error either way, with the place, the key,
 * what was expected and what was found. Strings, arrays and objects are borrowed from `object`. */
typedef enum JsonNeed { JSON_REQUIRED, JSON_OPTIONAL } JsonNeed;

/* `object` itself must be an object. */
Status json_check_object(JsonPlace place, const json_t *object);
/* size may be NULL only if a string with a zero byte inside should be an error. */
Status json_get_string(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const char **value,
                       size_t *size);
/* A real without a fraction, up to 2^53, is taken as an integer. */
Status json_get_int64(JsonPlace place, const json_t *object, const char *key, JsonNeed need, int64_t *value);
/* Integers are taken as numbers too. */
Status json_get_double(JsonPlace place, const json_t *object, const char *key, JsonNeed need, double *value);
Status json_get_bool(JsonPlace place, const json_t *object, const char *key, JsonNeed need, bool *value);
Status json_get_array(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const json_t **value);
Status json_get_object(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const json_t **value);
/* The key is there and is not null. */
bool json_has(const json_t *object, const char *key);
/* "string", "array", ... of a value; "nothing" for NULL. */
const char *json_type_name(const json_t *value);
/* STATUS_INPUT with "path:line: " in front. */
Status json_error(JsonPlace place, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
