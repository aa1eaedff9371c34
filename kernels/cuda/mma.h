/* mma.h -- the tensor cores' instructions, asynchronous copies, the plain power of two: one PTX instruction each; sm_80 and up.
 *
 * Rules: every wrapper of a warp's instruction is reached by all 32 lanes together. Under the emulation each is a warp collective with the fragment
 *        layouts of the PTX ISA ("Matrix fragments for mma.m16n8k16"), so the tensor-core path itself is executed:
 *          lane = 4 g + t     a: (m 16, k 16) row-major   a[0] = (g, 2t..2t+1)  a[1] = (g + 8, 2t..)  a[2] = (g, 2t + 8..)  a[3] = (g + 8, 2t + 8..)
 *                             b: (k 16, n 8) col-major    b[0] = (2t..2t+1, g)  b[1] = (2t + 8..2t + 9, g)
 *                             c, d: (m 16, n 8)           [0], [1] = (g, 2t), (g, 2t + 1)   [2], [3] = (g + 8, 2t), (g + 8, 2t + 1)
 *        The lower half of a register is the lower index. ldmatrix: lane 8 j + i brings the address of row i of matrix j, 8 elements of 16 bits that
 *        begin on 16 bytes of shared memory; r[j] of lane 4 g + t gets (g, 2t..2t+1) of matrix j, or, transposed, (2t..2t+1, g).
 *        A copy that cp_async_16 began is there for its own thread after the cp_async_wait that covers its group, for others after a barrier behind
 *        that; until then its destination must not be touched. */
#ifndef KERNELS_CUDA_MMA_H
#define KERNELS_CUDA_MMA_H

#include "kernels/cuda/device.h"

#ifdef __CUDACC__

/* d = a b + c, bf16 products summed in fp32; d may be c. */
__device__ static inline void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
                   "f"(c[3]));
}

__device__ static inline uint32_t shared_address(const void *shared)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/* Four matrices: all 32 lanes bring an address. */
__device__ static inline void ldmatrix_x4(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}
__device__ static inline void ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared))
                 : "memory");
}
/* Two matrices: lanes 0 to 15 bring an address; those of the others are not looked at. */
__device__ static inline void ldmatrix_x2(uint32_t r[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared))
                 : "memory");
}
__device__ static inline void ldmatrix_x2_trans(uint32_t r[2], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared))
                 : "memory");
}

/* Begin to copy 16 bytes, both addresses on 16 bytes. Not valid: zeros, and `global` is not read. */
__device__ static inline void cp_async_16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
/* What this thread began since its last commit is a group. */
__device__ static inline void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All groups of this thread but the newest `newest` have arrived. */
template <int newest> __device__ static inline void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
}

/* 2^x within 2 ulp; what would be smaller than the least normal number is 0. exp2f() spends three instructions more on those. */
__device__ static inline float exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else

#include <tensor_core.h>

static inline float exp2_approx(float x)
{
    return exp2f(x);
}

using cuda_on_cpu::cp_async_16;
using cuda_on_cpu::cp_async_commit;
using cuda_on_cpu::cp_async_wait;
using cuda_on_cpu::ldmatrix_x2;
using cuda_on_cpu::ldmatrix_x2_trans;
using cuda_on_cpu::ldmatrix_x4;
using cuda_on_cpu::ldmatrix_x4_trans;
using cuda_on_cpu::mma_m16n8k16_bf16;

#endif
#endif
