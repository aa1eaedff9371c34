/* t012 -- arenas: aligned blocks, rewinds that reuse, limits that abort; a checked build finds writes past a block's end. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/memory.h"

static Arena open_arena(size_t limit_bytes)
{
    Arena arena;
    assert_ok(arena_open(&arena, "test", arena_memory_host(), limit_bytes));
    return arena;
}

static void test_blocks_are_aligned_and_apart(void **state)
{
    (void)state;
    Arena arena = open_arena((size_t)64 << 20);
    char *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = arena_alloc(&arena, i * 37);
        assert_int_equal((uintptr_t)blocks[i] % ARENA_ALIGN, 0);
        memset(blocks[i], (int)i, i * 37);
    }
    for (size_t i = 0; i < 100; i++)
        for (size_t at = 0; at < i * 37; at++)
            assert_int_equal(blocks[i][at], (char)i);
    assert_true(arena_alloc(&arena, 0) != arena_alloc(&arena, 0));
    arena_close(&arena);
    assert_null(arena.base);
    arena_close(&arena);
}

static void test_rewind_reuses(void **state)
{
    (void)state;
    Arena arena = open_arena((size_t)64 << 20);
    char *kept = arena_alloc(&arena, 1000);
    memset(kept, 7, 1000);
    size_t mark = arena_mark(&arena);
    char *first = arena_alloc(&arena, (size_t)5 << 20);
    memset(first, 1, (size_t)5 << 20);
    size_t committed = arena.committed, high_water = arena.high_water;
    for (int step = 0; step < 10; step++) {
        arena_rewind(&arena, mark);
        assert_int_equal(arena_mark(&arena), mark);
        assert_ptr_equal(arena_alloc(&arena, (size_t)5 << 20), first);
    }
    assert_int_equal(arena.committed, committed);
    assert_int_equal(arena.high_water, high_water);
    assert_true(high_water >= ((size_t)5 << 20) + 1000 && high_water < ((size_t)5 << 20) + 4096);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(kept[i], 7);
    arena_rewind(&arena, 0);
    assert_int_equal(arena.used, 0);
    assert_int_equal(arena.high_water, high_water);
    arena_close(&arena);
}

static void overrun_limit(void *argument)
{
    Arena arena;
    assert_ok(arena_open(&arena, "tight", arena_memory_host(), (size_t)4 << 20));
    arena_alloc(&arena, *(size_t *)argument);
}

static void rewind_forward(void *argument)
{
    (void)argument;
    Arena arena;
    assert_ok(arena_open(&arena, "test", arena_memory_host(), 1 << 20));
    arena_rewind(&arena, 256);
}

static void test_misuse_aborts(void **state)
{
    (void)state;
    size_t bytes = (size_t)5 << 20;
    assert_true(support_aborts(overrun_limit, &bytes, "arena tight: 5242880 bytes wanted"));
    bytes = SIZE_MAX - 8; /* must not wrap around */
    assert_true(support_aborts(overrun_limit, &bytes, "arena tight:"));
    assert_true(support_aborts(rewind_forward, NULL, "rewind to 256, but only 0 used"));
}

static void *refuse_reserve(void *self, size_t bytes)
{
    (void)self, (void)bytes;
    return NULL;
}

static void test_refused_addresses_are_a_status(void **state)
{
    (void)state;
    ArenaMemory memory = arena_memory_host();
    memory.reserve = refuse_reserve;
    Arena arena;
    assert_fails(arena_open(&arena, "model", memory, 1 << 20), STATUS_MEMORY, "arena model: cannot reserve");
    arena_close(&arena);
}

static size_t least_refused;

static void *reserve_less(void *self, size_t bytes)
{
    return bytes < least_refused ? arena_memory_host().reserve(self, bytes) : NULL;
}

static void test_less_will_do_where_no_limit_was_given(void **state)
{
    (void)state;
    ArenaMemory memory = arena_memory_host();
    memory.reserve = reserve_less;
    memory.total_bytes = (size_t)100 << 20;
    Arena arena;
    least_refused = (size_t)50 << 20;
    assert_ok(arena_open(&arena, "step", memory, 0));
    assert_int_equal(arena.reserved, 24 << 20); /* a quarter, in whole steps of 2 MiB */
    memset(arena_alloc(&arena, arena.reserved - 4096), 1, arena.reserved - 4096);
    arena_close(&arena);
    assert_fails(arena_open(&arena, "step", memory, (size_t)100 << 20), STATUS_MEMORY, "104857600 bytes");
    least_refused = (size_t)4 << 20; /* a sixteenth is the least */
    assert_fails(arena_open(&arena, "step", memory, 0), STATUS_MEMORY, "arena step: cannot reserve");
}

