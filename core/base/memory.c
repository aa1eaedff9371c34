/* memory.c -- checked and counted malloc. */
#include "core/base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

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

char *memory_strdup(const char *string)
{
    size_t bytes = strlen(string) + 1;
    return memcpy(memory_new(bytes, 1), string, bytes);
}

uint64_t memory_calls(void)
{
    return atomic_load_explicit(&calls, memory_order_relaxed);
}
