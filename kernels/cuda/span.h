/* span.h -- neighbouring elements that one thread holds, and launches that cover a run of them or the rows of a matrix.
 *
 * Why:  rows whose width and address allow it are moved 16 bytes at a time, all others element by element, by the same kernel: it is written over
 *       Span<T, EACH>, where EACH is what fits into 16 bytes, or 1. */
#ifndef KERNELS_CUDA_SPAN_H
#define KERNELS_CUDA_SPAN_H

#include "kernels/cuda/cuda.h"

/* As they stand in memory; 16 bytes of registers hold 8 bf16 so, not 4. */
template <class T, int EACH> struct alignas(EACH * sizeof(T) < 16 ? EACH * sizeof(T) : 16) Span {
    T at[EACH];
};

/* EACH is 1, or a multiple of what 16 bytes hold. */
template <int EACH, class T> __device__ static inline Span<T, EACH> load_span(const T *at)
{
    Span<T, EACH> span;
    if constexpr (EACH == 1) {
        COUNT_GLOBAL(at, (int)sizeof(T), false);
        span.at[0] = *at;
    } else {
        enum { COUNT = Pack<T>::COUNT };
        static_assert(EACH % COUNT == 0, "whole packs");
#pragma unroll
        for (int i = 0; i < EACH / COUNT; i++) {
            Pack<T> pack = load_pack(at + i * COUNT);
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                span.at[i * COUNT + j] = pack.at[j];
        }
    }
    return span;
}
template <int EACH, class T> __device__ static inline void store_span(T *at, Span<T, EACH> span)
{
    if constexpr (EACH == 1) {
        COUNT_GLOBAL(at, (int)sizeof(T), true);
        *at = span.at[0];
    } else {
        enum { COUNT = Pack<T>::COUNT };
        static_assert(EACH % COUNT == 0, "whole packs");
#pragma unroll
        for (int i = 0; i < EACH / COUNT; i++) {
            Pack<T> pack;
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                pack.at[j] = span.at[i * COUNT + j];
            store_pack(at + i * COUNT, pack);
        }
    }
}

/* What 16 bytes of T hold, or 1. */
template <class T, bool PACKED> struct SpanCount {
    static constexpr int EACH = PACKED ? (int)Pack<T>::COUNT : 1;
};

/* --- Launches --- */

static const int RUN_THREADS = 256;

/* Blocks of RUN_THREADS for a run of `count` elements, EACH to a thread; what the last span lacks is one more thread's. */
static inline dim3 run_grid(int64_t count, int each)
{
    int64_t blocks = ceil_div(count / each + (count % each != 0), RUN_THREADS);
    REQUIRE(blocks <= INT32_MAX, "%lld elements at once", (long long)count);
    return dim3((unsigned)blocks);
}
__device__ static inline int64_t run_index(void)
{
    return (int64_t)blockIdx.x * RUN_THREADS + threadIdx.x;
}

/* One row per blockIdx.x, its spans over threads and blockIdx.y. */
static inline int64_t row_threads(int64_t items)
{
    return items < RUN_THREADS ? ceil_div(items, WARP) * WARP : RUN_THREADS;
}
typedef struct RowLaunch {
    dim3 grid, block;
} RowLaunch;
static inline RowLaunch row_launch(int64_t rows, int64_t spans)
{
    int64_t threads = row_threads(spans), parts = ceil_div(spans, threads);
    REQUIRE(rows <= INT32_MAX && parts <= 65535, "%lld rows of %lld spans", (long long)rows, (long long)spans);
    return {dim3((unsigned)rows, (unsigned)parts), dim3((unsigned)threads)};
}
/* The element of its row at which this thread's span begins. */
template <int EACH> __device__ static inline int64_t row_column(void)
{
    return ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * EACH;
}

#endif
