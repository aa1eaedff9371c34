/* schedule.c -- warm-up, then constant, linear or cosine: a function of the step alone, so a resumed run needs only its count. */
#include "core/train/schedule.h"

#include <math.h>

double schedule_factor(const ScheduleConfig *schedule, int64_t step, int64_t total)
{
    double warmup = schedule->warmup < 1.0 ? floor(schedule->warmup * (double)total) : floor(schedule->warmup);
    if ((double)step < warmup)
        return (double)(step + 1) / warmup;
    double length = (double)total - warmup;
    double done = length > 0.0 ? ((double)step - warmup) / length : 1.0;
    done = done < 1.0 ? done : 1.0;
    double left = 1.0;
    if (schedule->kind == SCHEDULE_LINEAR)
        left = 1.0 - done;
    if (schedule->kind == SCHEDULE_COSINE)
        left = 0.5 * (1.0 + cos(acos(-1.0) * done));
    return schedule->final + (1.0 - schedule->final) * left;
}
