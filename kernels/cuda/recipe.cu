/* recipe.cu -- what PPO does to per-token numbers: shaped rewards, advantages, moments, whitening. All of it in double, as on the CPU: a few
 * numbers per token. */
#include "kernels/cuda/partial.h"

enum { THREADS = 256, WARPS = THREADS / WARP };

__global__ void __launch_bounds__(THREADS) shape_tokens(RewardShapeArgs args)
{
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= args.tokens)
        return;
    const double d = (double)args.logprob[t] - (double)args.reference[t];
    const double kl = args.kind == KL_K1 ? d : args.kind == KL_K2 ? 0.5 * d * d : expm1(-d) + d;
    args.kl[t] = (float)kl;
    args.reward[t] = (float)(-(double)args.coefficient * kl);
}

__global__ void __launch_bounds__(THREADS) shape_scores(RewardShapeArgs args)
{
    const int64_t s = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (s >= args.sequences)
        return;
    const int64_t from = args.start[s], to = args.start[s + 1];
    KERNEL_REQUIRE(from >= 0 && from <= to && to <= args.tokens);
    if (to > from)
        args.reward[to - 1] += args.score[s];
}

void cuda_reward_shape(Device *device, const RewardShapeArgs *args)
{
    if (!device->backend->computes)
        return;
    if (args->tokens > 0)
        CUDA_LAUNCH(cuda_of(device), shape_tokens, (unsigned)ceil_div(args->tokens, THREADS), THREADS, 0, *args);
    if (args->sequences > 0)
        CUDA_LAUNCH(cuda_of(device), shape_scores, (unsigned)ceil_div(args->sequences, THREADS), THREADS, 0, *args);
}

/* A warp walks a sequence from its end, WARP tokens at a time: A_t = delta_t + decay A_{t+1} is scanned by doubling distances, and what lies behind
 * the run comes in with the power of decay of its distance. */
__global__ void __launch_bounds__(THREADS) gae_sequences(GaeArgs args)
{
    const int64_t s = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (s >= args.sequences)
        return;
    const int lane = (int)threadIdx.x % WARP;
    const int64_t start = args.start[s], end = args.start[s + 1];
    KERNEL_REQUIRE(start >= 0 && start <= end && end <= args.tokens);
    const double gamma = (double)args.gamma, decay = gamma * (double)args.lambda;
    double behind = 1.0; /* decay to the power of this lane's distance from the run's end */
    for (int k = lane; k < WARP; k++)
        behind *= decay;
    double carried = 0.0;
    for (int64_t to = end; to > start; to -= WARP) {
        const int64_t t = to - WARP + lane;
        const bool inside = t >= start;
        const double value = inside ? (double)args.value[t] : 0.0;
        const double next = inside && t + 1 < end ? (double)args.value[t + 1] : 0.0;
        double advantage = inside ? (double)args.reward[t] + gamma * next - value : 0.0, power = decay;
        for (int distance = 1; distance < WARP; distance *= 2) {
            double later = __shfl_down_sync(FULL_WARP, advantage, distance);
            if (lane + distance < WARP)
                advantage += power * later;
            power *= power;
        }
        advantage += behind * carried;
        carried = __shfl_sync(FULL_WARP, advantage, 0);
        if (inside) {
            args.advantage[t] = (float)advantage;
            args.returns[t] = (float)(advantage + value);
        }
    }
}

void cuda_gae(Device *device, const GaeArgs *args)
{
    if (!device->backend->computes || args->sequences == 0)
        return;
    CUDA_LAUNCH(cuda_of(device), gae_sequences, (unsigned)ceil_div(args->sequences, WARPS), THREADS, 0, *args);
}

__global__ void __launch_bounds__(PARTIAL_THREADS) moments_runs(MomentsArgs args, double *partial)
{
    double sum[MOMENTS] = {};
#pragma unroll
    for (int k = 0; k < PARTIAL_ROWS; k += PARTIAL_THREADS) {
        const int64_t i = (int64_t)blockIdx.x * PARTIAL_ROWS + k + threadIdx.x;
        if (i >= args.count)
            continue;
        const double x = (double)args.x[i] - args.centre;
        sum[MOMENT_SUM] += x;
        sum[MOMENT_SUM_SQUARES] += x * x;
    }
    partial_put<MOMENTS, false>(sum, partial, args.result);
}

void cuda_moments(Device *device, const MomentsArgs *args)
{
    const int64_t blocks = ceil_div(args->count, PARTIAL_ROWS);
    double *partial = partial_alloc(device, blocks, MOMENTS);
    if (!device->backend->computes)
        return;
    if (blocks > 0)
        CUDA_LAUNCH(cuda_of(device), moments_runs, (unsigned)blocks, PARTIAL_THREADS, 0, *args, partial);
    if (blocks != 1)
        partial_finish<MOMENTS, false>(cuda_of(device), partial, blocks, args->result);
}

__global__ void __launch_bounds__(THREADS) whiten_each(WhitenArgs args)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < args.count)
        store_one(args.x + i, (float)(((double)load_one(args.x + i) - args.shift) * args.scale + args.offset));
}

void cuda_whiten(Device *device, const WhitenArgs *args)
{
    if (!device->backend->computes || args->count == 0)
        return;
    CUDA_LAUNCH(cuda_of(device), whiten_each, (unsigned)ceil_div(args->count, THREADS), THREADS, 0, *args);
}
