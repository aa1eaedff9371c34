/* attention_backward.cu -- gradient of causal attention: probabilities are made again from the saved log-sum-exp (FlashAttention-2, Dao 2023), so
 * nothing of size tokens x tokens is ever kept.
 *
 *        P = exp(scale q.k - lse)      dV = P' dO      dP = dO V'      dS = P (dP - rowsum(dO O))
 *        dQ = scale dS K               dK = scale dS' Q
 *
 * Two kernels: a block of keys walks over the rows that see it and sums dK and dV, a block of rows walks over the keys it sees and sums dQ. P and dP
 * are made in both, seven products instead of five; in return nothing is added from two blocks, and every sum has one order. */
#include "kernels/cuda/attention.h"

/* --- delta[row] = sum of dout * out --- */

static constexpr int DELTA_LANES = 8, DELTA_THREADS = 256;

template <class T, bool PACKED>
__global__ static void __launch_bounds__(DELTA_THREADS)
    rows_delta(const T *out, const T *dout, float *delta, int64_t rows, int dim)
{
    const int64_t row = ((int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x) / DELTA_LANES;
    const int lane = (int)threadIdx.x % DELTA_LANES;
    float sum = 0.0f;
    if (row < rows) {
        const T *a = out + row * dim, *b = dout + row * dim;
        if (PACKED) {
            for (int d = lane * Pack<T>::COUNT; d < dim; d += DELTA_LANES * Pack<T>::COUNT) {
                Pack<T> left = load_pack<T>(a + d), right = load_pack<T>(b + d);
#pragma unroll
                for (int i = 0; i < Pack<T>::COUNT; i++)
                    sum += widen(left.at[i]) * widen(right.at[i]);
            }
        } else {
            for (int d = lane; d < dim; d += DELTA_LANES)
                sum += load_one<T>(a + d) * load_one<T>(b + d);
        }
    }
    for (int distance = DELTA_LANES / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(FULL_WARP, sum, distance);
    if (row < rows && lane == 0)
        store_one<float>(delta + row, sum);
}

/* --- Plain: F32, and widths that do not fit 16-byte packs --- */

/* lse / ln 2 and delta of a thread's rows; rows that do not exist get a probability of 0. */
template <int M>
__device__ static inline void plain_statistics(const AttentionBackwardArgs &args, const float *delta, int64_t base,
                                               int first, int count, int group, float (&lse)[M], float (&shift)[M])
{
#pragma unroll
    for (int i = 0; i < M; i++) {
        const int row = first + plain_ty() * M + i;
        const bool exists = plain_ty() * M + i < count;
        const int64_t at = base + row_at(row, group, args.heads, 1);
        lse[i] = exists ? load_one<float>(args.lse + at) * LOG2_E : INFINITY;
        shift[i] = exists ? load_one<float>(delta + at) : 0.0f;
    }
}

template <int DIM> struct PlainKeys {
    static constexpr int ROWS = 32, KEYS = DIM <= 64 ? 64 : 32, M = ROWS / PLAIN_SIDE, N = KEYS / PLAIN_SIDE,
                         P_LD = KEYS + PLAIN_SIDE / M;
    static constexpr size_t BYTES = sizeof(float) * ((size_t)2 * (ROWS + KEYS) * (DIM + 4) + (size_t)2 * ROWS * P_LD);
};

template <class T, int DIM, bool PACKED>
__global__ static void __launch_bounds__(PLAIN_THREADS, 1)
    keys_plain(AttentionBackwardArgs args, const float *delta, int key_blocks)
{
    typedef PlainKeys<DIM> P;
    constexpr int COLUMNS = Columns<DIM>::COUNT, TILE = DIM + 4;
    DYN_SHARED(float, shared);
    float *key = shared, *value = key + P::KEYS * TILE, *query = value + P::KEYS * TILE, *dout = query + P::ROWS * TILE;
    float *p = dout + P::ROWS * TILE, *ds = p + P::ROWS * P::P_LD;
    const int s = (int)(blockIdx.x / (unsigned)key_blocks), kv_head = (int)blockIdx.y, tx = plain_tx(), ty = plain_ty();
    const int dim = (int)args.head_dim, group = (int)(args.heads / args.kv_heads);
    const Attended<T> it = attended_of<T>(args, s, kv_head);
    const int from = (int)(blockIdx.x % (unsigned)key_blocks) * P::KEYS, keys = min(P::KEYS, it.keys - from);
    if (keys <= 0)
        return;
    const int64_t base = it.start * args.heads + kv_head * group;
    tile_fill<P::KEYS, DIM, PACKED, T>(key, keys, dim, 1.0f, [&](int row) { return it.k + (from + row) * it.ld; });
    tile_fill<P::KEYS, DIM, PACKED, T>(value, keys, dim, 1.0f, [&](int row) { return it.v + (from + row) * it.ld; });
    float dkey[P::N][COLUMNS], dvalue[P::N][COLUMNS];
#pragma unroll
    for (int i = 0; i < P::N; i++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            dkey[i][c] = dvalue[i][c] = 0.0f;
    /* The first tile may begin before the first row that sees the keys: such rows are masked. */
    const int rows_all = it.queries * group;
    for (int first = from * group / P::ROWS * P::ROWS; first < rows_all; first += P::ROWS) {
        const int rows = min(P::ROWS, rows_all - first);
        __syncthreads();
        tile_fill<P::ROWS, DIM, PACKED, T>(query, rows, dim, args.scale * LOG2_E,
                                           [&](int row) { return it.q + row_at(first + row, group, it.ld, dim); });
        tile_fill<P::ROWS, DIM, PACKED, T>(dout, rows, dim, 1.0f, [&](int row) {
            return (const T *)args.dout + base * dim + row_at(first + row, group, args.heads * dim, dim);
        });
        float lse[P::M], shift[P::M], score[P::M][P::N], slope[P::M][P::N];
        plain_statistics<P::M>(args, delta, base, first, rows, group, lse, shift);
        __syncthreads();
        plain_dots<P::M, P::N, DIM>(query, key, score);
        plain_dots<P::M, P::N, DIM>(dout, value, slope);
#pragma unroll
        for (int i = 0; i < P::M; i++) {
            const int limit = (first + ty * P::M + i) / group;
#pragma unroll
            for (int j = 0; j < P::N; j++) {
                const int column = tx + PLAIN_SIDE * j, at = (ty * P::M + i) * P::P_LD + column;
                Few<1> weight = {{from + column > limit ? 0.0f : exp2f(score[i][j] - lse[i])}};
                Few<1> gradient = {{weight.at[0] * (slope[i][j] - shift[i])}};
                shared_store(p + at, weight);
                shared_store(ds + at, gradient);
            }
        }
        __syncthreads();
        plain_gather_across<P::N, P::ROWS, DIM, P::P_LD>(dvalue, p, dout);
        plain_gather_across<P::N, P::ROWS, DIM, P::P_LD>(dkey, ds, query);
    }
    T *to = (T *)args.dqkv + it.start * it.ld + (args.heads + kv_head) * dim;
#pragma unroll
    for (int i = 0; i < P::N; i++) {
        const int row = ty * P::N + i;
        if (row >= keys)
            continue;
        T *dk = to + (from + row) * it.ld;
        plain_store<DIM, PACKED>(dk, dkey[i], LN_2, dim); /* the queries were scaled, and in units of log 2 */
        plain_store<DIM, PACKED>(dk + args.kv_heads * dim, dvalue[i], 1.0f, dim);
    }
}

template <int DIM> struct PlainRows {
    static constexpr int ROWS = DIM <= 64 ? 64 : 32, KEYS = 32, M = ROWS / PLAIN_SIDE, N = KEYS / PLAIN_SIDE,
                         P_LD = KEYS + PLAIN_SIDE / M;
    static constexpr size_t BYTES = sizeof(float) * ((size_t)2 * (ROWS + KEYS) * (DIM + 4) + (size_t)ROWS * P_LD);
};

template <class T, int DIM, bool PACKED>
__global__ static void __launch_bounds__(PLAIN_THREADS, 1)
    rows_plain(AttentionBackwardArgs args, const float *delta, int row_blocks)
{
    typedef PlainRows<DIM> P;
    constexpr int COLUMNS = Columns<DIM>::COUNT, TILE = DIM + 4;
    DYN_SHARED(float, shared);
    float *query = shared, *dout = query + P::ROWS * TILE, *key = dout + P::ROWS * TILE, *value = key + P::KEYS * TILE;
    float *ds = value + P::KEYS * TILE;
    const int s = (int)(blockIdx.x / (unsigned)row_blocks), kv_head = (int)blockIdx.y, tx = plain_tx(), ty = plain_ty();
    const int block = row_blocks - 1 - (int)(blockIdx.x % (unsigned)row_blocks);
    const int dim = (int)args.head_dim, group = (int)(args.heads / args.kv_heads);
    const Attended<T> it = attended_of<T>(args, s, kv_head);
    const int first = block * P::ROWS, rows = min(P::ROWS, it.queries * group - first);
    if (rows <= 0)
        return;
    const int64_t base = it.start * args.heads + kv_head * group;
    tile_fill<P::ROWS, DIM, PACKED, T>(query, rows, dim, args.scale * LOG2_E,
                                       [&](int row) { return it.q + row_at(first + row, group, it.ld, dim); });
    tile_fill<P::ROWS, DIM, PACKED, T>(dout, rows, dim, 1.0f, [&](int row) {
        return (const T *)args.dout + base * dim + row_at(first + row, group, args.heads * dim, dim);
    });
    float lse[P::M], shift[P::M], dquery[P::M][COLUMNS];
    plain_statistics<P::M>(args, delta, base, first, rows, group, lse, shift);
#pragma unroll
    for (int i = 0; i < P::M; i++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            dquery[i][c] = 0.0f;
    const int keys_end = (first + rows - 1) / group + 1;
    for (int from = 0; from < keys_end; from += P::KEYS) {
        const int keys = min(P::KEYS, keys_end - from);
        __syncthreads();
        tile_fill<P::KEYS, DIM, PACKED, T>(key, keys, dim, 1.0f, [&](int row) { return it.k + (from + row) * it.ld; });
        tile_fill<P::KEYS, DIM, PACKED, T>(value, keys, dim, 1.0f,
                                           [&](int row) { return it.v + (from + row) * it.ld; });
        __syncthreads();
        float score[P::M][P::N], slope[P::M][P::N];
        plain_dots<P::M, P::N, DIM>(query, key, score);
        plain_dots<P::M, P::N, DIM>(dout, value, slope);
#pragma unroll
        for (int i = 0; i < P::M; i++) {
            const int limit = (first + ty * P::M + i) / group;
#pragma unroll
            for (int j = 0; j < P::N; j++) {
                const int column = tx + PLAIN_SIDE * j;
                const float weight = from + column > limit ? 0.0f : exp2f(score[i][j] - lse[i]);
                Few<1> gradient = {{weight * (slope[i][j] - shift[i])}};
                shared_store(ds + (ty * P::M + i) * P::P_LD + column, gradient);
            }
        }
        __syncwarp(); /* a row of dS is written and read by one half of a warp */
        plain_gather<P::M, P::KEYS, DIM, P::P_LD>(dquery, ds, key);
    }
#pragma unroll
    for (int i = 0; i < P::M; i++) {
        const int row = ty * P::M + i;
        if (row >= rows)
            continue;
        T *to = (T *)args.dqkv + it.start * it.ld + kv_head * group * dim + row_at(first + row, group, it.ld, dim);
        plain_store<DIM, PACKED>(to, dquery[i], args.scale, dim);
    }
}

template <class T, int DIM, bool PACKED>
static void plain_launch(Cuda *cuda, const AttentionBackwardArgs *args, const float *delta)
{
    typedef PlainKeys<DIM> K;
    typedef PlainRows<DIM> R;
    const int64_t key_blocks = ceil_div(args->longest, K::KEYS);
    const int64_t row_blocks = ceil_div(args->longest * (args->heads / args->kv_heads), R::ROWS);
    const dim3 keys_grid((unsigned)(key_blocks * args->sequences), (unsigned)args->kv_heads);
    const dim3 rows_grid((unsigned)(row_blocks * args->sequences), (unsigned)args->kv_heads);
    allow_shared(keys_plain<T, DIM, PACKED>, K::BYTES);
    allow_shared(rows_plain<T, DIM, PACKED>, R::BYTES);
    CUDA_LAUNCH(cuda, (keys_plain<T, DIM, PACKED>), keys_grid, PLAIN_THREADS, K::BYTES, *args, delta, (int)key_blocks);
    CUDA_LAUNCH(cuda, (rows_plain<T, DIM, PACKED>), rows_grid, PLAIN_THREADS, R::BYTES, *args, delta, (int)row_blocks);
}

template <class T, bool PACKED> static void plain_run(Cuda *cuda, const AttentionBackwardArgs *args, const float *delta)
{
    if (args->head_dim <= 32)
        plain_launch<T, 32, PACKED>(cuda, args, delta);
    else if (args->head_dim <= 64)
        plain_launch<T, 64, PACKED>(cuda, args, delta);
    else if (args->head_dim <= 128)
        plain_launch<T, 128, PACKED>(cuda, args, delta);
    else
        plain_launch<T, 256, PACKED>(cuda, args, delta);
}

template <class T, bool PACKED> static void backward_run(Cuda *cuda, const AttentionBackwardArgs *args, float *delta)
{
    const int64_t rows = args->tokens * args->heads;
    const unsigned blocks = (unsigned)ceil_div(rows * DELTA_LANES, DELTA_THREADS);
    CUDA_LAUNCH(cuda, (rows_delta<T, PACKED>), blocks, DELTA_THREADS, 0, (const T *)args->out, (const T *)args->dout,
                delta, rows, (int)args->head_dim);
    plain_run<T, PACKED>(cuda, args, delta);
}

template <class T> static bool packs_fit_all(const AttentionBackwardArgs *args)
{
    const int64_t dim = args->head_dim;
    return packs_fit((const T *)args->qkv, dim) && packs_fit((const T *)args->out, dim) &&
           packs_fit((const T *)args->dout, dim) && packs_fit((const T *)args->dqkv, dim);
}

void cuda_attention_backward(Device *device, const AttentionBackwardArgs *args)
{
    REQUIRE(args->head_dim >= 1 && args->head_dim <= HEAD_DIM_MAX && args->heads % args->kv_heads == 0 &&
                args->kv_heads <= 65535,
            "head_dim %lld, heads %lld, kv_heads %lld", (long long)args->head_dim, (long long)args->heads,
            (long long)args->kv_heads);
    /* (tokens, heads) */
    float *delta = (float *)arena_alloc(&device->scratch, sizeof(float) * (size_t)(args->tokens * args->heads));
    if (!device->backend->computes || args->tokens == 0)
        return;
    Cuda *cuda = cuda_of(device);
#define RUN(T)                                                                                                         \
    do {                                                                                                               \
        if (packs_fit_all<T>(args))                                                                                    \
            backward_run<T, true>(cuda, args, delta);                                                                  \
        else                                                                                                           \
            backward_run<T, false>(cuda, args, delta);                                                                 \
    } while (0)
    BY_DTYPE(args->dtype, RUN);
#undef RUN
}
