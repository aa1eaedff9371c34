/* act.cu -- element by element: fill, add, cast, rotary positions, and the activations; the formulas stand in kernels/cpu/act.c. */
#include "kernels/cuda/device.h"

#include "kernels/cuda/span.h"

/* --- fill, add, cast: one run of numbers; a last part that fills no span is one thread's --- */

template <int EACH> __global__ void fill_run(float *x, int64_t count, float value)
{
    int64_t from = run_index() * EACH;
    if (from + EACH <= count) {
        Span<float, EACH> span;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            span.at[i] = value;
        store_span<EACH>(x + from, span);
    } else {
        for (; from < count; from++)
            store_one(x + from, value);
    }
}

void cuda_fill(Device *device, const FillArgs *args)
{
    if (!device->backend->computes || !args->count)
        return;
    Cuda *cuda = cuda_of(device);
    if (packs_fit(args->x, 0))
        CUDA_LAUNCH(cuda, fill_run<4>, run_grid(args->count, 4), RUN_THREADS, 0, args->x, args->count, args->value);
    else
        CUDA_LAUNCH(cuda, fill_run<1>, run_grid(args->count, 1), RUN_THREADS, 0, args->x, args->count, args->value);
}

template <class T, int EACH> __global__ void add_run(T *out, const T *a, const T *b, float scale, int64_t count)
{
    int64_t from = run_index() * EACH;
    if (from + EACH <= count) {
        Span<T, EACH> x = load_span<EACH>(a + from), y = load_span<EACH>(b + from);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            x.at[i] = narrow<T>(widen(x.at[i]) + scale * widen(y.at[i]));
        store_span<EACH>(out + from, x);
    } else {
        for (; from < count; from++)
            store_one(out + from, load_one(a + from) + scale * load_one(b + from));
    }
}

template <class T, bool PACKED> static void launch_add(Cuda *cuda, const AddArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    CUDA_LAUNCH(cuda, (add_run<T, EACH>), run_grid(args->count, EACH), RUN_THREADS, 0, (T *)args->out,
                (const T *)args->a, (const T *)args->b, args->scale, args->count);
}

void cuda_add(Device *device, const AddArgs *args)
{
    if (!device->backend->computes || !args->count)
        return;
    bool packed = packs_fit((const float *)args->out, 0) && packs_fit((const float *)args->a, 0) &&
                  packs_fit((const float *)args->b, 0);
#define ADD(T) (packed ? launch_add<T, true> : launch_add<T, false>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, ADD);
#undef ADD
}

template <class To, class From, int EACH> __global__ void cast_run(To *to, const From *values, int64_t count)
{
    int64_t from = run_index() * EACH;
    if (from + EACH <= count) {
        Span<From, EACH> x = load_span<EACH>(values + from);
        Span<To, EACH> y;
#pragma unroll
        for (int i = 0; i < EACH; i++)
            y.at[i] = narrow<To>(widen(x.at[i]));
        store_span<EACH>(to + from, y);
    } else {
        for (; from < count; from++)
            store_one(to + from, load_one(values + from));
    }
}

template <class To, class From, int EACH> static void launch_cast(Cuda *cuda, const CastArgs *args)
{
    CUDA_LAUNCH(cuda, (cast_run<To, From, EACH>), run_grid(args->count, EACH), RUN_THREADS, 0, (To *)args->to,
                (const From *)args->from, args->count);
}

void cuda_cast(Device *device, const CastArgs *args)
{
    bool narrows = args->to_dtype == DTYPE_BF16;
    REQUIRE(narrows ? args->from_dtype == DTYPE_F32 : args->from_dtype == DTYPE_BF16 && args->to_dtype == DTYPE_F32,
            "cast from %s to %s", dtype_name(args->from_dtype), dtype_name(args->to_dtype));
    if (!device->backend->computes || !args->count)
        return;
    bool packed = packs_fit((const float *)args->from, 0) && packs_fit((const float *)args->to, 0);
    Cuda *cuda = cuda_of(device);
    if (narrows)
        (packed ? launch_cast<bf16, float, 8> : launch_cast<bf16, float, 1>)(cuda, args);
    else
        (packed ? launch_cast<float, bf16, 8> : launch_cast<float, bf16, 1>)(cuda, args);
}

/* --- Rotary positions: a block per token, EACH pairs per thread --- */

