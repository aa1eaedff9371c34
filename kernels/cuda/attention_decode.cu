/* attention_decode.cu -- a few query rows against a long past: what generation does for every token.
 *
 * Such a step reads the whole cache once and computes little, so all of the device must be reading: keys are cut into runs, a block takes one run of one
 * sequence and key head, and a second kernel joins what the runs of a row found (maximum, sum, weighted values), in order. A run is a function of the
 * cache's capacity alone, so what a sequence gets depends neither on its neighbours nor on the device. Lengths are read on the device and blocks without
 * keys end at once: a launch captured in a graph stays right as sequences grow.
 * Inside a block a few lanes share a key, 16 bytes each; so several keys are under way in each warp, and every group of lanes keeps a running softmax of
 * its own. New keys and values are read from the batch, and the block whose run they fall into appends them: nobody reads them from the cache. */
#include "kernels/cuda/attention.h"

static constexpr int DECODE_THREADS = 128, DECODE_WARPS = DECODE_THREADS / WARP;
static constexpr int RUN_KEYS = 256, RUNS_MAX = WARP; /* the joining warp has a lane for each run */
static constexpr int ROWS_FEW = 16;                   /* from here on tiles of rows are the better shape */

typedef struct Runs {
    int keys, count; /* of each run; of runs in a full cache */
    int rows;        /* longest * group: the most rows that a sequence and key head may have */
    float *gathered; /* (sequences, kv_heads, rows, count, head_dim) */
    float *state;    /* (sequences, kv_heads, rows, count, 2): maximum, sum */
} Runs;

__device__ static inline int64_t place_of(const AttentionForwardArgs &args, const Runs &runs, int s, int kv_head,
                                          int row, int run)
{
    return (((int64_t)s * args.kv_heads + kv_head) * runs.rows + row) * runs.count + run;
}

/* Running softmax: what has been gathered under `from` is worth this much under `to`, which is the larger; nothing under nothing is 0. */
__device__ static inline float rescale(float from, float to)
{
    return from == -INFINITY ? 0.0f : exp2f(from - to);
}

/* Values of `out` in the end: thread by thread, (row, d). */
template <class T>
__device__ static inline void row_store(const AttentionForwardArgs &args, int64_t place, int d, float gathered,
                                        float largest, float sum)
{
    store_one<T>((T *)args.out + place * args.head_dim + d, gathered / sum);
    if (args.lse && d == 0)
        store_one<float>(args.lse + place, (largest + log2f(sum)) * LN_2);
}

/* Appends the keys and values of [from, end), new ones, of one key head. */
template <class T>
__device__ static inline void run_append(const Attended<T> &fresh, const Attended<T> &cached, int from, int end,
                                         int dim)
{
    const int steps = dim / Pack<T>::COUNT;
    for (int i = (int)threadIdx.x; i < (end - from) * steps; i += DECODE_THREADS) {
        const int key = from + i / steps, d = i % steps * Pack<T>::COUNT;
        const int64_t at = (int64_t)(key - cached.past) * fresh.ld + d, to = (int64_t)key * dim + d;
        store_pack<T>(const_cast<T *>(cached.k) + to, load_pack<T>(fresh.k + at));
        store_pack<T>(const_cast<T *>(cached.v) + to, load_pack<T>(fresh.v + at));
    }
}

