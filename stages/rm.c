/* rm.c -- the reward model: a scalar head on the last token, trained so that better answers of a prompt score higher.
 *
 * Formulas: rank_loss in core/tensor/ops.h (Ouyang et al. 2022 eq. 1; Plackett-Luce). All answers of a prompt are one group, read once each, in
 * one unit; a group weighs 1 / groups of the step (ppo-checklist 47-49). The mean and deviation of held-out rewards are stored, for who normalises. */
#include <math.h>
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
    double first_loss, last_loss, accuracy, margin, best_accuracy;
    double reward_mean, reward_deviation;
    int64_t best_step;
} Rm;

/* One unit: every answer once, its score at the last token, the loss over its groups. */
static Status rm_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Rm *rm = context;
    const StepExamples *step = &rm->examples;
    int64_t first = step->plan.unit_start[index], groups = step->plan.unit_start[index + 1] - first;
    if (groups == 0)
        return status_ok();
    int64_t answers = step->group_start[first + groups] - step->group_start[first];
    float *strengths = memory_borrow((size_t)answers, sizeof *strengths);
    float *weights = memory_borrow((size_t)groups, sizeof *weights);
    int32_t *starts = memory_borrow((size_t)groups + 1, sizeof *starts);
    unit_batch_begin(&rm->unit);
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t s = step->group_start[first + g]; s < step->group_start[first + g + 1]; s++) {
            Sequence answer = dataset_sequence(rm->source, step->sequence[s]);
            strengths[rm->unit.rows] = answer.strength;
            unit_batch_sequence(&rm->unit, answer.token, answer.count);
            unit_batch_row(&rm->unit, answer.count - 1, 0, 0);
        }
        weights[g] = (float)(1.0 / (double)step->examples);
        starts[g + 1] = (int32_t)rm->unit.rows;
    }
    unit_batch_upload(&rm->unit, exec);
    Tensor hidden = model_hidden(&rm->model, exec, &rm->unit.batch, rm->unit.wanted, NULL);
    Tensor reward = model_score(&rm->model, exec, hidden);
    Tensor strength = unit_batch_floats(exec, strengths, rm->unit.rows);
    Tensor weight = unit_batch_floats(exec, weights, groups);
    Tensor start = unit_batch_ints(exec, starts, groups + 1);
    memory_return(&starts);
    memory_return(&weights);
    memory_return(&strengths);
    rank_loss(exec, rm->config.loss, reward, strength, start, weight, (float)rm->config.margin_scale, stats);
    if (exec->tape)
        tape_backward(exec);
    return status_ok();
}

static double rm_ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* Loss, pair accuracy, margin, and the rewards' mean and deviation over a whole data set. */
static Status rm_evaluate(Rm *rm, const Dataset *dataset, double stats[RANK_STATS])
{
    rm->source = dataset;
    batch_step(&rm->examples, dataset, 0, 0, dataset_examples_per_epoch(dataset), false, rm->config.unit_tokens,
               rm->stage.run.lanes);
    Status status = units_evaluate(rm->stage.comm, &rm->stage.exec, rm->stage.run.lanes, rm->examples.plan.units,
                                   rm_unit, rm, RANK_STATS, stats);
    return status;
}

static Status rm_evaluate_when_due(Rm *rm, int64_t steps_total)
{
    Stage *stage = &rm->stage;
    bool edge = stage->step_index == 0 || stage->step_index == steps_total;
    if (!rm->held_out || !(edge || (rm->config.eval_every > 0 && stage->step_index % rm->config.eval_every == 0)))
        return status_ok();
    stage_phase(stage, "evaluate");
    double stats[RANK_STATS];
    TRY(rm_evaluate(rm, rm->held_out, stats));
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
    double stats[RANK_STATS];
    stage_phase(&rm->stage, "evaluate");
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
    rm->best_step = -1;
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
    unit_batch_free(&rm->unit);
    model_close(&rm->model);
    tokenizer_close(&rm->tokenizer);
    stage_close(&rm->stage, memory);
    memory_free(&rm);
    return status;
}
