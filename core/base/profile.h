/* profile.h -- wall-clock seconds and allocations by phase: cheap enough to be always on (one clock read per phase change). */
#ifndef CORE_BASE_PROFILE_H
#define CORE_BASE_PROFILE_H

#include <stdint.h>

/* Monotonic seconds since an arbitrary start. */
double profile_seconds(void);

enum { PROFILE_PHASES_MAX = 16 };

typedef struct PhaseTimer {
    struct {
        const char *name; /* static string */
        double seconds;
        double tokens;
        uint64_t allocations; /* of ours: memory_calls() */
    } phase[PROFILE_PHASES_MAX];
    int count, current; /* current: -1 when idle */
    double since;
    uint64_t calls_since; /* memory_calls() when the current phase began */
} PhaseTimer;

void phase_reset(PhaseTimer *timer);
/* End the current phase, begin `name` (a static string; compared by content). */
void phase_begin(PhaseTimer *timer, const char *name);
/* Count work done in the current phase. */
void phase_tokens(PhaseTimer *timer, double tokens);
void phase_end(PhaseTimer *timer);

#endif
