/* main.c -- the verbs, and the one place that turns a Status into an exit code. */
#include <revision.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/text.h"
#include "launch/environment.h"
#include "launch/verbs.h"
#include "stages/stage.h"

static Status verb_help(Launch *launch, int argc, char **argv);
static Status verb_version(Launch *launch, int argc, char **argv);

static const Verb verbs[] = {
    {"sft", "sft EXPERIMENT.yaml [key=value ...]", "Supervised fine-tuning. Ranks: mpirun -np N tercet sft ...",
     verb_stage, true},
    {"rm", "rm EXPERIMENT.yaml [key=value ...]", "The reward model, from ranked answers.", verb_stage, true},
    {"ppo", "ppo EXPERIMENT.yaml [key=value ...]", "PPO against the rewards.", verb_stage, true},
    {"run", "run EXPERIMENT.yaml [--dry-run] [key=value ...]",
     "All stages of an experiment, each with the ranks it asks for; skips what is done, resumes what was interrupted.",
     verb_run, false},
    {"plan", "plan EXPERIMENT.yaml [key=value ...]",
     "The memory that each rank of an experiment will need, by stage and phase, from a dry run of the same code.",
     verb_plan, false},
    {"score",
     "score --model RM.h5 [FILE.jsonl|-] [--out FILE|-] [--normalise] [--template NAME] [--no-eos] [--max-length N] "
     "[--unit-tokens N] [--device D] [--threads N]",
     "Rewards of responses, line by line: prompt/response, messages, K responses, or chosen/rejected.", verb_score,
     true},
    {"eval",
     "eval KIND, one of\n"
     "       eval perplexity --model M [FILE|-] [--tokens] [--eos] [--out FILE] [--unit-tokens N]\n"
     "       eval preference --model RM [FILE|-] [--out FILE] [--template NAME] [--no-eos] [--max-length N]\n"
     "       eval winrate --model A --against B --prompts FILE --judge [NAME=]J... [--out FILE] [--summary FILE] ...\n"
     "       eval sample --model A [--against B] --prompts FILE [--label A] [--against-label B] ...\n"
     "       ... [--limit N] [--max-new N] [--prompt-tokens N] [--temperature T] [--seed S] [--template NAME] "
     "[--ignore-eos]; each takes [--device auto|cpu|cuda] [--threads N]",
     "Perplexity of texts; a reward model's accuracy on pairs; who wins before judges (a reward model's file, demo, "
     "words:FILE, match, length:N, each with NAME= in front if wished); answers side by side.",
     verb_eval, true},
    {"report", "report DIRECTORY [--need-accuracy X] [--need-rise JUDGE] [--need-winrate JUDGE]",
     "An experiment on one page. With a need that is not met, fails.", verb_report, false},
    {"generate",
     "generate --model M [--prompt TEXT | --file FILE.jsonl | < FILE] [--max-new N] [--temperature T] [--top-k K] "
     "[--top-p P] [--seed S] [--n N] [--stop TEXT]... [--template NAME] [--slots N] [--device auto|cpu|cuda] "
     "[--threads N]",
     "Text from a model. Temperature 0 takes the most probable token.", verb_generate, true},
    {"inspect", "inspect FILE.h5 [--digest[=parameters]]",
     "What a file holds: shapes, digests, parents, configuration.", verb_inspect, false},
    {"explain", "explain [KEY]", "A configuration key: type, default, range, and why.", verb_explain, false},
    {"export", "export --model FILE.h5 --out DIRECTORY", "A model as a Hugging Face directory.", verb_export, false},
    {"tokenizer", "tokenizer train --vocab N --out FILE.json TEXT-FILE...",
     "Train a byte-level BPE tokenizer; writes tokenizer.json.", verb_tokenizer, false},
    {"demo-data", "demo-data DIRECTORY [seed=N]", "The demonstration's data sets.", verb_demo_data, false},
    {"help", "help [VERB]", "This.", verb_help, false},
    {"version", "--version", "Build, libraries, and the instruction set picked.", verb_version, false},
};
enum { VERBS = sizeof verbs / sizeof *verbs };

