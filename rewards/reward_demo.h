/* reward_demo.h -- the demonstration's true rule (demo.h) as a judge: kind `demo`. With weight 0 it only watches, which
 * is how a run on a learned reward shows what that reward is worth. */
#ifndef REWARDS_REWARD_DEMO_H
#define REWARDS_REWARD_DEMO_H

#include "rewards/reward.h"

extern const RewardKind reward_kind_demo;

#endif
