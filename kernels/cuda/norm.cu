/* norm.cu -- residual addition with RMSNorm or LayerNorm of the sum, and its backward; the formulas stand in kernels/cpu/norm.c.
 *
 * A row is held in registers by one warp, or, where it is wide, by one block: read once, written once. Backward walks blocks of rows that the
 * shape fixes, so that every thread keeps its columns and adds their dgain and dbias in registers; partial sums of warps and of blocks are
 * joined in order. */
#include "kernels/cuda/device.h"

#include "kernels/cuda/span.h"
#include "kernels/cuda/sums.h"

enum {
    ROW_WARPS = 4,         /* rows that share a block, where a warp holds a row */
    WIDEST_FORWARD = 1024, /* threads, where a block does */
};

/* Threads of one row, when each holds `held` spans: span c of thread i is c * threads + i. */
static unsigned norm_threads(int64_t width, int64_t spans, int held, int most)
{
    int64_t threads = ceil_div(ceil_div(spans, held), WARP) * WARP;
    REQUIRE(threads <= most, "norm of rows of %lld: more than a block holds", (long long)width);
    return (unsigned)threads;
}

/* block: (threads of a row, rows). */
template <class T, int EACH, int HELD, bool WIDE>
__global__ void __launch_bounds__(WIDE ? WIDEST_FORWARD : ROW_WARPS *WARP, 1)
    norm_rows(NormKind kind, const T *x, const T *residual, T *sum, const float *gain, const float *bias, T *y,
              float *mean_out, float *rstd_out, int64_t rows, int width, float epsilon)
{
    SHARED(float, part, [WARP]);
    int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (!WIDE && row >= rows) /* the whole warp; no barrier follows */
        return;
    int thread = (int)threadIdx.x, threads = (int)blockDim.x;
    Span<T, EACH> held[HELD];
#pragma unroll
    for (int c = 0; c < HELD; c++) {
        int j = (c * threads + thread) * EACH;
        if (j < width)
            held[c] = load_span<EACH>(x + row * width + j);
    }
    if (residual) {
#pragma unroll
        for (int c = 0; c < HELD; c++) {
            int j = (c * threads + thread) * EACH;
            if (j < width) {
                Span<T, EACH> more = load_span<EACH>(residual + row * width + j);
#pragma unroll
                for (int k = 0; k < EACH; k++)
                    held[c].at[k] = narrow<T>(widen(held[c].at[k]) + widen(more.at[k]));
                store_span<EACH>(sum + row * width + j, held[c]);
            }
        }
    }
    float mean = 0.0f;
    if (kind == NORM_LAYER) {
#pragma unroll
        for (int c = 0; c < HELD; c++)
            if ((c * threads + thread) * EACH < width) {
#pragma unroll
                for (int k = 0; k < EACH; k++)
                    mean += widen(held[c].at[k]);
            }
        mean = (WIDE ? block_sum(mean, part) : warp_sum(mean)) / (float)width;
    }
    float squares = 0.0f;
#pragma unroll
    for (int c = 0; c < HELD; c++)
        if ((c * threads + thread) * EACH < width) {
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                float value = widen(held[c].at[k]) - mean;
                squares += value * value;
            }
        }
    float rstd = 1.0f / sqrtf((WIDE ? block_sum(squares, part) : warp_sum(squares)) / (float)width + epsilon);
#pragma unroll
    for (int c = 0; c < HELD; c++) {
        int j = (c * threads + thread) * EACH;
        if (j < width) {
            Span<float, EACH> scale = load_span<EACH>(gain + j);
#pragma unroll
            for (int k = 0; k < EACH; k++)
                scale.at[k] *= (widen(held[c].at[k]) - mean) * rstd;
            if (bias) {
                Span<float, EACH> shift = load_span<EACH>(bias + j);
#pragma unroll
                for (int k = 0; k < EACH; k++)
                    scale.at[k] += shift.at[k];
            }
#pragma unroll
            for (int k = 0; k < EACH; k++)
                held[c].at[k] = narrow<T>(scale.at[k]);
            store_span<EACH>(y + row * width + j, held[c]);
        }
    }
    if (thread == 0) {
        if (mean_out)
            store_one(mean_out + row, mean);
        if (rstd_out)
            store_one(rstd_out + row, rstd);
    }
}

