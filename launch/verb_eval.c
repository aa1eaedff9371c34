/* verb_eval.c -- `tercet eval perplexity|preference|winrate|sample` and `tercet report`: the command line of eval/. */
#include <stdio.h>
#include <string.h>

#include "eval/perplexity.h"
#include "eval/preference.h"
#include "eval/report.h"
#include "eval/sample.h"
#include "eval/winrate.h"
#include "launch/trained_with.h"
#include "launch/verbs.h"

/* Rank 0's result, to standard output. */
static void print_text(const Launch *launch, Text *text)
{
    if (comm_rank(launch->bootstrap.comm) == 0)
        fputs(text_string(text), stdout);
    text_free(text);
}

/* A table beside results that go to standard output themselves would mix with them. */
static void print_table(const Launch *launch, const char *output, Text *table)
{
    if (output && strcmp(output, "-") == 0 && comm_rank(launch->bootstrap.comm) == 0) {
        fputs(text_string(table), stderr);
        text_free(table);
    } else {
        print_text(launch, table);
    }
}

static Status need_option(const char *verb, const char *name, const char *value)
{
    return value ? status_ok() : status_error(STATUS_USAGE, "eval %s: %s is needed; see tercet help eval", verb, name);
}

static Status eval_perplexity(Launch *launch, int argc, char **argv)
{
    PerplexityOptions options = {.input = "-", .unit_tokens = 4096};
    DeviceWish wish = {.threads = CONFIG_AUTO};
    bool tokens = false;
    const Option table[] = {
        {"--model", OPTION_STRING, &options.model},          {"--tokens", OPTION_FLAG, &tokens},
        {"--out", OPTION_STRING, &options.output},           {"--eos", OPTION_FLAG, &options.eos},
        {"--device", OPTION_STRING, &wish.device},           {"--threads", OPTION_INT, &wish.threads},
        {"--unit-tokens", OPTION_INT, &options.unit_tokens}, {NULL, OPTION_FLAG, NULL},
    };
    const char *words[1];
    int count = 0;
    TRY(options_parse(argc, argv, table, words, 1, &count));
    TRY(need_option("perplexity", "--model", options.model));
    if (options.unit_tokens < 1)
        return status_error(STATUS_USAGE, "--unit-tokens: expected a number from 1");
    if (count)
        options.input = words[0];
    if (tokens && !options.output)
        options.output = "-";
    TRY(launch_device(launch, &wish));
    PerplexityReport report;
    Text text = {0};
    TRY(perplexity_run(launch->bootstrap.comm, &launch->device, &options, &report));
    perplexity_table(&report, &text);
    print_table(launch, options.output, &text);
    return status_ok();
}

static Status eval_preference(Launch *launch, int argc, char **argv)
{
    ScoreOptions options = {.input = "-", .unit_tokens = 4096};
    TrainedWithOptions with = {.section = "rm", .max_length = CONFIG_AUTO};
    DeviceWish wish = {.threads = CONFIG_AUTO};
    const Option table[] = {
        {"--model", OPTION_STRING, &options.model},
        {"--out", OPTION_STRING, &options.output},
        {"--template", OPTION_STRING, &with.template_name},
        {"--no-eos", OPTION_FLAG, &with.no_eos},
        {"--max-length", OPTION_INT, &with.max_length},
        {"--unit-tokens", OPTION_INT, &options.unit_tokens},
        {"--device", OPTION_STRING, &wish.device},
        {"--threads", OPTION_INT, &wish.threads},
        {NULL, OPTION_FLAG, NULL},
    };
    const char *words[1];
    int count = 0;
    TRY(options_parse(argc, argv, table, words, 1, &count));
    TRY(need_option("preference", "--model", options.model));
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
    PreferenceReport report;
    Text text = {0};
    TRY(preference_run(launch->bootstrap.comm, &launch->device, &options, &report));
    preference_table(&report, &text);
    print_table(launch, options.output, &text);
    return status_ok();
}

/* Words that winrate and sample share. What is not given is what the model was trained with. */
typedef struct AnswerWords {
    TrainedWithOptions with;
    int64_t max_new, prompt_tokens, seed, limit;
    DeviceWish wish;
    double temperature;
    bool ignore_end;
} AnswerWords;

static Status answer_options(const AnswerWords *words, AnswerOptions *options)
{
    TrainedWith trained;
    TRY(trained_with(options->model, &words->with, &trained));
    options->template = trained.template;
    options->max_new = words->max_new == CONFIG_AUTO ? trained.max_new : words->max_new;
    options->prompt_tokens = words->prompt_tokens == CONFIG_AUTO ? trained.prompt_tokens : words->prompt_tokens;
    options->temperature = words->temperature < 0 ? trained.temperature : words->temperature;
    options->ignore_end = words->ignore_end || trained.ignore_end;
    options->seed = (uint64_t)words->seed;
    if (options->max_new < 1 || options->prompt_tokens < 0 || words->limit < 0 || words->seed < 0)
        return status_error(STATUS_USAGE,
                            "eval: expected --max-new from 1, --prompt-tokens, --limit and --seed from 0");
    return status_ok();
}

#define ANSWER_WORDS                                                                                                   \
    (AnswerWords)                                                                                                      \
    {                                                                                                                  \
        .with = {.section = "ppo", .max_length = CONFIG_AUTO}, .max_new = CONFIG_AUTO, .prompt_tokens = CONFIG_AUTO,   \
        .wish = {.threads = CONFIG_AUTO}, .temperature = -1                                                            \
    }
