/* params.c -- where each parameter lies in the flat buffer, and how it starts. */
#include "core/model/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/base/work.h"
#include "core/tensor/forward.h"

enum {
    VIEW_FLOATS_ALIGN = ARENA_ALIGN / (int)sizeof(float), /* every view starts on 256 bytes */
    INITIALISE_CHUNK = 1 << 18,                           /* floats per write, a multiple of 4 */
    INITIALISE_PIECE = 1 << 13,                           /* by one thread, a multiple of 4 */
};

static const double init_deviation = 0.02; /* Radford et al. 2019, as both families use it */

/* --- Layout ------------------------------------------------------------------------------------------------------- */

typedef struct ViewRow {
    const char *name; /* %d: the layer */
    int ndim;
    bool decay;
    InitKind init;
} ViewRow;

static const ViewRow view_rows[VIEW_KINDS] = {
    [VIEW_TOKEN] = {"embed.token", 2, true, INIT_NORMAL},
    [VIEW_POSITION] = {"embed.position", 2, false, INIT_NORMAL},
    [VIEW_ATTENTION_NORM_GAIN] = {"layer.%d.attention_norm.gain", 1, false, INIT_ONE},
    [VIEW_ATTENTION_NORM_BIAS] = {"layer.%d.attention_norm.bias", 1, false, INIT_ZERO},
    [VIEW_QKV_WEIGHT] = {"layer.%d.qkv.weight", 2, true, INIT_NORMAL},
    [VIEW_QKV_BIAS] = {"layer.%d.qkv.bias", 1, false, INIT_ZERO},
    [VIEW_PROJECTION_WEIGHT] = {"layer.%d.projection.weight", 2, true, INIT_NORMAL},
    [VIEW_PROJECTION_BIAS] = {"layer.%d.projection.bias", 1, false, INIT_ZERO},
    [VIEW_MLP_NORM_GAIN] = {"layer.%d.mlp_norm.gain", 1, false, INIT_ONE},
    [VIEW_MLP_NORM_BIAS] = {"layer.%d.mlp_norm.bias", 1, false, INIT_ZERO},
    [VIEW_UP_WEIGHT] = {"layer.%d.up.weight", 2, true, INIT_NORMAL},
    [VIEW_UP_BIAS] = {"layer.%d.up.bias", 1, false, INIT_ZERO},
    [VIEW_DOWN_WEIGHT] = {"layer.%d.down.weight", 2, true, INIT_NORMAL},
    [VIEW_DOWN_BIAS] = {"layer.%d.down.bias", 1, false, INIT_ZERO},
    [VIEW_FINAL_NORM_GAIN] = {"final_norm.gain", 1, false, INIT_ONE},
    [VIEW_FINAL_NORM_BIAS] = {"final_norm.bias", 1, false, INIT_ZERO},
    [VIEW_HEAD] = {"head.weight", 2, true, INIT_NORMAL},
    [VIEW_SCORE_WEIGHT] = {"score.weight", 2, true, INIT_NORMAL},
    [VIEW_SCORE_BIAS] = {"score.bias", 1, false, INIT_ZERO},
};

static bool view_in_layer(ViewKind kind)
{
    return kind >= VIEW_ATTENTION_NORM_GAIN && kind <= VIEW_DOWN_BIAS;
}

/* Rows (and columns of matrices) of a view; false: this model has none. */
static bool view_shape(ViewKind kind, const ModelShape *shape, HeadKind head, int64_t *rows, int64_t *columns)
{
    const Arch *arch = shape->arch;
    int64_t qkv = (shape->heads + 2 * shape->kv_heads) * shape->head_dim;
    int64_t up = arch_gated(arch) ? 2 * shape->ffn : shape->ffn;
    *rows = shape->width;
    *columns = 1;
    switch (kind) {
    case VIEW_TOKEN:
        *rows = shape->vocab, *columns = shape->width;
        return true;
    case VIEW_POSITION:
        *rows = shape->positions_max, *columns = shape->width;
        return arch->position == POSITION_LEARNED;
    case VIEW_ATTENTION_NORM_GAIN:
    case VIEW_MLP_NORM_GAIN:
    case VIEW_FINAL_NORM_GAIN:
        return true;
    case VIEW_ATTENTION_NORM_BIAS:
    case VIEW_MLP_NORM_BIAS:
    case VIEW_FINAL_NORM_BIAS:
        return arch->norm == NORM_LAYER;
    case VIEW_QKV_WEIGHT:
        *rows = qkv, *columns = shape->width;
        return true;
    case VIEW_QKV_BIAS:
        *rows = qkv;
        return arch->qkv_bias;
    case VIEW_PROJECTION_WEIGHT:
        *columns = shape->heads * shape->head_dim;
        return true;
    case VIEW_PROJECTION_BIAS:
        return arch->projection_bias;
    case VIEW_UP_WEIGHT:
        *rows = up, *columns = shape->width;
        return true;
    case VIEW_UP_BIAS:
        *rows = up;
        return arch->mlp_bias;
    case VIEW_DOWN_WEIGHT:
        *columns = shape->ffn;
        return true;
    case VIEW_DOWN_BIAS:
        return arch->mlp_bias;
    case VIEW_HEAD:
        *rows = shape->vocab, *columns = shape->width;
        return head == HEAD_LM && !shape->tied;
    case VIEW_SCORE_WEIGHT:
        *rows = 1, *columns = shape->width;
        return head == HEAD_SCALAR;
    case VIEW_SCORE_BIAS:
        *rows = 1;
        return head == HEAD_SCALAR;
    case VIEW_KINDS:
        break;
    }
    return false;
}

