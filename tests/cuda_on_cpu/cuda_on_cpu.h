/* cuda_on_cpu.h -- what nvcc knows by itself and g++ does not: the built-ins of device code. kernels/cuda/device.h includes it in place of nvcc's.
 *
 * Types, enumerations and signatures come from the toolkit's own headers, so they cannot drift; only what those headers leave to the compiler
 * is written here. Built-ins that meet other threads take the line they stand on as a last, defaulted argument: that is how reports name it,
 * and how two barriers are told apart. Fast-math names run at full precision. */
#ifndef CUDA_ON_CPU_H
#define CUDA_ON_CPU_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/traffic.h"

#define CUDA_HERE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define CUDA_PLACE                                                                                                     \
    cuda_on_cpu::Place                                                                                                 \
    {                                                                                                                  \
        file_, line_                                                                                                   \
    }

/* --- Launching and shared memory: the two source rules of kernels/cuda/device.h --- */

namespace cuda_on_cpu
{
void launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
            std::function<void()> body);
}
/* Arguments are copied when the launch is asked for, as the hardware does. */
#define LAUNCH(kernel, grid, block, bytes, stream, ...)                                                                \
    cuda_on_cpu::launch(#kernel, (const void *)(kernel), grid, block, bytes, stream,                                   \
                        [=, arguments_ = std::make_tuple(__VA_ARGS__)] { std::apply(kernel, arguments_); })
#define SHARED(T, name, dims)                                                                                          \
    typedef T name##_type dims;                                                                                        \
    name##_type &name = *(name##_type *)cuda_on_cpu::shared_static({__FILE__, __LINE__}, sizeof(name##_type))
#define DYN_SHARED(T, name) T *name = (T *)cuda_on_cpu::shared_dynamic()
#undef __shared__
#define __shared__ static_assert(false, "shared memory is declared by SHARED or DYN_SHARED"),

#include <tuple>

/* Registers are not counted here. */
#define __launch_bounds__(...)

static const int warpSize = cuda_on_cpu::WARP_LANES;

/* --- Barriers --- */

static inline void __syncthreads(CUDA_HERE)
{
    cuda_on_cpu::block_barrier(CUDA_PLACE, 0);
}
static inline int __syncthreads_count(int predicate, CUDA_HERE)
{
    return cuda_on_cpu::block_barrier(CUDA_PLACE, predicate);
}
static inline int __syncthreads_or(int predicate, CUDA_HERE)
{
    return cuda_on_cpu::block_barrier(CUDA_PLACE, predicate) != 0;
}
static inline int __syncthreads_and(int predicate, CUDA_HERE)
{
    return cuda_on_cpu::block_barrier(CUDA_PLACE, predicate) == (int)(blockDim.x * blockDim.y * blockDim.z);
}
static inline void __threadfence()
{
}
static inline void __threadfence_block()
{
}

/* --- Warps --- */

namespace cuda_on_cpu
{

struct Shuffle {
    uint64_t bits;
    int source; /* lane read */
    uint64_t result;
    Place place;
};
void shuffle_apply(void *payload[WARP_LANES], unsigned mask);

struct Vote {
    int predicate;
    unsigned result; /* the ballot */
};
void vote_apply(void *payload[WARP_LANES], unsigned mask);

void sync_apply(void *payload[WARP_LANES], unsigned mask); /* async_copy.cc */

template <class T> static inline T shuffle(Place place, unsigned mask, T value, int source)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a register's worth");
    Shuffle payload = {0, source, 0, place};
    memcpy(&payload.bits, &value, sizeof value);
    warp_meet(place, mask, shuffle_apply, &payload);
    memcpy(&value, &payload.result, sizeof value);
    return value;
}

static inline int lane_id(void)
{
    return (int)(thread_linear() % WARP_LANES);
}

} // namespace cuda_on_cpu

template <class T> static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_HERE)
{
    int lane = cuda_on_cpu::lane_id();
    return cuda_on_cpu::shuffle(CUDA_PLACE, mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_HERE)
{
    int lane = cuda_on_cpu::lane_id(), first = lane & ~(width - 1);
    return cuda_on_cpu::shuffle(CUDA_PLACE, mask, value, lane - (int)delta >= first ? lane - (int)delta : lane);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_HERE)
{
    int lane = cuda_on_cpu::lane_id(), end = (lane & ~(width - 1)) + width;
    return cuda_on_cpu::shuffle(CUDA_PLACE, mask, value, lane + (int)delta < end ? lane + (int)delta : lane);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, CUDA_HERE)
{
    int lane = cuda_on_cpu::lane_id(), end = (lane & ~(width - 1)) + width, source = lane ^ with;
    return cuda_on_cpu::shuffle(CUDA_PLACE, mask, value, source < end ? source : lane);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_HERE)
{
    cuda_on_cpu::warp_meet(CUDA_PLACE, mask, cuda_on_cpu::sync_apply, NULL);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_HERE)
{
    cuda_on_cpu::Vote vote = {predicate, 0};
    cuda_on_cpu::warp_meet(CUDA_PLACE, mask, cuda_on_cpu::vote_apply, &vote);
    return vote.result;
}
static inline int __any_sync(unsigned mask, int predicate, CUDA_HERE)
{
    return __ballot_sync(mask, predicate, file_, line_) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, CUDA_HERE)
{
    return __ballot_sync(mask, predicate, file_, line_) == mask;
}

/* --- Atomics: whole numbers only; a sum of floats in the order of arrival is no result (core/tensor/ops.h) --- */

static inline int atomicAdd(int *at, int value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
static inline unsigned atomicAdd(unsigned *at, unsigned value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
static inline unsigned long long atomicAdd(unsigned long long *at, unsigned long long value)
{
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
template <class T> static inline T atomicMax(T *at, T value)
{
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange_n(at, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return seen;
}
template <class T> static inline T atomicMin(T *at, T value)
{
    T seen = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (value < seen && !__atomic_compare_exchange_n(at, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return seen;
}
template <class T> static inline T atomicCAS(T *at, T expected, T value)
{
    __atomic_compare_exchange_n(at, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <class T> static inline T atomicExch(T *at, T value)
{
    return __atomic_exchange_n(at, value, __ATOMIC_RELAXED);
}

/* --- Bits, loads, mathematics --- */

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __float_as_uint(float x)
{
    unsigned y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline int __float_as_int(float x)
{
    return (int)__float_as_uint(x);
}
static inline float __uint_as_float(unsigned x)
{
    float y;
    memcpy(&y, &x, sizeof y);
    return y;
}
static inline float __int_as_float(int x)
{
    return __uint_as_float((unsigned)x);
}
template <class T> static inline T __ldg(const T *at)
{
    return *at;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
/* glibc has functions of these names of its own. */
#define __expf expf
#define __logf logf
#define __sinf sinf
#define __cosf cosf
static inline float __fdividef(float x, float y)
{
    return x / y;
}
template <class T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <class T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

#endif
