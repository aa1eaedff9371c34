/* memory.c -- checked and counted malloc, and the stack that functions borrow from. */
#include "core/base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/arena.h"
#include "core/base/status.h"

static atomic_uint_fast64_t calls;

void *memory_new(size_t count, size_t size)
{
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    void *pointer = calloc(count ? count : 1, size ? size : 1);
    REQUIRE(pointer, "out of host memory: %zu items of %zu bytes", count, size);
    return pointer;
}

void *memory_resize(void *pointer, size_t count, size_t size)
{
    atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    REQUIRE(!size || count <= SIZE_MAX / size, "size overflow: %zu items of %zu bytes", count, size);
    size_t bytes = count * size;
    pointer = realloc(pointer, bytes ? bytes : 1);
    REQUIRE(pointer, "out of host memory: %zu items of %zu bytes", count, size);
    return pointer;
}

void memory_release(void *pointer)
{
    free(pointer);
}

/* Under AddressSanitizer every block is one of malloc's, so that it sees who writes beside it. */
#if defined(__SANITIZE_ADDRESS__)
void *memory_borrow(size_t count, size_t size)
{
    return memory_new(count, size);
}

void memory_give_back(void *pointer)
{
    memory_release(pointer);
}
#else
static _Thread_local Arena stack; /* opened when the thread first borrows, never closed */

/* In front of each block. */
typedef struct Borrowed {
    size_t mark, end; /* the stack before and after it */
} Borrowed;

void *memory_borrow(size_t count, size_t size)
{
    if (!stack.base) /* a quarter of the machine: what functions hold is small beside tensors */
        REQUIRE(!status_failed(arena_open(&stack, "borrowed", arena_memory_host(),
                                          (size_t)sysconf(_SC_PHYS_PAGES) / 4 * (size_t)sysconf(_SC_PAGESIZE))),
                "%s", status_message());
    REQUIRE(!size || count <= (SIZE_MAX - ARENA_ALIGN) / size, "size overflow: %zu items of %zu bytes", count, size);
    size_t mark = arena_mark(&stack), committed = stack.committed;
    char *block = arena_alloc(&stack, ARENA_ALIGN + count * size);
    if (stack.committed != committed)
        atomic_fetch_add_explicit(&calls, 1, memory_order_relaxed);
    *(Borrowed *)(void *)block = (Borrowed){mark, arena_mark(&stack)};
    return memset(block + ARENA_ALIGN, 0, count * size);
}

void memory_give_back(void *pointer)
{
    if (!pointer)
        return;
    const Borrowed *borrowed = (const void *)((char *)pointer - ARENA_ALIGN);
    REQUIRE(borrowed->end == arena_mark(&stack), "memory is returned, but not the last that was borrowed");
    arena_rewind(&stack, borrowed->mark);
}
#endif

char *memory_strdup(const char *string)
{
    size_t bytes = strlen(string) + 1;
    return memcpy(memory_new(bytes, 1), string, bytes);
}

uint64_t memory_calls(void)
{
    return atomic_load_explicit(&calls, memory_order_relaxed);
}
