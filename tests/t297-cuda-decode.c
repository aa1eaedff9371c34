/* t297 -- the end of a decode step on the CUDA backend is the CPU's, over a burst, for few rows and many. */
#include "core/base/memory.h"
#include "tests/support/twin.h"

static void check_burst(int64_t rows)
{
    enum { STEPS = 5 };
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    const int32_t stops[] = {3, 11}, zero = 0;
    int32_t *left = memory_new((size_t)rows, sizeof *left);
    for (int64_t i = 0; i < rows; i++)
        left[i] = (int32_t)(i % 4); /* some have ended, some end inside the burst */
    TwinArray next = twin_ints_below(&twin, rows, 1, 20), past = twin_ints_below(&twin, rows, 2, 50);
    TwinArray index = twin_ints_below(&twin, rows, 3, 9), stay = twin_ints(&twin, left, rows);
    TwinArray stop = twin_ints(&twin, stops, 2), step = twin_ints(&twin, &zero, 1);
    TwinArray history = twin_ints_below(&twin, STEPS * 2 * rows, 4, 7);
    for (int k = 0; k < STEPS; k++) {
        TwinArray token = twin_ints_below(&twin, rows, 10 + (uint64_t)k, 20),
                  logprob = twin_floats(&twin, rows, 20 + (uint64_t)k, 1.0);
#define ARGS(side, flow)                                                                                               \
    (DecodeNextArgs){.token = token.side,                                                                              \
                     .logprob = logprob.side,                                                                          \
                     .next = next.side,                                                                                \
                     .past = past.side,                                                                                \
                     .index = index.side,                                                                              \
                     .left = stay.side,                                                                                \
                     .stop = stop.side,                                                                                \
                     .step = step.side,                                                                                \
                     .history = history.side,                                                                          \
                     .rows = rows,                                                                                     \
                     .stops = 2,                                                                                       \
                     .steps_max = STEPS}
        twin_run(&twin, OP_decode_next, ARGS);
#undef ARGS
    }
    twin_expect_bits(&twin, next, "next");
    twin_expect_bits(&twin, past, "past");
    twin_expect_bits(&twin, index, "index");
    twin_expect_bits(&twin, stay, "left");
    twin_expect_bits(&twin, step, "step");
    twin_expect_bits(&twin, history, "history");
    memory_free(&left);
    twin_close(&twin);
}

static void test_decode_next(void **state)
{
    (void)state;
    for (int k = 0; k < TWIN_SIZES; k++)
        check_burst(twin_sizes[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_decode_next)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
