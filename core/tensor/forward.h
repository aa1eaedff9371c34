/* forward.h -- the front doors: each checks shapes, runs one op, and records it on the tape when there is one.
 *
 * An Exec says where: on which device, results into which arena, recorded on which tape (NULL: inference, nothing is
 * saved). A wrong shape is a programmer's error and aborts with names and values. (rows, width) readings flatten all
 * leading dimensions. Layers compute in the element type of their matrices, F32 or BF16, and what they are given must be of that type; gains and
 * biases are F32, and so are losses and what they are made of. */
#ifndef CORE_TENSOR_FORWARD_H
#define CORE_TENSOR_FORWARD_H

#include "core/tensor/device.h"
#include "core/tensor/ragged.h"
#include "core/tensor/tape.h"

struct Exec {
    Device *device;
    Arena *step;
    Tape *tape;
};

/* x (rows, in) times weight (out, in) transposed, plus bias (out) where present -> (rows, out). */
Tensor linear_forward(Exec *exec, Tensor x, Parameter weight, Parameter bias);
/* table (vocab rows stored, width); positions absent for families without learned positions -> (tokens, width).
 * `vocab`: ids allowed. */
Tensor embedding_forward(Exec *exec, const TokenBatch *batch, Parameter table, int64_t vocab, Parameter positions);

typedef struct NormOutput {
    Tensor sum;        /* (rows, width): x + residual, what the next residual adds to */
    Tensor normalised; /* (rows, width) */
} NormOutput;
/* residual absent: sum is x itself. */
NormOutput norm_forward(Exec *exec, NormKind kind, Tensor x, Tensor residual, Parameter gain, Parameter bias,
                        float epsilon);
/* Rotates q and k of qkv in place, and returns it. table: (positions_max, head_dim / 2, 2). */
Tensor rope_forward(Exec *exec, Tensor qkv, Tensor position, Tensor table, int64_t rotated_heads, int64_t head_dim);
/* act(x) times weight (out, in) transposed, plus bias; x is (rows, in), or (rows, 2 in) for gated forms. What the activation
 * gives is the largest array of a layer and cheap to make: the tape does not keep it, backward makes it again. */
Tensor act_linear_forward(Exec *exec, ActKind kind, Tensor x, Parameter weight, Parameter bias);

/* Where a batch's sequences live in a key-value cache of one layer. */
typedef struct KvView {
    Tensor k, v;  /* (slots, kv_heads, capacity, head_dim) */
    Tensor slot;  /* (sequences) I32 */
    Tensor past;  /* (sequences) I32 */
    double pairs; /* (query, key) pairs including the past; counters only */
} KvView;
/* qkv (tokens, (heads + 2 kv_heads) * head_dim) -> (tokens, heads * head_dim). `kv` NULL: no cache. With a cache no
 * tape is allowed. */
Tensor attention_forward(Exec *exec, Tensor qkv, const Ragged *rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         float scale, const KvView *kv);
/* x[index[i]]; index (rows) I32, distinct. */
Tensor gather_forward(Exec *exec, Tensor x, Tensor index);
/* The same values as `dtype`; x itself where it is that already. */
Tensor cast_forward(Exec *exec, Tensor x, DType dtype);

/* ---- Losses over a vocabulary (head.c): hidden (rows, width) times weight (vocab stored, width) transposed, in chunks
 * of rows, so that rows x vocabulary never exists at once; gradients of the logits are made in the same visit. ---- */
typedef struct VocabularyHead {
    Parameter weight;  /* (vocab stored, width) */
    int64_t vocab;     /* ids that exist; the stored tail is masked */
    float temperature; /* divides logits everywhere: rollout, reference and update (Huang et al. 2023, detail 10) */
} VocabularyHead;

/* Log-prob of each target and, where `entropy` is present, entropy; both (rows), written. No gradient. The same chunks
 * and products as the losses below, so equal bits for equal weights and rows. */
void head_logprobs(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, Tensor logprob,
                   Tensor entropy);
