/* optim.cu -- what happens to flat buffers once a step: the gradient's norm, the factor that clips it, AdamW.
 *
 * Memory's speed is all there is to reach: every number is read once, by 16 bytes, several accesses under way per thread. What AdamW makes of an
 * element is written in fmaf, so that no compiler's choice can make it depend on where a slice of the buffer begins or ends. */
#include "kernels/cuda/partial.h"

#include <cmath>
#include <cstring>

enum {
    THREADS = 256,
    WARPS = THREADS / WARP,
    SUM_UNROLL = 8, /* packs of a lane under way */
    CLIP_THREADS = 1024,
    ADAM_COUNT = 8, /* elements of a lane: two packs of floats, one of bf16 */
};

/* --- Norm --- */

/* A warp for each SUM_BLOCK. */
template <bool PACKS> __global__ void __launch_bounds__(THREADS) squares_blocks(SumSquaresArgs args)
{
    const int64_t block = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, from = block * SUM_BLOCK;
    if (from >= args.count)
        return;
    constexpr int COUNT = Pack<float>::COUNT, RUN = (int)WARP * COUNT;
    const int lane = (int)threadIdx.x % WARP;
    const float *x = args.x + from;
    const int64_t count = args.count - from < SUM_BLOCK ? args.count - from : (int64_t)SUM_BLOCK;
    double sum = 0.0;
    if (PACKS && count == SUM_BLOCK) {
#pragma unroll SUM_UNROLL
        for (int i = 0; i < SUM_BLOCK; i += RUN) {
            Pack<float> pack = load_pack(x + i + lane * COUNT);
#pragma unroll
            for (int k = 0; k < COUNT; k++)
                sum = fma((double)pack.at[k], (double)pack.at[k], sum);
        }
    } else { /* the same elements in the same order */
        for (int i = 0; i < SUM_BLOCK; i += RUN)
#pragma unroll
            for (int k = 0; k < COUNT; k++) {
                const int at = i + lane * COUNT + k;
                const double value = at < count ? (double)load_one(x + at) : 0.0;
                sum = fma(value, value, sum);
            }
    }
    sum = warp_sum(sum);
    if (lane == 0)
        args.result[block] = sum;
}

void cuda_sum_squares(Device *device, const SumSquaresArgs *args)
{
    if (!device->backend->computes || args->count == 0)
        return;
    const unsigned blocks = (unsigned)ceil_div(args->count, (int64_t)WARPS * SUM_BLOCK);
    if (packs_fit(args->x, SUM_BLOCK))
        CUDA_LAUNCH(cuda_of(device), squares_blocks<true>, blocks, THREADS, 0, *args);
    else
        CUDA_LAUNCH(cuda_of(device), squares_blocks<false>, blocks, THREADS, 0, *args);
}

/* One block: a model of 1.5 billion parameters has 366,000 sums, 3 MB that the L2 still holds. */
__global__ void __launch_bounds__(CLIP_THREADS) clip_factor(ClipScaleArgs args)
{
    SHARED(double, part, [WARP]);
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < args.blocks; i += CLIP_THREADS)
        sum += args.block[i];
    sum = warp_sum(sum);
    if (lane == 0)
        part[warp] = sum;
    __syncthreads();
    sum = warp_sum(part[lane]);
    if (threadIdx.x > 0)
        return;
    const double norm = sqrt(sum), factor = args.max_norm / (norm + 1e-6);
    *args.norm = norm;
    *args.scale = !isfinite(norm) ? -1.0f : args.max_norm > 0.0 && factor < 1.0 ? (float)factor : 1.0f;
}

void cuda_clip_scale(Device *device, const ClipScaleArgs *args)
{
    if (device->backend->computes)
        CUDA_LAUNCH(cuda_of(device), clip_factor, 1, CLIP_THREADS, 0, *args);
}

/* --- AdamW --- */

/* `rate` and `root` hold the bias corrections of the form in use: p = p * keep - rate * m / (sqrt(v) * root + epsilon). */
typedef struct AdamFactors {
    float beta1, beta2, rest1, rest2, rate, root, epsilon, keep;
} AdamFactors;

typedef struct AdamElement {
    float p, m, v;
} AdamElement;

__device__ static inline AdamElement adamw_element(AdamElement a, float gradient, const AdamFactors *f)
{
    a.m = fmaf(f->beta1, a.m, f->rest1 * gradient);
    a.v = fmaf(f->beta2, a.v, f->rest2 * gradient * gradient);
    a.p = fmaf(a.p, f->keep, -(f->rate * a.m / fmaf(sqrtf(a.v), f->root, f->epsilon)));
    return a;
}

