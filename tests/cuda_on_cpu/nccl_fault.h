/* nccl_fault.h -- what a test may do to the emulation's NCCL: break it the ways that clusters do.
 *
 * The environment does the same for whole programs: CUDA_ON_CPU_NCCL_FAULT is a list, by commas, of
 *     silent:RANK:N   from its N-th operation on, that rank takes no part: nobody's operation completes
 *     error:RANK:N    as silent, and that rank's ncclCommGetAsyncError() tells ncclRemoteError
 *     stuck           ncclCommAbort() does not return */
#ifndef CUDA_ON_CPU_NCCL_FAULT_H
#define CUDA_ON_CPU_NCCL_FAULT_H

#include <nccl.h>

namespace cuda_on_cpu
{

/* This process's communicators take no part from their `count`-th operation from now on, and tell `error` (ncclSuccess: nothing). */
void nccl_fail_after(int count, ncclResult_t error);

} // namespace cuda_on_cpu
#endif
