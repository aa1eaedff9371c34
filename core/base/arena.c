/* arena.c -- bump allocation over reserved addresses. */
#include "core/base/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const size_t COMMIT_STEP_BYTES = (size_t)2 << 20;
/* "As much as there is" is all of the memory for each arena, and no run fills them all: under `ulimit -v`, or Valgrind, a part will do. */
enum { LEAST_PART = 16 };

static void *host_reserve(void *self, size_t bytes)
{
    (void)self;
    void *base = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    /* Fewer faults while it grows, fewer misses of the TLB after; a system that refuses does no harm. */
    madvise(base, bytes, MADV_HUGEPAGE);
    return base;
}

static Status host_commit(void *self, void *base, size_t from, size_t to)
{
    (void)self;
    if (mprotect((char *)base + from, to - from, PROT_READ | PROT_WRITE) == 0)
        return status_ok();
    return status_error(STATUS_MEMORY, "the system refused: %s", strerror(errno));
}

static void host_release(void *self, void *base, size_t bytes)
{
    (void)self;
    munmap(base, bytes);
}

ArenaMemory arena_memory_host(void)
{
    return (ArenaMemory){NULL, host_reserve, host_commit, host_release, true, 0};
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

Status arena_open(Arena *arena, const char *name, ArenaMemory memory, size_t limit_bytes)
{
    size_t all =
        memory.total_bytes ? memory.total_bytes : (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    size_t wanted = round_up(limit_bytes ? limit_bytes : all, COMMIT_STEP_BYTES);
    size_t enough = limit_bytes ? wanted : wanted / LEAST_PART;
    *arena = (Arena){.name = name, .memory = memory};
    for (size_t bytes = wanted; !arena->base && bytes >= enough;
         bytes = bytes / 2 / COMMIT_STEP_BYTES * COMMIT_STEP_BYTES) {
        arena->base = memory.reserve(memory.self, bytes);
        arena->reserved = bytes;
    }
    if (!arena->base)
        return status_error(STATUS_MEMORY, "arena %s: cannot reserve %zu bytes of addresses (is 'ulimit -v' set?)",
                            name, arena->reserved);
    return status_ok();
}

bool arena_new_is_zero(const Arena *arena)
{
#ifdef TERCET_CHECKED
    (void)arena;
    return false;
#else
    return arena->memory.host_visible;
#endif
}

#ifdef TERCET_CHECKED
enum { REDZONE_BYTES = ARENA_ALIGN };

/* 0x7fa07fa0 is a NaN as float, and as int32 far outside any vocabulary. */
static void poison(Arena *arena, size_t from, size_t to)
{
    if (!arena->memory.host_visible)
        return;
    for (size_t at = from; at + 4 <= to; at += 4)
        memcpy(arena->base + at, &(unsigned){0x7fa07fa0u}, 4);
}

/* What stands in the last bytes of a block's red zone, so that a rewind can walk back block by block. */
typedef struct BlockTail {
    size_t start, bytes;
} BlockTail;

/* Every byte between what was asked for and the tail must still be poison, for all blocks above `mark`. */
static void check_redzones(const Arena *arena, size_t mark)
{
    size_t end = arena->used;
    while (arena->memory.host_visible && end > mark) {
        BlockTail tail;
        memcpy(&tail, arena->base + end - sizeof tail, sizeof tail);
        REQUIRE(tail.start < end && tail.bytes < end - tail.start,
                "arena %s: the red zone below offset %zu was overwritten", arena->name, end);
        for (size_t at = tail.start + tail.bytes; at < end - sizeof tail; at++) {
            unsigned char expected = at & 1 ? 0x7f : 0xa0;
            REQUIRE((unsigned char)arena->base[at] == expected,
                    "arena %s: write past the end of the block of %zu bytes at offset %zu", arena->name, tail.bytes,
                    tail.start);
        }
        end = tail.start;
    }
}
#endif

void *arena_alloc(Arena *arena, size_t bytes)
{
    size_t start = arena->used;
    REQUIRE(bytes <= arena->reserved - start, "arena %s: %zu bytes wanted, %zu of %zu used", arena->name, bytes, start,
            arena->reserved);
    size_t end = start + round_up(bytes ? bytes : 1, ARENA_ALIGN);
#ifdef TERCET_CHECKED
    end += REDZONE_BYTES;
#endif
    REQUIRE(end <= arena->reserved, "arena %s: %zu bytes wanted, %zu of %zu used", arena->name, bytes, start,
            arena->reserved);
    if (end > arena->committed) {
        size_t target = round_up(end, COMMIT_STEP_BYTES);
        Status grown = arena->memory.commit(arena->memory.self, arena->base, arena->committed, target);
        if (status_failed(grown))
            status_leave(grown.code, "out of memory: arena %s cannot grow from %zu to %zu bytes: %s", arena->name,
                         arena->committed, target, status_message());
        arena->committed = target;
    }
    arena->used = end;
    if (end > arena->high_water)
        arena->high_water = end;
#ifdef TERCET_CHECKED
    poison(arena, start, end);
    if (arena->memory.host_visible)
        memcpy(arena->base + end - sizeof(BlockTail), &(BlockTail){start, bytes}, sizeof(BlockTail));
#endif
    return arena->base + start;
}

void arena_close(Arena *arena)
{
#ifdef TERCET_CHECKED
    check_redzones(arena, 0);
#endif
    if (arena->base)
        arena->memory.release(arena->memory.self, arena->base, arena->reserved);
    *arena = (Arena){0};
}

size_t arena_mark(const Arena *arena)
{
    return arena->used;
}

void arena_hold(Arena *arena)
{
    arena->held = arena->used;
}

void arena_let_go(Arena *arena)
{
    arena->held = 0;
}

void arena_rewind(Arena *arena, size_t mark)
{
    if (mark < arena->held)
        mark = arena->held;
    REQUIRE(mark <= arena->used, "arena %s: rewind to %zu, but only %zu used", arena->name, mark, arena->used);
#ifdef TERCET_CHECKED
    check_redzones(arena, mark);
    poison(arena, mark, arena->used);
#endif
    arena->used = mark;
}

size_t arena_peak_begin(Arena *arena)
{
    size_t before = arena->high_water;
    arena->high_water = arena->used;
    return before;
}

size_t arena_peak_end(Arena *arena, size_t before)
{
    size_t peak = arena->high_water - arena->used;
    if (arena->high_water < before)
        arena->high_water = before;
    return peak;
}
