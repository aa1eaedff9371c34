/* ppo.h -- what the files of PPO share: four models, one rollout, and how far the iteration has come.
 *
 *        ppo.c            the algorithm, as in the paper
 *        ppo_rollout.c    sample responses and score them
 *        ppo_units.c      units of the update, and their hidden states
 *        ppo_advantage.c  log-probs and values on those units; rewards, GAE, whitening
 *        ppo_update.c     epochs and minibatches of clipped steps
 *
 * Every rank holds the whole rollout on the host (it is small beside a model); units of work are shared out, statistics are sums in the
 * order of the rollout, so no number depends on how many ranks there are. */
#ifndef STAGES_PPO_H
#define STAGES_PPO_H

#include "core/data/batch.h"
#include "core/store/rollout.h"
#include "rewards/reward.h"
#include "stages/sections.h"
#include "stages/stage.h"
#include "stages/unit_batch.h"

/* Where in an iteration a checkpoint stands. */
typedef enum PpoPhase { PPO_SAMPLE, PPO_UPDATE } PpoPhase;

/* Sums over the minibatches of one iteration, saved when it is interrupted between two of them. */
typedef struct PpoUpdateStats {
    int64_t minibatches;   /* done in this iteration */
    int64_t stopped_early; /* 1: target_kl was reached */
    double policy_loss, value_loss, entropy, clipped, value_clipped, approx_kl, kl_k3, ratio, actor_norm, critic_norm,
        actor_lr, critic_lr;
} PpoUpdateStats;

typedef enum PpoLearner { PPO_ACTOR, PPO_CRITIC, PPO_LEARNERS } PpoLearner;

/* A unit's forward passes that wait for their backward ones. */
typedef struct PpoPass {
    Tape *tape[PPO_LEARNERS];
    Tensor hidden[PPO_LEARNERS]; /* (rows, width) */
} PpoPass;

/* Evaluation makes them, the first steps after it take them. */
typedef enum PpoPasses { PASSES_NONE, PASSES_BEING_MADE, PASSES_KEPT } PpoPasses;

typedef struct Ppo {
    Stage stage;
    PpoConfig config;
    DataConfig data_config;
    OptimizerConfig actor_optimizer, critic_optimizer;
    Model actor, critic, reference;
    Tokenizer *tokenizer;
    Rewards rewards;
    Dataset *prompts;
    int64_t longest_prompt; /* of a plan */
    Trainer actor_trainer, critic_trainer;
    /* State that goes from iteration to iteration. */
    double kl_coefficient;
    double reward_count, reward_mean, reward_m2; /* of raw rewards: Chan's running moments */
    double first_reward, last_reward, first_kl, last_kl;
    /* The iteration at hand. */
    int64_t phase; /* PpoPhase */
    Rollout rollout;
    UnitPlan plan; /* units of the update: runs of sequences */
    PpoUpdateStats update;
    char policy_digest[40]; /* of the policy that PPO started from */
    bool from_file;         /* the rollout came from a file */
    bool stranger;          /* and not from this policy: its old log-probs are someone else's */
    double entropy;         /* mean of the policy's entropy over the rollout's tokens, before the update */
    /* Scratch of units, grown once. */
    UnitBatch unit;
    int64_t *order; /* units at hand, of a minibatch or of evaluation: ppo_choose */
    int64_t order_capacity;
    int64_t chosen;       /* so many */
    double chosen_tokens; /* response tokens of all of them */
    Rollout own;          /* what this rank sampled of the rollout */
    Text words;           /* of the unit that is being judged */
    /* Kept passes of this rank's units of the iteration's first minibatch. */
    bool merges; /* merge_first_pass, and models large enough for it */
    PpoPasses passes;
    PpoPass *pass;
    int64_t pass_slots; /* with tapes opened; used anew in each iteration */
    int64_t pass_capacity;
    size_t pass_mark; /* of the step arena, below them */
} Ppo;

/* Read the section, open models, data, rewards and trainers. *complete: final.h5 is there already, and nothing was opened. [collective] */
Status ppo_open(Ppo *ppo, Comm *comm, Device *device, const Config *config, bool *complete);
/* Go on from the newest checkpoint, or begin. [collective] */
Status ppo_resume(Ppo *ppo);
/* One iteration, or the rest of an interrupted one. [collective] */
Status ppo_iterate(Ppo *ppo);
/* `memory` as stage_close's. */
void ppo_close(Ppo *ppo, StageMemory *memory);
/* The iteration up to its update: sample, score, evaluate, advantages. [collective] */
Status ppo_experience(Ppo *ppo);

/* Units of sampling in an iteration; ranks share out whole ones. */
int64_t ppo_sampling_units(const PpoConfig *config);
/* Sample one response per (prompt, sample), and let every judge score them: fills rollout but log-probs of the update. [collective] */
Status ppo_sample(Ppo *ppo);
/* Reward of a response from the judges' total: normalised, clipped, corrected for a missing end; updates the running moments. */
void ppo_score(Ppo *ppo);
/* The part of ppo_score that outlives the iteration: moments of raw rewards. */
void ppo_reward_moments(Ppo *ppo);
/* Old and reference log-probs, values and entropy on the units of the update. [collective] */
Status ppo_evaluate(Ppo *ppo);
/* Per-token rewards, KL, advantages and returns. [local] */
void ppo_advantage(Ppo *ppo);
/* Epochs of minibatches from update.minibatches on. STATUS_STOPPED when asked to stop between two of them. [collective] */
Status ppo_update(Ppo *ppo);

/* The rollout's sequences cut into units: a function of lengths, unit_tokens, lanes and minibatches. */
void ppo_plan_units(Ppo *ppo);
/* The sequences of a unit, each without its last token, with one row for each response token. `weight` of each row. */
void ppo_unit(Ppo *ppo, int64_t unit, float weight);
/* First and one past the last response token of a unit. */
Span ppo_unit_responses(const Ppo *ppo, int64_t unit);
/* Takes units [from, to) of the permutation of `epoch` to be worked on: fills order, chosen and chosen_tokens. */
void ppo_choose(Ppo *ppo, int64_t epoch, Span units);
/* Which of these are a rank's: a run of `order`. */
Span ppo_rank_units(const Ppo *ppo, int rank);
/* Does the policy learn in this iteration, or only the critic? */
bool ppo_actor_learns(const Ppo *ppo);
/* Final hidden states of the rows of unit order[index], which must be in ppo->unit and uploaded. A step (exec->tape) takes the kept pass where there is one, and makes it
 * where there is none. Evaluation makes it, and while it is to be kept records it, if that model learns in this iteration. */
Tensor ppo_hidden(Ppo *ppo, PpoLearner learner, int64_t index, Exec *exec);
/* Drops what is kept, and gives its memory back to the step arena. */
void ppo_forget_passes(Ppo *ppo);
void ppo_passes_free(Ppo *ppo);

#endif
