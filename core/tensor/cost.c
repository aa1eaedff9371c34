/* cost.c -- what one call of an op asks for: arithmetic, and bytes if every operand moves between memory and processor
 * once.
 *
 * Why:   counted from the arguments alone, so that two runs, ranks or devices can be compared without a clock.
 * How:   a multiply-add is two; exp, log, sqrt and divide are one each; integer work is free. What dominates (matrix
 *        products, attention) is exact; element-wise ops are the count of a plain implementation. */
#include "core/tensor/ops.h"

enum { F32_BYTES = 4, F64_BYTES = 8 };

typedef struct Cost {
    double flops, bytes;
} Cost;

static Cost floats(double flops, double count)
{
    return (Cost){flops, F32_BYTES * count};
}

/* Elements of what flows between layers, and floats beside them. */
static Cost flowing(DType dtype, double flops, double elements, double beside)
{
    return (Cost){flops, (double)dtype_size(dtype) * elements + F32_BYTES * beside};
}

static Cost cost_fill(const FillArgs *a)
{
    return floats(0, (double)a->count);
}

static Cost cost_add(const AddArgs *a)
{
    double n = (double)a->count;
    return flowing(a->dtype, a->scale == 1.0f ? n : 2 * n, 3 * n, 0);
}

static Cost cost_cast(const CastArgs *a)
{
    return (Cost){0, (double)a->count * (double)(dtype_size(a->from_dtype) + dtype_size(a->to_dtype))};
}

static Cost cost_gemm(const GemmArgs *a)
{
    double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    double result = m * n * (a->beta != 0 ? 2 : 1) * (double)dtype_size(a->c_dtype);
    Cost cost = flowing(a->dtype, 2 * m * n * k + (a->bias ? m * n : 0), m * k + k * n, a->bias ? n : 0);
    cost.bytes += result;
    return cost;
}

static Cost cost_bias_backward(const BiasBackwardArgs *a)
{
    double n = (double)a->rows * (double)a->width;
    return flowing(a->dtype, n, n, 2 * (double)a->width);
}

static Cost cost_embed_forward(const EmbedArgs *a)
{
    double n = (double)a->tokens * (double)a->width;
    return flowing(a->dtype, a->positions ? n : 0, n * (a->positions ? 3 : 2),
                   (double)a->tokens * (a->positions ? 2 : 1));
}

static Cost cost_embed_backward(const EmbedArgs *a)
{
    double n = (double)a->tokens * (double)a->width;
    int tables = (a->table != NULL) + (a->positions != NULL);
    return flowing(a->dtype, n * tables, n, 2 * n * tables + (double)a->tokens * tables);
}

static Cost cost_norm_forward(const NormForwardArgs *a)
{
    double rows = (double)a->rows, n = rows * (double)a->width;
    double flops = a->kind == NORM_LAYER ? 7 * n : 4 * n;
    double beside = ((double)a->width + rows) * (a->kind == NORM_LAYER ? 2 : 1);
    return flowing(a->dtype, a->residual ? flops + n : flops, a->residual ? 4 * n : 2 * n, beside);
}

static Cost cost_norm_backward(const NormBackwardArgs *a)
{
    double rows = (double)a->rows, n = rows * (double)a->width;
    double flops =
        (a->kind == NORM_LAYER ? 10 : 8) * n + (a->dsum ? n : 0) + (a->dgain ? 2 * n : 0) + (a->dbias ? n : 0);
    double beside =
        rows * (a->kind == NORM_LAYER ? 2 : 1) + (double)a->width * (1 + (a->dgain ? 2 : 0) + (a->dbias ? 2 : 0));
    return flowing(a->dtype, flops, (a->dsum ? 4 : 3) * n, beside);
}

static Cost cost_rope(const RopeArgs *a)
{
    double n = (double)a->tokens * (double)a->heads * (double)a->head_dim;
    return flowing(a->dtype, 3 * n, 2 * n, (double)a->tokens * (1 + (double)a->head_dim));
}

static double act_flops(ActKind kind)
{
    return kind == ACT_SWIGLU ? 5 : kind == ACT_GELU ? 5 : 9;
}

static Cost cost_act_forward(const ActForwardArgs *a)
{
    double n = (double)a->rows * (double)a->width;
    return flowing(a->dtype, act_flops(a->kind) * n, a->kind == ACT_SWIGLU ? 3 * n : 2 * n, 0);
}

static Cost cost_act_backward(const ActBackwardArgs *a)
{
    double n = (double)a->rows * (double)a->width;
    return flowing(a->dtype, 2 * act_flops(a->kind) * n, (a->kind == ACT_SWIGLU ? 5 * n : 3 * n) + (a->y ? n : 0), 0);
}

/* Two products per pair forward (scores, values); five backward (scores again, dv, dp, dq, dk). */
static Cost cost_attention_forward(const AttentionForwardArgs *a)
{
    double heads = (double)a->heads, dim = (double)a->head_dim, tokens = (double)a->tokens;
    double past = 0; /* keys and values read from a cache: pairs / tokens is the mean context of a query */
    if (a->kv.k && a->sequences)
        past = 2 * (double)a->kv_heads * dim * (a->tokens ? a->pairs / tokens * (double)a->sequences : 0);
    double moved = tokens * dim * (2 * heads + 2 * (double)a->kv_heads) + past;
    return flowing(a->dtype, a->pairs * heads * (4 * dim + 4), moved,
                   (a->lse ? tokens * heads : 0) + (double)a->sequences);
}

