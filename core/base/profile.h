/* profile.h -- wall-clock seconds by phase: cheap enough to be always on (one clock read per phase change). */
#ifndef CORE_BASE_PROFILE_H
#define CORE_BASE_PROFILE_H

/* Monotonic seconds since an arbitrary start. */
double profile_seconds(void);

enum { PROFILE_PHASES_MAX = 16 };

typedef struct PhaseTimer {
    struct {
        const char *name; /* static string */
        double seconds;
        double tokens;
    } phase[PROFILE_PHASES_MAX];
    int count, current; /* current: -1 when idle */
    double since;
} PhaseTimer;

void phase_reset(PhaseTimer *timer);
/* End the current phase, begin `name` (a static string; compared by content). */
void phase_begin(PhaseTimer *timer, const char *name);
/* Count work done in the current phase. */
void phase_tokens(PhaseTimer *timer, double tokens);
void phase_end(PhaseTimer *timer);

#endif
