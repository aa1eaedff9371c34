/* tokenizer.h -- text to token ids and back, exactly as the model's own tokenizer does it.
 *
 * What:  byte pair encoding in the two forms that decoder models use: byte-level (GPT-2, GPT-NeoX, LLaMA-3, Qwen) and
 *        SentencePiece-style with byte fallback (LLaMA-2, Mistral). Read from a Hugging Face tokenizer.json, from a
 *        SentencePiece tokenizer.model, or from GPT-2's pair encoder.json + vocab.bpe. Unigram models are refused by
 *        name.
 * Rules: - A Tokenizer does not change after it is opened; encode and decode may be called by several threads at once.
 *        - Text is UTF-8. Bytes that are not are an error of encode, never a crash. Decoding always gives valid UTF-8:
 *          U+FFFD stands where the tokens' bytes are none (as Hugging Face and SentencePiece do).
 *        - Ids are int32; -1 says "no such token".
 *        - tokenizer_bytes() is the canonical form that goes into artifacts: the text of a tokenizer.json, with what
 *          tokenizer_config.json adds (which tokens are BOS, EOS, padding; whether BOS is wanted) in an object "tercet"
 *          inside "model", where Hugging Face tokenizers ignores it. SentencePiece models are converted; the rule by
 *          which SentencePiece breaks ties travels in the same object. Canonical form of canonical form is the same
 *          bytes, so the digest names a tokenizer wherever it came from.
 *        - encode() never adds BOS or EOS: who builds sequences does (template.h), so that it happens in one place. */
#ifndef CORE_DATA_TOKENIZER_H
#define CORE_DATA_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/text.h"

typedef struct Tokenizer Tokenizer;

/* A growing list of ids; {0} is an empty one. */
typedef struct TokenList {
    int32_t *ids; // (count)
    int64_t count, capacity;
} TokenList;

void token_list_append(TokenList *list, int32_t id);
void token_list_free(TokenList *list);

typedef enum TokenizerFlags {
    /* encode: a special token written out in the text ("</s>", "<|im_end|>") becomes that token. Without it such text is
     * just text, which is what a stranger's prompt should be. (Hugging Face's default is with, SentencePiece's without.)
     * Added tokens that are not special are recognised either way. */
    TOKENIZER_PARSE_SPECIAL = 1,
    /* The text (or the tokens) continue a sequence that others started: SentencePiece-style tokenizers put a space
     * before the first word of a text and take it away when decoding; a continuation gets none and loses none. With it
     * decode(a) + decode(b, CONTINUE) == decode(a b) wherever no character is split between a and b. */
    TOKENIZER_CONTINUE = 2,
    /* decode: leave special tokens out of the text. */
    TOKENIZER_SKIP_SPECIAL = 4,
} TokenizerFlags;

/* `path` is tokenizer.json, tokenizer.model, encoder.json (vocab.bpe stands beside it; vocab.json + merges.txt too), or a
 * directory: the first that is there of tokenizer.json, tokenizer.model, vocab.json, encoder.json. Beside the file,
 * tokenizer_config.json, special_tokens_map.json and config.json say which tokens are BOS, EOS, padding and unknown. [local] */
Status tokenizer_open(Tokenizer **tokenizer, const char *path);
/* From the bytes of a tokenizer.json (canonical or not) or of a tokenizer.model; `name` is for messages. [local] */
Status tokenizer_from_bytes(Tokenizer **tokenizer, const char *name, const void *bytes, size_t size);
/* NULL is ignored; *tokenizer becomes NULL. */
void tokenizer_close(Tokenizer **tokenizer);

/* The canonical form (borrowed; see above) and its XXH3 64-bit digest. */
const char *tokenizer_bytes(const Tokenizer *tokenizer, size_t *size);
uint64_t tokenizer_digest(const Tokenizer *tokenizer);
/* Writes tokenizer.json (canonical form) and tokenizer_config.json into an existing directory, for other programs. */
Status tokenizer_save(const Tokenizer *tokenizer, const char *directory);

/* Appends the ids of text[0, size) to `out`. On failure `out` is as before. Time: O(size log size). */
Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t size, unsigned flags, TokenList *out);
/* Appends the text of ids[0, count) to `out`. An id outside the vocabulary is an error, an unused one is empty. */
Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int64_t count, unsigned flags, Text *out);

/* Decoding as tokens arrive: push appends what is certain by now, holding back a character whose bytes are not complete
 * (and, in SentencePiece-style tokenizers, a run of byte tokens until it ends); finish appends the rest. Everything
 * appended together equals tokenizer_decode() of all ids. */
typedef struct TokenizerStream {
    const Tokenizer *tokenizer;
    unsigned flags;
    Text held;     /* bytes not yet certain */
    bool started;  /* something was decoded before */
    int32_t strip; /* leading characters still to be taken away */
    bool in_bytes; /* `held` is a run of byte tokens */
} TokenizerStream;

void tokenizer_stream_start(TokenizerStream *stream, const Tokenizer *tokenizer, unsigned flags);
Status tokenizer_stream_push(TokenizerStream *stream, int32_t id, Text *out);
/* Also frees what the stream holds; to be called on every started stream. `out` NULL: only free. */
void tokenizer_stream_finish(TokenizerStream *stream, Text *out);

/* Largest id + 1, added tokens counted. */
int32_t tokenizer_vocab_size(const Tokenizer *tokenizer);
/* -1: the tokenizer has none. */
int32_t tokenizer_bos(const Tokenizer *tokenizer);
int32_t tokenizer_eos(const Tokenizer *tokenizer);
int32_t tokenizer_pad(const Tokenizer *tokenizer);
int32_t tokenizer_unk(const Tokenizer *tokenizer);
/* Sequences of this tokenizer start with BOS (its post-processor or add_bos_token says so, and it has one). */
bool tokenizer_adds_bos(const Tokenizer *tokenizer);
/* The id of a token by its text in the vocabulary ("<|im_end|>", "Ġthe", "▁the"); -1 if there is none. */
int32_t tokenizer_token_id(const Tokenizer *tokenizer, const char *token);
/* The reverse; borrowed, "" for an id that is unused or outside. */
const char *tokenizer_token_text(const Tokenizer *tokenizer, int32_t id);
bool tokenizer_is_special(const Tokenizer *tokenizer, int32_t id);

#endif