template <class T, int EACH>
__global__ void rope_token(T *qkv, const int32_t *position, const float *table, int64_t stride, int heads, int head_dim,
                           int64_t positions_max, float sign)
{
    int64_t t = blockIdx.x;
    int at = position[t], half = head_dim / 2, spans = half / EACH;
    KERNEL_REQUIRE(at >= 0 && at < positions_max);
    table += (int64_t)at * half * 2;
    for (int i = (int)threadIdx.x; i < heads * spans; i += (int)blockDim.x) {
        int head = i / spans, j = i % spans * EACH;
        T *low = qkv + t * stride + (int64_t)head * head_dim + j, *high = low + half;
        Span<T, EACH> a = load_span<EACH>(low), b = load_span<EACH>(high);
        /* cosine, sine, cosine, ... */
        float turn[2 * EACH];
        if constexpr (EACH == 1) {
            turn[0] = load_one(table + 2 * j);
            turn[1] = load_one(table + 2 * j + 1);
        } else {
            Span<float, 2 *EACH> turns = load_span<2 * EACH>(table + 2 * j);
#pragma unroll
            for (int k = 0; k < 2 * EACH; k++)
                turn[k] = turns.at[k];
        }
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            float x = widen(a.at[k]), y = widen(b.at[k]), cosine = turn[2 * k], sine = sign * turn[2 * k + 1];
            a.at[k] = narrow<T>(x * cosine - y * sine);
            b.at[k] = narrow<T>(y * cosine + x * sine);
        }
        store_span<EACH>(low, a);
        store_span<EACH>(high, b);
    }
}

template <class T, bool PACKED> static void launch_rope(Cuda *cuda, const RopeArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    int64_t items = args->heads * (args->head_dim / 2 / EACH);
    unsigned threads = (unsigned)row_threads(items);
    CUDA_LAUNCH(cuda, (rope_token<T, EACH>), dim3((unsigned)args->tokens), threads, 0, (T *)args->qkv, args->position,
                args->table, args->stride, (int)args->heads, (int)args->head_dim, args->positions_max,
                args->inverse ? -1.0f : 1.0f);
}

void cuda_rope(Device *device, const RopeArgs *args)
{
    REQUIRE(args->tokens <= INT32_MAX && args->heads * args->head_dim <= args->stride && args->stride <= INT32_MAX,
            "rope of %lld tokens, %lld heads of %lld in rows of %lld", (long long)args->tokens, (long long)args->heads,
            (long long)args->head_dim, (long long)args->stride);
    if (!device->backend->computes || !args->tokens || !args->heads || args->head_dim < 2)
        return;
    /* A half is a row of packs of its own. */
    int64_t half = args->head_dim / 2;
    bool even = args->head_dim % 2 == 0 && packs_fit(args->table, 0);
#define ROPE(T)                                                                                                        \
    (even && packs_fit((const T *)args->qkv, half) && packs_fit((const T *)args->qkv, args->stride)                    \
         ? launch_rope<T, true>                                                                                        \
         : launch_rope<T, false>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, ROPE);
#undef ROPE
}

/* --- Activations --- */

/* Standard normal distribution function. */
__device__ static inline float normal_cdf(float x)
{
    return 0.5f * erfcf(-0.70710678f * x);
}

__device__ static inline float sigmoid(float x)
{
    return __fdividef(1.0f, 1.0f + expf(-x));
}

__device__ static inline float gelu_tanh_sigmoid(float x)
{
    return sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
}

template <ActKind KIND> __device__ static inline float act_value(float x)
{
    return x * (KIND == ACT_GELU ? normal_cdf(x) : gelu_tanh_sigmoid(x));
}

template <ActKind KIND> __device__ static inline float act_slope(float x)
{
    if (KIND == ACT_GELU)
        return normal_cdf(x) + x * 0.39894228f * expf(-0.5f * x * x);
    float s = gelu_tanh_sigmoid(x), spread = s * (1.0f - s);
    float du = 1.59576912f * (1.0f + 3.0f * 0.044715f * x * x);
    /* Far out, s (1 - s) is 0 and must win over an infinite x du. */
    return s + (spread > 0.0f ? x * spread * du : 0.0f);
}

template <class T, int EACH, ActKind KIND> __global__ void act_forward_run(const T *x, T *y, int64_t count)
{
    int64_t from = run_index() * EACH;
    if (from + EACH <= count) {
        Span<T, EACH> span = load_span<EACH>(x + from);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            span.at[i] = narrow<T>(act_value<KIND>(widen(span.at[i])));
        store_span<EACH>(y + from, span);
    } else {
        for (; from < count; from++)
            store_one(y + from, act_value<KIND>(load_one(x + from)));
    }
}

template <class T, int EACH, ActKind KIND>
__global__ void act_backward_run(const T *x, const T *dy, T *dx, T *y, int64_t count)
{
    int64_t from = run_index() * EACH;
    if (from + EACH <= count) {
        Span<T, EACH> span = load_span<EACH>(x + from), slope = load_span<EACH>(dy + from);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float at = widen(span.at[i]);
            span.at[i] = narrow<T>(widen(slope.at[i]) * act_slope<KIND>(at));
            slope.at[i] = narrow<T>(act_value<KIND>(at));
        }
        store_span<EACH>(dx + from, span);
        if (y)
            store_span<EACH>(y + from, slope);
    } else {
        for (; from < count; from++) {
            float at = load_one(x + from);
            store_one(dx + from, load_one(dy + from) * act_slope<KIND>(at));
            if (y)
                store_one(y + from, act_value<KIND>(at));
        }
    }
}

