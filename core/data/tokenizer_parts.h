/* tokenizer_parts.h -- what a tokenizer is made of. Private to core/data/tokenizer*.c.
 *
 * A text goes through: added tokens are cut out (tokenizer_added.c), what is between is normalised
 * (tokenizer_normalize.c), cut into words (tokenizer_pretokenize.c), and each word is merged (tokenizer_bpe.c). The steps
 * are data read from tokenizer.json (tokenizer_huggingface.c); the other formats are turned into that one first
 * (tokenizer_sentencepiece.c, tokenizer_open.c), so there is one loader and one path. */
#ifndef CORE_DATA_TOKENIZER_PARTS_H
#define CORE_DATA_TOKENIZER_PARTS_H

#include <pthread.h>

#include "core/base/text.h"
#include "core/data/json.h"
#include "core/data/tokenizer.h"

enum {
    TOKENIZER_FILE_BYTES_MAX = 512 << 20,
    TOKENIZER_TEXT_BYTES_MAX = 1 << 29, /* of one encode; a normaliser may grow a text, and positions are int32 */
};

/* --- Regular expressions (tokenizer_regex.c): PCRE2 reading the dialect that tokenizer.json is written in ------------*/
typedef struct Regex Regex;
/* [local] */
Status regex_open(Regex **regex, JsonPlace place, const char *pattern, size_t size);
/* Matches exactly these bytes. */
Status regex_open_literal(Regex **regex, JsonPlace place, const char *literal, size_t size);
void regex_close(Regex **regex);
typedef struct RegexMatch {
    void *data; /* NULL at first; regex_match_free() when done */
} RegexMatch;
/* The first match at or after `from`; *found false if there is none. `text` must be valid UTF-8. */
Status regex_next(const Regex *regex, RegexMatch *match, const char *text, size_t size, size_t from, bool *found,
                  size_t *start, size_t *end);
void regex_match_free(RegexMatch *match);

/* --- Normaliser ---------------------------------------------------------------------------------------------------*/
typedef enum NormalKind { NORMAL_NFC, NORMAL_NFD, NORMAL_NFKC, NORMAL_NFKD, NORMAL_PREPEND, NORMAL_REPLACE } NormalKind;
typedef struct NormalStep {
    NormalKind kind;
    Regex *pattern; /* REPLACE */
    char *content;  /* PREPEND, REPLACE */
    size_t content_size;
} NormalStep;
typedef struct Normalizer {
    NormalStep *steps;
    int count, capacity;
} Normalizer;
/* `value` NULL or null: no steps. */
Status normalizer_parse(Normalizer *normalizer, JsonPlace place, const json_t *value, int depth);
void normalizer_free(Normalizer *normalizer);
/* text := normalised text. `prefix`: PREPEND steps are done. */
Status normalizer_apply(const Normalizer *normalizer, bool prefix, Text *text);

/* --- Pre-tokeniser ------------------------------------------------------------------------------------------------*/
/* Words back to back: word i is bytes[ends[i - 1], ends[i]). */
typedef struct WordList {
    Text bytes;
    size_t *ends; // (count)
    size_t count, capacity;
} WordList;
void word_list_clear(WordList *words);
void word_list_free(WordList *words);
void word_list_append(WordList *words, const char *bytes, size_t size);

typedef enum SplitBehavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_WITH_PREVIOUS,
    SPLIT_WITH_NEXT,
    SPLIT_CONTIGUOUS
} SplitBehavior;
typedef enum PrefixScheme { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS } PrefixScheme;
typedef enum PretokenKind { PRETOKEN_SPLIT, PRETOKEN_BYTES, PRETOKEN_METASPACE } PretokenKind;
typedef struct PretokenStep {
    PretokenKind kind;
    Regex *pattern; /* SPLIT; BYTES where it cuts (use_regex); METASPACE where it cuts */
    SplitBehavior behavior;
    bool invert;
    PrefixScheme prefix; /* BYTES: a space; METASPACE: the replacement */
    char *replacement;   /* METASPACE: what stands for a space */
} PretokenStep;
typedef struct Pretokenizer {
    PretokenStep *steps;
    int count, capacity;
} Pretokenizer;
Status pretokenizer_parse(Pretokenizer *pretokenizer, JsonPlace place, const json_t *value, int depth);
void pretokenizer_free(Pretokenizer *pretokenizer);
/* `first`: the section stands at the start of the text. `continues`: TOKENIZER_CONTINUE, so it gets no prefix.
 * `scratch` has room for the steps' intermediate lists. */
Status pretokenizer_apply(const Pretokenizer *pretokenizer, const char *text, size_t size, bool first, bool continues,
                          WordList *words, WordList *scratch);
/* The characters that stand for bytes in byte-level BPE (Radford et al. 2019): printable ones for themselves, the rest from
 * U+0100 on. */
uint32_t bytelevel_char(uint8_t byte);
/* -1: the character stands for no byte. */
int bytelevel_byte(uint32_t character);

