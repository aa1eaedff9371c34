/* t288 -- attention with a key-value cache on the CUDA backend is the CPU's: one new token, a few, whole prompts, behind pasts of all lengths; and the
 * cache holds what was appended, nothing else. */
#include "tests/support/attention_twin.h"

typedef struct Case {
    int64_t heads, kv_heads, dim, capacity, sequences;
    int32_t past[SEQUENCES_MAX], count[SEQUENCES_MAX];
    int64_t shift; /* elements off alignment */
} Case;

static const Case cases[] = {
    {6, 2, 64, 700, 10, {0, 1, 31, 255, 256, 257, 511, 512, 699, 33}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 0},
    {2, 2, 64, 200, 4, {0, 199, 33, 64}, {1, 1, 1, 1}, 0},
    {1, 1, 64, 1100, 2, {1009, 300}, {1, 1}, 0},
    {8, 2, 128, 300, 3, {257, 0, 299}, {1, 1, 1}, 0},
    {8, 1, 64, 300, 2, {290, 31}, {1, 1}, 0},
    {12, 1, 64, 300, 2, {257, 33}, {1, 1}, 0},
    {9, 3, 80, 300, 2, {257, 33}, {1, 1}, 0},
    {2, 1, 96, 300, 2, {257, 33}, {1, 1}, 0},
    {2, 1, 256, 300, 2, {257, 33}, {1, 1}, 0},
    {4, 2, 16, 300, 2, {257, 33}, {1, 1}, 0},
    {4, 2, 32, 300, 2, {257, 33}, {1, 1}, 0},
    {2, 1, 48, 300, 2, {257, 33}, {1, 1}, 0},
    {2, 1, 8, 300, 2, {257, 33}, {1, 1}, 0},
    {2, 1, 200, 300, 2, {257, 33}, {1, 1}, 0},
    {6, 2, 64, 600, 5, {254, 255, 0, 300, 512}, {3, 4, 2, 0, 1}, 0},
    {6, 2, 64, 400, 6, {0, 0, 33, 300, 0, 100}, {33, 1, 31, 65, 0, 1}, 0},
    {4, 2, 128, 300, 3, {0, 70, 257}, {65, 33, 1}, 0},
    {3, 1, 32, 600, 3, {500, 0, 31}, {31, 257, 5}, 0},
    {4, 2, 12, 300, 3, {257, 33, 0}, {1, 1, 1}, 0},
    {2, 1, 7, 300, 3, {257, 33, 0}, {1, 33, 65}, 0},
    {2, 1, 64, 300, 3, {257, 33, 0}, {1, 1, 1}, 1},
};

/* Both caches: numbers where there is a past, large ones elsewhere, which nobody may see. */
static TwinArray cache_new(Twin *twin, const Case *c, const int32_t *slot, int64_t slots, uint64_t seed)
{
    int64_t count = slots * c->kv_heads * c->capacity * c->dim;
    TwinArray normal = twin_floats(twin, count, seed, 1.0);
    float *values = memory_new((size_t)(count + c->shift), sizeof *values);
    for (int64_t i = 0; i < count + c->shift; i++)
        values[i] = 1000.0f;
    for (int64_t s = 0; s < c->sequences; s++)
        for (int64_t h = 0; h < c->kv_heads; h++) {
            int64_t at = (slot[s] * c->kv_heads + h) * c->capacity * c->dim;
            memcpy(values + c->shift + at, (float *)normal.cpu + at, sizeof(float) * (size_t)(c->past[s] * c->dim));
        }
    TwinArray cache = twin_given(twin, values, count + c->shift);
    memory_free(&values);
    return cache;
}

