/* tokenizer_pretokenize.c -- cutting a text into the words that are merged one by one: the pre-tokeniser of
 * tokenizer.json. Each step turns a list of words into a list of words, so steps compose as they do there: after
 * ByteLevel the words are in its byte alphabet, and what follows sees that. */
#include <string.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

enum { DEPTH_MAX = 8 };

/* GPT-2's pattern (Radford et al. 2019), which ByteLevel cuts by. */
static const char GPT2_PATTERN[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* \w as Unicode's technical standard 18 has it, which "Whitespace" goes by: PCRE2's own lacks marks and joiners. */
#define WORD_CHARS "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{200c}\\x{200d}"

/* --- Words -------------------------------------------------------------------------------------------------------*/

void word_list_clear(WordList *words)
{
    text_clear(&words->bytes);
    words->count = 0;
}

void word_list_free(WordList *words)
{
    text_free(&words->bytes);
    memory_free(&words->ends);
    words->count = words->capacity = 0;
}

static void end_word(WordList *words)
{
    memory_reserve(&words->ends, words->count, &words->capacity);
    words->ends[words->count++] = words->bytes.size;
}

void word_list_append(WordList *words, const char *bytes, size_t size)
{
    if (!size)
        return;
    text_append(&words->bytes, bytes, size);
    end_word(words);
}

/* --- The byte alphabet -------------------------------------------------------------------------------------------*/

static bool stands_for_itself(int byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The others, in order: 0x00-0x20, 0x7f-0xa0, 0xad. */
enum { OTHERS = 256, LOW_COUNT = 0x21, HIGH_FIRST = 0x7f, HIGH_COUNT = 0x22, LAST = 0xad };

uint32_t bytelevel_char(uint8_t byte)
{
    if (stands_for_itself(byte))
        return byte;
    if (byte < LOW_COUNT)
        return OTHERS + (uint32_t)byte;
    return byte == LAST ? OTHERS + LOW_COUNT + HIGH_COUNT : OTHERS + LOW_COUNT + (uint32_t)byte - HIGH_FIRST;
}

int bytelevel_byte(uint32_t character)
{
    if (character < OTHERS)
        return stands_for_itself((int)character) ? (int)character : -1;
    int other = character <= OTHERS + LOW_COUNT + HIGH_COUNT ? (int)character - OTHERS : -1;
    if (other < LOW_COUNT)
        return other;
    return other < LOW_COUNT + HIGH_COUNT ? other - LOW_COUNT + HIGH_FIRST : LAST;
}

/* --- Reading -----------------------------------------------------------------------------------------------------*/

static PretokenStep *new_step(Pretokenizer *pretokenizer, PretokenKind kind)
{
    memory_reserve(&pretokenizer->steps, pretokenizer->count, &pretokenizer->capacity);
    PretokenStep *step = &pretokenizer->steps[pretokenizer->count++];
    *step = (PretokenStep){.kind = kind};
    return step;
}

static Status parse_behavior(JsonPlace place, const json_t *value, JsonNeed need, SplitBehavior *behavior)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = names[*behavior];
    TRY(json_get_string(place, value, "behavior", need, &name, NULL));
    for (int i = 0; i < 5; i++)
        if (strcmp(name, names[i]) == 0) {
            *behavior = (SplitBehavior)i;
            return status_ok();
        }
    return json_error(place, "behavior \"%s\" of a pre-tokenizer is not known", name);
}

static Status parse_split(Pretokenizer *pretokenizer, JsonPlace place, const json_t *value)
{
    const json_t *pattern;
    const char *search;
    size_t size;
    TRY(json_get_object(place, value, "pattern", JSON_REQUIRED, &pattern));
    PretokenStep *step = new_step(pretokenizer, PRETOKEN_SPLIT);
    TRY(parse_behavior(place, value, JSON_REQUIRED, &step->behavior));
    TRY(json_get_bool(place, value, "invert", JSON_OPTIONAL, &step->invert));
    if (json_has(pattern, "String")) {
        TRY(json_get_string(place, pattern, "String", JSON_REQUIRED, &search, &size));
        return regex_open_literal(&step->pattern, place, search, size);
    }
    TRY(json_get_string(place, pattern, "Regex", JSON_REQUIRED, &search, &size));
    return regex_open(&step->pattern, place, search, size);
}

static Status parse_metaspace(Pretokenizer *pretokenizer, JsonPlace place, const json_t *value)
{
    const char *replacement = "\xe2\x96\x81", *scheme = NULL;
    bool add_prefix_space = true, split = true;
    TRY(json_get_string(place, value, "replacement", JSON_OPTIONAL, &replacement, NULL));
    TRY(json_get_string(place, value, "prepend_scheme", JSON_OPTIONAL, &scheme, NULL));
    TRY(json_get_bool(place, value, "add_prefix_space", JSON_OPTIONAL, &add_prefix_space));
    TRY(json_get_bool(place, value, "split", JSON_OPTIONAL, &split));
    PretokenStep *step = new_step(pretokenizer, PRETOKEN_METASPACE);
    step->replacement = memory_strdup(replacement);
    step->behavior = SPLIT_WITH_NEXT;
    if (!scheme)
        scheme = add_prefix_space ? "always" : "never";
    if (strcmp(scheme, "always") == 0)
        step->prefix = PREFIX_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        step->prefix = PREFIX_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return json_error(place, "prepend_scheme \"%s\" is not known", scheme);
    return split ? regex_open_literal(&step->pattern, place, replacement, strlen(replacement)) : status_ok();
}

static Status parse_bytes(Pretokenizer *pretokenizer, JsonPlace place, const json_t *value)
{
    bool use_regex = true, add_prefix_space = true;
    TRY(json_get_bool(place, value, "use_regex", JSON_OPTIONAL, &use_regex));
    TRY(json_get_bool(place, value, "add_prefix_space", JSON_OPTIONAL, &add_prefix_space));
    PretokenStep *step = new_step(pretokenizer, PRETOKEN_BYTES);
    step->prefix = add_prefix_space ? PREFIX_ALWAYS : PREFIX_NEVER;
    return use_regex ? regex_open(&step->pattern, place, GPT2_PATTERN, sizeof GPT2_PATTERN - 1) : status_ok();
}

static Status add_split(Pretokenizer *pretokenizer, JsonPlace place, const char *pattern, SplitBehavior behavior,
                        bool invert)
{
    PretokenStep *step = new_step(pretokenizer, PRETOKEN_SPLIT);
    step->behavior = behavior;
    step->invert = invert;
    return regex_open(&step->pattern, place, pattern, strlen(pattern));
}

Status pretokenizer_parse(Pretokenizer *pretokenizer, JsonPlace place, const json_t *value, int depth)
{
    if (!value || json_is_null(value))
        return status_ok();
    const char *type;
    TRY(json_get_string(place, value, "type", JSON_REQUIRED, &type, NULL));
    if (strcmp(type, "Sequence") == 0 && depth < DEPTH_MAX) {
        const json_t *list;
        TRY(json_get_array(place, value, "pretokenizers", JSON_REQUIRED, &list));
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(pretokenizer_parse(pretokenizer, place, json_array_get(list, i), depth + 1));
        return status_ok();
    }
    if (strcmp(type, "ByteLevel") == 0)
        return parse_bytes(pretokenizer, place, value);
    if (strcmp(type, "Split") == 0)
        return parse_split(pretokenizer, place, value);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(pretokenizer, place, value);
    if (strcmp(type, "Digits") == 0) {
        bool individual = false;
        TRY(json_get_bool(place, value, "individual_digits", JSON_OPTIONAL, &individual));
        return add_split(pretokenizer, place, individual ? "\\p{N}" : "\\p{N}+", SPLIT_ISOLATED, false);
    }
    if (strcmp(type, "Punctuation") == 0) {
        SplitBehavior behavior = SPLIT_ISOLATED;
        TRY(parse_behavior(place, value, JSON_OPTIONAL, &behavior));
        return add_split(pretokenizer, place, "[\\p{P}$+<=>^`|~]", behavior, false);
    }
    if (strcmp(type, "Whitespace") == 0)
        return add_split(pretokenizer, place, "[" WORD_CHARS "]+|[^" WORD_CHARS "\\s]+", SPLIT_REMOVED, true);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_split(pretokenizer, place, "\\s", SPLIT_REMOVED, false);
    return json_error(place,
                      "pre-tokenizer \"%s\" is not supported (ByteLevel, Split, Metaspace, Digits, Punctuation, "
                      "Whitespace, WhitespaceSplit, Sequence are)",
                      type);
}

void pretokenizer_free(Pretokenizer *pretokenizer)
{
    for (int i = 0; i < pretokenizer->count; i++) {
        regex_close(&pretokenizer->steps[i].pattern);
        memory_free(&pretokenizer->steps[i].replacement);
    }
    memory_free(&pretokenizer->steps);
    pretokenizer->count = pretokenizer->capacity = 0;
}

/* --- Cutting -----------------------------------------------------------------------------------------------------*/

/* One stretch, matched or between matches, joined to the word before where `behavior` says so. */
typedef struct Cutter {
    WordList *words;
    SplitBehavior behavior;
    bool any, last_matched; /* of this text: a stretch was seen; the last one matched */
} Cutter;

static void cut(Cutter *cutter, const char *bytes, size_t size, bool matched)
{
    WordList *words = cutter->words;
    if (!size)
        return;
    bool glue = false, removed = false;
    switch (cutter->behavior) {
    case SPLIT_ISOLATED:
        break;
    case SPLIT_REMOVED:
        removed = matched;
        break;
    case SPLIT_WITH_PREVIOUS:
        glue = matched && cutter->any && !cutter->last_matched;
        break;
    case SPLIT_WITH_NEXT: /* a match goes with what follows it, unless another match follows */
        glue = !matched && cutter->any && cutter->last_matched;
        break;
    case SPLIT_CONTIGUOUS:
        glue = cutter->any && cutter->last_matched == matched;
        break;
    }
    if (glue) {
        text_append(&words->bytes, bytes, size);
        words->ends[words->count - 1] = words->bytes.size;
    } else if (!removed) {
        word_list_append(words, bytes, size);
    }
    cutter->any = true;
    cutter->last_matched = matched;
}

static Status split_text(const Regex *pattern, RegexMatch *match, SplitBehavior behavior, bool invert, const char *text,
                         size_t size, WordList *words)
{
    Cutter cutter = {.words = words, .behavior = behavior};
    size_t done = 0, at = 0;
    while (at < size) {
        bool found;
        size_t start, end;
        TRY(regex_next(pattern, match, text, size, at, &found, &start, &end));
        if (!found)
            break;
        if (end == start) { /* an empty match cuts and takes nothing */
            cut(&cutter, text + done, start - done, invert);
            done = at = start;
            size_t length = 1;
            if (at < size)
                utf8_char(text + at, &length);
            at += length;
            continue;
        }
        cut(&cutter, text + done, start - done, invert);
        cut(&cutter, text + start, end - start, !invert);
        done = at = end;
    }
    cut(&cutter, text + done, size - done, invert);
    return status_ok();
}

/* words := their bytes in the byte alphabet */
static void map_bytes(const WordList *from, WordList *to)
{
    size_t at = 0;
    for (size_t w = 0; w < from->count; w++) {
        for (; at < from->ends[w]; at++)
            utf8_append(&to->bytes, bytelevel_char((uint8_t)from->bytes.bytes[at]));
        end_word(to);
    }
}

static void replace_spaces(Text *out, const char *text, size_t size, const char *replacement)
{
    size_t replacement_size = strlen(replacement), copied = 0;
    for (size_t i = 0; i < size; i++)
        if (text[i] == ' ') {
            text_append(out, text + copied, i - copied);
            text_append(out, replacement, replacement_size);
            copied = i + 1;
        }
    text_append(out, text + copied, size - copied);
}

/* One word through one step; `prefixed` is scratch. */
static Status step_word(const PretokenStep *step, RegexMatch *match, const char *text, size_t size, bool prefix,
                        Text *prefixed, WordList *out)
{
    text_clear(prefixed);
    if (step->kind == PRETOKEN_METASPACE) {
        size_t replacement_size = strlen(step->replacement);
        replace_spaces(prefixed, text, size, step->replacement);
        if (prefix &&
            (prefixed->size < replacement_size || memcmp(prefixed->bytes, step->replacement, replacement_size) != 0)) {
            text_clear(prefixed);
            text_append_string(prefixed, step->replacement);
            replace_spaces(prefixed, text, size, step->replacement);
        }
        text = prefixed->bytes;
        size = prefixed->size;
    } else if (step->kind == PRETOKEN_BYTES && prefix && text[0] != ' ') {
        text_append(prefixed, " ", 1);
        text_append(prefixed, text, size);
        text = prefixed->bytes;
        size = prefixed->size;
    }
    if (step->pattern)
        return split_text(step->pattern, match, step->behavior, step->invert, text, size, out);
    word_list_append(out, text, size);
    return status_ok();
}

Status pretokenizer_apply(const Pretokenizer *pretokenizer, const char *text, size_t size, bool first, bool continues,
                          WordList *words, WordList *scratch)
{
    word_list_clear(words);
    word_list_append(words, text, size);
    Text prefixed = {0};
    Status status = status_ok();
    for (int s = 0; s < pretokenizer->count; s++) {
        const PretokenStep *step = &pretokenizer->steps[s];
        RegexMatch match = {0};
        word_list_clear(scratch);
        size_t at = 0;
        for (size_t w = 0; w < words->count && !status_failed(status); w++) {
            bool starts = first && w == 0;
            bool prefix = step->prefix == PREFIX_ALWAYS || (step->prefix == PREFIX_FIRST && starts);
            status = step_word(step, &match, words->bytes.bytes + at, words->ends[w] - at,
                               prefix && !(starts && continues), &prefixed, scratch);
            at = words->ends[w];
        }
        regex_match_free(&match);
        if (status_failed(status))
            break;
        if (step->kind == PRETOKEN_BYTES) {
            word_list_clear(words);
            map_bytes(scratch, words);
        } else {
            WordList old = *words;
            *words = *scratch;
            *scratch = old;
        }
    }
    text_free(&prefixed);
    return status;
}
