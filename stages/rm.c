/* rm.c -- the reward model: a scalar head on the last token, trained so that better answers of a prompt score higher.
 *
 * Formulas: rank_loss in core/tensor/ops.h (Ouyang et al. 2022 eq. 1; Plackett-Luce). All answers of a prompt are one group, read once each, in
 * one unit; a group weighs 1 / groups of the step (ppo-checklist 47-49). The mean and deviation of held-out rewards are stored, for who normalises. */
#define _GNU_SOURCE /* qsort_r */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/batch.h"
#include "stages/sections.h"
#include "stages/stage.h"
#include "stages/unit_batch.h"

typedef struct Rm {
    Stage stage;
    RmConfig config;
    DataConfig data_config;
    OptimizerConfig optimizer;
    Model model;
    Tokenizer *tokenizer;
    Dataset *train, *held_out;
    Trainer trainer;
    StepExamples examples;
    const Dataset *source;
    UnitBatch unit;
    int64_t *texts; /* (texts) while evaluating: one sequence of each text, in units of text_plan */
    UnitPlan text_plan;
    float *rewards; /* (texts) */
    double held_out_stats[RANK_STATS];
    int64_t held_out_step; /* when they were made; -1: not yet */
    double first_loss, last_loss, accuracy, margin, best_accuracy;
    double reward_mean, reward_deviation;
    int64_t best_step;
} Rm;

/* One text more in rm->unit, to be scored at its last token. */
static void rm_add_text(Rm *rm, int64_t sequence)
{
    Sequence text = dataset_sequence(rm->source, sequence);
    unit_batch_sequence(&rm->unit, text.token, text.count);
    unit_batch_row(&rm->unit, text.count - 1, 0, 0);
}

/* Scores at the last tokens of what rm->unit holds. */
static Tensor rm_rewards(Rm *rm, Exec *exec)
{
    unit_batch_upload(&rm->unit, exec);
    Tensor hidden = model_hidden(&rm->model, exec, &rm->unit.batch, rm->unit.wanted, NULL);
    return model_score(&rm->model, exec, hidden);
}

/* The loss over groups [first, first + groups) of rm->examples, whose answers have `reward` (answers). */
static void rm_loss(Rm *rm, Exec *exec, Tensor reward, int64_t first, int64_t groups, Tensor stats)
{
    const StepExamples *step = &rm->examples;
    int64_t begin = step->group_start[first], answers = step->group_start[first + groups] - begin;
    float *strengths = memory_borrow((size_t)answers, sizeof *strengths);
    float *weights = memory_borrow((size_t)groups, sizeof *weights);
    int32_t *starts = memory_borrow((size_t)groups + 1, sizeof *starts);
    for (int64_t i = 0; i < answers; i++)
        strengths[i] = dataset_sequence(rm->source, step->sequence[begin + i]).strength;
    for (int64_t g = 0; g < groups; g++) {
        weights[g] = (float)(1.0 / (double)step->examples);
        starts[g + 1] = (int32_t)(step->group_start[first + g + 1] - begin);
    }
    Tensor strength = unit_batch_floats(exec, strengths, answers);
    Tensor weight = unit_batch_floats(exec, weights, groups);
    Tensor start = unit_batch_ints(exec, starts, groups + 1);
    memory_return(&starts);
    memory_return(&weights);
    memory_return(&strengths);
    rank_loss(exec, rm->config.loss, reward, strength, start, weight, (float)rm->config.margin_scale, stats);
}

/* One unit: every answer once, its score at the last token, the loss over its groups. */
static Status rm_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Rm *rm = context;
    const StepExamples *step = &rm->examples;
    int64_t first = step->plan.unit_start[index], groups = step->plan.unit_start[index + 1] - first;
    if (groups == 0)
        return status_ok();
    unit_batch_begin(&rm->unit);
    for (int64_t s = step->group_start[first]; s < step->group_start[first + groups]; s++)
        rm_add_text(rm, step->sequence[s]);
    rm_loss(rm, exec, rm_rewards(rm, exec), first, groups, stats);
    tape_backward(exec);
    return status_ok();
}

/* ---- Evaluation: the same text may stand in many pairs, and is read once ---- */

