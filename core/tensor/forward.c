/* forward.c -- the layers: linear, embedding, norm, rope, activation with linear, attention, gather, cast, each with its backward. */
#include "core/tensor/forward.h"

#include "core/tensor/tape_record.h"

static void run_gemm(Exec *exec, GemmArgs args)
{
    bool nothing = args.k == 0 && args.beta == 1.0f && !args.bias;
    if (args.m && args.n && !nothing)
        device_run(exec->device, OP_gemm, &args);
}

/* What flows between layers. */
static void check_flowing(Tensor x, const char *what)
{
    tensor_check(x, what, x.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32, -1, -1, -1);
}

static void check_vector(Tensor x, const char *what, DType dtype, int64_t count)
{
    tensor_check(x, what, dtype, 1, count, -1);
}

/* A fresh (rows, width) that has a node when its gradient is wanted. */
static Tensor result(Exec *exec, DType dtype, int64_t rows, int64_t width, bool recorded)
{
    Tensor y = tensor_new2(exec->step, dtype, rows, width);
    return recorded ? tape_node(exec->tape, y) : y;
}

/* ---- Linear ---- */

/* y (rows, out) = x (rows, in) times weight transposed, plus bias. */
static void linear_run(Exec *exec, const void *x, Parameter weight, Parameter bias, Tensor y)
{
    int64_t in = weight.value.shape[1], out = weight.value.shape[0];
    run_gemm(exec, (GemmArgs){.dtype = y.dtype,
                              .c_dtype = y.dtype,
                              .transpose_b = true,
                              .m = y.shape[0],
                              .n = out,
                              .k = in,
                              .alpha = 1,
                              .a = x,
                              .lda = in,
                              .b = weight.value.data,
                              .ldb = in,
                              .c = y.data,
                              .ldc = out,
                              .bias = bias.value.data});
}

/* What dy (rows, out) adds to the gradients of weight and bias; x (rows, in) is read only for the weight. */
static void linear_run_parameters(Exec *exec, const void *dy, const void *x, int64_t rows, const TapeEntry *entry)
{
    DType dtype = entry->x.dtype;
    int64_t in = entry->weight.value.shape[1], out = entry->weight.value.shape[0];
    if (tensor_present(entry->weight.grad)) {
        run_gemm(exec, (GemmArgs){.dtype = dtype,
                                  .transpose_a = true,
                                  .m = out,
                                  .n = in,
                                  .k = rows,
                                  .alpha = 1,
                                  .beta = 1,
                                  .a = dy,
                                  .lda = out,
                                  .b = x,
                                  .ldb = in,
                                  .c = entry->weight.grad.data,
                                  .ldc = in});
    }
    if (tensor_present(entry->bias.grad)) {
        BiasBackwardArgs args = {.dtype = dtype, .dy = dy, .dbias = entry->bias.grad.data, .rows = rows, .width = out};
        device_run(exec->device, OP_bias_backward, &args);
    }
}

/* dx (rows, in) = dy times weight, or += unless `first`. */
static void linear_run_input(Exec *exec, const void *dy, int64_t rows, Parameter weight, void *dx, bool first)
{
    DType dtype = weight.value.dtype;
    int64_t in = weight.value.shape[1], out = weight.value.shape[0];
    run_gemm(exec, (GemmArgs){.dtype = dtype,
                              .c_dtype = dtype,
                              .m = rows,
                              .n = in,
                              .k = out,
                              .alpha = 1,
                              .beta = first ? 0.0f : 1.0f,
                              .a = dy,
                              .lda = out,
                              .b = weight.value.data,
                              .ldb = in,
                              .c = dx,
                              .ldc = in});
}

static void linear_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    const void *dy = tape_buffer_data(exec->tape, held);
    int64_t rows = tensor_rows_count(entry->x);
    linear_run_parameters(exec, dy, entry->x.data, rows, entry);
    bool first;
    void *dx = tape_gradient_at(exec, entry->x, &first);
    if (dx)
        linear_run_input(exec, dy, rows, entry->weight, dx, first);
    tape_buffer_drop(exec->tape, held);
}

static void check_linear(DType dtype, int64_t in, Parameter weight, Parameter bias)
{
    tensor_check(weight.value, "linear weight (out, in)", dtype, 2, -1, in);
    if (tensor_present(bias.value))
        check_vector(bias.value, "linear bias", DTYPE_F32, weight.value.shape[0]);
}

