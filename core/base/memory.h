/* memory.h -- host memory for names, lists and tables: allocation that cannot be forgotten to be checked.
 *
 * Why:   tensors live in arenas (arena.h); this is for the small things around them. Running out of such memory is not
 *        an error a caller can do anything about, so these abort with the size asked for. A size that comes from a file
 *        is checked by its reader before it gets here. Calls are counted, so a test can show that a step makes none: what a
 *        step needs for the time of a function is borrowed from a stack that keeps its memory. */
#ifndef CORE_BASE_MEMORY_H
#define CORE_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory for `count` items of `size` bytes; count 0 gives a valid pointer. Aborts on overflow or exhaustion. */
void *memory_new(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
/* Grow or shrink to `count` items; the new tail is not zeroed. `pointer` may be NULL. */
void *memory_resize(void *pointer, size_t count, size_t size) __attribute__((returns_nonnull));
/* Free *pointer_address and set it to NULL. */
#define memory_free(pointer_address) (memory_release((void *)*(pointer_address)), (void)(*(pointer_address) = NULL))
void memory_release(void *pointer);
char *memory_strdup(const char *string) __attribute__((malloc, returns_nonnull));
/* Zeroed memory for the time of the calling function, which gives it back with memory_return: the last borrowed first (else aborts).
 * Each thread has a stack of its own. */
void *memory_borrow(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
/* Give *pointer_address back, if it is not NULL, and set it to NULL. */
#define memory_return(pointer_address) (memory_give_back((void *)*(pointer_address)), (void)(*(pointer_address) = NULL))
void memory_give_back(void *pointer);
/* Calls of memory_new/resize/strdup by this process so far, and of memory_borrow that had to ask the system for memory. */
uint64_t memory_calls(void);

/* Room for one more item in a growing list: doubles *capacity when count has reached it. */
#define memory_reserve(pointer_address, count, capacity_address)                                                       \
    do {                                                                                                               \
        if ((count) >= *(capacity_address)) {                                                                          \
            *(capacity_address) = *(capacity_address) ? 2 * *(capacity_address) : 16;                                  \
            *(pointer_address) =                                                                                       \
                memory_resize(*(pointer_address), (size_t) * (capacity_address), sizeof **(pointer_address));          \
        }                                                                                                              \
    } while (0)

#endif
