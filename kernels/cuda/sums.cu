/* sums.cu -- partial sums of row blocks, joined. */
#include "kernels/cuda/device.h"

#include "kernels/cuda/sums.h"

/* A block has a warp's width of columns; each of its warps adds every JOIN_WARPS-th row, then the warps' sums are added in order. */
enum { JOIN_WARPS = 16 };

__global__ void join_blocks(const float *partial, int blocks, int64_t stride, int64_t width, float *total)
{
    SHARED(float, part, [JOIN_WARPS][WARP]);
    int lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    int64_t j = (int64_t)blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (j < width) {
#pragma unroll 8
        for (int block = warp; block < blocks; block += JOIN_WARPS)
            sum += load_one(partial + block * stride + j);
    }
    part[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && j < width) {
        sum = 0.0f;
#pragma unroll
        for (int i = 0; i < JOIN_WARPS; i++)
            sum += part[i][lane];
        store_one(total + j, load_one(total + j) + sum);
    }
}

void cuda_join_blocks(Cuda *cuda, const float *partial, int64_t blocks, int64_t stride, int64_t width, float *total)
{
    CUDA_LAUNCH(cuda, join_blocks, (unsigned)ceil_div(width, WARP), dim3(WARP, JOIN_WARPS), 0, partial, (int)blocks,
                stride, width, total);
}
