/* trained_with.h -- how a model's training made tokens of text, read from its checkpoint, so that who scores or asks it need not repeat it. */
#ifndef LAUNCH_TRAINED_WITH_H
#define LAUNCH_TRAINED_WITH_H

#include "core/data/template.h"
#include "launch/verbs.h"

/* What the command line said; the rest comes from the checkpoint. */
typedef struct TrainedWithOptions {
    const char *section;       /* of the configuration: "sft", "rm", "ppo" */
    const char *template_name; /* NULL: the checkpoint's */
    bool no_eos;               /* texts do not end in EOS, whatever the checkpoint says */
    int64_t max_length;        /* CONFIG_AUTO: the checkpoint's; 0: no limit */
} TrainedWithOptions;

typedef struct TrainedWith {
    TemplateKind template;
    bool append_eos;
    int64_t max_length; /* 0: no limit */
    /* How PPO asked for answers, where the checkpoint's configuration has a section `ppo`; else 128 tokens at temperature 1. */
    int64_t max_new, prompt_tokens; /* prompt_tokens 0: whole prompts */
    double temperature;
    bool ignore_end;
} TrainedWith;

/* A model that is no checkpoint, or one without that section, gives the plain format, EOS, and no limit. STATUS_USAGE: no such format. [local] */
Status trained_with(const char *model, const TrainedWithOptions *options, TrainedWith *trained);

#endif
