/* ops.h -- the one list of everything a device can do.
 *
 * Why:   the struct of function pointers, the names, the counters, the dry device and the test matrix are all made from
 *        OP_LIST, so a backend with a hole does not compile and an op without a test is found.
 * Rules: an op is a pair of kernels, forward and backward, called only through the front doors of forward.h. Arguments
 * are device addresses and sizes; the callee allocates nothing but device->scratch. Arrays are row-major and contiguous
 * unless a leading dimension (ld*) is given, in elements. What flows between layers (activations, their gradients, the
 * matrices they meet) is `void *` of `dtype`: F32, or BF16 where the device has it (dtype.h); gains, biases, rotations,
 * statistics, losses and gradients of parameters are F32 always, sums are kept in F32 or wider, and BF16 results are
 * rounded once, to nearest even. `+=` in a comment: the result is added to what is there,
 * which is how gradients accumulate. Sums run in an order that depends on the shape and the number of threads alone.
 * Loss ops add to `stats`, doubles on the device, in the order named by their enum. */
#ifndef CORE_TENSOR_OPS_H
#define CORE_TENSOR_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/tensor/dtype.h"

/*     name, stem of its Args    what it does */
#define OP_LIST(OP)                                                                                                    \
    OP(fill, Fill)                  /* x[i] = value                                                          */        \
    OP(add, Add)                    /* out[i] = a[i] + scale * b[i]; out may be a or b                       */        \
    OP(cast, Cast)                  /* the same values in another element type                               */        \
    OP(gemm, Gemm)                  /* C = alpha op(A) op(B) + beta C (+ bias per column)                    */        \
    OP(bias_backward, BiasBackward) /* dbias[j] += sum over rows of dy[i][j]                                 */        \
    OP(embed_forward, Embed)        /* y[t] = table[token[t]] (+ positions[position[t]])                     */        \
    OP(embed_backward, Embed)       /* dtable[token[t]] += dy[t], in order of t                              */        \
    OP(norm_forward, NormForward)   /* sum = x + residual; y = norm(sum) * gain + bias                       */        \
    OP(norm_backward, NormBackward) /* dx = dsum + d norm; dgain +=, dbias +=                                */        \
    OP(rope, Rope)                  /* rotate q and k heads of a fused qkv in place; inverse for backward    */        \
    OP(act_forward, ActForward)     /* y = act(x); gated forms halve the width                               */        \
    OP(act_backward, ActBackward)   /* dx from dy and x; on request act(x) again                             */        \
    OP(attention_forward, AttentionForward)   /* varlen causal attention with GQA, with or without a cache          */ \
    OP(attention_backward, AttentionBackward) /* dqkv                                                               */ \
    OP(gather_rows, Rows)               /* y[i] = x[index[i]]                                                    */    \
    OP(scatter_rows, Rows)              /* x[index[i]] += y[i]; indices are distinct                             */    \
    OP(logits_stats, LogitsStats)       /* log-sum-exp, log-prob of the target, entropy of each row              */    \
    OP(logits_backward, LogitsBackward) /* dlogits from logits                                                   */    \
    OP(nll_loss, NllLoss)               /* weighted negative log-likelihood                                      */    \
    OP(policy_loss, PolicyLoss)         /* PPO's clipped surrogate                                               */    \
    OP(value_loss, ValueLoss)           /* PPO's clipped value loss                                              */    \
    OP(rank_loss, RankLoss)             /* all-pairs or Plackett-Luce over groups of answers                     */    \
    OP(reward_shape, RewardShape)       /* per-token KL penalty plus score on the last token                     */    \
    OP(gae, Gae)                        /* generalised advantage estimation, backwards in each sequence          */    \
    OP(moments, Moments)                /* sum and sum of squares about a centre, in double                      */    \
    OP(whiten, Whiten)                  /* x[i] = (x[i] - shift) * scale + offset                                */    \
    OP(sum_squares, SumSquares)         /* one double per fixed block                                            */    \
    OP(clip_scale, ClipScale)           /* gradient norm and the factor that clips it                            */    \
    OP(adamw, AdamW)                    /* decoupled weight decay, fp32 moments, one pass                        */    \
    OP(sample, Sample)                  /* next token of each row of logits                                      */    \
    OP(decode_next, DecodeNext)         /* what was drawn becomes the next input; who has ended stays            */

