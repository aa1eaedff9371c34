/* sft.c -- supervised fine-tuning: next-token loss on the targets of packed examples, with held-out perplexity.
 *
 * Formulas: loss = - sum log p(target) / (targets of the whole step), so that neither accumulation nor ranks change it
 * (ppo-checklist items 40, 57). Sequences see themselves alone; the last token of each predicts nothing and is not fed. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/batch.h"
#include "stages/sections.h"
#include "stages/stage.h"
#include "stages/unit_batch.h"

typedef struct Sft {
    Stage stage;
    SftConfig config;
    DataConfig data_config;
    OptimizerConfig optimizer;
    Model model;
    Tokenizer *tokenizer;
    Dataset *train, *held_out; /* held_out may be NULL */
    Trainer trainer;
    StepExamples examples; /* of the step at hand */
    const Dataset *source; /* the data set that `examples` index */
    UnitBatch unit;
    double best_loss, first_loss, last_loss;
    int64_t best_step;
} Sft;

/* One unit: forward, loss over its targets, and (with a tape) backward. */
static Status sft_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Sft *sft = context;
    const StepExamples *step = &sft->examples;
    float weight = step->targets > 0 ? (float)(1.0 / (double)step->targets) : 0;
    unit_batch_begin(&sft->unit);
    for (int64_t i = step->plan.unit_start[index]; i < step->plan.unit_start[index + 1]; i++) {
        Sequence sequence = dataset_sequence(sft->source, step->sequence[step->group_start[i]]);
        if (sequence.count < 2)
            continue;
        unit_batch_sequence(&sft->unit, sequence.token, sequence.count - 1);
        for (int64_t t = 1; t < sequence.count; t++)
            if (sequence.loss[t])
                unit_batch_row(&sft->unit, t - 1, sequence.token[t], weight);
    }
    if (sft->unit.rows == 0)
        return status_ok();
    unit_batch_upload(&sft->unit, exec);
    Tensor hidden = model_hidden(&sft->model, exec, &sft->unit.batch, sft->unit.wanted, NULL);
    VocabularyHead head = model_vocabulary_head(&sft->model, 1.0f);
    head_nll(exec, &head, hidden, sft->unit.targets, sft->unit.weights, tensor_absent(), stats);
    if (exec->tape)
        tape_backward(exec);
    return status_ok();
}

/* Mean loss per target over the whole held-out set. */
static Status sft_evaluate(Sft *sft, double *loss)
{
    int64_t examples = dataset_examples_per_epoch(sft->held_out);
    sft->source = sft->held_out;
    batch_step(&sft->examples, sft->held_out, 0, 0, examples, false, sft->config.unit_tokens, sft->stage.run.lanes);
    double stats[NLL_STATS] = {0};
    Status status = units_evaluate(sft->stage.comm, &sft->stage.exec, &sft->model, sft->stage.run.lanes,
                                   sft->examples.plan.units, sft_unit, sft, NLL_STATS, stats);
    *loss = stats[NLL_LOSS];
    return status;
}

/* Evaluate where it is due, and remember the best. */
static Status sft_evaluate_when_due(Sft *sft, int64_t steps_total)
{
    Stage *stage = &sft->stage;
    bool edge = stage->step_index == 0 || stage->step_index == steps_total;
    if (!sft->held_out || !(edge || (sft->config.eval_every > 0 && stage->step_index % sft->config.eval_every == 0)))
        return status_ok();
    stage_phase(stage, "evaluate");
    double loss = 0;
    TRY(sft_evaluate(sft, &loss));
    TRY(stage_check_finite(stage, "held-out loss", loss));
    stage_log_begin(stage, stage->step_index, "evaluate");
    stage_log(stage, "held_out_loss", loss, true);
    stage_log(stage, "perplexity", exp(loss), true);
    TRY(stage_log_end(stage, 0));
    if (sft->best_step < 0 || loss < sft->best_loss) {
        sft->best_loss = loss;
        sft->best_step = stage->step_index;
        TRY(stage_save_best(stage));
    }
    return status_ok();
}

