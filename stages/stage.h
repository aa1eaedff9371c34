/* stage.h -- what every stage is made of: where it runs, where it writes, when it saves, and how it stops.
 *
 * Life:  stage_open -> the stage's own models and data -> stage_resume -> steps; after each unit boundary stage_should_stop -> stage_save when due
 *        -> stage_finish writes final.h5. A run that is stopped saves first and returns STATUS_STOPPED; started again, it goes on with the same bits.
 * Plan:  on a device that computes nothing the same life is lived in fewer steps, as if for the first time, and leaves no files: what its arenas
 *        come to is the plan. A final.h5 is then promised (checkpoint.h) to the stages that come after. */
#ifndef STAGES_STAGE_H
#define STAGES_STAGE_H

#include "core/base/log.h"
#include "core/base/profile.h"
#include "core/comm/comm.h"
#include "core/config/config.h"
#include "core/data/dataset.h"
#include "core/store/checkpoint.h"
#include "core/train/metrics.h"
#include "core/train/trainer.h"
#include "stages/stage_memory.h"

/* Root keys: every experiment has them. */
/* As the config's choices stand; ReduceKind (core/comm/reduce.h) likewise. */
typedef enum DeviceKind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } DeviceKind;
typedef enum MatmulKind { MATMUL_FP32, MATMUL_TF32 } MatmulKind;
typedef enum Precision { PRECISION_FP32, PRECISION_BF16 } Precision;
typedef struct RunConfig {
    const char *output;
    int64_t seed, ranks, threads, lanes;
    DeviceKind device;
    MatmulKind matmul;
    Precision precision;
    ReduceKind reduce;
    int64_t checkpoint_every, keep_checkpoints; /* steps (PPO: iterations) between checkpoints; how many to keep */
    double log_every;                           /* seconds between plain progress lines */
    int64_t stop_after;                         /* failure injection: stop at this poll; 0: never */
    bool exact; /* refuse to resume where bits could differ (threads, instruction set, library) */
    const char *launcher;
    bool profile;
} RunConfig;
extern const ConfigKey run_keys[];

enum { STAGE_PARENTS_MAX = 24, STAGE_STATE_MAX = 96, STAGE_STEPS_ENOUGH = 512 };

typedef struct Stage {
    const char *name; /* "sft", "rm", "ppo" */
    Comm *comm;
    Device *device;
    const Config *config;
    bool dry; /* a plan: nothing is computed, resumed, saved or shown */
    RunConfig run;
    char *directory; /* OUTPUT/NAME */
    Arena model_arena, step_arena;
    Exec exec;
    Metrics metrics;
    PhaseTimer timer;
    Progress progress;
    Text yaml; /* every key in effect */
    char config_digest[40];
    Text inputs; /* what is read, with digests (inputs.h); rank 0, from stage_resume on */
    const char *parent_name[STAGE_PARENTS_MAX];
    char parent_digest[STAGE_PARENTS_MAX][40];
    int parents;
    const Tokenizer *tokenizer; /* set by the stage before the first save */
    /* What a checkpoint of this stage holds; filled by the stage before stage_resume. */
    CheckpointModel model[2];
    int models;
    StateItem state[STAGE_STATE_MAX];
    int states;
    int64_t step_index; /* steps complete */
    int64_t polls;
    bool saved;         /* what is in memory is on disk */
    StageMemory memory; /* so far */
    int phase;          /* the one at hand in memory.phase; -1: none */
    /* The line being logged. */
    Text note;
    int64_t tokens_done;
} Stage;

/* Digest of the keys that this stage's results depend on. */
void stage_config_digest(const Config *config, const char *name, char digest[40]);
/* Reads the root keys, makes directories, opens arenas and metrics. [collective] */
Status stage_open(Stage *stage, const char *name, Comm *comm, Device *device, const Config *config);
/* memory: what the arenas came to; may be NULL. */
void stage_close(Stage *stage, StageMemory *memory);
/* Is final.h5 there, made from this configuration? Then there is nothing to do. [collective] */
Status stage_is_complete(Stage *stage, bool *complete);
/* The model at `path` with this head, or with path NULL fresh parameters of the shape under `model:` for the tokenizer at `tokenizer_path`. `role` names the
 * parent. has_head and tokenizer may be NULL. [collective] */
Status stage_model(Stage *stage, const char *role, const char *path, const char *tokenizer_path, HeadKind head,
                   Model *model, bool *has_head, Tokenizer **tokenizer);
