/* logits.cu -- softmax over a vocabulary: log-sum-exp, log-prob of a target, entropy, and the gradient of all three.
 *
 * A row is read once: every thread keeps the largest logit it has seen and sums relative to it, moved when a larger one comes (Milakov &
 * Gimelshein 2018), and threads are joined by a fixed tree. The sums are always made alike, entropy asked for or not, so that scoring and training
 * agree to the bit; arithmetic hides behind memory here. */
#include "kernels/cuda/cuda.h"

#include <cfloat>

enum {
    WIDE_THREADS = 512,
    NARROW_THREADS = 128,
    NARROW_VOCAB = 4096, /* up to here */
    COLUMNS = 4,         /* taken together, by one access of 16 bytes */
    BACKWARD_THREADS = 256,
    BACKWARD_RUN = 4096, /* columns of one block */
};

/* Of the logits seen so far: the largest, and sums of 2^z and of z 2^z, z in units of log 2 relative to the largest. Nothing seen: sum is 0. */
typedef struct Softmax {
    float largest, sum, weighted;
} Softmax;

/* Relative to `largest`, which is no smaller than what was the largest. */
__device__ static inline Softmax softmax_move(Softmax a, float largest, float scale)
{
    if (a.largest < largest && a.sum != 0.0f) {
        float shift = (a.largest - largest) * scale, factor = exp2f(shift);
        a.weighted = fmaf(a.sum, shift, a.weighted) * factor;
        a.sum *= factor;
    }
    a.largest = largest;
    return a;
}

__device__ static inline Softmax softmax_join(Softmax a, Softmax b, float scale)
{
    float largest = fmaxf(a.largest, b.largest);
    a = softmax_move(a, largest, scale);
    b = softmax_move(b, largest, scale);
    a.sum += b.sum;
    a.weighted += b.weighted;
    return a;
}

__device__ static inline Softmax softmax_warp(Softmax a, float scale)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Softmax b = {__shfl_xor_sync(FULL_WARP, a.largest, distance), __shfl_xor_sync(FULL_WARP, a.sum, distance),
                     __shfl_xor_sync(FULL_WARP, a.weighted, distance)};
        a = softmax_join(a, b, scale);
    }
    return a;
}

/* COLUMNS logits from column j on; -infinity past the vocabulary. Packs may read the stored tail, and forget it. */
template <bool PACKS> __device__ static inline void row_load(float *x, const float *row, int64_t j, int64_t vocab)
{
    if (PACKS && j < vocab) {
        Pack<float> pack = load_pack(row + j);
#pragma unroll
        for (int k = 0; k < COLUMNS; k++)
            x[k] = j + k < vocab ? pack.at[k] : -INFINITY;
    } else {
#pragma unroll
        for (int k = 0; k < COLUMNS; k++)
            x[k] = j + k < vocab ? load_one(row + j + k) : -INFINITY;
    }
}

template <bool PACKS> __device__ static inline Softmax row_softmax(const float *row, int64_t vocab, float scale)
{
    Softmax a = {-FLT_MAX, 0.0f, 0.0f};
    const int64_t step = (int64_t)COLUMNS * blockDim.x;
    for (int64_t j = (int64_t)COLUMNS * threadIdx.x; j < vocab; j += 2 * step) {
        float x[2 * COLUMNS], largest = a.largest;
        row_load<PACKS>(x, row, j, vocab);
        row_load<PACKS>(x + COLUMNS, row, j + step, vocab);
#pragma unroll
        for (int k = 0; k < 2 * COLUMNS; k++)
            largest = fmaxf(largest, x[k]);
        a = softmax_move(a, largest, scale);
#pragma unroll
        for (int k = 0; k < 2 * COLUMNS; k++) {
            float z = (x[k] - largest) * scale, e = exp2f(z);
            a.sum += e;
            a.weighted = e > 0.0f ? fmaf(e, z, a.weighted) : a.weighted;
        }
    }
    return a;
}

template <bool PACKS> __global__ void __launch_bounds__(WIDE_THREADS) logits_stats_rows(LogitsStatsArgs args)
{
    SHARED(Softmax, part, [WARP]);
    const int64_t i = blockIdx.x;
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    const float *row = args.logits + i * args.ld;
    const float inverse = 1.0f / args.temperature, scale = inverse * 1.44269504f;
    Softmax a = softmax_warp(row_softmax<PACKS>(row, args.vocab, scale), scale);
    if (lane == 0)
        part[warp] = a;
    __syncthreads();
    if (warp > 0)
        return;
    if (lane < warps)
        a = part[lane];
    else
        a = {-FLT_MAX, 0.0f, 0.0f};
    a = softmax_warp(a, scale);
    if (lane > 0)
        return;
    float log_sum = logf(a.sum);
    if (args.lse)
        args.lse[i] = fmaf(a.largest, inverse, log_sum);
    if (args.logprob) {
        int32_t target = args.target[i];
        KERNEL_REQUIRE(target >= 0 && target < args.vocab);
        args.logprob[i] = fmaf(row[target] - a.largest, inverse, -log_sum);
    }
    if (args.entropy)
        args.entropy[i] = fmaf(-0.693147181f, a.weighted / a.sum, log_sum);
}

