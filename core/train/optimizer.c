/* optimizer.c -- one AdamW update: norm over all slices, clip, update the own slices, gather the parameters. */
#include "core/train/optimizer.h"

#include <assert.h>
#include <math.h>

/* One row per key for both lists; what differs between them is the defaults and the reasons. */
#define OPTIMIZER_ROWS(lr_, lr_help, epsilon_, epsilon_help, decay_, decay_help, form_, form_help, schedule_,          \
                       schedule_help, warmup_, warmup_help, final_, final_help)                                        \
    CONFIG_KEY_FLOAT(OptimizerConfig, lr, lr_, 0.0, 10.0, lr_help),                                                    \
        CONFIG_KEY_FLOAT(OptimizerConfig, beta1, "0.9", 0.0, 0.999999,                                                 \
                         "decay of the running mean of gradients; 0.9 in every published recipe"),                     \
        CONFIG_KEY_FLOAT(OptimizerConfig, beta2, "0.999", 0.0, 0.999999999,                                            \
                         "decay of the running mean of squared gradients; 0.999 as in Huang et al. 2023 and for runs " \
                         "of some hundred steps; 0.95 adapts faster and is usual in long pre-training"),               \
        CONFIG_KEY_FLOAT(OptimizerConfig, epsilon, epsilon_, 1e-30, 1.0, epsilon_help),                                \
        CONFIG_KEY_FLOAT(OptimizerConfig, weight_decay, decay_, 0.0, 10.0, decay_help),                                \
        CONFIG_KEY_FLOAT(OptimizerConfig, clip, "1", 0.0, 1e9,                                                         \
                         "largest norm of the whole gradient, which is scaled down to it; 0: off. 1 as in OpenRLHF "   \
                         "and TRL: it costs nothing in a calm run and survives the one bad batch of a wild one"),      \
        CONFIG_KEY_CHOICE(OptimizerConfig, form, form_, "torch|tf", form_help),                                        \
        {.name = "schedule",                                                                                           \
         .type = CONFIG_CHOICE,                                                                                        \
         .offset = offsetof(OptimizerConfig, schedule.kind),                                                           \
         .default_text = schedule_,                                                                                    \
         .choices = "constant|linear|cosine",                                                                          \
         .help = schedule_help},                                                                                       \
        {.name = "warmup",                                                                                             \
         .type = CONFIG_FLOAT,                                                                                         \
         .offset = CONFIG_OFFSET(OptimizerConfig, schedule.warmup, double),                                            \
         .default_text = warmup_,                                                                                      \
         .min = 0.0,                                                                                                   \
         .max = 1e9,                                                                                                   \
         .help = warmup_help},                                                                                         \
    {                                                                                                                  \
        .name = "final", .type = CONFIG_FLOAT, .offset = CONFIG_OFFSET(OptimizerConfig, schedule.final, double),       \
        .default_text = final_, .min = 0.0, .max = 1.0, .help = final_help                                             \
    }

static_assert(sizeof(ScheduleKind) == sizeof(int), "a choice is written as an int");

const ConfigKey optimizer_keys[] = {
    OPTIMIZER_ROWS(
        "1e-5",
        "peak learning rate. 1e-5 suits fine-tuning of pre-trained models from 100M parameters up (published runs: "
        "3e-6 to 2e-5); a model of a few million parameters or less, or one that starts from nothing, wants 1e-4 to "
        "3e-3",
        "1e-8", "added to the root of the squared mean; 1e-8, as AdamW is published", "0.01",
        "decoupled weight decay, on matrices only: norms, biases and position tables never decay. 0.01 is PyTorch's "
        "default, and what the reproductions of this recipe ran with",
        "torch",
        "torch: the bias correction stands inside the root's denominator, as published; tf: epsilon hat, which "
        "damps the first steps",
        "cosine", "shape of the learning rate after warm-up: cosine, as InstructGPT's supervised stage", "0.03",
        "below 1: the fraction of all steps over which the rate rises to its peak; otherwise steps. 3 % gives Adam's "
        "second moment time to settle",
        "0.1", "where the rate ends, as a fraction of the peak: 0.1 as in InstructGPT"),
    {0},
};
const int optimizer_keys_count = sizeof optimizer_keys / sizeof *optimizer_keys - 1;

const ConfigKey optimizer_ppo_keys[] = {
    OPTIMIZER_ROWS(
        "1e-5",
        "peak learning rate. 1e-5 as Huang et al. 2023 for 124M parameters (3e-6 for 1B); a model of a few million "
        "parameters or less wants about 1e-4 for the policy and 1e-3 for the critic",
        "1e-5",
        "added to the root of the squared mean; 1e-5 as in Ziegler et al. 2019 and every PPO that reproduces it: "
        "1e-8 lets parameters with tiny gradients take full steps",
        "0",
        "decoupled weight decay, on matrices only; 0 as in Ziegler et al. 2019: the KL term already holds the policy "
        "near where it began",
        "tf",
        "tf: epsilon hat, as the original runs; torch: its first updates move the policy several times further "
        "(Huang et al. 2023 measured 6 times the KL and 4 times the clip fraction)",
        "linear", "shape of the learning rate: linear, as in Ziegler et al. 2019", "0",
        "below 1: the fraction of all steps over which the rate rises to its peak; otherwise steps. 0: the first "
        "update has the full rate, and form tf is the warm-up",
        "0", "where the rate ends, as a fraction of the peak: 0, so that the last iterations settle"),
    {0},
};
const int optimizer_ppo_keys_count = sizeof optimizer_ppo_keys / sizeof *optimizer_ppo_keys - 1;

