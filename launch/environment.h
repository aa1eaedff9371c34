/* environment.h -- the only place that reads the environment, and the list of what may be in it.
 *
 * Why:   behaviour comes from the experiment's YAML and the command line. The environment is for debugging, for where a
 *        machine keeps its data, and for what launchers tell their ranks; each name has a row here, and `tercet help
 *        environment` prints them. */
#ifndef LAUNCH_ENVIRONMENT_H
#define LAUNCH_ENVIRONMENT_H

#include <stdbool.h>

#include "core/base/text.h"
#include "core/config/config.h"

typedef enum EnvironmentName {
    ENVIRONMENT_LOG,          /* TERCET_LOG */
    ENVIRONMENT_ISA,          /* TERCET_ISA */
    ENVIRONMENT_DATA,         /* TERCET_DATA: also the path variable ${TERCET_DATA} */
    ENVIRONMENT_LIVE,         /* TERCET_LIVE */
    ENVIRONMENT_TIMEOUT,      /* TERCET_DEVICE_TIMEOUT */
    ENVIRONMENT_HOME,         /* HOME: also the path variable ${HOME} */
    ENVIRONMENT_OMPI_SIZE,    /* OMPI_COMM_WORLD_SIZE */
    ENVIRONMENT_PMI_SIZE,     /* PMI_SIZE */
    ENVIRONMENT_PMIX_RANK,    /* PMIX_RANK */
    ENVIRONMENT_SLURM_PROCID, /* SLURM_PROCID */
    ENVIRONMENT_SLURM_TASKS,  /* SLURM_STEP_NUM_TASKS */
    ENVIRONMENT_YIELD,        /* OMPI_MCA_mpi_yield_when_idle */
    ENVIRONMENT_WAIT_POLICY,  /* OMP_WAIT_POLICY */
    ENVIRONMENT_SPIN_COUNT,   /* GOMP_SPINCOUNT */
    ENVIRONMENT_COUNT
} EnvironmentName;

/* The value, or NULL when it is not set or empty. Borrowed from the environment. */
const char *environment_get(EnvironmentName which);
/* "TERCET_LOG" */
const char *environment_name(EnvironmentName which);
/* Append a table of all names with what they do and whether they are set now. */
void environment_explain(Text *text);

/* The variables that paths of an experiment may use, for ConfigSource: ${TERCET_DATA} and ${HOME}. Static. */
const ConfigVariable *environment_path_variables(int *count);
/* Tell programs started from here to draw the live line (TERCET_LIVE=1). */
void environment_set_live(void);
/* Let idle threads of OpenMP spin for microseconds, not milliseconds (GOMP_SPINCOUNT), in programs started from here. False
 * when the environment already says how threads shall wait. */
bool environment_set_spin(void);
/* Ranks of Open MPI that wait for another give their core away (OMPI_MCA_mpi_yield_when_idle=1), unless the environment says
 * otherwise. Before MPI_Init. */
void environment_set_yield(void);
/* How many ranks the launcher (mpirun, mpiexec, srun) started this process among: 0 when there is none, -1 when there is
 * one that does not say. *launcher: what told so ("OMPI_COMM_WORLD_SIZE"), may be NULL. A shell inside a Slurm allocation
 * is not a launched rank; a task of a step is. */
int environment_launched_ranks(const char **launcher);

#endif