typedef struct FillArgs {
    float *x;
    int64_t count;
    float value;
} FillArgs;

typedef struct AddArgs {
    DType dtype;
    void *out;
    const void *a, *b;
    float scale;
    int64_t count;
} AddArgs;

/* F32 to BF16 or back. */
typedef struct CastArgs {
    DType from_dtype, to_dtype;
    const void *from;
    void *to;
    int64_t count;
} CastArgs;

/* C (m, n) = alpha * op(A) (m, k) * op(B) (k, n) + beta * C + bias (n). */
typedef struct GemmArgs {
    DType dtype, c_dtype; /* of A and B; of C: the same, or F32 */
    bool transpose_a, transpose_b;
    int64_t m, n, k;
    float alpha, beta;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    void *c;
    int64_t ldc;
    const float *bias; /* or NULL; added once, after beta */
} GemmArgs;

typedef struct BiasBackwardArgs {
    DType dtype;
    const void *dy; /* (rows, width) */
    float *dbias;   /* (width) += */
    int64_t rows, width;
} BiasBackwardArgs;

/* Token ids outside [0, vocab), or positions outside [0, positions_max), abort: data were checked when tokenised. */
typedef struct EmbedArgs {
    DType dtype;
    const int32_t *token, *position; /* (tokens); position may be NULL when positions is */
    void *table;                     /* (vocab, width); backward: its gradient, F32, += (NULL: frozen) */
    void *positions;                 /* (positions_max, width) or NULL; backward: its gradient, F32, += */
    void *y;                         /* (tokens, width); backward: dy, read only */
    int64_t tokens, width, vocab, positions_max;
} EmbedArgs;

typedef enum NormKind { NORM_RMS, NORM_LAYER } NormKind;

/* RMSNorm: y = s / sqrt(mean(s^2) + eps) * gain. LayerNorm: y = (s - mean) / sqrt(var + eps) * gain + bias, biased var.
 */
typedef struct NormForwardArgs {
    NormKind kind;
    DType dtype;
    const void *x, *residual; /* (rows, width); residual NULL: sum = x and `sum` is not written */
    void *sum;                /* (rows, width); may be x or residual; y is made of what was stored here */
    const float *gain, *bias; /* (width); bias NULL for RMS */
    void *y;                  /* (rows, width) */
    float *mean, *rstd;       /* (rows) saved for backward; mean unused by RMS */
    int64_t rows, width;
    float epsilon;
} NormForwardArgs;

typedef struct NormBackwardArgs {
    NormKind kind;
    DType dtype;
    const void *dy;   /* (rows, width) */
    const void *dsum; /* gradient that reaches `sum` from elsewhere, or NULL */
    const void *sum;  /* the normalised input */
    const float *mean, *rstd;
    const float *gain;
    void *dx;             /* (rows, width) = gradient of x and of residual alike; may be dsum or dy */
    float *dgain, *dbias; /* (width) +=; NULL: frozen */
    int64_t rows, width;
} NormBackwardArgs;

/* GPT-NeoX / LLaMA form: dimension i pairs with i + head_dim / 2. */
typedef struct RopeArgs {
    DType dtype;
    void *qkv;               /* (tokens, stride); the first `heads` heads of head_dim are rotated */
    const int32_t *position; /* (tokens) */
    const float *table;      /* (positions_max, head_dim / 2, 2): cosine, sine */
    int64_t tokens, stride, heads, head_dim, positions_max;
    bool inverse;
} RopeArgs;

/* GELU: x/2 (1 + erf(x / sqrt 2)). GELU_TANH: GPT-2's "gelu_new". SWIGLU: silu(gate) * up, gate first, up second. */
typedef enum ActKind { ACT_GELU, ACT_GELU_TANH, ACT_SWIGLU } ActKind;

typedef struct ActForwardArgs {
    ActKind kind;
    DType dtype;
    const void *x; /* (rows, width), or (rows, 2 width) = gate | up when gated */
    void *y;       /* (rows, width) */
    int64_t rows, width;
} ActForwardArgs;

typedef struct ActBackwardArgs {
    ActKind kind;
    DType dtype;
    const void *x, *dy;
    void *dx; /* shape of x; may be x */
    void *y;  /* act(x), (rows, width); may be dy. NULL: not wanted */
    int64_t rows, width;
} ActBackwardArgs;