template <class T, int EACH, int HELD, bool WIDE> static void launch_forward(Cuda *cuda, const NormForwardArgs *args)
{
    unsigned threads = norm_threads(args->width, args->width / EACH, HELD, WIDE ? (int)WIDEST_FORWARD : (int)WARP);
    /* Few rows are spread over as many blocks as there are. */
    unsigned rows = WIDE || args->rows < 512 ? 1 : ROW_WARPS;
    CUDA_LAUNCH(cuda, (norm_rows<T, EACH, HELD, WIDE>), (unsigned)ceil_div(args->rows, rows), dim3(threads, rows), 0,
                args->kind, (const T *)args->x, (const T *)args->residual, (T *)args->sum, args->gain, args->bias,
                (T *)args->y, args->mean, args->rstd, args->rows, (int)args->width, args->epsilon);
}

template <class T, bool PACKED> static void run_forward(Cuda *cuda, const NormForwardArgs *args)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    int64_t spans = args->width / EACH;
    if (spans <= 4 * WARP)
        launch_forward<T, EACH, 4, false>(cuda, args);
    else if (spans <= 8 * WARP)
        launch_forward<T, EACH, 8, false>(cuda, args);
    else
        launch_forward<T, EACH, PACKED ? 4 : 8, true>(cuda, args);
}

static void check_rows(int64_t rows)
{
    REQUIRE(rows <= INT32_MAX, "norm of %lld rows", (long long)rows);
}

void cuda_norm_forward(Device *device, const NormForwardArgs *args)
{
    check_rows(args->rows);
    if (!device->backend->computes || !args->rows || !args->width)
        return;
    int64_t width = args->width;
    bool vectors = packs_fit(args->gain, 0) && packs_fit(args->bias, 0);
    /* An absent residual or sum is address 0, which fits. */
#define FORWARD(T)                                                                                                     \
    (vectors && packs_fit((const T *)args->x, width) && packs_fit((const T *)args->residual, width) &&                 \
             packs_fit((const T *)args->y, width) && (!args->residual || packs_fit((const T *)args->sum, width))       \
         ? run_forward<T, true>                                                                                        \
         : run_forward<T, false>)(cuda_of(device), args)
    BY_DTYPE(args->dtype, FORWARD);
#undef FORWARD
}

/* --- Backward --- */

enum { BACKWARD_ROWS = 16, BACKWARD_BLOCKS = 512 }; /* at least, at most */

/* Threads of a block that holds a row; registers allow no more. */
static constexpr int widest_backward(int each)
{
    return each == 8 ? 256 : 512;
}

/* Two sums over the threads of a row at once. One barrier: `turn` alternates between calls, and by the next barrier all have read this one's. */
template <bool WIDE> __device__ static inline float2 row_sums(float2 value, float2 (*part)[WARP], int turn)
{
    value = {warp_sum(value.x), warp_sum(value.y)};
    if constexpr (WIDE) {
        int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
        if (lane == 0)
            part[turn][warp] = value;
        __syncthreads();
        value = lane < warps ? part[turn][lane] : float2{0.0f, 0.0f};
        value = {warp_sum(value.x), warp_sum(value.y)};
    }
    return value;
}

/* Rows [blockIdx.x * block_rows, ...), in turns where several stand in a block. partial: (blocks, LAYER ? 2 : 1, width), dgain and dbias; or
 * NULL. */
