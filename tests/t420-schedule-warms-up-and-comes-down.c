//TEST timeout=20
/* t420 -- the learning rate's factor at the points that a person can work out. */
#include "tests/support/support.h"

#include <math.h>

#include "core/train/schedule.h"

static double factor(ScheduleKind kind, double warmup, double final, int64_t step, int64_t total)
{
    ScheduleConfig schedule = {.kind = kind, .warmup = warmup, .final = final};
    return schedule_factor(&schedule, step, total);
}

static void test_linear_is_huangs(void **state)
{
    (void)state;
    /* lr (1 - (u - 1) / U): first update the full rate, last one lr / U. */
    for (int64_t step = 0; step < 10; step++)
        assert_close(factor(SCHEDULE_LINEAR, 0, 0, step, 10), 1.0 - (double)step / 10.0, 1e-15, 0);
    assert_close(factor(SCHEDULE_LINEAR, 0, 0, 9, 10), 0.1, 1e-12, 0);
    assert_close(factor(SCHEDULE_LINEAR, 0, 0.5, 5, 10), 0.75, 1e-15, 0);
}

static void test_cosine(void **state)
{
    (void)state;
    assert_close(factor(SCHEDULE_COSINE, 0, 0.1, 0, 100), 1.0, 0, 0);
    assert_close(factor(SCHEDULE_COSINE, 0, 0.1, 50, 100), 0.55, 1e-12, 0);
    assert_close(factor(SCHEDULE_COSINE, 0, 0.1, 25, 100), 0.1 + 0.9 * (0.5 + sqrt(0.125)), 1e-12, 0);
    assert_close(factor(SCHEDULE_COSINE, 0, 0.1, 100, 100), 0.1, 1e-12, 0);
    for (int64_t step = 1; step < 100; step++)
        assert_true(factor(SCHEDULE_COSINE, 0, 0, step, 100) < factor(SCHEDULE_COSINE, 0, 0, step - 1, 100));
}

static void test_warmup(void **state)
{
    (void)state;
    for (int kind = SCHEDULE_CONSTANT; kind <= SCHEDULE_COSINE; kind++) {
        for (int64_t step = 0; step < 4; step++) {
            assert_close(factor(kind, 4, 0, step, 20), (double)(step + 1) / 4.0, 0, 0);
            assert_close(factor(kind, 0.2, 0, step, 20), (double)(step + 1) / 4.0, 0, 0); /* the same as a fraction */
        }
        assert_close(factor(kind, 4, 0, 4, 20), 1.0, 0, 0);
    }
    assert_close(factor(SCHEDULE_CONSTANT, 4, 0, 19, 20), 1.0, 0, 0);
    assert_close(factor(SCHEDULE_LINEAR, 4, 0, 12, 20), 0.5, 1e-15, 0);
    assert_close(factor(SCHEDULE_LINEAR, 0.01, 0, 0, 10), 1.0, 0, 0); /* less than a step: none */
}

static void test_past_the_end(void **state)
{
    (void)state;
    assert_close(factor(SCHEDULE_LINEAR, 0, 0.25, 15, 10), 0.25, 0, 0);
    assert_close(factor(SCHEDULE_COSINE, 0, 0, 15, 10), 0.0, 0, 1e-15);
    assert_close(factor(SCHEDULE_LINEAR, 20, 0.25, 20, 10), 0.25, 0, 0); /* warm-up longer than the run */
    assert_close(factor(SCHEDULE_LINEAR, 20, 0.25, 9, 10), 0.5, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear_is_huangs),
        cmocka_unit_test(test_cosine),
        cmocka_unit_test(test_warmup),
        cmocka_unit_test(test_past_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