/* Keys and values of earlier tokens. Layout (slots, kv_heads, capacity, head_dim), so decode reads a head's past in one
 * run. */
typedef struct KvArgs {
    void *k, *v;         /* NULL: no cache, every sequence starts at position 0 */
    const int32_t *slot; /* (sequences) which slot holds each sequence */
    const int32_t *past; /* (sequences) tokens already there; the new ones are appended behind them */
    int64_t slots, capacity;
} KvArgs;

/* out[t] = sum over keys j <= t of the same sequence of softmax(scale q.k) v. `qkv` rows are [q heads | k heads | v
 * heads]; query head h reads key head h * kv_heads / heads. Memory linear in tokens (online softmax, Milakov &
 * Gimelshein 2018; FlashAttention-2, Dao 2023). */
typedef struct AttentionForwardArgs {
    DType dtype;          /* of qkv, out, k, v */
    const void *qkv;      /* (tokens, (heads + 2 kv_heads) head_dim) */
    const int32_t *start; /* (sequences + 1) */
    void *out;            /* (tokens, heads * head_dim) */
    float *lse;           /* (tokens, heads) log-sum-exp of scaled scores, or NULL when no backward follows */
    int64_t tokens, sequences, heads, kv_heads, head_dim, longest;
    float scale;
    double pairs; /* (query, key) pairs per head, past included; for the counters */
    KvArgs kv;
} AttentionForwardArgs;

typedef struct AttentionBackwardArgs {
    DType dtype;
    const void *qkv, *out, *dout;
    const float *lse;
    const int32_t *start;
    void *dqkv; /* (tokens, (heads + 2 kv_heads) head_dim), written */
    int64_t tokens, sequences, heads, kv_heads, head_dim, longest;
    float scale;
    double pairs;
} AttentionBackwardArgs;

typedef struct RowsArgs {
    DType dtype;
    void *x;              /* (x_rows, width): read by gather, += by scatter */
    const int32_t *index; /* (rows) */
    void *y;              /* (rows, width) */
    int64_t rows, width, x_rows;
} RowsArgs;

/* z = logits / temperature over the first `vocab` of `ld` columns. lse = log sum exp z; logprob = z[target] - lse;
 * entropy = lse - sum p z. Any output may be NULL. */
typedef struct LogitsStatsArgs {
    const float *logits;            /* (rows, ld) */
    const int32_t *target;          /* (rows); or NULL */
    float *lse, *logprob, *entropy; /* (rows) */
    int64_t rows, vocab, ld;
    float temperature;
} LogitsStatsArgs;

/* dlogits[j] = (dlogprob ([j = target] - p_j) - dentropy p_j (log p_j + entropy)) / temperature; columns from vocab to
 * ld become 0. */
typedef struct LogitsBackwardArgs {
    DType dtype;         /* of dlogits */
    const float *logits; /* (rows, ld) */
    void *dlogits;       /* (rows, ld); may be logits when it is F32 */
    const int32_t *target;
    const float *lse, *entropy;       /* entropy may be NULL when dentropy is */
    const float *dlogprob, *dentropy; /* (rows); dentropy may be NULL */
    int64_t rows, vocab, ld;
    float temperature;
} LogitsBackwardArgs;

/* loss = - sum weight logprob. The weights hold the normaliser, e.g. 1 / (target tokens of the whole step). */
enum { NLL_LOSS, NLL_WEIGHT, NLL_STATS };
typedef struct NllLossArgs {
    const float *logprob, *weight; /* (rows) */
    float *dlogprob;               /* (rows) = -weight; NULL: no backward */
    int64_t rows;
    double *stats; /* (NLL_STATS) += sum of loss, sum of weights */
} NllLossArgs;

/* Schulman et al. 2017: ratio = exp(clamp(logprob - old, +-20)); loss = sum weight (max(-A ratio, -A clip(ratio, 1 -
 * eps, 1 + eps)) - entropy_coefficient * entropy). */