/* --- Byte pair encoding -------------------------------------------------------------------------------------------*/
typedef struct Piece {
    uint32_t offset, size; /* in Bpe.blob; offset UINT32_MAX: the id is unused */
} Piece;
typedef struct Merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: empty slot */
    int32_t rank, id;
} Merge;
typedef struct Bpe {
    Text blob;      /* the pieces' texts, each followed by a zero byte */
    Piece *pieces;  // (size)
    int32_t size;   /* ids are [0, size) */
    int32_t *slots; // (slots_mask + 1) open addressing: id or -1
    uint32_t slots_mask;
    Merge *merges; // (merges_mask + 1)
    uint32_t merges_mask;
    int32_t byte_ids[256]; /* the tokens <0x00>..<0xFF>; -1: none */
    int32_t unk;           /* for characters that are no token; -1: they are dropped */
    bool byte_fallback, fuse_unk, ignore_merges;
} Bpe;
void bpe_init(Bpe *bpe, int32_t size, int32_t vocab_entries);
void bpe_free(Bpe *bpe);
/* False: the id or the text is taken, or the id is outside. */
bool bpe_add_piece(Bpe *bpe, int32_t id, const char *text, size_t size);
/* Makes room for `count` merges; to be called once. */
void bpe_reserve_merges(Bpe *bpe, int64_t count);
/* A pair that is there keeps its first rank. */
void bpe_add_merge(Bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id);
/* -1: none. */
int32_t bpe_find(const Bpe *bpe, const char *text, size_t size);
/* Buffers of one encode. */
typedef struct BpeScratch {
    struct BpeSymbol *symbols;
    struct BpeCandidate *heap;
    int64_t symbols_capacity, heap_count, heap_capacity;
} BpeScratch;
void bpe_scratch_free(BpeScratch *scratch);
void bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *word, size_t size, TokenList *out);

/* --- Added tokens: whole strings that are one token, cut out before anything else --------------------------------------*/
typedef struct AddedToken {
    char *content; /* as it is searched for */
    size_t size;
    int32_t id;
    bool special, normalized, single_word, lstrip, rstrip;
} AddedToken;
typedef struct AddedTokens {
    AddedToken *tokens; /* sorted by first byte, then by size, longest first */
    int count, capacity;
    int first[257]; /* tokens[first[b] .. first[b + 1]) start with byte b */
} AddedTokens;
void added_tokens_append(AddedTokens *added, const AddedToken *token, const char *content, size_t size);
void added_tokens_sort(AddedTokens *added);
void added_tokens_free(AddedTokens *added);
/* The next token in text at or after `from`: the leftmost, of those the longest. NULL: none. *start and *end span what it
 * takes, spaces beside it included where it says so; *start >= from. */
const AddedToken *added_tokens_next(const AddedTokens *added, const char *text, size_t size, size_t from,
                                    bool parse_special, size_t *start, size_t *end);

/* --- Decoding -----------------------------------------------------------------------------------------------------*/
typedef struct Decoder {
    bool byte_level;    /* tokens are bytes, the text is whatever UTF-8 they make together */
    bool byte_fallback; /* tokens <0x..> are bytes */
    bool join_space;    /* no decoder: tokens with a space between */
    char strip;         /* character taken from the start of the text; 0: none */
    int32_t strip_count;
    bool strip_first_token; /* METASPACE: all leading spaces of the first token, whatever strip_count */
    bool fused;             /* while parsing: a Fuse has been seen */
    Text blob;              /* what each id decodes to */
    Piece *pieces;          // (size)
    bool *is_byte;          // (size)
} Decoder;
/* Fills in what each id decodes to; `value` is tokenizer.json's "decoder". */
Status decoder_parse(Decoder *decoder, JsonPlace place, const json_t *value, const Bpe *bpe);
void decoder_free(Decoder *decoder);

/* --- The whole ----------------------------------------------------------------------------------------------------*/
typedef struct WordCache WordCache; /* tokenizer.c */

struct Tokenizer {
    char *name; /* for messages */
    Bpe bpe;
    Normalizer normalizer;
    Pretokenizer pretokenizer;
    AddedTokens added, added_normalized; /* searched in the raw text; in the normalised text */
    Decoder decoder;
    bool *special;      // (bpe.size)
    bool sentencepiece; /* ties among merges by position, PREPEND at the start of a text only */
    int32_t bos, eos, pad, unk;
    bool adds_bos;
    Text canonical;
    uint64_t digest;
    WordCache *cache; /* guarded by `lock`; a busy cache is gone around */
    pthread_mutex_t lock;
};

/* What the files beside tokenizer.json say. {NULL...}: nothing. */
typedef struct TokenizerHints {
    JsonPlace place;
    const json_t *tokenizer_config, *special_tokens_map, *config;
} TokenizerHints;

/* Fills a zeroed tokenizer from the parsed tokenizer.json; changes `root` into the canonical form. */
Status tokenizer_parse(Tokenizer *tokenizer, JsonPlace place, json_t *root, const TokenizerHints *hints);
/* A tokenizer from a parsed tokenizer.json (which becomes the canonical form); NULL on failure. */
Status tokenizer_from_json(Tokenizer **tokenizer, const char *name, json_t *root, const TokenizerHints *hints);
/* The tokenizer.json of a SentencePiece model; *root is owned by the caller. */
Status sentencepiece_to_json(const char *path, const void *bytes, size_t size, json_t **root);
/* The "post_processor" by which other programs put this token in front of a text. */
json_t *tokenizer_bos_template(const char *token, int32_t id);
/* Offset of the first byte that is no UTF-8, or `size`. */
size_t utf8_check(const char *bytes, size_t size);
/* The character at `text` (valid UTF-8) and its length. */
uint32_t utf8_char(const char *text, size_t *length);
void utf8_append(Text *text, uint32_t character);

#endif
