/* t287 -- the gradient of attention on the CUDA backend is the CPU's, for queries, keys and values alike. */
#include "tests/support/attention_twin.h"

typedef struct Case {
    int64_t heads, kv_heads, dim, sequences;
    int32_t length[SEQUENCES_MAX];
    double size;   /* of the values */
    int64_t shift; /* elements off alignment */
} Case;

static const Case cases[] = {
    {1, 1, 64, 2, {2, 1}, 1.0, 0},        {6, 2, 64, 7, {0, 1, 31, 33, 0, 86, 0}, 1.0, 0},
    {9, 3, 64, 3, {65, 2, 63}, 1.0, 0},   {8, 4, 128, 3, {100, 1, 33}, 1.0, 0},
    {1, 1, 128, 2, {257, 64}, 1.0, 0},    {2, 1, 80, 2, {130, 31}, 1.0, 0},
    {2, 2, 96, 2, {129, 1}, 1.0, 0},      {3, 1, 256, 2, {70, 33}, 1.0, 0},
    {2, 1, 16, 3, {33, 64, 128}, 1.0, 0}, {3, 3, 32, 1, {257}, 1.0, 0},
    {2, 1, 48, 2, {100, 3}, 1.0, 0},      {1, 1, 8, 2, {257, 31}, 1.0, 0},
    {2, 1, 112, 1, {90}, 1.0, 0},         {2, 1, 200, 2, {31, 65}, 1.0, 0},
    {1, 1, 64, 1, {1009}, 1.0, 0},        {4, 2, 12, 2, {33, 70}, 1.0, 0},
    {2, 1, 7, 2, {31, 65}, 1.0, 0},       {2, 1, 130, 2, {31, 65}, 1.0, 0},
    {2, 2, 64, 2, {31, 65}, 1.0, 1},      {2, 1, 32, 2, {1, 33}, 1.0, 1},
};

/* Columns [from, to) of dqkv by themselves: gradients of values are larger than those of queries and keys and would hide them. */
static void expect_columns(const Batch *batch, const double *cuda, const float *cpu, int64_t from, int64_t to,
                           double relative, const char *name, size_t k)
{
    double distance = 0.0, length = 0.0;
    for (int64_t t = 0; t < batch->tokens; t++)
        for (int64_t i = from; i < to; i++) {
            double ours = (double)cpu[t * batch->stride + i], theirs = cuda[t * batch->stride + i];
            distance += (ours - theirs) * (ours - theirs);
            length += ours * ours;
        }
    if (!(sqrt(distance) <= relative * sqrt(length) + 1e-30))
        fail_msg("case %zu: %s is %.3g off, %.3g is allowed", k, name, sqrt(distance / length), relative);
}

static void check(DType dtype)
{
    double relative = dtype == DTYPE_BF16 ? 4e-3 : 1e-5;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const Case *c = &cases[k];
        Twin twin;
        twin_open(&twin, dtype);
        Batch batch = batch_new(&twin, c->heads, c->kv_heads, c->dim, c->sequences, c->length);
        TwinArray qkv = twin_normal(&twin, batch.tokens * batch.stride + c->shift, 1, c->size);
        TwinArray dout = twin_normal(&twin, batch.tokens * batch.width + c->shift, 2, 1.0);
        TwinArray dqkv = twin_empty(&twin, batch.tokens * batch.stride + c->shift);
        /* What forward would have left, from the CPU, so that both sides begin with the same. */
        float *made = memory_new((size_t)(batch.tokens * batch.width + c->shift), sizeof *made);
        float *made_lse = memory_new((size_t)(batch.tokens * batch.heads), sizeof *made_lse);
        AttentionForwardArgs forward = batch_forward(&batch);
        forward.qkv = twin_from(qkv, c->shift).cpu;
        forward.start = batch.on_device.cpu;
        forward.out = made + c->shift;
        forward.lse = made_lse;
        device_run(&twin.cpu, OP_attention_forward, &forward);
        TwinArray out = twin_given(&twin, made, batch.tokens * batch.width + c->shift);
        TwinArray lse = twin_floats_given(&twin, made_lse, batch.tokens * batch.heads);
        AttentionBackwardArgs cpu = {.qkv = twin_from(qkv, c->shift).cpu,
                                     .out = twin_from(out, c->shift).cpu,
                                     .dout = twin_from(dout, c->shift).cpu,
                                     .lse = lse.cpu,
                                     .start = batch.on_device.cpu,
                                     .dqkv = twin_from(dqkv, c->shift).cpu,
                                     .tokens = batch.tokens,
                                     .sequences = batch.sequences,
                                     .heads = batch.heads,
                                     .kv_heads = batch.kv_heads,
                                     .head_dim = batch.dim,
                                     .longest = batch.longest,
                                     .scale = batch.scale,
                                     .pairs = batch.pairs};
        AttentionBackwardArgs cuda = cpu;
        cuda.dtype = dtype;
        cuda.qkv = twin_from(qkv, c->shift).cuda;
        cuda.out = twin_from(out, c->shift).cuda;
        cuda.dout = twin_from(dout, c->shift).cuda;
        cuda.lse = lse.cuda;
        cuda.start = batch.on_device.cuda;
        cuda.dqkv = twin_from(dqkv, c->shift).cuda;
        device_run(&twin.cpu, OP_attention_backward, &cpu);
        device_run(&twin.cuda, OP_attention_backward, &cuda);
        char name[64];
        snprintf(name, sizeof name, "dqkv of case %zu, %s", k, dtype_name(dtype));
        twin_expect(&twin, dqkv, name);
        double *found = twin_read(&twin, dqkv);
        const double *theirs = found + c->shift;
        const float *ours = (const float *)dqkv.cpu + c->shift;
        int64_t keys = batch.width, values = keys + batch.kv_heads * batch.dim;
        expect_columns(&batch, theirs, ours, 0, keys, relative, "dq", k);
        expect_columns(&batch, theirs, ours, keys, values, relative, "dk", k);
        expect_columns(&batch, theirs, ours, values, batch.stride, relative, "dv", k);
        memory_free(&found);
        memory_free(&made);
        memory_free(&made_lse);
        twin_close(&twin);
    }
}

int main(void)
{
    return twin_main(check);
}
