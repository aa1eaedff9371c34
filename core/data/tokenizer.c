/* tokenizer.c -- encoding, and the small questions. Reading files is tokenizer_open.c, decoding tokenizer_decode.c. */
#include "core/data/tokenizer.h"

#include <string.h>
#include <xxhash.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

/* --- Lists of ids --------------------------------------------------------------------------------------------------*/

void token_list_append(TokenList *list, int32_t id)
{
    memory_reserve(&list->ids, list->count, &list->capacity);
    list->ids[list->count++] = id;
}

void token_list_free(TokenList *list)
{
    memory_free(&list->ids);
    list->count = list->capacity = 0;
}

/* --- Words seen before: most of a text is the same few thousand words ---------------------------------------------------*/

enum { CACHE_SLOTS = 1 << 14, CACHE_WORD_BYTES = 40, CACHE_IDS = 8 };

typedef struct CacheEntry {
    char word[CACHE_WORD_BYTES];
    uint8_t size, count; /* size 0: empty */
    int32_t ids[CACHE_IDS];
} CacheEntry;

struct WordCache {
    CacheEntry entries[CACHE_SLOTS];
};

/* Buffers of one encode; `cache` NULL: another thread has it. */
typedef struct Encoder {
    const Tokenizer *tokenizer;
    unsigned flags;
    TokenList *out;
    WordCache *cache;
    BpeScratch bpe;
    WordList words, word_scratch;
    Text section;
} Encoder;

static void encode_word(Encoder *encoder, const char *word, size_t size)
{
    const Bpe *bpe = &encoder->tokenizer->bpe;
    TokenList *out = encoder->out;
    if (!encoder->cache || size > CACHE_WORD_BYTES || !size) {
        bpe_encode(bpe, &encoder->bpe, word, size, out);
        return;
    }
    CacheEntry *entry = &encoder->cache->entries[XXH3_64bits(word, size) % CACHE_SLOTS];
    if (entry->size == size && memcmp(entry->word, word, size) == 0) {
        for (int i = 0; i < entry->count; i++)
            token_list_append(out, entry->ids[i]);
        return;
    }
    int64_t before = out->count;
    bpe_encode(bpe, &encoder->bpe, word, size, out);
    int64_t made = out->count - before;
    if (made > CACHE_IDS)
        return;
    memcpy(entry->word, word, size);
    entry->size = (uint8_t)size;
    entry->count = (uint8_t)made;
    if (made)
        memcpy(entry->ids, out->ids + before, (size_t)made * sizeof *out->ids);
}

static Status encode_words(Encoder *encoder, const char *text, size_t size, bool first)
{
    TRY(pretokenizer_apply(&encoder->tokenizer->pretokenizer, text, size, first, encoder->flags & TOKENIZER_CONTINUE,
                           &encoder->words, &encoder->word_scratch));
    size_t at = 0;
    for (size_t w = 0; w < encoder->words.count; w++) {
        encode_word(encoder, encoder->words.bytes.bytes + at, encoder->words.ends[w] - at);
        at = encoder->words.ends[w];
    }
    return status_ok();
}

/* A stretch of the text between added tokens. */
static Status encode_section(Encoder *encoder, const char *text, size_t size, bool first)
{
    const Tokenizer *tokenizer = encoder->tokenizer;
    if (!size)
        return status_ok();
    text_clear(&encoder->section);
    text_append(&encoder->section, text, size);
    bool prefix = first ? !(encoder->flags & TOKENIZER_CONTINUE) : !tokenizer->sentencepiece;
    TRY(normalizer_apply(&tokenizer->normalizer, prefix, &encoder->section));
    const char *bytes = text_string(&encoder->section);
    size_t total = encoder->section.size, at = 0, start, end;
    const AddedToken *token;
    while ((token = added_tokens_next(&tokenizer->added_normalized, bytes, total, at,
                                      encoder->flags & TOKENIZER_PARSE_SPECIAL, &start, &end))) {
        TRY(encode_words(encoder, bytes + at, start - at, first && at == 0));
        token_list_append(encoder->out, token->id);
        at = end;
    }
    return encode_words(encoder, bytes + at, total - at, first && at == 0);
}

