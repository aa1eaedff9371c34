/* arena.h -- memory by lifetime: everything of one lifetime stands in one arena and goes at once.
 *
 *        run      until the process ends         e.g. vocabulary tables on the device
 *        model    while a model is loaded        parameters, optimizer moments
 *        step     one unit of work, or a step    activations, gradients, KV cache, token batches
 *        scratch  inside one op                  partial sums, one chunk of logits
 *
 * Why:   no tensor owns memory, so nothing is freed twice or forgotten, and a plan is the arenas' high-water marks
 *        from a run of the same code on a device that computes nothing.
 * How:   an arena reserves addresses once and commits them as it grows; the device says how (ArenaMemory). Rewinding
 *        keeps the memory committed, so after the first step nothing asks the system for memory. A checked build
 *        (TERCET_CHECKED) fills what is handed out and what is rewound with signalling NaN, so that reading
 *        uninitialised or dead memory shows, and puts red zones between blocks. */
#ifndef CORE_BASE_ARENA_H
#define CORE_BASE_ARENA_H

#include <stddef.h>

#include "core/base/status.h"

enum { ARENA_ALIGN = 256 }; /* bytes; a GPU's widest access, and two AVX-512 lines apart */

/* Where an arena's addresses come from. A device provides one; `self` is the device's own. */
typedef struct ArenaMemory {
    void *self;
    /* Addresses for `bytes`, not yet usable. NULL: refused. */
    void *(*reserve)(void *self, size_t bytes);
    /* Make [base + from, base + to) usable. STATUS_MEMORY, with what there is in words. */
    Status (*commit)(void *self, void *base, size_t from, size_t to);
    void (*release)(void *self, void *base, size_t bytes);
    bool host_visible;  /* addresses that come as zeros; false: the arena never touches the bytes itself */
    size_t total_bytes; /* how much there is; 0: the machine's physical memory */
} ArenaMemory;

typedef struct Arena {
    const char *name;
    ArenaMemory memory;
    char *base;
    size_t reserved, committed, used, high_water; /* bytes */
    size_t held;                                  /* no rewind goes below */
} Arena;

/* Ordinary host memory. */
ArenaMemory arena_memory_host(void);
/* `limit_bytes` 0: as much as there is, or half of that, a quarter, ... where addresses are refused. [local] */
Status arena_open(Arena *arena, const char *name, ArenaMemory memory, size_t limit_bytes);
/* Is memory zero when arena_alloc() gives it out for the first time, before any rewind? The system sees to it for the host's, a checked build poisons it. */
bool arena_new_is_zero(const Arena *arena);
void arena_close(Arena *arena);
/* `bytes` aligned to ARENA_ALIGN, contents undefined. Running over the limit aborts with the arena's
 * name and figures: the plan is checked before the first step, so this is a programmer's error. Where the system refuses all the same, the program leaves with
 * STATUS_MEMORY and both figures (status_leave): there is no way on from the middle of a step. */
void *arena_alloc(Arena *arena, size_t bytes) __attribute__((returns_nonnull));
size_t arena_mark(const Arena *arena);
/* Drop everything allocated since `mark`. */
void arena_rewind(Arena *arena, size_t mark);
/* What stands now outlives rewinds to earlier marks, until arena_let_go(); whoever lets go rewinds. */
void arena_hold(Arena *arena);
void arena_let_go(Arena *arena);
/* The most that stands at one time above what stands now, until arena_peak_end(), which says it in bytes and takes what arena_peak_begin() gave. */
size_t arena_peak_begin(Arena *arena);
size_t arena_peak_end(Arena *arena, size_t before);

#endif
