//TEST ranks=1,2,4 timeout=60
/* One rank never initialises MPI; several agree about ranks and threads; a launcher that MPI does not know is refused. */
#include <mpi.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/config/config.h"
#include "launch/bootstrap.h"
#include "launch/environment.h"
#include "tests/support/support.h"

static Bootstrap bootstrap;

static void test_mpi_only_for_several_ranks(void **state)
{
    (void)state;
    int initialized;
    MPI_Initialized(&initialized);
    const int launched = environment_launched_ranks(NULL);
    assert_int_equal(initialized, launched > 1);
    assert_int_equal(comm_size(bootstrap.comm), launched > 1 ? launched : 1);
    assert_int_equal(bootstrap.node_ranks, comm_size(bootstrap.comm));
    assert_int_equal(comm_rank(bootstrap.comm), status_rank());
    assert_int_equal(comm_mpi_handle(bootstrap.comm) != NULL, launched > 1);
}

/* The variable that mpirun set for this test was taken away before the bootstrap. */
static void test_waiting_ranks_yield_unless_told_otherwise(void **state)
{
    (void)state;
    const char *name = environment_name(ENVIRONMENT_YIELD);
    assert_int_equal(environment_get(ENVIRONMENT_YIELD) != NULL, environment_launched_ranks(NULL) > 1);
    environment_set_yield();
    assert_string_equal(environment_get(ENVIRONMENT_YIELD), "1");
    setenv(name, "0", 1);
    environment_set_yield();
    assert_string_equal(environment_get(ENVIRONMENT_YIELD), "0");
}

static void test_every_rank_has_the_same_threads(void **state)
{
    (void)state;
    char text[32];
    const int threads = bootstrap_set_threads(&bootstrap, CONFIG_AUTO);
    assert_true(threads >= 1 && threads == bootstrap.cores_auto && omp_get_max_threads() == threads);
    assert_true(threads * bootstrap.node_ranks <= sysconf(_SC_NPROCESSORS_CONF) || threads == 1);
    snprintf(text, sizeof text, "%d", threads);
    assert_ok(comm_agree_same(bootstrap.comm, "threads", text));
    assert_int_equal(bootstrap_set_threads(&bootstrap, 3), 3);
    assert_int_equal(omp_get_dynamic(), 0);
    int seen = 0;
#pragma omp parallel
#pragma omp single
    seen = omp_get_num_threads();
    assert_int_equal(seen, 3);
}

static void test_launchers_are_known(void **state)
{
    (void)state;
    const char *launcher;
    if (comm_size(bootstrap.comm) > 1)
        return;
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("PMI_SIZE");
    unsetenv("PMIX_RANK");
    setenv("SLURM_STEP_NUM_TASKS", "8", 1);
    assert_int_equal(environment_launched_ranks(NULL), 0); /* a shell in an allocation */
    setenv("SLURM_PROCID", "3", 1);
    assert_int_equal(environment_launched_ranks(&launcher), 8);
    assert_string_equal(launcher, "SLURM_STEP_NUM_TASKS");
    unsetenv("SLURM_STEP_NUM_TASKS");
    setenv("PMIX_RANK", "0", 1);
    assert_int_equal(environment_launched_ranks(&launcher), -1);
    setenv("PMI_SIZE", "2", 1);
    assert_int_equal(environment_launched_ranks(NULL), 2);
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    assert_int_equal(environment_launched_ranks(NULL), 4);
}

/* Four tasks of an srun whose MPI is another one: each finds itself alone. */
static void test_singletons_of_a_foreign_launcher_are_refused(void **state)
{
    (void)state;
    if (comm_size(bootstrap.comm) > 1)
        return;
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = 0;
    SupportRun run =
        support_run(30,
                    "for v in $(env | grep -E '^(OMPI_|PMIX_|PMI_|ORTE_)' | cut -d= -f1); do unset $v; done; "
                    "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4 OMPI_MCA_ess_singleton_isolated=1 '%s' open",
                    self);
    assert_exit(&run, STATUS_USAGE);
    assert_contains(text_string(&run.err), "started 4 ranks (SLURM_STEP_NUM_TASKS), but MPI sees 1");
    support_run_free(&run);
}

int main(int argc, char **argv)
{
    unsetenv(environment_name(ENVIRONMENT_YIELD));
    Status status = bootstrap_open(&bootstrap);
    if (argc == 2 && strcmp(argv[1], "open") == 0) {
        fprintf(stderr, "%s\n", status_message());
        return (int)status.code;
    }
    if (status_failed(status)) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mpi_only_for_several_ranks),
        cmocka_unit_test(test_waiting_ranks_yield_unless_told_otherwise),
        cmocka_unit_test(test_every_rank_has_the_same_threads),
        cmocka_unit_test(test_singletons_of_a_foreign_launcher_are_refused),
        cmocka_unit_test(test_launchers_are_known),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bootstrap_close(&bootstrap);
    return failed;
}
