/* process.h -- run a command as a child that cannot outlive us, pass on what it says, and hand it a polite stop.
 *
 * Death:  the child asks the kernel for SIGKILL when its parent ends (PR_SET_PDEATHSIG), before exec and checked against
 *         the race. Launched ranks do the same for their launcher (signal_die_with_parent), since Open MPI gives each a
 *         process group of its own.
 * Stop:   the child has a process group of its own, so a terminal's Ctrl-C reaches us alone. Asked to stop, we send one
 *         signal to the child: SIGTERM to a program of ours, SIGUSR1 to a launcher (mpirun and srun pass it on to every
 *         rank, while SIGTERM makes mpirun kill the ranks after a second, in the middle of their checkpoint).
 * Output: standard error comes through a pipe, goes on to ours as it is, and line by line into the log file. */
#ifndef LAUNCH_PROCESS_H
#define LAUNCH_PROCESS_H

#include "launch/command.h"

typedef struct ProcessResult {
    int exit_code;  /* 0..255; -1 when it died of a signal */
    int signal;     /* the signal that ended it, or 0 */
    bool asked;     /* we passed on a request to stop */
    Text last_line; /* the last line with "error: ", else the last line; text_free it */
} ProcessResult;

/* Run to the end. `log_file`: descriptor, or -1. STATUS_IO: it could not be started, and the message says why. [local] */
Status process_run(const Command *command, int stop_signal, int log_file, ProcessResult *result);

#endif
