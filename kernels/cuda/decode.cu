/* decode.cu -- the end of a decode step: what was drawn becomes the next input. */
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

/* One block, so that everybody has read *step before it rises. */
__global__ void __launch_bounds__(THREADS) decode_next_kernel(DecodeNextArgs args)
{
    int32_t step = *args.step;
    KERNEL_REQUIRE(step >= 0 && step < args.steps_max);
    int32_t *history = args.history + (int64_t)step * 2 * args.rows;
    for (int64_t i = threadIdx.x; i < args.rows; i += THREADS) {
        int32_t left = args.left[i], token = args.token[i];
        history[i] = left > 0 ? token : -2;
        history[args.rows + i] = __float_as_int(args.logprob[i]);
        if (left <= 0)
            continue;
        bool ends = token < 0;
        for (int64_t k = 0; k < args.stops; k++)
            ends |= token == args.stop[k];
        args.past[i]++;
        args.index[i]++;
        args.left[i] = ends ? 0 : left - 1;
        if (token >= 0)
            args.next[i] = token;
    }
    __syncthreads();
    if (threadIdx.x == 0)
        *args.step = step + 1;
}

void cuda_decode_next(Device *device, const DecodeNextArgs *args)
{
    if (!device->backend->computes)
        return;
    CUDA_LAUNCH(cuda_of(device), decode_next_kernel, 1, THREADS, 0, *args);
}
