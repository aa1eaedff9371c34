/* attention.cu -- varlen causal attention with grouped queries, forward, with or without a key-value cache.
 *
 * Memory is linear in tokens: a block holds a tile of rows and walks over tiles of keys, softmax is kept as a running maximum and sum (Milakov &
 * Gimelshein 2018; FlashAttention-2, Dao 2023). With a cache the new keys and values are appended first and everything is read from there.
 * Blocks of late rows see most keys: they have the lowest indices, so that they start first. */
#include "kernels/cuda/attention_tensor.h"

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

template <int DIM> struct PlainTiles {
    /* P's rows are apart so that the two rows a warp writes at once fall on different banks. */
    static constexpr int ROWS = 64, KEYS = DIM <= 64 ? 64 : 32, M = ROWS / PLAIN_SIDE, N = KEYS / PLAIN_SIDE,
                         P_LD = KEYS + 4;
    static constexpr size_t BYTES = sizeof(float) * ((size_t)(ROWS + 2 * KEYS) * (DIM + 4) + (size_t)ROWS * P_LD);
};

template <class T, int DIM, bool PACKED>
__global__ static void __launch_bounds__(PLAIN_THREADS) attend_plain(AttentionForwardArgs args, int row_blocks)
{
    typedef PlainTiles<DIM> P;
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
        __syncthreads(); /* the tiles before are done with */
        const int count = min(P::KEYS, keys_end - from);
        tile_fill<P::KEYS, DIM, PACKED, T>(key, count, dim, 1.0f, [&](int row) { return it.k + (from + row) * it.ld; });
        tile_fill<P::KEYS, DIM, PACKED, T>(value, count, dim, 1.0f,
                                           [&](int row) { return it.v + (from + row) * it.ld; });
        __syncthreads(); /* these tiles are there */
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
    typedef PlainTiles<DIM> P;
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

/* --- BF16 on tensor cores --- */

/* 16 * M rows a warp, so that each fragment of keys or values serves M products: what bounds it otherwise is shared memory. */
template <int DIM> struct Tiles {
    static constexpr int M = DIM <= 128 ? 2 : 1, ROWS = 16 * M * TENSOR_WARPS, KEYS = DIM <= 80 ? 64 : 32, N = KEYS / 8,
                         LD = DIM + 8;
    static constexpr size_t BYTES = sizeof(bf16) * (size_t)(ROWS + 2 * KEYS) * LD;
};

/* Turns scores into weights about a running maximum of each row; masks where the tile ends behind `limit`. */
template <int M, int N, int COLUMNS>
__device__ static inline void softmax_tile(float (&score)[M][N][4], float (&largest)[M][2], float (&sum)[M][2],
                                           float (&gathered)[M][COLUMNS][4], const int (&limit)[M][2], int from,
                                           bool masked, float scale)
{
    const int column = from + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = largest[m][half];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (masked && column + n * 8 + i > limit[m][half])
                        score[m][n][2 * half + i] = -INFINITY;
                    most = fmaxf(most, score[m][n][2 * half + i]);
                }
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 1));
            most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, 2));
            /* Key 0 is seen by all rows, so `most` is finite. */
            const float factor = exp2_approx((largest[m][half] - most) * scale), shift = most * scale;
            largest[m][half] = most;
            float total = 0.0f;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    score[m][n][2 * half + i] = exp2_approx(score[m][n][2 * half + i] * scale - shift);
                    total += score[m][n][2 * half + i];
                }
            sum[m][half] = sum[m][half] * factor + total;
#pragma unroll
            for (int n = 0; n < COLUMNS; n++) {
                gathered[m][n][2 * half] *= factor;
                gathered[m][n][2 * half + 1] *= factor;
            }
        }
}