template <class T, int EACH, int HELD, bool WIDE, bool LAYER>
__global__ void __launch_bounds__(WIDE ? widest_backward(EACH) : ROW_WARPS *WARP, 1)
    norm_backward_rows(const T *dy, const T *dsum, const T *sum, const float *mean, const float *rstd,
                       const float *gain, T *dx, float *partial, int64_t rows, int width, int block_rows)
{
    SHARED(float2, part, [2][WARP]);
    DYN_SHARED(float, joined); /* where several warps have sums: like a block's partial */
    constexpr int SUMS = LAYER ? 2 : 1;
    int thread = (int)threadIdx.x, threads = (int)blockDim.x;
    int64_t from = (int64_t)blockIdx.x * block_rows, end = min(from + block_rows, rows);
    float total[SUMS][HELD][EACH];
#pragma unroll
    for (int i = 0; i < SUMS; i++)
#pragma unroll
        for (int c = 0; c < HELD; c++)
#pragma unroll
            for (int k = 0; k < EACH; k++)
                total[i][c][k] = 0.0f;
    int turn = 0;
    for (int64_t row = from + threadIdx.y; row < end; row += blockDim.y, turn ^= 1) {
        float centre = LAYER ? load_one(mean + row) : 0.0f, scale = load_one(rstd + row);
        Span<T, EACH> grad[HELD], value[HELD];
#pragma unroll
        for (int c = 0; c < HELD; c++) {
            int j = (c * threads + thread) * EACH;
            if (j < width) {
                grad[c] = load_span<EACH>(dy + row * width + j);
                value[c] = load_span<EACH>(sum + row * width + j);
            }
        }
        float2 sums = {0.0f, 0.0f}; /* of g, of g times the centred value */
#pragma unroll
        for (int c = 0; c < HELD; c++) {
            int j = (c * threads + thread) * EACH;
            if (j < width) {
                Span<float, EACH> weight = load_span<EACH>(gain + j);
#pragma unroll
                for (int k = 0; k < EACH; k++) {
                    float d = widen(grad[c].at[k]), s = widen(value[c].at[k]) - centre, g = d * weight.at[k];
                    total[0][c][k] += d * (s * scale);
                    if (LAYER)
                        total[SUMS - 1][c][k] += d;
                    sums.x += g;
                    sums.y += g * s;
                }
            }
        }
        sums = row_sums<WIDE>(sums, part, turn);
        float mean_plain = LAYER ? sums.x / (float)width : 0.0f;
        float slope = sums.y * scale * scale / (float)width;
#pragma unroll
        for (int c = 0; c < HELD; c++) {
            int j = (c * threads + thread) * EACH;
            if (j < width) {
                Span<float, EACH> weight = load_span<EACH>(gain + j);
                Span<T, EACH> more;
                if (dsum)
                    more = load_span<EACH>(dsum + row * width + j);
#pragma unroll
                for (int k = 0; k < EACH; k++) {
                    float s = widen(value[c].at[k]) - centre;
                    float d = scale * (widen(grad[c].at[k]) * weight.at[k] - mean_plain - s * slope);
                    value[c].at[k] = narrow<T>(dsum ? widen(more.at[k]) + d : d);
                }
                store_span<EACH>(dx + row * width + j, value[c]);
            }
        }
    }
    if (partial) {
        partial += (int64_t)blockIdx.x * SUMS * width;
        /* Warp by warp, so the order is theirs. */
        for (int warp = 0; !WIDE && warp < (int)blockDim.y; warp++) {
            if ((int)threadIdx.y == warp) {
#pragma unroll
                for (int c = 0; c < HELD; c++) {
                    int j = (c * threads + thread) * EACH;
                    if (j < width) {
#pragma unroll
                        for (int i = 0; i < SUMS; i++)
#pragma unroll
                            for (int k = 0; k < EACH; k++) {
                                float *at = joined + i * width + j + k;
                                *at = total[i][c][k] = warp ? *at + total[i][c][k] : total[i][c][k];
                            }
                    }
                }
            }
            __syncthreads();
        }
        /* The last warp, or the block that is a row, has them all. */
        if (threadIdx.y == blockDim.y - 1) {
#pragma unroll
            for (int c = 0; c < HELD; c++) {
                int j = (c * threads + thread) * EACH;
                if (j < width) {
#pragma unroll
                    for (int i = 0; i < SUMS; i++) {
                        Span<float, EACH> span;
#pragma unroll
                        for (int k = 0; k < EACH; k++)
                            span.at[k] = total[i][c][k];
                        store_span<EACH>(partial + i * width + j, span);
                    }
                }
            }
        }
    }
}

