/* progress.h -- how far the device has come, op by op, as it says itself; what is left to know when it has failed.
 *
 * Why:  a fault shows at whatever call comes next, and from then on every question to CUDA, events included, is answered with the error. So
 *       behind each op the device writes its number into the host's memory, where it stays. */
#ifndef KERNELS_CUDA_PROGRESS_H
#define KERNELS_CUDA_PROGRESS_H

#include <cstdio>

#include <cuda.h>
#include <cuda_runtime.h>

extern "C" {
#include "core/tensor/ops.h"
}

enum { PROGRESS_NAMES = 4096 }; /* more ops than a launch queue holds */

typedef struct Progress {
    CUresult (*write)(CUstream, CUdeviceptr, cuuint32_t,
                      unsigned); /* NULL: the driver has no such thing, and nothing is known */
    volatile uint32_t *complete; /* pinned; the low bits of a count */
    uint64_t asked;
    OpKind op[PROGRESS_NAMES];
} Progress;

cudaError_t progress_open(Progress *progress);
void progress_close(Progress *progress);
/* Before the first and behind the last thing that an op asks of `stream`. OP_COUNT: many of them, kept and done again. */
void progress_begin(Progress *progress, OpKind op);
void progress_end(Progress *progress, cudaStream_t stream);
/* How many ops have ended. */
uint64_t progress_complete(const Progress *progress);
/* The last op that ended and the first that did not. */
void progress_report(const Progress *progress, FILE *out);

#endif
