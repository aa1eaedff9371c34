/* work_ops.c -- op by op on any device, at the sizes of a model's training unit and of a decode step: the share of memory bandwidth, or FLOP/s.
 *
 * Each op is asked for as often as fills a tenth of a second before the clock is read, since a GPU is only ever waited for at the end. Bytes and
 * arithmetic are those of core/tensor/cost.c: every operand once. The table goes to standard output, a line per op. */
#include <stdio.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "tests/bench/work.h"

typedef struct Ops {
    Bench *bench;
    ModelShape shape;
    int64_t tokens, slots, past; /* of a unit; of a decode step */
    int64_t stream;              /* elements of the longest arrays */
    double bandwidth, peak;      /* bytes and FLOP per second that shares are of; 0: the first line's, none */
    double milliseconds;
    Arena *arena;
    DType flow;
} Ops;

static void *zeros(Ops *own, DType dtype, int64_t count)
{
    Tensor x = tensor_new1(own->arena, dtype, count);
    tensor_zero(&own->bench->device, x);
    return x.data;
}
static void *flows(Ops *own, int64_t count)
{
    return zeros(own, own->flow, count);
}
static float *floats(Ops *own, int64_t count, float value)
{
    float *x = zeros(own, DTYPE_F32, count);
    device_run(&own->bench->device, OP_fill, &(FillArgs){x, count, value});
    return x;
}
/* first + 0, each, 2 each, ...; below first + `bound` (0: no bound). */
static int32_t *counts(Ops *own, int64_t count, int64_t first, int64_t each, int64_t bound)
{
    int32_t *values = memory_new((size_t)count, sizeof *values);
    for (int64_t i = 0; i < count; i++)
        values[i] = (int32_t)(first + (bound ? i * each % bound : i * each));
    Tensor x = tensor_new1(own->arena, DTYPE_I32, count);
    tensor_write(&own->bench->device, x, values);
    memory_free(&values);
    return x.data;
}

/* Seconds of one call, of many asked for together. */
static double seconds_of(Ops *own, OpKind op, const void *args)
{
    Device *device = &own->bench->device;
    double seconds = 0;
    for (int64_t calls = 1;; calls *= 4) {
        device_finish(device);
        const double since = profile_seconds();
        for (int64_t i = 0; i < calls; i++)
            device_run(device, op, args);
        device_finish(device);
        seconds = (profile_seconds() - since) / (double)calls;
        if (calls > 1 && seconds * (double)calls * 1000 >= own->milliseconds)
            return seconds;
    }
}

static void measure(Ops *own, const char *label, OpKind op, const void *args)
{
    double flops, bytes;
    op_cost(op, args, &flops, &bytes);
    const double seconds = seconds_of(own, op, args);
    if (own->bandwidth <= 0)
        own->bandwidth = bytes / seconds; /* the first line */
    printf("%-18s %-34s %10.1f us %9.1f GB/s %6.1f %% %9.1f GFLOP/s", op_name(op), label, seconds * 1e6,
           bytes / seconds * 1e-9, 100 * bytes / seconds / own->bandwidth, flops / seconds * 1e-9);
    if (own->peak > 0)
        printf(" %6.1f %%", 100 * flops / seconds / own->peak);
    printf("\n");
    fflush(stdout);
}

/* --- The ops, in the order of a layer --- */

static void measure_streams(Ops *own)
{
    const int64_t count = own->stream;
    void *a = flows(own, count), *b = flows(own, count), *c = flows(own, count);
    measure(own, "residual stream", OP_add,
            &(AddArgs){.dtype = own->flow, .out = c, .a = a, .b = b, .scale = 1, .count = count});
    float *x = floats(own, count, 0.5f);
    measure(own, "fp32 to bf16", OP_cast,
            &(CastArgs){.from_dtype = DTYPE_F32, .to_dtype = DTYPE_BF16, .from = x, .to = a, .count = count});
}

static void measure_norms(Ops *own)
{
    const int64_t rows = own->tokens, width = own->shape.width, count = rows * width;
    void *x = flows(own, count), *residual = flows(own, count), *sum = flows(own, count), *y = flows(own, count);
    float *gain = floats(own, width, 1), *bias = floats(own, width, 0), *mean = floats(own, rows, 0),
          *rstd = floats(own, rows, 1);
    measure(own, "LayerNorm with residual", OP_norm_forward,
            &(NormForwardArgs){NORM_LAYER, own->flow, x, residual, sum, gain, bias, y, mean, rstd, rows, width, 1e-5f});
    measure(own, "LayerNorm", OP_norm_backward,
            &(NormBackwardArgs){.kind = NORM_LAYER,
                                .dtype = own->flow,
                                .dy = y,
                                .dsum = x,
                                .sum = sum,
                                .mean = mean,
                                .rstd = rstd,
                                .gain = gain,
                                .dx = x,
                                .dgain = gain,
                                .dbias = bias,
                                .rows = rows,
                                .width = width});
}