#define ANSWER_OPTIONS(words)                                                                                          \
    {"--template", OPTION_STRING, &(words).with.template_name}, {"--max-new", OPTION_INT, &(words).max_new},           \
        {"--prompt-tokens", OPTION_INT, &(words).prompt_tokens},                                                       \
        {"--temperature", OPTION_FLOAT, &(words).temperature}, {"--seed", OPTION_INT, &(words).seed},                  \
        {"--limit", OPTION_INT, &(words).limit}, {"--ignore-eos", OPTION_FLAG, &(words).ignore_end},                   \
        {"--device", OPTION_STRING, &(words).wish.device},                                                             \
    {                                                                                                                  \
        "--threads", OPTION_INT, &(words).wish.threads                                                                 \
    }

static Status eval_winrate(Launch *launch, int argc, char **argv)
{
    WinrateOptions options = {0};
    AnswerWords words = ANSWER_WORDS;
    OptionStrings judges = {0};
    const Option table[] = {
        {"--model", OPTION_STRING, &options.answers.model},
        {"--against", OPTION_STRING, &options.against},
        {"--prompts", OPTION_STRING, &options.prompts},
        {"--judge", OPTION_STRINGS, &judges},
        {"--out", OPTION_STRING, &options.output},
        {"--summary", OPTION_STRING, &options.summary},
        ANSWER_OPTIONS(words),
        {NULL, OPTION_FLAG, NULL},
    };
    int count = 0;
    TRY(options_parse(argc, argv, table, NULL, 0, &count));
    TRY(need_option("winrate", "--model", options.answers.model));
    TRY(need_option("winrate", "--against", options.against));
    TRY(need_option("winrate", "--prompts", options.prompts));
    TRY(need_option("winrate", "--judge", judges.count ? judges.items[0] : NULL));
    options.judges = judges.items;
    options.judges_count = judges.count;
    options.limit = words.limit;
    TRY(launch_device(launch, &words.wish));
    TRY(comm_agree(launch->bootstrap.comm, answer_options(&words, &options.answers)));
    WinrateReport report;
    Text text = {0};
    TRY(winrate_run(launch->bootstrap.comm, &launch->device, &options, &report));
    text_printf(&text, "A %s\nB %s\n", options.answers.model, options.against);
    winrate_table(&report, &text);
    print_table(launch, options.output, &text);
    return status_ok();
}

static Status eval_sample(Launch *launch, int argc, char **argv)
{
    SampleOptions options = {0};
    AnswerWords words = ANSWER_WORDS;
    words.limit = 3;
    const Option table[] = {
        {"--model", OPTION_STRING, &options.answers.model},
        {"--against", OPTION_STRING, &options.against},
        {"--prompts", OPTION_STRING, &options.prompts},
        {"--label", OPTION_STRING, &options.label_a},
        {"--against-label", OPTION_STRING, &options.label_b},
        ANSWER_OPTIONS(words),
        {NULL, OPTION_FLAG, NULL},
    };
    int count = 0;
    TRY(options_parse(argc, argv, table, NULL, 0, &count));
    TRY(need_option("sample", "--model", options.answers.model));
    TRY(need_option("sample", "--prompts", options.prompts));
    options.limit = words.limit;
    TRY(launch_device(launch, &words.wish));
    TRY(comm_agree(launch->bootstrap.comm, answer_options(&words, &options.answers)));
    Text text = {0};
    Status status = sample_run(launch->bootstrap.comm, &launch->device, &options, &text);
    print_text(launch, &text);
    return status;
}

Status verb_eval(Launch *launch, int argc, char **argv)
{
    static const struct {
        const char *name;
        Status (*run)(Launch *launch, int argc, char **argv);
    } kinds[] = {
        {"perplexity", eval_perplexity},
        {"preference", eval_preference},
        {"winrate", eval_winrate},
        {"sample", eval_sample},
    };
    for (size_t k = 0; argc > 1 && k < sizeof kinds / sizeof kinds[0]; k++)
        if (strcmp(argv[1], kinds[k].name) == 0)
            return kinds[k].run(launch, argc - 1, argv + 1);
    return status_error(STATUS_USAGE, "eval: expected perplexity, preference, winrate or sample, found %s",
                        argc > 1 ? argv[1] : "nothing");
}

Status verb_report(Launch *launch, int argc, char **argv)
{
    (void)launch;
    ReportNeeds needs = {0};
    const Option table[] = {
        {"--need-accuracy", OPTION_FLOAT, &needs.accuracy},
        {"--need-rise", OPTION_STRING, &needs.rise},
        {"--need-winrate", OPTION_STRING, &needs.winrate},
        {NULL, OPTION_FLAG, NULL},
    };
    const char *words[1];
    int count = 0;
    TRY(options_parse(argc, argv, table, words, 1, &count));
    if (count != 1)
        return status_error(STATUS_USAGE, "report needs the directory of an experiment: tercet report DIRECTORY");
    Text text = {0};
    Status status = report_write(words[0], &text);
    if (!status_failed(status))
        fputs(text_string(&text), stdout);
    text_free(&text);
    TRY(status);
    return report_check(words[0], &needs);
}
