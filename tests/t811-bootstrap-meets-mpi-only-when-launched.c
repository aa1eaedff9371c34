//TEST ranks=1,2,4 timeout=60
/* One rank never initialises MPI; several agree about ranks and threads, and keep to cores of their own where nobody bound them; a
 * launcher that MPI does not know is refused. */
#define _GNU_SOURCE
#include <mpi.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/config/config.h"
#include "launch/bootstrap.h"
#include "launch/cores.h"
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

/* This program anew, without what the launcher of this one told it. */
static SupportRun run_self(const char *before, const char *words)
{
    char self[4096];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = 0;
    return support_run(
        30, "for v in $(env | grep -E '^(OMPI_|PMIX_|PMI_|ORTE_)' | cut -d= -f1); do unset $v; done; %s '%s' %s",
        before, self, words);
}

/* Four tasks of an srun whose MPI is another one: each finds itself alone. */
static void test_singletons_of_a_foreign_launcher_are_refused(void **state)
{
    (void)state;
    if (comm_size(bootstrap.comm) > 1)
        return;
    SupportRun run = run_self("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4 OMPI_MCA_ess_singleton_isolated=1", "open");
    assert_exit(&run, STATUS_USAGE);
    assert_contains(text_string(&run.err), "started 4 ranks (SLURM_STEP_NUM_TASKS), but MPI sees 1");
    support_run_free(&run);
}

/* --- Cores -------------------------------------------------------------------------------------------------------- */

static cpu_set_t cores_now(void)
{
    cpu_set_t cores;
    assert_int_equal(sched_getaffinity(0, sizeof cores, &cores), 0);
    return cores;
}

static void test_parts_of_the_cores_are_disjoint(void **state)
{
    (void)state;
    const cpu_set_t all = cores_now();
    const int count = CPU_COUNT(&all), each = count / 2;
    cpu_set_t part[2], common;
    if (comm_size(bootstrap.comm) > 1 || count < 2)
        return;
    assert_int_equal(cores_keep(0, 1, count, 0), 0);     /* nobody to keep away from */
    assert_int_equal(cores_keep(0, 2, each + 1, 0), 0);  /* more threads than cores */
    assert_int_equal(cores_keep(0, 2, each, count), 0);  /* a quota */
    assert_int_equal(cores_keep(0, 2, count / 4, 0), 0); /* room for another job */
    cpu_set_t now = cores_now();
    assert_true(CPU_EQUAL(&all, &now));
    for (int rank = 0; rank < 2; rank++) {
        assert_int_equal(cores_keep(rank, 2, each, 0), each);
        part[rank] = cores_now();
        assert_int_equal(CPU_COUNT(&part[rank]), each);
        CPU_AND(&common, &part[rank], &all);
        assert_true(CPU_EQUAL(&common, &part[rank]));
        assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    }
    CPU_AND(&common, &part[0], &part[1]);
    assert_int_equal(CPU_COUNT(&common), 0);
}

/* A rank of two started by the test below: prints "apart" when it has changed its cores and no other rank has one of them, "as given"
 * when it has not. `bound`: it was given one core. */
static int say_cores(int threads, bool bound)
{
    cpu_set_t given = cores_now(), all[2], common;
    if (bound) {
        int rank = atoi(getenv("OMPI_COMM_WORLD_RANK")), id = 0;
        for (; !CPU_ISSET(id, &given) || rank-- > 0; id++)
            continue;
        CPU_ZERO(&given);
        CPU_SET(id, &given);
        assert_int_equal(sched_setaffinity(0, sizeof given, &given), 0);
    }
    if (status_failed(bootstrap_open(&bootstrap)))
        return 1;
    bootstrap_set_threads(&bootstrap, threads);
    cpu_set_t kept = cores_now();
    MPI_Allgather(&kept, sizeof kept, MPI_BYTE, all, sizeof kept, MPI_BYTE, MPI_COMM_WORLD);
    CPU_AND(&common, &all[0], &all[1]);
    printf("%s%s\n",
           CPU_EQUAL(&kept, &given) ? "as given"
           : CPU_COUNT(&common)     ? "overlapping"
                                    : "apart",
           bootstrap_binding(&bootstrap));
    bootstrap_close(&bootstrap);
    return 0;
}

static bool quota_stands(void)
{
    char word[16] = "max";
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file && fscanf(file, "%15s", word) != 1)
        word[0] = 0;
    if (file)
        fclose(file);
    return strcmp(word, "max") != 0;
}

static void test_ranks_that_nobody_bound_keep_to_cores_of_their_own(void **state)
{
    (void)state;
    const cpu_set_t all = cores_now();
    const int count = CPU_COUNT(&all);
    if (comm_size(bootstrap.comm) > 1 || count < 2 || quota_stands())
        return;
    const struct {
        const char *word;
        int threads;
        const char *said;
    } cases[] = {{"cores", count / 2, "apart; each rank keeps to its own cores"},
                 {"cores", count, "as given; cores as they were given"},
                 {"bound", 1, "as given; cores as they were given"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char words[32];
        snprintf(words, sizeof words, "%s %d", cases[i].word, cases[i].threads);
        SupportRun run = run_self(TERCET_MPIRUN " 2", words);
        assert_exit(&run, 0);
        const char *first = strstr(text_string(&run.out), cases[i].said);
        assert_true(first && strstr(first + 1, cases[i].said)); /* both ranks */
        support_run_free(&run);
    }
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return say_cores(atoi(argv[2]), strcmp(argv[1], "bound") == 0);
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
        cmocka_unit_test(test_parts_of_the_cores_are_disjoint),
        cmocka_unit_test(test_ranks_that_nobody_bound_keep_to_cores_of_their_own),
        cmocka_unit_test(test_launchers_are_known),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    bootstrap_close(&bootstrap);
    return failed;
}
