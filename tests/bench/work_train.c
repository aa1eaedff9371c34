/* work_train.c -- one optimizer step of supervised training, and AdamW by itself.
 *
 * The step is SFT's (stages/sft.c): units of packed sequences, next-token loss on every position, backward, gradient norm and clipping, AdamW.
 * A sequence of T + 1 tokens feeds T and predicts T. */
#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/data/batch.h"
#include "core/train/trainer.h"
#include "stages/unit_batch.h"
#include "tests/bench/work.h"

static const OptimizerConfig optimizer = {
    .lr = 1e-4,
    .beta1 = 0.9,
    .beta2 = 0.999,
    .epsilon = 1e-8,
    .weight_decay = 0.01,
    .clip = 1.0,
    .form = ADAM_TORCH,
    .schedule = {.kind = SCHEDULE_CONSTANT, .final = 1.0},
};

typedef struct Train {
    Model model;
    Trainer trainer;
    bool trainer_opened;
    int64_t batch;   /* sequences of a step */
    int64_t steps;   /* of a round */
    int64_t *length; /* (steps * batch) tokens fed of each sequence */
    int64_t longest, tokens;
    int32_t *token; /* (steps * batch, longest + 1) */
    UnitPlan plan;  /* of the step at hand */
    int64_t first;  /* its first sequence */
    float weight;   /* 1 / its targets */
    int64_t unit_tokens;
    UnitBatch unit;
} Train;

static Status train_unit(void *context, int64_t index, Exec *exec, Tensor stats)
{
    Train *train = context;
    unit_batch_begin(&train->unit);
    for (int64_t i = train->plan.unit_start[index]; i < train->plan.unit_start[index + 1]; i++) {
        int64_t sequence = train->first + i, count = train->length[sequence];
        const int32_t *token = train->token + sequence * (train->longest + 1);
        unit_batch_sequence(&train->unit, token, count);
        for (int64_t t = 0; t < count; t++)
            unit_batch_row(&train->unit, t, token[t + 1], train->weight);
    }
    unit_batch_upload(&train->unit, exec);
    Tensor hidden = model_hidden(&train->model, exec, &train->unit.batch, train->unit.wanted, NULL);
    VocabularyHead head = model_vocabulary_head(&train->model, 1.0f);
    head_nll(exec, &head, hidden, train->unit.targets, train->unit.weights, tensor_absent(), stats);
    tape_backward(exec);
    return status_ok();
}

static Status train_open(Bench *bench, void **self)
{
    Train *train = memory_new(1, sizeof *train);
    *self = train;
    train->batch = bench_int(bench, "batch", 4);
    train->steps = bench_int(bench, "steps", 1);
    train->unit_tokens = bench_int(bench, "unit_tokens", 4096);
    const char *lengths = bench_text(bench, "lengths", NULL);
    TRY(lengths_read(lengths, train->steps * train->batch, bench_int(bench, "tokens", 256), &train->length,
                     &train->tokens, &train->longest));
    TRY(model_random(bench, bench_text(bench, "shape", "gpt2-124m"), HEAD_LM, &train->model));
    if (train->longest > train->model.shape.positions_max)
        return status_error(STATUS_USAGE, "tokens=%lld: the shape has %lld positions", (long long)train->longest,
                            (long long)train->model.shape.positions_max);
    int64_t all = train->steps * train->batch * (train->longest + 1);
    train->token = memory_new((size_t)all, sizeof *train->token);
    tokens_random(7, train->model.shape.vocab, all, train->token);
    int64_t lanes = bench_int(bench, "lanes", comm_size(bench->comm));
    TRY(trainer_open(&train->trainer, &train->model, bench->comm, &optimizer, lanes, REDUCE_EXACT, 1000,
                     &bench->model));
    train->trainer_opened = true;
    return status_ok();
}

