/* words.h -- a tokenizer whose tokens are single bytes, and small files, so that a test can count tokens by hand. */
#ifndef TESTS_SUPPORT_WORDS_H
#define TESTS_SUPPORT_WORDS_H

#include "core/data/dataset.h"

enum { WORDS_BOS = 0, WORDS_EOS = 1, WORDS_END = 2 }; /* <bos>, <eos>, <|im_end|> */

/* Byte-level, no merges; BOS in front if `adds_bos`. */
Tokenizer *words_tokenizer(bool adds_bos);
/* The same as tokenizer.json in the test's directory; the path. */
const char *words_tokenizer_file(bool adds_bos);
/* Writes `text` to NAME in the test's directory; the path (support_path's ring). */
const char *words_file(const char *name, const char *text);
/* The defaults of data_config_keys and data_source_keys. */
DataConfig words_config(void);
DataSource words_source(const char *path);
/* dataset_open on one process, cached in the test's directory. */
Status words_open(DatasetKind kind, const DataSource *sources, int count, const DataConfig *config,
                  const Tokenizer *tokenizer, Dataset **dataset);
/* The text of a sequence: special tokens as "<bos>", "<eos>". Fresh string of a ring of 16. */
const char *words_text(const Tokenizer *tokenizer, Sequence sequence);
/* The text with those tokens bracketed that carry loss: "<bos>hi[yes<eos>]". Same ring. */
const char *words_loss(const Tokenizer *tokenizer, Sequence sequence);

#endif
