/* act.c -- element by element: fill, add, cast, rotary positions (Su et al. 2021), and the activations.
 *
 *        GELU       x Phi(x), Phi by erfc so that the negative tail keeps its relative accuracy (Hendrycks & Gimpel 2016)
 *        GELU_TANH  x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3), which is x/2 (1 + tanh u)
 *        SWIGLU     silu(gate) up (Shazeer 2020) */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

void KERNEL(fill)(Device *device, const FillArgs *args)
{
    PARALLEL_FOR(device, args->count)
    for (int64_t i = 0; i < args->count; i++)
        args->x[i] = args->value;
}

void KERNEL(add)(Device *device, const AddArgs *args)
{
    float *out = args->out;
    const float *a = args->a, *b = args->b;
    float scale = args->scale;
    PARALLEL_FOR(device, args->count)
    for (int64_t i = 0; i < args->count; i++)
        out[i] = a[i] + scale * b[i];
}

void KERNEL(cast)(Device *device, const CastArgs *args)
{
    bool narrow = args->to_dtype == DTYPE_BF16;
    REQUIRE(narrow ? args->from_dtype == DTYPE_F32 : args->from_dtype == DTYPE_BF16 && args->to_dtype == DTYPE_F32,
            "cast from %s to %s", dtype_name(args->from_dtype), dtype_name(args->to_dtype));
    enum { RUN = 4096 };
    PARALLEL_FOR(device, args->count)
    for (int64_t from = 0; from < args->count; from += RUN) {
        int64_t to = min_i64(from + RUN, args->count);
        if (narrow)
            for (int64_t i = from; i < to; i++)
                ((uint16_t *)args->to)[i] = bf16_of(((const float *)args->from)[i]);
        else
            dtype_to_f32(DTYPE_BF16, (const uint16_t *)args->from + from, (float *)args->to + from,
                         (size_t)(to - from));
    }
}

static void rope_tokens(const RopeArgs *args, Share tokens)
{
    int64_t half = args->head_dim / 2;
    float sign = args->inverse ? -1.0f : 1.0f;
    for (int64_t t = tokens.from; t < tokens.to; t++) {
        float cosine[256], sine[256];
        const float *table = args->table + args->position[t] * half * 2;
        for (int64_t j = 0; j < half; j++) {
            cosine[j] = table[2 * j];
            sine[j] = sign * table[2 * j + 1];
        }
        for (int64_t head = 0; head < args->heads; head++) {
            float *low = floats(args->qkv) + t * args->stride + head * args->head_dim, *high = low + half;
            for (int64_t j = 0; j < half; j++) {
                float a = low[j], b = high[j];
                low[j] = a * cosine[j] - b * sine[j];
                high[j] = b * cosine[j] + a * sine[j];
            }
        }
    }
}

/* Heads of which a register holds some: their halves change places in it. */
static void rope_narrow(const RopeArgs *args, Share tokens)
{
    int64_t dim = args->head_dim, half = dim / 2, width = args->heads * dim;
    VecI cosines, sines, partner;
    Vec sign;
    for (int lane = 0; lane < LANES; lane++) {
        cosines[lane] = (int32_t)(lane % half * 2);
        sines[lane] = cosines[lane] + 1;
        partner[lane] = lane ^ (int32_t)half;
        sign[lane] = ((lane & half) == 0) == args->inverse ? 1.0f : -1.0f;
    }
    for (int64_t t = tokens.from; t < tokens.to; t++) {
        const float *table = args->table + args->position[t] * dim;
        Vec row = dim < LANES ? vec_load_part(table, dim, 0.0f) : vec_load(table);
        Vec cosine = __builtin_shuffle(row, cosines), sine = __builtin_shuffle(row, sines) * sign;
        float *x = floats(args->qkv) + t * args->stride;
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) {
            Vec head = vec_load(x + i);
            vec_store(x + i, head * cosine + __builtin_shuffle(head, partner) * sine);
        }
        if (i < width) {
            Vec head = vec_load_part(x + i, width - i, 0.0f);
            vec_store_part(x + i, head * cosine + __builtin_shuffle(head, partner) * sine, width - i);
        }
    }
}

void KERNEL(rope)(Device *device, const RopeArgs *args)
{
    REQUIRE(args->head_dim <= 512, "head_dim %lld is above 512", (long long)args->head_dim);
    for (int64_t t = 0; t < args->tokens; t++)
        REQUIRE(args->position[t] >= 0 && args->position[t] < args->positions_max,
                "position of token %lld is %d, outside [0, %lld)", (long long)t, args->position[t],
                (long long)args->positions_max);
    int threads = cpu_threads(device, 3.0 * (double)args->tokens * (double)(args->heads * args->head_dim));
    bool narrow = args->head_dim >= 4 && args->head_dim <= LANES && LANES % args->head_dim == 0;
    ON_THREADS(threads, (narrow ? rope_narrow : rope_tokens)(args, cpu_share(args->tokens, 1)));
}

/* Standard normal distribution function and density. */
VEC_INLINE Vec normal_cdf(Vec x, Vec *density)
{
    Vec z = vec_max(x, -x) * vec_set(0.70710678f);
    Vec e = vec_exp(-z * z);
    Vec tail = vec_set(0.5f) * vec_erfc(z, e);
    *density = e * vec_set(0.39894228f);
    return vec_select(x < vec_set(0.0f), tail, vec_set(1.0f) - tail);
}

VEC_INLINE Vec gelu_tanh_sigmoid(Vec x)
{
    return vec_sigmoid(vec_set(1.59576912f) * (x + vec_set(0.044715f) * x * x * x));
}

