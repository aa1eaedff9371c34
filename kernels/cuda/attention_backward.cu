/* attention_backward.cu -- gradient of causal attention: probabilities are made again from the saved log-sum-exp (FlashAttention-2, Dao 2023), so
 * nothing of size tokens x tokens is ever kept.
 *
 *        P = exp(scale q.k - lse)      dV = P' dO      dP = dO V'      dS = P (dP - rowsum(dO O))
 *        dQ = scale dS K               dK = scale dS' Q
 *
 * Two kernels: a block of keys walks over the rows that see it and sums dK and dV, a block of rows walks over the keys it sees and sums dQ. P and dP
 * are made in both, seven products instead of five; in return nothing is added from two blocks, and every sum has one order. */
#include "kernels/cuda/attention_tensor.h"

/* --- What is known of each row, in the order of rows: (kv_heads, tokens, group) --- */

typedef struct Statistics {
    float *lse;   /* / ln 2 */
    float *delta; /* sum of dout * out */
} Statistics;

static constexpr int LANES_PER_ROW = 8, STATISTICS_THREADS = 256;

template <class T, bool PACKED>
__global__ static void __launch_bounds__(STATISTICS_THREADS)
    rows_statistics(AttentionBackwardArgs args, Statistics statistics)
{
    const int64_t i = ((int64_t)blockIdx.x * STATISTICS_THREADS + threadIdx.x) / LANES_PER_ROW;
    const int lane = (int)threadIdx.x % LANES_PER_ROW, dim = (int)args.head_dim;
    const bool exists = i < args.tokens * args.heads;
    float sum = 0.0f;
    if (exists) {
        const T *a = (const T *)args.out + i * dim, *b = (const T *)args.dout + i * dim;
        if (PACKED) {
            constexpr int EACH = Pack<T>::COUNT;
            for (int d = lane * EACH; d < dim; d += LANES_PER_ROW * EACH) {
                const Pack<T> left = load_pack<T>(a + d), right = load_pack<T>(b + d);
#pragma unroll
                for (int j = 0; j < EACH; j++)
                    sum += widen(left.at[j]) * widen(right.at[j]);
            }
        } else {
            for (int d = lane; d < dim; d += LANES_PER_ROW)
                sum += load_one<T>(a + d) * load_one<T>(b + d);
        }
    }
    for (int distance = LANES_PER_ROW / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(FULL_WARP, sum, distance);
    if (exists && lane == 0) {
        const int64_t token = i / args.heads, head = i % args.heads, group = args.heads / args.kv_heads;
        const int64_t row = (head / group * args.tokens + token) * group + head % group;
        store_one<float>(statistics.lse + row, load_one<float>(args.lse + i) * LOG2_E);
        store_one<float>(statistics.delta + row, sum);
    }
}

/* Those of one sequence and key head. Rows that do not exist have a probability of 0. */
template <class T>
__device__ static inline Statistics statistics_of(const AttentionBackwardArgs &args, Statistics all,
                                                  const Attended<T> &it, int kv_head)
{
    const int64_t at = (kv_head * args.tokens + it.start) * (args.heads / args.kv_heads);
    return {all.lse + at, all.delta + at};
}
__device__ static inline float lse_of(Statistics it, int row, bool exists)
{
    return exists ? load_one<float>(it.lse + row) : INFINITY;
}
__device__ static inline float delta_of(Statistics it, int row, bool exists)
{
    return exists ? load_one<float>(it.delta + row) : 0.0f;
}

/* --- Plain: F32, and widths that do not fit 16-byte packs --- */

template <int M>
__device__ static inline void plain_statistics(Statistics it, int first, int count, float (&lse)[M], float (&delta)[M])
{
#pragma unroll
    for (int i = 0; i < M; i++) {
        const int row = plain_ty() * M + i;
        lse[i] = lse_of(it, first + row, row < count);
        delta[i] = delta_of(it, first + row, row < count);
    }
}

template <int DIM> struct PlainKeys {
    static constexpr int ROWS = 32, KEYS = DIM <= 64 ? 64 : 32, M = ROWS / PLAIN_SIDE, N = KEYS / PLAIN_SIDE,
                         P_LD = KEYS + PLAIN_SIDE / M;
    static constexpr size_t BYTES = sizeof(float) * ((size_t)2 * (ROWS + KEYS) * (DIM + 4) + (size_t)2 * ROWS * P_LD);
};

template <class T, int DIM, bool PACKED>
__global__ static void __launch_bounds__(PLAIN_THREADS, DIM <= 128 ? 2 : 1)
    keys_plain(AttentionBackwardArgs args, Statistics all, int key_blocks)
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
    const int rows_all = it.queries * group;
    for (int first = from * group; first < rows_all; first += P::ROWS) { /* no row before sees the keys */
        const int rows = min(P::ROWS, rows_all - first);
        __syncthreads(); /* the rows before are done with */
        tile_fill<P::ROWS, DIM, PACKED, T>(query, rows, dim, args.scale * LOG2_E,
                                           [&](int row) { return it.q + row_at(first + row, group, it.ld, dim); });
        tile_fill<P::ROWS, DIM, PACKED, T>(dout, rows, dim, 1.0f, [&](int row) {
            return (const T *)args.dout + base * dim + row_at(first + row, group, args.heads * dim, dim);
        });
        float lse[P::M], delta[P::M], score[P::M][P::N], slope[P::M][P::N];
        plain_statistics(statistics_of(args, all, it, kv_head), first, rows, lse, delta);
        __syncthreads(); /* these rows are there */
        plain_dots<P::M, P::N, DIM>(query, key, score);
        plain_dots<P::M, P::N, DIM>(dout, value, slope);
#pragma unroll
        for (int i = 0; i < P::M; i++) {
            const int limit = (first + ty * P::M + i) / group;
#pragma unroll
            for (int j = 0; j < P::N; j++) {
                const int column = tx + PLAIN_SIDE * j, at = (ty * P::M + i) * P::P_LD + column;
                Few<1> weight = {{from + column > limit ? 0.0f : exp2f(score[i][j] - lse[i])}};
                Few<1> gradient = {{weight.at[0] * (slope[i][j] - delta[i])}};
                shared_store(p + at, weight);
                shared_store(ds + at, gradient);
            }
        }
        __syncthreads(); /* P and dS are there */
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
__global__ static void __launch_bounds__(PLAIN_THREADS, DIM <= 128 ? 2 : 1)
    rows_plain(AttentionBackwardArgs args, Statistics all, int row_blocks)
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
    float lse[P::M], delta[P::M], dquery[P::M][COLUMNS];
    plain_statistics(statistics_of(args, all, it, kv_head), first, rows, lse, delta);
#pragma unroll
    for (int i = 0; i < P::M; i++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            dquery[i][c] = 0.0f;
    const int keys_end = (first + rows - 1) / group + 1;
    for (int from = 0; from < keys_end; from += P::KEYS) {
        const int keys = min(P::KEYS, keys_end - from);
        __syncthreads(); /* the keys before are done with */
        tile_fill<P::KEYS, DIM, PACKED, T>(key, keys, dim, 1.0f, [&](int row) { return it.k + (from + row) * it.ld; });
        tile_fill<P::KEYS, DIM, PACKED, T>(value, keys, dim, 1.0f,
                                           [&](int row) { return it.v + (from + row) * it.ld; });
        __syncthreads(); /* these keys are there */
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
                Few<1> gradient = {{weight * (slope[i][j] - delta[i])}};
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
static void plain_launch(Cuda *cuda, const AttentionBackwardArgs *args, Statistics all)
{
    typedef PlainKeys<DIM> K;
    typedef PlainRows<DIM> R;
    const int64_t key_blocks = ceil_div(args->longest, K::KEYS);
    const int64_t row_blocks = ceil_div(args->longest * (args->heads / args->kv_heads), R::ROWS);
    const dim3 keys_grid((unsigned)(key_blocks * args->sequences), (unsigned)args->kv_heads);
    const dim3 rows_grid((unsigned)(row_blocks * args->sequences), (unsigned)args->kv_heads);
    allow_shared(keys_plain<T, DIM, PACKED>, K::BYTES);
    allow_shared(rows_plain<T, DIM, PACKED>, R::BYTES);
    CUDA_LAUNCH(cuda, (keys_plain<T, DIM, PACKED>), keys_grid, PLAIN_THREADS, K::BYTES, *args, all, (int)key_blocks);
    CUDA_LAUNCH(cuda, (rows_plain<T, DIM, PACKED>), rows_grid, PLAIN_THREADS, R::BYTES, *args, all, (int)row_blocks);
}

template <class T, bool PACKED> static void plain_run(Cuda *cuda, const AttentionBackwardArgs *args, Statistics all)
{
    if (args->head_dim <= 32)
        plain_launch<T, 32, PACKED>(cuda, args, all);
    else if (args->head_dim <= 64)
        plain_launch<T, 64, PACKED>(cuda, args, all);
    else if (args->head_dim <= 128)
        plain_launch<T, 128, PACKED>(cuda, args, all);
    else
        plain_launch<T, 256, PACKED>(cuda, args, all);
}

/* --- BF16 on tensor cores. Two tiles of what a block walks over are in flight: one is computed on, one arrives --- */

template <int DIM> struct KeyTiles {
    /* A warp has 16 * M keys. The sums of heads wider than 128 fill the registers twice: there two blocks halve the columns, and make P and dS each. */
    static constexpr int M = DIM <= 64 ? 2 : 1, KEYS = 16 * M * TENSOR_WARPS, ROWS = 32, N = ROWS / 8, LD = DIM + 8;
    static constexpr int PARTS = DIM <= 128 ? 1 : 2, COLUMNS = DIM / PARTS;
    static constexpr size_t BYTES = sizeof(bf16) * (size_t)(2 * KEYS + 4 * ROWS) * LD + sizeof(float) * 4 * ROWS;
};

/* Scores and slopes are made (keys, rows): as weights they are then the left sides of P' dO and dS' Q. */
template <int DIM>
__global__ static void __launch_bounds__(TENSOR_THREADS, 1)
    keys_tensor(AttentionBackwardArgs args, Statistics all, int key_blocks)
{
    typedef KeyTiles<DIM> P;
    constexpr int TILE = P::ROWS * P::LD;
    DYN_SHARED(bf16, shared);
    bf16 *key = shared, *value = key + P::KEYS * P::LD, *query = value + P::KEYS * P::LD, *dout = query + 2 * TILE;
    float *known = reinterpret_cast<float *>(dout + 2 * TILE); /* (2 tiles, lse and delta, ROWS) */
    const int s = (int)(blockIdx.x / (unsigned)key_blocks), kv_head = (int)blockIdx.y / P::PARTS;
    const int part = (int)blockIdx.y % P::PARTS * P::COLUMNS, thread = (int)threadIdx.x, lane = thread % WARP,
              dim = (int)args.head_dim;
    const Divisor group((int)(args.heads / args.kv_heads));
    const Attended<bf16> it = attended_of<bf16>(args, s, kv_head);
    const int from = (int)(blockIdx.x % (unsigned)key_blocks) * P::KEYS, keys = min(P::KEYS, it.keys - from);
    if (keys <= 0)
        return;
    const Statistics statistics = statistics_of(args, all, it, kv_head);
    const int rows_all = it.queries * group.size;
    const bf16 *dout_rows = (const bf16 *)args.dout + (it.start * args.heads + kv_head * group.size) * dim;
    float arriving = 0.0f;
    auto fill = [&](int first, int stage) {
        tensor_fill<P::ROWS, DIM>(query + stage * TILE, rows_all - first, dim,
                                  [&](int row) { return it.q + group.at(first + row, it.ld, dim); });
        tensor_fill<P::ROWS, DIM>(dout + stage * TILE, rows_all - first, dim,
                                  [&](int row) { return dout_rows + group.at(first + row, args.heads * dim, dim); });
        cp_async_commit();
        const int row = first + thread % P::ROWS;
        if (thread < 2 * P::ROWS)
            arriving =
                thread < P::ROWS ? lse_of(statistics, row, row < rows_all) : delta_of(statistics, row, row < rows_all);
    };
    tensor_fill<P::KEYS, DIM>(key, keys, dim, [&](int row) { return it.k + (from + row) * it.ld; });
    tensor_fill<P::KEYS, DIM>(value, keys, dim, [&](int row) { return it.v + (from + row) * it.ld; });
    const int first_all = from * group.size; /* no row before sees the keys */
    fill(first_all, 0);

    const int own = thread / WARP * 16 * P::M; /* the warp's keys of the tile */
    const float scale = args.scale * LOG2_E;
    float dkey[P::M][P::COLUMNS / 8][4], dvalue[P::M][P::COLUMNS / 8][4];
    sums_clear(dkey);
    sums_clear(dvalue);
    for (int first = first_all, stage = 0; first < rows_all; first += P::ROWS, stage ^= 1) {
        if (thread < 2 * P::ROWS)
            known[stage * 2 * P::ROWS + thread] = arriving;
        cp_async_wait<0>(); /* rows */
        __syncthreads();    /* they are there for all, and those before are done with */
        if (first + P::ROWS < rows_all)
            fill(first + P::ROWS, stage ^ 1);
        if (own >= keys || group.quotient(min(first + P::ROWS, rows_all) - 1) < from + own)
            continue; /* none of the warp's keys is seen */
        const bf16 *q = query + stage * TILE, *d = dout + stage * TILE;
        const float *lse = known + stage * 2 * P::ROWS + lane % 4 * 2, *delta = lse + P::ROWS;
        float score[P::M][P::N][4], slope[P::M][P::N][4];
        tensor_dots<P::M, P::N, DIM>(key + own * P::LD, q, score);
        tensor_dots<P::M, P::N, DIM>(value + own * P::LD, d, slope);
        const bool masked = first < (from + own + 16 * P::M - 1) * group.size;
#pragma unroll
        for (int n = 0; n < P::N; n++) {
            const Few<2> shift = shared_load<2>(lse + n * 8), mean = shared_load<2>(delta + n * 8);
#pragma unroll
            for (int m = 0; m < P::M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int at = from + own + m * 16 + i / 2 * 8 + lane / 4,
                              row = first + n * 8 + lane % 4 * 2 + i % 2;
                    float weight = exp2_approx(score[m][n][i] * scale - shift.at[i % 2]);
                    if (masked && at * group.size > row)
                        weight = 0.0f;
                    score[m][n][i] = weight;
                    slope[m][n][i] = weight * (slope[m][n][i] - mean.at[i % 2]);
                }
        }
        tensor_gather<P::M, P::N, P::COLUMNS / 8, P::LD>(score, d + part, dvalue);
        tensor_gather<P::M, P::N, P::COLUMNS / 8, P::LD>(slope, q + part, dkey);
    }
    cp_async_wait<0>();
    if (own >= keys)
        return;
#pragma unroll
    for (int m = 0; m < P::M; m++) {
        rows_stage<P::COLUMNS / 8, P::LD>(key + (own + m * 16) * P::LD, dkey[m], args.scale, args.scale);
        rows_stage<P::COLUMNS / 8, P::LD>(value + (own + m * 16) * P::LD, dvalue[m], 1.0f, 1.0f);
    }
    __syncwarp();
    bf16 *dk = (bf16 *)args.dqkv + (it.start + from + own) * it.ld + (args.heads + kv_head) * dim + part;
    bf16 *dv = dk + args.kv_heads * dim;
    rows_unstage<16 * P::M, P::COLUMNS, P::LD>(key + own * P::LD, keys - own, dim - part,
                                               [&](int row) { return dk + row * it.ld; });
    rows_unstage<16 * P::M, P::COLUMNS, P::LD>(value + own * P::LD, keys - own, dim - part,
                                               [&](int row) { return dv + row * it.ld; });
}

template <int DIM> struct RowTiles {
    static constexpr int M = DIM <= 64 ? 2 : 1, ROWS = 16 * M * TENSOR_WARPS, KEYS = 32, N = KEYS / 8, LD = DIM + 8;
    static constexpr size_t BYTES = sizeof(bf16) * (size_t)(2 * ROWS + 4 * KEYS) * LD;
};

template <int DIM>
__global__ static void __launch_bounds__(TENSOR_THREADS, 1)
    rows_tensor(AttentionBackwardArgs args, Statistics all, int row_blocks)
{
    typedef RowTiles<DIM> P;
    constexpr int TILE = P::KEYS * P::LD;
    DYN_SHARED(bf16, shared);
    bf16 *query = shared, *dout = query + P::ROWS * P::LD, *key = dout + P::ROWS * P::LD, *value = key + 2 * TILE;
    const int s = (int)(blockIdx.x / (unsigned)row_blocks), kv_head = (int)blockIdx.y, lane = (int)threadIdx.x % WARP;
    const int block = row_blocks - 1 - (int)(blockIdx.x % (unsigned)row_blocks), dim = (int)args.head_dim;
    const Divisor group((int)(args.heads / args.kv_heads));
    const Attended<bf16> it = attended_of<bf16>(args, s, kv_head);
    const int first = block * P::ROWS, rows = min(P::ROWS, it.queries * group.size - first);
    if (rows <= 0)
        return;
    const int keys_end = group.quotient(first + rows - 1) + 1;
    const bf16 *dout_rows = (const bf16 *)args.dout + (it.start * args.heads + kv_head * group.size) * dim;
    auto fill = [&](int from, int stage) {
        tensor_fill<P::KEYS, DIM>(key + stage * TILE, keys_end - from, dim,
                                  [&](int row) { return it.k + (from + row) * it.ld; });
        tensor_fill<P::KEYS, DIM>(value + stage * TILE, keys_end - from, dim,
                                  [&](int row) { return it.v + (from + row) * it.ld; });
        cp_async_commit();
    };
    tensor_fill<P::ROWS, DIM>(query, rows, dim, [&](int row) { return it.q + group.at(first + row, it.ld, dim); });
    tensor_fill<P::ROWS, DIM>(dout, rows, dim,
                              [&](int row) { return dout_rows + group.at(first + row, args.heads * dim, dim); });
    fill(0, 0);

    const int own = (int)threadIdx.x / WARP * 16 * P::M,
              own_end = min(own + 16 * P::M, rows); /* the warp's rows of the tile */
    const float scale = args.scale * LOG2_E;
    const Statistics statistics = statistics_of(args, all, it, kv_head);
    int limit[P::M][2];
    float lse[P::M][2], delta[P::M][2], dquery[P::M][DIM / 8][4];
    sums_clear(dquery);
#pragma unroll
    for (int m = 0; m < P::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = own + m * 16 + half * 8 + lane / 4;
            limit[m][half] = group.quotient(first + min(row, rows - 1));
            lse[m][half] = lse_of(statistics, first + row, row < rows);
            delta[m][half] = delta_of(statistics, first + row, row < rows);
        }
    const int seen_by_all = group.quotient(first + min(own, rows - 1));
    const int seen_by_any = own < rows ? group.quotient(first + own_end - 1) : -1;
    for (int from = 0, stage = 0; from < keys_end; from += P::KEYS, stage ^= 1) {
        cp_async_wait<0>(); /* keys */
        __syncthreads();    /* they are there for all, and those before are read */
        if (from + P::KEYS < keys_end)
            fill(from + P::KEYS, stage ^ 1);
        if (from > seen_by_any)
            continue;
        float score[P::M][P::N][4], slope[P::M][P::N][4];
        tensor_dots<P::M, P::N, DIM>(query + own * P::LD, key + stage * TILE, score);
        tensor_dots<P::M, P::N, DIM>(dout + own * P::LD, value + stage * TILE, slope);
        const bool masked = from + P::KEYS - 1 > seen_by_all;
        const int column = from + lane % 4 * 2;
#pragma unroll
        for (int m = 0; m < P::M; m++)
#pragma unroll
            for (int n = 0; n < P::N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float weight = exp2_approx(score[m][n][i] * scale - lse[m][i / 2]);
                    if (masked && column + n * 8 + i % 2 > limit[m][i / 2])
                        weight = 0.0f;
                    slope[m][n][i] = weight * (slope[m][n][i] - delta[m][i / 2]);
                }
        tensor_gather<P::M, P::N, DIM / 8, P::LD>(slope, key + stage * TILE, dquery);
    }
    cp_async_wait<0>();
    if (own >= rows)
        return;
#pragma unroll
    for (int m = 0; m < P::M; m++)
        rows_stage<DIM / 8, P::LD>(query + (own + m * 16) * P::LD, dquery[m], args.scale, args.scale);
    __syncwarp();
    bf16 *dq = (bf16 *)args.dqkv + it.start * it.ld + kv_head * group.size * dim;
    rows_unstage<16 * P::M, DIM, P::LD>(query + own * P::LD, own_end - own, dim,
                                        [&](int row) { return dq + group.at(first + own + row, it.ld, dim); });
}

template <int DIM> static void tensor_launch(Cuda *cuda, const AttentionBackwardArgs *args, Statistics all)
{
    typedef KeyTiles<DIM> K;
    typedef RowTiles<DIM> R;
    const int64_t key_blocks = ceil_div(args->longest, K::KEYS);
    const int64_t row_blocks = ceil_div(args->longest * (args->heads / args->kv_heads), R::ROWS);
    const dim3 keys_grid((unsigned)(key_blocks * args->sequences), (unsigned)(args->kv_heads * K::PARTS));
    const dim3 rows_grid((unsigned)(row_blocks * args->sequences), (unsigned)args->kv_heads);
    allow_shared(keys_tensor<DIM>, K::BYTES);
    allow_shared(rows_tensor<DIM>, R::BYTES);
    CUDA_LAUNCH(cuda, (keys_tensor<DIM>), keys_grid, TENSOR_THREADS, K::BYTES, *args, all, (int)key_blocks);
    CUDA_LAUNCH(cuda, (rows_tensor<DIM>), rows_grid, TENSOR_THREADS, R::BYTES, *args, all, (int)row_blocks);
}

static void tensor_run(Cuda *cuda, const AttentionBackwardArgs *args, Statistics all)
{
    if (args->head_dim <= 32)
        tensor_launch<32>(cuda, args, all);
    else if (args->head_dim <= 64)
        tensor_launch<64>(cuda, args, all);
    else if (args->head_dim <= 80)
        tensor_launch<80>(cuda, args, all);
    else if (args->head_dim <= 96)
        tensor_launch<96>(cuda, args, all);
    else if (args->head_dim <= 128)
        tensor_launch<128>(cuda, args, all);
    else
        tensor_launch<256>(cuda, args, all);
}

/* --- The op --- */

template <class T, bool PACKED> static void backward_run(Cuda *cuda, const AttentionBackwardArgs *args, Statistics all)
{
    const unsigned blocks = (unsigned)ceil_div(args->tokens * args->heads * LANES_PER_ROW, STATISTICS_THREADS);
    CUDA_LAUNCH(cuda, (rows_statistics<T, PACKED>), blocks, STATISTICS_THREADS, 0, *args, all);
    if constexpr (PACKED && sizeof(T) == sizeof(bf16))
        tensor_run(cuda, args, all);
    else
        plain_run<T, PACKED>(cuda, args, all);
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
    const size_t bytes = sizeof(float) * (size_t)(args->tokens * args->heads);
    Statistics all = {};
    all.lse = (float *)arena_alloc(&device->scratch, bytes);
    all.delta = (float *)arena_alloc(&device->scratch, bytes);
    if (!device->backend->computes || args->tokens == 0)
        return;
    Cuda *cuda = cuda_of(device);
#define RUN(T)                                                                                                         \
    do {                                                                                                               \
        if (packs_fit_all<T>(args))                                                                                    \
            backward_run<T, true>(cuda, args, all);                                                                    \
        else                                                                                                           \
            backward_run<T, false>(cuda, args, all);                                                                   \
    } while (0)
    BY_DTYPE(args->dtype, RUN);
#undef RUN
}
