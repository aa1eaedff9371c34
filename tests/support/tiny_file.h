/* tiny_file.h -- the small model of tiny.h with a tokenizer of its own, as a checkpoint that the tools can be given. */
#ifndef TESTS_SUPPORT_TINY_FILE_H
#define TESTS_SUPPORT_TINY_FILE_H

#include "core/data/tokenizer.h"
#include "tests/support/tiny.h"

/* Byte-level BPE of at most `vocab` (>= 258) tokens, trained on a few sentences; BOS in front, EOS. */
Tokenizer *tiny_tokenizer(int32_t vocab);
/* tiny_shape() for that tokenizer. */
ModelShape tiny_file_shape(const Tokenizer *tokenizer);
/* The tied llama of tiny_shape() for that tokenizer, parameters fresh, as a Hugging Face directory. */
void tiny_export(const char *path, const Tokenizer *tokenizer, uint64_t seed);
/* A complete checkpoint; a scalar head is filled too, and `mean` and `deviation` of its rewards stand in the state. */
void tiny_save(const char *path, const Tokenizer *tokenizer, HeadKind head, uint64_t seed, float gain, double mean,
               double deviation);

#endif
