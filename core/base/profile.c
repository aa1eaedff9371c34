/* profile.c -- a monotonic clock and a short table of phases, searched linearly. */
#include "core/base/profile.h"

#include <string.h>
#include <time.h>

#include "core/base/memory.h"
#include "core/base/status.h"

double profile_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void phase_reset(PhaseTimer *timer)
{
    *timer = (PhaseTimer){.current = -1};
}

/* What the current phase has taken until `now` is its own. */
static void settle(PhaseTimer *timer, double now)
{
    if (timer->current < 0)
        return;
    timer->phase[timer->current].seconds += now - timer->since;
    timer->phase[timer->current].allocations += memory_calls() - timer->calls_since;
}

void phase_begin(PhaseTimer *timer, const char *name)
{
    double now = profile_seconds();
    settle(timer, now);
    int index = 0;
    while (index < timer->count && strcmp(timer->phase[index].name, name) != 0)
        index++;
    if (index == timer->count) {
        REQUIRE(timer->count < PROFILE_PHASES_MAX, "phase %s is one more than the %d there is room for", name,
                PROFILE_PHASES_MAX);
        timer->phase[timer->count++].name = name;
    }
    timer->current = index;
    timer->since = now;
    timer->calls_since = memory_calls();
}

void phase_tokens(PhaseTimer *timer, double tokens)
{
    REQUIRE(timer->current >= 0, "%g tokens counted outside any phase", tokens);
    timer->phase[timer->current].tokens += tokens;
}

void phase_end(PhaseTimer *timer)
{
    settle(timer, profile_seconds());
    timer->current = -1;
}
