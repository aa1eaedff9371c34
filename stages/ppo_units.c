/* ppo_units.c -- units of the update: which sequences and which rows they hold, which of them a minibatch takes, and their hidden states.
 *
 * Policy and critic see the units of an iteration's first minibatch twice before anything has changed: for old log-probs and values, and in the first steps. With
 * ppo.merge_first_pass the first time is recorded and kept, and the second goes on from there. */
#include "core/base/memory.h"
#include "core/base/rng.h"
#include "stages/ppo.h"

void ppo_plan_units(Ppo *ppo)
{
    const Rollout *rollout = &ppo->rollout;
    int64_t *length = memory_borrow((size_t)rollout->sequences, sizeof *length);
    for (int64_t i = 0; i < rollout->sequences; i++)
        length[i] = rollout->start[i + 1] - rollout->start[i];
    units_plan(&ppo->plan, length, rollout->sequences, ppo->config.unit_tokens,
               ppo->stage.run.lanes * ppo->config.minibatches);
    memory_return(&length);
}

void ppo_unit(Ppo *ppo, int64_t unit, float weight)
{
    const Rollout *rollout = &ppo->rollout;
    unit_batch_begin(&ppo->unit);
    for (int64_t s = ppo->plan.unit_start[unit]; s < ppo->plan.unit_start[unit + 1]; s++) {
        const int32_t *token = rollout->token + rollout->start[s];
        int64_t prompt = rollout->prompt_length[s], response = rollout->response_length[s];
        if (response == 0)
            continue;
        unit_batch_sequence(&ppo->unit, token, prompt + response - 1);
        for (int64_t t = 0; t < response; t++)
            unit_batch_row(&ppo->unit, prompt - 1 + t, token[prompt + t], weight);
    }
}

Span ppo_unit_responses(const Ppo *ppo, int64_t unit)
{
    const int64_t *start = ppo->rollout.response_start;
    return (Span){start[ppo->plan.unit_start[unit]], start[ppo->plan.unit_start[unit + 1]]};
}

void ppo_choose(Ppo *ppo, int64_t index)
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

Span ppo_rank_units(const Ppo *ppo, int rank)
{
    return shard_rank_units(ppo->minibatch_units, ppo->stage.run.lanes, comm_size(ppo->stage.comm), rank);
}

/* --- Hidden states, made or kept --- */

static PpoPass *ppo_pass(Ppo *ppo, int64_t index)
{
    const int64_t at = index - ppo_rank_units(ppo, comm_rank(ppo->stage.comm)).from;
    for (; ppo->passes <= at; ppo->passes++) {
        memory_reserve(&ppo->pass, ppo->passes, &ppo->pass_capacity);
        ppo->pass[ppo->passes] = (PpoPass){.tape = {tape_open(), tape_open()}};
    }
    return &ppo->pass[at];
}

Tensor ppo_hidden(Ppo *ppo, PpoLearner learner, int64_t index, Exec *exec)
{
    Model *model = learner == PPO_ACTOR ? &ppo->actor : &ppo->critic;
    Params *params = &model->params;
    bool learns = learner == PPO_CRITIC || ppo->stage.step_index >= ppo->config.critic_warmup;
    if (exec->tape && ppo->kept) {
        PpoPass *pass = ppo_pass(ppo, index);
        tape_take(exec->tape, pass->tape[learner], params->value, params->grad);
        return pass->hidden[learner];
    }
    if (!ppo->keeping || !learns)
        return model_hidden(model, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
    PpoPass *pass = ppo_pass(ppo, index);
    exec->tape = pass->tape[learner];
    params_set_grad(params, params->value); /* stands in for the buffer of the step to come */
    pass->hidden[learner] = model_hidden(model, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
    params_set_grad(params, tensor_absent());
    exec->tape = NULL;
    arena_hold(exec->step);
    return pass->hidden[learner];
}

void ppo_forget_passes(Ppo *ppo)
{
    for (int64_t i = 0; i < ppo->passes; i++)
        for (int learner = 0; learner < PPO_LEARNERS; learner++)
            tape_reset(ppo->pass[i].tape[learner]);
    if (ppo->kept) {
        arena_let_go(ppo->stage.exec.step);
        arena_rewind(ppo->stage.exec.step, ppo->pass_mark);
    }
    ppo->kept = false;
}

void ppo_passes_free(Ppo *ppo)
{
    for (int64_t i = 0; i < ppo->passes; i++)
        for (int learner = 0; learner < PPO_LEARNERS; learner++)
            tape_close(ppo->pass[i].tape[learner]);
    memory_free(&ppo->pass);
    ppo->passes = ppo->pass_capacity = 0;
}
