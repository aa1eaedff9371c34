/* bootstrap.c -- MPI or not, and how many threads: see bootstrap.h. */
#define _GNU_SOURCE
#include "launch/bootstrap.h"

#include <mpi.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/signal.h"
#include "core/config/config.h"
#include "core/h5/h5.h"
#include "launch/cores.h"
#include "launch/environment.h"

/* The CPU quota of this control group in whole cores (cgroup 2: "QUOTA PERIOD" in microseconds), or 0: none. A container
 * started with --cpus=2 shows all cores of its host in the affinity mask. */
static int quota_cores(void)
{
    long quota, period;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!file)
        return 0;
    const bool limited = fscanf(file, "%ld %ld", &quota, &period) == 2 && quota > 0 && period > 0;
    fclose(file);
    return limited ? (int)((quota + period - 1) / period) : 0;
}

static int share_cores(const cpu_set_t *mine, const cpu_set_t *all, int node_ranks)
{
    int sharers = 0;
    for (int i = 0; i < node_ranks; i++) {
        cpu_set_t common;
        CPU_AND(&common, mine, &all[i]);
        sharers += CPU_COUNT(&common) > 0;
    }
    int cores = CPU_COUNT(mine) / (sharers > 0 ? sharers : 1);
    const int quota = quota_cores() / node_ranks;
    if (quota > 0 && quota < cores)
        cores = quota;
    return cores > 0 ? cores : 1;
}

static cpu_set_t own_cores(void)
{
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) {
        CPU_ZERO(&cores); /* more cores than a cpu_set_t can name */
        CPU_SET(0, &cores);
    }
    return cores;
}

static void count_cores_of_node(Bootstrap *bootstrap)
{
    MPI_Comm node;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &bootstrap->node_ranks);
    MPI_Comm_rank(node, &bootstrap->node_rank);
    cpu_set_t mine = own_cores(), *all = memory_new((size_t)bootstrap->node_ranks, sizeof *all);
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, node);
    int cores = share_cores(&mine, all, bootstrap->node_ranks);
    bootstrap->unbound = true;
    for (int i = 0; i < bootstrap->node_ranks; i++)
        bootstrap->unbound = bootstrap->unbound && CPU_EQUAL(&mine, &all[i]);
    MPI_Allreduce(&cores, &bootstrap->cores_auto, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    memory_free(&all);
    MPI_Comm_free(&node);
}

static void abort_mpi(StatusCode code)
{
    MPI_Abort(MPI_COMM_WORLD, (int)code);
}

/* Open MPI yields only where it knows that it has more ranks than cores, which it does not under a container's CPU quota or
 * with slots that somebody wrote down: a PPO iteration of four ranks on two cores then took 1.60 s instead of 0.72. Yielding
 * costs nothing where every rank has its core. */
static Status open_mpi(Bootstrap *bootstrap, int launched, const char *launcher)
{
    int provided, size, rank;
    h5_library_start();
    environment_set_yield();
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return status_error(STATUS_IO, "MPI_Init_thread failed");
    bootstrap->uses_mpi = true;
    status_on_leave(abort_mpi);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    status_set_rank(rank);
    if (provided < MPI_THREAD_FUNNELED)
        return status_error(STATUS_IO, "this MPI does not take a program with threads (MPI_THREAD_FUNNELED)");
    if (launched > 0 && size != launched)
        return status_error(STATUS_USAGE,
                            "the launcher started %d ranks (%s), but MPI sees %d: its MPI is not the one "
                            "that this program uses; try mpirun, or srun --mpi=pmix",
                            launched, launcher, size);
    MPI_Comm world = MPI_COMM_WORLD;
    TRY(comm_open_mpi(&world, &bootstrap->comm));
    count_cores_of_node(bootstrap);
    return status_ok();
}

/* GNU's OpenMP spins for some milliseconds before a thread sleeps. Where another program wants the core, each wait of
 * each product then costs a time slice: decoding a small model took 38 s instead of 0.9 s. About 20 microseconds
 * lose nothing on an idle machine, where sleeping at once (OMP_WAIT_POLICY=passive) costs half the speed. */
void bootstrap_calm_threads(char **argv)
{
    if (environment_set_spin() && argv)
        execv("/proc/self/exe", argv); /* where that fails, the threads spin */
}

Status bootstrap_open(Bootstrap *bootstrap)
{
    const char *launcher;
    const int launched = environment_launched_ranks(&launcher);
    *bootstrap = (Bootstrap){.comm = comm_self(), .node_ranks = 1};
    if (launched != 0)
        signal_die_with_parent();
    if (launched == 0 || launched == 1) {
        const cpu_set_t mine = own_cores();
        bootstrap->cores_auto = share_cores(&mine, &mine, 1);
        return status_ok();
    }
    Status status = open_mpi(bootstrap, launched, launcher);
    if (status_failed(status))
        bootstrap_close(bootstrap);
    return status;
}

int bootstrap_set_threads(Bootstrap *bootstrap, int64_t threads)
{
    const int count = threads == CONFIG_AUTO ? bootstrap->cores_auto : (int)threads;
    REQUIRE(count >= 1, "%d threads", count);
    if (count > bootstrap->cores_auto && status_rank() == 0)
        log_warn("threads: %d on each of %d rank%s of this machine is more than the %d core%s for each; expect them to "
                 "wait for each other",
                 count, bootstrap->node_ranks, bootstrap->node_ranks == 1 ? "" : "s", bootstrap->cores_auto,
                 bootstrap->cores_auto == 1 ? "" : "s");
    omp_set_dynamic(0);
    omp_set_num_threads(count);
    if (bootstrap->unbound && bootstrap->kept == 0)
        bootstrap->kept = cores_keep(bootstrap->node_rank, bootstrap->node_ranks, count, quota_cores());
    return count;
}

const char *bootstrap_binding(const Bootstrap *bootstrap)
{
    return bootstrap->kept > 0   ? "; each rank keeps to its own cores"
           : bootstrap->uses_mpi ? "; cores as they were given"
                                 : "";
}

void bootstrap_close(Bootstrap *bootstrap)
{
    if (bootstrap->uses_mpi) {
        if (bootstrap->comm != comm_self())
            comm_close(bootstrap->comm);
        MPI_Finalize();
    }
    *bootstrap = (Bootstrap){.comm = comm_self(), .node_ranks = 1};
}

void bootstrap_abort(const Bootstrap *bootstrap, StatusCode code)
{
    if (bootstrap->uses_mpi)
        MPI_Abort(MPI_COMM_WORLD, (int)code);
    exit((int)code);
}
