/* tokenizer_regex.c -- PCRE2 for the patterns of tokenizer.json.
 *
 * Those are written for Oniguruma. Where the dialects differ for patterns that tokenizers use: ^ and $ are at line
 * breaks (PCRE2_MULTILINE); \s is Unicode's White_Space, to which PCRE2 adds U+180E; \w holds marks and all connectors,
 * which PCRE2's lacks. So \s and \w are spelled out. A match limit keeps a hostile pattern from running for ever. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

enum { MATCH_LIMIT = 10000000, HEAP_LIMIT_KIB = 256 << 10 };

struct Regex {
    pcre2_code *code;
    pcre2_match_context *limits;
    char *place_path;
};

#define WHITE_SPACE                                                                                                    \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

#define WORD "\\p{L}\\p{M}\\p{Nd}\\p{Pc}"

/* Spells out \s and \w (anywhere), \S and \W (outside brackets). */
static void translate(Text *out, const char *pattern, size_t size)
{
    int brackets = 0;
    for (size_t i = 0; i < size; i++) {
        char c = pattern[i];
        if (c == '\\' && i + 1 < size) {
            char next = pattern[++i];
            if (next == 's')
                text_append_string(out, brackets ? WHITE_SPACE : "[" WHITE_SPACE "]");
            else if (next == 'S' && !brackets)
                text_append_string(out, "[^" WHITE_SPACE "]");
            else if (next == 'w')
                text_append_string(out, brackets ? WORD : "[" WORD "]");
            else if (next == 'W' && !brackets)
                text_append_string(out, "[^" WORD "]");
            else
                text_append(out, &pattern[i - 1], 2);
            continue;
        }
        if (c == '[')
            brackets = 1;
        else if (c == ']')
            brackets = 0;
        text_append(out, &c, 1);
    }
}

static Status compile(Regex **regex, JsonPlace place, const char *pattern, size_t size, uint32_t options)
{
    int code;
    PCRE2_SIZE offset;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)pattern, size, PCRE2_UTF | PCRE2_NO_UTF_CHECK | options, &code, &offset, NULL);
    if (!compiled) {
        char message[160] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        return json_error(place, "pattern \"%.200s\": %s (at %zu)", pattern, message, (size_t)offset);
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE); /* where there is no JIT, matching is interpreted */
    Regex *self = memory_new(1, sizeof *self);
    self->code = compiled;
    self->limits = pcre2_match_context_create(NULL);
    REQUIRE(self->limits, "out of host memory: a match context");
    pcre2_set_match_limit(self->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(self->limits, HEAP_LIMIT_KIB);
    self->place_path = memory_strdup(place.path);
    *regex = self;
    return status_ok();
}

Status regex_open(Regex **regex, JsonPlace place, const char *pattern, size_t size)
{
    Text translated = {0};
    translate(&translated, pattern, size);
    Status status = compile(regex, place, text_string(&translated), translated.size,
                            PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
    text_free(&translated);
    return status;
}

Status regex_open_literal(Regex **regex, JsonPlace place, const char *literal, size_t size)
{
    return compile(regex, place, literal, size, PCRE2_LITERAL);
}

void regex_close(Regex **regex)
{
    if (!*regex)
        return;
    pcre2_code_free((*regex)->code);
    pcre2_match_context_free((*regex)->limits);
    memory_free(&(*regex)->place_path);
    memory_free(regex);
}

Status regex_next(const Regex *regex, RegexMatch *match, const char *text, size_t size, size_t from, bool *found,
                  size_t *start, size_t *end)
{
    if (!match->data) {
        match->data = pcre2_match_data_create(1, NULL);
        REQUIRE(match->data, "out of host memory: match data");
    }
    pcre2_match_data *data = match->data;
    int result = pcre2_match(regex->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, data, regex->limits);
    *found = result >= 0;
    if (result == PCRE2_ERROR_NOMATCH)
        return status_ok();
    if (result < 0) {
        char message[160] = "";
        pcre2_get_error_message(result, (PCRE2_UCHAR *)message, sizeof message);
        return status_error(STATUS_INPUT, "%s: a pattern of this tokenizer failed on a text: %s", regex->place_path,
                            message);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(data);
    *start = span[0];
    *end = span[1];
    if (*start < from || *end < *start || *end > size) /* \K in a look-around can do this */
        return status_error(STATUS_INPUT, "%s: a pattern of this tokenizer matches backwards", regex->place_path);
    return status_ok();
}

void regex_match_free(RegexMatch *match)
{
    pcre2_match_data_free(match->data);
    match->data = NULL;
}
