/* recipe.c -- what PPO does to per-token numbers: shaped rewards, advantages, moments, whitening. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

void KERNEL(reward_shape)(Device *device, const RewardShapeArgs *args)
{
    (void)device;
    for (int64_t t = 0; t < args->tokens; t++) {
        double d = (double)args->logprob[t] - (double)args->reference[t];
        double kl = args->kind == KL_K1 ? d : args->kind == KL_K2 ? 0.5 * d * d : expm1(-d) + d;
        args->kl[t] = (float)kl;
        args->reward[t] = (float)(-(double)args->coefficient * kl);
    }
    for (int64_t s = 0; s < args->sequences; s++)
        if (args->start[s + 1] > args->start[s])
            args->reward[args->start[s + 1] - 1] += args->score[s];
}

void KERNEL(gae)(Device *device, const GaeArgs *args)
{
    (void)device;
    double gamma = args->gamma, decay = (double)args->gamma * (double)args->lambda;
    for (int64_t s = 0; s < args->sequences; s++) {
        double advantage = 0.0, next = 0.0;
        for (int64_t t = (int64_t)args->start[s + 1] - 1; t >= args->start[s]; t--) {
            double value = args->value[t];
            advantage = (double)args->reward[t] + gamma * next - value + decay * advantage;
            args->advantage[t] = (float)advantage;
            args->returns[t] = (float)(advantage + value);
            next = value;
        }
    }
}

enum { MOMENT_BLOCK = 16384 };

void KERNEL(moments)(Device *device, const MomentsArgs *args)
{
    int64_t blocks = (args->count + MOMENT_BLOCK - 1) / MOMENT_BLOCK;
    double *partial = arena_alloc(&device->scratch, sizeof(double) * (size_t)(MOMENTS * blocks + 1));
    if (!device->backend->computes)
        return;
    PARALLEL_FOR(device, args->count)
    for (int64_t block = 0; block < blocks; block++) {
        double sum = 0.0, squares = 0.0;
        int64_t end = min_i64((block + 1) * MOMENT_BLOCK, args->count);
        for (int64_t i = block * MOMENT_BLOCK; i < end; i++) {
            double x = (double)args->x[i] - args->centre;
            sum += x;
            squares += x * x;
        }
        partial[MOMENTS * block + MOMENT_SUM] = sum;
        partial[MOMENTS * block + MOMENT_SUM_SQUARES] = squares;
    }
    double total[MOMENTS] = {0.0, 0.0};
    for (int64_t block = 0; block < blocks; block++)
        for (int k = 0; k < MOMENTS; k++)
            total[k] += partial[MOMENTS * block + k];
    for (int k = 0; k < MOMENTS; k++)
        args->result[k] = total[k];
}

void KERNEL(whiten)(Device *device, const WhitenArgs *args)
{
    PARALLEL_FOR(device, args->count)
    for (int64_t i = 0; i < args->count; i++)
        args->x[i] = (float)(((double)args->x[i] - args->shift) * args->scale + args->offset);
}
