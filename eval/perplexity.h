/* perplexity.h -- how well a language model predicts texts, and the log-probability of each token, to compare with any other program.
 *
 * Records: {"text": ...}, which gets BOS where the tokenizer adds one, or {"tokens": [...]}, taken as they are. The first token of a text is not
 * predicted. A text longer than the model takes is read in windows of positions_max that overlap by half, so every token but those of the first window
 * has at least half a window of context; each is counted once. */
#ifndef EVAL_PERPLEXITY_H
#define EVAL_PERPLEXITY_H

#include "core/base/text.h"
#include "core/comm/comm.h"

typedef struct PerplexityOptions {
    const char *model; /* HDF5 file or Hugging Face directory */
    const char *input; /* JSON lines or an array; "-": standard input */
    const char
        *output; /* a line {"tokens": [...], "logprobs": [null, ...]} for each record: a file, or "-"; NULL: none */
    bool eos;    /* texts end in EOS, which is predicted too */
    int64_t unit_tokens; /* in one forward */
} PerplexityOptions;

typedef struct PerplexityReport {
    int64_t records, predicted;         /* tokens with a log-prob */
    int64_t text_bytes, text_predicted; /* of {"text"} records alone */
    double nll, text_nll;               /* sums of -log p, nats */
    double seconds;
} PerplexityReport;

/* A malformed record, or an id outside the vocabulary: STATUS_INPUT names the line; what came before it is written to a pipe, and a file does not
 * appear. Equal report on every rank. [collective] */
Status perplexity_run(Comm *comm, Device *device, const PerplexityOptions *options, PerplexityReport *report);
void perplexity_table(const PerplexityReport *report, Text *text);

#endif