static void measure_acts(Ops *own)
{
    const int64_t rows = own->tokens, width = own->shape.ffn, count = rows * width;
    void *x = flows(own, 2 * count), *y = flows(own, count), *dx = flows(own, 2 * count);
    measure(own, "gelu_new", OP_act_forward, &(ActForwardArgs){ACT_GELU_TANH, own->flow, x, y, rows, width});
    measure(own, "gelu_new", OP_act_backward,
            &(ActBackwardArgs){ACT_GELU_TANH, own->flow, x, y, dx, NULL, rows, width});
    measure(own, "swiglu", OP_act_forward, &(ActForwardArgs){ACT_SWIGLU, own->flow, x, y, rows, width});
    measure(own, "swiglu", OP_act_backward, &(ActBackwardArgs){ACT_SWIGLU, own->flow, x, y, dx, NULL, rows, width});
    measure(own, "up's bias", OP_bias_backward, &(BiasBackwardArgs){own->flow, y, floats(own, width, 0), rows, width});
}

static void measure_embedding(Ops *own)
{
    const int64_t rows = own->tokens, width = own->shape.width, vocab = own->shape.vocab;
    EmbedArgs args = {.dtype = own->flow,
                      .token = counts(own, rows, 0, 7919, vocab),
                      .table = flows(own, vocab * width),
                      .y = flows(own, rows * width),
                      .tokens = rows,
                      .width = width,
                      .vocab = vocab};
    measure(own, "tokens", OP_embed_forward, &args);
    args.table = floats(own, vocab * width, 0);
    measure(own, "tokens", OP_embed_backward, &args);
}

static void measure_products(Ops *own)
{
    const int64_t m = own->tokens, d = own->shape.width, f = own->shape.ffn;
    void *x = flows(own, m * d), *w = flows(own, f * d), *y = flows(own, m * f);
    float *dw = floats(own, f * d, 0);
    GemmArgs args = {.dtype = own->flow,
                     .c_dtype = own->flow,
                     .transpose_b = true,
                     .m = m,
                     .n = f,
                     .k = d,
                     .alpha = 1,
                     .a = x,
                     .lda = d,
                     .b = w,
                     .ldb = d,
                     .c = y,
                     .ldc = f};
    measure(own, "up, forward", OP_gemm, &args);
    args.m = own->slots;
    measure(own, "up, a decode step", OP_gemm, &args);
    measure(own, "up, of the weights", OP_gemm,
            &(GemmArgs){.dtype = own->flow,
                        .c_dtype = DTYPE_F32,
                        .transpose_a = true,
                        .m = f,
                        .n = d,
                        .k = m,
                        .alpha = 1,
                        .beta = 1,
                        .a = y,
                        .lda = f,
                        .b = x,
                        .ldb = d,
                        .c = dw,
                        .ldc = d});
}

static void measure_attention(Ops *own)
{
    const ModelShape *s = &own->shape;
    const int64_t length = own->past < own->tokens ? own->past : own->tokens, sequences = own->tokens / length;
    const int64_t tokens = sequences * length, stride = (s->heads + 2 * s->kv_heads) * s->head_dim,
                  width = s->heads * s->head_dim;
    const float scale = 0.125f;
    void *qkv = flows(own, tokens * stride), *out = flows(own, tokens * width), *dqkv = flows(own, tokens * stride);
    float *lse = floats(own, tokens * s->heads, 1);
    int32_t *start = counts(own, sequences + 1, 0, length, 0);
    const double pairs = (double)sequences * 0.5 * (double)length * (double)(length + 1);
    AttentionForwardArgs forward = {.dtype = own->flow,
                                    .qkv = qkv,
                                    .start = start,
                                    .out = out,
                                    .lse = lse,
                                    .tokens = tokens,
                                    .sequences = sequences,
                                    .heads = s->heads,
                                    .kv_heads = s->kv_heads,
                                    .head_dim = s->head_dim,
                                    .longest = length,
                                    .scale = scale,
                                    .pairs = pairs};
    measure(own, "of a unit", OP_attention_forward, &forward);
    measure(own, "of a unit", OP_attention_backward,
            &(AttentionBackwardArgs){.dtype = own->flow,
                                     .qkv = qkv,
                                     .out = out,
                                     .dout = out,
                                     .lse = lse,
                                     .start = start,
                                     .dqkv = dqkv,
                                     .tokens = tokens,
                                     .sequences = sequences,
                                     .heads = s->heads,
                                     .kv_heads = s->kv_heads,
                                     .head_dim = s->head_dim,
                                     .longest = length,
                                     .scale = scale,
                                     .pairs = pairs});
    /* One new token each, behind `past`. */
    const int64_t capacity = own->past + 1, cached = own->slots * s->kv_heads * capacity * s->head_dim;
    forward.start = counts(own, own->slots + 1, 0, 1, 0);
    forward.kv = (KvArgs){.k = flows(own, cached),
                          .v = flows(own, cached),
                          .slot = counts(own, own->slots, 0, 1, 0),
                          .past = counts(own, own->slots, own->past, 0, 0),
                          .slots = own->slots,
                          .capacity = capacity};
    forward.tokens = forward.sequences = own->slots;
    forward.longest = 1;
    forward.lse = NULL;
    forward.pairs = (double)own->slots * (double)capacity;
    measure(own, "a decode step", OP_attention_forward, &forward);
}