void cuda_logits_stats(Device *device, const LogitsStatsArgs *args)
{
    REQUIRE(args->vocab >= 1 && args->vocab <= args->ld, "vocab %lld, ld %lld", (long long)args->vocab,
            (long long)args->ld);
    REQUIRE(!args->logprob || args->target, "log-probs of no targets");
    if (!device->backend->computes || args->rows == 0)
        return;
    int threads = args->vocab <= NARROW_VOCAB ? NARROW_THREADS : WIDE_THREADS;
    if (packs_fit(args->logits, args->ld))
        CUDA_LAUNCH(cuda_of(device), logits_stats_rows<true>, (unsigned)args->rows, threads, 0, *args);
    else
        CUDA_LAUNCH(cuda_of(device), logits_stats_rows<false>, (unsigned)args->rows, threads, 0, *args);
}

/* --- Backward --- */

typedef struct RowGradient {
    float lse, inverse, dlogprob, dentropy, entropy;
    int64_t target;
} RowGradient;

template <bool ENTROPY> __device__ static inline float row_gradient(float logit, int64_t j, const RowGradient *g)
{
    float logp = fmaf(logit, g->inverse, -g->lse), p = expf(logp);
    float slope = g->dlogprob * ((j == g->target ? 1.0f : 0.0f) - p);
    if (ENTROPY)
        slope = fmaf(-g->dentropy * p, (p > 0.0f ? logp : 0.0f) + g->entropy, slope);
    return slope * g->inverse;
}

/* What a thread reads it writes, and nobody else reads it: dlogits may be logits. A row that no loss wants may hold anything, and gives zeros. */
template <class T, bool PACKS, bool ENTROPY>
__global__ void __launch_bounds__(BACKWARD_THREADS) logits_backward_runs(LogitsBackwardArgs args, unsigned runs)
{
    constexpr int COUNT = Pack<T>::COUNT;
    const int64_t i = blockIdx.x / runs, from = (int64_t)(blockIdx.x % runs) * BACKWARD_RUN;
    const int64_t to = from + BACKWARD_RUN < args.ld ? from + BACKWARD_RUN : args.ld;
    const float *row = args.logits + i * args.ld;
    T *out = static_cast<T *>(args.dlogits) + i * args.ld;
    RowGradient g = {args.lse[i],
                     1.0f / args.temperature,
                     args.dlogprob[i],
                     ENTROPY ? args.dentropy[i] : 0.0f,
                     ENTROPY ? args.entropy[i] : 0.0f,
                     args.target[i]};
    KERNEL_REQUIRE(g.target >= 0 && g.target < args.vocab);
    const int64_t used = g.dlogprob == 0.0f && g.dentropy == 0.0f ? 0 : args.vocab;
    if (PACKS) {
        for (int64_t j = from + COUNT * (int64_t)threadIdx.x; j < to; j += COUNT * (int64_t)BACKWARD_THREADS) {
            Pack<T> pack;
#pragma unroll
            for (int k = 0; k < COUNT; k += COLUMNS) {
                Pack<float> x = load_pack(row + j + k);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++)
                    pack.at[k + c] = narrow<T>(j + k + c < used ? row_gradient<ENTROPY>(x.at[c], j + k + c, &g) : 0.0f);
            }
            store_pack(out + j, pack);
        }
    } else {
        for (int64_t j = from + threadIdx.x; j < to; j += BACKWARD_THREADS)
            store_one(out + j, j < used ? row_gradient<ENTROPY>(load_one(row + j), j, &g) : 0.0f);
    }
}

template <class T> static void backward_launch(Cuda *cuda, const LogitsBackwardArgs *args)
{
    const unsigned runs = (unsigned)ceil_div(args->ld, BACKWARD_RUN), blocks = (unsigned)(args->rows * runs);
    const bool packs = packs_fit(args->logits, args->ld) && packs_fit(static_cast<T *>(args->dlogits), args->ld);
    REQUIRE(args->rows * runs < INT32_MAX, "%lld rows of %lld logits", (long long)args->rows, (long long)args->ld);
    if (packs && args->dentropy)
        CUDA_LAUNCH(cuda, (logits_backward_runs<T, true, true>), blocks, BACKWARD_THREADS, 0, *args, runs);
    else if (packs)
        CUDA_LAUNCH(cuda, (logits_backward_runs<T, true, false>), blocks, BACKWARD_THREADS, 0, *args, runs);
    else if (args->dentropy)
        CUDA_LAUNCH(cuda, (logits_backward_runs<T, false, true>), blocks, BACKWARD_THREADS, 0, *args, runs);
    else
        CUDA_LAUNCH(cuda, (logits_backward_runs<T, false, false>), blocks, BACKWARD_THREADS, 0, *args, runs);
}

void cuda_logits_backward(Device *device, const LogitsBackwardArgs *args)
{
    REQUIRE(args->vocab >= 1 && args->vocab <= args->ld, "vocab %lld, ld %lld", (long long)args->vocab,
            (long long)args->ld);
    if (!device->backend->computes || args->rows == 0)
        return;
#define RUN(T) backward_launch<T>(cuda_of(device), args)
    BY_DTYPE(args->dtype, RUN);
#undef RUN
}
