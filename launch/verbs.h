/* verbs.h -- what the program can be asked to do: one row per verb, and what every verb is handed.
 *
 * A verb parses its own words (argv[0] is the verb), asks for a Comm or a Device only if it needs one, and returns a Status; main turns that into
 * the exit code. */
#ifndef LAUNCH_VERBS_H
#define LAUNCH_VERBS_H

#include "core/config/config.h"
#include "core/tensor/device.h"
#include "launch/bootstrap.h"
#include "launch/devices.h"

typedef struct Launch {
    const char *program; /* absolute path of this binary */
    Bootstrap bootstrap;
    bool bootstrapped;
    Device device;
    bool device_opened;
    ConfigSchema schema; /* rows of all rooms, after launch_schema */
} Launch;

typedef struct Verb {
    const char *name, *usage, *help;
    Status (*run)(Launch *launch, int argc, char **argv);
    bool computes; /* on many threads, in this very process */
} Verb;

/* Ranks: comm_self() or MPI. Once. [collective] */
Status launch_comm(Launch *launch);
/* launch_comm, threads, and the device. [collective] */
Status launch_device(Launch *launch, const DeviceWish *wish);
/* The experiment at `path` (NULL: none) with overrides "key=value". */
Status launch_config(Launch *launch, const char *path, char **overrides, int count, Config **config);

/* --- Command lines: --name VALUE or --name=VALUE, then positional words --- */
typedef enum OptionType { OPTION_STRING, OPTION_INT, OPTION_FLOAT, OPTION_FLAG, OPTION_STRINGS } OptionType;
enum { OPTION_STRINGS_MAX = 32 };
typedef struct OptionStrings {
    const char *items[OPTION_STRINGS_MAX];
    int count;
} OptionStrings;
typedef struct Option {
    const char *name; /* "--max-new"; a list ends with NULL */
    OptionType type;
    void *value; /* const char **, int64_t *, double *, bool *, OptionStrings * */
} Option;
/* Fills values; words that are no options go to `words` (at most words_max), in order. "-" is a word. STATUS_USAGE names what is wrong, and the nearest option. */
Status options_parse(int argc, char **argv, const Option *options, const char **words, int words_max, int *words_count);

Status verb_stage(Launch *launch, int argc, char **argv); /* sft, rm, ppo */
Status verb_run(Launch *launch, int argc, char **argv);   /* the orchestrator */
Status verb_plan(Launch *launch, int argc, char **argv);
Status verb_inspect(Launch *launch, int argc, char **argv);
Status verb_explain(Launch *launch, int argc, char **argv);
Status verb_generate(Launch *launch, int argc, char **argv);
Status verb_score(Launch *launch, int argc, char **argv);
Status verb_eval(Launch *launch, int argc, char **argv);
Status verb_report(Launch *launch, int argc, char **argv);
Status verb_tokenizer(Launch *launch, int argc, char **argv);
Status verb_demo_data(Launch *launch, int argc, char **argv);
Status verb_export(Launch *launch, int argc, char **argv);

#endif