/* This model will not learn (model_freeze). */
void stage_freeze(Stage *stage, Model *model);
/* The data set of the list SECTION.KEY; *dataset is NULL when the list is empty. Its digest becomes a parent. [collective] */
Status stage_dataset(Stage *stage, DatasetKind kind, const char *key, const DataConfig *config,
                     const Tokenizer *tokenizer, Dataset **dataset);
/* STATUS_USAGE when sequences of `longest` tokens do not fit the model's positions. */
Status stage_check_length(Stage *stage, const ModelShape *shape, int64_t longest);
/* This model, its moments and its count of updates are part of every checkpoint. role "": the main model. */
void stage_trained_model(Stage *stage, const char *role, Trainer *trainer);
/* Record where something came from: it enters the checkpoint, and a resume with another parent is refused. */
void stage_parent(Stage *stage, const char *name, const char *digest);
/* Name what else must be saved. The pointers are read by every save and filled by stage_resume. */
void stage_state_int(Stage *stage, const char *name, int64_t *value);
void stage_state_double(Stage *stage, const char *name, double *value);
/* Go on from the newest checkpoint if there is one: models, moments, state, and metrics cut back to it. Refuses one of another configuration or other
 * parents, and with `exact` one made with other threads or another processor. *resumed says whether there was one. [collective] */
Status stage_resume(Stage *stage, bool *resumed);
/* How many of `total` steps this process takes: all of them, but a plan no more than `enough` to see the shapes that matter. */
int64_t stage_steps(const Stage *stage, int64_t total, int64_t enough);
/* Begin a phase (a static string): its seconds and its most memory are counted under this name. */
void stage_phase(Stage *stage, const char *name);
/* Unit boundary: has anyone been asked to stop? [collective] */
bool stage_should_stop(Stage *stage);
/* Save now under step_index. [collective] */
Status stage_save(Stage *stage);
/* Save if checkpoint_every divides step_index and it is not saved yet. [collective] */
Status stage_save_when_due(Stage *stage);
/* Save, say so, and return STATUS_STOPPED. [collective] */
Status stage_stopped(Stage *stage);
/* With `profile`: log where the time went, write DIRECTORY/trace.json, and end profiling. [collective] */
Status stage_report_profile(Stage *stage);
/* The main model without optimizer, as best.h5. [collective] */
Status stage_save_best(Stage *stage);
/* The same as final.h5; stages call stage_finish. [collective] */
Status stage_save_final(Stage *stage);
/* The result: the main model without optimizer, with the state, as final.h5; the metrics' last line. [collective] */
Status stage_finish(Stage *stage);
/* STATUS_NUMERIC naming `what` and the step where `value` is no number: such a model must not be saved. */
Status stage_check_finite(const Stage *stage, const char *what, double value);
/* A log line and a line of metrics.jsonl are the same numbers: begin, add, end. `shown`: also on the progress line. */
void stage_log_begin(Stage *stage, int64_t step, const char *phase);
void stage_log(Stage *stage, const char *name, double value, bool shown);
/* Ends the line. tokens > 0: the step of the progress line is done and took so many; its phases' seconds go to timings.jsonl. */
Status stage_log_end(Stage *stage, int64_t tokens);

/* --- the three; memory: what this rank's arenas came to, may be NULL --- */
Status sft_run(Comm *comm, Device *device, const Config *config, StageMemory *memory); /* [collective] */
Status rm_run(Comm *comm, Device *device, const Config *config, StageMemory *memory);  /* [collective] */
Status ppo_run(Comm *comm, Device *device, const Config *config, StageMemory *memory); /* [collective] */
typedef struct StageRow {
    const char *name;
    Status (*run)(Comm *comm, Device *device, const Config *config, StageMemory *memory);
} StageRow;
enum { STAGES = 3 };
extern const StageRow stage_rows[STAGES]; /* in the order in which they follow each other */
/* Opens the device that a plan is made on: it computes nothing (device_open_dry, or a backend's own kin of it that knows its scratch). */
typedef Status (*StageDryDevice)(void *context, Device *device);
/* What one stage would take on each of `ranks`, the worst of the first and the last, from runs on a device that computes nothing. Data are tokenised into the cache; no
 * other file is made. [local] */
Status stage_plan(const StageRow *row, const Config *config, StageDryDevice open, void *context, int ranks,
                  StageMemory *memory);
/* What every stage of an experiment would take on each of its `ranks`, the worst of them, likewise. memory[i] is of stage_rows[i],
 * planned[i] says whether the experiment has that stage. [local] */
Status stages_plan(const Config *config, StageDryDevice open, void *context, StageMemory memory[STAGES],
                   bool planned[STAGES]);
/* Rows of the root and of the three sections. */
void stages_schema(ConfigSchema *schema);

#endif
