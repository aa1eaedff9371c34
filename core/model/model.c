/* model.c -- a model's memory: parameters, the table of rotations, and the cache of keys and values. */
#include "core/model/model.h"

#include <math.h>

#include "core/base/memory.h"
#include "core/base/text.h"

/* (positions_max, head_dim / 2, 2): cosine and sine of position * base^(-2 i / head_dim) (Su et al. 2021), in double. */
static Tensor rope_table(Device *device, Arena *arena, const ModelShape *shape)
{
    int64_t half = shape->head_dim / 2, row = 2 * half;
    Tensor table = tensor_new3(arena, DTYPE_F32, shape->positions_max, half, 2);
    float *host = memory_new((size_t)row, sizeof *host);
    double *frequency = memory_new((size_t)half, sizeof *frequency);
    for (int64_t i = 0; i < half; i++)
        frequency[i] = pow((double)shape->rope_base, -2.0 * (double)i / (double)shape->head_dim);
    for (int64_t position = 0; position < shape->positions_max; position++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)position * frequency[i];
            host[2 * i] = (float)cos(angle);
            host[2 * i + 1] = (float)sin(angle);
        }
        tensor_write(device, tensor_range(table, position * row, row), host);
    }
    memory_free(&frequency);
    memory_free(&host);
    return table;
}

Status model_open(Model *model, Device *device, const ModelShape *shape, HeadKind head)
{
    *model = (Model){.shape = *shape, .head = head, .device = device};
    TRY(model_shape_check(shape, "model"));
    TRY(device_arena(device, &model->arena, "model", 0));
    params_layout(&model->params, shape, head);
    DType flow = device->flow;
    double bytes = (4.0 + (flow == DTYPE_F32 ? 0 : (double)dtype_size(flow))) * (double)model->params.count;
    if (shape->arch->position == POSITION_ROPE)
        bytes += 4.0 * (double)shape->positions_max * (double)shape->head_dim;
    if (bytes + 2 * ARENA_ALIGN > (double)model->arena.reserved) {
        Status status = status_error(STATUS_MEMORY, "a model of %s parameters needs %s, more than there is: %s",
                                     text_count((double)params_learned(&model->params)), text_bytes(bytes),
                                     text_bytes((double)model->arena.reserved));
        model_close(model);
        return status;
    }
    Arena *master = &model->arena;
    if (flow != DTYPE_F32) {
        master = &model->master;
        Status status = device_arena(device, master, "master parameters", 0);
        if (status_failed(status)) {
            model_close(model);
            return status;
        }
        model->params.narrow = tensor_new1(&model->arena, flow, model->params.count);
    }
    model->params.value = tensor_new1(master, DTYPE_F32, model->params.count);
    if (!arena_new_is_zero(master)) /* else whoever fills it would touch new pages twice */
        tensor_zero(device, model->params.value);
    if (shape->arch->position == POSITION_ROPE)
        model->rope = rope_table(device, &model->arena, shape);
    return status_ok();
}

void model_close(Model *model)
{
    if (model->arena.base)
        arena_close(&model->arena);
    if (model->master.base)
        arena_close(&model->master);
    params_free(&model->params);
    *model = (Model){0};
}

void model_freeze(Model *model)
{
    if (!model->master.base)
        return;
    Tensor beside = tensor_new1(&model->arena, DTYPE_F32, model->params.beside_count);
    params_freeze(model->device, &model->params, beside);
    device_finish(model->device); /* the copies have read it */
    arena_close(&model->master);
}

size_t model_bytes(const Model *model)
{
    return model->arena.high_water + model->master.high_water;
}

bool model_stays_cached(const Model *model)
{
    enum { CACHED_BYTES_MAX = 16 << 20 };
    return (int64_t)sizeof(float) * model->params.count <= CACHED_BYTES_MAX;
}

void model_copy(Model *to, const Model *from)
{
    REQUIRE(to->device == from->device, "models on two devices");
    REQUIRE(model_shape_equal(&to->shape, &from->shape), "models of two shapes");
    for (int i = 0; i < to->params.views; i++) {
        int source = params_find(&from->params, to->params.view[i].name);
        if (source >= 0)
            tensor_copy(to->device, params_get(&to->params, i).value, params_get(&from->params, source).value);
    }
    params_narrow(to->device, &to->params);
}

/* --- Cache of keys and values ------------------------------------------------------------------------------------- */

KvCache kv_cache_new(const Model *model, Arena *arena, int64_t slots, int64_t capacity)
{
    const ModelShape *shape = &model->shape;
    REQUIRE(slots >= 1 && capacity >= 1 && capacity <= shape->positions_max,
            "cache of %lld slots of %lld tokens, positions_max %lld", (long long)slots, (long long)capacity,
            (long long)shape->positions_max);
    int64_t elements = shape->layers * slots * shape->kv_heads * capacity * shape->head_dim;
    DType flow = model->device->flow;
    int64_t dims[] = {shape->layers, slots, shape->kv_heads, capacity * shape->head_dim};
    KvCache cache = {.slots = slots, .capacity = capacity};
    cache.k = tensor_at(tensor_new1(arena, flow, elements).data, flow, 4, dims);
    cache.v = tensor_at(tensor_new1(arena, flow, elements).data, flow, 4, dims);
    return cache;
}

void kv_cache_copy(const KvCache *cache, Device *device, int64_t to, int64_t from)
{
    REQUIRE(to >= 0 && to < cache->slots && from >= 0 && from < cache->slots, "slots %lld and %lld of %lld",
            (long long)to, (long long)from, (long long)cache->slots);
    const Tensor both[] = {cache->k, cache->v};
    for (int kind = 0; kind < 2; kind++) {
        const int64_t layers = both[kind].shape[0], elements = both[kind].shape[2] * both[kind].shape[3];
        for (int64_t layer = 0; layer < layers; layer++) {
            const int64_t first = layer * cache->slots;
            tensor_copy(device, tensor_range(both[kind], (first + to) * elements, elements),
                        tensor_range(both[kind], (first + from) * elements, elements));
        }
    }
}
