/* ppo_update.c -- several epochs of clipped steps on one rollout; it reads the rollout and nothing else of the experience.
 *
 * Epochs permute units, never the sequences between them, so a unit before the first step of an iteration computes exactly what the old log-probs
 * were computed from: every ratio must be 1 to the last bit. That is checked in every iteration, on every unit of the first minibatch. */
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
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
    ppo_unit(ppo, unit, (float)(1 / ppo->minibatch_tokens));
    if (ppo->unit.rows == 0)
        return status_ok();
    unit_batch_upload(&ppo->unit, exec);
    Tensor hidden = model_hidden(&ppo->actor, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
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
    ppo_unit(ppo, unit, (float)(1 / ppo->minibatch_tokens));
    if (ppo->unit.rows == 0)
        return status_ok();
    unit_batch_upload(&ppo->unit, exec);
    Tensor hidden = model_hidden(&ppo->critic, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
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
            off, ppo->minibatch_tokens);
        return status_ok();
    }
    return status_error(STATUS_NUMERIC,
                        "iteration %lld: %.0f of %.0f ratios before the first step are not 1: the policy that is "
                        "updated is not the one that was "
                        "evaluated",
                        (long long)ppo->stage.step_index + 1, off, ppo->minibatch_tokens);
}

/* The units of minibatch `index` of the iteration: a run of the epoch's permutation of all units. */
static void ppo_choose(Ppo *ppo, int64_t index)
{
    int64_t epoch = index / ppo->config.minibatches, minibatch = index % ppo->config.minibatches;
    RngStream stream =
        rng_stream((uint64_t)ppo->stage.run.seed, RNG_UPDATE, (uint64_t)ppo->stage.step_index, (uint64_t)epoch);
    Span span = shard_span(ppo->plan.units, ppo->config.minibatches, minibatch);
    ppo->minibatch_units = span.to - span.from;
    while (ppo->plan.units > ppo->order_capacity)
        memory_reserve(&ppo->order, ppo->order_capacity, &ppo->order_capacity);
    ppo->minibatch_tokens = 0;
    for (int64_t i = 0; i < ppo->minibatch_units; i++) {
        ppo->order[i] = (int64_t)rng_permute(stream, (uint64_t)ppo->plan.units, (uint64_t)(span.from + i));
        Span rows = ppo_unit_responses(ppo, ppo->order[i]);
        ppo->minibatch_tokens += (double)(rows.to - rows.from);
    }
}

static Status ppo_minibatch(Ppo *ppo, int64_t index)
{
    Stage *stage = &ppo->stage;
    PpoUpdateStats *update = &ppo->update;
    StepReport report;
    ppo_choose(ppo, index);
    update->minibatches++;
    if (ppo->minibatch_tokens == 0)
        return status_ok();
    double approx_kl = 0;
    if (stage->step_index >= ppo->config.critic_warmup) {
        TRY(trainer_step(&ppo->actor_trainer, &stage->exec, ppo->minibatch_units, ppo_actor_unit, ppo, POLICY_STATS,
                         &report));
        if (index == 0)
            TRY(ppo_check_first_ratio(ppo, &report));
        approx_kl = report.stats[POLICY_APPROX_KL];
        update->policy_loss += report.stats[POLICY_LOSS];
        update->entropy += report.stats[POLICY_ENTROPY];
        update->clipped += report.stats[POLICY_CLIPPED];
        update->approx_kl += approx_kl;
        update->kl_k3 += report.stats[POLICY_KL_K3];
        update->ratio += report.stats[POLICY_RATIO];
        update->actor_norm += report.grad_norm;
        update->actor_lr = report.lr;
    }
    TRY(trainer_step(&ppo->critic_trainer, &stage->exec, ppo->minibatch_units, ppo_critic_unit, ppo, VALUE_STATS,
                     &report));
    update->value_loss += report.stats[VALUE_LOSS];
    update->value_clipped += report.stats[VALUE_CLIPPED];
    update->critic_norm += report.grad_norm;
    update->critic_lr = report.lr;
    if (ppo->config.target_kl > 0 && approx_kl > ppo->config.target_kl)
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