/* Gated: rows of x are gate | up. */
template <class T, int EACH> __global__ void swiglu_forward_row(const T *x, T *y, int64_t width)
{
    int64_t i = blockIdx.x, j = row_column<EACH>();
    if (j >= width)
        return;
    Span<T, EACH> gate = load_span<EACH>(x + 2 * i * width + j), up = load_span<EACH>(x + (2 * i + 1) * width + j);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        float g = widen(gate.at[k]);
        gate.at[k] = narrow<T>(g * sigmoid(g) * widen(up.at[k]));
    }
    store_span<EACH>(y + i * width + j, gate);
}

template <class T, int EACH> __global__ void swiglu_backward_row(const T *x, const T *dy, T *dx, T *y, int64_t width)
{
    int64_t i = blockIdx.x, j = row_column<EACH>();
    if (j >= width)
        return;
    Span<T, EACH> gate = load_span<EACH>(x + 2 * i * width + j), up = load_span<EACH>(x + (2 * i + 1) * width + j);
    Span<T, EACH> along = load_span<EACH>(dy + i * width + j);
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        float g = widen(gate.at[k]), s = sigmoid(g), d = widen(along.at[k]), u = widen(up.at[k]);
        gate.at[k] = narrow<T>(d * u * (s + g * s * (1.0f - s)));
        up.at[k] = narrow<T>(d * g * s);
        along.at[k] = narrow<T>(g * s * u);
    }
    store_span<EACH>(dx + 2 * i * width + j, gate);
    store_span<EACH>(dx + (2 * i + 1) * width + j, up);
    if (y)
        store_span<EACH>(y + i * width + j, along);
}

template <class T, bool PACKED> static void launch_act_forward(Cuda *cuda, const ActForwardArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    const T *x = (const T *)args->x;
    T *y = (T *)args->y;
    int64_t count = args->rows * args->width;
    if (args->kind == ACT_SWIGLU) {
        RowLaunch launch = row_launch(args->rows, args->width / EACH);
        CUDA_LAUNCH(cuda, (swiglu_forward_row<T, EACH>), launch.grid, launch.block, 0, x, y, args->width);
    } else if (args->kind == ACT_GELU) {
        CUDA_LAUNCH(cuda, (act_forward_run<T, EACH, ACT_GELU>), run_grid(count, EACH), RUN_THREADS, 0, x, y, count);
    } else {
        CUDA_LAUNCH(cuda, (act_forward_run<T, EACH, ACT_GELU_TANH>), run_grid(count, EACH), RUN_THREADS, 0, x, y,
                    count);
    }
}

/* Plain forms see one long run, whose last part may be short; gated ones rows. */
static int64_t act_unit(ActKind kind, int64_t width)
{
    return kind == ACT_SWIGLU ? width : 0;
}

void cuda_act_forward(Device *device, const ActForwardArgs *args)
{
    if (!device->backend->computes || !args->rows || !args->width)
        return;
    int64_t unit = act_unit(args->kind, args->width);
#define FORWARD(T)                                                                                                     \
    (packs_fit((const T *)args->x, unit) && packs_fit((const T *)args->y, unit)                                        \
         ? launch_act_forward<T, true>                                                                                 \
         : launch_act_forward<T, false>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, FORWARD);
#undef FORWARD
}

template <class T, bool PACKED> static void launch_act_backward(Cuda *cuda, const ActBackwardArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    const T *x = (const T *)args->x, *dy = (const T *)args->dy;
    T *dx = (T *)args->dx, *y = (T *)args->y;
    int64_t count = args->rows * args->width;
    if (args->kind == ACT_SWIGLU) {
        RowLaunch launch = row_launch(args->rows, args->width / EACH);
        CUDA_LAUNCH(cuda, (swiglu_backward_row<T, EACH>), launch.grid, launch.block, 0, x, dy, dx, y, args->width);
    } else if (args->kind == ACT_GELU) {
        CUDA_LAUNCH(cuda, (act_backward_run<T, EACH, ACT_GELU>), run_grid(count, EACH), RUN_THREADS, 0, x, dy, dx, y,
                    count);
    } else {
        CUDA_LAUNCH(cuda, (act_backward_run<T, EACH, ACT_GELU_TANH>), run_grid(count, EACH), RUN_THREADS, 0, x, dy, dx,
                    y, count);
    }
}

void cuda_act_backward(Device *device, const ActBackwardArgs *args)
{
    if (!device->backend->computes || !args->rows || !args->width)
        return;
    int64_t unit = act_unit(args->kind, args->width);
#define BACKWARD(T)                                                                                                    \
    (packs_fit((const T *)args->x, unit) && packs_fit((const T *)args->dy, unit) &&                                    \
             packs_fit((const T *)args->dx, unit) && packs_fit((const T *)args->y, unit)                               \
         ? launch_act_backward<T, true>                                                                                \
         : launch_act_backward<T, false>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, BACKWARD);
#undef BACKWARD
}