Tensor linear_forward(Exec *exec, Tensor x, Parameter weight, Parameter bias)
{
    check_flowing(x, "linear x");
    check_linear(x.dtype, tensor_width(x), weight, bias);
    bool recorded = tape_wants(exec, x, &weight, &bias);
    Tensor y = result(exec, x.dtype, tensor_rows_count(x), weight.value.shape[0], recorded);
    linear_run(exec, x.data, weight, bias, y);
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, linear_backward);
        entry->x = x;
        entry->y = y;
        entry->weight = weight;
        entry->bias = bias;
    }
    return y;
}

/* ---- Embedding ---- */

static void embedding_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    EmbedArgs args = entry->saved.embed;
    args.table = entry->weight.grad.data;
    args.positions = entry->bias.grad.data;
    args.y = tape_buffer_data(exec->tape, held);
    device_run(exec->device, OP_embed_backward, &args);
    tape_buffer_drop(exec->tape, held);
}

Tensor embedding_forward(Exec *exec, const TokenBatch *batch, Parameter table, int64_t vocab, Parameter positions)
{
    int64_t tokens = batch->rows.tokens;
    DType dtype = table.value.dtype;
    check_flowing(table.value, "embedding table (vocab, width)");
    REQUIRE(table.value.ndim == 2, "an embedding table of %d dimensions", table.value.ndim);
    REQUIRE(vocab > 0 && vocab <= table.value.shape[0], "embedding of %lld ids from a table of %lld rows",
            (long long)vocab, (long long)table.value.shape[0]);
    int64_t width = table.value.shape[1];
    check_vector(batch->token, "embedding token", DTYPE_I32, tokens);
    check_vector(batch->position, "embedding position", DTYPE_I32, tokens);
    if (tensor_present(positions.value))
        tensor_check(positions.value, "embedding positions (positions, width)", dtype, 2, -1, width);
    bool recorded = tape_wants(exec, tensor_absent(), &table, &positions);
    Tensor y = result(exec, dtype, tokens, width, recorded);
    EmbedArgs args = {.dtype = dtype,
                      .token = batch->token.data,
                      .position = batch->position.data,
                      .table = table.value.data,
                      .positions = positions.value.data,
                      .y = y.data,
                      .tokens = tokens,
                      .width = width,
                      .vocab = vocab,
                      .positions_max = tensor_present(positions.value) ? positions.value.shape[0] : 0};
    device_run(exec->device, OP_embed_forward, &args);
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, embedding_backward);
        entry->y = y;
        entry->weight = table;
        entry->bias = positions;
        entry->saved.embed = args;
    }
    return y;
}

/* ---- Norm ---- */

/* dx is the gradient of x and of residual alike, so both nodes share one buffer. What has reached `sum` from elsewhere
 * is an operand of the kernel; without a residual, sum is x. */
static void norm_backward(Exec *exec, const TapeEntry *entry)
{
    Tape *tape = exec->tape;
    const NormForwardArgs *forward = &entry->saved.norm.args;
    int dsum = tape_gradient_take(tape, entry->saved.norm.sum);
    int dy = tape_gradient_take(tape, entry->y);
    int dx = dsum;
    if (dy) {
        dx = dsum && tape_buffer_exclusive(tape, dsum) ? dsum
             : tape_buffer_exclusive(tape, dy)         ? dy
                                                       : tape_buffer_new(exec, tensor_bytes(entry->y));
        NormBackwardArgs args = {.kind = forward->kind,
                                 .dtype = forward->dtype,
                                 .dy = tape_buffer_data(tape, dy),
                                 .dsum = dsum ? tape_buffer_data(tape, dsum) : NULL,
                                 .sum = entry->saved.norm.sum.data,
                                 .mean = forward->mean,
                                 .rstd = forward->rstd,
                                 .gain = forward->gain,
                                 .dx = tape_buffer_data(tape, dx),
                                 .dgain = entry->weight.grad.data,
                                 .dbias = entry->bias.grad.data,
                                 .rows = forward->rows,
                                 .width = forward->width};
        device_run(exec->device, OP_norm_backward, &args);
        if (dx != dy)
            tape_buffer_drop(tape, dy);
        if (dsum && dx != dsum)
            tape_buffer_drop(tape, dsum);
    }
    if (!dx)
        return;
    if (tensor_present(entry->saved.norm.residual))
        tape_gradient_give(exec, entry->saved.norm.residual, tape_buffer_share(tape, dx));
    tape_gradient_give(exec, entry->x, dx);
}

