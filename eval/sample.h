/* sample.h -- a few prompts with the answer of one policy, or of two side by side: what figures do not show. */
#ifndef EVAL_SAMPLE_H
#define EVAL_SAMPLE_H

#include "eval/answers.h"

typedef struct SampleOptions {
    AnswerOptions answers; /* answers.model: A */
    const char *against;   /* B; NULL: A alone */
    const char *prompts;   /* a file */
    int64_t limit;         /* prompts from its start; 0: all */
    const char *label_a, *label_b;
} SampleOptions;

/* Appends the samples to `text` on every rank. [collective] */
Status sample_run(Comm *comm, Device *device, const SampleOptions *options, Text *text);

#endif
