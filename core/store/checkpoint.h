/* checkpoint.h -- a stage's state, or its final result, as one HDF5 file that any rank count reads.
 *
 * Layout: root attributes of h5.h (format "tercet-checkpoint", stage, step, seed, code_version, config, parents) and
 *   /tokenizer                    u8, tokenizer.json
 *   /model                        attributes: shape (JSON of arch.h), head
 *   /parameters/NAME              f32, logical shape: the main model (policy, reward model)
 *   /optimizer/exp_avg/NAME, /optimizer/exp_avg_sq/NAME, attribute steps
 *   /ROLE/model, /ROLE/parameters, /ROLE/optimizer   the same for further models (PPO's critic)
 *   /state                        attributes: everything else needed to go on (numbers and texts by name)
 * A `final.h5` has no optimizer and is what other stages read. NAME is params.h's, with dots. */
#ifndef CORE_STORE_CHECKPOINT_H
#define CORE_STORE_CHECKPOINT_H

#include "core/comm/comm.h"
#include "core/comm/shard.h"
#include "core/data/tokenizer.h"
#include "core/h5/h5.h"
#include "core/model/model.h"

/* One model in a checkpoint. Moments hold this rank's slices (shard_owned); absent (data NULL): none are written or read. */
typedef struct CheckpointModel {
    const char *role; /* "": the main model; else a group's name, "critic" */
    Model *model;
    Tensor exp_avg, exp_avg_sq;
    int64_t *optimizer_steps;
} CheckpointModel;

/* One named number or text of the state. */
typedef enum StateKind { STATE_INT, STATE_DOUBLE, STATE_TEXT } StateKind;
typedef struct StateItem {
    const char *name;
    StateKind kind;
    void *value;      /* int64_t *, double *, char ** (read: fresh string, memory_free) */
    bool operational; /* left out of the semantic digest */
} StateItem;

typedef struct CheckpointHeader {
    const char *stage; /* "sft", "rm", "ppo" */
    int64_t step;
    uint64_t seed;
    const char *config;        /* YAML text of all keys in effect */
    const char *config_digest; /* hex digest of the semantic keys */
    const Tokenizer *tokenizer;
    const char *const *parent_names; /* "policy", "reward_model", "data" */
    const char *const *parent_digests;
    int parents;
} CheckpointHeader;

/* Whole or absent. [collective] */
Status checkpoint_write(Comm *comm, const char *path, const CheckpointHeader *header, const CheckpointModel *models,
                        int models_count, const StateItem *state, int state_count);
/* Fill models' parameters, this rank's slices of moments, and the state from a checkpoint of `stage` (NULL: any); wrong stage, shape or missing name: an error naming
 * the file, the thing, expected and found. Digests are verified. [collective] */
Status checkpoint_read(Comm *comm, const char *path, const char *stage, const CheckpointModel *models, int models_count,
                       const StateItem *state, int state_count);

/* What a file says of itself, without its tensors. */
typedef struct CheckpointInfo {
    char stage[16];
    int64_t step;
    uint64_t seed;
    ModelShape shape;
    HeadKind head;
    char config_digest[40], digest[40]; /* hex; digest is of all semantic contents */
} CheckpointInfo;
Status checkpoint_inspect(const char *path, CheckpointInfo *info); /* [local] */
/* The newest complete checkpoint of DIRECTORY ("step-00000120.h5"), or *path = NULL when there is none. [local] */
Status checkpoint_latest(const char *directory, char **path);
/* Remove all but the newest `keep` step files, and never `except`. [local] */
Status checkpoint_prune(const char *directory, int keep, const char *except);
/* DIRECTORY/step-%08d.h5 (memory_free it) */
char *checkpoint_path(const char *directory, int64_t step);

/* The main model of a checkpoint, as model_load below. [collective] */
Status checkpoint_load_model(Comm *comm, Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                             Tokenizer **tokenizer, char digest[40]);
/* Open a model from an HDF5 file or a Hugging Face directory, wherever a model is asked for, with the head wanted: an LM head is dropped or kept, a scalar head that
 * the source has not is left zero and *has_head says so. tokenizer may be NULL. digest: 40 bytes, hex of what was read. [collective] */
Status model_load(Comm *comm, Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                  Tokenizer **tokenizer, char digest[40]);
/* Plans write nothing, so a stage of a plan promises its result instead: from now on model_load() on a device that computes nothing takes
 * `path` for a file with a model of this shape and head and this tokenizer (may be NULL), whether or not there is one. [local] */
void model_promise(const char *path, const Model *model, const Tokenizer *tokenizer);
/* Forget all promises. [local] */
void model_promises_clear(void);

#endif