static const Verb *verb_find(const char *name)
{
    for (int i = 0; i < VERBS; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

static Status verb_unknown(const char *name)
{
    const char *names[VERBS];
    for (int i = 0; i < VERBS; i++)
        names[i] = verbs[i].name;
    const char *near = text_nearest(name, names, VERBS);
    return status_error(STATUS_USAGE, "no verb '%s'%s%s; see tercet help", name, near ? "; did you mean " : "",
                        near ? near : "");
}

static Status verb_help(Launch *launch, int argc, char **argv)
{
    (void)launch;
    if (argc > 1 && strcmp(argv[1], "environment") == 0) {
        Text text = {0};
        environment_explain(&text);
        fputs(text_string(&text), stdout);
        text_free(&text);
        return status_ok();
    }
    if (argc > 1) {
        const Verb *verb = verb_find(argv[1]);
        if (!verb)
            return verb_unknown(argv[1]);
        printf("tercet %s\n\n%s\n", verb->usage, verb->help);
        return status_ok();
    }
    printf("Tercet: SFT, reward model and PPO in one program.\n\n");
    for (int i = 0; i < VERBS; i++)
        printf("  %-10s %s\n", verbs[i].name, verbs[i].help);
    printf("\ntercet help VERB says how to call it; tercet explain KEY what a key of an experiment means; tercet help "
           "environment what the "
           "environment may say.\nExit codes: 0 done, 1 a fault of ours, 2 usage or configuration, 3 bad input, 4 "
           "system, 5 memory, 6 numbers, 7 another "
           "rank failed, 8 stopped and resumable.\n");
    return status_ok();
}

static Status verb_version(Launch *launch, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    TRY(launch_device(launch, &(DeviceWish){.device = "cpu", .threads = CONFIG_AUTO}));
    printf("tercet %s (%s, %s)\n%s\n%s\n", TERCET_VERSION, TERCET_REVISION, TERCET_BUILD,
           device_describe(&launch->device), devices_cuda_line());
    return status_ok();
}

Status launch_comm(Launch *launch)
{
    if (launch->bootstrapped)
        return status_ok();
    TRY(bootstrap_open(&launch->bootstrap));
    launch->bootstrapped = true;
    return status_ok();
}

Status launch_device(Launch *launch, const DeviceWish *wish)
{
    TRY(launch_comm(launch));
    if (launch->device_opened)
        return status_ok();
    TRY(devices_open(&launch->bootstrap, wish, &launch->device));
    launch->device_opened = true;
    return status_ok();
}

Status launch_config(Launch *launch, const char *path, char **overrides, int count, Config **config)
{
    if (launch->schema.count == 0)
        stages_schema(&launch->schema);
    int variables_count = 0;
    ConfigSource source = {
        .path = path,
        .overrides = (const char *const *)overrides,
        .overrides_count = count,
        .variables = environment_path_variables(&variables_count),
    };
    source.variables_count = variables_count;
    return config_open(source, &launch->schema, config);
}

/* TERCET_LOG: quiet, warn, info or debug. */
static Status set_log_level(void)
{
    static const char *const levels[] = {"quiet", "warn", "info", "debug"};
    const char *level = environment_get(ENVIRONMENT_LOG);
    if (environment_get(ENVIRONMENT_LIVE))
        log_set_live(true);
    if (!level)
        return status_ok();
    for (int i = 0; i < 4; i++)
        if (strcmp(level, levels[i]) == 0) {
            log_set_level((LogLevel)i);
            return status_ok();
        }
    return status_error(STATUS_USAGE, "TERCET_LOG is '%s'; expected quiet, warn, info or debug", level);
}

/* One line for a failure, however many ranks have it: the first that failed tells. Ranks that failed alike without asking each other do so
 * here, and a rank that left by itself meets the others at their next agreement. */
static void tell_failure(Launch *launch, Status status)
{
    const char *launcher = NULL;
    int launched = environment_launched_ranks(&launcher);
    if (!launch->bootstrapped && launched != 0 && launched != 1) {
        Text message = {0};
        text_append_string(&message, status_message());
        Status opened = launch_comm(launch);
        if (!status_failed(opened)) /* the first message is the one to tell */
            opened = status_error(status.code, "%s", text_string(&message));
        text_free(&message);
        status = opened;
    }
    if (launch->bootstrapped && comm_size(launch->bootstrap.comm) > 1) {
        if (comm_failed_rank(launch->bootstrap.comm) < 0)
            status = comm_agree(launch->bootstrap.comm, status);
        if (comm_failed_rank(launch->bootstrap.comm) != comm_rank(launch->bootstrap.comm))
            return;
    }
    log_error("%s", status_message());
}

int main(int argc, char **argv)
{
    Launch launch = {0};
    char program[4096];
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);
    program[size > 0 ? size : 0] = 0;
    launch.program = size > 0 ? program : argv[0];
    char *help[] = {(char *)"help"};
    int words = argc - 1;
    char **word = argv + 1;
    if (words == 0 || strcmp(word[0], "--help") == 0 || strcmp(word[0], "-h") == 0) {
        words = 1;
        word = help;
    } else if (strcmp(word[0], "--version") == 0) {
        word[0] = (char *)"version";
    }
    const Verb *verb = verb_find(word[0]);
    bootstrap_calm_threads(verb && verb->computes ? argv : NULL);
    Status status = set_log_level();
    if (!status_failed(status))
        status = verb ? verb->run(&launch, words, word) : verb_unknown(word[0]);
    if (status.code == STATUS_STOPPED)
        log_info("%s", status_message());
    else if (status_failed(status))
        tell_failure(&launch, status);
    if (fflush(stdout) != 0 && !status_failed(status))
        status.code = STATUS_IO;
    if (launch.device_opened)
        devices_close(&launch.bootstrap, &launch.device);
    config_schema_free(&launch.schema);
    if (launch.bootstrapped)
        bootstrap_close(&launch.bootstrap);
    return (int)status.code;
}