enum {
    POLICY_LOSS,          /* sum of weight * surrogate */
    POLICY_ENTROPY,       /* sum of weight * entropy */
    POLICY_CLIPPED,       /* sum of weight where the clipped branch is the larger */
    POLICY_APPROX_KL,     /* sum of weight * 0.5 (logprob - old)^2 */
    POLICY_KL_K3,         /* sum of weight * (exp(d) - 1 - d), d = logprob - old: k3 of KL(old || new) */
    POLICY_RATIO,         /* sum of weight * ratio */
    POLICY_RATIO_NOT_ONE, /* count of rows whose ratio is not bit-equal to 1 */
    POLICY_WEIGHT,        /* sum of weight */
    POLICY_STATS
};
typedef struct PolicyLossArgs {
    const float *logprob, *old_logprob, *advantage, *entropy,
        *weight;                /* (rows); entropy NULL when its coefficient is 0 */
    float *dlogprob, *dentropy; /* (rows); NULL: no backward */
    int64_t rows;
    float clip_low, clip_high; /* 0.2, 0.2 */
    float entropy_coefficient;
    double *stats; /* (POLICY_STATS) += */
} PolicyLossArgs;

/* loss = sum weight 0.5 max((v - R)^2, (old + clip(v - old, +-clip) - R)^2); clip <= 0: plain squares. */
enum { VALUE_LOSS, VALUE_CLIPPED, VALUE_SQUARED_ERROR, VALUE_WEIGHT, VALUE_STATS };
typedef struct ValueLossArgs {
    const float *value, *old_value, *returns, *weight; /* (rows) */
    float *dvalue;                                     /* (rows); NULL: no backward */
    int64_t rows;
    float clip, coefficient; /* dvalue and VALUE_LOSS carry the coefficient */
    double *stats;           /* (VALUE_STATS) += */
} ValueLossArgs;

/* Answers of one prompt are one group; higher `strength` is better. All-pairs: mean over a group's pairs of unequal
 * strength of softplus(-(r_w - r_l - margin_scale (s_w - s_l))) (Ouyang et al. 2022, eq. 1). Plackett-Luce: -sum_i
 * (r_(i) - log sum_{j >= i} exp r_(j)) / (K - 1) in order of strength. A group's loss times its weight. */
typedef enum RankKind { RANK_ALL_PAIRS, RANK_PLACKETT_LUCE } RankKind;
enum {
    RANK_LOSS,
    RANK_CORRECT,
    RANK_PAIRS,
    RANK_MARGIN,
    RANK_REWARD,
    RANK_REWARD_SQUARED,
    RANK_ANSWERS,
    RANK_WEIGHT,
    RANK_STATS
};
typedef struct RankLossArgs {
    RankKind kind;
    const float *reward, *strength; /* (answers) */
    const int32_t *start;           /* (groups + 1) */
    const float *weight;            /* (groups) */
    float *dreward;                 /* (answers); NULL: no backward */
    int64_t groups, answers;
    float margin_scale;
    double *stats; /* (RANK_STATS) += loss; pairs ranked as told (a tie counts 1/2); pairs; sum of r_w - r_l over pairs;
                      sums of reward and its square over answers; answers; sum of weights */
} RankLossArgs;

/* d = logprob - reference. KL_K1: d. KL_K2: d^2 / 2. KL_K3: exp(-d) - 1 + d (Schulman, "Approximating KL divergence",
 * 2020). reward[t] = -coefficient * kl[t], and score[s] added on the last token of sequence s. */
typedef enum KlKind { KL_K1, KL_K2, KL_K3 } KlKind;
typedef struct RewardShapeArgs {
    KlKind kind;
    const float *logprob, *reference; /* (tokens) */
    const float *score;               /* (sequences) */
    const int32_t *start;             /* (sequences + 1); a sequence may be empty: its score is dropped */
    float *reward, *kl;               /* (tokens) */
    int64_t tokens, sequences;
    float coefficient;
} RewardShapeArgs;

/* Schulman et al. 2016: delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lambda A_{t+1}; V and A are 0 past
 * the end; returns = A + V. */
typedef struct GaeArgs {
    const float *reward, *value; /* (tokens) */
    const int32_t *start;        /* (sequences + 1) */
    float *advantage, *returns;  /* (tokens) */
    int64_t tokens, sequences;
    float gamma, lambda;
} GaeArgs;

enum { MOMENT_SUM, MOMENT_SUM_SQUARES, MOMENTS };
typedef struct MomentsArgs {
    const float *x;
    int64_t count;
    double centre;
    double *result; /* (MOMENTS) written: sum (x - centre), sum (x - centre)^2 */
} MomentsArgs;

