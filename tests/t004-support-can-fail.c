//TEST labels=mpi;support processors=2
/* t004 -- the test frame itself: comparisons that NaN fails, runs that are captured and timed, skips that can be required. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *program; /* this test, run again with arguments to see it fail, skip, leave files */

static void test_closeness_fails_on_nan(void **state)
{
    (void)state;
    assert_true(support_is_close(1.0, 1.0 + 1e-9, 1e-8, 0.0));
    assert_false(support_is_close(1.0, 1.0 + 1e-7, 1e-8, 0.0));
    assert_true(support_is_close(1e-9, 0.0, 0.0, 1e-8));
    assert_false(support_is_close(NAN, 1.0, 1.0, 1.0));
    assert_false(support_is_close(1.0, NAN, 1.0, 1.0));
    assert_false(support_is_close(NAN, NAN, 1.0, 1.0));
    assert_false(support_is_close(1.0, 1.0, NAN, 0.0));
    assert_false(support_is_close(INFINITY, 1.0, 1.0, 1.0));
    float a[] = {3.0f, 4.0f}, zero[] = {0.0f, 0.0f}, b[] = {3.0f, 4.5f}, bad[] = {NAN, 4.0f};
    assert_close(support_relative_l2(a, zero, 2), 5.0, 1e-12, 0.0);
    assert_close(support_relative_l2(b, a, 2), 0.1, 1e-12, 0.0);
    assert_true(isnan(support_relative_l2(bad, a, 2)));
}

/* An assertion inside the child ends it with cmocka's long jump, so the child runs a group of its own. */
static void failing(void **state)
{
    int which = *(int *)*state;
    float a[] = {1.0f, NAN, 3.0f}, b[] = {1.0f, 2.0f, 3.0f};
    if (which == 0)
        assert_close(1.0, 2.0, 0.1, 0.1);
    if (which == 1)
        assert_floats_close(a, b, 3, 1.0, 1.0);
    if (which == 2)
        assert_relative_l2(a, b, 3, 1.0);
    if (which == 3)
        assert_ok(status_error(STATUS_IO, "disk on fire"));
    if (which == 4)
        assert_fails(status_ok(), STATUS_IO, NULL);
    if (which == 5)
        assert_fails(status_error(STATUS_IO, "one message"), STATUS_IO, "another message");
    if (which == 6)
        assert_contains("abc", "d");
    if (which == 7)
        assert_lacks("abc", "b");
    if (which == 8) {
        SupportRun run = support_run(5, "exit 3");
        assert_exit(&run, 0);
    }
}

static void test_assertions_fail(void **state)
{
    (void)state;
    for (int which = 0; which <= 8; which++) {
        SupportRun run = support_run(20, "exec '%s' --fail %d", program, which);
        if (run.exit_code != 1)
            print_error("case %d did not fail: %s%s\n", which, run.out.bytes, run.err.bytes);
        assert_int_equal(run.exit_code, 1);
        support_run_free(&run);
    }
}

static void test_run_captures(void **state)
{
    (void)state;
    SupportRun run = support_run(10, "echo out; echo err >&2; cat; exit 5");
    assert_exit(&run, 5);
    assert_string_equal(run.out.bytes, "out\n");
    assert_string_equal(run.err.bytes, "err\n");
    support_run_free(&run);
    run = support_run(10, "kill -9 $$");
    assert_exit(&run, 137);
    support_run_free(&run);
    run = support_run(0.3, "sleep 60 & echo started; wait");
    assert_exit(&run, 124);
    assert_string_equal(run.out.bytes, "started\n");
    assert_true(run.seconds < 5.0);
    support_run_free(&run);
}

static void test_process_is_waited_for(void **state)
{
    (void)state;
    SupportProcess process = support_start("sleep 0.1; touch '%s'; sleep 60", support_path("mark"));
    assert_true(support_wait_for_file(support_path("mark"), 10));
    assert_false(support_wait_for_file(support_path("never"), 0.05));
    SupportRun run = support_wait(&process, 0.0);
    assert_exit(&run, 124);
    support_run_free(&run);
}

static void test_skip_and_require(void **state)
{
    (void)state;
    SupportRun run = support_run(10, "env -u TERCET_DATA -u TERCET_REQUIRE '%s' --need", program);
    assert_exit(&run, 77);
    assert_contains(run.err.bytes, "SKIP: data: TERCET_DATA is not set");
    support_run_free(&run);
    run = support_run(10, "env -u TERCET_DATA TERCET_REQUIRE=mpi4,data '%s' --need", program);
    assert_exit(&run, 1);
    assert_contains(run.err.bytes, "FAIL (TERCET_REQUIRE): data");
    support_run_free(&run);
    run = support_run(10, "env -u TERCET_DATA TERCET_REQUIRE=database '%s' --need", program);
    assert_exit(&run, 77);
    support_run_free(&run);
    run = support_run(10, "TERCET_DATA=/nowhere '%s' --need", program);
    assert_exit(&run, 1);
    support_run_free(&run);
    run = support_run(10, "TERCET_DATA='%s' '%s' --need", support_directory(), program);
    assert_exit(&run, 1); /* the folder is there, the file is not */
    support_run_free(&run);
}

static void test_directory_goes_and_can_be_kept(void **state)
{
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        SupportRun run = support_run(10, "%s '%s' --directory", keep ? "TERCET_KEEP=1" : "env -u TERCET_KEEP", program);
        assert_exit(&run, 0);
        run.out.bytes[strcspn(run.out.bytes, "\n")] = 0;
        assert_contains(run.out.bytes, "tercet-test-");
        assert_int_equal(access(run.out.bytes, F_OK) == 0, keep);
        if (keep) {
            SupportRun removed = support_run(10, "rm -r '%s'", run.out.bytes);
            assert_exit(&removed, 0);
            support_run_free(&removed);
        }
        support_run_free(&run);
    }
}

static void test_ranks_share_a_directory(void **state)
{
    (void)state;
    SupportRun run = support_run(60, "%s '%s' --directory", support_mpirun(2), program);
    assert_exit(&run, 0);
    size_t first = strcspn(run.out.bytes, "\n");
    assert_true(first > 10 && run.out.size == 2 * (first + 1));
    assert_memory_equal(run.out.bytes, run.out.bytes + first + 1, first + 1);
    support_run_free(&run);
    run = support_run(60, "env -u TERCET_DATA -u TERCET_REQUIRE %s '%s' --need", support_mpirun(2), program);
    assert_exit(&run, 77); /* a skip passes through the launcher */
    support_run_free(&run);
}

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc == 3 && strcmp(argv[1], "--fail") == 0) {
        int which = atoi(argv[2]);
        const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(failing, &which)};
        return cmocka_run_group_tests(tests, NULL, NULL);
    }
    if (argc == 2 && strcmp(argv[1], "--need") == 0) {
        printf("%s\n", support_data("no-such-file"));
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--directory") == 0) {
        printf("%s\n", support_directory());
        FILE *file = fopen(support_path("file"), "w");
        if (file) /* the other rank may be done, and have removed the directory */
            fclose(file);
        mkdir(support_path("folder"), 0777);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closeness_fails_on_nan),
        cmocka_unit_test(test_assertions_fail),
        cmocka_unit_test(test_run_captures),
        cmocka_unit_test(test_process_is_waited_for),
        cmocka_unit_test(test_skip_and_require),
        cmocka_unit_test(test_directory_goes_and_can_be_kept),
        cmocka_unit_test(test_ranks_share_a_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
