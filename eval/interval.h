/* interval.h -- how sure a figure is: 95 % intervals of shares, means and win rates. */
#ifndef EVAL_INTERVAL_H
#define EVAL_INTERVAL_H

#include <stdint.h>

typedef struct Interval {
    double low, high;
} Interval;

enum { INTERVAL_RESAMPLES = 4000 };

/* Of a share `part` / `whole` (Wilson 1927): right near 0 and 1 and for small counts, where the textbook's normal interval is not. whole 0: [0, 1]. */
Interval interval_wilson(double part, double whole);
/* Of the mean of `value` (count), by percentiles of INTERVAL_RESAMPLES resampled means (Efron 1979). A function of the values, their order and `seed`
 * (RNG_BOOTSTRAP; step 0, sample the resample, position the draw). count >= 1. */
Interval interval_bootstrap(const double *value, int64_t count, uint64_t seed);

#endif
