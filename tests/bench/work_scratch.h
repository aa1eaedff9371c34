/* work_scratch.h -- what works that run whole stages stand on: a directory that goes away again, models in files, a tokenizer of any size. */
#ifndef TESTS_BENCH_WORK_SCRATCH_H
#define TESTS_BENCH_WORK_SCRATCH_H

#include "core/config/config.h"
#include "core/data/tokenizer.h"
#include "tests/bench/work.h"

typedef struct Scratch {
    char *path; /* the same on every rank */
} Scratch;

/* A fresh directory in option dir=. [collective] */
Status scratch_open(Bench *bench, Scratch *scratch);
/* Removes it with all it holds. Fine to call when it was never opened. [collective] */
void scratch_close(Bench *bench, Scratch *scratch);
/* PATH/name (memory_free it) */
char *scratch_path(const Scratch *scratch, const char *name);

/* A byte-level tokenizer of exactly `vocab` tokens: 256 bytes, then words that no merge ever makes, so that a text has as many tokens as bytes and any
 * id decodes to something. */
Status tokenizer_of_bytes(int64_t vocab, Tokenizer **tokenizer);
/* A model of a named shape with random weights, score head included, as the final.h5 of a stage. One rank writes. [collective] */
Status model_file_write(Bench *bench, const char *shape, HeadKind head, const Tokenizer *tokenizer, const char *path);
/* A configuration of nothing but "key=value" words, by the program's own schema. Both stay open until config_close and config_schema_free. */
Status config_of_words(ConfigSchema *schema, const char *const *words, int count, Config **config);

#endif
