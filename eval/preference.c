/* preference.c -- see preference.h. */
#include "eval/preference.h"

Status preference_run(Comm *comm, Device *device, const ScoreOptions *options, PreferenceReport *report)
{
    *report = (PreferenceReport){0};
    ScoreReport *score = &report->score;
    TRY(score_run(comm, device, options, score));
    if (score->pairs == 0)
        return status_error(STATUS_INPUT,
                            "%s: expected pairs (\"chosen\" and \"rejected\") or \"responses\" with \"ranks\" or "
                            "\"scores\" that differ, found none in %lld records",
                            options->input, (long long)score->records);
    report->accuracy = (double)score->correct / (double)score->pairs;
    report->interval = interval_wilson((double)score->correct, (double)score->pairs);
    return status_ok();
}

void preference_table(const PreferenceReport *report, Text *text)
{
    const ScoreReport *score = &report->score;
    text_printf(text, "pairs      %lld in %lld records\n", (long long)score->pairs, (long long)score->records);
    text_printf(text, "accuracy   %.4f  [%.4f, %.4f]\n", report->accuracy, report->interval.low, report->interval.high);
    text_printf(text, "margin     %.4f\n", score->margin);
    text_printf(text, "ties       %lld (counted as wrong)\n", (long long)score->tied);
    text_printf(text, "rewards    %.4f mean, %.4f deviation\n", score->mean, score->deviation);
}
