/* signal.h -- a polite stop: SIGTERM, SIGINT and SIGUSR1 (Slurm's --signal) ask; units of work answer.
 *
 * Why:   a signal arrives on one rank at any moment; a checkpoint needs all ranks at one moment. So a handler only sets
 *        a flag, and stages agree on it at unit boundaries (comm_agree_stop). A second SIGINT ends the process at
 *        once. */
#ifndef CORE_BASE_SIGNAL_H
#define CORE_BASE_SIGNAL_H

#include <stdbool.h>

void signal_install(void);
/* [local] This process was asked to stop. Never branch on it alone in a collective program. */
bool signal_stop_requested(void);
/* Ask this process to stop, as the signal would (tests, and failure injection). */
void signal_request_stop(void);
/* Die with the parent: SIGKILL when the process that started this one ends (Linux PR_SET_PDEATHSIG). */
void signal_die_with_parent(void);

#endif
