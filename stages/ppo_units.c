/* ppo_units.c -- units of the update: which sequences and which rows they hold, which of them are worked on together, and their hidden states.
 *
 * Policy and critic see the units of an iteration's first minibatch twice before anything has changed: for old log-probs and values, and in the first steps. With
 * ppo.merge_first_pass the first time is recorded and kept, and the second goes on from there. */
#include <stdlib.h>

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

Span ppo_rank_units(const Ppo *ppo, int rank)
{
    return shard_rank_units(ppo->chosen, ppo->stage.run.lanes, comm_size(ppo->stage.comm), rank);
}

typedef struct SizedUnit {
    int64_t tokens, unit; /* tokens with prompts */
} SizedUnit;

static int compare_sizes(const void *a, const void *b)
{
    const SizedUnit *x = a, *y = b;
    return x->tokens != y->tokens ? (x->tokens < y->tokens) - (x->tokens > y->tokens)
                                  : (x->unit > y->unit) - (x->unit < y->unit);
}

/* A plan is of the hungriest iteration: the largest units of all fall to this rank. */
static void ppo_choose_largest(Ppo *ppo)
{
    const int64_t *start = ppo->rollout.start, *unit_start = ppo->plan.unit_start;
    Span own = ppo_rank_units(ppo, comm_rank(ppo->stage.comm));
    SizedUnit *sized = memory_borrow((size_t)ppo->plan.units, sizeof *sized);
    for (int64_t unit = 0; unit < ppo->plan.units; unit++)
        sized[unit] = (SizedUnit){start[unit_start[unit + 1]] - start[unit_start[unit]], unit};
    qsort(sized, (size_t)ppo->plan.units, sizeof *sized, compare_sizes);
    for (int64_t i = own.from; i < own.to; i++)
        ppo->order[i] = sized[i - own.from].unit;
    memory_return(&sized);
}

void ppo_choose(Ppo *ppo, int64_t epoch, Span units)
{
    RngStream stream =
        rng_stream((uint64_t)ppo->stage.run.seed, RNG_UPDATE, (uint64_t)ppo->stage.step_index, (uint64_t)epoch);
    while (ppo->plan.units > ppo->order_capacity)
        memory_reserve(&ppo->order, ppo->order_capacity, &ppo->order_capacity);
    ppo->chosen = units.to - units.from;
    for (int64_t i = 0; i < ppo->chosen; i++)
        ppo->order[i] = (int64_t)rng_permute(stream, (uint64_t)ppo->plan.units, (uint64_t)(units.from + i));
    if (ppo->stage.dry)
        ppo_choose_largest(ppo);
    ppo->chosen_tokens = 0;
    for (int64_t i = 0; i < ppo->chosen; i++) {
        Span rows = ppo_unit_responses(ppo, ppo->order[i]);
        ppo->chosen_tokens += (double)(rows.to - rows.from);
    }
}

bool ppo_actor_learns(const Ppo *ppo)
{
    return ppo->stage.step_index >= ppo->config.critic_warmup;
}

/* --- Hidden states, made or kept --- */

static PpoPass *ppo_pass(Ppo *ppo, int64_t index)
{
    const int64_t at = index - ppo_rank_units(ppo, comm_rank(ppo->stage.comm)).from;
    for (; ppo->pass_slots <= at; ppo->pass_slots++) {
        memory_reserve(&ppo->pass, ppo->pass_slots, &ppo->pass_capacity);
        ppo->pass[ppo->pass_slots] = (PpoPass){.tape = {tape_open(), tape_open()}};
    }
    return &ppo->pass[at];
}

Tensor ppo_hidden(Ppo *ppo, PpoLearner learner, int64_t index, Exec *exec)
{
    Model *model = learner == PPO_ACTOR ? &ppo->actor : &ppo->critic;
    Params *params = &model->params;
    bool learns = learner == PPO_CRITIC || ppo_actor_learns(ppo);
    if (ppo->passes == PASSES_KEPT && exec->tape) {
        PpoPass *pass = ppo_pass(ppo, index);
        tape_take(exec->tape, pass->tape[learner], params->grad);
        return pass->hidden[learner];
    }
    if (ppo->passes != PASSES_BEING_MADE || !learns)
        return model_hidden(model, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
    PpoPass *pass = ppo_pass(ppo, index);
    exec->tape = pass->tape[learner];
    params_set_grad(params, tape_gradients_later(params->count));
    pass->hidden[learner] = model_hidden(model, exec, &ppo->unit.batch, ppo->unit.wanted, NULL);
    params_set_grad(params, tensor_absent());
    exec->tape = NULL;
    arena_hold(exec->step);
    return pass->hidden[learner];
}

void ppo_forget_passes(Ppo *ppo)
{
    if (ppo->passes == PASSES_NONE)
        return;
    for (int64_t i = 0; i < ppo->pass_slots; i++)
        for (int learner = 0; learner < PPO_LEARNERS; learner++)
            tape_reset(ppo->pass[i].tape[learner]);
    arena_let_go(ppo->stage.exec.step);
    arena_rewind(ppo->stage.exec.step, ppo->pass_mark);
    ppo->passes = PASSES_NONE;
}

void ppo_passes_free(Ppo *ppo)
{
    for (int64_t i = 0; i < ppo->pass_slots; i++)
        for (int learner = 0; learner < PPO_LEARNERS; learner++)
            tape_close(ppo->pass[i].tape[learner]);
    memory_free(&ppo->pass);
}