/* LANES lanes share a key, with PACKS packs each; ROWS rows at a time. Grid: (runs of a sequence, sequences), (parts of the rows, key heads). */
template <class T, int LANES, int PACKS, int ROWS>
__global__ static void __launch_bounds__(DECODE_THREADS, 2) decode(AttentionForwardArgs args, Runs runs, int parts)
{
    constexpr int EACH = Pack<T>::COUNT, MINE = PACKS * EACH, DIM = LANES * MINE, GROUPS = DECODE_THREADS / LANES;
    constexpr int AHEAD = ROWS * PACKS > 4 ? 2 : 4; /* keys of a group of lanes that are asked for at once */
    static_assert(RUN_KEYS % (AHEAD * GROUPS) == 0, "what is read behind a run is behind all keys, and masked");
    SHARED(float, joined, [DECODE_WARPS][ROWS][DIM]);
    SHARED(float, state, [DECODE_WARPS][ROWS][2]);
    const int s = (int)(blockIdx.x / (unsigned)runs.count), run = (int)(blockIdx.x % (unsigned)runs.count);
    const int kv_head = (int)blockIdx.y / parts, first = (int)blockIdx.y % parts * ROWS;
    const int dim = (int)args.head_dim, group = (int)(args.heads / args.kv_heads);
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, of_key = lane % LANES,
              at_group = (int)threadIdx.x / LANES;
    const Attended<T> fresh = attended_of<T>(args, s, kv_head), it = attended_with_past<T>(args, s, kv_head);
    const int from = run * runs.keys, end = min(from + runs.keys, it.keys),
              rows = min(ROWS, it.queries * group - first);
    if (from >= end || rows <= 0)
        return;
    if (first == 0 && end > it.past)
        run_append(fresh, it, max(from, it.past), end, dim);

    float query[ROWS][MINE], gathered[ROWS][MINE], largest[ROWS], sum[ROWS];
    int limit[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        largest[r] = -INFINITY;
        sum[r] = 0.0f;
        limit[r] = r < rows ? it.past + (first + r) / group : -1;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            const int d = (of_key + p * LANES) * EACH;
            Pack<T> pack = {};
            if (r < rows && d < dim)
                pack = load_pack<T>(it.q + row_at(first + r, group, fresh.ld, dim) + d);
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                query[r][p * EACH + i] = widen(pack.at[i]) * (args.scale * LOG2_E);
                gathered[r][p * EACH + i] = 0.0f;
            }
        }
    }

    for (int base = from; base < end; base += AHEAD * GROUPS) {
        Pack<T> keys[AHEAD][PACKS], values[AHEAD][PACKS];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            const int key = base + a * GROUPS + at_group;
            const bool old = key < it.past;
            const int64_t at = old ? (int64_t)key * dim : (int64_t)(key - it.past) * fresh.ld;
            const T *k = (old ? it.k : fresh.k) + at, *v = (old ? it.v : fresh.v) + at;
#pragma unroll
            for (int p = 0; p < PACKS; p++) {
                const int d = (of_key + p * LANES) * EACH;
                keys[a][p] = values[a][p] = Pack<T>{};
                if (key < end && d < dim) {
                    keys[a][p] = load_pack<T>(k + d);
                    values[a][p] = load_pack<T>(v + d);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float score[AHEAD], most = largest[r];
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                score[a] = 0.0f;
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int i = 0; i < EACH; i++)
                        score[a] += query[r][p * EACH + i] * widen(keys[a][p].at[i]);
#pragma unroll
                for (int distance = LANES / 2; distance > 0; distance /= 2)
                    score[a] += __shfl_xor_sync(FULL_WARP, score[a], distance);
                if (base + a * GROUPS + at_group > limit[r])
                    score[a] = -INFINITY;
                most = fmaxf(most, score[a]);
            }
            const float factor = rescale(largest[r], most);
            largest[r] = most;
            sum[r] *= factor;
#pragma unroll
            for (int i = 0; i < MINE; i++)
                gathered[r][i] *= factor;
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const float weight = rescale(score[a], most);
                sum[r] += weight;
#pragma unroll
                for (int p = 0; p < PACKS; p++)
#pragma unroll
                    for (int i = 0; i < EACH; i++)
                        gathered[r][p * EACH + i] += weight * widen(values[a][p].at[i]);
            }
        }
    }

    /* Groups of lanes in a warp, then warps. */
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int distance = LANES; distance < WARP; distance *= 2) {
            const float other = __shfl_xor_sync(FULL_WARP, largest[r], distance), most = fmaxf(largest[r], other);
            const float mine = rescale(largest[r], most), theirs = rescale(other, most);
            largest[r] = most;
            sum[r] = sum[r] * mine + __shfl_xor_sync(FULL_WARP, sum[r], distance) * theirs;
#pragma unroll
            for (int i = 0; i < MINE; i++)
                gathered[r][i] = gathered[r][i] * mine + __shfl_xor_sync(FULL_WARP, gathered[r][i], distance) * theirs;
        }
        if (lane < LANES) {
#pragma unroll
            for (int p = 0; p < PACKS; p++)
#pragma unroll
                for (int i = 0; i < EACH; i += 4) {
                    const Few<4> four = {{gathered[r][p * EACH + i], gathered[r][p * EACH + i + 1],
                                          gathered[r][p * EACH + i + 2], gathered[r][p * EACH + i + 3]}};
                    shared_store(&joined[warp][r][(lane + p * LANES) * EACH + i], four);
                }
            if (lane == 0) {
                const Few<2> two = {{largest[r], sum[r]}};
                shared_store(state[warp][r], two);
            }
        }
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < rows * dim; i += DECODE_THREADS) {
        const int r = i / dim, d = i % dim, row = first + r;
        float most = -INFINITY, total = 0.0f, value = 0.0f;
#pragma unroll
        for (int w = 0; w < DECODE_WARPS; w++)
            most = fmaxf(most, state[w][r][0]);
#pragma unroll
        for (int w = 0; w < DECODE_WARPS; w++) {
            const Few<2> two = shared_load<2>(state[w][r]);
            const float weight = rescale(two.at[0], most);
            total += two.at[1] * weight;
            value += joined[w][r][d] * weight;
        }
        if (it.keys <= runs.keys) {
            row_store<T>(args, (it.start + row / group) * args.heads + kv_head * group + row % group, d, value, most,
                         total);
        } else {
            const int64_t place = place_of(args, runs, s, kv_head, row, run);
            store_one<float>(runs.gathered + place * dim + d, value);
            if (d == 0) {
                store_one<float>(runs.state + 2 * place, most);
                store_one<float>(runs.state + 2 * place + 1, total);
            }
        }
    }
}