static Cost cost_attention_backward(const AttentionBackwardArgs *a)
{
    double heads = (double)a->heads, dim = (double)a->head_dim, tokens = (double)a->tokens;
    double moved = tokens * dim * (2 * heads + 2 * (heads + 2 * (double)a->kv_heads));
    return flowing(a->dtype, a->pairs * heads * (10 * dim + 6), moved, tokens * heads + (double)a->sequences);
}

static Cost cost_gather_rows(const RowsArgs *a)
{
    return flowing(a->dtype, 0, (double)a->rows * 2 * (double)a->width, (double)a->rows);
}

static Cost cost_scatter_rows(const RowsArgs *a)
{
    double n = (double)a->rows * (double)a->width;
    return flowing(a->dtype, n, 3 * n, (double)a->rows);
}

static Cost cost_logits_stats(const LogitsStatsArgs *a)
{
    double rows = (double)a->rows, n = rows * (double)a->vocab;
    int outputs = (a->target != NULL) + (a->lse != NULL) + (a->logprob != NULL) + (a->entropy != NULL);
    return floats((a->entropy ? 6 : 4) * n, n + rows * outputs);
}

static Cost cost_logits_backward(const LogitsBackwardArgs *a)
{
    double rows = (double)a->rows, n = rows * (double)a->vocab;
    return flowing(a->dtype, (a->dentropy ? 8 : 4) * n, rows * (double)a->ld, n + rows * (a->dentropy ? 5 : 3));
}

static Cost cost_nll_loss(const NllLossArgs *a)
{
    double n = (double)a->rows;
    return floats(3 * n, (a->dlogprob ? 3 : 2) * n);
}

static Cost cost_policy_loss(const PolicyLossArgs *a)
{
    double n = (double)a->rows;
    return floats(25 * n, (4 + (a->entropy != NULL) + (a->dlogprob != NULL) + (a->dentropy != NULL)) * n);
}

static Cost cost_value_loss(const ValueLossArgs *a)
{
    double n = (double)a->rows;
    return floats(16 * n, (a->dvalue ? 5 : 4) * n);
}

/* Pairs inside groups are on the device; their number is bounded by answers and small beside the model's own work. */
static Cost cost_rank_loss(const RankLossArgs *a)
{
    double n = (double)a->answers, groups = (double)a->groups;
    return floats(8 * n, (a->dreward ? 3 : 2) * n + 2 * groups);
}

static Cost cost_reward_shape(const RewardShapeArgs *a)
{
    return floats(4 * (double)a->tokens, 4 * (double)a->tokens + 2 * (double)a->sequences);
}

static Cost cost_gae(const GaeArgs *a)
{
    return floats(6 * (double)a->tokens, 4 * (double)a->tokens + (double)a->sequences);
}

static Cost cost_moments(const MomentsArgs *a)
{
    return floats(4 * (double)a->count, (double)a->count);
}

static Cost cost_whiten(const WhitenArgs *a)
{
    return floats(3 * (double)a->count, 2 * (double)a->count);
}

static Cost cost_sum_squares(const SumSquaresArgs *a)
{
    double n = (double)a->count, blocks = (double)((a->count + SUM_BLOCK - 1) / SUM_BLOCK);
    return (Cost){2 * n, F32_BYTES * n + F64_BYTES * blocks};
}

static Cost cost_clip_scale(const ClipScaleArgs *a)
{
    return (Cost){(double)a->blocks + 3, F64_BYTES * ((double)a->blocks + 1) + F32_BYTES};
}

static Cost cost_adamw(const AdamWArgs *a)
{
    return flowing(DTYPE_BF16, 16 * (double)a->count, a->copy ? (double)a->count : 0, 7 * (double)a->count);
}

static Cost cost_sample(const SampleArgs *a)
{
    double rows = (double)a->rows, n = rows * (double)a->vocab;
    return floats(6 * n, n + 5 * rows);
}

static Cost cost_decode_next(const DecodeNextArgs *a)
{
    return floats(0, 12 * (double)a->rows + (double)a->stops);
}

void op_cost(OpKind op, const void *args, double *flops, double *bytes)
{
    Cost cost = {0, 0};
    switch (op) {
#define OP_COST(name, Stem)                                                                                            \
    case OP_##name:                                                                                                    \
        cost = cost_##name((const Stem##Args *)args);                                                                  \
        break;
        OP_LIST(OP_COST)
#undef OP_COST
    case OP_COUNT:
        break;
    }
    *flops = cost.flops;
    *bytes = cost.bytes;
}

void op_cost_per_key(OpKind op, const void *args, double *flops, double *bytes)
{
    Cost now = {0, 0}, longer = {0, 0};
    if (op == OP_attention_forward) {
        AttentionForwardArgs attention = *(const AttentionForwardArgs *)args;
        now = cost_attention_forward(&attention);
        attention.pairs += (double)attention.tokens;
        longer = cost_attention_forward(&attention);
    }
    *flops = longer.flops - now.flops;
    *bytes = longer.bytes - now.bytes;
}
