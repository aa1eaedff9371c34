/* attention.cu -- varlen causal attention with grouped queries, forward, with or without a key-value cache.
 *
 * Memory is linear in tokens: a block holds a tile of rows and walks over tiles of keys, softmax is kept as a running maximum and sum (Milakov &
 * Gimelshein 2018; FlashAttention-2, Dao 2023). With a cache the new keys and values are appended first and everything is read from there.
 * Blocks of late rows see most keys: they have the lowest indices, so that they start first. */
#include "kernels/cuda/attention.h"

/* --- New keys and values into the cache --- */

template <class T, bool PACKED> __global__ static void __launch_bounds__(256) append(AttentionForwardArgs args)
{
    const int s = (int)blockIdx.x;
    const int64_t dim = args.head_dim, stride = (args.heads + 2 * args.kv_heads) * dim, width = args.kv_heads * dim;
    const int64_t first = args.start[s], count = args.start[s + 1] - first, slot = args.kv.slot[s],
                  past = args.kv.past[s];
    KERNEL_REQUIRE(slot >= 0 && slot < args.kv.slots && past >= 0 && past + count <= args.kv.capacity);
    const int64_t each = PACKED ? Pack<T>::COUNT : 1, steps = width / each;
    for (int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; i < count * steps;
         i += (int64_t)gridDim.y * blockDim.x) {
        const int64_t token = i / steps, column = i % steps * each;
        const T *k = (const T *)args.qkv + (first + token) * stride + args.heads * dim + column;
        const int64_t to =
            ((slot * args.kv_heads + column / dim) * args.kv.capacity + past + token) * dim + column % dim;
        if (PACKED) {
            store_pack<T>((T *)args.kv.k + to, load_pack<T>(k));
            store_pack<T>((T *)args.kv.v + to, load_pack<T>(k + width));
        } else {
            store_one<T>((T *)args.kv.k + to, load_one<T>(k));
            store_one<T>((T *)args.kv.v + to, load_one<T>(k + width));
        }
    }
}

template <class T> static void append_run(Cuda *cuda, const AttentionForwardArgs *args)
{
    const bool packed = packs_fit((const T *)args->qkv, args->head_dim) &&
                        packs_fit((const T *)args->kv.k, args->head_dim) &&
                        packs_fit((const T *)args->kv.v, args->head_dim);
    const int64_t steps = args->longest * args->kv_heads * args->head_dim / (packed ? Pack<T>::COUNT : 1);
    const int64_t parts = ceil_div(steps, 1024);
    const dim3 grid((unsigned)args->sequences, (unsigned)(parts < 1024 ? parts : 1024));
    if (packed)
        CUDA_LAUNCH(cuda, (append<T, true>), grid, 256, 0, *args);
    else
        CUDA_LAUNCH(cuda, (append<T, false>), grid, 256, 0, *args);
}

/* --- Plain: F32, and widths that do not fit 16-byte packs --- */

template <int DIM> struct Plain {
    /* P's rows are apart so that the two rows a warp writes at once fall on different banks. */
    static constexpr int ROWS = 64, KEYS = DIM <= 64 ? 64 : 32, M = ROWS / PLAIN_SIDE, N = KEYS / PLAIN_SIDE,
                         P_LD = KEYS + 4;
    static constexpr size_t BYTES = sizeof(float) * ((size_t)(ROWS + 2 * KEYS) * (DIM + 4) + (size_t)ROWS * P_LD);
};

