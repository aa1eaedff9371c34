/* schedule.h -- the learning rate as a function of the step: warm-up, then constant, linear or cosine down to a fraction. */
#ifndef CORE_TRAIN_SCHEDULE_H
#define CORE_TRAIN_SCHEDULE_H

#include <stdint.h>

typedef enum ScheduleKind { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } ScheduleKind;

typedef struct ScheduleConfig {
    ScheduleKind kind;
    double warmup; /* < 1: a fraction of all steps; otherwise steps */
    double final;  /* where the arc ends, as a fraction of lr: the rate of the step after the last */
} ScheduleConfig;

/* Factor on lr for update `step` (0-based) of `total` (steps past it: the end of the arc): (step + 1) / warmup while warming up; after that 1 at the first step and falling so that
 * linear is 1 - u / U with u = steps since warm-up and U = steps after it (Huang et al. 2023: first full, last lr / U), cosine the same arc. */
double schedule_factor(const ScheduleConfig *schedule, int64_t step, int64_t total);

#endif
