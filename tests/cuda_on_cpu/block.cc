/* block.cc -- turns: which thread runs, what it waits for, and when that is there. */
#include "tests/cuda_on_cpu/block.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/cuda_on_cpu/fiber.h"

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu
{

enum State { UNSTARTED, READY, AT_BARRIER, AT_WARP, DONE };

struct Thread {
    Fiber *fiber;
    State state;
    Place place; /* where it waits */
    int predicate;
    unsigned mask;
    WarpApply apply;
    void *payload;
};

struct SharedPart {
    Place place;
    size_t offset, bytes;
};

struct Block {
    const Launch *launch;
    unsigned threads_count, started, done;
    std::vector<Thread> threads;
    std::vector<unsigned> turn; /* the order of this round */
    uint64_t random;
    Order order;
    unsigned running; /* linear index */
    int barrier_result;
    std::vector<SharedPart> parts;
    size_t static_bytes;
    char *shared; /* (SHARED_BYTES_MAX): dynamic first, then static */
    std::vector<void (*)(void)> at_end;
    BlockCounts counts;
};

static thread_local Block *current;
static std::atomic<uint64_t> total_blocks, total_threads, total_barriers, total_warp_operations, total_switches;

BlockCounts block_counts(void)
{
    return {total_blocks, total_threads, total_barriers, total_warp_operations, total_switches};
}

/* --- Reports --- */

void defect(const char *format, ...)
{
    fflush(stdout);
    fprintf(stderr, "cuda_on_cpu: ");
    if (current)
        fprintf(stderr, "%s: block (%u,%u,%u), thread (%u,%u,%u): ", current->launch->kernel, blockIdx.x, blockIdx.y,
                blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}

static const char *short_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

/* Nothing can go on: name one thread of each kind of waiting, and how many are like it. */
[[noreturn]] static void report_deadlock(const Block *block)
{
    fflush(stdout);
    fprintf(stderr, "cuda_on_cpu: %s: block (%u,%u,%u): divergent barrier or wrong mask; nothing can go on\n",
            block->launch->kernel, blockIdx.x, blockIdx.y, blockIdx.z);
    std::vector<bool> named(block->threads_count, false);
    for (unsigned i = 0; i < block->threads_count; i++) {
        if (named[i])
            continue;
        const Thread &a = block->threads[i];
        unsigned alike = 0;
        for (unsigned j = i; j < block->threads_count; j++) {
            const Thread &b = block->threads[j];
            bool same = a.state == b.state && (a.state == DONE || (a.place.line == b.place.line && a.mask == b.mask));
            if (same)
                alike++;
            named[j] = named[j] || same;
        }
        if (a.state == DONE)
            fprintf(stderr, "  thread %u and %u more have ended\n", i, alike - 1);
        else if (a.state == AT_BARRIER)
            fprintf(stderr, "  thread %u and %u more wait at a block barrier, %s:%d\n", i, alike - 1,
                    short_name(a.place.file), a.place.line);
        else
            fprintf(stderr, "  thread %u and %u more wait at a warp operation with mask %08x, %s:%d\n", i, alike - 1,
                    a.mask, short_name(a.place.file), a.place.line);
    }
    abort();
}

/* --- Running threads --- */

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void turns_set(Block *block)
{
    unsigned n = block->threads_count;
    for (unsigned i = 0; i < n; i++)
        block->turn[i] = block->order.kind == ORDER_REVERSE ? n - 1 - i : i;
    if (block->order.kind == ORDER_RANDOM)
        for (unsigned i = n - 1; i > 0; i--)
            std::swap(block->turn[i], block->turn[random_next(&block->random) % (i + 1)]);
}

static void enter(Block *block, unsigned index)
{
    block->running = index;
    unsigned plane = blockDim.x * blockDim.y;
    threadIdx = {index % blockDim.x, index % plane / blockDim.x, index / plane};
}

/* Fibers that no thread owns, kept between blocks. */
static thread_local std::vector<Fiber *> idle;
static thread_local Fiber *starter; /* the fiber that fiber_main runs on now */

/* A fiber runs one unstarted thread after the other by plain calls, until one of them waits: then the fiber is that thread's. */
static void fiber_main(void *self)
{
    Block *block = (Block *)self;
    Fiber *own = starter;
    for (;;) {
        while (block->started < block->threads_count) {
            unsigned index = block->turn[block->started++];
            block->threads[index].state = READY;
            enter(block, index);
            block->launch->body();
            block->threads[block->running].state = DONE;
            block->done++;
        }
        fiber_suspend(own);
    }
}

static Fiber *fiber_take(Block *block)
{
    if (idle.empty())
        return fiber_new(fiber_main, block);
    Fiber *fiber = idle.back();
    idle.pop_back();
    fiber_restart(fiber, fiber_main, block);
    return fiber;
}

static void thread_wait(Block *block, State state, Place place)
{
    Thread &thread = block->threads[block->running];
    if (!thread.fiber) {
        thread.fiber = starter;
        starter = NULL;
    }
    thread.state = state;
    thread.place = place;
    block->counts.switches++;
    fiber_suspend(thread.fiber);
}

static void start_all(Block *block)
{
    while (block->started < block->threads_count) {
        starter = fiber_take(block);
        Fiber *fiber = starter;
        fiber_resume(fiber);
        if (starter) { /* all that were left ran to their end on it */
            idle.push_back(starter);
            starter = NULL;
        }
    }
}

/* --- Barriers and warps --- */

int block_barrier(Place place, int predicate)
{
    Block *block = current;
    block->threads[block->running].predicate = predicate;
    thread_wait(block, AT_BARRIER, place);
    return block->barrier_result;
}

/* Opens the barrier if every thread stands at it. */
static bool barrier_open(Block *block)
{
    const Place &place = block->threads[0].place;
    for (const Thread &thread : block->threads)
        if (thread.state != AT_BARRIER || thread.place.line != place.line || strcmp(thread.place.file, place.file) != 0)
            return false;
    block->barrier_result = 0;
    for (Thread &thread : block->threads) {
        block->barrier_result += thread.predicate != 0;
        thread.state = READY;
    }
    block->counts.barriers++;
    return true;
}

void warp_meet(Place place, unsigned mask, WarpApply apply, void *payload)
{
    Block *block = current;
    unsigned lane = block->running % WARP_LANES, first = block->running - lane;
    if (!(mask >> lane & 1))
        defect("%s:%d: mask %08x leaves out the lane %u that calls", short_name(place.file), place.line, mask, lane);
    Thread &self = block->threads[block->running];
    self.mask = mask;
    self.apply = apply;
    self.payload = payload;
    self.place = place;
    void *payloads[WARP_LANES] = {0};
    bool all = true;
    for (unsigned other = 0; other < WARP_LANES; other++) {
        if (!(mask >> other & 1))
            continue;
        if (first + other >= block->threads_count)
            defect("%s:%d: mask %08x names lane %u, and the warp has %u", short_name(place.file), place.line, mask,
                   other, block->threads_count - first);
        const Thread &thread = block->threads[first + other];
        all = all && (other == lane || (thread.state == AT_WARP && thread.mask == mask && thread.apply == apply));
        payloads[other] = thread.payload;
    }
    if (!all) {
        thread_wait(block, AT_WARP, place);
        return;
    }
    apply(payloads, mask);
    block->counts.warp_operations++;
    for (unsigned other = 0; other < WARP_LANES; other++)
        if ((mask >> other & 1) && other != lane)
            block->threads[first + other].state = READY;
}

/* --- Shared memory --- */

static const size_t SHARED_GAP = 256;   /* NaNs between two arrays */
static const size_t SHARED_ALIGN = 128; /* one round of the banks */

void *shared_dynamic(void)
{
    return current->shared;
}

void *shared_static(Place place, size_t bytes)
{
    Block *block = current;
    for (const SharedPart &part : block->parts)
        if (part.place.line == place.line && part.place.file == place.file)
            return block->shared + part.offset;
    size_t offset = (block->launch->dynamic_bytes + block->static_bytes + block->parts.size() * SHARED_GAP +
                     SHARED_GAP + SHARED_ALIGN - 1) /
                    SHARED_ALIGN * SHARED_ALIGN;
    block->parts.push_back({place, offset, bytes});
    block->static_bytes += bytes;
    if (block->static_bytes > SHARED_STATIC_BYTES_MAX)
        defect("%s:%d: %zu bytes of static shared memory, at most %d", short_name(place.file), place.line,
               block->static_bytes, (int)SHARED_STATIC_BYTES_MAX);
    if (block->static_bytes + block->launch->dynamic_bytes > SHARED_BYTES_MAX)
        defect("%zu bytes of shared memory, at most %d", block->static_bytes + block->launch->dynamic_bytes,
               (int)SHARED_BYTES_MAX);
    return memset(block->shared + offset, 0xff, bytes + SHARED_GAP);
}

bool shared_holds(const void *at, size_t bytes)
{
    const Block *block = current;
    const size_t offset = (size_t)((const char *)at - block->shared);
    if (offset < block->launch->dynamic_bytes)
        return bytes <= block->launch->dynamic_bytes - offset;
    for (const SharedPart &part : block->parts)
        if (offset >= part.offset && offset - part.offset < part.bytes)
            return bytes <= part.bytes - (offset - part.offset);
    return false;
}

void block_at_end(void (*call)(void))
{
    current->at_end.push_back(call);
}

const char *kernel_name(void)
{
    return current->launch->kernel;
}

unsigned thread_linear(void)
{
    return current->running;
}

bool block_is_running(void)
{
    return current != NULL;
}

/* --- The whole block --- */

static const size_t SHARED_ROOM = SHARED_BYTES_MAX + 64 * SHARED_GAP;

void block_run(const Launch &launch, uint3 index, Order order)
{
    static thread_local std::unique_ptr<void, void (*)(void *)> shared(aligned_alloc(SHARED_ALIGN, SHARED_ROOM), free);
    Block block = {};
    block.launch = &launch;
    block.threads_count = launch.block.x * launch.block.y * launch.block.z;
    block.threads.resize(block.threads_count);
    block.turn.resize(block.threads_count);
    block.order = order;
    block.random = (order.seed * 0x9e3779b97f4a7c15u + 1) ^
                   (index.x * 0xbf58476d1ce4e5b9u + index.y * 0x94d049bb133111ebu + index.z) ^ 0x2545f4914f6cdd1du;
    block.shared = (char *)shared.get();
    memset(block.shared, 0xff, launch.dynamic_bytes + SHARED_GAP);
    blockIdx = index;
    blockDim = {launch.block.x, launch.block.y, launch.block.z};
    gridDim = {launch.grid.x, launch.grid.y, launch.grid.z};
    current = &block;

    turns_set(&block);
    start_all(&block);
    while (block.done < block.threads_count) {
        bool progress = false;
        turns_set(&block);
        for (unsigned i : block.turn) {
            Thread &thread = block.threads[i];
            if (thread.state != READY)
                continue;
            progress = true;
            enter(&block, i);
            fiber_resume(thread.fiber);
            if (thread.state == DONE) {
                idle.push_back(thread.fiber);
                thread.fiber = NULL;
            }
        }
        if (!progress && !barrier_open(&block))
            report_deadlock(&block);
    }
    for (void (*call)(void) : block.at_end)
        call();
    current = NULL;
    total_blocks++;
    total_threads += block.threads_count;
    total_barriers += block.counts.barriers;
    total_warp_operations += block.counts.warp_operations;
    total_switches += block.counts.switches;
}

} // namespace cuda_on_cpu
