/* attention.h -- what the attention kernels share: rows and where they are, tiles in shared memory, small products of them. Internal.
 *
 * Rows:  a "row" is one (query, head) pair. The query heads that share a key head are interleaved, row = query * group + head in group, so a tile
 *        of keys is fetched once for all of them, and a decode step of one query still has `group` rows. Row r sees the keys up to
 *        past + r / group.
 * Blocks: of the grid (row or key blocks * sequences, key heads). A sequence shorter than `longest` leaves some blocks without work; they end at once.
 * Plain products: 256 threads stand as 16 by 16; thread (ty, tx) owns a few neighbouring rows of the result and every 16th column, or every 16th
 *        group of WIDE columns. Tiles of floats (rows, DIM + 4): rows that neighbouring threads read fall on different banks. Each sum runs in
 *        order of its index. */
#ifndef KERNELS_CUDA_ATTENTION_H
#define KERNELS_CUDA_ATTENTION_H

#include "kernels/cuda/cuda.h"

static constexpr int HEAD_DIM_MAX = 256, PLAIN_THREADS = 256, PLAIN_SIDE = 16;
static const float LOG2_E = 1.44269504088896340736f, LN_2 = 0.69314718055994530942f;

/* A few query rows against a cache (attention_decode.cu). False: these shapes are not its business. */
bool attention_decode(Device *device, const AttentionForwardArgs *args);

/* Kernels that need more than 48 KiB of shared memory say so; harmless to say again. */
template <class Kernel> static inline void allow_shared(Kernel kernel, size_t bytes)
{
    if (bytes > (48 << 10))
        CUDA(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)bytes));
}

/* --- Where things are --- */

/* One sequence and key head. */
template <class T> struct Attended {
    const T *q;     /* first query row of the group */
    const T *k, *v; /* (keys) rows, `ld` apart */
    int64_t ld;
    int64_t start;           /* its first token of the batch */
    int queries, past, keys; /* keys = past + queries */
};

/* Of the batch itself: Args are those of forward or backward. */
template <class T, class Args> __device__ static inline Attended<T> attended_of(const Args &args, int s, int kv_head)
{
    const int64_t dim = args.head_dim;
    Attended<T> it;
    it.start = args.start[s];
    it.queries = args.start[s + 1] - (int)it.start;
    KERNEL_REQUIRE(it.queries >= 0 && it.queries <= args.longest);
    it.ld = (args.heads + 2 * args.kv_heads) * dim;
    const T *tokens = (const T *)args.qkv + it.start * it.ld;
    it.q = tokens + kv_head * (args.heads / args.kv_heads) * dim;
    it.k = tokens + (args.heads + kv_head) * dim;
    it.v = it.k + args.kv_heads * dim;
    it.past = 0;
    it.keys = it.queries;
    return it;
}

/* Of the cache, where there is one. */
template <class T>
__device__ static inline Attended<T> attended_with_past(const AttentionForwardArgs &args, int s, int kv_head)
{
    Attended<T> it = attended_of<T>(args, s, kv_head);
    if (!args.kv.k)
        return it;
    const int64_t slot = args.kv.slot[s], at = (slot * args.kv_heads + kv_head) * args.kv.capacity * args.head_dim;
    it.past = args.kv.past[s];
    it.keys = it.past + it.queries;
    KERNEL_REQUIRE(slot >= 0 && slot < args.kv.slots && it.past >= 0 && it.keys <= args.kv.capacity);
    it.k = (const T *)args.kv.k + at;
    it.v = (const T *)args.kv.v + at;
    it.ld = args.head_dim;
    return it;
}

/* Where row r of a group lies in an array whose tokens are `stride` apart. */
__device__ static inline int64_t row_at(int row, int group, int64_t stride, int64_t dim)
{
    return row / group * stride + row % group * dim;
}

/* --- Shared memory --- */

template <int N> struct alignas(4 * N) Few {
    float at[N];
};
template <int N> __device__ static inline Few<N> shared_load(const float *at)
{
    COUNT_SHARED(at, 4 * N, false);
    return *reinterpret_cast<const Few<N> *>(at);
}
template <int N> __device__ static inline void shared_store(float *at, Few<N> values)
{
    COUNT_SHARED(at, 4 * N, true);
    *reinterpret_cast<Few<N> *>(at) = values;
}

/* tile (ROWS, DIM + 4) = the `count` rows that row_of(row) points at, zeros behind them and beyond `dim`. */
template <int ROWS, int DIM, bool PACKED, class T, class RowOf>
__device__ static inline void tile_fill(float *tile, int count, int dim, float scale, RowOf row_of)
{
    if (PACKED) {
        constexpr int EACH = Pack<T>::COUNT, PACKS = DIM / EACH;
        for (int i = (int)threadIdx.x; i < ROWS * PACKS; i += PLAIN_THREADS) {
            const int row = i / PACKS, d = i % PACKS * EACH;
            Pack<T> pack = {};
            if (row < count && d < dim)
                pack = load_pack<T>(row_of(row) + d);
#pragma unroll
            for (int j = 0; j < EACH; j += 4) {
                Few<4> four;
#pragma unroll
                for (int l = 0; l < 4; l++)
                    four.at[l] = widen(pack.at[j + l]) * scale;
                shared_store(tile + row * (DIM + 4) + d + j, four);
            }
        }
    } else {
        for (int i = (int)threadIdx.x; i < ROWS * DIM; i += PLAIN_THREADS) {
            const int row = i / DIM, d = i % DIM;
            Few<1> one = {{0.0f}};
            if (row < count && d < dim)
                one.at[0] = load_one<T>(row_of(row) + d) * scale;
            shared_store(tile + row * (DIM + 4) + d, one);
        }
    }
}