static double view_deviation(ViewKind kind, const ModelShape *shape)
{
    if (view_rows[kind].init != INIT_NORMAL)
        return 0;
    /* What adds to the residual stream is scaled so that its variance does not grow with depth (Radford et al. 2019). */
    if (kind == VIEW_PROJECTION_WEIGHT || kind == VIEW_DOWN_WEIGHT)
        return init_deviation / sqrt(2.0 * (double)shape->layers);
    /* Stiennon et al. 2020 as their code has it; the paper's text says the variance, 1 / (width + 1), is the deviation. */
    if (kind == VIEW_SCORE_WEIGHT)
        return 1 / sqrt((double)shape->width + 1);
    return init_deviation;
}

static void view_name(ViewKind kind, int64_t layer, char *name, size_t size)
{
    const char *format = view_rows[kind].name, *hole = strstr(format, "%d");
    if (hole)
        snprintf(name, size, "%.*s%lld%s", (int)(hole - format), format, (long long)layer, hole + 2);
    else
        snprintf(name, size, "%s", format);
}

/* Gains and biases are few, and added to sums that are F32; the scalar head's sums are the values and rewards themselves. */
static bool view_flows(ViewKind kind)
{
    return view_rows[kind].ndim == 2 && kind != VIEW_SCORE_WEIGHT;
}

static int64_t aligned(int64_t count)
{
    return (count + VIEW_FLOATS_ALIGN - 1) / VIEW_FLOATS_ALIGN * VIEW_FLOATS_ALIGN;
}

static void params_add(Params *params, const ModelShape *shape, HeadKind head, ViewKind kind, int64_t layer,
                       int *capacity)
{
    int64_t rows, columns;
    if (!view_shape(kind, shape, head, &rows, &columns))
        return;
    memory_reserve(&params->view, params->views, capacity);
    if (params->first[kind] < 0)
        params->first[kind] = params->views;
    bool vocabulary = kind == VIEW_TOKEN || kind == VIEW_HEAD;
    int64_t rows_stored = vocabulary ? model_shape_vocab_stored(shape) : rows;
    ParamView *view = &params->view[params->views++];
    *view = (ParamView){
        .ndim = view_rows[kind].ndim,
        .shape = {rows, columns},
        .rows_stored = rows_stored,
        .offset = params->count,
        .count = rows_stored * columns,
        .beside = view_flows(kind) ? -1 : params->beside_count,
        .decay = view_rows[kind].decay,
        .init = view_rows[kind].init,
        .deviation = view_deviation(kind, shape),
    };
    view_name(kind, layer, view->name, sizeof view->name);
    params->count += aligned(view->count);
    if (view->beside >= 0)
        params->beside_count += aligned(view->count);
}

void params_layout(Params *params, const ModelShape *shape, HeadKind head)
{
    *params = (Params){0};
    for (int i = 0; i < VIEW_KINDS; i++)
        params->first[i] = -1;
    int capacity = 0;
    for (ViewKind kind = 0; kind < VIEW_ATTENTION_NORM_GAIN; kind++)
        params_add(params, shape, head, kind, 0, &capacity);
    for (int64_t layer = 0; layer < shape->layers; layer++) {
        int before = params->views;
        for (ViewKind kind = VIEW_ATTENTION_NORM_GAIN; kind <= VIEW_DOWN_BIAS; kind++)
            params_add(params, shape, head, kind, layer, &capacity);
        params->layer_views = params->views - before;
    }
    for (ViewKind kind = VIEW_DOWN_BIAS + 1; kind < VIEW_KINDS; kind++)
        params_add(params, shape, head, kind, 0, &capacity);
}

void params_free(Params *params)
{
    memory_free(&params->view);
    *params = (Params){0};
}

/* --- Access ------------------------------------------------------------------------------------------------------- */

int params_find(const Params *params, const char *name)
{
    for (int i = 0; i < params->views; i++)
        if (strcmp(params->view[i].name, name) == 0)
            return i;
    return -1;
}

static Tensor view_tensor(Tensor flat, const ParamView *view, int64_t offset)
{
    if (!tensor_present(flat))
        return tensor_absent();
    Tensor range = tensor_range(flat, offset, view->count);
    return view->ndim == 2 ? tensor_reshape2(range, view->rows_stored, view->shape[1]) : range;
}

