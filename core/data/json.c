/* json.c -- whole JSON files, typed getters, and the errors of both. The stream of records is json_reader.c. */
#include "core/data/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

enum { PARSE_FLAGS = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY };

Status json_error(JsonPlace place, const char *format, ...)
{
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (place.line > 0)
        return status_error(STATUS_INPUT, "%s:%" PRId64 ": %s", place.path, place.line, message);
    return status_error(STATUS_INPUT, "%s: %s", place.path, message);
}

const char *json_type_name(const json_t *value)
{
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "boolean";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

/* --- Whole files -------------------------------------------------------------------------------------------------*/

Status json_read_bytes(const char *path, const void *bytes, size_t size, json_t **value)
{
    json_error_t error;
    *value = json_loadb(bytes, size, PARSE_FLAGS, &error);
    if (!*value && json_error_code(&error) == json_error_numeric_overflow) /* Hugging Face writes int(1e30) */
        *value = json_loadb(bytes, size, PARSE_FLAGS | JSON_DECODE_INT_AS_REAL, &error);
    if (!*value)
        return json_error((JsonPlace){path, error.line > 0 ? error.line : 1}, "expected JSON: %s (column %d)",
                          error.text, error.column);
    return status_ok();
}

Status json_read_file(const char *path, size_t size_max, json_t **value)
{
    *value = NULL;
    Text text = {0};
    Status status = text_read_file(path, size_max, &text);
    if (!status_failed(status))
        status = json_read_bytes(path, text_string(&text), text.size, value);
    text_free(&text);
    return status;
}

static int append_piece(const char *bytes, size_t size, void *text)
{
    text_append(text, bytes, size);
    return 0;
}

enum {
    DIGITS_DECIMAL = 15,
    DIGITS_DOUBLE = 17
}; /* any decimal of 15 digits survives a double; any double, 17 digits */

/* Do all reals in `value` come back from `digits` digits? */
static bool reals_fit(const json_t *value, int digits)
{
    const char *key;
    json_t *item;
    if (json_is_real(value)) {
        char text[32];
        snprintf(text, sizeof text, "%.*g", digits, json_real_value(value));
        return strtod(text, NULL) == json_real_value(value);
    }
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!reals_fit(json_array_get(value, i), digits))
            return false;
    json_object_foreach((json_t *)value, key, item)
    {
        if (!reals_fit(item, digits))
            return false;
    }
    return true;
}

void json_append(Text *text, const json_t *value)
{
    /* 0.1 that was read is 0.1 again, not 0.10000000000000001. */
    size_t precision = reals_fit(value, DIGITS_DECIMAL) ? DIGITS_DECIMAL : DIGITS_DOUBLE;
    int failed =
        json_dump_callback(value, append_piece, text,
                           JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(precision));
    REQUIRE(!failed, "a value that is no JSON");
}

json_t *json_float(float value)
{
    char digits[32];
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)value);
        if (strtof(digits, NULL) == value)
            break;
    }
    return json_real(strtod(digits, NULL));
}

/* --- Getters -----------------------------------------------------------------------------------------------------*/

Status json_check_object(JsonPlace place, const json_t *object)
{
    if (!json_is_object(object))
        return json_error(place, "expected an object, found %s", json_type_name(object));
    return status_ok();
}

bool json_has(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value);
}

/* *value == NULL: optional and absent. */
static Status find(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const json_t **value)
{
    *value = NULL;
    TRY(json_check_object(place, object));
    *value = json_object_get(object, key);
    if (need == JSON_OPTIONAL && (!*value || json_is_null(*value)))
        *value = NULL;
    else if (!*value)
        return json_error(place, "key \"%s\" is missing", key);
    return status_ok();
}

static Status wrong_type(JsonPlace place, const char *key, const char *expected, const json_t *found)
{
    return json_error(place, "key \"%s\": expected %s, found %s", key, expected, json_type_name(found));
}

Status json_get_string(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const char **value,
                       size_t *size)
{
    const json_t *found;
    TRY(find(place, object, key, need, &found));
    if (!found)
        return status_ok();
    if (!json_is_string(found))
        return wrong_type(place, key, "a string", found);
    if (!size && strlen(json_string_value(found)) != json_string_length(found))
        return json_error(place, "key \"%s\": a zero byte (\\u0000) cannot stand here", key);
    *value = json_string_value(found);
    if (size)
        *size = json_string_length(found);
    return status_ok();
}

Status json_get_int64(JsonPlace place, const json_t *object, const char *key, JsonNeed need, int64_t *value)
{
    const json_t *found;
    TRY(find(place, object, key, need, &found));
    if (!found)
        return status_ok();
    double real = json_real_value(found);
    bool whole = json_is_real(found) && fabs(real) <= 0x1p53 && real == floor(real);
    if (!json_is_integer(found) && !whole)
        return wrong_type(place, key, "an integer", found);
    *value = whole ? (int64_t)real : json_integer_value(found);
    return status_ok();
}

Status json_get_double(JsonPlace place, const json_t *object, const char *key, JsonNeed need, double *value)
{
    const json_t *found;
    TRY(find(place, object, key, need, &found));
    if (!found)
        return status_ok();
    if (!json_is_number(found))
        return wrong_type(place, key, "a number", found);
    *value = json_number_value(found);
    return status_ok();
}

Status json_get_bool(JsonPlace place, const json_t *object, const char *key, JsonNeed need, bool *value)
{
    const json_t *found;
    TRY(find(place, object, key, need, &found));
    if (!found)
        return status_ok();
    if (!json_is_boolean(found))
        return wrong_type(place, key, "true or false", found);
    *value = json_is_true(found);
    return status_ok();
}

Status json_get_array(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const json_t **value)
{
    const json_t *found;
    TRY(find(place, object, key, need, &found));
    if (!found)
        return status_ok();
    if (!json_is_array(found))
        return wrong_type(place, key, "an array", found);
    *value = found;
    return status_ok();
}

Status json_get_object(JsonPlace place, const json_t *object, const char *key, JsonNeed need, const json_t **value)
{
    const json_t *found;
    TRY(find(place, object, key, need, &found));
    if (!found)
        return status_ok();
    if (!json_is_object(found))
        return wrong_type(place, key, "an object", found);
    *value = found;
    return status_ok();
}
