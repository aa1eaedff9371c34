/* interval.c -- see interval.h. */
#include "eval/interval.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/base/status.h"

/* Two-sided 95 %: the normal distribution's 0.975 quantile. */
static const double z95 = 1.959963984540054;

Interval interval_wilson(double part, double whole)
{
    if (!(whole > 0))
        return (Interval){0, 1};
    double share = part / whole, zz = z95 * z95 / whole;
    double centre = (share + zz / 2) / (1 + zz);
    double half = z95 / (1 + zz) * sqrt(share * (1 - share) / whole + zz / (4 * whole));
    return (Interval){fmax(0, centre - half), fmin(1, centre + half)};
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Linear between the order statistics around rank q (n - 1), as NumPy's default. */
static double quantile(const double *sorted, int64_t n, double q)
{
    double at = q * (double)(n - 1);
    int64_t below = (int64_t)floor(at), above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (at - (double)below) * (sorted[above] - sorted[below]);
}

Interval interval_bootstrap(const double *value, int64_t count, uint64_t seed)
{
    REQUIRE(count >= 1, "an interval of nothing");
    double *mean = memory_new(INTERVAL_RESAMPLES, sizeof *mean);
    for (int r = 0; r < INTERVAL_RESAMPLES; r++) {
        RngStream stream = rng_stream(seed, RNG_BOOTSTRAP, 0, (uint64_t)r);
        double sum = 0;
        for (int64_t i = 0; i < count; i++)
            sum += value[rng_below(stream, (uint64_t)i, (uint64_t)count)];
        mean[r] = sum / (double)count;
    }
    qsort(mean, INTERVAL_RESAMPLES, sizeof *mean, compare);
    Interval interval = {quantile(mean, INTERVAL_RESAMPLES, 0.025), quantile(mean, INTERVAL_RESAMPLES, 0.975)};
    memory_free(&mean);
    return interval;
}
