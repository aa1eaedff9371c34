/* json_reader.c -- a stream of records from a JSONL file or one JSON array, holding one record at a time.
 *
 * How:   the reader itself only finds where a record ends: a newline in JSONL; in an array, the bracket that closes it,
 *        counted outside strings. What stands in between goes to jansson, which does the judging. */
#include "core/data/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"

typedef enum Shape { SHAPE_UNKNOWN, SHAPE_LINES, SHAPE_ARRAY, SHAPE_ENDED } Shape;

struct JsonReader {
    char *path;
    FILE *file;
    Shape shape;
    bool failed;
    char buffer[1 << 16]; /* bytes read ahead */
    size_t at, filled;
    int64_t line;        /* of the next byte, from 1 */
    int64_t record_line; /* where the current record starts */
    int64_t count;
    Text record;
    json_t *value;
};

Status json_reader_open(JsonReader **reader, const char *path)
{
    *reader = NULL;
    bool standard_input = strcmp(path, "-") == 0;
    FILE *file = standard_input ? stdin : fopen(path, "rb");
    if (!file)
        return status_error(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    JsonReader *self = memory_new(1, sizeof *self);
    self->path = memory_strdup(standard_input ? "standard input" : path);
    self->file = file;
    self->line = self->record_line = 1;
    *reader = self;
    return status_ok();
}

void json_reader_close(JsonReader **reader)
{
    JsonReader *self = *reader;
    if (!self)
        return;
    json_decref(self->value);
    if (self->file != stdin)
        fclose(self->file);
    text_free(&self->record);
    memory_free(&self->path);
    memory_free(reader);
}

JsonPlace json_reader_place(const JsonReader *reader)
{
    return (JsonPlace){reader->path, reader->record_line};
}

int64_t json_reader_count(const JsonReader *reader)
{
    return reader->count;
}

/* The next byte without taking it; -1 at the end. */
static int peek(JsonReader *reader)
{
    if (reader->at == reader->filled) {
        reader->at = 0;
        reader->filled = fread(reader->buffer, 1, sizeof reader->buffer, reader->file);
        if (!reader->filled)
            return -1;
    }
    return (unsigned char)reader->buffer[reader->at];
}

static void take(JsonReader *reader)
{
    reader->line += reader->buffer[reader->at] == '\n';
    reader->at++;
}

static bool is_space(int byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static int peek_past_space(JsonReader *reader)
{
    int byte;
    while (is_space(byte = peek(reader)))
        take(reader);
    return byte;
}

static Status too_long(const JsonReader *reader)
{
    return json_error(json_reader_place(reader), "a record longer than %s", text_bytes(JSON_RECORD_BYTES_MAX));
}

/* The rest of the line into reader->record. */
static Status collect_line(JsonReader *reader)
{
    while (peek(reader) >= 0) {
        const char *from = reader->buffer + reader->at;
        size_t left = reader->filled - reader->at;
        const char *end = memchr(from, '\n', left);
        size_t size = end ? (size_t)(end - from) : left;
        if (reader->record.size + size > JSON_RECORD_BYTES_MAX)
            return too_long(reader);
        text_append(&reader->record, from, size);
        reader->at += size;
        if (end) {
            take(reader);
            break;
        }
    }
    return status_ok();
}

/* One element of an array into reader->record, without the comma or bracket after it. */
static Status collect_element(JsonReader *reader)
{
    int64_t depth = 0;
    bool in_string = false, escaped = false;
    for (;;) {
        int byte = peek(reader);
        if (byte < 0)
            return json_error(json_reader_place(reader), "the file ends inside a record (truncated?)");
        if (!in_string && depth == 0 && (byte == ',' || byte == ']' || byte == '}'))
            return status_ok();
        char letter = (char)byte;
        if (reader->record.size >= JSON_RECORD_BYTES_MAX)
            return too_long(reader);
        text_append(&reader->record, &letter, 1);
        take(reader);
        if (in_string) {
            in_string = escaped || byte != '"';
            escaped = !escaped && byte == '\\';
            if (!in_string && depth == 0)
                return status_ok();
        } else if (byte == '"') {
            in_string = true;
        } else if (byte == '{' || byte == '[') {
            depth++;
        } else if (byte == '}' || byte == ']') {
            if (--depth <= 0)
                return status_ok();
        }
    }
}

/* Finds out the shape; leaves the reader at the first record. */
static Status start(JsonReader *reader)
{
    if (peek(reader) == 0xEF) {
        static const unsigned char mark[3] = {0xEF, 0xBB, 0xBF};
        for (int i = 0; i < 3; i++) {
            if (peek(reader) != mark[i])
                return json_error(json_reader_place(reader), "expected JSON, found byte 0x%02x", peek(reader) & 0xFF);
            take(reader);
        }
    }
    if (peek_past_space(reader) != '[') {
        reader->shape = SHAPE_LINES;
        return status_ok();
    }
    take(reader);
    reader->shape = SHAPE_ARRAY;
    return status_ok();
}

/* At the end of an array nothing but space may follow. */
static Status end_array(JsonReader *reader)
{
    take(reader);
    reader->shape = SHAPE_ENDED;
    if (peek_past_space(reader) >= 0) {
        reader->record_line = reader->line;
        return json_error(json_reader_place(reader), "expected the end of the file after the array's ']'");
    }
    return status_ok();
}

/* reader->record is the next record, or empty at the end. */
static Status collect(JsonReader *reader)
{
    text_clear(&reader->record);
    if (reader->shape == SHAPE_UNKNOWN)
        TRY(start(reader));
    if (reader->shape == SHAPE_ENDED)
        return status_ok();
    int byte = peek_past_space(reader);
    reader->record_line = reader->line;
    if (reader->shape == SHAPE_LINES) {
        if (byte < 0)
            reader->shape = SHAPE_ENDED;
        return byte < 0 ? status_ok() : collect_line(reader);
    }
    if (byte == ']' && reader->count == 0)
        return end_array(reader);
    if (reader->count > 0) {
        if (byte == ']')
            return end_array(reader);
        if (byte != ',')
            return json_error(json_reader_place(reader), "expected ',' or ']' after a record, found %s",
                              byte < 0 ? "the end of the file (truncated?)" : "something else");
        take(reader);
        byte = peek_past_space(reader);
        reader->record_line = reader->line;
    }
    TRY(collect_element(reader));
    if (!reader->record.size)
        return json_error(json_reader_place(reader), "expected a record, found '%c'", peek(reader));
    return status_ok();
}

static Status parse(JsonReader *reader)
{
    json_error_t error;
    reader->value = json_loadb(text_string(&reader->record), reader->record.size,
                               JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (reader->value)
        return status_ok();
    JsonPlace place = {reader->path, reader->record_line + (error.line > 1 ? error.line - 1 : 0)};
    return json_error(place, "expected JSON: %s (column %d)", error.text, error.column);
}

Status json_reader_next(JsonReader *reader, json_t **value)
{
    *value = NULL;
    json_decref(reader->value);
    reader->value = NULL;
    if (reader->failed)
        return json_error(json_reader_place(reader), "this file could not be read any further");
    Status status = collect(reader);
    if (ferror(reader->file))
        status = status_error(STATUS_IO, "%s: cannot read: %s", reader->path, strerror(errno));
    if (!status_failed(status) && reader->record.size)
        status = parse(reader);
    reader->failed = status_failed(status);
    if (reader->failed || !reader->value)
        return status;
    reader->count++;
    *value = reader->value;
    return status_ok();
}