/* What a call needs beside its arguments. */
typedef struct Backward {
    RowBlocks blocks;
    float *partial; /* or NULL: dgain and dbias are not wanted */
} Backward;

template <class T, int EACH, int HELD, bool WIDE, bool LAYER>
static void launch_backward(Cuda *cuda, const NormBackwardArgs *args, Backward backward)
{
    unsigned threads = norm_threads(args->width, args->width / EACH, HELD, WIDE ? widest_backward(EACH) : (int)WARP);
    unsigned shared = WIDE ? 0 : (unsigned)(sizeof(float) * (LAYER ? 2 : 1) * (size_t)args->width);
    CUDA_LAUNCH(cuda, (norm_backward_rows<T, EACH, HELD, WIDE, LAYER>), (unsigned)backward.blocks.count,
                dim3(threads, WIDE ? 1 : ROW_WARPS), shared, (const T *)args->dy, (const T *)args->dsum,
                (const T *)args->sum, args->mean, args->rstd, args->gain, (T *)args->dx, backward.partial, args->rows,
                (int)args->width, (int)backward.blocks.rows);
}

template <class T, bool PACKED, bool LAYER>
static void pick_backward(Cuda *cuda, const NormBackwardArgs *args, Backward backward)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    if (args->width / EACH <= 4 * WARP)
        launch_backward<T, EACH, 4, false, LAYER>(cuda, args, backward);
    else
        launch_backward<T, EACH, PACKED ? 4 : 8, true, LAYER>(cuda, args, backward);
}

template <class T> static void run_backward(Cuda *cuda, const NormBackwardArgs *args, Backward backward)
{
    int64_t width = args->width;
    bool packed = packs_fit(args->gain, 0) && packs_fit((const T *)args->dy, width) &&
                  packs_fit((const T *)args->dsum, width) && packs_fit((const T *)args->sum, width) &&
                  packs_fit((const T *)args->dx, width);
    if (args->kind == NORM_LAYER)
        (packed ? pick_backward<T, true, true> : pick_backward<T, false, true>)(cuda, args, backward);
    else
        (packed ? pick_backward<T, true, false> : pick_backward<T, false, false>)(cuda, args, backward);
}

void cuda_norm_backward(Device *device, const NormBackwardArgs *args)
{
    check_rows(args->rows);
    int64_t width = args->width, stride = (args->kind == NORM_LAYER ? 2 : 1) * width;
    REQUIRE(args->kind == NORM_LAYER || !args->dbias, "RMSNorm has no bias");
    Backward backward = {row_blocks(args->rows, BACKWARD_ROWS, BACKWARD_BLOCKS), NULL};
    float *partial = (float *)arena_alloc(&device->scratch, sizeof(float) * (size_t)(backward.blocks.count * stride));
    if (!device->backend->computes || !args->rows || !width)
        return;
    Cuda *cuda = cuda_of(device);
    if (args->dgain || args->dbias)
        backward.partial = partial;
#define BACKWARD(T) run_backward<T>(cuda, args, backward)
    BY_DTYPE(args->dtype, BACKWARD);
#undef BACKWARD
    if (args->dgain)
        cuda_join_blocks(cuda, partial, backward.blocks.count, stride, width, args->dgain);
    if (args->dbias)
        cuda_join_blocks(cuda, partial + width, backward.blocks.count, stride, width, args->dbias);
}
