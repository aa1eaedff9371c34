/* dataset_records.c -- a data file as a stream of JSON values: JSONL and JSON arrays as they are, lines of text and
 * rated lines dressed as {"text"} and {"rating", "text"}, so that all formats have one reader. */
#include "core/data/dataset_parts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

enum { LINE_BYTES_MAX = JSON_RECORD_BYTES_MAX, WHOLE_BYTES_MAX = 1 << 29 };

struct RecordReader {
    RecordShape shape;
    char *path;
    JsonReader *json;
    FILE *file;
    int64_t line;
    char *buffer;
    size_t capacity;
    json_t *record;
    int rating_column; /* RATED_LINES: -1 until the first line was seen */
    bool ended;
};

static bool is_json_name(const char *path)
{
    return text_ends_with(path, ".json") || text_ends_with(path, ".jsonl");
}

RecordShape record_shape(const DataSource *source)
{
    bool json = is_json_name(source->path);
    if (source->whole)
        return RECORD_WHOLE;
    if (source->format == DATA_RATED && !json)
        return RECORD_RATED_LINES;
    if (source->format == DATA_TEXT && !json)
        return RECORD_TEXT_LINES;
    if (source->format == DATA_AUTO && text_ends_with(source->path, ".tsv"))
        return RECORD_RATED_LINES;
    if (source->format == DATA_AUTO && text_ends_with(source->path, ".txt"))
        return RECORD_TEXT_LINES;
    return RECORD_JSON;
}

Status record_reader_open(RecordReader **result, const DataSource *source)
{
    *result = NULL;
    RecordReader *reader = memory_new(1, sizeof *reader);
    reader->shape = record_shape(source);
    reader->path = memory_strdup(source->path);
    reader->rating_column = -1;
    Status status = status_ok();
    if (reader->shape == RECORD_JSON) {
        status = json_reader_open(&reader->json, source->path);
    } else {
        reader->file = fopen(source->path, "rb");
        if (!reader->file)
            status = status_error(STATUS_IO, "%s: cannot open: %s", source->path, strerror(errno));
    }
    if (status_failed(status))
        record_reader_close(&reader);
    *result = reader;
    return status;
}

void record_reader_close(RecordReader **address)
{
    RecordReader *reader = *address;
    if (!reader)
        return;
    json_reader_close(&reader->json);
    if (reader->file)
        fclose(reader->file);
    json_decref(reader->record);
    free(reader->buffer); /* getline's */
    memory_free(&reader->path);
    memory_free(address);
}

static Status text_value(JsonPlace place, const char *text, size_t size, json_t **value)
{
    *value = json_stringn(text, size);
    return *value ? status_ok() : json_error(place, "the text is not valid UTF-8");
}

/* A field of a rated line that is a finite number and nothing else. */
static bool field_number(const char *from, const char *to, double *value)
{
    char copy[64];
    size_t size = (size_t)(to - from);
    if (size == 0 || size >= sizeof copy)
        return false;
    memcpy(copy, from, size);
    copy[size] = 0;
    char *end;
    *value = strtod(copy, &end);
    return end == copy + size && isfinite(*value);
}

/* "rating<TAB>text" or "id<TAB>rating<TAB>text"; the first line decides which for the whole file. */
static Status rated_line(RecordReader *reader, JsonPlace place, const char *line, size_t size, json_t **record)
{
    const char *end = line + size, *column = line, *tab = memchr(line, '\t', size);
    double rating = 0;
    if (reader->rating_column < 0) {
        const char *second = tab ? memchr(tab + 1, '\t', (size_t)(end - tab - 1)) : NULL;
        reader->rating_column = second && field_number(tab + 1, second, &rating) ? 1 : 0;
    }
    if (reader->rating_column == 1 && tab) {
        column = tab + 1;
        tab = memchr(column, '\t', (size_t)(end - column));
    }
    if (!tab)
        return json_error(place, "expected %srating<TAB>text, found a line without %s",
                          reader->rating_column ? "id<TAB>" : "", reader->rating_column ? "two tabs" : "a tab");
    if (!field_number(column, tab, &rating))
        return json_error(place, "expected a number as rating, found '%.*s'",
                          tab - column < 40 ? (int)(tab - column) : 40, column);
    json_t *text;
    TRY(text_value(place, tab + 1, (size_t)(end - tab - 1), &text));
    *record = json_pack("{s:f, s:o}", "rating", rating, "text", text);
    return status_ok();
}

static Status line_next(RecordReader *reader, JsonPlace *place)
{
    for (;;) {
        ssize_t got = getline(&reader->buffer, &reader->capacity, reader->file);
        if (got < 0) {
            if (ferror(reader->file))
                return status_error(STATUS_IO, "%s: cannot read: %s", reader->path, strerror(errno));
            return status_ok();
        }
        *place = (JsonPlace){reader->path, ++reader->line};
        const char *line = reader->buffer;
        size_t size = (size_t)got;
        if (size > LINE_BYTES_MAX)
            return json_error(*place, "a line longer than %s", text_bytes(LINE_BYTES_MAX));
        if (reader->line == 1 && size >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
            line += 3;
            size -= 3;
        }
        while (size && (line[size - 1] == '\n' || line[size - 1] == '\r'))
            size--;
        if (strspn(line, " \t\r\n") >= size && !memchr(line, 0, size))
            continue;
        if (reader->shape == RECORD_RATED_LINES)
            return rated_line(reader, *place, line, size, &reader->record);
        json_t *text;
        TRY(text_value(*place, line, size, &text));
        reader->record = json_pack("{s:o}", "text", text);
        return status_ok();
    }
}

static Status whole_next(RecordReader *reader, JsonPlace *place)
{
    if (reader->ended)
        return status_ok();
    reader->ended = true;
    Text text = {0};
    *place = (JsonPlace){reader->path, 1};
    Status status = text_read_file(reader->path, WHOLE_BYTES_MAX, &text);
    json_t *value = NULL;
    if (!status_failed(status))
        status = text_value(*place, text_string(&text), text.size, &value);
    if (!status_failed(status))
        reader->record = json_pack("{s:o}", "text", value);
    text_free(&text);
    return status;
}

Status record_reader_next(RecordReader *reader, const json_t **record, JsonPlace *place)
{
    *record = NULL;
    if (reader->shape == RECORD_JSON) {
        json_t *value;
        TRY(json_reader_next(reader->json, &value));
        *record = value;
        *place = json_reader_place(reader->json);
        return status_ok();
    }
    json_decref(reader->record);
    reader->record = NULL;
    TRY(reader->shape == RECORD_WHOLE ? whole_next(reader, place) : line_next(reader, place));
    *record = reader->record;
    return status_ok();
}
