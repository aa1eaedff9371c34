/* environment.c -- one row per environment variable that the program looks at. */
#include "launch/environment.h"

#include <stdlib.h>

static const struct {
    const char *name, *help;
} rows[ENVIRONMENT_COUNT] = {
    [ENVIRONMENT_LOG] = {"TERCET_LOG", "how much is said: quiet, warn, info (standard) or debug"},
    [ENVIRONMENT_ISA] = {"TERCET_ISA",
                         "instruction set of the CPU kernels: baseline, avx2 or avx512; standard: the best "
                         "that the processor has. Results of different sets differ in last bits"},
    [ENVIRONMENT_DATA] = {"TERCET_DATA", "directory that ${TERCET_DATA} means in an experiment's paths"},
    [ENVIRONMENT_LIVE] = {"TERCET_LIVE",
                          "1: draw the live progress line although standard error is no terminal; `tercet "
                          "run` sets it for its stages when its own is one"},
    [ENVIRONMENT_TIMEOUT] = {"TERCET_DEVICE_TIMEOUT",
                             "seconds in which no op of a GPU ends before it is given up, its peers being dead or "
                             "silent; 600 unless this is set"},
    [ENVIRONMENT_HOME] = {"HOME", "directory that ${HOME} means in an experiment's paths"},
    [ENVIRONMENT_OMPI_SIZE] = {"OMPI_COMM_WORLD_SIZE", "set by Open MPI's mpirun: how many ranks there are"},
    [ENVIRONMENT_PMI_SIZE] = {"PMI_SIZE", "set by MPICH's mpiexec and by srun --mpi=pmi2: likewise"},
    [ENVIRONMENT_PMIX_RANK] = {"PMIX_RANK", "set by launchers that speak PMIx: this process is a rank"},
    [ENVIRONMENT_SLURM_PROCID] = {"SLURM_PROCID", "set by Slurm: the task's number"},
    [ENVIRONMENT_SLURM_TASKS] = {"SLURM_STEP_NUM_TASKS", "set by srun for the tasks of a step: how many there are"},
    [ENVIRONMENT_YIELD] = {"OMPI_MCA_mpi_yield_when_idle",
                           "Open MPI's: 1: a rank that waits for another gives its core away between looks; 1 unless "
                           "this is set"},
    [ENVIRONMENT_WAIT_POLICY] = {"OMP_WAIT_POLICY",
                                 "OpenMP's: active or passive waiting of idle threads; see GOMP_SPINCOUNT"},
    [ENVIRONMENT_SPIN_COUNT] = {"GOMP_SPINCOUNT",
                                "how long an idle thread of GNU's OpenMP spins before it sleeps; 1000 unless this or "
                                "OMP_WAIT_POLICY is set"},
};

const char *environment_get(EnvironmentName which)
{
    const char *value = getenv(rows[which].name);
    return value && *value ? value : NULL;
}

const char *environment_name(EnvironmentName which)
{
    return rows[which].name;
}

void environment_explain(Text *text)
{
    for (EnvironmentName which = 0; which < ENVIRONMENT_COUNT; which++) {
        const char *value = environment_get(which);
        text_printf(text, "%s\n    %s\n    now: %s\n", rows[which].name, rows[which].help, value ? value : "(not set)");
    }
}

const ConfigVariable *environment_path_variables(int *count)
{
    static ConfigVariable variables[2];
    variables[0] = (ConfigVariable){rows[ENVIRONMENT_DATA].name, environment_get(ENVIRONMENT_DATA)};
    variables[1] = (ConfigVariable){rows[ENVIRONMENT_HOME].name, environment_get(ENVIRONMENT_HOME)};
    *count = 2;
    return variables;
}

void environment_set_live(void)
{
    setenv(rows[ENVIRONMENT_LIVE].name, "1", 1);
}

bool environment_set_spin(void)
{
    if (getenv(rows[ENVIRONMENT_WAIT_POLICY].name) || getenv(rows[ENVIRONMENT_SPIN_COUNT].name))
        return false;
    return setenv(rows[ENVIRONMENT_SPIN_COUNT].name, "1000", 1) == 0;
}

void environment_set_yield(void)
{
    setenv(rows[ENVIRONMENT_YIELD].name, "1", 0);
}

int environment_launched_ranks(const char **launcher)
{
    static const EnvironmentName sizes[] = {ENVIRONMENT_OMPI_SIZE, ENVIRONMENT_PMI_SIZE, ENVIRONMENT_SLURM_TASKS};
    for (int i = 0; i < 3; i++) {
        const char *value = environment_get(sizes[i]);
        if (!value || (sizes[i] == ENVIRONMENT_SLURM_TASKS && !environment_get(ENVIRONMENT_SLURM_PROCID)))
            continue;
        const int ranks = atoi(value);
        if (ranks < 1)
            continue;
        if (launcher)
            *launcher = rows[sizes[i]].name;
        return ranks;
    }
    const bool told = environment_get(ENVIRONMENT_PMIX_RANK) != NULL;
    if (launcher)
        *launcher = told ? rows[ENVIRONMENT_PMIX_RANK].name : NULL;
    return told ? -1 : 0;
}