template <int DIM>
__global__ static void __launch_bounds__(TENSOR_THREADS, 1) attend_tensor(AttentionForwardArgs args, int row_blocks)
{
    typedef Tiles<DIM> P;
    DYN_SHARED(bf16, shared);
    bf16 *query = shared, *key = query + P::ROWS * P::LD, *value = key + P::KEYS * P::LD;
    const int s = (int)(blockIdx.x / (unsigned)row_blocks), kv_head = (int)blockIdx.y;
    const int block = row_blocks - 1 - (int)(blockIdx.x % (unsigned)row_blocks);
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, dim = (int)args.head_dim;
    const Divisor group((int)(args.heads / args.kv_heads));
    const Attended<bf16> it = attended_with_past<bf16>(args, s, kv_head);
    const int first = block * P::ROWS, rows = min(P::ROWS, it.queries * group.size - first);
    if (rows <= 0)
        return;
    const int64_t stride = (args.heads + 2 * args.kv_heads) * args.head_dim;
    const int keys_end = it.past + group.quotient(first + rows - 1) + 1;
    tensor_fill<P::ROWS, DIM>(query, rows, dim, [&](int row) { return it.q + group.at(first + row, stride, dim); });
    tensor_fill<P::KEYS, DIM>(key, keys_end, dim, [&](int row) { return it.k + row * it.ld; });
    cp_async_commit();

    const int own = warp * 16 * P::M, own_end = min(own + 16 * P::M, rows); /* the warp's rows of the tile */
    const float scale = args.scale * LOG2_E;
    int limit[P::M][2];
    float largest[P::M][2], sum[P::M][2], gathered[P::M][DIM / 8][4];
    sums_clear(gathered);
#pragma unroll
    for (int m = 0; m < P::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            limit[m][half] = it.past + group.quotient(first + min(own + m * 16 + half * 8 + lane / 4, rows - 1));
            largest[m][half] = -INFINITY;
            sum[m][half] = 0.0f;
        }
    const int seen_by_all = it.past + group.quotient(first + min(own, rows - 1));
    const int seen_by_any = own < rows ? it.past + group.quotient(first + own_end - 1) : -1;

    for (int from = 0; from < keys_end; from += P::KEYS) {
        const int count = keys_end - from;
        const bool useful = from <= seen_by_any;
        cp_async_wait<0>(); /* keys */
        __syncthreads();    /* they are there for all, and the values before are read */
        tensor_fill<P::KEYS, DIM>(value, count, dim, [&](int row) { return it.v + (from + row) * it.ld; });
        cp_async_commit();
        float score[P::M][P::N][4];
        if (useful)
            tensor_dots<P::M, P::N, DIM>(query + own * P::LD, key, score);
        cp_async_wait<0>(); /* values */
        __syncthreads();    /* they are there for all, and the keys are read */
        if (count > P::KEYS)
            tensor_fill<P::KEYS, DIM>(key, count - P::KEYS, dim,
                                      [&](int row) { return it.k + (from + P::KEYS + row) * it.ld; });
        cp_async_commit();
        if (useful) {
            softmax_tile(score, largest, sum, gathered, limit, from, from + P::KEYS - 1 > seen_by_all, scale);
            tensor_gather<P::M, P::N, DIM / 8, P::LD>(score, value, gathered);
        }
    }
    cp_async_wait<0>();
    if (own >= rows)
        return;
#pragma unroll
    for (int m = 0; m < P::M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            sum[m][half] += __shfl_xor_sync(FULL_WARP, sum[m][half], 1);
            sum[m][half] += __shfl_xor_sync(FULL_WARP, sum[m][half], 2);
            const int row = own + m * 16 + half * 8 + lane / 4;
            if (args.lse && lane % 4 == 0 && row < rows)
                store_one<float>(args.lse + it.start * args.heads + kv_head * group.size +
                                     group.at(first + row, args.heads, 1),
                                 largest[m][half] * args.scale + log2f(sum[m][half]) * LN_2);
        }
        rows_stage<DIM / 8, P::LD>(query + (own + m * 16) * P::LD, gathered[m], 1.0f / sum[m][0], 1.0f / sum[m][1]);
    }
    __syncwarp();
    bf16 *out = (bf16 *)args.out + (it.start * args.heads + kv_head * group.size) * dim;
    rows_unstage<16 * P::M, DIM, P::LD>(query + own * P::LD, own_end - own, dim, [&](int row) {
        return out + group.at(first + own + row, args.heads * dim, dim);
    });
}

template <int DIM> static void tensor_launch(Cuda *cuda, const AttentionForwardArgs *args)
{
    typedef Tiles<DIM> P;
    const int64_t blocks = ceil_div(args->longest * (args->heads / args->kv_heads), P::ROWS);
    const dim3 grid((unsigned)(blocks * args->sequences), (unsigned)args->kv_heads);
    allow_shared(attend_tensor<DIM>, P::BYTES);
    CUDA_LAUNCH(cuda, (attend_tensor<DIM>), grid, TENSOR_THREADS, P::BYTES, *args, (int)blocks);
}

static void tensor_run(Cuda *cuda, const AttentionForwardArgs *args)
{
    if (args->head_dim <= 32)
        tensor_launch<32>(cuda, args);
    else if (args->head_dim <= 64)
        tensor_launch<64>(cuda, args);
    else if (args->head_dim <= 80)
        tensor_launch<80>(cuda, args);
    else if (args->head_dim <= 96)
        tensor_launch<96>(cuda, args);
    else if (args->head_dim <= 128)
        tensor_launch<128>(cuda, args);
    else
        tensor_launch<256>(cuda, args);
}

/* Off 16 bytes, or widths that do not fit packs, take the plain way. */
template <class T, bool PACKED> static void forward_run(Cuda *cuda, const AttentionForwardArgs *args)
{
    if constexpr (PACKED && sizeof(T) == sizeof(bf16))
        tensor_run(cuda, args);
    else
        plain_run<T, PACKED>(cuda, args);
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
            forward_run<T, true>(cuda, args);                                                                          \
        else                                                                                                           \
            forward_run<T, false>(cuda, args);                                                                         \
    } while (0)
    BY_DTYPE(args->dtype, RUN);
#undef RUN
}
