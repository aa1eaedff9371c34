/* value.c -- one value of one row: checks of type, range and choices, and the one spelling that digests see. */
#include "core/config/value.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

bool value_type_is_list(ConfigType type)
{
    return type == CONFIG_INT_LIST || type == CONFIG_FLOAT_LIST || type == CONFIG_STRING_LIST ||
           type == CONFIG_PATH_LIST;
}

bool value_type_is_path(ConfigType type)
{
    return type == CONFIG_PATH || type == CONFIG_PATH_LIST;
}

bool value_type_is_text(ConfigType type)
{
    return type == CONFIG_STRING || type == CONFIG_STRING_LIST || value_type_is_path(type);
}

bool value_choice_word(const char *choices, int index, Text *text)
{
    for (; index > 0; index--) {
        choices = strchr(choices, '|');
        if (!choices)
            return false;
        choices++;
    }
    text_append(text, choices, strcspn(choices, "|"));
    return true;
}

static void format_number(double number, Text *text)
{
    char shortest[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(shortest, sizeof shortest, "%.*g", digits, number);
        if (strtod(shortest, NULL) == number)
            break;
    }
    text_append_string(text, shortest);
}

static void describe_range(const ConfigKey *key, Text *text)
{
    if (!(key->min < key->max))
        return;
    const bool from = isfinite(key->min) && key->min > -9e18, to = isfinite(key->max) && key->max < 9e18;
    if (from) {
        text_append_string(text, to ? " from " : " of at least ");
        format_number(key->min, text);
    }
    if (to) {
        text_append_string(text, from ? " to " : " of at most ");
        format_number(key->max, text);
    }
}

void value_describe_type(const ConfigKey *key, Text *text)
{
    switch (key->type) {
    case CONFIG_BOOL:
        text_append_string(text, "true or false");
        break;
    case CONFIG_INT:
        text_append_string(text, "a whole number");
        break;
    case CONFIG_FLOAT:
        text_append_string(text, "a number");
        break;
    case CONFIG_STRING:
        text_append_string(text, "text");
        break;
    case CONFIG_PATH:
        text_append_string(text, "a path");
        break;
    case CONFIG_INT_LIST:
        text_append_string(text, "a list of whole numbers, each");
        break;
    case CONFIG_FLOAT_LIST:
        text_append_string(text, "a list of numbers, each");
        break;
    case CONFIG_STRING_LIST:
        text_append_string(text, "a list of texts");
        break;
    case CONFIG_PATH_LIST:
        text_append_string(text, "a list of paths");
        break;
    case CONFIG_REFUSED:
        text_append_string(text, "nothing: this key is refused");
        break;
    case CONFIG_CHOICE:
        text_append_string(text, "one of ");
        for (const char *at = key->choices; *at; at++)
            text_append(text, *at == '|' ? ", " : at, *at == '|' ? 2 : 1);
        break;
    }
    if ((key->type == CONFIG_INT_LIST || key->type == CONFIG_FLOAT_LIST) && !(key->min < key->max))
        text->bytes[text->size -= strlen(", each")] = 0;
    describe_range(key, text);
    if (key->automatic)
        text_append_string(text, ", or auto");
    if (key->default_text && strcmp(key->default_text, "null") == 0)
        text_append_string(text, ", or null");
}

static Status expected(const ConfigKey *key, const YamlNode *node, const char *hint)
{
    Text wanted = {0}, found = {0};
    value_describe_type(key, &wanted);
    yaml_node_describe(node, &found);
    Status status = status_error(STATUS_USAGE, "expected %s, found %s%s%s", text_string(&wanted), text_string(&found),
                                 *hint ? "; " : "", hint);
    text_free(&wanted);
    text_free(&found);
    return status;
}

static bool text_is_integer(const char *text)
{
    text += *text == '-' || *text == '+';
    if (!*text || (text[0] == '0' && text[1]))
        return false;
    return text[strspn(text, "0123456789")] == 0;
}

static bool text_is_number(const char *text)
{
    text += *text == '-' || *text == '+';
    const size_t whole = strspn(text, "0123456789");
    text += whole;
    size_t fraction = 0;
    if (*text == '.')
        text += 1 + (fraction = strspn(text + 1, "0123456789"));
    if (whole + fraction == 0)
        return false;
    if (*text != 'e' && *text != 'E')
        return *text == 0;
    text++;
    text += *text == '-' || *text == '+';
    return *text && text[strspn(text, "0123456789")] == 0;
}

