/* interval.h -- how sure a share or a mean is: Wilson's interval for shares, and paired win rates with ties as halves. */
#ifndef EVAL_INTERVAL_H
#define EVAL_INTERVAL_H

#include <stdint.h>

typedef struct Interval {
    double value, low, high; /* 95 % */
} Interval;

/* Wilson 1927 for `successes` (ties may count 0.5) of `count`; count 0: 0, 0, 1. */
Interval interval_share(double successes, int64_t count);
/* Share of i where a[i] > b[i], ties 0.5. */
Interval interval_wins(const float *a, const float *b, int64_t count);
/* Mean with mean +- 1.96 standard errors. */
Interval interval_mean(const float *values, int64_t count);

#endif
