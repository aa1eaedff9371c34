/* bootstrap.h -- from a bare process to a Comm and a number of threads: the only place that knows MPI_COMM_WORLD.
 *
 * Ranks:   a process that no launcher started, or that is alone, never calls MPI_Init (0.3 s); it gets comm_self().
 *          A launched rank asks to die with its launcher before anything else.
 * Threads: `threads: auto` is the cores that this rank may use, shared fairly among the ranks of the node that may use the
 *          same ones, and no more than the container's CPU quota; the least of all ranks, so that every rank has the same
 *          number: results depend on it (design, "what exact means"), so the caller stores it. */
#ifndef LAUNCH_BOOTSTRAP_H
#define LAUNCH_BOOTSTRAP_H

#include <stdbool.h>

#include "core/comm/comm.h"

typedef struct Bootstrap {
    Comm *comm; /* owned; closed by bootstrap_close */
    bool uses_mpi;
    int node_ranks; /* ranks on this machine, this one included */
    int node_rank;  /* which of them this one is */
    int cores_auto; /* what `threads: auto` comes to */
    bool unbound;   /* several ranks, and the launcher left the same cores to all of this machine */
    int kept;       /* cores that this rank keeps to since bootstrap_set_threads; 0: it may use what it was given */
} Bootstrap;

/* Idle threads sleep soon, here and in programs started from here, unless the environment says otherwise. GNU's OpenMP
 * reads how long they spin when it is loaded, so this starts the program again, once, with `argv` (NULL: leaves this
 * process as it is). Before anything else in main. [local] */
void bootstrap_calm_threads(char **argv);
/* STATUS_USAGE when the launcher and MPI disagree about the number of ranks (srun without --mpi=pmix starts as many
 * singletons, which would all write the same files). Sets the rank of messages. [collective] */
Status bootstrap_open(Bootstrap *bootstrap);
/* Set the threads of OpenMP, and so of the kernels and oneDNN. `threads`: CONFIG_AUTO or a number. Returns the number in
 * use; warns where more were asked for than there are cores. Before the first parallel region: where the launcher bound
 * nothing, each rank keeps to its part of the cores (cores.h). [local] */
int bootstrap_set_threads(Bootstrap *bootstrap, int64_t threads);
/* How ranks are bound, for a person. [local] */
const char *bootstrap_binding(const Bootstrap *bootstrap);
/* Ends MPI. Every rank must come here, after the last use of the Comm. [collective] */
void bootstrap_close(Bootstrap *bootstrap);
/* Leave alone, and take the other ranks along: for a failure that was not agreed on. Never returns. */
void bootstrap_abort(const Bootstrap *bootstrap, StatusCode code) __attribute__((noreturn));

#endif
