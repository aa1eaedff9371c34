/* cuda.h -- the host's side of this folder: streams, checks, launches, and the names of all ops. Internal.
 *
 * Errors: a CUDA call that fails inside an op is no operating failure that the stage could survive: the device is lost. It aborts with the call,
 *        what the driver says, the last op known to be complete and the first that is not (cuda_check). */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include "kernels/cuda/device.h"

#include <cublas_v2.h>

extern "C" {
#include "core/base/memory.h"
#include "core/base/status.h"
#include "kernels/cuda/device_cuda.h"
}

typedef struct Cuda Cuda;

static inline Cuda *cuda_of(Device *device)
{
    return (Cuda *)device->self;
}
/* The stream that ops run on; `device` must compute. */
cudaStream_t cuda_stream(Cuda *cuda);
cublasHandle_t cuda_blas(Cuda *cuda);
/* Are F32 products allowed to round their inputs to TF32? */
bool cuda_tf32(const Cuda *cuda);

void cuda_check(cudaError_t error, const char *call, const char *file, int line);
void cuda_check_blas(cublasStatus_t error, const char *call, const char *file, int line);
#define CUDA(call) cuda_check((call), #call, __FILE__, __LINE__)
#define BLAS(call) cuda_check_blas((call), #call, __FILE__, __LINE__)

/* Every kernel that is launched anywhere is in one list before main begins, so that a device loads all of them when it opens: a kernel loaded later may
 * wait for one that runs, and a collective that runs may wait for a peer that waits likewise. */
bool kernel_list(const void *kernel);
template <auto kernel> struct Listed {
    static const bool done;
};
template <auto kernel> const bool Listed<kernel>::done = kernel_list((const void *)kernel);

/* Launch on the ops' stream, and see that it was accepted. A kernel template with commas stands in parentheses. */
#define CUDA_LAUNCH(cuda, kernel, grid, block, bytes, ...)                                                             \
    do {                                                                                                               \
        (void)Listed<(kernel)>::done;                                                                                  \
        LAUNCH(kernel, grid, block, bytes, cuda_stream(cuda), __VA_ARGS__);                                            \
        cuda_check(cudaGetLastError(), "launch of " #kernel, __FILE__, __LINE__);                                      \
    } while (0)

/* RUN(float) or RUN(bf16), by a dtype. */
#define BY_DTYPE(dtype, RUN)                                                                                           \
    do {                                                                                                               \
        if ((dtype) == DTYPE_F32)                                                                                      \
            RUN(float);                                                                                                \
        else if ((dtype) == DTYPE_BF16)                                                                                \
            RUN(bf16);                                                                                                 \
        else                                                                                                           \
            REQUIRE(false, "a kernel for %s", dtype_name(dtype));                                                      \
    } while (0)

/* Every op of this backend, by OP_LIST: a missing one does not link. Scratch is taken before `if (!device->backend->computes) return;`, so that
 * the dry device asks for the same. */
#define CUDA_PROTOTYPE(name, Stem) void cuda_##name(Device *device, const Stem##Args *args);
OP_LIST(CUDA_PROTOTYPE)
#undef CUDA_PROTOTYPE

#endif
