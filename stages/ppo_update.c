/* ppo_update.c -- several epochs of clipped steps on one rollout; it reads the rollout and nothing else of the experience.
 *
 * Epochs permute units, never the sequences between them, so a unit before the first step of an iteration computes exactly what the old log-probs
 * were computed from: every ratio must be 1 to the last bit. That is checked in every iteration, on every unit of the first minibatch. (With
 * ppo.merge_first_pass hidden states are the very same, and only what the head makes of them is compared.) */
#include <string.h>

#include "core/base/memory.h"
#include "stages/ppo.h"

/* Numbers of the unit's rows, from the rollout's column. */
static Tensor ppo_column(const Ppo *ppo, int64_t unit, Exec *exec, const float *column)
{
    Span rows = ppo_unit_responses(ppo, unit);
    return unit_batch_floats(exec, column + rows.from, rows.to - rows.from);
}

static Status ppo_actor_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Ppo *ppo = context;
    int64_t unit = ppo->order[index];
    ppo_unit(ppo, unit, (float)(1 / ppo->chosen_tokens));
    if (ppo->unit.rows == 0)
        return status_ok();
    unit_batch_upload(&ppo->unit, exec);
    Tensor hidden = ppo_hidden(ppo, PPO_ACTOR, index, exec);
    VocabularyHead head = model_vocabulary_head(&ppo->actor, (float)ppo->config.temperature);
    PolicyTerms terms = {
        .old_logprob = ppo_column(ppo, unit, exec, ppo->rollout.old_logprob),
        .advantage = ppo_column(ppo, unit, exec, ppo->rollout.advantage),
        .weight = ppo->unit.weights,
        .clip_low = (float)ppo->config.clip_low,
        .clip_high = (float)ppo->config.clip_high,
        .entropy_coefficient = (float)ppo->config.entropy_coefficient,
    };
    head_policy(exec, &head, hidden, ppo->unit.targets, &terms, tensor_absent(), stats);
    tape_backward(exec);
    return status_ok();
}

static Status ppo_critic_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Ppo *ppo = context;
    int64_t unit = ppo->order[index];
    ppo_unit(ppo, unit, (float)(1 / ppo->chosen_tokens));
    if (ppo->unit.rows == 0)
        return status_ok();
    unit_batch_upload(&ppo->unit, exec);
    Tensor hidden = ppo_hidden(ppo, PPO_CRITIC, index, exec);
    Tensor value = model_score(&ppo->critic, exec, hidden);
    value_loss(exec, value, ppo_column(ppo, unit, exec, ppo->rollout.value),
               ppo_column(ppo, unit, exec, ppo->rollout.returns), ppo->unit.weights, (float)ppo->config.value_clip,
               (float)ppo->config.value_coefficient, stats);
    tape_backward(exec);
    return status_ok();
}

/* Before the first step of an iteration nothing has changed since the old log-probs were made. */
static Status ppo_check_first_ratio(Ppo *ppo, const StepReport *report)
{
    double off = report->stats[POLICY_RATIO_NOT_ONE];
    if (off == 0)
        return status_ok();
    if (ppo->stranger) {
        log_warn(
            "%.0f of %.0f ratios of the first minibatch are not 1: this rollout's old log-probs were made elsewhere",
            off, ppo->chosen_tokens);
        return status_ok();
    }
    return status_error(STATUS_NUMERIC,
                        "iteration %lld: %.0f of %.0f ratios before the first step are not 1: the policy that is "
                        "updated is not the one that was "
                        "evaluated",
                        (long long)ppo->stage.step_index + 1, off, ppo->chosen_tokens);
}

/* Both models' steps are asked for before the host waits for either: one wait a minibatch. `critic_only`: the critic's warm-up. */
static Status ppo_steps(Ppo *ppo, bool critic_only, StepReport *actor, StepReport *critic)
{
    Exec *exec = &ppo->stage.exec;
    int64_t units = ppo->chosen, first = 0;
    if (!critic_only)
        first = trainer_figures(&ppo->actor_trainer, units, POLICY_STATS);
    int64_t second = trainer_figures(&ppo->critic_trainer, units, VALUE_STATS);
    size_t mark = arena_mark(exec->step);
    Tensor figures = tensor_new1(exec->step, DTYPE_F64, first + second);
    Status status = status_ok();
    if (!critic_only)
        status = trainer_ask(&ppo->actor_trainer, exec, units, ppo_actor_unit, ppo, POLICY_STATS,
                             tensor_range(figures, 0, first), actor);
    if (!status_failed(status))
        status = trainer_ask(&ppo->critic_trainer, exec, units, ppo_critic_unit, ppo, VALUE_STATS,
                             tensor_range(figures, first, second), critic);
    if (!status_failed(status)) {
        double *host = memory_borrow((size_t)(first + second), sizeof *host);
        tensor_read(exec->device, figures, host);
        if (!critic_only)
            status = trainer_learn(&ppo->actor_trainer, units, POLICY_STATS, host, actor);
        if (!status_failed(status))
            status = trainer_learn(&ppo->critic_trainer, units, VALUE_STATS, host + first, critic);
        memory_return(&host);
    }
    arena_rewind(exec->step, mark);
    return status;
}

static Status ppo_minibatch(Ppo *ppo, int64_t index)
{
    PpoUpdateStats *update = &ppo->update;
    StepReport actor = {0}, critic = {0};
    ppo_choose(ppo, index / ppo->config.minibatches,
               shard_span(ppo->plan.units, ppo->config.minibatches, index % ppo->config.minibatches));
    update->minibatches++;
    if (ppo->chosen_tokens == 0)
        return status_ok();
    bool critic_only = !ppo_actor_learns(ppo);
    Status status = ppo_steps(ppo, critic_only, &actor, &critic);
    ppo_forget_passes(ppo);
    TRY(status);
    if (!critic_only) {
        if (index == 0)
            TRY(ppo_check_first_ratio(ppo, &actor));
        update->policy_loss += actor.stats[POLICY_LOSS];
        update->entropy += actor.stats[POLICY_ENTROPY];
        update->clipped += actor.stats[POLICY_CLIPPED];
        update->approx_kl += actor.stats[POLICY_APPROX_KL];
        update->kl_k3 += actor.stats[POLICY_KL_K3];
        update->ratio += actor.stats[POLICY_RATIO];
        update->actor_norm += actor.grad_norm;
        update->actor_lr = actor.lr;
    }
    update->value_loss += critic.stats[VALUE_LOSS];
    update->value_clipped += critic.stats[VALUE_CLIPPED];
    update->critic_norm += critic.grad_norm;
    update->critic_lr = critic.lr;
    if (ppo->config.target_kl > 0 && actor.stats[POLICY_APPROX_KL] > ppo->config.target_kl)
        update->stopped_early = 1;
    return status_ok();
}

Status ppo_update(Ppo *ppo)
{
    int64_t total = ppo->config.epochs * ppo->config.minibatches;
    while (ppo->update.minibatches < total && !ppo->update.stopped_early) {
        TRY(ppo_minibatch(ppo, ppo->update.minibatches));
        if (stage_should_stop(&ppo->stage))
            return status_error(STATUS_STOPPED, "asked to stop after minibatch %lld",
                                (long long)ppo->update.minibatches);
    }
    return status_ok();
}