static int compare_texts(const Rm *rm, int64_t a, int64_t b)
{
    Sequence x = dataset_sequence(rm->source, rm->examples.sequence[a]);
    Sequence y = dataset_sequence(rm->source, rm->examples.sequence[b]);
    if (x.count != y.count)
        return x.count < y.count ? -1 : 1;
    return memcmp(x.token, y.token, (size_t)x.count * sizeof *x.token);
}

static int compare_answers(const void *a, const void *b, void *rm)
{
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    int order = compare_texts(rm, i, j);
    return order ? order : (i > j) - (i < j);
}

/* texts (answers at most): a sequence of each different text, by length; text (answers): which of them each answer is. Returns their number, and
 * cuts text_plan. */
static int64_t rm_find_texts(Rm *rm, int64_t answers, int64_t *texts, int64_t *text)
{
    int64_t *order = memory_borrow((size_t)answers, sizeof *order);
    int64_t *length = memory_borrow((size_t)answers, sizeof *length);
    int64_t count = 0;
    for (int64_t i = 0; i < answers; i++)
        order[i] = i;
    qsort_r(order, (size_t)answers, sizeof *order, compare_answers, rm);
    for (int64_t i = 0; i < answers; i++) {
        if (i == 0 || compare_texts(rm, order[i - 1], order[i]) != 0) {
            texts[count] = rm->examples.sequence[order[i]];
            length[count] = dataset_sequence(rm->source, texts[count]).count;
            count++;
        }
        text[order[i]] = count - 1;
    }
    units_plan(&rm->text_plan, length, count, rm->config.unit_tokens, rm->stage.run.lanes);
    memory_return(&length);
    memory_return(&order);
    return count;
}

/* One unit of texts: their rewards. */
static Status rm_text_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    (void)stats;
    Rm *rm = context;
    int64_t from = rm->text_plan.unit_start[index], to = rm->text_plan.unit_start[index + 1];
    unit_batch_begin(&rm->unit);
    for (int64_t i = from; i < to; i++)
        rm_add_text(rm, rm->texts[i]);
    if (from < to)
        tensor_read(exec->device, rm_rewards(rm, exec), rm->rewards + from);
    return status_ok();
}

/* Every rank reads its units of texts, and has the rewards of all. [collective] */
static Status rm_read_texts(Rm *rm)
{
    Comm *comm = rm->stage.comm;
    int64_t units = rm->text_plan.units, lanes = rm->stage.run.lanes;
    TRY(units_evaluate(comm, &rm->stage.exec, &rm->model, lanes, units, rm_text_unit, rm, 0, NULL));
    size_t *offsets = memory_borrow((size_t)comm_size(comm) + 1, sizeof *offsets);
    for (int rank = 0; rank < comm_size(comm); rank++) {
        int64_t to = shard_rank_units(units, lanes, comm_size(comm), rank).to;
        offsets[rank + 1] = (size_t)rm->text_plan.unit_start[to] * sizeof *rm->rewards;
    }
    comm_allgather_parts(comm, rm->rewards, offsets);
    memory_return(&offsets);
    return status_ok();
}

static double rm_ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* Loss, pair accuracy, margin, and the rewards' mean and deviation over a whole data set. */
static Status rm_evaluate(Rm *rm, const Dataset *dataset, double stats[RANK_STATS])
{
    Exec *exec = &rm->stage.exec;
    rm->source = dataset;
    batch_step(&rm->examples, dataset, 0, 0, dataset_examples_per_epoch(dataset), false, rm->config.unit_tokens,
               rm->stage.run.lanes);
    int64_t groups = rm->examples.examples, answers = rm->examples.group_start[groups];
    int64_t *text = memory_borrow((size_t)answers, sizeof *text);
    rm->texts = memory_borrow((size_t)answers, sizeof *rm->texts);
    int64_t texts = rm_find_texts(rm, answers, rm->texts, text);
    rm->rewards = memory_borrow((size_t)texts, sizeof *rm->rewards);
    Status status = rm_read_texts(rm);
    if (!status_failed(status)) {
        size_t mark = arena_mark(exec->step);
        float *rewards = memory_borrow((size_t)answers, sizeof *rewards);
        for (int64_t i = 0; i < answers; i++)
            rewards[i] = rm->rewards[text[i]];
        Tensor reward = unit_batch_floats(exec, rewards, answers);
        memory_return(&rewards);
        Tensor sums = tensor_new1(exec->step, DTYPE_F64, RANK_STATS);
        tensor_zero(exec->device, sums);
        rm_loss(rm, exec, reward, 0, groups, sums);
        memset(stats, 0, RANK_STATS * sizeof *stats);
        tensor_read(exec->device, sums, stats);
        arena_rewind(exec->step, mark);
    }
    memory_return(&rm->rewards);
    memory_return(&rm->texts);
    memory_return(&text);
    return status;
}

