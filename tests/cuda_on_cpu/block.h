/* block.h -- one thread block: its threads as fibers, their barriers, their warps, and its shared memory.
 *
 * Why:   the kernels' own source runs here, so what it may do wrong must show: a barrier that not all threads reach, a warp operation whose
 *        mask lies, shared memory read before it is written, and anything that depends on the order in which threads happen to run.
 * How:   threads run one at a time, in an order that a test chooses, each until it waits. A block barrier opens when all threads of the block
 *        stand at the same line; a warp operation happens when all lanes of its mask stand at it with the same mask. If nothing can go on,
 *        the report names threads and lines, and the process aborts. That is stricter than CUDA: a thread that left before a barrier, and a
 *        mask that names a lane which does not exist, are errors here.
 * Shared memory is filled with NaNs at the beginning of each block. */
#ifndef CUDA_ON_CPU_BLOCK_H
#define CUDA_ON_CPU_BLOCK_H

#include <cstddef>
#include <cstdint>
#include <functional>

#include <vector_types.h>

namespace cuda_on_cpu
{

/* In which order threads of a block, and blocks of a grid, take their turns. */
enum OrderKind { ORDER_FORWARD, ORDER_REVERSE, ORDER_RANDOM };
struct Order {
    OrderKind kind;
    uint64_t seed; /* of ORDER_RANDOM */
};

struct Launch {
    const char *kernel;
    std::function<void()> body; /* the kernel's call, its arguments captured by value */
    dim3 grid, block;
    size_t dynamic_bytes;
};

enum { WARP_LANES = 32, SHARED_STATIC_BYTES_MAX = 48 << 10, SHARED_BYTES_MAX = 227 << 10, BLOCK_THREADS_MAX = 1024 };

/* Run one block of a launch to its end. Each operating-system thread runs a block at a time. */
void block_run(const Launch &launch, uint3 index, Order order);

/* --- What the threads of the running block call, through the header of built-ins. --- */

/* A place in the kernels' source, for reports, and to tell one barrier from another. */
struct Place {
    const char *file;
    int line;
};

/* What __syncthreads_count, _and, _or bring: how many threads gave a predicate that is not 0. */
int block_barrier(Place place, int predicate);
/* All lanes of `mask` meet here; the last one to come runs apply(payload of each lane, NULL outside the mask; mask) once, for all. */
typedef void (*WarpApply)(void *payload[WARP_LANES], unsigned mask);
void warp_meet(Place place, unsigned mask, WarpApply apply, void *payload);
/* The bytes of the running block that belong to the declaration at `place`; the same for every thread that asks. */
void *shared_static(Place place, size_t bytes);
void *shared_dynamic(void);
/* Do all bytes lie in one array of the running block's shared memory? */
bool shared_holds(const void *at, size_t bytes);
/* Call this once, when the running block has ended. */
void block_at_end(void (*call)(void));
/* And this whenever all its threads have met, from now on. */
void block_at_barrier(void (*call)(void));
const char *kernel_name(void);
/* Of every launch that is accepted (launches.cc). */
void launch_note(const char *name, const void *kernel, unsigned threads, size_t dynamic_bytes);
/* Linear index of the running thread in its block. */
unsigned thread_linear(void);
bool block_is_running(void);

/* Report, with kernel, block and thread where one runs, and abort. */
[[noreturn]] void defect(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Since the process began, by all blocks. */
struct BlockCounts {
    uint64_t blocks, threads, barriers, warp_operations, switches;
};
BlockCounts block_counts(void);

} // namespace cuda_on_cpu

/* CUDA's own names for where a thread is; set at each switch. */
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;

#endif