static bool in_range(const ConfigKey *key, double number)
{
    return !(key->min < key->max) || (number >= key->min && number <= key->max);
}

static Status parse_integer(const ConfigKey *key, const YamlNode *node, int64_t *integer)
{
    if (node->kind != YAML_SCALAR || node->quoted)
        return expected(key, node, "");
    if (!text_is_integer(node->text)) {
        const char *hint = "";
        if (text_is_number(node->text))
            hint = node->text[strspn(node->text, "+-0123456789")] ? "write it out, as in 1000000"
                                                                  : "write it without a leading zero";
        return expected(key, node, hint);
    }
    errno = 0;
    *integer = strtoll(node->text, NULL, 10);
    if (errno == ERANGE || !in_range(key, (double)*integer))
        return expected(key, node, "");
    return status_ok();
}

static Status parse_number(const ConfigKey *key, const YamlNode *node, double *number)
{
    if (node->kind != YAML_SCALAR || node->quoted || !text_is_number(node->text))
        return expected(key, node, "");
    *number = strtod(node->text, NULL);
    if (!isfinite(*number) || !in_range(key, *number))
        return expected(key, node, "");
    if (*number == 0)
        *number = 0; /* -0 and 0 mean the same and must digest the same */
    return status_ok();
}

static Status parse_bool(const ConfigKey *key, const YamlNode *node, int64_t *integer)
{
    if (node->kind != YAML_SCALAR || node->quoted || (strcmp(node->text, "true") && strcmp(node->text, "false")))
        return expected(key, node, "");
    *integer = node->text[0] == 't';
    return status_ok();
}

static Status parse_choice(const ConfigKey *key, const YamlNode *node, int64_t *integer)
{
    if (node->kind != YAML_SCALAR)
        return expected(key, node, "");
    enum { CHOICES_MAX = 64 };
    Text words[CHOICES_MAX] = {{0}};
    const char *names[CHOICES_MAX];
    int count = 0, found = -1;
    for (; count < CHOICES_MAX && value_choice_word(key->choices, count, &words[count]); count++) {
        names[count] = text_string(&words[count]);
        if (strcmp(names[count], node->text) == 0)
            found = count;
    }
    Status status = status_ok();
    if (found < 0) {
        const char *nearest = text_nearest(node->text, names, (size_t)count);
        Text hint = {0};
        if (nearest)
            text_printf(&hint, "did you mean %s?", nearest);
        status = expected(key, node, text_string(&hint));
        text_free(&hint);
    }
    for (int i = 0; i < count; i++)
        text_free(&words[i]);
    *integer = found;
    return status;
}

static Status parse_item(const ConfigKey *key, const YamlNode *node, int i, ConfigValue *value)
{
    switch (key->type) {
    case CONFIG_BOOL:
        return parse_bool(key, node, &value->integers[i]);
    case CONFIG_INT:
    case CONFIG_INT_LIST:
        return parse_integer(key, node, &value->integers[i]);
    case CONFIG_FLOAT:
    case CONFIG_FLOAT_LIST:
        return parse_number(key, node, &value->numbers[i]);
    case CONFIG_CHOICE:
        return parse_choice(key, node, &value->integers[i]);
    default:
        if (node->kind != YAML_SCALAR)
            return expected(key, node, "");
        if (value_type_is_path(key->type) && !*node->text)
            return expected(key, node, "an empty path names no file");
        value->strings[i] = memory_strdup(node->text);
        return status_ok();
    }
}

static void value_allocate(const ConfigKey *key, int count, ConfigValue *value)
{
    value->count = count;
    if (value_type_is_text(key->type)) {
        value->strings = memory_new((size_t)count, sizeof *value->strings);
        if (value_type_is_path(key->type))
            value->expanded = memory_new((size_t)count, sizeof *value->expanded);
    } else if (key->type == CONFIG_FLOAT || key->type == CONFIG_FLOAT_LIST) {
        value->numbers = memory_new((size_t)count, sizeof *value->numbers);
    } else {
        value->integers = memory_new((size_t)count, sizeof *value->integers);
    }
}