NormOutput norm_forward(Exec *exec, NormKind kind, Tensor x, Tensor residual, Parameter gain, Parameter bias,
                        float epsilon)
{
    check_flowing(x, "norm x");
    int64_t rows = tensor_rows_count(x), width = tensor_width(x);
    check_vector(gain.value, "norm gain", DTYPE_F32, width);
    if (kind == NORM_LAYER)
        check_vector(bias.value, "norm bias", DTYPE_F32, width);
    else
        REQUIRE(!tensor_present(bias.value), "RMSNorm has no bias");
    bool added = tensor_present(residual);
    if (added)
        tensor_check(residual, "norm residual", x.dtype, -1, -1, -1);
    REQUIRE(!added || (tensor_rows_count(residual) == rows && tensor_width(residual) == width),
            "norm: residual of %lld x %lld beside x of %lld x %lld", (long long)tensor_rows_count(residual),
            (long long)tensor_width(residual), (long long)rows, (long long)width);

    bool through = tape_wants(exec, x, NULL, NULL) || (added && tape_wants(exec, residual, NULL, NULL));
    bool recorded = through || tape_wants(exec, tensor_absent(), &gain, &bias);
    NormOutput out = {.sum = added ? result(exec, x.dtype, rows, width, through) : x,
                      .normalised = result(exec, x.dtype, rows, width, recorded)};
    NormForwardArgs args = {
        .kind = kind,
        .dtype = x.dtype,
        .x = x.data,
        .residual = residual.data,
        .sum = out.sum.data,
        .gain = gain.value.data,
        .bias = bias.value.data,
        .y = out.normalised.data,
        .mean = kind == NORM_LAYER ? tensor_new1(exec->step, DTYPE_F32, rows).data : NULL,
        .rstd = tensor_new1(exec->step, DTYPE_F32, rows).data,
        .rows = rows,
        .width = width,
        .epsilon = epsilon,
    };
    device_run(exec->device, OP_norm_forward, &args);
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, norm_backward);
        entry->x = x;
        entry->y = out.normalised;
        entry->weight = gain;
        entry->bias = bias;
        entry->saved.norm.args = args;
        entry->saved.norm.residual = residual;
        entry->saved.norm.sum = out.sum;
    }
    return out;
}

/* ---- Rope ---- */

/* In place forward, so the gradient of the rotated qkv becomes that of the plain one in place too. */
static void rope_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    held = tape_buffer_own(exec, held);
    RopeArgs args = entry->saved.rope;
    args.qkv = tape_buffer_data(exec->tape, held);
    args.inverse = true;
    device_run(exec->device, OP_rope, &args);
    tape_gradient_give(exec, entry->y, held);
}

Tensor rope_forward(Exec *exec, Tensor qkv, Tensor position, Tensor table, int64_t rotated_heads, int64_t head_dim)
{
    check_flowing(qkv, "rope qkv");
    int64_t tokens = tensor_rows_count(qkv), stride = tensor_width(qkv);
    check_vector(position, "rope position", DTYPE_I32, tokens);
    tensor_check(table, "rope table (positions, head_dim / 2, 2)", DTYPE_F32, 3, -1, head_dim / 2);
    REQUIRE(table.shape[2] == 2 && head_dim % 2 == 0 && rotated_heads * head_dim <= stride,
            "rope: %lld heads of %lld in rows of %lld, table of pairs of %lld", (long long)rotated_heads,
            (long long)head_dim, (long long)stride, (long long)table.shape[2]);
    RopeArgs args = {.dtype = qkv.dtype,
                     .qkv = qkv.data,
                     .position = position.data,
                     .table = table.data,
                     .tokens = tokens,
                     .stride = stride,
                     .heads = rotated_heads,
                     .head_dim = head_dim,
                     .positions_max = table.shape[0]};
    device_run(exec->device, OP_rope, &args);
    if (tape_wants(exec, qkv, NULL, NULL)) {
        TapeEntry *entry = tape_push(exec->tape, rope_backward);
        entry->y = qkv;
        entry->saved.rope = args;
    }
    return qkv;
}

/* ---- Activation and the linear layer behind it ---- */

static int64_t act_width(ActKind kind, Tensor x)
{
    return kind == ACT_SWIGLU ? tensor_width(x) / 2 : tensor_width(x);
}

static void act_run(Exec *exec, ActKind kind, Tensor x, void *active)
{
    ActForwardArgs args = {.kind = kind,
                           .dtype = x.dtype,
                           .x = x.data,
                           .y = active,
                           .rows = tensor_rows_count(x),
                           .width = act_width(kind, x)};
    device_run(exec->device, OP_act_forward, &args);
}

