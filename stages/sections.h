/* sections.h -- what `sft:`, `rm:` and `ppo:` may say: one struct and one list of rows each; the reasons for defaults stand in the rows. */
#ifndef STAGES_SECTIONS_H
#define STAGES_SECTIONS_H

#include "core/config/config.h"
#include "core/tensor/ops.h"

typedef struct SftConfig {
    const char *model, *tokenizer;
    int64_t batch, unit_tokens, epochs, steps, eval_every;
    bool shuffle;
} SftConfig;
extern const ConfigKey sft_keys[];

typedef struct RmConfig {
    const char *model, *tokenizer;
    int64_t batch, unit_tokens, epochs, steps, eval_every;
    bool shuffle;
    RankKind loss;
    double margin_scale;
} RmConfig;
extern const ConfigKey rm_keys[];

typedef enum EosPolicy { EOS_STOP, EOS_IGNORE } EosPolicy;
typedef enum MissingEos { MISSING_EOS_NONE, MISSING_EOS_SUBTRACT, MISSING_EOS_REPLACE } MissingEos;
typedef enum RewardNormalise { NORMALISE_NONE, NORMALISE_FIRST, NORMALISE_RUNNING } RewardNormalise;

typedef struct PpoConfig {
    const char *policy, *reference, *critic, *rollout;
    /* rollout */
    int64_t iterations, batch, samples_per_prompt, max_new, unit_prompts, slots;
    double temperature;
    EosPolicy eos;
    bool shuffle;
    int64_t keep_rollouts;
    /* reward */
    MissingEos missing_eos;
    double missing_eos_value;
    RewardNormalise reward_normalise;
    double reward_clip;
    KlKind kl;
    double kl_coefficient, kl_target, kl_horizon;
    /* advantage */
    double gamma, lambda;
    bool whiten_advantages, whiten_rewards;
    /* update */
    int64_t epochs, minibatches, unit_tokens, critic_warmup;
    bool merge_first_pass;
    double clip_low, clip_high, value_clip, value_coefficient, entropy_coefficient, target_kl;
} PpoConfig;
extern const ConfigKey ppo_keys[];

#endif
