/* report.h -- an experiment on one page: what each stage began and ended with, who won, and where the time went.
 *
 * Reads what a run leaves in its directory: {sft,rm,ppo}/metrics.jsonl and timings.jsonl, and the summaries of `tercet eval winrate` in
 * eval/ (every .json file there). What is not there is left out of the table. */
#ifndef EVAL_REPORT_H
#define EVAL_REPORT_H

#include "core/base/text.h"

/* Demands on the figures, for scripts. NULL or 0: none. */
typedef struct ReportNeeds {
    double accuracy; /* the reward model's last held-out accuracy is at least this */
    const char *
        rise; /* a judge whose mean reward in PPO's last iterations (a tenth of them) is above that in the first ones */
    const char *winrate; /* a judge before whom the win rate's lower bound is above 0.5 */
} ReportNeeds;

/* Appends the table. STATUS_INPUT: nothing to report, or a damaged file (named with its line). [local] */
Status report_write(const char *directory, Text *text);
/* STATUS_NUMERIC names the first demand that is not met; STATUS_INPUT the figure that is not there. [local] */
Status report_check(const char *directory, const ReportNeeds *needs);

#endif
