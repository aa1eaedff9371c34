/* winrate.h -- two policies on the same prompts, with the same random numbers, before the same judges: who wins how often. */
#ifndef EVAL_WINRATE_H
#define EVAL_WINRATE_H

#include "eval/answers.h"
#include "eval/interval.h"

typedef struct WinrateOptions {
    AnswerOptions answers;     /* answers.model: A */
    const char *against;       /* B */
    const char *prompts;       /* a file */
    int64_t limit;             /* prompts used; 0: all */
    const char *const *judges; /* (judges_count), as judges.h reads them */
    int judges_count;
    const char
        *output; /* JSON lines {"prompt", "a", "b", "judges": {NAME: [a, b]}}; "-": standard output; NULL: none */
    const char *summary; /* one JSON file of the report, for `tercet report`; NULL: none */
} WinrateOptions;

typedef struct WinrateJudge {
    char name[72];
    int64_t wins, ties, losses;      /* of A */
    double rate;                     /* (wins + ties / 2) / prompts */
    Interval rate_interval;          /* 95 %, bootstrap over prompts */
    double mean_a, mean_b;           /* rewards; of a judge that says 1 or 0, shares */
    Interval interval_a, interval_b; /* 95 %; Wilson's where all rewards are 0 or 1, else bootstrap */
} WinrateJudge;

typedef struct WinrateReport {
    int64_t prompts;
    int judges;
    WinrateJudge judge[REWARDS_MAX];
    double length_a, length_b;   /* mean tokens of an answer */
    double stopped_a, stopped_b; /* share that ended by itself */
} WinrateReport;

/* Equal report on every rank. [collective] */
Status winrate_run(Comm *comm, Device *device, const WinrateOptions *options, WinrateReport *report);
void winrate_table(const WinrateReport *report, Text *text);

#endif
