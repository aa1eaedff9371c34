/* reward_model.h -- a trained reward model as a function of token sequences: the scalar head on the last token, normalised as stored. */
#ifndef REWARDS_REWARD_MODEL_H
#define REWARDS_REWARD_MODEL_H

#include "core/model/model.h"
#include "core/store/checkpoint.h"
#include "rewards/reward.h"

typedef struct RewardModel {
    Model model;
    Tokenizer *tokenizer;   /* its own */
    double mean, deviation; /* of rewards on its held-out answers, from the checkpoint; 0 and 1 when it has none */
    int64_t unit_tokens;    /* at most so many tokens in one forward */
    char digest[40];
} RewardModel;

/* From a reward-model checkpoint (or a Hugging Face directory with a score head). An SFT model has no score head: STATUS_INPUT. [collective] */
Status reward_model_open(RewardModel *judge, Comm *comm, Device *device, const char *path, int64_t unit_tokens);
void reward_model_close(RewardModel *judge);
/* Raw score of each sequence: hidden at the last token through the head. Sequences are batched in order by unit_tokens: a function of this list alone. [local] */
Status reward_model_score(const RewardModel *judge, Exec *exec, const int32_t *const *token, const int64_t *length,
                          int64_t count, float *score);

extern const RewardKind reward_kind_model;

#endif
