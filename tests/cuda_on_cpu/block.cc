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

enum State : uint8_t { READY, AT_BARRIER, AT_WARP, DONE };

/* What a thread waits with. */
struct Thread {
    Fiber *fiber;
    Place place;
    unsigned mask;
    WarpApply apply;
    void *payload;
};

struct SharedPart {
    Place place;
    size_t offset, bytes;
};

/* One for each operating-system thread, used again for every block. */
struct Block {
    const Launch *launch;
    unsigned threads_count, started, done;
    bool one_dimension;
    Thread threads[BLOCK_THREADS_MAX];
    State state[BLOCK_THREADS_MAX];
    unsigned warp_waiting[BLOCK_THREADS_MAX / WARP_LANES]; /* lanes that are AT_WARP */
    uint16_t turn[BLOCK_THREADS_MAX];                      /* the order of this round */
    unsigned cursor;                                       /* the next of them */
    bool progress;                                         /* has any run in this round? */
    bool rolling; /* all have started: a thread that waits goes on to the next */
    uint64_t random;
    unsigned ahead; /* the first thread of the warp that goes before all others, in random order */
    Order order;
    unsigned running; /* linear index */
    unsigned at_barrier;
    bool barriers_differ;
    Place barrier; /* of the first that came */
    int barrier_sum, barrier_result;
    std::vector<SharedPart> parts;
    size_t static_bytes;
    char *shared; /* (SHARED_BYTES_MAX): dynamic first, then static */
    std::vector<void (*)(void)> at_end, at_barrier_open;
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
        const State state = block->state[i];
        unsigned alike = 0;
        for (unsigned j = i; j < block->threads_count; j++) {
            const Thread &b = block->threads[j];
            bool same = state == block->state[j] &&
                        (state == DONE || (a.place.line == b.place.line && (state != AT_WARP || a.mask == b.mask)));
            if (same)
                alike++;
            named[j] = named[j] || same;
        }
        if (state == DONE)
            fprintf(stderr, "  thread %u and %u more have ended\n", i, alike - 1);
        else if (state == AT_BARRIER)
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

static bool barrier_open(Block *block);

static void turns_set(Block *block)
{
    const unsigned n = block->threads_count;
    for (unsigned i = 0; i < n; i++)
        block->turn[i] = (uint16_t)(block->order.kind == ORDER_REVERSE ? n - 1 - i : i);
}

static void turns_shuffle(Block *block)
{
    for (unsigned i = block->threads_count - 1; i > 0; i--)
        std::swap(block->turn[i], block->turn[(random_next(&block->random) >> 32) * (i + 1) >> 32]);
}

static void enter(Block *block, unsigned index)
{
    block->running = index;
    if (block->one_dimension) {
        threadIdx.x = index;
        return;
    }
    const unsigned plane = blockDim.x * blockDim.y;
    threadIdx = {index % blockDim.x, index % plane / blockDim.x, index / plane};
}

/* In random order one warp of each block goes on whenever it can, so that it is a barrier ahead of the others: who overwrites what they have yet to
 * read is found. */
static bool ahead_can(Block *block)
{
    if (block->order.kind != ORDER_RANDOM)
        return false;
    for (unsigned i = block->ahead; i < block->ahead + WARP_LANES && i < block->threads_count; i++)
        if (block->state[i] == READY) {
            enter(block, i);
            return true;
        }
    return false;
}

/* The thread whose turn it is, entered. When a round brought nothing forward, a barrier opens, or there is a report. */
static Fiber *next_take(Block *block)
{
    for (;;) {
        if (ahead_can(block)) {
            block->progress = true;
            return block->threads[block->running].fiber;
        }
        while (block->cursor < block->threads_count) {
            unsigned index = block->turn[block->cursor++];
            if (block->state[index] != READY)
                continue;
            block->progress = true;
            enter(block, index);
            return block->threads[index].fiber;
        }
        if (!block->progress && !barrier_open(block))
            report_deadlock(block);
        block->progress = false;
        block->cursor = 0;
        if (block->order.kind == ORDER_RANDOM)
            turns_shuffle(block);
    }
}

/* Fibers that no thread owns, kept between blocks. */
static thread_local struct Idle {
    std::vector<Fiber *> fibers;
    ~Idle() /* OpenMP ends threads when a team shrinks */
    {
        for (Fiber *fiber : fibers)
            fiber_delete(fiber);
    }
} idle;
static thread_local Fiber *starter; /* the fiber that fiber_main runs on now */

/* A fiber runs one unstarted thread after the other by plain calls, until one of them waits: then the fiber is that thread's. */
static void fiber_main(void *self)
{
    Block *block = (Block *)self;
    Fiber *own = starter;
    for (;;) {
        while (block->started < block->threads_count) {
            unsigned index = block->turn[block->started++];
            block->state[index] = READY;
            enter(block, index);
            block->launch->body();
            block->state[block->running] = DONE;
            block->done++;
        }
        if (!block->rolling) {
            fiber_suspend(own);
            continue;
        }
        idle.fibers.push_back(own);
        if (block->done < block->threads_count)
            fiber_switch(own, next_take(block));
        else
            fiber_suspend(own);
    }
}

static Fiber *fiber_take(Block *block)
{
    if (idle.fibers.empty())
        return fiber_new(fiber_main, block);
    Fiber *fiber = idle.fibers.back(); /* goes on in fiber_main, where it left */
    idle.fibers.pop_back();
    return fiber;
}

static void thread_wait(Block *block, State state, Place place)
{
    Thread &thread = block->threads[block->running];
    if (!block->rolling) {
        thread.fiber = starter;
        starter = NULL;
    }
    block->state[block->running] = state;
    thread.place = place;
    block->counts.switches++;
    if (!block->rolling)
        return fiber_suspend(thread.fiber);
    Fiber *next = next_take(block);
    if (next != thread.fiber)
        fiber_switch(thread.fiber, next);
}

static void start_all(Block *block)
{
    while (block->started < block->threads_count) {
        starter = fiber_take(block);
        Fiber *fiber = starter;
        fiber_resume(fiber);
        if (starter) { /* all that were left ran to their end on it */
            idle.fibers.push_back(starter);
            starter = NULL;
        }
    }
}

/* --- Barriers and warps --- */

static bool same_place(const Place &a, const Place &b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

int block_barrier(Place place, int predicate)
{
    Block *block = current;
    if (block->at_barrier++ == 0)
        block->barrier = place;
    else
        block->barriers_differ = block->barriers_differ || !same_place(block->barrier, place);
    block->barrier_sum += predicate != 0;
    thread_wait(block, AT_BARRIER, place);
    return block->barrier_result;
}

/* Opens the barrier if every thread stands at it. */
static bool barrier_open(Block *block)
{
    if (block->at_barrier != block->threads_count || block->barriers_differ)
        return false;
    block->barrier_result = block->barrier_sum;
    block->barrier_sum = 0;
    block->at_barrier = 0;
    memset(block->state, READY, block->threads_count);
    block->counts.barriers++;
    for (void (*call)(void) : block->at_barrier_open)
        call();
    return true;
}

/* All lanes of the mask wait, or call: the operation, if they agree what it is. */
static bool warp_apply(Block *block, unsigned first, unsigned mask, WarpApply apply)
{
    void *payloads[WARP_LANES] = {0};
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        if (!(mask >> lane & 1))
            continue;
        const Thread &thread = block->threads[first + lane];
        if (thread.mask != mask || thread.apply != apply)
            return false;
        payloads[lane] = thread.payload;
    }
    apply(payloads, mask);
    block->counts.warp_operations++;
    block->warp_waiting[first / WARP_LANES] &= ~mask;
    for (unsigned lane = 0; lane < WARP_LANES; lane++)
        if (mask >> lane & 1)
            block->state[first + lane] = READY;
    return true;
}

/* The last lane to come does it for all. Several meetings of one warp may be under way, of disjoint masks. */
void warp_meet(Place place, unsigned mask, WarpApply apply, void *payload)
{
    Block *block = current;
    const unsigned lane = block->running % WARP_LANES, first = block->running - lane;
    unsigned &waiting = block->warp_waiting[first / WARP_LANES];
    if (!(mask >> lane & 1))
        defect("%s:%d: mask %08x leaves out the lane %u that calls", short_name(place.file), place.line, mask, lane);
    if (block->threads_count - first < WARP_LANES && mask >> (block->threads_count - first))
        defect("%s:%d: mask %08x names lanes that the warp does not have: it has %u", short_name(place.file),
               place.line, mask, block->threads_count - first);
    Thread &self = block->threads[block->running];
    self.mask = mask;
    self.apply = apply;
    self.payload = payload;
    if (((waiting | 1u << lane) & mask) == mask && warp_apply(block, first, mask, apply))
        return;
    waiting |= 1u << lane;
    thread_wait(block, AT_WARP, place);
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

void block_at_barrier(void (*call)(void))
{
    current->at_barrier_open.push_back(call);
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

/* A thread's block, over and over. */
struct Own {
    Block *block = new Block();
    Own()
    {
        block->shared = (char *)aligned_alloc(SHARED_ALIGN, SHARED_ROOM);
    }
    ~Own()
    {
        free(block->shared);
        delete block;
    }
};

static void block_clear(Block *block)
{
    block->started = block->done = 0;
    block->rolling = false;
    block->at_barrier = 0;
    block->barrier_sum = 0;
    block->parts.clear();
    block->at_end.clear();
    block->at_barrier_open.clear();
    block->static_bytes = 0;
    block->counts = {};
    memset(block->warp_waiting, 0, sizeof block->warp_waiting);
    memset(block->shared, 0xff, block->launch->dynamic_bytes + SHARED_GAP);
}

static void count(const Block *block)
{
    total_blocks.fetch_add(1, std::memory_order_relaxed);
    total_threads.fetch_add(block->threads_count, std::memory_order_relaxed);
    if (!block->counts.switches)
        return;
    total_barriers.fetch_add(block->counts.barriers, std::memory_order_relaxed);
    total_warp_operations.fetch_add(block->counts.warp_operations, std::memory_order_relaxed);
    total_switches.fetch_add(block->counts.switches, std::memory_order_relaxed);
}

void block_run(const Launch &launch, uint3 index, Order order)
{
    static thread_local Own own;
    Block *block = own.block;
    block->launch = &launch;
    block->threads_count = launch.block.x * launch.block.y * launch.block.z;
    block->one_dimension = launch.block.y * launch.block.z == 1;
    block->order = order;
    block->random = (order.seed * 0x9e3779b97f4a7c15u + 1) ^
                    (index.x * 0xbf58476d1ce4e5b9u + index.y * 0x94d049bb133111ebu + index.z) ^ 0x2545f4914f6cdd1du;
    block_clear(block);
    threadIdx = {0, 0, 0};
    blockIdx = index;
    blockDim = {launch.block.x, launch.block.y, launch.block.z};
    gridDim = {launch.grid.x, launch.grid.y, launch.grid.z};
    current = block;

    turns_set(block);
    if (order.kind == ORDER_RANDOM) {
        turns_shuffle(block);
        block->ahead = (unsigned)((random_next(&block->random) >> 32) % block->threads_count) / WARP_LANES * WARP_LANES;
    }
    start_all(block);
    if (block->done < block->threads_count) {
        block->rolling = true;
        block->progress = true;
        block->cursor = block->threads_count;
        fiber_resume(next_take(block)); /* comes back when all are done */
    }
    for (void (*call)(void) : block->at_end)
        call();
    current = NULL;
    count(block);
}

} // namespace cuda_on_cpu