static void measure_vocabulary(Ops *own)
{
    const int64_t rows = own->tokens < 2048 ? own->tokens : 2048, vocab = own->shape.vocab,
                  ld = (vocab + 127) / 128 * 128;
    float *logits = floats(own, rows * ld, 0.5f), *lse = floats(own, rows, 11), *logprob = floats(own, rows, -11);
    int32_t *target = counts(own, rows, 0, 7919, vocab);
    measure(own, "log-probs and entropy", OP_logits_stats,
            &(LogitsStatsArgs){logits, target, lse, logprob, floats(own, rows, 1), rows, vocab, ld, 1});
    measure(own, "of log-probs", OP_logits_backward,
            &(LogitsBackwardArgs){.dtype = own->flow,
                                  .logits = logits,
                                  .dlogits = flows(own, rows * ld),
                                  .target = target,
                                  .lse = lse,
                                  .dlogprob = logprob,
                                  .rows = rows,
                                  .vocab = vocab,
                                  .ld = ld,
                                  .temperature = 1});
    const int64_t slots = own->slots < rows ? own->slots : rows;
    measure(own, "a decode step", OP_sample,
            &(SampleArgs){.logits = logits,
                          .rows = slots,
                          .vocab = vocab,
                          .ld = ld,
                          .temperature = 1,
                          .top_p = 1,
                          .seed = 1,
                          .subsequence = zeros(own, DTYPE_I64, slots),
                          .position = counts(own, slots, 0, 1, 0),
                          .token = counts(own, slots, 0, 1, 0),
                          .logprob = floats(own, slots, 0)});
}

static void measure_optimizer(Ops *own)
{
    const int64_t count = own->stream;
    float *p = floats(own, count, 0.1f), *m = floats(own, count, 0), *v = floats(own, count, 0),
          *g = floats(own, count, 0.01f), *scale = floats(own, 1, 1);
    void *copy = own->flow == DTYPE_F32 ? NULL : flows(own, count);
    measure(own, "parameters", OP_adamw,
            &(AdamWArgs){ADAM_TORCH, p, m, v, copy, g, scale, count, 1, 1e-5, 0.9, 0.999, 1e-8, 0.01});
    measure(own, "parameters", OP_sum_squares,
            &(SumSquaresArgs){g, count, zeros(own, DTYPE_F64, (count + SUM_BLOCK - 1) / SUM_BLOCK)});
}

static Status ops_open(Bench *bench, void **self)
{
    Ops *own = memory_new(1, sizeof *own);
    *self = own;
    *own = (Ops){.bench = bench, .arena = &bench->step, .flow = bench->device.flow};
    own->tokens = bench_int(bench, "tokens", 8192);
    own->slots = bench_int(bench, "slots", 64);
    own->past = bench_int(bench, "past", 512);
    own->bandwidth = 1e9 * (double)bench_int(bench, "bandwidth", 0);
    own->peak = 1e12 * (double)bench_int(bench, "peak", 0);
    own->milliseconds = (double)bench_int(bench, "milliseconds", 100);
    own->stream = bench_int(bench, "stream", 64) << 20;
    TRY(shape_named(bench_text(bench, "shape", "gpt2-124m"), &own->shape));
    if (own->stream == 0)
        own->stream = own->tokens * own->shape.width;
    return status_ok();
}

static Status ops_once(Bench *bench, void *self, Figures *figures)
{
    Ops *own = self;
    static void (*const parts[])(Ops * own) = {measure_streams,    measure_norms,    measure_acts,
                                               measure_embedding,  measure_products, measure_attention,
                                               measure_vocabulary, measure_optimizer};
    const double since = profile_seconds();
    const size_t mark = arena_mark(own->arena);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        parts[i](own);
        device_finish(&bench->device);
        arena_rewind(own->arena, mark);
    }
    figures_add(figures, "seconds", profile_seconds() - since);
    return status_ok();
}

static void ops_close(Bench *bench, void *self)
{
    (void)bench;
    Ops *own = self;
    memory_free(&own);
}

const Work work_ops = {
    .name = "ops",
    .help = "op by op: shape=gpt2-124m tokens=8192 slots=64 past=512 stream=64 (2^20 elements; 0: of a unit) "
            "milliseconds=100 "
            "bandwidth=GB/s peak=TFLOP/s (what shares are of; 0: the first line's, none)",
    .open = ops_open,
    .once = ops_once,
    .close = ops_close,
};
