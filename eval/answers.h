/* answers.h -- one answer of a policy to each prompt of a file, and what judges say of them.
 *
 * Prompts are answered in units of UNIT_PROMPTS in the file's order, each unit decoded by one rank, and sample i draws from the random stream of
 * (seed, i): the answers are a function of model, prompts and options, and two models that are compared draw the same numbers. */
#ifndef EVAL_ANSWERS_H
#define EVAL_ANSWERS_H

#include "core/data/template.h"
#include "rewards/reward.h"

enum { UNIT_PROMPTS = 32 };

/* Records of a prompts file: JSON lines or an array, of any shape that holds a prompt (score_record.h), or a .tsv of rating<TAB>text. */
typedef struct Prompts {
    char *path;
    char **record; /* (count) one line of JSON each */
    int64_t *line; /* (count) where it stands in the file */
    int64_t count, capacity;
} Prompts;

/* At most `limit` records from the start (0: all). No prompt at all is STATUS_INPUT. [local] */
Status prompts_read(Prompts *prompts, const char *path, int64_t limit);
void prompts_free(Prompts *prompts);

typedef struct AnswerOptions {
    const char *model; /* a policy: HDF5 file or Hugging Face directory */
    TemplateKind template;
    int64_t prompt_tokens; /* of each prompt, only the first so many tokens; 0: all */
    int64_t max_new;       /* tokens of an answer at most, its end token included */
    double temperature;    /* 0: greedy */
    bool ignore_end;       /* the end token ends nothing: every answer has max_new tokens */
    uint64_t seed;
} AnswerOptions;

typedef struct Answer {
    int32_t *token; /* (count) prompt, then answer */
    int64_t count, prompt_count;
    char *prompt, *response; /* as text, without special tokens */
    bool stopped;            /* by itself */
} Answer;

typedef struct Answers {
    int64_t count;
    Answer *answer; /* (count), equal on every rank */
    Tokenizer *tokenizer;
    char digest[40]; /* of the model */
} Answers;

/* Load the model, answer, let go of the model. [collective] */
Status answers_make(Answers *answers, Comm *comm, Device *device, const Prompts *prompts, const AnswerOptions *options);
void answers_free(Answers *answers);
/* score[r] (answers->count) of each judge, and total: as rewards_score, over all ranks. [collective] */
Status answers_judge(const Answers *answers, Comm *comm, Device *device, const Prompts *prompts, const Rewards *rewards,
                     float *const score[REWARDS_MAX]);

#endif