/* A warp joins the runs of one row. Grid: (rows in fours, sequences), key heads. */
template <class T>
__global__ static void __launch_bounds__(DECODE_THREADS) join(AttentionForwardArgs args, Runs runs, int parts)
{
    const int s = (int)(blockIdx.x / (unsigned)parts), kv_head = (int)blockIdx.y, lane = (int)threadIdx.x % WARP;
    const int row = (int)(blockIdx.x % (unsigned)parts) * DECODE_WARPS + (int)threadIdx.x / WARP;
    const int dim = (int)args.head_dim, group = (int)(args.heads / args.kv_heads);
    const Attended<T> it = attended_with_past<T>(args, s, kv_head);
    if (row >= it.queries * group || it.keys <= runs.keys)
        return;
    const int count = (int)ceil_div(it.keys, runs.keys);
    const int64_t place = place_of(args, runs, s, kv_head, row, 0);
    float largest = lane < count ? load_one<float>(runs.state + 2 * (place + lane)) : -INFINITY;
    const float most = warp_max(largest), weight = rescale(largest, most);
    const float sum = warp_sum(lane < count ? load_one<float>(runs.state + 2 * (place + lane) + 1) * weight : 0.0f);
    for (int from = 0; from < dim; from += WARP) {
        const int d = from + lane;
        float value = 0.0f;
        for (int run = 0; run < count; run++) {
            const float factor = __shfl_sync(FULL_WARP, weight, run);
            if (d < dim)
                value += factor * load_one<float>(runs.gathered + (place + run) * dim + d);
        }
        if (d < dim)
            row_store<T>(args, (it.start + row / group) * args.heads + kv_head * group + row % group, d, value, most,
                         sum);
    }
}

