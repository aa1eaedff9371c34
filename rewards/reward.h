/* reward.h -- what a response is worth: a weighted list of judges behind one small table, so that one more kind is one file.
 *
 * A judge with weight 0 is asked and reported but does not count: that is how a hack shows (the learned reward rises, the
 * true rule falls). Kinds: model (reward_model.c), words, length, match (reward_rules.c), demo (reward_demo.c: the demo's true rule). */
#ifndef REWARDS_REWARD_H
#define REWARDS_REWARD_H

#include "core/comm/comm.h"
#include "core/config/config.h"
#include "core/data/tokenizer.h"
#include "core/tensor/forward.h"

/* One response. Text and tokens say the same; `fields` is the prompt's JSON record ("answer" and the like), "{}" if there is none. */
typedef struct RewardSample {
    const char *prompt, *response; /* plain text, zero-terminated; response without the end-of-sequence token */
    const char *fields;
    const int32_t *token; /* prompt then response, with the end-of-sequence token where it came */
    int64_t count, prompt_count;
    bool stopped; /* ended by itself */
} RewardSample;

/* What judges may need to open. */
typedef struct RewardContext {
    Comm *comm;
    Device *device;
    const Tokenizer *tokenizer; /* the policy's */
    const Config *config;
    const char *path; /* of this item: "ppo.rewards[0]" */
} RewardContext;

/* One kind of judge. Keys of its own are rows with `when: kind=NAME`. */
typedef struct RewardKind {
    const char *name;
    const ConfigKey *keys;
    const char *help;
    Status (*open)(const RewardContext *context, void **self); /* [collective] */
    /* score (count). Depends on the samples of this call alone, in this order. [local] */
    Status (*score)(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score);
    void (*close)(void *self);
    /* Hex digest of the files it read, for the parents of a checkpoint; "" if none. */
    const char *(*digest)(void *self);
    /* Device memory that it holds while open; NULL: none. */
    size_t (*bytes)(void *self);
} RewardKind;

enum { REWARDS_MAX = 16 };

typedef struct Rewards {
    int count;
    struct {
        const RewardKind *kind;
        void *self;
        const char *name; /* for logs: the key `name`, or the kind */
        double weight;
    } item[REWARDS_MAX];
} Rewards;

/* Rows of a list of judges at `path` ("ppo.rewards[]", "eval.judges[]") added to the schema: name, kind, weight, and each kind's own. */
void rewards_schema(ConfigSchema *schema, const char *path);
/* The kind of the item at `path` ("ppo.rewards[0]"). */
const RewardKind *rewards_kind(const Config *config, const char *path);
/* Open the list at `path` ("ppo.rewards"). [collective] */
Status rewards_open(Rewards *rewards, Comm *comm, Device *device, const Tokenizer *tokenizer, const Config *config,
                    const char *path);
void rewards_close(Rewards *rewards);
/* Device memory that all judges hold. */
size_t rewards_bytes(const Rewards *rewards);
/* component[r] (count) of each judge, and total = sum of weight * component. A component that is not finite: STATUS_NUMERIC naming judge and sample. [local] */
Status rewards_score(const Rewards *rewards, Exec *exec, const RewardSample *samples, int64_t count,
                     float *const component[REWARDS_MAX], float *total);

#endif