#ifdef TERCET_CHECKED
static void test_fresh_and_dead_memory_is_nan(void **state)
{
    (void)state;
    Arena arena = open_arena(1 << 20);
    float *block = arena_alloc(&arena, 64 * sizeof *block);
    assert_true(isnan(block[0]) && isnan(block[63]));
    block[5] = 1.0f;
    arena_rewind(&arena, 0);
    assert_true(isnan(block[5]));
    arena_close(&arena);
}

/* Three blocks, a byte `offset` past the end of the second, then a rewind or a close. */
static void overflow(void *argument)
{
    int offset = *(int *)argument;
    Arena arena;
    assert_ok(arena_open(&arena, "step", arena_memory_host(), 1 << 20));
    arena_alloc(&arena, 300);
    char *block = arena_alloc(&arena, 300);
    arena_alloc(&arena, 300);
    block[299] = 1;
    block[300 + offset] = 1;
    if (offset % 2)
        arena_rewind(&arena, 0);
    arena_close(&arena);
}

static void test_red_zones(void **state)
{
    (void)state;
    static const int offsets[] = {0, 1, 4, 211, 212, 213, 300};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        int offset = offsets[i];
        assert_true(support_aborts(overflow, &offset, "arena step: write past the end of the block of 300 bytes"));
    }
}
#endif

static void resize_overflow(void *argument)
{
    memory_release(memory_resize(NULL, *(size_t *)argument, 16));
}

#if !defined(__SANITIZE_ADDRESS__)
static void return_out_of_order(void *argument)
{
    (void)argument;
    char *first = memory_borrow(8, 1), *second = memory_borrow(8, 1);
    memory_return(&first);
    memory_return(&second);
}
#endif

static void test_borrowed_memory_is_kept(void **state)
{
    (void)state;
    enum { BYTES = 3 << 20 };
    uint64_t calls = 0;
    for (int round = 0; round < 3; round++) {
        char *outer = memory_borrow(100, 3), *inner = memory_borrow(BYTES, 1), *nothing = NULL;
        for (int i = 0; i < 300; i++)
            assert_int_equal(outer[i], 0);
        for (int i = 0; i < BYTES; i += 997)
            assert_int_equal(inner[i], 0);
        memset(outer, 1, 300);
        memset(inner, 1, BYTES);
        memory_return(&nothing);
        memory_return(&inner);
        memory_return(&outer);
        assert_null(inner);
        if (round == 0)
            calls = memory_calls();
    }
#if !defined(__SANITIZE_ADDRESS__)
    assert_int_equal(memory_calls(), calls);
    assert_true(support_aborts(return_out_of_order, NULL, "not the last"));
#else
    assert_true(memory_calls() > calls);
#endif
}

static void test_small_memory(void **state)
{
    (void)state;
    uint64_t calls = memory_calls();
    int *list = NULL;
    int capacity = 0;
    for (int count = 0; count < 1000; count++) {
        memory_reserve(&list, count, &capacity);
        list[count] = count;
    }
    for (int i = 0; i < 1000; i++)
        assert_int_equal(list[i], i);
    assert_int_equal(capacity, 1024);
    assert_int_equal(memory_calls() - calls, 7);
    memory_free(&list);
    assert_null(list);
    unsigned char *zeroed = memory_new(1000, 3);
    for (int i = 0; i < 3000; i++)
        assert_int_equal(zeroed[i], 0);
    memory_free(&zeroed);
    void *nothing = memory_new(0, 8);
    assert_non_null(nothing);
    memory_free(&nothing);
    size_t count = SIZE_MAX / 8;
    assert_true(support_aborts(resize_overflow, &count, "size overflow"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_are_aligned_and_apart),
        cmocka_unit_test(test_rewind_reuses),
        cmocka_unit_test(test_misuse_aborts),
        cmocka_unit_test(test_refused_addresses_are_a_status),
        cmocka_unit_test(test_less_will_do_where_no_limit_was_given),
#ifdef TERCET_CHECKED
        cmocka_unit_test(test_fresh_and_dead_memory_is_nan),
        cmocka_unit_test(test_red_zones),
#endif
        cmocka_unit_test(test_borrowed_memory_is_kept),
        cmocka_unit_test(test_small_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