static Status sft_step(Sft *sft)
{
    Stage *stage = &sft->stage;
    stage_phase(stage, "train");
    sft->source = sft->train;
    batch_step(&sft->examples, sft->train, (uint64_t)stage->run.seed, stage->step_index, sft->config.batch,
               sft->config.shuffle, sft->config.unit_tokens, stage->run.lanes);
    StepReport report;
    Status status =
        trainer_step(&sft->trainer, &stage->exec, sft->examples.plan.units, sft_unit, sft, NLL_STATS, &report);
    int64_t tokens = sft->examples.tokens, targets = sft->examples.targets;
    TRY(status);
    phase_tokens(&stage->timer, (double)tokens);
    sft->last_loss = report.stats[NLL_LOSS];
    if (stage->step_index == 0)
        sft->first_loss = sft->last_loss;
    stage->step_index++;
    stage_log_begin(stage, stage->step_index, "train");
    stage_log(stage, "loss", sft->last_loss, true);
    stage_log(stage, "lr", report.lr, true);
    stage_log(stage, "grad_norm", report.grad_norm, false);
    stage_log(stage, "targets", (double)targets, false);
    return stage_log_end(stage, tokens);
}

/* The model to start from, the tokenizer and the data; all of them become parents of what is written. */
static Status sft_prepare(Sft *sft)
{
    Stage *stage = &sft->stage;
    TRY(stage_model(stage, "model", sft->config.model, sft->config.tokenizer, HEAD_LM, &sft->model, NULL,
                    &sft->tokenizer));
    stage->tokenizer = sft->tokenizer;
    TRY(stage_dataset(stage, DATASET_SFT, "data", &sft->data_config, sft->tokenizer, &sft->train));
    TRY(stage_dataset(stage, DATASET_SFT, "eval_data", &sft->data_config, sft->tokenizer, &sft->held_out));
    if (!sft->train)
        return config_error(stage->config, "sft.data", "a list of training files is needed");
    int64_t longest = dataset_longest(sft->train);
    unit_batch_reserve(&sft->unit, sft->config.unit_tokens > longest ? sft->config.unit_tokens : longest);
    return stage_check_length(stage, &sft->model.shape, longest);
}

static Status sft_train(Sft *sft)
{
    Stage *stage = &sft->stage;
    TRY(sft_prepare(sft));
    int64_t steps_total = sft->config.steps > 0
                              ? sft->config.steps
                              : sft->config.epochs * batch_steps_per_epoch(sft->train, sft->config.batch);
    TRY(trainer_open(&sft->trainer, &sft->model, stage->comm, &sft->optimizer, stage->run.lanes, stage->run.reduce,
                     steps_total, &stage->model_arena));
    stage_trained_model(stage, "", &sft->trainer);
    stage_state_double(stage, "first_loss", &sft->first_loss);
    stage_state_double(stage, "last_loss", &sft->last_loss);
    stage_state_double(stage, "best_loss", &sft->best_loss);
    stage_state_int(stage, "best_step", &sft->best_step);
    sft->best_step = -1;
    steps_total = stage_steps(stage, steps_total, STAGE_STEPS_ENOUGH);
    bool resumed = false;
    TRY(stage_resume(stage, &resumed));
    if (!resumed)
        TRY(sft_evaluate_when_due(sft, steps_total));
    stage->progress = progress_start("sft", stage->step_index, steps_total);
    while (stage->step_index < steps_total) {
        if (stage_should_stop(stage))
            return stage_stopped(stage);
        TRY(sft_step(sft));
        TRY(sft_evaluate_when_due(sft, steps_total));
        TRY(stage_save_when_due(stage));
    }
    return stage_finish(stage);
}

Status sft_run(Comm *comm, Device *device, const Config *config, StageMemory *memory)
{
    Sft *sft = memory_new(1, sizeof *sft);
    bool complete = false;
    Status status = stage_open(&sft->stage, "sft", comm, device, config);
    if (!status_failed(status)) {
        config_read(config, "sft", sft_keys, &sft->config);
        config_read(config, "sft", data_config_keys, &sft->data_config);
        config_read(config, "sft.optimizer", optimizer_keys, &sft->optimizer);
        status = stage_is_complete(&sft->stage, &complete);
    }
    if (!status_failed(status) && !complete)
        status = sft_train(sft);
    trainer_close(&sft->trainer);
    dataset_close(&sft->train);
    dataset_close(&sft->held_out);
    batch_step_free(&sft->examples);
    unit_batch_free(&sft->unit);
    model_close(&sft->model);
    tokenizer_close(&sft->tokenizer);
    stage_close(&sft->stage, memory);
    memory_free(&sft);
    return status;
}
