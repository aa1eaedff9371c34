/* tiny.c -- see tiny.h. */
#include "tests/support/tiny.h"

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "tests/support/support.h"
#include "tests/support/support_device.h"

ModelShape tiny_shape(const char *arch, bool tied)
{
    ModelShape shape = {
        .arch = arch_find(arch),
        .layers = 2,
        .width = 32,
        .heads = 4,
        .kv_heads = 2,
        .head_dim = 8,
        .ffn = 48,
        .vocab = 70,
        .positions_max = 64,
        .norm_epsilon = 1e-5f,
        .rope_base = 10000,
        .tied = tied,
    };
    return shape;
}

static Status (*open_device)(Device *device); /* NULL: support_device_open */

void tiny_use_device(Status (*open)(Device *device))
{
    open_device = open;
}

void tiny_open_device(Tiny *tiny)
{
    *tiny = (Tiny){0};
    if (open_device)
        assert_ok(open_device(&tiny->device));
    else
        support_device_open(&tiny->device);
    assert_ok(device_arena(&tiny->device, &tiny->step, "step", 0));
    tiny->tape = tape_open();
    tiny->exec = (Exec){&tiny->device, &tiny->step, NULL};
}

void tiny_add_gradient(Tiny *tiny)
{
    tiny->grad = tensor_new1(&tiny->model.arena, DTYPE_F32, tiny->model.params.count);
    tensor_zero(&tiny->device, tiny->grad);
    params_set_grad(&tiny->model.params, tiny->grad);
}

void tiny_open(Tiny *tiny, const ModelShape *shape, HeadKind head, uint64_t seed, float gain)
{
    tiny_open_device(tiny);
    assert_ok(model_open(&tiny->model, &tiny->device, shape, head));
    tiny_add_gradient(tiny);
    Params *params = &tiny->model.params;
    params_initialise(&tiny->device, params, seed);
    float *host = memory_new((size_t)params->count, sizeof *host);
    tensor_read(&tiny->device, params->value, host);
    for (int v = 0; v < params->views; v++)
        for (int64_t i = 0; params->view[v].init == INIT_NORMAL && i < params->view[v].count; i++)
            host[params->view[v].offset + i] *= gain;
    tensor_write(&tiny->device, params->value, host);
    params_narrow(&tiny->device, params);
    memory_free(&host);
}

void tiny_close(Tiny *tiny)
{
    tape_close(tiny->tape);
    model_close(&tiny->model);
    arena_close(&tiny->step);
    device_close(&tiny->device);
}

Exec tiny_train_exec(Tiny *tiny)
{
    tensor_zero(&tiny->device, tiny->grad);
    Exec exec = {&tiny->device, &tiny->step, tiny->tape};
    return exec;
}

void tiny_rewind(Tiny *tiny)
{
    tape_reset(tiny->tape);
    arena_rewind(&tiny->step, 0);
}

Tensor tiny_upload(Tiny *tiny, DType dtype, const void *host, int64_t count)
{
    Tensor tensor = tensor_new1(&tiny->step, dtype, count);
    tensor_write(&tiny->device, tensor, host);
    return tensor;
}

double tiny_nll(Tiny *tiny, bool train, const int32_t *tokens, const int32_t *start, int64_t sequences,
                const float *weight, float *logprob)
{
    Exec exec = train ? tiny_train_exec(tiny) : tiny->exec;
    int64_t all = start[sequences], rows = 0;
    int32_t *index = memory_new((size_t)all, sizeof *index), *target = memory_new((size_t)all, sizeof *target);
    float *row_weight = memory_new((size_t)all, sizeof *row_weight), *out = memory_new((size_t)all, sizeof *out);
    for (int64_t s = 0; s < sequences; s++)
        for (int32_t t = start[s]; t + 1 < start[s + 1]; t++) {
            index[rows] = t;
            target[rows] = tokens[t + 1];
            row_weight[rows++] = weight[t];
        }
    TokenBatch batch = token_batch_make(&tiny->device, &tiny->step, tokens, start, sequences, NULL);
    Tensor hidden = model_hidden(&tiny->model, &exec, &batch, tiny_upload(tiny, DTYPE_I32, index, rows), NULL);
    VocabularyHead head = model_vocabulary_head(&tiny->model, 1);
    Tensor stats = tensor_new1(&tiny->step, DTYPE_F64, NLL_STATS);
    tensor_zero(&tiny->device, stats);
    Tensor values = tensor_new1(&tiny->step, DTYPE_F32, rows);
    head_nll(&exec, &head, hidden, tiny_upload(tiny, DTYPE_I32, target, rows),
             tiny_upload(tiny, DTYPE_F32, row_weight, rows), values, stats);
    if (train)
        tape_backward(&exec);
    double host_stats[NLL_STATS];
    tensor_read(&tiny->device, stats, host_stats);
    tensor_read(&tiny->device, values, out);
    for (int64_t t = 0; logprob && t < all; t++)
        logprob[t] = 0;
    for (int64_t i = 0; logprob && i < rows; i++)
        logprob[index[i]] = out[i];
    memory_free(&out);
    memory_free(&row_weight);
    memory_free(&target);
    memory_free(&index);
    tiny_rewind(tiny);
    return host_stats[NLL_LOSS];
}

void tiny_tokens(uint64_t seed, int64_t vocab, int32_t *tokens, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        tokens[i] = (int32_t)rng_below(rng_stream(seed, RNG_TEST, 0, 0), (uint64_t)i, (uint64_t)vocab);
}
