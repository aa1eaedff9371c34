/* pipeline.h -- `tercet run`: the stages of an experiment, one after another, each as a job of its own.
 *
 * Why:   a stage is a program under mpirun with the ranks that it asks for; something has to start them in order, leave
 *        out what is done, go on with what was interrupted, and stop with the reason when one fails.
 * How:   before each stage its judge says what to do, since the stage before may have changed its inputs. A stage goes on
 *        from its newest checkpoint by itself, so running and resuming are one command. After it the judge must find it
 *        complete. Everything that was run and said is added to OUTPUT/run.log.
 * Safe:  OUTPUT/.run.lock is held for the whole run (lock.h); before the first stage the ranks of a killed run are waited
 *        for, and their temporary files removed. Who kills us kills the launcher, and that the ranks (process.h). */
#ifndef LAUNCH_PIPELINE_H
#define LAUNCH_PIPELINE_H

#include "core/base/text.h"

typedef enum PipelineAction {
    PIPELINE_RUN,    /* nothing there yet */
    PIPELINE_RESUME, /* interrupted: it has checkpoints that fit */
    PIPELINE_RESTART, /* what is there was made from other inputs or another configuration: it is put aside (DIRECTORY.old.1,
                       * .old.2, ...), and the stage begins again */
    PIPELINE_SKIP, /* complete, and made from what is there now */
} PipelineAction;

typedef struct PipelineVerdict {
    PipelineAction action;
    Text reason; /* one line for a person: "final.h5 is complete, inputs unchanged"; freed by the pipeline */
} PipelineVerdict;

typedef struct PipelineStage PipelineStage;
struct PipelineStage {
    const char *name; /* "sft": also the verb of the program */
    int ranks;
    int threads;               /* per rank; 0: auto */
    const char *directory;     /* OUTPUT/sft */
    const char *artifact;      /* OUTPUT/sft/final.h5 */
    const char *const *inputs; /* paths that it reads; those that are another stage's artifact make it depend on that */
    int inputs_count;
    /* What is to be done about this stage? Called before the stage, after it, and for a dry run; never while it runs. */
    Status (*judge)(const PipelineStage *stage, PipelineVerdict *verdict);
    void *context; /* the judge's own */
};

typedef struct Pipeline {
    const char *program;    /* our own binary, absolute */
    const char *experiment; /* the YAML, and the key=value arguments: passed on to each stage */
    const char *const *overrides;
    int overrides_count;
    const char *output;
    const char *launcher; /* template (command.h); NULL: pipeline_default_launcher() */
    const PipelineStage *stages;
    int stages_count;
    double lock_timeout_seconds; /* 0: LOCK_TIMEOUT_SECONDS */
} Pipeline;

/* Open MPI's mpirun with the flags that let it work in a container, as root, and with more ranks than cores. */
const char *pipeline_default_launcher(void);
/* Run what needs running. Installs signal handlers. STATUS_STOPPED: asked to stop, all is saved. A stage's failure is
 * returned with its own code and its last error line. */
Status pipeline_run(const Pipeline *pipeline);
/* Append what pipeline_run would do, without doing any of it: stage, ranks, threads, inputs, outputs, command, and why. */
Status pipeline_plan(const Pipeline *pipeline, Text *text);

#endif