Parameter params_get(const Params *params, int view)
{
    REQUIRE(view >= 0 && view < params->views, "view %d of %d", view, params->views);
    const ParamView *at = &params->view[view];
    Parameter parameter = {view_tensor(params->value, at, at->offset), view_tensor(params->grad, at, at->offset)};
    return parameter;
}

int params_index(const Params *params, ViewKind kind, int64_t layer)
{
    int first = params->first[kind];
    return first < 0 ? -1 : first + (view_in_layer(kind) ? (int)layer * params->layer_views : 0);
}

Parameter params_of(const Params *params, ViewKind kind, int64_t layer)
{
    int index = params_index(params, kind, layer);
    if (index < 0)
        return (Parameter){tensor_absent(), tensor_absent()};
    Parameter parameter = params_get(params, index);
    const ParamView *view = &params->view[index];
    if (tensor_present(params->narrow) && view->beside < 0) {
        REQUIRE(params->narrowed, "parameters were written, and not narrowed since");
        parameter.value = view_tensor(params->narrow, view, view->offset);
    } else if (tensor_present(params->beside)) {
        parameter.value = view_tensor(params->beside, view, view->beside);
    }
    return parameter;
}

void params_freeze(Device *device, Params *params, Tensor beside)
{
    tensor_check(beside, "parameters beside", DTYPE_F32, 1, params->beside_count, -1);
    for (int i = 0; i < params->views; i++) {
        const ParamView *view = &params->view[i];
        if (view->beside >= 0)
            tensor_copy(device, tensor_range(beside, view->beside, view->count),
                        tensor_range(params->value, view->offset, view->count));
    }
    params->beside = beside;
    params->value = tensor_absent();
}

void params_narrow(Device *device, Params *params)
{
    if (!tensor_present(params->narrow))
        return;
    Exec exec = {.device = device};
    cast(&exec, params->narrow, params->value);
    params->narrowed = true;
}

void params_set_grad(Params *params, Tensor grad)
{
    if (tensor_present(grad))
        tensor_check(grad, "gradient buffer", DTYPE_F32, 1, params->count, -1);
    params->grad = grad;
}

int64_t params_learned(const Params *params)
{
    int64_t learned = 0;
    for (int i = 0; i < params->views; i++)
        learned += params->view[i].shape[0] * params->view[i].shape[1];
    return learned;
}

/* --- First values ------------------------------------------------------------------------------------------------- */

static void view_fill(const ParamView *view, RngStream stream, int64_t from, int64_t count, float *out)
{
    if (view->init != INIT_NORMAL) {
        for (int64_t i = 0; i < count; i++)
            out[i] = view->init == INIT_ONE ? 1 : 0;
        return;
    }
    for (int64_t i = 0; i < count; i += 4) {
        double normal[4];
        rng_normal4(stream, (uint64_t)(from + i) / 4, normal);
        for (int64_t j = 0; j < 4 && i + j < count; j++)
            out[i + j] = (float)(normal[j] * view->deviation);
    }
}

/* A view's values by all threads, a piece each: what a piece holds is a function of where it stands. */
typedef struct ViewFill {
    const ParamView *view;
    RngStream stream;
    int64_t from, count;
    float *out; /* (count) */
} ViewFill;

static Status view_fill_piece(void *context, int64_t index, int worker)
{
    (void)worker;
    const ViewFill *fill = context;
    int64_t at = index * INITIALISE_PIECE, count = fill->count - at;
    view_fill(fill->view, fill->stream, fill->from + at, count < INITIALISE_PIECE ? count : INITIALISE_PIECE,
              fill->out + at);
    return status_ok();
}

static void initialise_view(Device *device, Params *params, uint64_t seed, int index)
{
    REQUIRE(index >= 0 && index < params->views, "view %d of %d", index, params->views);
    const ParamView *view = &params->view[index];
    RngStream stream = rng_stream(seed, RNG_INIT, 0, (uint64_t)index);
    /* Logical elements only: the vocabulary's tail stays zero. */
    int64_t learned = view->shape[0] * view->shape[1];
    int64_t chunk_count = learned < INITIALISE_CHUNK ? learned : INITIALISE_CHUNK;
    float *chunk = memory_new((size_t)chunk_count, sizeof *chunk);
    for (int64_t from = 0; from < learned; from += chunk_count) {
        int64_t count = learned - from < chunk_count ? learned - from : chunk_count;
        ViewFill fill = {view, stream, from, count, chunk};
        /* No piece fails. */
        (void)work_run((count + INITIALISE_PIECE - 1) / INITIALISE_PIECE, view_fill_piece, NULL, &fill);
        tensor_write(device, tensor_range(params->value, view->offset + from, count), chunk);
    }
    memory_free(&chunk);
}

void params_initialise_view(Device *device, Params *params, uint64_t seed, int index)
{
    initialise_view(device, params, seed, index);
    params_narrow(device, params);
}

void params_initialise(Device *device, Params *params, uint64_t seed)
{
    tensor_zero(device, params->value);
    for (int i = 0; i < params->views; i++)
        initialise_view(device, params, seed, i);
    params_narrow(device, params);
}
