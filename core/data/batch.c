/* batch.c -- steps and units: pure arithmetic on lengths. */
#include "core/data/batch.h"

#include <string.h>

#include "core/base/memory.h"

/* --- Units ----------------------------------------------------------------------------------------------------------
 *
 * next(i) is where a unit that starts at example i ends at the latest when it may hold `limit` tokens (a single longer
 * example is a unit alone); parts is how many such units there are, which is the fewest possible. */

static int64_t unit_end(const int64_t *prefix, int64_t examples, int64_t from, int64_t limit)
{
    int64_t low = from + 1, high = examples;
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        if (prefix[middle] - prefix[from] <= limit)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Counts no further than `enough`. */
static int64_t parts_needed(const int64_t *prefix, int64_t examples, int64_t limit, int64_t enough)
{
    int64_t parts = 0;
    for (int64_t at = 0; at < examples && parts <= enough; parts++)
        at = unit_end(prefix, examples, at, limit);
    return parts;
}

/* Cut into exactly `units` parts of at most `limit` tokens, each as near as can be to an equal share of what is left. */
static void cut_evenly(const int64_t *prefix, int64_t examples, int64_t limit, UnitPlan *plan)
{
    int64_t *need = memory_borrow((size_t)examples + 1, sizeof *need); // (examples + 1) fewest units for the rest
    for (int64_t i = examples - 1; i >= 0; i--)
        need[i] = need[unit_end(prefix, examples, i, limit)] + 1;
    int64_t at = 0;
    for (int64_t u = 0; u < plan->units; u++) {
        int64_t left = plan->units - u - 1; /* units after this one */
        int64_t last = unit_end(prefix, examples, at, limit), end = at + 1;
        if (last > examples - left)
            last = examples - left;
        double share = (double)prefix[at] + (double)(prefix[examples] - prefix[at]) / (double)(left + 1);
        while (end < last && (need[end] > left || (double)prefix[end + 1] - share <= share - (double)prefix[end]))
            end++;
        plan->unit_start[u] = at;
        at = end;
    }
    plan->unit_start[plan->units] = examples;
    memory_return(&need);
}

/* Room for `count` items, never given back. */
static void reserve(int64_t **items, int64_t *capacity, int64_t count)
{
    if (count <= *capacity)
        return;
    *items = memory_resize(*items, (size_t)count, sizeof **items);
    *capacity = count;
}

void units_plan(UnitPlan *plan, const int64_t *length, int64_t examples, int64_t unit_tokens, int64_t lanes)
{
    REQUIRE(examples >= 0 && unit_tokens >= 1 && lanes >= 1, "%lld examples, %lld tokens, %lld lanes",
            (long long)examples, (long long)unit_tokens, (long long)lanes);
    int64_t *prefix = memory_borrow((size_t)examples + 1, sizeof *prefix);
    for (int64_t i = 0; i < examples; i++)
        prefix[i + 1] = prefix[i] + length[i];
    int64_t units = parts_needed(prefix, examples, unit_tokens, examples);
    units = (units + lanes - 1) / lanes * lanes;
    if (units > examples)
        units = examples;
    reserve(&plan->unit_start, &plan->capacity, examples + 1);
    plan->units = units;
    plan->unit_start[0] = 0;
    int64_t low = 1, high = unit_tokens; /* the least limit that `units` units can keep */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (parts_needed(prefix, examples, middle, units) <= units)
            high = middle;
        else
            low = middle + 1;
    }
    if (units)
        cut_evenly(prefix, examples, low, plan);
    memory_return(&prefix);
}

void units_free(UnitPlan *plan)
{
    memory_free(&plan->unit_start);
    *plan = (UnitPlan){0};
}

/* --- Steps ----------------------------------------------------------------------------------------------------------*/

int64_t batch_steps_per_epoch(const Dataset *dataset, int64_t batch)
{
    REQUIRE(batch >= 1, "a batch of %lld", (long long)batch);
    return (dataset_examples_per_epoch(dataset) + batch - 1) / batch;
}

void batch_step(StepExamples *result, const Dataset *dataset, uint64_t seed, int64_t step, int64_t batch, bool shuffle,
                int64_t unit_tokens, int64_t lanes)
{
    int64_t steps = batch_steps_per_epoch(dataset, batch), total = dataset_examples_per_epoch(dataset);
    int64_t epoch = step / steps, from = step % steps * batch;
    int64_t examples = total - from < batch ? total - from : batch, count = 0;
    reserve(&result->group_start, &result->group_capacity, examples + 1);
    reserve(&result->sequence, &result->sequence_capacity, examples * GROUP_ANSWERS_MAX);
    result->examples = examples;
    result->tokens = result->targets = 0;
    result->group_start[0] = 0;
    int64_t *length = memory_borrow((size_t)examples, sizeof *length);
    for (int64_t i = 0; i < examples; i++) {
        int found = dataset_example(dataset, seed, epoch, from + i, shuffle, result->sequence + count);
        for (int s = 0; s < found; s++) {
            Sequence sequence = dataset_sequence(dataset, result->sequence[count++]);
            length[i] += sequence.count;
            for (int64_t t = 1; sequence.loss && t < sequence.count; t++)
                result->targets += sequence.loss[t];
        }
        result->group_start[i + 1] = count;
        result->tokens += length[i];
    }
    units_plan(&result->plan, length, examples, unit_tokens, lanes);
    memory_return(&length);
}

void batch_step_free(StepExamples *examples)
{
    memory_free(&examples->group_start);
    memory_free(&examples->sequence);
    units_free(&examples->plan);
    *examples = (StepExamples){0};
}