/* --- Plain products --- */

__device__ static inline int plain_tx(void)
{
    return (int)threadIdx.x % PLAIN_SIDE;
}
__device__ static inline int plain_ty(void)
{
    return (int)threadIdx.x / PLAIN_SIDE;
}

/* sum[i][j] = a[ty * M + i] . b[tx + 16 j], both (.., DIM + 4). */
template <int M, int N, int DIM>
__device__ static inline void plain_dots(const float *a, const float *b, float (&sum)[M][N])
{
    const int tx = plain_tx(), ty = plain_ty();
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            sum[i][j] = 0.0f;
#pragma unroll 1
    for (int d = 0; d < DIM; d += 4) {
        Few<4> left[M];
#pragma unroll
        for (int i = 0; i < M; i++)
            left[i] = shared_load<4>(a + (ty * M + i) * (DIM + 4) + d);
#pragma unroll
        for (int j = 0; j < N; j++) {
            Few<4> right = shared_load<4>(b + (tx + PLAIN_SIDE * j) * (DIM + 4) + d);
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int l = 0; l < 4; l++)
                    sum[i][j] += left[i].at[l] * right.at[l];
        }
    }
}

/* Columns of a thread in rows of DIM: WIDE neighbours, every 16 * WIDE, COUNT in all. */
template <int DIM> struct Columns {
    static constexpr int WIDE = DIM >= 64 ? 4 : DIM / PLAIN_SIDE, COUNT = DIM / PLAIN_SIDE;
    static_assert(DIM % PLAIN_SIDE == 0 && COUNT % WIDE == 0, "columns of a thread");
    static __device__ inline int first(int c)
    {
        return plain_tx() * WIDE + c / WIDE * WIDE * PLAIN_SIDE;
    }
};

/* Sums of M rows by COUNT columns: += weight[i] * row of b. */
template <int M, int DIM>
__device__ static inline void plain_add_row(float (&sum)[M][Columns<DIM>::COUNT], const float (&weight)[M],
                                            const float *b)
{
    typedef Columns<DIM> C;
#pragma unroll
    for (int c = 0; c < C::COUNT; c += C::WIDE) {
        Few<C::WIDE> right = shared_load<C::WIDE>(b + C::first(c));
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int l = 0; l < C::WIDE; l++)
                sum[i][c + l] += weight[i] * right.at[l];
    }
}

/* sum[i] += sum over k < K of p[ty * M + i][k] b[k]; p (.., LD), b (K, DIM + 4). */
template <int M, int K, int DIM, int LD>
__device__ static inline void plain_gather(float (&sum)[M][Columns<DIM>::COUNT], const float *p, const float *b)
{
    for (int k = 0; k < K; k += 4) {
        Few<4> four[M];
#pragma unroll
        for (int i = 0; i < M; i++)
            four[i] = shared_load<4>(p + (plain_ty() * M + i) * LD + k);
#pragma unroll
        for (int l = 0; l < 4; l++) {
            float weight[M];
#pragma unroll
            for (int i = 0; i < M; i++)
                weight[i] = four[i].at[l];
            plain_add_row<M, DIM>(sum, weight, b + (k + l) * (DIM + 4));
        }
    }
}

/* sum[i] += sum over k < K of p[k][ty * M + i] b[k]. */
template <int M, int K, int DIM, int LD>
__device__ static inline void plain_gather_across(float (&sum)[M][Columns<DIM>::COUNT], const float *p, const float *b)
{
#pragma unroll 2
    for (int k = 0; k < K; k++) {
        Few<M> few = shared_load<M>(p + k * LD + plain_ty() * M);
        plain_add_row<M, DIM>(sum, few.at, b + k * (DIM + 4));
    }
}

/* A thread's columns of one row, times `factor`, to memory. */
template <int DIM, bool PACKED, class T>
__device__ static inline void plain_store(T *to, const float (&row)[Columns<DIM>::COUNT], float factor, int dim)
{
    typedef Columns<DIM> C;
#pragma unroll
    for (int c = 0; c < C::COUNT; c += C::WIDE) {
        const int first = C::first(c);
        if (PACKED && C::WIDE == Pack<T>::COUNT) {
            Pack<T> pack = {};
#pragma unroll
            for (int l = 0; l < C::WIDE; l++)
                pack.at[l] = narrow<T>(row[c + l] * factor);
            if (first < dim)
                store_pack<T>(to + first, pack);
        } else {
#pragma unroll
            for (int l = 0; l < C::WIDE; l++)
                if (first + l < dim)
                    store_one<T>(to + first + l, row[c + l] * factor);
        }
    }
}

#endif
