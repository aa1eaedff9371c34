/* score.h -- the scoring tool: lines of JSON in, the same lines with their rewards out, in order, as a stream.
 *
 * Every record comes back with one more key: "reward", or "rewards" where it holds several responses, or "rewards" (chosen, rejected) and "margin"
 * where it is a pair. Rank 0 reads and writes; every rank scores. A round of records is cut into units by tokens, so a reward's bits are a
 * function of the input, not of the number of ranks. */
#ifndef REWARDS_SCORE_H
#define REWARDS_SCORE_H

#include "core/data/template.h"
#include "rewards/reward_model.h"

typedef struct ScoreOptions {
    const char *model;     /* a reward model: HDF5 file or Hugging Face directory */
    const char *input;     /* JSONL or a JSON array; "-": standard input */
    const char *output;    /* a file, whole or absent; "-": standard output; NULL: none */
    TemplateKind template; /* of prompts and answers */
    bool append_eos;       /* texts that are no conversation end in EOS */
    int64_t max_length;    /* tokens; longer sequences lose their end; 0: longer than the model takes is an error */
    int64_t unit_tokens;   /* in one forward */
    bool normalise;        /* (reward - mean) / deviation as stored with the model */
} ScoreOptions;

typedef struct ScoreReport {
    int64_t records, answers, tokens;
    double mean, deviation, least, most; /* of the rewards */
    int64_t pairs, correct, tied;        /* pairs whose order is known; reward of the better one higher; equal */
    double margin;                       /* mean of better minus worse */
    double seconds;
} ScoreReport;

/* On a malformed record: what came before it is written (standard output) or nothing is (a file), and STATUS_INPUT names the line. Equal report on
 * every rank. [collective] */
Status score_run(Comm *comm, Device *device, const ScoreOptions *options, ScoreReport *report);
/* Two or three lines for a person, to the log. */
void score_report_log(const ScoreReport *report);

#endif
