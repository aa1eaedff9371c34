/* tokenizer_train.h -- making a byte-level BPE tokenizer from texts (Sennrich et al. 2016; bytes: Radford et al. 2019).
 *
 * What:  texts are cut into words by the pattern of GPT-2; the most frequent pair of neighbouring symbols inside words
 *        becomes a new token, again and again until the vocabulary has its size.
 * Rule:  the result is a function of the multiset of words, not of the texts' order or of threads: among pairs of equal count
 *        the one whose (left, right) ids are smaller goes first, as in Hugging Face's trainer. Ids: special tokens in
 *        the order given, the 256 bytes in the order of their characters, then merges in the order they were made. */
#ifndef CORE_DATA_TOKENIZER_TRAIN_H
#define CORE_DATA_TOKENIZER_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/base/text.h"

typedef struct TokenizerTrainer TokenizerTrainer;

TokenizerTrainer *tokenizer_trainer_new(void);
/* NULL is ignored; *trainer becomes NULL. */
void tokenizer_trainer_free(TokenizerTrainer **trainer);
/* Counts the words of one text. Fails where it is not UTF-8. */
Status tokenizer_trainer_add(TokenizerTrainer *trainer, const char *text, size_t size);

typedef struct TokenizerTrainConfig {
    int32_t vocab_size;    /* at least specials_count + 256; fewer come out when no pair occurs `frequency_min` times */
    int64_t frequency_min; /* a pair must occur this often to become a token (at least 1) */
    const char *const *special; // (special_count) special tokens; ids 0..special_count - 1
    int32_t special_count;
    const char *bos, *eos, *pad; /* which of them have a role; NULL: none */
    bool adds_bos;               /* sequences start with BOS */
} TokenizerTrainConfig;

/* The tokenizer.json (appended to `json`), with the roles where tokenizer_from_bytes() looks for them; Hugging Face
 * tokenizers reads it too. The trainer may go on being fed and asked again. [local] */
Status tokenizer_train(const TokenizerTrainer *trainer, const TokenizerTrainConfig *config, Text *json);

#endif