/* NLL over rows: stats (NLL_STATS) F64 +=. Seeds hidden's gradient and accumulates the weight's when exec->tape is set.
 * `logprob` (rows) may be absent. */
void head_nll(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, Tensor weight, Tensor logprob,
              Tensor stats);
/* PPO's clipped surrogate and entropy bonus: stats (POLICY_STATS) F64 +=. `logprob` (rows) may be absent. */
typedef struct PolicyTerms {
    Tensor old_logprob, advantage, weight; /* (rows) */
    float clip_low, clip_high, entropy_coefficient;
} PolicyTerms;
void head_policy(Exec *exec, const VocabularyHead *head, Tensor hidden, Tensor target, const PolicyTerms *terms,
                 Tensor logprob, Tensor stats);
/* Logits of all rows at once, for sampling a few rows: (rows, vocab stored). */
Tensor head_logits(Exec *exec, const VocabularyHead *head, Tensor hidden);

/* ---- Losses over scalars; seed the gradient of value / reward when exec->tape is set ---- */
/* value (rows) */
void value_loss(Exec *exec, Tensor value, Tensor old_value, Tensor returns, Tensor weight, float clip,
                float coefficient, Tensor stats);
/* reward (answers), strength (answers), start (groups + 1) I32, weight (groups) */
void rank_loss(Exec *exec, RankKind kind, Tensor reward, Tensor strength, Tensor start, Tensor weight,
               float margin_scale, Tensor stats);

/* ---- Per-token recipes; nothing recorded ---- */
/* All (tokens); score (sequences). */
void reward_shape(Exec *exec, KlKind kind, Tensor logprob, Tensor reference, Tensor score, const Ragged *rows,
                  float coefficient, Tensor reward, Tensor kl);
void gae(Exec *exec, Tensor reward, Tensor value, const Ragged *rows, float gamma, float lambda, Tensor advantage,
         Tensor returns);
/* result (MOMENTS) F64 */
void moments(Exec *exec, Tensor x, double centre, Tensor result);
void whiten(Exec *exec, Tensor x, double shift, double scale, double offset);

typedef struct SampleTerms {
    float temperature, top_p;
    int64_t top_k;
    uint64_t seed;
    Tensor subsequence; /* (rows) I64 */
    Tensor position;    /* (rows) I32 */
} SampleTerms;
/* logits (rows, vocab stored) -> token (rows) I32, logprob (rows) F32, both written. */
void sample(Exec *exec, Tensor logits, int64_t vocab, const SampleTerms *terms, Tensor token, Tensor logprob);

/* The end of a decode step on the device (ops.h, decode_next). All I32 but logprob F32; (rows) each, stop any length, step (1), history
 * (steps, 2, rows) as one array. */
typedef struct DecodeTerms {
    Tensor token, logprob;
    Tensor next, past, index, left;
    Tensor stop, step, history;
} DecodeTerms;
void decode_next(Exec *exec, const DecodeTerms *terms);

/* ---- Flat buffers ---- */
/* out may be a or b */
void add(Exec *exec, Tensor out, Tensor a, Tensor b, float scale);
void fill(Exec *exec, Tensor x, float value);
/* result: one F64 per block of SUM_BLOCK floats */
void sum_squares(Exec *exec, Tensor x, Tensor result);
/* The same values in the other type's buffer: F32 to BF16 or back. */
void cast(Exec *exec, Tensor to, Tensor from);
/* block (blocks) F64, scale (1) F32, norm (1) F64 */
void clip_scale(Exec *exec, Tensor block, double max_norm, Tensor scale, Tensor norm);
/* copy (count) BF16, written with the new parameters; or absent */
void adamw(Exec *exec, AdamForm form, Tensor parameter, Tensor copy, Tensor gradient, Tensor exp_avg, Tensor exp_avg_sq,
           Tensor scale, int64_t step, double lr, double beta1, double beta2, double epsilon, double decay);

#endif