VEC_INLINE Vec act_value(ActKind kind, Vec x)
{
    Vec density;
    if (kind == ACT_GELU)
        return x * normal_cdf(x, &density);
    return x * gelu_tanh_sigmoid(x);
}

VEC_INLINE Vec act_slope(ActKind kind, Vec x)
{
    if (kind == ACT_GELU) {
        Vec density, cdf = normal_cdf(x, &density);
        return cdf + x * density;
    }
    Vec s = gelu_tanh_sigmoid(x);
    Vec du = vec_set(1.59576912f) * (vec_set(1.0f) + vec_set(3.0f * 0.044715f) * x * x);
    /* Far out, s (1 - s) is 0 and must win over an infinite x du. */
    Vec spread = s * (vec_set(1.0f) - s);
    return s + vec_select(spread > vec_set(0.0f), x * spread * du, vec_set(0.0f));
}

/* Plain forms see one long run of numbers. Backward, `y` NULL or act(x) once more, which shares nearly all with the slope. */
VEC_INLINE void act_forward_run(ActKind kind, const float *x, float *y, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(y + i, act_value(kind, vec_load(x + i)));
    if (i < count)
        vec_store_part(y + i, act_value(kind, vec_load_part(x + i, count - i, 0.0f)), count - i);
}

VEC_INLINE void act_backward_run(ActKind kind, const float *x, const float *dy, float *dx, float *y, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        Vec at = vec_load(x + i);
        vec_store(dx + i, vec_load(dy + i) * act_slope(kind, at));
        if (y)
            vec_store(y + i, act_value(kind, at));
    }
    if (i < count) {
        int64_t rest = count - i;
        Vec at = vec_load_part(x + i, rest, 0.0f);
        vec_store_part(dx + i, vec_load_part(dy + i, rest, 0.0f) * act_slope(kind, at), rest);
        if (y)
            vec_store_part(y + i, act_value(kind, at), rest);
    }
}

VEC_INLINE Vec swiglu_value(Vec gate, Vec up)
{
    return gate * vec_sigmoid(gate) * up;
}

static void swiglu_forward_row(const float *gate, const float *up, float *y, int64_t width)
{
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES)
        vec_store(y + j, swiglu_value(vec_load(gate + j), vec_load(up + j)));
    if (j < width) {
        int64_t rest = width - j;
        vec_store_part(y + j, swiglu_value(vec_load_part(gate + j, rest, 0.0f), vec_load_part(up + j, rest, 0.0f)),
                       rest);
    }
}

VEC_INLINE void swiglu_slopes(Vec gate, Vec up, Vec dy, Vec *dgate, Vec *dup)
{
    Vec s = vec_sigmoid(gate);
    *dup = dy * gate * s;
    *dgate = dy * up * (s + gate * s * (vec_set(1.0f) - s));
}

static void swiglu_backward_row(const float *gate, const float *up, const float *dy, float *dgate, float *dup, float *y,
                                int64_t width)
{
    int64_t j = 0;
    Vec a, b;
    for (; j + LANES <= width; j += LANES) {
        Vec g = vec_load(gate + j), u = vec_load(up + j);
        swiglu_slopes(g, u, vec_load(dy + j), &a, &b);
        vec_store(dgate + j, a);
        vec_store(dup + j, b);
        if (y)
            vec_store(y + j, swiglu_value(g, u));
    }
    if (j < width) {
        int64_t rest = width - j;
        Vec g = vec_load_part(gate + j, rest, 0.0f), u = vec_load_part(up + j, rest, 0.0f);
        swiglu_slopes(g, u, vec_load_part(dy + j, rest, 0.0f), &a, &b);
        vec_store_part(dgate + j, a, rest);
        vec_store_part(dup + j, b, rest);
        if (y)
            vec_store_part(y + j, swiglu_value(g, u), rest);
    }
}

static void act_forward_rows(const ActForwardArgs *args, Share rows)
{
    int64_t width = args->width;
    for (int64_t i = rows.from; i < rows.to; i++) {
        if (args->kind == ACT_SWIGLU)
            swiglu_forward_row(floats(args->x) + 2 * i * width, floats(args->x) + (2 * i + 1) * width,
                               floats(args->y) + i * width, width);
        else if (args->kind == ACT_GELU)
            act_forward_run(ACT_GELU, floats(args->x) + i * width, floats(args->y) + i * width, width);
        else
            act_forward_run(ACT_GELU_TANH, floats(args->x) + i * width, floats(args->y) + i * width, width);
    }
}

void KERNEL(act_forward)(Device *device, const ActForwardArgs *args)
{
    ON_THREADS(cpu_threads(device, 20.0 * (double)args->rows * (double)args->width),
               act_forward_rows(args, cpu_share(args->rows, 1)));
}

void KERNEL(act_backward)(Device *device, const ActBackwardArgs *args)
{
    int64_t width = args->width;
    PARALLEL_FOR(device, 30.0 * (double)args->rows * (double)width)
    for (int64_t i = 0; i < args->rows; i++) {
        const float *dy = floats(args->dy) + i * width;
        float *y = args->y ? floats(args->y) + i * width : NULL;
        if (args->kind == ACT_SWIGLU)
            swiglu_backward_row(floats(args->x) + 2 * i * width, floats(args->x) + (2 * i + 1) * width, dy,
                                floats(args->dx) + 2 * i * width, floats(args->dx) + (2 * i + 1) * width, y, width);
        else if (args->kind == ACT_GELU)
            act_backward_run(ACT_GELU, floats(args->x) + i * width, dy, floats(args->dx) + i * width, y, width);
        else
            act_backward_run(ACT_GELU_TANH, floats(args->x) + i * width, dy, floats(args->dx) + i * width, y, width);
    }
}
