/* device.h -- what kernels of this folder are written in; every .cu file includes it first.
 *
 * Why:   the same source is compiled by nvcc for a GPU and by g++ for the emulation (tests/cuda_on_cpu), which executes it where there is none.
 * Rules: - launched by CUDA_LAUNCH (cuda.h) alone; shared memory by SHARED(type, name, [dimensions]) and DYN_SHARED(type, name) alone.
 *        - lanes meet only through *_sync with an explicit mask that all named lanes reach; __syncwarp() between a warp's write and read of shared
 *          memory; every thread of a block reaches every __syncthreads(); no return before a barrier; no spinning, no waiting for other blocks.
 *        - a result is a function of shapes and values: sums run in a fixed order (a fixed tree inside a block, partial sums of blocks joined in
 *          order by a second kernel), never by atomics on floats, never cut by the number of processors of the GPU.
 *        - 16-byte accesses through load_pack/store_pack, single ones of interest through load_one/store_one: the emulation counts sectors there.
 *        - PTX only as the one-instruction wrappers of mma.h. No double in hot loops, no recursion, no local arrays with a computed index.
 * Types: T is float or bf16. Arithmetic is in float: widen() what is loaded, narrow<T>() what is stored, rounded once to nearest even. */
#ifndef KERNELS_CUDA_DEVICE_H
#define KERNELS_CUDA_DEVICE_H

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, bytes, stream, ...) (kernel)<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define SHARED(T, name, dims) __shared__ T name dims
#define DYN_SHARED(T, name)                                                                                            \
    extern __shared__ __align__(16) unsigned char dynamic_shared[];                                                    \
    T *name = reinterpret_cast<T *>(dynamic_shared)
#define COUNT_GLOBAL(at, bytes, store) ((void)0)
#define COUNT_SHARED(at, bytes, store) ((void)0)
#else
#include <cuda_on_cpu.h>
/* Hooks of the emulation: what a warp touches together. */
#define COUNT_GLOBAL(at, bytes, store) cuda_on_cpu::count_global(at, bytes, store)
#define COUNT_SHARED(at, bytes, store) cuda_on_cpu::count_shared(at, bytes, store)
#endif

#include <cstdint>

typedef __nv_bfloat16 bf16;

enum { WARP = 32 };
static const unsigned FULL_WARP = 0xffffffffu;

/* Data were checked when they were made; an index outside its range here is a defect, and stops the device. */
#ifdef __CUDACC__
#define KERNEL_REQUIRE(condition)                                                                                      \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            __trap();                                                                                                  \
    } while (0)
#else
#define KERNEL_REQUIRE(condition)                                                                                      \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            cuda_on_cpu::defect("%s:%d: %s does not hold", __FILE__, __LINE__, #condition);                            \
    } while (0)
#endif

/* --- Values --- */

__device__ static inline float widen(float value)
{
    return value;
}
__device__ static inline float widen(bf16 value)
{
    return __bfloat162float(value);
}
template <class T> __device__ static inline T narrow(float value);
template <> __device__ inline float narrow<float>(float value)
{
    return value;
}
template <> __device__ inline bf16 narrow<bf16>(float value)
{
    return __float2bfloat16_rn(value);
}

template <class T> __device__ static inline float load_one(const T *at)
{
    COUNT_GLOBAL(at, (int)sizeof(T), false);
    return widen(*at);
}
template <class T> __device__ static inline void store_one(T *at, float value)
{
    COUNT_GLOBAL(at, (int)sizeof(T), true);
    *at = narrow<T>(value);
}

/* 16 bytes: 4 floats or 8 bf16. The address must be a multiple of 16. */
template <class T> struct alignas(16) Pack {
    enum { COUNT = 16 / (int)sizeof(T) };
    T at[COUNT];
};
template <class T> __device__ static inline Pack<T> load_pack(const T *at)
{
    COUNT_GLOBAL(at, 16, false);
    Pack<T> pack;
    *reinterpret_cast<uint4 *>(&pack) = *reinterpret_cast<const uint4 *>(at);
    return pack;
}
template <class T> __device__ static inline void store_pack(T *at, Pack<T> pack)
{
    COUNT_GLOBAL(at, 16, true);
    *reinterpret_cast<uint4 *>(at) = *reinterpret_cast<const uint4 *>(&pack);
}
/* May rows of `width` elements from `at` on be read by packs? Uniform over a launch: decide on the host, pass as a template argument. */
template <class T> static inline bool packs_fit(const T *at, int64_t width)
{
    return reinterpret_cast<uintptr_t>(at) % 16 == 0 && width % Pack<T>::COUNT == 0;
}

/* --- Sums of a fixed order; every lane (thread) gets the result --- */

__device__ static inline float warp_sum(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(FULL_WARP, value, distance);
    return value;
}
__device__ static inline float warp_max(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, distance));
    return value;
}
/* All threads of a block whose size is a multiple of 32 (at most 1024); `part` is [32] of shared memory, free to be used again after the call. */
__device__ static inline float block_sum(float value, float *part)
{
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    value = warp_sum(value);
    if (lane == 0)
        part[warp] = value;
    __syncthreads();
    value = warp_sum(lane < warps ? part[lane] : 0.0f);
    __syncthreads();
    return value;
}
__device__ static inline float block_max(float value, float *part)
{
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, warps = (int)blockDim.x / WARP;
    value = warp_max(value);
    if (lane == 0)
        part[warp] = value;
    __syncthreads();
    value = warp_max(lane < warps ? part[lane] : part[0]);
    __syncthreads();
    return value;
}

__host__ __device__ static inline int64_t ceil_div(int64_t count, int64_t each)
{
    return (count + each - 1) / each;
}

#endif
