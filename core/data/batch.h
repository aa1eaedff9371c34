/* batch.h -- from examples to steps and units: which examples form one optimizer step, and how a step is cut into units of work.
 *
 * A step takes the next `batch` examples of the epoch's order (the last step of an epoch may be short: every example is
 * seen once). A step is cut into contiguous units: as many as the token budget
 * asks for, rounded up to a multiple of `lanes` (never more than examples), with cuts that balance tokens. A function of lengths, budget and lanes alone. */
#ifndef CORE_DATA_BATCH_H
#define CORE_DATA_BATCH_H

#include "core/data/dataset.h"

/* Units of one step: unit u holds examples [unit_start[u], unit_start[u + 1]) of the step. */
typedef struct UnitPlan {
    int64_t units;
    int64_t *unit_start; /* (units + 1) */
    int64_t capacity;    /* of unit_start: a plan made anew keeps its memory */
} UnitPlan;

/* Make *plan, {0} or an earlier one, anew. length (examples): tokens of each. A single example above the budget is a unit of its own. */
void units_plan(UnitPlan *plan, const int64_t *length, int64_t examples, int64_t unit_tokens, int64_t lanes);
void units_free(UnitPlan *plan);

/* One step's examples: sequence indices, grouped. */
typedef struct StepExamples {
    int64_t examples;
    int64_t *group_start; /* (examples + 1) into sequence */
    int64_t *sequence;    /* indices for dataset_sequence */
    int64_t tokens;       /* of all sequences */
    int64_t targets;      /* SFT: tokens that carry loss (first tokens of a sequence never do) */
    UnitPlan plan;
    int64_t group_capacity, sequence_capacity;
} StepExamples;

int64_t batch_steps_per_epoch(const Dataset *dataset, int64_t batch);
/* Examples of step `step` (0-based over the whole run), into *result: {0} or those of another step, whose memory is kept. */
void batch_step(StepExamples *result, const Dataset *dataset, uint64_t seed, int64_t step, int64_t batch, bool shuffle,
                int64_t unit_tokens, int64_t lanes);
void batch_step_free(StepExamples *examples);

#endif
