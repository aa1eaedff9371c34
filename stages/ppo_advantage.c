/* ppo_advantage.c -- from responses to advantages: log-probs and values on the units of the update, KL-shaped rewards, GAE, whitening.
 *
 * Formulas: reward_shape, gae and whiten in core/tensor/ops.h. Values and log-probs of response token t are read at the position before it
 * (ppo-checklist 17); advantages are whitened once over the iteration, with the biased variance (30). */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "stages/ppo.h"

/* --- Log-probs and values --- */

/* One unit through actor, reference and critic; what they say goes into the rollout. */
static Status ppo_evaluate_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Ppo *ppo = context;
    Rollout *rollout = &ppo->rollout;
    int64_t unit = ppo->order[index];
    ppo_unit(ppo, unit, 0);
    int64_t rows = ppo->unit.rows;
    if (rows == 0)
        return status_ok();
    int64_t first = ppo_unit_responses(ppo, unit).from;
    float temperature = (float)ppo->config.temperature;
    unit_batch_upload(&ppo->unit, exec);
    Tensor logprob = tensor_new1(exec->step, DTYPE_F32, rows), entropy = tensor_new1(exec->step, DTYPE_F32, rows);
    size_t mark = arena_mark(exec->step);

    Tensor hidden = ppo_hidden(ppo, PPO_ACTOR, index, exec);
    VocabularyHead head = model_vocabulary_head(&ppo->actor, temperature);
    head_logprobs(exec, &head, hidden, ppo->unit.targets, logprob, entropy);
    tensor_read(exec->device, logprob, rollout->old_logprob + first);
    moments(exec, entropy, 0, stats);
    arena_rewind(exec->step, mark);

    hidden = model_hidden(&ppo->reference, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
    head = model_vocabulary_head(&ppo->reference, temperature);
    head_logprobs(exec, &head, hidden, ppo->unit.targets, logprob, tensor_absent());
    tensor_read(exec->device, logprob, rollout->reference_logprob + first);
    arena_rewind(exec->step, mark);

    hidden = ppo_hidden(ppo, PPO_CRITIC, index, exec);
    Tensor value = model_score(&ppo->critic, exec, hidden);
    tensor_read(exec->device, value, rollout->value + first);
    return status_ok();
}

/* Every rank has what its own of the chosen units say of their response tokens; all get all. */
static void ppo_share(Ppo *ppo, float *column)
{
    Comm *comm = ppo->stage.comm;
    int ranks = comm_size(comm);
    size_t *offsets = memory_borrow((size_t)ranks + 1, sizeof *offsets);
    float *shared = memory_borrow((size_t)ppo->chosen_tokens, sizeof *shared), *at = shared;
    for (int rank = 0; rank < ranks; rank++) {
        Span own = ppo_rank_units(ppo, rank);
        for (int64_t i = own.from; i < own.to; i++) {
            Span rows = ppo_unit_responses(ppo, ppo->order[i]);
            if (rank == comm_rank(comm))
                memcpy(at, column + rows.from, (size_t)(rows.to - rows.from) * sizeof *at);
            at += rows.to - rows.from;
        }
        offsets[rank + 1] = (size_t)(at - shared) * sizeof *at;
    }
    comm_allgather_parts(comm, shared, offsets);
    at = shared;
    for (int64_t i = 0; i < ppo->chosen; i++) {
        Span rows = ppo_unit_responses(ppo, ppo->order[i]);
        memcpy(column + rows.from, at, (size_t)(rows.to - rows.from) * sizeof *at);
        at += rows.to - rows.from;
    }
    memory_return(&shared);
    memory_return(&offsets);
}

static Status ppo_check_finite(const Ppo *ppo, const char *what, const float *values)
{
    for (int64_t i = 0; i < ppo->rollout.responses; i++)
        if (!isfinite(values[i]))
            return status_error(STATUS_NUMERIC, "iteration %lld: %s of response token %lld is %g",
                                (long long)ppo->stage.step_index + 1, what, (long long)i, (double)values[i]);
    return status_ok();
}

