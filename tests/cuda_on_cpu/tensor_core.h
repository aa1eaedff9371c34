/* tensor_core.h -- what kernels/cuda/mma.h calls in place of its instructions: matrix fragments of a warp, and copies that land late.
 *
 * A warp's instruction is a collective: all 32 lanes come, at one line. Layouts are those that the PTX ISA documents (kernels/cuda/mma.h). A copy
 * poisons its destination when it begins and lands when its group is waited for, the latest moment the instruction allows; one that is never waited for
 * is reported, and so is an ldmatrix of what other lanes copied and have not yet shared by a barrier. */
#ifndef CUDA_ON_CPU_TENSOR_CORE_H
#define CUDA_ON_CPU_TENSOR_CORE_H

#include "tests/cuda_on_cpu/cuda_on_cpu.h"

namespace cuda_on_cpu
{

/* Products of bf16 are exact in fp32; they are added to c one by one, in increasing k. The hardware's order is its own. */
void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], CUDA_HERE);

void ldmatrix(uint32_t *r, int count, bool transposed, const void *shared, Place place);
static inline void ldmatrix_x4(uint32_t r[4], const void *shared, CUDA_HERE)
{
    ldmatrix(r, 4, false, shared, CUDA_PLACE);
}
static inline void ldmatrix_x4_trans(uint32_t r[4], const void *shared, CUDA_HERE)
{
    ldmatrix(r, 4, true, shared, CUDA_PLACE);
}
static inline void ldmatrix_x2(uint32_t r[2], const void *shared, CUDA_HERE)
{
    ldmatrix(r, 2, false, shared, CUDA_PLACE);
}
static inline void ldmatrix_x2_trans(uint32_t r[2], const void *shared, CUDA_HERE)
{
    ldmatrix(r, 2, true, shared, CUDA_PLACE);
}

/* async_copy.cc */
void cp_async_16(void *shared, const void *global, bool valid, CUDA_HERE);
void cp_async_commit(void);
void async_copies_wait(int newest);
template <int newest> static inline void cp_async_wait(void)
{
    static_assert(newest >= 0, "a number of groups");
    async_copies_wait(newest);
}
/* A defect, unless all lanes of the running warp may read these 16 bytes. */
void async_copies_seen_by_warp(const void *shared, Place place);

} // namespace cuda_on_cpu
#endif