template <class T, int DIM, bool PACKED>
__global__ static void __launch_bounds__(PLAIN_THREADS) attend_plain(AttentionForwardArgs args, int row_blocks)
{
    typedef Plain<DIM> P;
    constexpr int COLUMNS = Columns<DIM>::COUNT;
    DYN_SHARED(float, shared);
    float *query = shared, *key = query + P::ROWS * (DIM + 4), *value = key + P::KEYS * (DIM + 4);
    float *weights = value + P::KEYS * (DIM + 4);
    const int s = (int)(blockIdx.x / (unsigned)row_blocks), kv_head = (int)blockIdx.y, tx = plain_tx(), ty = plain_ty();
    const int block = row_blocks - 1 - (int)(blockIdx.x % (unsigned)row_blocks);
    const int dim = (int)args.head_dim, group = (int)(args.heads / args.kv_heads);
    const Attended<T> it = attended_with_past<T>(args, s, kv_head);
    const int first = block * P::ROWS, rows = min(P::ROWS, it.queries * group - first);
    if (rows <= 0)
        return;
    const int64_t stride = (args.heads + 2 * args.kv_heads) * args.head_dim;
    tile_fill<P::ROWS, DIM, PACKED, T>(query, rows, dim, args.scale * LOG2_E,
                                       [&](int row) { return it.q + row_at(first + row, group, stride, dim); });
    int limit[P::M];
    float largest[P::M], sum[P::M], gathered[P::M][COLUMNS];
#pragma unroll
    for (int i = 0; i < P::M; i++) {
        limit[i] = it.past + min(first + ty * P::M + i, first + rows - 1) / group;
        largest[i] = -INFINITY;
        sum[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            gathered[i][c] = 0.0f;
    }
    const int keys_end = it.past + (first + rows - 1) / group + 1;
    for (int from = 0; from < keys_end; from += P::KEYS) {
        __syncthreads();
        const int count = min(P::KEYS, keys_end - from);
        tile_fill<P::KEYS, DIM, PACKED, T>(key, count, dim, 1.0f, [&](int row) { return it.k + (from + row) * it.ld; });
        tile_fill<P::KEYS, DIM, PACKED, T>(value, count, dim, 1.0f,
                                           [&](int row) { return it.v + (from + row) * it.ld; });
        __syncthreads();
        float score[P::M][P::N];
        plain_dots<P::M, P::N, DIM>(query, key, score);
#pragma unroll
        for (int i = 0; i < P::M; i++) {
            float most = largest[i];
#pragma unroll
            for (int j = 0; j < P::N; j++) {
                if (from + tx + PLAIN_SIDE * j > limit[i])
                    score[i][j] = -INFINITY;
                most = fmaxf(most, score[i][j]);
            }
            for (int distance = PLAIN_SIDE / 2; distance > 0; distance /= 2)
                most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, distance));
            /* Key 0 is seen by all rows, so `most` is finite. */
            const float factor = exp2f(largest[i] - most);
            largest[i] = most;
            sum[i] *= factor;
#pragma unroll
            for (int j = 0; j < P::N; j++) {
                Few<1> p = {{exp2f(score[i][j] - most)}};
                sum[i] += p.at[0];
                shared_store(weights + (ty * P::M + i) * P::P_LD + tx + PLAIN_SIDE * j, p);
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                gathered[i][c] *= factor;
        }
        __syncwarp(); /* a row of weights is written and read by one half of a warp */
        plain_gather<P::M, P::KEYS, DIM, P::P_LD>(gathered, weights, value);
    }
#pragma unroll
    for (int i = 0; i < P::M; i++) {
        for (int distance = PLAIN_SIDE / 2; distance > 0; distance /= 2)
            sum[i] += __shfl_xor_sync(FULL_WARP, sum[i], distance);
        const int row = first + ty * P::M + i;
        if (row >= first + rows)
            continue;
        const int64_t place = (it.start + row / group) * args.heads + kv_head * group + row % group;
        plain_store<DIM, PACKED>((T *)args.out + place * dim, gathered[i], 1.0f / sum[i], dim);
        if (args.lse && tx == 0)
            store_one<float>(args.lse + place, (largest[i] + log2f(sum[i])) * LN_2);
    }
}

template <class T, int DIM, bool PACKED> static void plain_launch(Cuda *cuda, const AttentionForwardArgs *args)
{
    typedef Plain<DIM> P;
    const int64_t blocks = ceil_div(args->longest * (args->heads / args->kv_heads), P::ROWS);
    const dim3 grid((unsigned)(blocks * args->sequences), (unsigned)args->kv_heads);
    allow_shared(attend_plain<T, DIM, PACKED>, P::BYTES);
    CUDA_LAUNCH(cuda, (attend_plain<T, DIM, PACKED>), grid, PLAIN_THREADS, P::BYTES, *args, (int)blocks);
}

template <class T, bool PACKED> static void plain_run(Cuda *cuda, const AttentionForwardArgs *args)
{
    if (args->head_dim <= 32)
        plain_launch<T, 32, PACKED>(cuda, args);
    else if (args->head_dim <= 64)
        plain_launch<T, 64, PACKED>(cuda, args);
    else if (args->head_dim <= 128)
        plain_launch<T, 128, PACKED>(cuda, args);
    else
        plain_launch<T, 256, PACKED>(cuda, args);
}

template <class T> static bool packs_fit_all(const AttentionForwardArgs *args)
{
    const int64_t dim = args->head_dim;
    return packs_fit((const T *)args->qkv, dim) && packs_fit((const T *)args->out, dim) &&
           (!args->kv.k || (packs_fit((const T *)args->kv.k, dim) && packs_fit((const T *)args->kv.v, dim)));
}

void cuda_attention_forward(Device *device, const AttentionForwardArgs *args)
{
    REQUIRE(args->head_dim >= 1 && args->head_dim <= HEAD_DIM_MAX && args->heads % args->kv_heads == 0 &&
                args->scale > 0.0f && args->kv_heads <= 65535,
            "head_dim %lld, heads %lld, kv_heads %lld, scale %g", (long long)args->head_dim, (long long)args->heads,
            (long long)args->kv_heads, (double)args->scale);
    if (args->tokens == 0 || attention_decode(device, args) || !device->backend->computes)
        return;
    Cuda *cuda = cuda_of(device);
#define RUN(T)                                                                                                         \
    do {                                                                                                               \
        if (args->kv.k)                                                                                                \
            append_run<T>(cuda, args);                                                                                 \
        if (packs_fit_all<T>(args))                                                                                    \
            plain_run<T, true>(cuda, args);                                                                            \
        else                                                                                                           \
            plain_run<T, false>(cuda, args);                                                                           \
    } while (0)
    BY_DTYPE(args->dtype, RUN);
#undef RUN
}