static Status rm_evaluate_when_due(Rm *rm, int64_t steps_total)
{
    Stage *stage = &rm->stage;
    bool edge = stage->step_index == 0 || stage->step_index == steps_total;
    if (!rm->held_out || !(edge || (rm->config.eval_every > 0 && stage->step_index % rm->config.eval_every == 0)))
        return status_ok();
    stage_phase(stage, "evaluate");
    double *stats = rm->held_out_stats;
    TRY(rm_evaluate(rm, rm->held_out, stats));
    rm->held_out_step = stage->step_index;
    TRY(stage_check_finite(stage, "held-out loss", stats[RANK_LOSS]));
    rm->accuracy = rm_ratio(stats[RANK_CORRECT], stats[RANK_PAIRS]);
    rm->margin = rm_ratio(stats[RANK_MARGIN], stats[RANK_PAIRS]);
    stage_log_begin(stage, stage->step_index, "evaluate");
    stage_log(stage, "held_out_loss", stats[RANK_LOSS], true);
    stage_log(stage, "accuracy", rm->accuracy, true);
    stage_log(stage, "margin", rm->margin, true);
    TRY(stage_log_end(stage, 0));
    if (rm->best_step < 0 || rm->accuracy > rm->best_accuracy) {
        rm->best_accuracy = rm->accuracy;
        rm->best_step = stage->step_index;
        TRY(stage_save_best(stage));
    }
    return status_ok();
}

/* Mean and deviation of rewards on held-out answers (on the training answers when there are none held out). */
static Status rm_measure_rewards(Rm *rm)
{
    double *stats = rm->held_out_stats;
    stage_phase(&rm->stage, "evaluate");
    if (rm->held_out_step != rm->stage.step_index)
        TRY(rm_evaluate(rm, rm->held_out ? rm->held_out : rm->train, stats));
    TRY(stage_check_finite(&rm->stage, "squared reward", stats[RANK_REWARD_SQUARED]));
    double mean = rm_ratio(stats[RANK_REWARD], stats[RANK_ANSWERS]);
    double variance = rm_ratio(stats[RANK_REWARD_SQUARED], stats[RANK_ANSWERS]) - mean * mean;
    rm->reward_mean = mean;
    rm->reward_deviation = variance > 0 ? sqrt(variance) : 1;
    return status_ok();
}

static Status rm_step(Rm *rm)
{
    Stage *stage = &rm->stage;
    stage_phase(stage, "train");
    rm->source = rm->train;
    batch_step(&rm->examples, rm->train, (uint64_t)stage->run.seed, stage->step_index, rm->config.batch,
               rm->config.shuffle, rm->config.unit_tokens, stage->run.lanes);
    StepReport report;
    Status status = trainer_step(&rm->trainer, &stage->exec, rm->examples.plan.units, rm_unit, rm, RANK_STATS, &report);
    int64_t tokens = rm->examples.tokens;
    TRY(status);
    phase_tokens(&stage->timer, (double)tokens);
    rm->last_loss = report.stats[RANK_LOSS];
    if (stage->step_index == 0)
        rm->first_loss = rm->last_loss;
    stage->step_index++;
    stage_log_begin(stage, stage->step_index, "train");
    stage_log(stage, "loss", rm->last_loss, true);
    stage_log(stage, "accuracy", rm_ratio(report.stats[RANK_CORRECT], report.stats[RANK_PAIRS]), true);
    stage_log(stage, "margin", rm_ratio(report.stats[RANK_MARGIN], report.stats[RANK_PAIRS]), false);
    stage_log(stage, "pairs", report.stats[RANK_PAIRS], false);
    stage_log(stage, "lr", report.lr, false);
    stage_log(stage, "grad_norm", report.grad_norm, false);
    return stage_log_end(stage, tokens);
}

