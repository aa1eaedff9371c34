/* t018 -- work in pieces: every piece is done once, turns come in order, and the first failing piece is the one that is told. */
#include "tests/support/support.h"

#include <omp.h>

#include "core/base/work.h"

enum { PIECES = 1000 };

typedef struct Seen {
    int done[PIECES], fails_from, workers;
    int64_t turns;
} Seen;

static Status job(void *context, int64_t index, int worker)
{
    Seen *seen = context;
    if (worker < 0 || worker >= seen->workers)
        return status_error(STATUS_INTERNAL, "worker %d", worker);
    seen->done[index]++;
    return index >= seen->fails_from ? status_error(STATUS_INPUT, "piece %d is bad", (int)index) : status_ok();
}

static Status turn(void *context, int64_t index, int worker)
{
    (void)worker;
    Seen *seen = context;
    return seen->turns++ == index ? status_ok() : status_error(STATUS_INTERNAL, "turn of %d too early", (int)index);
}

static void test_pieces(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        Seen seen = {.fails_from = PIECES, .workers = work_threads()};
        assert_ok(work_run(PIECES, job, turn, &seen));
        assert_ok(work_run(PIECES, job, NULL, &seen));
        assert_int_equal(seen.turns, PIECES);
        for (int i = 0; i < PIECES; i++)
            assert_int_equal(seen.done[i], 2);
        seen = (Seen){.fails_from = 500, .workers = work_threads()};
        assert_fails(work_run(PIECES, job, turn, &seen), STATUS_INPUT, "piece 500 is bad");
        assert_int_equal(seen.turns, 500);
        seen = (Seen){.fails_from = PIECES, .workers = work_waiting_threads()};
        assert_true(seen.workers > threads);
        assert_ok(work_run_waiting(PIECES, job, &seen));
        for (int i = 0; i < PIECES; i++)
            assert_int_equal(seen.done[i], 1);
        seen = (Seen){.fails_from = 1, .workers = 2};
        assert_fails(work_run_waiting(2, job, &seen), STATUS_INPUT, "piece 1 is bad");
        assert_ok(work_run_waiting(0, job, &seen));
    }
}

static Status aside(void *context)
{
    *(int *)context = 1;
    return status_error(STATUS_IO, "said elsewhere");
}

static void test_aside(void **state)
{
    (void)state;
    int done = 0;
    WorkAside *job_aside = work_aside_begin(aside, &done);
    assert_fails(work_aside_end(&job_aside), STATUS_IO, "said elsewhere");
    assert_null(job_aside);
    assert_int_equal(done, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_aside)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