void optimizer_open(Optimizer *optimizer, const OptimizerConfig *config, const Params *params, const Comm *comm,
                    Device *device, Arena *arena, int64_t steps_total)
{
    *optimizer = (Optimizer){.config = *config, .steps_total = steps_total};
    int64_t count = shard_owned(params->count, comm_size(comm), comm_rank(comm));
    optimizer->exp_avg = tensor_new1(arena, DTYPE_F32, count);
    optimizer->exp_avg_sq = tensor_new1(arena, DTYPE_F32, count);
    if (!arena_new_is_zero(arena)) { /* else the first update, or what is loaded, is the first to touch their pages */
        tensor_zero(device, optimizer->exp_avg);
        tensor_zero(device, optimizer->exp_avg_sq);
    }
}

/* The norm of the whole gradient, and the factor that clips it, on the device. Every rank adds all blocks in order, so all have the same bits. */
static void gradient_norm(Optimizer *optimizer, Comm *comm, Exec *exec, Tensor gradient, Tensor scale, Tensor norm)
{
    int64_t count = tensor_count(gradient);
    Tensor block = tensor_new1(exec->step, DTYPE_F64, (count + SUM_BLOCK - 1) / SUM_BLOCK);
    for (int64_t stripe = 0; stripe < shard_stripes(count); stripe++) {
        Span slice = shard_slice(count, comm_size(comm), comm_rank(comm), stripe);
        int64_t blocks = (slice.to - slice.from + SUM_BLOCK - 1) / SUM_BLOCK;
        if (blocks)
            sum_squares(exec, tensor_range(gradient, slice.from, slice.to - slice.from),
                        tensor_range(block, slice.from / SUM_BLOCK, blocks));
    }
    gather_slices(comm, exec, block, count, SUM_BLOCK);
    clip_scale(exec, block, optimizer->config.clip, scale, norm);
}

/* AdamW on the part of [from, to) that lies in this slice, whose moments begin at `moments`. */
static void update_range(Optimizer *optimizer, Exec *exec, const Params *params, Tensor grad, Tensor scale, double lr,
                         Span slice, int64_t moments, Span range, bool decay)
{
    const OptimizerConfig *config = &optimizer->config;
    int64_t from = range.from > slice.from ? range.from : slice.from;
    int64_t to = range.to < slice.to ? range.to : slice.to;
    if (from >= to)
        return;
    int64_t count = to - from, at = moments + from - slice.from;
    Tensor copy = tensor_present(params->narrow) ? tensor_range(params->narrow, from, count) : tensor_absent();
    adamw(exec, config->form, tensor_range(params->value, from, count), copy, tensor_range(grad, from, count),
          tensor_range(optimizer->exp_avg, at, count), tensor_range(optimizer->exp_avg_sq, at, count), scale,
          optimizer->steps + 1, lr, config->beta1, config->beta2, config->epsilon, decay ? config->weight_decay : 0.0);
}

/* Neighbours that agree on decay are one range; the gaps between views hold zeros, whose update is zero. */
static void update_slice(Optimizer *optimizer, Exec *exec, const Params *params, Tensor grad, Tensor scale, double lr,
                         Span slice, int64_t moments)
{
    for (int view = 0; view < params->views;) {
        bool decay = params->view[view].decay;
        int64_t from = params->view[view].offset;
        while (view < params->views && params->view[view].decay == decay)
            view++;
        int64_t to = view < params->views ? params->view[view].offset : params->count;
        update_range(optimizer, exec, params, grad, scale, lr, slice, moments, (Span){from, to}, decay);
    }
}

void optimizer_ask(Optimizer *optimizer, Comm *comm, Exec *exec, Params *params, Tensor grad, Tensor norm, double *lr)
{
    REQUIRE(tensor_count(grad) == params->count, "a gradient of %lld floats for %lld parameters",
            (long long)tensor_count(grad), (long long)params->count);
    size_t mark = arena_mark(exec->step);
    Tensor scale = tensor_new1(exec->step, DTYPE_F32, 1);
    gradient_norm(optimizer, comm, exec, grad, scale, norm);
    *lr = optimizer->config.lr * schedule_factor(&optimizer->config.schedule, optimizer->steps, optimizer->steps_total);
    int64_t moments = 0;
    for (int64_t stripe = 0; stripe < shard_stripes(params->count); stripe++) {
        Span slice = shard_slice(params->count, comm_size(comm), comm_rank(comm), stripe);
        update_slice(optimizer, exec, params, grad, scale, *lr, slice, moments);
        moments += slice.to - slice.from;
    }
    gather_slices(comm, exec, params->value, params->count, 1);
    if (comm_size(comm) > 1)
        params_narrow(exec->device, params); /* the slices of other ranks */
    optimizer->steps++;
    arena_rewind(exec->step, mark);
}

Status optimizer_check(Optimizer *optimizer, double norm)
{
    if (isfinite(norm))
        return status_ok();
    optimizer->steps--; /* AdamW left everything as it was: clip_scale told it so */
    return status_error(STATUS_NUMERIC, "optimizer step %lld: the gradient's norm is %s; nothing was changed",
                        (long long)(optimizer->steps + 1), isnan(norm) ? "not a number" : "infinite");
}

Status optimizer_step(Optimizer *optimizer, Comm *comm, Exec *exec, Params *params, Tensor grad, double *norm,
                      double *lr)
{
    size_t mark = arena_mark(exec->step);
    Tensor on_device = tensor_new1(exec->step, DTYPE_F64, 1);
    optimizer_ask(optimizer, comm, exec, params, grad, on_device, lr);
    tensor_read(exec->device, on_device, norm);
    arena_rewind(exec->step, mark);
    return optimizer_check(optimizer, *norm);
}
