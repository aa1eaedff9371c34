/* launch.cc -- a grid is its blocks, in an order that the test chooses, over the cores there are. */
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "tests/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/stream.h"

namespace cuda_on_cpu
{

void shuffle_apply(void *payload[WARP_LANES], unsigned mask)
{
    for (int lane = 0; lane < WARP_LANES; lane++) {
        if (!(mask >> lane & 1))
            continue;
        Shuffle *own = (Shuffle *)payload[lane];
        if (!(mask >> own->source & 1))
            defect("line %d: lane %d reads lane %d, which is not in mask %08x", own->place.line, lane, own->source,
                   mask);
        own->result = ((Shuffle *)payload[own->source])->bits;
    }
}

void vote_apply(void *payload[WARP_LANES], unsigned mask)
{
    unsigned ballot = 0;
    for (int lane = 0; lane < WARP_LANES; lane++)
        if ((mask >> lane & 1) && ((Vote *)payload[lane])->predicate)
            ballot |= 1u << lane;
    for (int lane = 0; lane < WARP_LANES; lane++)
        if (mask >> lane & 1)
            ((Vote *)payload[lane])->result = ballot;
}

/* CUDA_ON_CPU_ORDER=forward | reverse | random:SEED */
static Order order_read(void)
{
    const char *text = getenv("CUDA_ON_CPU_ORDER");
    unsigned long long seed = 0;
    if (!text || !strcmp(text, "forward"))
        return {ORDER_FORWARD, 0};
    if (!strcmp(text, "reverse"))
        return {ORDER_REVERSE, 0};
    if (sscanf(text, "random:%llu", &seed) == 1)
        return {ORDER_RANDOM, seed};
    defect("CUDA_ON_CPU_ORDER=%s: expected forward, reverse or random:SEED", text);
}

/* A step through `blocks` that visits each once. */
static uint64_t step_choose(uint64_t seed, uint64_t blocks)
{
    uint64_t step = seed * 0x9e3779b97f4a7c15u % blocks;
    while (std::gcd(step, blocks) != 1)
        step++;
    return step;
}

static void grid_run(const Launch &launch)
{
    static const Order order = order_read();
    int64_t blocks = (int64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    uint64_t step = order.kind == ORDER_RANDOM ? step_choose(order.seed, (uint64_t)blocks) : 1;
    DeviceMemoryOpen open; /* kernels may touch device memory; the host may not */
    const int64_t together = std::max<int64_t>(1, std::min<int64_t>(16, blocks / 64));
#pragma omp parallel for schedule(dynamic, together) if (blocks > 1)
    for (int64_t turn = 0; turn < blocks; turn++) {
        int64_t at = order.kind == ORDER_REVERSE ? blocks - 1 - turn : turn;
        if (order.kind == ORDER_RANDOM)
            at = (int64_t)(((uint64_t)turn * step + order.seed) % (uint64_t)blocks);
        uint3 index = {(unsigned)(at % launch.grid.x), (unsigned)(at / launch.grid.x % launch.grid.y),
                       (unsigned)(at / launch.grid.x / launch.grid.y)};
        block_run(launch, index, order);
    }
}

void launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
            std::function<void()> body)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (threads < 1 || threads > BLOCK_THREADS_MAX || block.z > 64 || grid.x < 1 || grid.y < 1 || grid.z < 1 ||
        grid.y > 65535 || grid.z > 65535 || grid.x > 2147483647u || dynamic_bytes > SHARED_BYTES_MAX) {
        error_set(cudaErrorInvalidConfiguration);
        return;
    }
    if (dynamic_bytes > SHARED_STATIC_BYTES_MAX && !dynamic_bytes_allowed(kernel, dynamic_bytes)) {
        error_set(cudaErrorInvalidValue);
        return;
    }
    launch_note(name, kernel, (unsigned)threads, dynamic_bytes);
    Launch what = {name, std::move(body), grid, block, dynamic_bytes};
    stream_add(stream, name, [what = std::move(what)] { grid_run(what); });
}

} // namespace cuda_on_cpu
