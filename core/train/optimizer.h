/* optimizer.h -- AdamW over a slice of the flat parameters, and the keys that steer it.
 *
 * Each rank holds moments of, and updates, its own slices (shard_slice) and all gather the parameters after: the layout of ZeRO stage 1
 * (Rajbhandari et al. 2020). Every element's update depends on that element alone, so the bits are those of one rank. */
#ifndef CORE_TRAIN_OPTIMIZER_H
#define CORE_TRAIN_OPTIMIZER_H

#include "core/comm/reduce.h"
#include "core/config/config.h"
#include "core/model/params.h"
#include "core/train/schedule.h"

/* Keys under e.g. `sft.optimizer`, `ppo.actor_optimizer`. */
typedef struct OptimizerConfig {
    double lr, beta1, beta2, epsilon, weight_decay, clip; /* clip: max gradient norm, 0: off */
    AdamForm form;
    ScheduleConfig schedule;
} OptimizerConfig;

/* The same keys twice: with the defaults of supervised training (SFT, reward model), and with those of PPO, whose published runs hang on Adam's
 * form and epsilon. Both end with a row without a name; the counts leave it out. */
extern const ConfigKey optimizer_keys[];
extern const int optimizer_keys_count;
extern const ConfigKey optimizer_ppo_keys[];
extern const int optimizer_ppo_keys_count;

typedef struct Optimizer {
    OptimizerConfig config;
    Tensor exp_avg, exp_avg_sq; /* (shard_owned) F32: of this rank's slices, one after another */
    int64_t steps;              /* updates done */
    int64_t steps_total;        /* of the schedule */
} Optimizer;

/* Moments are zero. Allocates them from `arena` (model lifetime). [local] */
void optimizer_open(Optimizer *optimizer, const OptimizerConfig *config, const Params *params, const Comm *comm,
                    Device *device, Arena *arena, int64_t steps_total);
/* One update from reduced gradients: the norm over all slices (sums of fixed blocks, in order), clipping, AdamW on this rank's slice, all-gather. Nothing is read
 * back: *lr is the log's, and `norm` (1) F64 on the device is for optimizer_check once the caller has read it.
 * grad: (count) F32 whose own slices hold the sum. [collective] */
void optimizer_ask(Optimizer *optimizer, Comm *comm, Exec *exec, Params *params, Tensor grad, Tensor norm, double *lr);
/* STATUS_NUMERIC: the gradient was not finite, and that update has changed nothing. [local] */
Status optimizer_check(Optimizer *optimizer, double norm);
/* Both. [collective] */
Status optimizer_step(Optimizer *optimizer, Comm *comm, Exec *exec, Params *params, Tensor grad, double *norm,
                      double *lr);

#endif