static Status train_once(Bench *bench, void *self, Figures *figures)
{
    Train *train = self;
    double since = profile_seconds(), loss = 0;
    for (int64_t step = 0; step < train->steps; step++) {
        train->first = step * train->batch;
        const int64_t *length = train->length + train->first;
        int64_t targets = 0;
        for (int64_t i = 0; i < train->batch; i++)
            targets += length[i];
        train->weight = (float)(1.0 / (double)targets);
        units_plan(&train->plan, length, train->batch, train->unit_tokens, train->trainer.lanes);
        StepReport report;
        Status status =
            trainer_step(&train->trainer, &bench->exec, train->plan.units, train_unit, train, NLL_STATS, &report);
        units_free(&train->plan);
        TRY(status);
        loss = report.stats[NLL_LOSS];
    }
    figures_add(figures, "seconds", profile_seconds() - since);
    figures_add(figures, "tokens", (double)train->tokens);
    figures_add(figures, "pairs", lengths_pairs(train->length, train->steps * train->batch));
    figures_add(figures, "steps", (double)train->steps);
    figures_add(figures, "loss", loss);
    figures_add(figures, "step_bytes", (double)bench->step.high_water);
    return status_ok();
}

static void train_close(Bench *bench, void *self)
{
    (void)bench;
    Train *train = self;
    if (train->trainer_opened)
        trainer_close(&train->trainer);
    unit_batch_free(&train->unit);
    if (train->model.device)
        model_close(&train->model);
    memory_free(&train->token);
    memory_free(&train->length);
    memory_free(&train);
}

const Work work_train = {
    .name = "train",
    .help = "optimizer steps: shape=gpt2-124m batch=4 tokens=256 steps=1 unit_tokens=4096 lanes=RANKS lengths=FILE",
    .open = train_open,
    .once = train_once,
    .close = train_close,
};

/* --- AdamW by itself: all parameters of a shape, gradient given, no clipping ---------------------------------------- */

typedef struct AdamW {
    Model model;
    Tensor gradient, exp_avg, exp_avg_sq; /* (count) */
    Tensor scale;                         /* (1) */
    int64_t steps;
} AdamW;

static Status adamw_open(Bench *bench, void **self)
{
    AdamW *own = memory_new(1, sizeof *own);
    *self = own;
    TRY(model_random(bench, bench_text(bench, "shape", "gpt2-124m"), HEAD_LM, &own->model));
    int64_t count = own->model.params.count;
    own->gradient = tensor_new1(&bench->model, DTYPE_F32, count);
    own->exp_avg = tensor_new1(&bench->model, DTYPE_F32, count);
    own->exp_avg_sq = tensor_new1(&bench->model, DTYPE_F32, count);
    own->scale = tensor_new1(&bench->model, DTYPE_F32, 1);
    fill(&bench->exec, own->gradient, 1e-3f);
    tensor_zero(&bench->device, own->exp_avg);
    tensor_zero(&bench->device, own->exp_avg_sq);
    fill(&bench->exec, own->scale, 1.0f);
    return status_ok();
}

static Status adamw_once(Bench *bench, void *self, Figures *figures)
{
    AdamW *own = self;
    double since = profile_seconds();
    adamw(&bench->exec, ADAM_TORCH, own->model.params.value, tensor_absent(), own->gradient, own->exp_avg,
          own->exp_avg_sq, own->scale, ++own->steps, optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.epsilon,
          optimizer.weight_decay);
    double seconds = profile_seconds() - since;
    figures_add(figures, "seconds", seconds);
    figures_add(figures, "parameters", (double)own->model.params.count);
    figures_add(figures, "bytes_per_second", 28.0 * (double)own->model.params.count / seconds);
    return status_ok();
}

static void adamw_close(Bench *bench, void *self)
{
    (void)bench;
    AdamW *own = self;
    if (own->model.device)
        model_close(&own->model);
    memory_free(&own);
}

const Work work_adamw = {
    .name = "adamw",
    .help = "one update of all parameters: shape=gpt2-124m",
    .open = adamw_open,
    .once = adamw_once,
    .close = adamw_close,
};
