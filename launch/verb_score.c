/* verb_score.c -- `tercet score`: rewards of a reward model for lines of JSON. */

#include "launch/trained_with.h"
#include "launch/verbs.h"
#include "rewards/score.h"

Status verb_score(Launch *launch, int argc, char **argv)
{
    ScoreOptions options = {.input = "-", .output = "-", .unit_tokens = 4096};
    TrainedWithOptions with = {.section = "rm", .max_length = CONFIG_AUTO};
    DeviceWish wish = {.threads = CONFIG_AUTO};
    const Option table[] = {
        {"--model", OPTION_STRING, &options.model},         {"--out", OPTION_STRING, &options.output},
        {"--template", OPTION_STRING, &with.template_name}, {"--no-eos", OPTION_FLAG, &with.no_eos},
        {"--max-length", OPTION_INT, &with.max_length},     {"--unit-tokens", OPTION_INT, &options.unit_tokens},
        {"--normalise", OPTION_FLAG, &options.normalise},   {"--device", OPTION_STRING, &wish.device},
        {"--threads", OPTION_INT, &wish.threads},           {NULL, OPTION_FLAG, NULL},
    };
    const char *words[1];
    int count = 0;
    TRY(options_parse(argc, argv, table, words, 1, &count));
    if (!options.model)
        return status_error(STATUS_USAGE, "score: --model is needed; see tercet help score");
    if (options.unit_tokens < 1)
        return status_error(STATUS_USAGE, "--unit-tokens: expected a number from 1");
    if (count)
        options.input = words[0];
    TRY(launch_device(launch, &wish));
    TrainedWith trained;
    TRY(comm_agree(launch->bootstrap.comm, trained_with(options.model, &with, &trained)));
    options.template = trained.template;
    options.append_eos = trained.append_eos;
    options.max_length = trained.max_length;
    ScoreReport report;
    TRY(score_run(launch->bootstrap.comm, &launch->device, &options, &report));
    score_report_log(&report);
    return status_ok();
}
