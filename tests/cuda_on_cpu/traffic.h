/* traffic.h -- what a warp's accesses cost, counted: sectors of device memory, passes over the banks of shared memory.
 *
 * What:  a request is what the lanes of a warp ask at one place of the code on one visit. Of device memory it moves sectors of 32 bytes; the fewest that
 *        its bytes could lie in are counted beside. Of shared memory it takes a pass for every different 4-byte word that falls on one of the 32 banks;
 *        8-byte accesses go by half warps and 16-byte accesses by quarter warps, so that each of those has a pass of its own in any case.
 * How:   the helpers of kernels/cuda/device.h and mma.h call count_global() and count_shared(). Off unless a test turns it on, or
 *        CUDA_ON_CPU_TRAFFIC=FILE asks for a table of all kernels when the process ends. */
#ifndef CUDA_ON_CPU_TRAFFIC_H
#define CUDA_ON_CPU_TRAFFIC_H

#include <cstdint>

#include "tests/cuda_on_cpu/block.h"

namespace cuda_on_cpu
{

struct GlobalTraffic {
    uint64_t requests, sectors, sectors_needed, bytes; /* bytes: each counted once in a request */
};
struct SharedTraffic {
    uint64_t requests, passes, passes_needed; /* what is above needed are bank conflicts */
};
struct Traffic {
    GlobalTraffic load, store;
    SharedTraffic shared_load, shared_store;
};

void traffic_count(bool on);
void traffic_clear(void);
/* Of all launches of a kernel, by the name that LAUNCH was given (parentheses and spaces do not matter). All zero: none was counted. */
Traffic traffic_of(const char *kernel);

/* --- What accesses call --- */

extern bool traffic_on;
void traffic_global(const void *at, int bytes, bool store) __attribute__((noinline));
void traffic_shared(const void *at, int bytes, bool store) __attribute__((noinline));
void traffic_at(const void *at, int bytes, bool store, bool shared, Place place);

static inline void count_global(const void *at, int bytes, bool store)
{
    if (__builtin_expect(traffic_on, 0))
        traffic_global(at, bytes, store);
}
static inline void count_shared(const void *at, int bytes, bool store)
{
    if (__builtin_expect(traffic_on, 0))
        traffic_shared(at, bytes, store);
}
static inline void count_global_at(const void *at, int bytes, bool store, Place place)
{
    if (__builtin_expect(traffic_on, 0))
        traffic_at(at, bytes, store, false, place);
}
static inline void count_shared_at(const void *at, int bytes, bool store, Place place)
{
    if (__builtin_expect(traffic_on, 0))
        traffic_at(at, bytes, store, true, place);
}

} // namespace cuda_on_cpu
#endif
