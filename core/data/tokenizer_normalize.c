/* tokenizer_normalize.c -- the normaliser of tokenizer.json: Unicode normal forms (utf8proc), Prepend, Replace. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

enum { DEPTH_MAX = 8 };

static NormalStep *new_step(Normalizer *normalizer, NormalKind kind)
{
    memory_reserve(&normalizer->steps, normalizer->count, &normalizer->capacity);
    NormalStep *step = &normalizer->steps[normalizer->count++];
    *step = (NormalStep){.kind = kind};
    return step;
}

static void set_content(NormalStep *step, const char *bytes, size_t size)
{
    step->content = memory_new(size + 1, 1);
    memcpy(step->content, bytes, size);
    step->content_size = size;
}

static Status parse_replace(Normalizer *normalizer, JsonPlace place, const json_t *value)
{
    const json_t *pattern;
    const char *content, *search;
    size_t content_size, search_size;
    TRY(json_get_object(place, value, "pattern", JSON_REQUIRED, &pattern));
    TRY(json_get_string(place, value, "content", JSON_REQUIRED, &content, &content_size));
    NormalStep *step = new_step(normalizer, NORMAL_REPLACE);
    set_content(step, content, content_size);
    if (json_has(pattern, "String")) {
        TRY(json_get_string(place, pattern, "String", JSON_REQUIRED, &search, &search_size));
        return regex_open_literal(&step->pattern, place, search, search_size);
    }
    TRY(json_get_string(place, pattern, "Regex", JSON_REQUIRED, &search, &search_size));
    return regex_open(&step->pattern, place, search, search_size);
}

Status normalizer_parse(Normalizer *normalizer, JsonPlace place, const json_t *value, int depth)
{
    static const struct {
        const char *name;
        NormalKind kind;
    } forms[] = {{"NFC", NORMAL_NFC}, {"NFD", NORMAL_NFD}, {"NFKC", NORMAL_NFKC}, {"NFKD", NORMAL_NFKD}};
    if (!value || json_is_null(value))
        return status_ok();
    const char *type;
    TRY(json_get_string(place, value, "type", JSON_REQUIRED, &type, NULL));
    if (strcmp(type, "Sequence") == 0 && depth < DEPTH_MAX) {
        const json_t *list;
        TRY(json_get_array(place, value, "normalizers", JSON_REQUIRED, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(normalizer_parse(normalizer, place, json_array_get(list, i), depth + 1));
        return status_ok();
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(type, forms[i].name) == 0) {
            new_step(normalizer, forms[i].kind);
            return status_ok();
        }
    if (strcmp(type, "Prepend") == 0) {
        const char *prefix;
        size_t size;
        TRY(json_get_string(place, value, "prepend", JSON_REQUIRED, &prefix, &size));
        set_content(new_step(normalizer, NORMAL_PREPEND), prefix, size);
        return status_ok();
    }
    if (strcmp(type, "Replace") == 0)
        return parse_replace(normalizer, place, value);
    return json_error(
        place, "normalizer \"%s\" is not supported (NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence are)", type);
}

void normalizer_free(Normalizer *normalizer)
{
    for (int i = 0; i < normalizer->count; i++) {
        regex_close(&normalizer->steps[i].pattern);
        memory_free(&normalizer->steps[i].content);
    }
    memory_free(&normalizer->steps);
    normalizer->count = normalizer->capacity = 0;
}

static bool is_ascii(const Text *text)
{
    for (size_t i = 0; i < text->size; i++)
        if ((unsigned char)text->bytes[i] >= 0x80)
            return false;
    return true;
}

static Status apply_form(Text *text, NormalKind kind)
{
    if (is_ascii(text)) /* every form leaves it alone */
        return status_ok();
    utf8proc_option_t options = UTF8PROC_STABLE;
    options |= kind == NORMAL_NFC || kind == NORMAL_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (kind == NORMAL_NFKC || kind == NORMAL_NFKD)
        options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t size =
        utf8proc_map((const utf8proc_uint8_t *)text->bytes, (utf8proc_ssize_t)text->size, &mapped, options);
    if (size < 0)
        return status_error(STATUS_INPUT, "Unicode normalisation: %s", utf8proc_errmsg(size));
    text_clear(text);
    text_append(text, mapped, (size_t)size);
    free(mapped);
    return status_ok();
}

static Status apply_replace(const NormalStep *step, Text *text)
{
    Text out = {0};
    RegexMatch match = {0};
    size_t at = 0, copied = 0;
    Status status = status_ok();
    while (at <= text->size) {
        bool found;
        size_t start, end;
        TRY_GOTO(regex_next(step->pattern, &match, text_string(text), text->size, at, &found, &start, &end), done);
        if (!found)
            break;
        text_append(&out, text->bytes + copied, start - copied);
        if (end > start)
            text_append(&out, step->content, step->content_size);
        copied = at = end;
        if (end == start) {
            size_t length = 1;
            if (at < text->size)
                utf8_char(text->bytes + at, &length);
            at += length;
        }
        if (out.size > TOKENIZER_TEXT_BYTES_MAX) {
            status = status_error(STATUS_INPUT, "a text longer than %s once normalised",
                                  text_bytes(TOKENIZER_TEXT_BYTES_MAX));
            goto done;
        }
    }
    if (copied) {
        text_append(&out, text->bytes + copied, text->size - copied);
        Text old = *text;
        *text = out;
        out = old;
    }
done:
    regex_match_free(&match);
    text_free(&out);
    return status;
}

Status normalizer_apply(const Normalizer *normalizer, bool prefix, Text *text)
{
    for (int i = 0; i < normalizer->count; i++) {
        const NormalStep *step = &normalizer->steps[i];
        if (!text->size)
            return status_ok();
        if (step->kind == NORMAL_REPLACE) {
            TRY(apply_replace(step, text));
        } else if (step->kind != NORMAL_PREPEND) {
            TRY(apply_form(text, step->kind));
        } else if (prefix) {
            text_append(text, step->content, step->content_size);
            memmove(text->bytes + step->content_size, text->bytes, text->size - step->content_size);
            memcpy(text->bytes, step->content, step->content_size);
        }
    }
    return status_ok();
}
