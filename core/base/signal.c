/* signal.c -- handlers that set one flag. */
#include "core/base/signal.h"

#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <unistd.h>

static volatile sig_atomic_t stop_requested;
static volatile sig_atomic_t interrupted;

static void handle(int number)
{
    if (number == SIGINT && interrupted) {
        signal(SIGINT, SIG_DFL);
        raise(SIGINT); /* delivered when this handler returns, so the parent sees a death by SIGINT */
    }
    if (number == SIGINT)
        interrupted = 1;
    stop_requested = 1;
}

void signal_install(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file grown past its limit is a failed write, with a message, like a full disk */
}

bool signal_stop_requested(void)
{
    return stop_requested;
}

void signal_request_stop(void)
{
    stop_requested = 1;
}

void signal_die_with_parent(void)
{
    pid_t parent = getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it went before the kernel was told */
        raise(SIGKILL);
}