static Status rm_prepare(Rm *rm)
{
    Stage *stage = &rm->stage;
    bool has_head = false;
    TRY(stage_model(stage, "model", rm->config.model, rm->config.tokenizer, HEAD_SCALAR, &rm->model, &has_head,
                    &rm->tokenizer));
    if (!has_head && rm->config.model)
        params_initialise_view(stage->device, &rm->model.params, (uint64_t)stage->run.seed,
                               params_index(&rm->model.params, VIEW_SCORE_WEIGHT, 0));
    stage->tokenizer = rm->tokenizer;
    TRY(stage_dataset(stage, DATASET_RANK, "data", &rm->data_config, rm->tokenizer, &rm->train));
    TRY(stage_dataset(stage, DATASET_RANK, "eval_data", &rm->data_config, rm->tokenizer, &rm->held_out));
    if (!rm->train)
        return config_error(stage->config, "rm.data", "a list of files with ranked answers is needed");
    if (rm->config.loss == RANK_PLACKETT_LUCE) {
        TRY(dataset_check_no_ties(rm->train));
        if (rm->held_out)
            TRY(dataset_check_no_ties(rm->held_out));
    }
    int64_t group = dataset_longest(rm->train) * GROUP_ANSWERS_MAX;
    unit_batch_reserve(&rm->unit, rm->config.unit_tokens > group ? rm->config.unit_tokens : group);
    return stage_check_length(stage, &rm->model.shape, dataset_longest(rm->train));
}

static Status rm_train(Rm *rm)
{
    Stage *stage = &rm->stage;
    TRY(rm_prepare(rm));
    int64_t steps_total = rm->config.steps > 0 ? rm->config.steps
                                               : rm->config.epochs * batch_steps_per_epoch(rm->train, rm->config.batch);
    TRY(trainer_open(&rm->trainer, &rm->model, stage->comm, &rm->optimizer, stage->run.lanes, stage->run.reduce,
                     steps_total, &stage->model_arena));
    stage_trained_model(stage, "", &rm->trainer);
    stage_state_double(stage, "first_loss", &rm->first_loss);
    stage_state_double(stage, "last_loss", &rm->last_loss);
    stage_state_double(stage, "accuracy", &rm->accuracy);
    stage_state_double(stage, "margin", &rm->margin);
    stage_state_double(stage, "best_accuracy", &rm->best_accuracy);
    stage_state_int(stage, "best_step", &rm->best_step);
    stage_state_double(stage, "reward_mean", &rm->reward_mean);
    stage_state_double(stage, "reward_deviation", &rm->reward_deviation);
    rm->best_step = rm->held_out_step = -1;
    rm->reward_deviation = 1;
    steps_total = stage_steps(stage, steps_total, STAGE_STEPS_ENOUGH);
    bool resumed = false;
    TRY(stage_resume(stage, &resumed));
    if (!resumed)
        TRY(rm_evaluate_when_due(rm, steps_total));
    stage->progress = progress_start("rm", stage->step_index, steps_total);
    while (stage->step_index < steps_total) {
        if (stage_should_stop(stage))
            return stage_stopped(stage);
        TRY(rm_step(rm));
        TRY(rm_evaluate_when_due(rm, steps_total));
        TRY(stage_save_when_due(stage));
    }
    TRY(rm_measure_rewards(rm));
    stage->saved = false;
    return stage_finish(stage);
}

Status rm_run(Comm *comm, Device *device, const Config *config, StageMemory *memory)
{
    Rm *rm = memory_new(1, sizeof *rm);
    bool complete = false;
    Status status = stage_open(&rm->stage, "rm", comm, device, config);
    if (!status_failed(status)) {
        config_read(config, "rm", rm_keys, &rm->config);
        config_read(config, "rm", data_config_keys, &rm->data_config);
        config_read(config, "rm.optimizer", optimizer_keys, &rm->optimizer);
        status = stage_is_complete(&rm->stage, &complete);
    }
    if (!status_failed(status) && !complete)
        status = rm_train(rm);
    trainer_close(&rm->trainer);
    dataset_close(&rm->train);
    dataset_close(&rm->held_out);
    batch_step_free(&rm->examples);
    units_free(&rm->text_plan);
    unit_batch_free(&rm->unit);
    model_close(&rm->model);
    tokenizer_close(&rm->tokenizer);
    stage_close(&rm->stage, memory);
    memory_free(&rm);
    return status;
}
