/* partial.h -- sums in double over fixed blocks of rows, joined in order: how losses, moments and norms are added up.
 *
 * Why:   a sum must be the same whenever the same numbers are added, so its order may depend on how many there are and on nothing else. A block
 *        of threads adds a fixed run of rows by a fixed tree; a second launch adds the runs in a fixed order. One run needs no second launch. */
#ifndef KERNELS_CUDA_PARTIAL_H
#define KERNELS_CUDA_PARTIAL_H

#include "kernels/cuda/cuda.h"

enum {
    PARTIAL_THREADS = 256,
    PARTIAL_ROWS = 1024, /* of one block */
    PARTIAL_WARPS = PARTIAL_THREADS / WARP,
};

__device__ static inline double warp_sum(double value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(FULL_WARP, value, distance);
    return value;
}

/* Sums of this block of PARTIAL_THREADS threads: added to `result`, or written there, when the block is the only one; else kept in
 * partial (blocks, COUNT) for partial_join. */
template <int COUNT, bool ADD>
__device__ static inline void partial_put(const double (&value)[COUNT], double *partial, double *result)
{
    SHARED(double, part, [COUNT][PARTIAL_WARPS]);
    const int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        double sum = warp_sum(value[k]);
        if (lane == 0)
            part[k][warp] = sum;
    }
    __syncthreads();
    if ((int)threadIdx.x < COUNT) {
        double sum = 0.0;
        for (int i = 0; i < PARTIAL_WARPS; i++)
            sum += part[threadIdx.x][i];
        if (gridDim.x > 1)
            partial[(int64_t)blockIdx.x * COUNT + threadIdx.x] = sum;
        else if (ADD)
            result[threadIdx.x] += sum;
        else
            result[threadIdx.x] = sum;
    }
}

/* One block, a warp for each of the sums: lanes take turns over the blocks, then a tree. */
template <int COUNT, bool ADD>
__global__ void __launch_bounds__(COUNT *WARP) partial_join(const double *partial, int64_t blocks, double *result)
{
    const int k = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    double sum = 0.0;
    for (int64_t block = lane; block < blocks; block += WARP)
        sum += partial[block * COUNT + k];
    sum = warp_sum(sum);
    if (lane == 0)
        result[k] = ADD ? result[k] + sum : sum;
}

template <int COUNT, bool ADD>
static inline void partial_finish(Cuda *cuda, const double *partial, int64_t blocks, double *result)
{
    CUDA_LAUNCH(cuda, (partial_join<COUNT, ADD>), 1, COUNT * WARP, 0, partial, blocks, result);
}

static inline double *partial_alloc(Device *device, int64_t blocks, int count)
{
    return (double *)arena_alloc(&device->scratch, sizeof(double) * (size_t)(blocks * count + 1));
}

#endif
