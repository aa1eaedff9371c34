/* op_finite.c -- which outputs of which op must be finite. */
#include "core/tensor/op_finite.h"

#include <math.h>

#include "core/base/status.h"

static void require(OpKind op, const char *what, const float *x, int64_t rows, int64_t width, int64_t stride)
{
    for (int64_t i = 0; x && i < rows; i++)
        for (int64_t j = 0; j < width; j++)
            REQUIRE(isfinite(x[i * stride + j]), "op %s made %s[%lld][%lld] = %g", op_name(op), what, (long long)i,
                    (long long)j, (double)x[i * stride + j]);
}

static void require_flat(OpKind op, const char *what, const float *x, int64_t count)
{
    require(op, what, x, 1, count, count);
}

void op_require_finite(OpKind op, const void *args)
{
    switch (op) {
    case OP_gemm: {
        const GemmArgs *a = args;
        require(op, "c", a->c, a->m, a->n, a->ldc);
        break;
    }
    case OP_bias_backward: {
        const BiasBackwardArgs *a = args;
        require_flat(op, "dbias", a->dbias, a->width);
        break;
    }
    case OP_embed_forward: {
        const EmbedArgs *a = args;
        require(op, "y", a->y, a->tokens, a->width, a->width);
        break;
    }
    case OP_norm_forward: {
        const NormForwardArgs *a = args;
        require(op, "y", a->y, a->rows, a->width, a->width);
        require_flat(op, "rstd", a->rstd, a->rows);
        break;
    }
    case OP_norm_backward: {
        const NormBackwardArgs *a = args;
        require(op, "dx", a->dx, a->rows, a->width, a->width);
        require_flat(op, "dgain", a->dgain, a->width);
        break;
    }
    case OP_rope: {
        const RopeArgs *a = args;
        require(op, "qkv", a->qkv, a->tokens, a->heads * a->head_dim, a->stride);
        break;
    }
    case OP_act_forward: {
        const ActForwardArgs *a = args;
        require(op, "y", a->y, a->rows, a->width, a->width);
        break;
    }
    case OP_act_backward: {
        const ActBackwardArgs *a = args;
        require_flat(op, "dx", a->dx, a->rows * a->width * (a->kind == ACT_SWIGLU ? 2 : 1));
        if (a->y)
            require(op, "y", a->y, a->rows, a->width, a->width);
        break;
    }
    case OP_attention_forward: {
        const AttentionForwardArgs *a = args;
        require(op, "out", a->out, a->tokens, a->heads * a->head_dim, a->heads * a->head_dim);
        break;
    }
    case OP_attention_backward: {
        const AttentionBackwardArgs *a = args;
        int64_t width = (a->heads + 2 * a->kv_heads) * a->head_dim;
        require(op, "dqkv", a->dqkv, a->tokens, width, width);
        break;
    }
    case OP_gather_rows: {
        const RowsArgs *a = args;
        require(op, "y", a->y, a->rows, a->width, a->width);
        break;
    }
    case OP_logits_stats: {
        const LogitsStatsArgs *a = args;
        require_flat(op, "lse", a->lse, a->rows);
        require_flat(op, "logprob", a->logprob, a->rows);
        require_flat(op, "entropy", a->entropy, a->rows);
        break;
    }
    case OP_logits_backward: {
        const LogitsBackwardArgs *a = args;
        require(op, "dlogits", a->dlogits, a->rows, a->ld, a->ld);
        break;
    }
    case OP_policy_loss: {
        const PolicyLossArgs *a = args;
        require_flat(op, "dlogprob", a->dlogprob, a->rows);
        break;
    }
    case OP_value_loss: {
        const ValueLossArgs *a = args;
        require_flat(op, "dvalue", a->dvalue, a->rows);
        break;
    }
    case OP_rank_loss: {
        const RankLossArgs *a = args;
        require_flat(op, "dreward", a->dreward, a->answers);
        break;
    }
    case OP_gae: {
        const GaeArgs *a = args;
        require_flat(op, "advantage", a->advantage, a->tokens);
        break;
    }
    default:
        break;
    }
}
