/* preference.h -- how often a reward model prefers what people preferred: accuracy and margins on pairs or ranked answers. */
#ifndef EVAL_PREFERENCE_H
#define EVAL_PREFERENCE_H

#include "eval/interval.h"
#include "rewards/score.h"

typedef struct PreferenceReport {
    ScoreReport score;
    double accuracy;   /* ties count as wrong */
    Interval interval; /* 95 %; takes pairs as independent, so it is too narrow where several come from one prompt */
} PreferenceReport;

/* Score every record of options->input, which must hold pairs or ranked answers (STATUS_INPUT if none does); options->output as in score_run. [collective] */
Status preference_run(Comm *comm, Device *device, const ScoreOptions *options, PreferenceReport *report);
void preference_table(const PreferenceReport *report, Text *text);

#endif
