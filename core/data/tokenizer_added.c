/* tokenizer_added.c -- added tokens: strings that are one token wherever they stand. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

void added_tokens_append(AddedTokens *added, const AddedToken *token, const char *content, size_t size)
{
    if (!size)
        return;
    memory_reserve(&added->tokens, added->count, &added->capacity);
    AddedToken *own = &added->tokens[added->count++];
    *own = *token;
    own->content = memory_new(size + 1, 1);
    memcpy(own->content, content, size);
    own->size = size;
}

static int compare(const void *a, const void *b)
{
    const AddedToken *x = a, *y = b;
    int bytes = (unsigned char)x->content[0] - (unsigned char)y->content[0];
    if (bytes)
        return bytes;
    if (x->size != y->size)
        return x->size > y->size ? -1 : 1;
    int order = memcmp(x->content, y->content, x->size);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

void added_tokens_sort(AddedTokens *added)
{
    if (added->count)
        qsort(added->tokens, (size_t)added->count, sizeof *added->tokens, compare);
    int at = 0;
    for (int byte = 0; byte < 256; byte++) {
        added->first[byte] = at;
        while (at < added->count && (unsigned char)added->tokens[at].content[0] == byte)
            at++;
    }
    added->first[256] = at;
}

void added_tokens_free(AddedTokens *added)
{
    for (int i = 0; i < added->count; i++)
        memory_free(&added->tokens[i].content);
    memory_free(&added->tokens);
    *added = (AddedTokens){0};
}

static bool is_word_char(const char *text)
{
    size_t length;
    uint32_t character = utf8_char(text, &length);
    switch (utf8proc_category((utf8proc_int32_t)character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

static bool is_space_char(const char *text, size_t *length)
{
    uint32_t c = utf8_char(text, length);
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static size_t char_before(const char *text, size_t at)
{
    do
        at--;
    while (((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

/* The longest token that stands at text[at). */
static const AddedToken *match_at(const AddedTokens *added, const char *text, size_t size, size_t at)
{
    unsigned char byte = (unsigned char)text[at];
    for (int i = added->first[byte]; i < added->first[byte + 1]; i++) {
        const AddedToken *token = &added->tokens[i];
        if (token->size <= size - at && memcmp(text + at, token->content, token->size) == 0)
            return token;
    }
    return NULL;
}

const AddedToken *added_tokens_next(const AddedTokens *added, const char *text, size_t size, size_t from,
                                    bool parse_special, size_t *start, size_t *end)
{
    for (size_t at = from; added->count && at < size; at++) {
        const AddedToken *token = match_at(added, text, size, at);
        if (!token)
            continue;
        size_t stop = at + token->size;
        bool refused = token->special && !parse_special;
        if (token->single_word) {
            refused = refused || (at > 0 && is_word_char(text + char_before(text, at)));
            refused = refused || (stop < size && is_word_char(text + stop));
        }
        if (refused) { /* what it covers is not searched again */
            at = stop - 1;
            continue;
        }
        *start = at;
        *end = stop;
        size_t length;
        while (token->lstrip && *start > from && is_space_char(text + char_before(text, *start), &length))
            *start = char_before(text, *start);
        while (token->rstrip && *end < size && is_space_char(text + *end, &length))
            *end += length;
        return token;
    }
    return NULL;
}