/* A sequence by itself, behind the same past: its neighbours changed nothing, not a bit. */
static void check_alone(Twin *twin, const Batch *batch, const AttentionForwardArgs *together, TwinArray out)
{
    TwinArray alone = twin_empty(twin, out.count);
    int64_t size = (int64_t)dtype_size(twin->dtype);
    for (int64_t s = 0; s < batch->sequences; s++) {
        int32_t count = batch->start[s + 1] - batch->start[s], start[2] = {0, count};
        TwinArray start_there = twin_ints(twin, start, 2);
        AttentionForwardArgs args = *together;
        args.qkv = (const char *)together->qkv + batch->start[s] * batch->stride * size;
        args.out = (char *)alone.cuda + batch->start[s] * batch->width * size;
        args.lse = NULL;
        args.start = start_there.cuda;
        args.kv.slot = together->kv.slot + s;
        args.kv.past = together->kv.past + s;
        args.tokens = count;
        args.sequences = 1;
        device_run(&twin->cuda, OP_attention_forward, &args);
    }
    double *first = twin_read(twin, out), *second = twin_read(twin, alone);
    for (int64_t i = 0; i < out.count; i++)
        assert_true(first[i] == second[i]);
    memory_free(&first);
    memory_free(&second);
}

static void check(DType dtype)
{
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const Case *c = &cases[k];
        Twin twin;
        twin_open(&twin, dtype);
        Batch batch = batch_new(&twin, c->heads, c->kv_heads, c->dim, c->sequences, c->count);
        int64_t slots = c->sequences + 2;
        int32_t slot[SEQUENCES_MAX];
        for (int64_t s = 0; s < c->sequences; s++)
            slot[s] = (int32_t)(slots - 1 - s);
        TwinArray keys = cache_new(&twin, c, slot, slots, 3), values = cache_new(&twin, c, slot, slots, 4);
        TwinArray slot_there = twin_ints(&twin, slot, c->sequences),
                  past_there = twin_ints(&twin, c->past, c->sequences);
        TwinArray qkv = twin_normal(&twin, batch.tokens * batch.stride + c->shift, 1, 1.0);
        TwinArray out = twin_empty(&twin, batch.tokens * batch.width),
                  lse = twin_floats_empty(&twin, batch.tokens * batch.heads);
        AttentionForwardArgs cpu = batch_forward(&batch), cuda = cpu;
        cuda.dtype = dtype;
        cpu.qkv = twin_from(qkv, c->shift).cpu;
        cuda.qkv = twin_from(qkv, c->shift).cuda;
        cpu.start = batch.on_device.cpu;
        cuda.start = batch.on_device.cuda;
        cpu.out = out.cpu;
        cuda.out = out.cuda;
        cpu.lse = lse.cpu;
        cuda.lse = lse.cuda;
        cpu.kv = (KvArgs){twin_from(keys, c->shift).cpu,
                          twin_from(values, c->shift).cpu,
                          slot_there.cpu,
                          past_there.cpu,
                          slots,
                          c->capacity};
        cuda.kv = (KvArgs){twin_from(keys, c->shift).cuda,
                           twin_from(values, c->shift).cuda,
                           slot_there.cuda,
                           past_there.cuda,
                           slots,
                           c->capacity};
        device_run(&twin.cpu, OP_attention_forward, &cpu);
        device_run(&twin.cuda, OP_attention_forward, &cuda);
        char name[64];
        snprintf(name, sizeof name, "out of case %zu, %s", k, dtype_name(dtype));
        twin_expect(&twin, out, name);
        snprintf(name, sizeof name, "lse of case %zu, %s", k, dtype_name(dtype));
        twin_expect(&twin, lse, name);
        snprintf(name, sizeof name, "cached keys of case %zu, %s", k, dtype_name(dtype));
        twin_expect_within(&twin, keys, 0.0, name, __FILE__, __LINE__);
        snprintf(name, sizeof name, "cached values of case %zu, %s", k, dtype_name(dtype));
        twin_expect_within(&twin, values, 0.0, name, __FILE__, __LINE__);
        check_alone(&twin, &batch, &cuda, out);
        twin_close(&twin);
    }
}

int main(void)
{
    return twin_main(check);
}