/* A run of units in the order of the first epoch, each by the rank that would update with it if the run were a minibatch. */
static Status ppo_evaluate_units(Ppo *ppo, Span units, double stats[MOMENTS])
{
    Stage *stage = &ppo->stage;
    ppo_choose(ppo, 0, units);
    if (ppo->chosen_tokens == 0)
        return status_ok();
    TRY(units_evaluate(stage->comm, &stage->exec, &ppo->actor, stage->run.lanes, ppo->chosen, ppo_evaluate_unit, ppo,
                       MOMENTS, stats));
    ppo_share(ppo, ppo->rollout.old_logprob);
    ppo_share(ppo, ppo->rollout.reference_logprob);
    ppo_share(ppo, ppo->rollout.value);
    return status_ok();
}

Status ppo_evaluate(Ppo *ppo)
{
    Span rest = {0, ppo->plan.units};
    double stats[MOMENTS] = {0};
    ppo_forget_passes(ppo);
    if (ppo->merges) {
        Span first = shard_span(ppo->plan.units, ppo->config.minibatches, 0);
        ppo->pass_mark = arena_mark(ppo->stage.exec.step);
        ppo->passes = PASSES_BEING_MADE;
        TRY(ppo_evaluate_units(ppo, first, stats));
        ppo->passes = PASSES_KEPT;
        rest.from = first.to;
    }
    TRY(ppo_evaluate_units(ppo, rest, stats));
    ppo->entropy = stats[MOMENT_SUM] / (double)ppo->rollout.responses;
    TRY(ppo_check_finite(ppo, "the policy's log-prob", ppo->rollout.old_logprob));
    TRY(ppo_check_finite(ppo, "the reference's log-prob", ppo->rollout.reference_logprob));
    return ppo_check_finite(ppo, "the value", ppo->rollout.value);
}

/* --- Rewards and advantages --- */

/* x to variance 1 over all response tokens; mean 0, or kept. Two passes, in double. */
static void ppo_whiten(Exec *exec, Tensor x, bool keep_mean)
{
    double sums[MOMENTS], count = (double)tensor_count(x);
    Tensor result = tensor_new1(exec->step, DTYPE_F64, MOMENTS);
    moments(exec, x, 0, result);
    tensor_read(exec->device, result, sums);
    double mean = sums[MOMENT_SUM] / count;
    moments(exec, x, mean, result);
    tensor_read(exec->device, result, sums);
    double scale = 1 / sqrt(sums[MOMENT_SUM_SQUARES] / count + 1e-8);
    whiten(exec, x, mean, scale, keep_mean ? mean : 0);
}

void ppo_advantage(Ppo *ppo)
{
    const PpoConfig *config = &ppo->config;
    Rollout *rollout = &ppo->rollout;
    Exec *exec = &ppo->stage.exec;
    size_t mark = arena_mark(exec->step);
    int64_t tokens = rollout->responses;
    int32_t *start = memory_borrow((size_t)rollout->sequences + 1, sizeof *start);
    for (int64_t i = 0; i <= rollout->sequences; i++)
        start[i] = (int32_t)rollout->response_start[i];
    Ragged rows = ragged_make(exec->device, exec->step, start, rollout->sequences);
    Tensor logprob = unit_batch_floats(exec, rollout->old_logprob, tokens);
    Tensor reference = unit_batch_floats(exec, rollout->reference_logprob, tokens);
    Tensor value = unit_batch_floats(exec, rollout->value, tokens);
    Tensor score = unit_batch_floats(exec, rollout->score, rollout->sequences);
    Tensor reward = tensor_new1(exec->step, DTYPE_F32, tokens), kl = tensor_new1(exec->step, DTYPE_F32, tokens);
    Tensor advantage = tensor_new1(exec->step, DTYPE_F32, tokens), returns = tensor_new1(exec->step, DTYPE_F32, tokens);

    reward_shape(exec, config->kl, logprob, reference, score, &rows, (float)ppo->kl_coefficient, reward, kl);
    if (config->whiten_rewards)
        ppo_whiten(exec, reward, true);
    gae(exec, reward, value, &rows, (float)config->gamma, (float)config->lambda, advantage, returns);
    if (config->whiten_advantages)
        ppo_whiten(exec, advantage, false);

    tensor_read(exec->device, reward, rollout->reward_shaped);
    tensor_read(exec->device, kl, rollout->kl);
    tensor_read(exec->device, advantage, rollout->advantage);
    tensor_read(exec->device, returns, rollout->returns);
    memory_return(&start);
    arena_rewind(exec->step, mark);
}
