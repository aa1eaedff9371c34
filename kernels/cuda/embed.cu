/* embed.cu -- rows looked up by index: token embeddings, learned positions, and picking rows of a batch.
 *
 * Backward of a lookup adds to the same row from many tokens, in order of t: tokens are sorted by (id, t), and where an id begins, one block (or
 * several, over columns) adds all its rows. So a sum's order, and its F32 bits, are the CPU's. The sort merges: keys are distinct, so a key's
 * place in the union of two runs is its place in its own and the number of smaller keys in the other. */
#include "kernels/cuda/device.h"

#include "kernels/cuda/span.h"

template <class T, int EACH>
__global__ void embed_row(const int32_t *token, const int32_t *position, const T *table, const T *positions, T *y,
                          int64_t width, int64_t vocab, int64_t positions_max)
{
    int64_t t = blockIdx.x, j = row_column<EACH>();
    int64_t id = token[t];
    KERNEL_REQUIRE(id >= 0 && id < vocab);
    if (j >= width)
        return;
    Span<T, EACH> row = load_span<EACH>(table + id * width + j);
    if (positions) {
        int64_t at = position[t];
        KERNEL_REQUIRE(at >= 0 && at < positions_max);
        Span<T, EACH> more = load_span<EACH>(positions + at * width + j);
#pragma unroll
        for (int k = 0; k < EACH; k++)
            row.at[k] = narrow<T>(widen(row.at[k]) + widen(more.at[k]));
    }
    store_span<EACH>(y + t * width + j, row);
}

template <class T, bool PACKED> static void launch_embed(Cuda *cuda, const EmbedArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    RowLaunch launch = row_launch(args->tokens, args->width / EACH);
    CUDA_LAUNCH(cuda, (embed_row<T, EACH>), launch.grid, launch.block, 0, args->token, args->position,
                (const T *)args->table, (const T *)args->positions, (T *)args->y, args->width, args->vocab,
                args->positions_max);
}

void cuda_embed_forward(Device *device, const EmbedArgs *args)
{
    if (!device->backend->computes || !args->tokens || !args->width)
        return;
    int64_t width = args->width;
#define EMBED(T)                                                                                                       \
    (packs_fit((const T *)args->table, width) && packs_fit((const T *)args->positions, width) &&                       \
             packs_fit((const T *)args->y, width)                                                                      \
         ? launch_embed<T, true>                                                                                       \
         : launch_embed<T, false>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, EMBED);
#undef EMBED
}

/* --- gather_rows, scatter_rows --- */

template <class T, int EACH, bool SCATTER>
__global__ void move_row(T *x, const int32_t *index, T *y, int64_t width, int64_t x_rows)
{
    int64_t i = blockIdx.x, j = row_column<EACH>(), at = index[i];
    KERNEL_REQUIRE(at >= 0 && at < x_rows);
    if (j >= width)
        return;
    T *there = x + at * width + j, *here = y + i * width + j;
    Span<T, EACH> row = load_span<EACH>(there);
    if constexpr (SCATTER) {
        Span<T, EACH> more = load_span<EACH>(here);
#pragma unroll
        for (int k = 0; k < EACH; k++)
            row.at[k] = narrow<T>(widen(row.at[k]) + widen(more.at[k]));
    }
    store_span<EACH>(SCATTER ? there : here, row);
}

template <class T, bool PACKED, bool SCATTER> static void launch_move(Cuda *cuda, const RowsArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    RowLaunch launch = row_launch(args->rows, args->width / EACH);
    CUDA_LAUNCH(cuda, (move_row<T, EACH, SCATTER>), launch.grid, launch.block, 0, (T *)args->x, args->index,
                (T *)args->y, args->width, args->x_rows);
}

template <bool SCATTER> static void move_rows(Device *device, const RowsArgs *args)
{
    if (!device->backend->computes || !args->rows || !args->width)
        return;
#define MOVE(T)                                                                                                        \
    (packs_fit((const T *)args->x, args->width) && packs_fit((const T *)args->y, args->width)                          \
         ? launch_move<T, true, SCATTER>                                                                               \
         : launch_move<T, false, SCATTER>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, MOVE);
#undef MOVE
}

void cuda_gather_rows(Device *device, const RowsArgs *args)
{
    move_rows<false>(device, args);
}

void cuda_scatter_rows(Device *device, const RowsArgs *args)
{
    move_rows<true>(device, args);
}

/* --- embed_backward: sorting --- */

/* (id, t) in one number, ordered by both. */
typedef uint64_t Key;
static const Key NO_KEY = ~(Key)0; /* behind all */

enum { TILE = 1024, TILE_THREADS = TILE / 2, MERGE_THREADS = 256 };