/* One buffer holds the gradient of the activation's output, until the activation's backward puts that output itself there, for the weight's gradient. */
static void act_linear_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    const void *dy = tape_buffer_data(exec->tape, held);
    ActKind kind = entry->saved.act;
    int64_t rows = tensor_rows_count(entry->x), width = act_width(kind, entry->x);
    int buffer = tape_buffer_new(exec, (size_t)(rows * width) * dtype_size(entry->x.dtype));
    void *active = tape_buffer_data(exec->tape, buffer);
    bool learns = tensor_present(entry->weight.grad);
    if (entry->x.node) {
        linear_run_input(exec, dy, rows, entry->weight, active, true);
        int dx = tape_buffer_new(exec, tensor_bytes(entry->x));
        ActBackwardArgs args = {.kind = kind,
                                .dtype = entry->x.dtype,
                                .x = entry->x.data,
                                .dy = active,
                                .dx = tape_buffer_data(exec->tape, dx),
                                .y = learns ? active : NULL,
                                .rows = rows,
                                .width = width};
        device_run(exec->device, OP_act_backward, &args);
        tape_gradient_give(exec, entry->x, dx);
    } else if (learns) {
        act_run(exec, kind, entry->x, active);
    }
    linear_run_parameters(exec, dy, active, rows, entry);
    tape_buffer_drop(exec->tape, buffer);
    tape_buffer_drop(exec->tape, held);
}

Tensor act_linear_forward(Exec *exec, ActKind kind, Tensor x, Parameter weight, Parameter bias)
{
    check_flowing(x, "act x");
    REQUIRE(kind != ACT_SWIGLU || tensor_width(x) % 2 == 0, "a gated activation halves an even width, not %lld",
            (long long)tensor_width(x));
    int64_t rows = tensor_rows_count(x), width = act_width(kind, x);
    check_linear(x.dtype, width, weight, bias);
    bool recorded = tape_wants(exec, x, &weight, &bias);
    Tensor y = result(exec, x.dtype, rows, weight.value.shape[0], recorded);
    size_t mark = arena_mark(exec->step);
    void *active = tensor_new2(exec->step, x.dtype, rows, width).data;
    act_run(exec, kind, x, active);
    linear_run(exec, active, weight, bias, y);
    arena_rewind(exec->step, mark);
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, act_linear_backward);
        entry->x = x;
        entry->y = y;
        entry->weight = weight;
        entry->bias = bias;
        entry->saved.act = kind;
    }
    return y;
}

/* ---- Attention ---- */

static void attention_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    const AttentionForwardArgs *forward = &entry->saved.attention;
    int dqkv = tape_buffer_new(exec, tensor_bytes(entry->x));
    AttentionBackwardArgs args = {.dtype = forward->dtype,
                                  .qkv = forward->qkv,
                                  .out = forward->out,
                                  .dout = tape_buffer_data(exec->tape, held),
                                  .lse = forward->lse,
                                  .start = forward->start,
                                  .dqkv = tape_buffer_data(exec->tape, dqkv),
                                  .tokens = forward->tokens,
                                  .sequences = forward->sequences,
                                  .heads = forward->heads,
                                  .kv_heads = forward->kv_heads,
                                  .head_dim = forward->head_dim,
                                  .longest = forward->longest,
                                  .scale = forward->scale,
                                  .pairs = forward->pairs};
    device_run(exec->device, OP_attention_backward, &args);
    tape_buffer_drop(exec->tape, held);
    tape_gradient_give(exec, entry->x, dqkv);
}

static KvArgs kv_args(const KvView *kv, DType dtype, int64_t sequences, int64_t kv_heads, int64_t head_dim)
{
    tensor_check(kv->k, "cache k", dtype, 4, -1, kv_heads);
    tensor_check(kv->v, "cache v", dtype, 4, kv->k.shape[0], kv_heads);
    REQUIRE(kv->k.shape[3] == head_dim && kv->v.shape[3] == head_dim && kv->k.shape[2] == kv->v.shape[2],
            "cache rows of %lld and %lld for heads of %lld", (long long)kv->k.shape[3], (long long)kv->v.shape[3],
            (long long)head_dim);
    check_vector(kv->slot, "cache slot", DTYPE_I32, sequences);
    check_vector(kv->past, "cache past", DTYPE_I32, sequences);
    return (KvArgs){kv->k.data, kv->v.data, kv->slot.data, kv->past.data, kv->k.shape[0], kv->k.shape[2]};
}

