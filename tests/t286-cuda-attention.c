/* t286 -- attention over the tokens of a batch on the CUDA backend is the CPU's: all head sizes, ragged batches, grouped heads. */
#include "tests/support/attention_twin.h"

typedef struct Case {
    int64_t heads, kv_heads, dim, sequences;
    int32_t length[SEQUENCES_MAX];
    double size;   /* of the values: large ones make sharp softmaxes */
    int64_t shift; /* elements off alignment */
} Case;

static const Case cases[] = {
    {1, 1, 64, 1, {1}, 1.0, 0},           {6, 2, 64, 7, {0, 1, 31, 33, 0, 86, 0}, 1.0, 0},
    {9, 3, 64, 3, {65, 2, 63}, 1.0, 0},   {8, 4, 128, 3, {100, 1, 33}, 1.0, 0},
    {1, 1, 128, 2, {257, 64}, 1.0, 0},    {2, 1, 80, 2, {130, 31}, 1.0, 0},
    {2, 2, 96, 2, {129, 1}, 1.0, 0},      {3, 1, 256, 2, {70, 33}, 1.0, 0},
    {2, 1, 16, 3, {33, 64, 128}, 1.0, 0}, {3, 3, 32, 1, {257}, 1.0, 0},
    {2, 1, 48, 2, {100, 3}, 1.0, 0},      {1, 1, 8, 2, {257, 31}, 1.0, 0},
    {2, 1, 112, 1, {90}, 1.0, 0},         {2, 1, 200, 2, {31, 65}, 1.0, 0},
    {1, 1, 64, 1, {1009}, 1.0, 0},        {6, 2, 64, 2, {140, 33}, 6.0, 0},
    {2, 1, 128, 2, {97, 33}, 6.0, 0},     {4, 2, 12, 2, {33, 70}, 1.0, 0},
    {2, 1, 7, 2, {31, 65}, 1.0, 0},       {2, 1, 130, 2, {31, 65}, 1.0, 0},
    {2, 2, 64, 2, {31, 65}, 1.0, 1},      {2, 1, 32, 2, {1, 33}, 1.0, 1},
};

static void check(DType dtype)
{
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const Case *c = &cases[k];
        Twin twin;
        twin_open(&twin, dtype);
        Batch batch = batch_new(&twin, c->heads, c->kv_heads, c->dim, c->sequences, c->length);
        TwinArray qkv = twin_normal(&twin, batch.tokens * batch.stride + c->shift, 1, c->size);
        TwinArray out = twin_empty(&twin, batch.tokens * batch.width + c->shift),
                  lse = twin_floats_empty(&twin, batch.tokens * batch.heads);
        TwinArray again = twin_empty(&twin, batch.tokens * batch.width + c->shift);
        AttentionForwardArgs cpu = batch_forward(&batch), cuda = cpu;
        cuda.dtype = dtype;
        cpu.qkv = twin_from(qkv, c->shift).cpu;
        cuda.qkv = twin_from(qkv, c->shift).cuda;
        cpu.start = batch.on_device.cpu;
        cuda.start = batch.on_device.cuda;
        cpu.lse = lse.cpu;
        cuda.lse = lse.cuda;
        cpu.out = twin_from(out, c->shift).cpu;
        cuda.out = twin_from(out, c->shift).cuda;
        device_run(&twin.cpu, OP_attention_forward, &cpu);
        device_run(&twin.cuda, OP_attention_forward, &cuda);
        char name[64];
        snprintf(name, sizeof name, "out of case %zu, %s", k, dtype_name(dtype));
        twin_expect(&twin, out, name);
        snprintf(name, sizeof name, "lse of case %zu, %s", k, dtype_name(dtype));
        twin_expect(&twin, lse, name);
        /* Without lse the same bits come out. */
        cuda.lse = NULL;
        cuda.out = twin_from(again, c->shift).cuda;
        device_run(&twin.cuda, OP_attention_forward, &cuda);
        double *first = twin_read(&twin, out), *second = twin_read(&twin, again);
        for (int64_t i = c->shift; i < out.count; i++)
            assert_true(first[i] == second[i]);
        memory_free(&first);
        memory_free(&second);
        twin_close(&twin);
    }
}

int main(void)
{
    return twin_main(check);
}
