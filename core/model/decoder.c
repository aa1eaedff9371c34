/* decoder.c -- the one forward pass of every family: what differs between them are axes of arch.h, read here.
 *
 * Norms are chained with the residual: (sum, normalised) = norm(block's output, residual), so that each block's output
 * is added and normalised in one visit. Without a tape the activations of a layer die with it: the two tensors that go
 * on are copied out and the step arena is rewound, so inference needs the memory of one layer. Rows meet each other in
 * attention alone, so after the last one only the rows that somebody reads go on. */
#include <math.h>

#include "core/model/model.h"

/* What one layer hands to the next: x is the last block's output, not yet added to the residual. */
typedef struct Stream {
    Tensor x, residual; /* (tokens, width); residual absent before the first norm */
} Stream;

/* One layer's part of the cache: (slots, kv_heads, capacity, head_dim). */
static Tensor kv_layer(const Model *model, Tensor all, const KvCache *cache, int64_t layer)
{
    int64_t elements = tensor_count(all) / model->shape.layers;
    int64_t dims[] = {cache->slots, model->shape.kv_heads, cache->capacity, model->shape.head_dim};
    return tensor_at(tensor_range(all, layer * elements, elements).data, all.dtype, 4, dims);
}

/* What attention mixes for each token, before the projection. */
static Tensor attention_block(const Model *model, Exec *exec, const TokenBatch *batch, const KvUse *use, int64_t layer,
                              Tensor x)
{
    const ModelShape *shape = &model->shape;
    const Params *params = &model->params;
    Tensor qkv =
        linear_forward(exec, x, params_of(params, VIEW_QKV_WEIGHT, layer), params_of(params, VIEW_QKV_BIAS, layer));
    if (shape->arch->position == POSITION_ROPE)
        qkv = rope_forward(exec, qkv, batch->position, model->rope, shape->heads + shape->kv_heads, shape->head_dim);
    float scale = (float)(1 / sqrt((double)shape->head_dim));
    KvView view;
    if (use)
        view = (KvView){
            .k = kv_layer(model, use->cache->k, use->cache, layer),
            .v = kv_layer(model, use->cache->v, use->cache, layer),
            .slot = use->slot,
            .past = use->past,
            .pairs = use->pairs,
        };
    return attention_forward(exec, qkv, &batch->rows, shape->heads, shape->kv_heads, shape->head_dim, scale,
                             use ? &view : NULL);
}

static Tensor mlp_block(const Model *model, Exec *exec, int64_t layer, Tensor x)
{
    const Params *params = &model->params;
    Tensor up =
        linear_forward(exec, x, params_of(params, VIEW_UP_WEIGHT, layer), params_of(params, VIEW_UP_BIAS, layer));
    return act_linear_forward(exec, model->shape.arch->act, up, params_of(params, VIEW_DOWN_WEIGHT, layer),
                              params_of(params, VIEW_DOWN_BIAS, layer));
}

static NormOutput norm_of(const Model *model, Exec *exec, ViewKind gain, ViewKind bias, int64_t layer, Stream stream)
{
    const Params *params = &model->params;
    return norm_forward(exec, model->shape.arch->norm, stream.x, stream.residual, params_of(params, gain, layer),
                        params_of(params, bias, layer), model->shape.norm_epsilon);
}

/* `wanted`: rows that go on after attention; absent: all. */
static Stream layer_forward(const Model *model, Exec *exec, const TokenBatch *batch, Tensor wanted, const KvUse *use,
                            int64_t layer, Stream stream)
{
    const Params *params = &model->params;
    NormOutput before = norm_of(model, exec, VIEW_ATTENTION_NORM_GAIN, VIEW_ATTENTION_NORM_BIAS, layer, stream);
    Tensor mixed = attention_block(model, exec, batch, use, layer, before.normalised);
    if (tensor_present(wanted)) {
        mixed = gather_forward(exec, mixed, wanted);
        before.sum = gather_forward(exec, before.sum, wanted);
    }
    stream.x = linear_forward(exec, mixed, params_of(params, VIEW_PROJECTION_WEIGHT, layer),
                              params_of(params, VIEW_PROJECTION_BIAS, layer));
    stream.residual = before.sum;
    NormOutput between = norm_of(model, exec, VIEW_MLP_NORM_GAIN, VIEW_MLP_NORM_BIAS, layer, stream);
    stream.x = mlp_block(model, exec, layer, between.normalised);
    stream.residual = between.sum;
    return stream;
}

/* Every row is somebody's key and value until the last layer. */
static Tensor wanted_after(const Model *model, int64_t layer, Tensor wanted)
{
    return layer == model->shape.layers - 1 ? wanted : tensor_absent();
}

/* All layers without a tape, in the memory of one. */
static Stream layers_inference(const Model *model, Exec *exec, const TokenBatch *batch, Tensor wanted, const KvUse *use,
                               Stream stream)
{
    int64_t rows = batch->rows.tokens, width = model->shape.width;
    if (tensor_count(wanted) > rows)
        rows = tensor_count(wanted);
    DType flow = stream.x.dtype;
    Stream kept = {tensor_new2(exec->step, flow, rows, width), tensor_new2(exec->step, flow, rows, width)};
    size_t mark = arena_mark(exec->step);
    for (int64_t layer = 0; layer < model->shape.layers; layer++) {
        Stream out = layer_forward(model, exec, batch, wanted_after(model, layer, wanted), use, layer, stream);
        stream.x = tensor_rows(kept.x, 0, out.x.shape[0]);
        stream.residual = tensor_rows(kept.residual, 0, out.x.shape[0]);
        tensor_copy(exec->device, stream.x, out.x);
        tensor_copy(exec->device, stream.residual, out.residual);
        arena_rewind(exec->step, mark);
    }
    return stream;
}

Tensor model_hidden(const Model *model, Exec *exec, const TokenBatch *batch, Tensor wanted, const KvUse *use)
{
    const Params *params = &model->params;
    REQUIRE(batch->rows.longest <= model->shape.positions_max, "sequence of %lld tokens, positions_max %lld",
            (long long)batch->rows.longest, (long long)model->shape.positions_max);
    REQUIRE(!use || !exec->tape, "no gradients flow through a cache");
    Stream stream = {embedding_forward(exec, batch, params_of(params, VIEW_TOKEN, 0), model->shape.vocab,
                                       params_of(params, VIEW_POSITION, 0)),
                     tensor_absent()};
    if (exec->tape)
        for (int64_t layer = 0; layer < model->shape.layers; layer++)
            stream = layer_forward(model, exec, batch, wanted_after(model, layer, wanted), use, layer, stream);
    else
        stream = layers_inference(model, exec, batch, wanted, use, stream);
    return norm_of(model, exec, VIEW_FINAL_NORM_GAIN, VIEW_FINAL_NORM_BIAS, 0, stream).normalised;
}