Status value_parse(const ConfigKey *key, const YamlNode *node, ConfigValue *value)
{
    *value = (ConfigValue){.present = true};
    const bool list = value_type_is_list(key->type);
    if (node->kind == YAML_NULL) {
        const bool nullable = (value_type_is_text(key->type) || list) && key->default_text &&
                              (strcmp(key->default_text, "null") == 0 || list);
        if (!nullable)
            return expected(key, node, key->default_text ? "leave the key out to take its default" : "");
        value->is_null = true;
        return status_ok();
    }
    if (key->automatic && node->kind == YAML_SCALAR && !node->quoted && strcmp(node->text, "auto") == 0) {
        value->is_auto = true;
        return status_ok();
    }
    const bool many = list && node->kind == YAML_LIST;
    value_allocate(key, many ? node->count : 1, value);
    Status status = status_ok();
    for (int i = 0; i < value->count && !status_failed(status); i++) {
        status = parse_item(key, many ? node->items[i] : node, i, value);
        if (status_failed(status) && many)
            status = status_prefix(status, "item %d", i + 1);
    }
    if (status_failed(status))
        value_free(value);
    return status;
}

void value_free(ConfigValue *value)
{
    for (int i = 0; i < value->count; i++) {
        if (value->strings)
            memory_free(&value->strings[i]);
        if (value->expanded)
            memory_free(&value->expanded[i]);
    }
    memory_free(&value->integers);
    memory_free(&value->numbers);
    memory_free(&value->strings);
    memory_free(&value->expanded);
    *value = (ConfigValue){0};
}

void value_store(const ConfigKey *key, const ConfigValue *value, void *out)
{
    void *field = (char *)out + key->offset;
    const bool one = value->count > 0;
    char **strings = value->expanded ? value->expanded : value->strings;
    switch (key->type) {
    case CONFIG_BOOL:
        *(bool *)field = one && value->integers[0];
        break;
    case CONFIG_INT:
        *(int64_t *)field = value->is_auto ? CONFIG_AUTO : one ? value->integers[0] : 0;
        break;
    case CONFIG_FLOAT:
        *(double *)field = value->is_auto ? CONFIG_AUTO : one ? value->numbers[0] : 0;
        break;
    case CONFIG_CHOICE:
        *(int *)field = one ? (int)value->integers[0] : 0;
        break;
    case CONFIG_STRING:
    case CONFIG_PATH:
        *(const char **)field = one ? strings[0] : NULL;
        break;
    case CONFIG_INT_LIST:
        *(ConfigIntList *)field = (ConfigIntList){value->integers, value->count};
        break;
    case CONFIG_FLOAT_LIST:
        *(ConfigFloatList *)field = (ConfigFloatList){value->numbers, value->count};
        break;
    case CONFIG_STRING_LIST:
    case CONFIG_PATH_LIST:
        *(ConfigStringList *)field = (ConfigStringList){(const char *const *)strings, value->count};
        break;
    case CONFIG_REFUSED:
        break;
    }
}

static void format_item(const ConfigKey *key, const ConfigValue *value, int i, bool expanded, Text *text)
{
    if (key->type == CONFIG_BOOL)
        text_append_string(text, value->integers[i] ? "true" : "false");
    else if (key->type == CONFIG_CHOICE)
        (void)value_choice_word(key->choices, (int)value->integers[i], text);
    else if (value->integers)
        text_printf(text, "%lld", (long long)value->integers[i]);
    else if (value->numbers)
        format_number(value->numbers[i], text);
    else
        yaml_quote(expanded && value->expanded ? value->expanded[i] : value->strings[i], text);
}

void value_format(const ConfigKey *key, const ConfigValue *value, bool expanded, Text *text)
{
    if (value->is_auto) {
        text_append_string(text, "auto");
    } else if (value_type_is_list(key->type)) {
        text_append_string(text, "[");
        for (int i = 0; i < value->count; i++) {
            text_append_string(text, i ? ", " : "");
            format_item(key, value, i, expanded, text);
        }
        text_append_string(text, "]");
    } else if (value->is_null) {
        text_append_string(text, "null");
    } else {
        format_item(key, value, 0, expanded, text);
    }
}