template <class T, int LANES, int PACKS, int ROWS>
static void decode_launch(Cuda *cuda, const AttentionForwardArgs *args, const Runs *runs)
{
    const int parts = (int)ceil_div(runs->rows, ROWS);
    const dim3 grid((unsigned)(args->sequences * runs->count), (unsigned)(args->kv_heads * parts));
    CUDA_LAUNCH(cuda, (decode<T, LANES, PACKS, ROWS>), grid, DECODE_THREADS, 0, *args, *runs, parts);
}

template <class T, int LANES, int PACKS>
static void decode_rows(Cuda *cuda, const AttentionForwardArgs *args, const Runs *runs)
{
    if (runs->rows == 1)
        decode_launch<T, LANES, PACKS, 1>(cuda, args, runs);
    else if (runs->rows == 2)
        decode_launch<T, LANES, PACKS, 2>(cuda, args, runs);
    else if (runs->rows <= 4)
        decode_launch<T, LANES, PACKS, 4>(cuda, args, runs);
    else
        decode_launch<T, LANES, PACKS, 8>(cuda, args, runs);
}

template <class T> static void decode_run(Cuda *cuda, const AttentionForwardArgs *args, const Runs *runs)
{
    const int64_t packs = args->head_dim / Pack<T>::COUNT;
    if (packs <= 4)
        decode_rows<T, 4, 1>(cuda, args, runs);
    else if (packs <= 8)
        decode_rows<T, 8, 1>(cuda, args, runs);
    else if (packs <= 16)
        decode_rows<T, 16, 1>(cuda, args, runs);
    else if (packs <= 32)
        decode_rows<T, 32, 1>(cuda, args, runs);
    else
        decode_rows<T, 32, HEAD_DIM_MAX / 32 / Pack<T>::COUNT>(cuda, args, runs);
    if (runs->count == 1)
        return;
    const int parts = (int)ceil_div(runs->rows, DECODE_WARPS);
    const dim3 grid((unsigned)(args->sequences * parts), (unsigned)args->kv_heads);
    CUDA_LAUNCH(cuda, (join<T>), grid, DECODE_THREADS, 0, *args, *runs, parts);
}

template <class T> static bool packs_fit_cache(const AttentionForwardArgs *args)
{
    return packs_fit((const T *)args->qkv, args->head_dim) && packs_fit((const T *)args->kv.k, args->head_dim) &&
           packs_fit((const T *)args->kv.v, args->head_dim);
}

bool attention_decode(Device *device, const AttentionForwardArgs *args)
{
    const int64_t group = args->heads / args->kv_heads, width = args->head_dim * (int64_t)dtype_size(args->dtype);
    if (!args->kv.k || width % 16 != 0 || (args->longest > 1 && args->longest * group > ROWS_FEW))
        return false;
    Runs runs = {};
    const int64_t keys = ceil_div(ceil_div(args->kv.capacity, RUNS_MAX), RUN_KEYS) * RUN_KEYS;
    runs.keys = (int)keys;
    runs.count = (int)ceil_div(args->kv.capacity, keys);
    runs.rows = (int)(args->longest * group);
    const size_t places = (size_t)(args->sequences * args->kv_heads * runs.rows * runs.count);
    if (runs.count > 1) {
        runs.gathered = (float *)arena_alloc(&device->scratch, sizeof(float) * places * (size_t)args->head_dim);
        runs.state = (float *)arena_alloc(&device->scratch, sizeof(float) * places * 2);
    }
    if (!device->backend->computes)
        return true;
#define RUN(T)                                                                                                         \
    do {                                                                                                               \
        if (!packs_fit_cache<T>(args))                                                                                 \
            return false;                                                                                              \
        decode_run<T>(cuda_of(device), args, &runs);                                                                   \
    } while (0)
    BY_DTYPE(args->dtype, RUN);
#undef RUN
    return true;
}