/* Two values, rounded, in one register. */
__device__ static inline unsigned rounded_pair(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* Two packs of each lane, of two runs of a warp that lie behind each other, rounded: lanes pair up, the even one stores both their parts of the
 * first run, the odd one those of the second, so that all accesses are of 16 bytes and a warp's leave no gap. */
__device__ static inline void copy_store(bf16 *run, const Pack<float> *value)
{
    constexpr int COUNT = Pack<float>::COUNT;
    const int lane = (int)threadIdx.x % WARP, odd = lane % 2;
    unsigned mine[2], theirs[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const unsigned first = rounded_pair(value[0].at[2 * k], value[0].at[2 * k + 1]);
        const unsigned second = rounded_pair(value[1].at[2 * k], value[1].at[2 * k + 1]);
        mine[k] = odd ? second : first;
        theirs[k] = __shfl_xor_sync(FULL_WARP, odd ? first : second, 1);
    }
    const uint4 words =
        odd ? make_uint4(theirs[0], theirs[1], mine[0], mine[1]) : make_uint4(mine[0], mine[1], theirs[0], theirs[1]);
    Pack<bf16> pack;
    memcpy(&pack, &words, sizeof pack);
    store_pack(run + (odd * WARP + lane - odd) * COUNT, pack);
}

/* A warp takes WARP * ADAM_COUNT elements. */
template <bool PACKS, bool COPY>
__global__ void __launch_bounds__(THREADS) adamw_each(AdamWArgs args, AdamFactors factors)
{
    const float scale = args.scale ? *args.scale : 1.0f;
    if (scale < 0.0f) /* the norm is no number: all stays as it is */
        return;
    constexpr int COUNT = Pack<float>::COUNT, RUN = (int)WARP * COUNT, WHOLE = (int)WARP * ADAM_COUNT;
    const int lane = (int)threadIdx.x % WARP;
    const int64_t from = ((int64_t)blockIdx.x * WARPS + threadIdx.x / WARP) * WHOLE;
    bf16 *copy = static_cast<bf16 *>(args.copy);
    if (PACKS && from + WHOLE <= args.count) {
        Pack<float> p[2], g[2], m[2], v[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int64_t i = from + k * RUN + lane * COUNT;
            g[k] = load_pack(args.gradient + i);
            p[k] = load_pack(args.parameter + i);
            m[k] = load_pack(args.exp_avg + i);
            v[k] = load_pack(args.exp_avg_sq + i);
        }
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int64_t i = from + k * RUN + lane * COUNT;
#pragma unroll
            for (int c = 0; c < COUNT; c++) {
                AdamElement a = {p[k].at[c], m[k].at[c], v[k].at[c]};
                a = adamw_element(a, g[k].at[c] * scale, &factors);
                p[k].at[c] = a.p;
                m[k].at[c] = a.m;
                v[k].at[c] = a.v;
            }
            store_pack(args.parameter + i, p[k]);
            store_pack(args.exp_avg + i, m[k]);
            store_pack(args.exp_avg_sq + i, v[k]);
        }
        if (COPY)
            copy_store(copy + from, p);
    } else {
        for (int64_t i = from + lane; i < from + WHOLE && i < args.count; i += WARP) {
            AdamElement a = {load_one(args.parameter + i), load_one(args.exp_avg + i), load_one(args.exp_avg_sq + i)};
            a = adamw_element(a, load_one(args.gradient + i) * scale, &factors);
            store_one(args.parameter + i, a.p);
            store_one(args.exp_avg + i, a.m);
            store_one(args.exp_avg_sq + i, a.v);
            if (COPY)
                store_one(copy + i, a.p);
        }
    }
}

static AdamFactors adamw_factors(const AdamWArgs *args)
{
    const double first = 1.0 - pow(args->beta1, (double)args->step),
                 second = 1.0 - pow(args->beta2, (double)args->step);
    AdamFactors f = {};
    f.beta1 = (float)args->beta1;
    f.beta2 = (float)args->beta2;
    f.rest1 = (float)(1.0 - args->beta1);
    f.rest2 = (float)(1.0 - args->beta2);
    f.epsilon = (float)args->epsilon;
    f.keep = (float)(1.0 - args->lr * args->decay);
    f.rate = (float)(args->form == ADAM_TORCH ? args->lr / first : args->lr * sqrt(second) / first);
    f.root = args->form == ADAM_TORCH ? (float)(1.0 / sqrt(second)) : 1.0f;
    return f;
}

void cuda_adamw(Device *device, const AdamWArgs *args)
{
    REQUIRE(args->step >= 1, "step %lld counts from 1", (long long)args->step);
    if (!device->backend->computes || args->count == 0)
        return;
    Cuda *cuda = cuda_of(device);
    const AdamFactors factors = adamw_factors(args);
    const unsigned blocks = (unsigned)ceil_div(args->count, (int64_t)THREADS * ADAM_COUNT);
    const bool packs = packs_fit(args->parameter, ADAM_COUNT) && packs_fit(args->gradient, ADAM_COUNT) &&
                       packs_fit(args->exp_avg, ADAM_COUNT) && packs_fit(args->exp_avg_sq, ADAM_COUNT) &&
                       packs_fit(static_cast<bf16 *>(args->copy), ADAM_COUNT);
    if (packs && args->copy)
        CUDA_LAUNCH(cuda, (adamw_each<true, true>), blocks, THREADS, 0, *args, factors);
    else if (packs)
        CUDA_LAUNCH(cuda, (adamw_each<true, false>), blocks, THREADS, 0, *args, factors);
    else if (args->copy)
        CUDA_LAUNCH(cuda, (adamw_each<false, true>), blocks, THREADS, 0, *args, factors);
    else
        CUDA_LAUNCH(cuda, (adamw_each<false, false>), blocks, THREADS, 0, *args, factors);
}