typedef struct WhitenArgs {
    float *x;
    int64_t count;
    double shift, scale, offset;
} WhitenArgs;

enum { SUM_BLOCK = 4096 }; /* floats; slices of flat buffers begin on such blocks, so a norm never depends on ranks */
typedef struct SumSquaresArgs {
    const float *x;
    int64_t count;
    double *result; /* one per block of SUM_BLOCK, the last may be shorter */
} SumSquaresArgs;

/* norm = sqrt(sum of block in order); scale = min(1, max_norm / (norm + 1e-6)) (torch's clip_grad_norm_); max_norm <=
 * 0: 1. A norm that is not finite gives scale -1, at which adamw leaves everything as it is. */
typedef struct ClipScaleArgs {
    const double *block;
    int64_t blocks;
    double max_norm;
    float *scale; /* (1) */
    double *norm; /* (1) */
} ClipScaleArgs;

/* Loshchilov & Hutter 2019. torch form: p -= lr (m^ / (sqrt(v^) + eps) + decay p). tf form ("epsilon hat"): lr_t = lr
 * sqrt(1 - b2^t) / (1 - b1^t), p -= lr_t m / (sqrt(v) + eps) + lr decay p. `step` counts from 1. */
typedef enum AdamForm { ADAM_TORCH, ADAM_TF } AdamForm;
typedef struct AdamWArgs {
    AdamForm form;
    float *parameter, *exp_avg, *exp_avg_sq;
    void *copy; /* the new parameters in BF16, for the products; or NULL */
    const float *gradient;
    const float *scale; /* (1) factor on the gradient, from clip_scale */
    int64_t count, step;
    double lr, beta1, beta2, epsilon, decay;
} AdamWArgs;

/* Draws from softmax(logits / temperature), after top-k and top-p where asked; temperature 0 takes the largest (the
 * lowest id wins a tie). logprob is under the untruncated softmax(logits / temperature) (temperature 0: of
 * softmax(logits)). Inverse transform on rng_uniform((seed, subsequence[row]), position[row]) with cumulative sums in
 * double, in order of id. A row whose logits are not finite gives token -1. */
typedef struct SampleArgs {
    const float *logits; /* (rows, ld) */
    int64_t rows, vocab, ld;
    float temperature, top_p; /* top_p >= 1: off */
    int64_t top_k;            /* 0: off */
    uint64_t seed;
    const int64_t *subsequence; /* (rows) */
    const int32_t *position;    /* (rows) */
    int32_t *token;             /* (rows) */
    float *logprob;             /* (rows) */
} SampleArgs;

/* One decode step's end, on the device alone. For a row with left > 0: its draw goes to history[*step] and becomes `next`, past and index rise by one,
 * left falls by one, and to 0 where the draw is a stop token or -1. A row with left 0 stays, and leaves -2. Then *step rises by one. */
typedef struct DecodeNextArgs {
    const int32_t *token;  /* (rows) as drawn */
    const float *logprob;  /* (rows) */
    int32_t *next, *past;  /* (rows) */
    int32_t *index, *left; /* (rows) */
    const int32_t *stop;   /* (stops) */
    int32_t *step;         /* (1) */
    int32_t *history;      /* (steps_max, 2, rows): tokens, then the bits of their log-probs */
    int64_t rows, stops, steps_max;
} DecodeNextArgs;

typedef enum OpKind {
#define OP_ENUM(name, Stem) OP_##name,
    OP_LIST(OP_ENUM)
#undef OP_ENUM
        OP_COUNT
} OpKind;

typedef struct Device Device;

/* A backend fills every slot. */
typedef struct OpTable {
#define OP_SLOT(name, Stem) void (*name)(Device * device, const Stem##Args *args);
    OP_LIST(OP_SLOT)
#undef OP_SLOT
} OpTable;

const char *op_name(OpKind op);
/* Arithmetic and memory traffic of one call, from its arguments alone (cost.c). */
void op_cost(OpKind op, const void *args, double *flops, double *bytes);
/* What is added to that by one key more for every query: nothing but to attention's forward pass. */
void op_cost_per_key(OpKind op, const void *args, double *flops, double *bytes);

#endif