static Status encode_text(Encoder *encoder, const char *text, size_t size)
{
    const Tokenizer *tokenizer = encoder->tokenizer;
    size_t at = 0, start, end;
    const AddedToken *token;
    while ((token = added_tokens_next(&tokenizer->added, text, size, at, encoder->flags & TOKENIZER_PARSE_SPECIAL,
                                      &start, &end))) {
        TRY(encode_section(encoder, text + at, start - at, at == 0));
        token_list_append(encoder->out, token->id);
        at = end;
    }
    return encode_section(encoder, text + at, size - at, at == 0);
}

Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size, unsigned flags, TokenList *out)
{
    if (size > TOKENIZER_TEXT_BYTES_MAX)
        return status_error(STATUS_INPUT, "a text of %s; a tokenizer takes at most %s at once",
                            text_bytes((double)size), text_bytes(TOKENIZER_TEXT_BYTES_MAX));
    size_t bad = utf8_check(text, size);
    if (bad < size)
        return status_error(STATUS_INPUT, "byte %zu of the text (0x%02x) is not UTF-8", bad, (unsigned char)text[bad]);
    pthread_mutex_t *lock = (pthread_mutex_t *)&tokenizer->lock;
    bool locked = pthread_mutex_trylock(lock) == 0;
    Encoder encoder = {.tokenizer = tokenizer, .flags = flags, .out = out, .cache = locked ? tokenizer->cache : NULL};
    int64_t before = out->count;
    Status status = encode_text(&encoder, text, size);
    if (locked)
        pthread_mutex_unlock(lock);
    if (status_failed(status))
        out->count = before;
    bpe_scratch_free(&encoder.bpe);
    word_list_free(&encoder.words);
    word_list_free(&encoder.word_scratch);
    text_free(&encoder.section);
    return status;
}

/* --- Opening and closing -------------------------------------------------------------------------------------------*/

/* Takes nothing over from the caller; *tokenizer NULL on failure. */
Status tokenizer_from_json(Tokenizer **tokenizer, const char *name, json_t *root, const TokenizerHints *hints)
{
    Tokenizer *self = memory_new(1, sizeof *self);
    self->name = memory_strdup(name);
    self->bos = self->eos = self->pad = self->unk = -1;
    pthread_mutex_init(&self->lock, NULL);
    *tokenizer = self;
    Status status = tokenizer_parse(self, (JsonPlace){self->name, 0}, root, hints);
    if (status_failed(status))
        tokenizer_close(tokenizer);
    else
        self->cache = memory_new(1, sizeof *self->cache);
    return status;
}

void tokenizer_close(Tokenizer **tokenizer)
{
    Tokenizer *self = *tokenizer;
    if (!self)
        return;
    bpe_free(&self->bpe);
    normalizer_free(&self->normalizer);
    pretokenizer_free(&self->pretokenizer);
    added_tokens_free(&self->added);
    added_tokens_free(&self->added_normalized);
    decoder_free(&self->decoder);
    text_free(&self->canonical);
    memory_free(&self->special);
    memory_free(&self->cache);
    memory_free(&self->name);
    pthread_mutex_destroy(&self->lock);
    memory_free(tokenizer);
}

/* --- Questions -----------------------------------------------------------------------------------------------------*/

const char *tokenizer_bytes(const Tokenizer *tokenizer, size_t *size)
{
    *size = tokenizer->canonical.size;
    return tokenizer->canonical.bytes;
}

uint64_t tokenizer_digest(const Tokenizer *tokenizer)
{
    return tokenizer->digest;
}

int32_t tokenizer_vocab_size(const Tokenizer *tokenizer)
{
    return tokenizer->bpe.size;
}

int32_t tokenizer_bos(const Tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t tokenizer_eos(const Tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t tokenizer_pad(const Tokenizer *tokenizer)
{
    return tokenizer->pad;
}

int32_t tokenizer_unk(const Tokenizer *tokenizer)
{
    return tokenizer->unk;
}

bool tokenizer_adds_bos(const Tokenizer *tokenizer)
{
    return tokenizer->adds_bos;
}

int32_t tokenizer_token_id(const Tokenizer *tokenizer, const char *token)
{
    return bpe_find(&tokenizer->bpe, token, strlen(token));
}

const char *tokenizer_token_text(const Tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || id >= tokenizer->bpe.size || tokenizer->bpe.pieces[id].offset == UINT32_MAX)
        return "";
    return tokenizer->bpe.blob.bytes + tokenizer->bpe.pieces[id].offset;
}

bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->bpe.size && tokenizer->special[id];
}
