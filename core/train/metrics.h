/* metrics.h -- metrics.jsonl, one object per step: comparable numbers there, seconds and rates in timings.jsonl beside it.
 *
 * Numbers are printed with %.17g so that equal runs compare equal as text; a resume cuts both files back to the checkpoint's step. */
#ifndef CORE_TRAIN_METRICS_H
#define CORE_TRAIN_METRICS_H

#include <stdint.h>
#include <stdio.h>

#include "core/base/profile.h"
#include "core/base/text.h"

typedef struct Metrics {
    FILE *metrics, *timings; /* NULL on ranks other than 0 */
    Text line;
} Metrics;

/* Opens DIRECTORY/metrics.jsonl and timings.jsonl for appending after dropping every line whose "step" is above `step`. Rank 0 alone does
 * anything. [local] */
Status metrics_open(Metrics *metrics, const char *directory, int rank, int64_t step);
void metrics_close(Metrics *metrics);
/* One line: begin, values, end (written and flushed). A value that is not finite is written as null. */
void metrics_begin(Metrics *metrics, int64_t step, const char *phase);
void metrics_number(Metrics *metrics, const char *name, double value);
void metrics_text(Metrics *metrics, const char *name, const char *value);
Status metrics_end(Metrics *metrics);
/* Seconds, tokens/s and allocations of each phase into timings.jsonl. */
Status metrics_timings(Metrics *metrics, int64_t step, const PhaseTimer *timer);

#endif