/* A bitonic sort of one tile of keys made from ids. */
__global__ void sort_tile(const int32_t *id, Key *sorted, int64_t count, int64_t limit)
{
    SHARED(Key, key, [TILE]);
    int64_t from = (int64_t)blockIdx.x * TILE;
    int thread = (int)threadIdx.x;
    for (int i = thread; i < TILE; i += TILE_THREADS) {
        int64_t t = from + i;
        key[i] = NO_KEY;
        if (t < count) {
            KERNEL_REQUIRE(id[t] >= 0 && id[t] < limit);
            key[i] = (Key)id[t] << 32 | (Key)t;
        }
    }
    __syncthreads();
    for (int size = 2; size <= TILE; size *= 2) {
        for (int distance = size / 2; distance > 0; distance /= 2) {
            int low = thread / distance * 2 * distance + thread % distance, high = low + distance;
            bool rising = (low & size) == 0;
            Key a = key[low], b = key[high];
            if ((a > b) == rising) {
                key[low] = b;
                key[high] = a;
            }
            __syncthreads();
        }
    }
    for (int i = thread; i < TILE && from + i < count; i += TILE_THREADS)
        sorted[from + i] = key[i];
}

/* Sorted runs of `run` keys become sorted runs of twice as many. */
__global__ void merge_runs(const Key *key, Key *merged, int64_t count, int64_t run)
{
    int64_t i = (int64_t)blockIdx.x * MERGE_THREADS + threadIdx.x;
    if (i >= count)
        return;
    int64_t pair = i / (2 * run) * 2 * run, middle = min(pair + run, count), end = min(pair + 2 * run, count);
    bool first = i < middle;
    int64_t begin = first ? middle : pair, low = begin, high = first ? end : middle;
    Key own = key[i];
    while (low < high) {
        int64_t half = (low + high) / 2;
        if (key[half] < own)
            low = half + 1;
        else
            high = half;
    }
    merged[pair + (i - (first ? pair : middle)) + (low - begin)] = own;
}

/* Keys of `id` in order, in one of two buffers. */
static const Key *sort_keys(Cuda *cuda, const int32_t *id, int64_t count, int64_t limit, Key *buffer, Key *other)
{
    CUDA_LAUNCH(cuda, sort_tile, (unsigned)ceil_div(count, TILE), TILE_THREADS, 0, id, buffer, count, limit);
    for (int64_t run = TILE; run < count; run *= 2) {
        CUDA_LAUNCH(cuda, merge_runs, (unsigned)ceil_div(count, MERGE_THREADS), MERGE_THREADS, 0, buffer, other, count,
                    run);
        Key *swap = buffer;
        buffer = other;
        other = swap;
    }
    return buffer;
}

/* --- embed_backward: adding --- */

enum { AHEAD = 8 }; /* rows asked for before the first is added */

/* gradient[id] += dy[t] of all keys of an id, by the blocks that stand at its first. */
template <class T, int EACH>
__global__ void add_segment(const Key *key, int64_t count, const T *dy, float *gradient, int64_t width)
{
    int64_t at = blockIdx.x, j = row_column<EACH>();
    Key id = key[at] >> 32;
    if ((at > 0 && key[at - 1] >> 32 == id) || j >= width)
        return;
    float *row = gradient + (int64_t)id * width + j;
    Span<float, EACH> sum = load_span<EACH>(row);
    for (bool more = true; more; at += AHEAD) {
        Span<T, EACH> next[AHEAD];
        bool ours[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            Key that = at + i < count ? key[at + i] : NO_KEY;
            ours[i] = that >> 32 == id;
            if (ours[i])
                next[i] = load_span<EACH>(dy + (int64_t)(that & 0xffffffffu) * width + j);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (ours[i]) {
#pragma unroll
                for (int k = 0; k < EACH; k++)
                    sum.at[k] += widen(next[i].at[k]);
            }
        more = ours[AHEAD - 1];
    }
    store_span<EACH>(row, sum);
}

template <class T, bool PACKED>
static void launch_segments(Cuda *cuda, const Key *key, const EmbedArgs *args, float *gradient)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    RowLaunch launch = row_launch(args->tokens, args->width / EACH);
    CUDA_LAUNCH(cuda, (add_segment<T, EACH>), launch.grid, launch.block, 0, key, args->tokens, (const T *)args->y,
                gradient, args->width);
}

static void add_segments(Cuda *cuda, const Key *key, const EmbedArgs *args, float *gradient)
{
#define SEGMENTS(T)                                                                                                    \
    (packs_fit((const T *)args->y, args->width) && packs_fit(gradient, args->width)                                    \
         ? launch_segments<T, true>                                                                                    \
         : launch_segments<T, false>)(cuda, key, args, gradient)
    BY_DTYPE(args->dtype, SEGMENTS);
#undef SEGMENTS
}

void cuda_embed_backward(Device *device, const EmbedArgs *args)
{
    size_t bytes = sizeof(Key) * (size_t)args->tokens;
    Key *buffer = (Key *)arena_alloc(&device->scratch, bytes), *other = (Key *)arena_alloc(&device->scratch, bytes);
    if (!device->backend->computes || !args->tokens || !args->width)
        return;
    Cuda *cuda = cuda_of(device);
    if (args->table)
        add_segments(cuda, sort_keys(cuda, args->token, args->tokens, args->vocab, buffer, other), args,
                     (float *)args->table);
    if (args->positions)
        add_segments(cuda, sort_keys(cuda, args->position, args->tokens, args->positions_max, buffer, other), args,
                     (float *)args->positions);
}