Tensor attention_forward(Exec *exec, Tensor qkv, const Ragged *rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                         float scale, const KvView *kv)
{
    REQUIRE(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, "%lld heads cannot share %lld key heads",
            (long long)heads, (long long)kv_heads);
    check_flowing(qkv, "attention qkv");
    tensor_check(qkv, "attention qkv", qkv.dtype, 2, rows->tokens, (heads + 2 * kv_heads) * head_dim);
    REQUIRE(!kv || !exec->tape, "attention with a cache cannot be recorded");
    bool recorded = tape_wants(exec, qkv, NULL, NULL);
    Tensor y = result(exec, qkv.dtype, rows->tokens, heads * head_dim, recorded);
    AttentionForwardArgs args = {.dtype = qkv.dtype,
                                 .qkv = qkv.data,
                                 .start = rows->start.data,
                                 .out = y.data,
                                 .lse = recorded ? tensor_new2(exec->step, DTYPE_F32, rows->tokens, heads).data : NULL,
                                 .tokens = rows->tokens,
                                 .sequences = rows->sequences,
                                 .heads = heads,
                                 .kv_heads = kv_heads,
                                 .head_dim = head_dim,
                                 .longest = rows->longest,
                                 .scale = scale,
                                 .pairs = kv ? kv->pairs : rows->pairs};
    if (kv)
        args.kv = kv_args(kv, qkv.dtype, rows->sequences, kv_heads, head_dim);
    device_run(exec->device, OP_attention_forward, &args);
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, attention_backward);
        entry->x = qkv;
        entry->y = y;
        entry->saved.attention = args;
    }
    return y;
}

/* ---- Gather ---- */

static RowsArgs rows_args(DType dtype, Tensor index, void *x, void *y, int64_t x_rows, int64_t width)
{
    return (RowsArgs){.dtype = dtype,
                      .x = x,
                      .index = index.data,
                      .y = y,
                      .rows = tensor_count(index),
                      .width = width,
                      .x_rows = x_rows};
}

static void gather_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    bool first;
    void *dx = tape_gradient_at(exec, entry->x, &first);
    int64_t rows = tensor_rows_count(entry->x), width = tensor_width(entry->x), count = rows * width;
    if (first)
        tensor_zero(exec->device, tensor_at(dx, entry->x.dtype, 1, &count));
    RowsArgs args = rows_args(entry->x.dtype, entry->saved.index, dx, tape_buffer_data(exec->tape, held), rows, width);
    device_run(exec->device, OP_scatter_rows, &args);
    tape_buffer_drop(exec->tape, held);
}

Tensor gather_forward(Exec *exec, Tensor x, Tensor index)
{
    check_flowing(x, "gather x");
    check_vector(index, "gather index", DTYPE_I32, -1);
    bool recorded = tape_wants(exec, x, NULL, NULL);
    int64_t width = tensor_width(x);
    Tensor y = result(exec, x.dtype, index.shape[0], width, recorded);
    RowsArgs args = rows_args(x.dtype, index, x.data, y.data, tensor_rows_count(x), width);
    device_run(exec->device, OP_gather_rows, &args);
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, gather_backward);
        entry->x = x;
        entry->y = y;
        entry->saved.index = index;
    }
    return y;
}

/* ---- Cast ---- */

static void cast_run(Exec *exec, DType from_dtype, const void *from, DType to_dtype, void *to, int64_t count)
{
    CastArgs args = {from_dtype, to_dtype, from, to, count};
    device_run(exec->device, OP_cast, &args);
}

static void cast_backward(Exec *exec, const TapeEntry *entry)
{
    int held = tape_gradient_take(exec->tape, entry->y);
    if (!held)
        return;
    int dx = tape_buffer_new(exec, tensor_bytes(entry->x));
    cast_run(exec, entry->y.dtype, tape_buffer_data(exec->tape, held), entry->x.dtype, tape_buffer_data(exec->tape, dx),
             tensor_count(entry->x));
    tape_buffer_drop(exec->tape, held);
    tape_gradient_give(exec, entry->x, dx);
}

Tensor cast_forward(Exec *exec, Tensor x, DType dtype)
{
    check_flowing(x, "cast x");
    if (x.dtype == dtype)
        return x;
    bool recorded = tape_wants(exec, x, NULL, NULL);
    Tensor y = result(exec, dtype, tensor_rows_count(x), tensor_width(x), recorded);
    cast_run(exec, x.dtype, x.data, dtype, y.data, tensor_count(x));
    if (recorded) {
        TapeEntry *entry = tape_push(exec->tape, cast_backward);
        entry->x = x;
        entry->y = y;
    }
    return y;
}
