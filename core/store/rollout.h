/* rollout.h -- one PPO iteration's experience as a file: all that the update reads, from wherever it comes.
 *
 * Layout (format "tercet-rollout"; rows in order of sample id):
 *   per sequence  /prompt_id i64, /sample_index i32, /prompt_length i32, /response_length i32, /stopped u8, /score f32 (what shaping added),
 *                 /reward_raw f32 (weighted mix before normalisation), /reward/NAME f32 (each component, judges too)
 *   per token of prompt + response   /start i64 (sequences + 1), /token i32
 *   per response token               /response_start i64 (sequences + 1), /sampled_logprob, /old_logprob, /reference_logprob, /value, /kl,
 *                                    /reward_shaped, /advantage, /return   f32
 *   attributes: policy_step, policy_digest, temperature, kl_coefficient, prompts' text is not stored
 * Required from a stranger's file: start, token, prompt_length, response_length, old_logprob, advantage, return, value. */
#ifndef CORE_STORE_ROLLOUT_H
#define CORE_STORE_ROLLOUT_H

#include "core/comm/comm.h"
#include "core/h5/h5.h"

enum { ROLLOUT_REWARDS_MAX = 16 };

/* Host memory, ragged; all arrays belong to the Rollout. A rank may hold a run of sequences of the whole (sequence_first). */
typedef struct Rollout {
    int64_t sequences, tokens, responses; /* response tokens */
    int64_t *prompt_id;
    int32_t *sample_index, *prompt_length, *response_length;
    uint8_t *stopped;
    float *score, *reward_raw;
    float *reward[ROLLOUT_REWARDS_MAX]; /* (sequences) each */
    char *reward_name[ROLLOUT_REWARDS_MAX];
    int rewards;
    int64_t *start, *response_start; /* (sequences + 1) */
    int32_t *token;                  /* (tokens) prompt then response of each sequence */
    float *sampled_logprob, *old_logprob, *reference_logprob, *value, *kl, *reward_shaped, *advantage,
        *returns; /* (responses) */
    int64_t policy_step;
    char policy_digest[40];
    double temperature, kl_coefficient;
    struct {
        int64_t sequences, tokens, responses;
        int rewards;
    } room; /* of the arrays: a rollout made anew keeps its memory */
} Rollout;

/* Room for as much, so that rollouts up to this size need no more memory; *rollout is {0} or an earlier one. */
void rollout_reserve(Rollout *rollout, int64_t sequences, int64_t tokens, int64_t responses, int rewards);
/* Make *rollout, {0} or an earlier one, anew for `sequences`, all zeros; lengths are the caller's to fill. */
void rollout_new(Rollout *rollout, int64_t sequences, int rewards);
/* After prompt_length and response_length are set: computes start, response_start, and makes token and per-response arrays (zeros). */
void rollout_allocate(Rollout *rollout);
/* Empty, with its memory kept. */
void rollout_clear(Rollout *rollout);
void rollout_free(Rollout *rollout);
/* The name of reward `index`, copied. */
void rollout_name_reward(Rollout *rollout, int index, const char *name);
/* Every rank gives its run of sequences (ranks' runs in rank order) and gets the whole. [collective] */
void rollout_allgather(Comm *comm, const Rollout *mine, Rollout *all);
/* All ranks hold the whole rollout; each writes its share of rows. [collective] */
Status rollout_write(Comm *comm, const char *path, const Rollout *rollout);
/* Lengths, offsets and ranges are checked against each other and `vocab`; *rollout is {0} or an earlier one. [collective] */
Status rollout_read(Comm *comm, const char *path, int64_t vocab, Rollout *rollout);

#endif
