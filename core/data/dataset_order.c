/* dataset_order.c -- which example stands where in an epoch: pure functions of seed, epoch and position.
 *
 * How:   each file is an endless sequence of passes over its examples, every pass permuted by itself; an epoch takes the next
 *        per_epoch of them, so a weight of 0.5 gives one half and then the other, and over whole passes every
 *        example comes equally often. The epoch then permutes all files' examples together. Pairs of rated texts
 *        are numbered without being written down (for each text, sorted by rating, how many are far enough below), and
 *        a uniform number picks a uniform pair. */
#define _GNU_SOURCE /* qsort_r */
#include "core/data/dataset_parts.h"

#include <math.h>
#include <stdlib.h>

#include "core/base/memory.h"
#include "core/base/rng.h"

enum { EPOCH_MASK = (1 << 24) - 1 };    /* what a stream's step holds */
static const uint64_t MIX = UINT32_MAX; /* the sample number of the permutation that mixes files */
/* Ratings are stored as float: 3.3 - 2.3 must count as 1. */
static const double GAP_TOLERANCE = 1e-6;

static int compare_ratings(const void *a, const void *b, void *context)
{
    const float *rating = context;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    if (rating[i] != rating[j])
        return rating[i] < rating[j] ? -1 : 1;
    return i < j ? -1 : i > j;
}

static void pairs_prepare(RatedPairs *pairs, const float *rating, int64_t first, int64_t count, double gap)
{
    pairs->count = count;
    pairs->order = memory_new((size_t)count, sizeof *pairs->order);
    pairs->below = memory_new((size_t)count + 1, sizeof *pairs->below);
    for (int64_t i = 0; i < count; i++)
        pairs->order[i] = first + i;
    qsort_r(pairs->order, (size_t)count, sizeof *pairs->order, compare_ratings, (void *)rating);
    int64_t far = 0; /* texts that are far enough below text i */
    for (int64_t i = 0; i < count; i++) {
        double here = rating[pairs->order[i]];
        while (rating[pairs->order[far]] < here && here - rating[pairs->order[far]] >= gap - GAP_TOLERANCE)
            far++;
        pairs->below[i + 1] = pairs->below[i] + far;
    }
}

static void pairs_draw(const RatedPairs *pairs, RngStream stream, uint64_t position, int64_t sequences[2])
{
    int64_t number = (int64_t)rng_below(stream, position, (uint64_t)pairs->below[pairs->count]);
    int64_t low = 0, high = pairs->count; /* below[low] <= number < below[high] */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (pairs->below[middle] <= number)
            low = middle;
        else
            high = middle;
    }
    sequences[0] = pairs->order[low];
    sequences[1] = pairs->order[number - pairs->below[low]];
}

Status dataset_order_prepare(Dataset *dataset, const DataSource *sources, const DataConfig *config)
{
    for (int i = 0; i < dataset->sources_count; i++) {
        SourceOrder *order = &dataset->sources[i];
        order->items = order->span.groups;
        order->rated = dataset->kind == DATASET_RANK && order->span.format == DATA_RATED;
        if (order->rated) {
            pairs_prepare(&order->pairs, dataset->strength, order->span.first_sequence, order->span.sequences,
                          config->gap);
            if (order->pairs.below[order->pairs.count] == 0)
                return status_error(STATUS_INPUT, "%s: no two of the %lld rated texts are %g apart (the key gap)",
                                    order->path, (long long)order->span.sequences, config->gap);
            order->items = config->pairs > 0 ? config->pairs : (order->span.sequences + 1) / 2;
        }
        double wanted = sources[i].weight * (double)order->items;
        if (!(wanted < 1e15))
            return status_error(STATUS_USAGE, "%s: weight %g asks for too many examples", order->path,
                                sources[i].weight);
        order->per_epoch = wanted < 1 ? 1 : llround(wanted);
        order->start = dataset->per_epoch;
        dataset->per_epoch += order->per_epoch;
    }
    return status_ok();
}

void dataset_order_free(Dataset *dataset)
{
    for (int i = 0; i < dataset->sources_count; i++) {
        memory_free(&dataset->sources[i].pairs.order);
        memory_free(&dataset->sources[i].pairs.below);
        memory_free(&dataset->sources[i].path);
    }
    memory_free(&dataset->sources);
}

int64_t dataset_examples_per_epoch(const Dataset *dataset)
{
    return dataset->per_epoch;
}

/* Sequences of group `item` of a source. */
static int group_sequences(const Dataset *dataset, const SourceOrder *order, int64_t item,
                           int64_t sequences[GROUP_ANSWERS_MAX])
{
    int64_t group = order->span.first_group + item;
    int64_t first = dataset->group_start[group], count = dataset->group_start[group + 1] - first;
    for (int64_t i = 0; i < count; i++)
        sequences[i] = first + i;
    return (int)count;
}

int dataset_example(const Dataset *dataset, uint64_t seed, int64_t epoch, int64_t position, bool shuffle,
                    int64_t sequences[GROUP_ANSWERS_MAX])
{
    REQUIRE(epoch >= 0 && position >= 0 && position < dataset->per_epoch, "epoch %lld, position %lld of %lld",
            (long long)epoch, (long long)position, (long long)dataset->per_epoch);
    if (shuffle)
        position = (int64_t)rng_permute(rng_stream(seed, RNG_SHUFFLE, (uint64_t)epoch & EPOCH_MASK, MIX),
                                        (uint64_t)dataset->per_epoch, (uint64_t)position);
    int source = dataset->sources_count - 1;
    while (dataset->sources[source].start > position)
        source--;
    const SourceOrder *order = &dataset->sources[source];
    int64_t in_epoch = position - order->start;
    if (order->rated) {
        uint64_t drawn = shuffle ? (uint64_t)epoch & EPOCH_MASK : 0;
        pairs_draw(&order->pairs, rng_stream(seed, RNG_PAIRS, drawn, (uint64_t)source), (uint64_t)in_epoch, sequences);
        return 2;
    }
    int64_t number = epoch * order->per_epoch + in_epoch, pass = number / order->items, item = number % order->items;
    if (shuffle)
        item = (int64_t)rng_permute(rng_stream(seed, RNG_SHUFFLE, (uint64_t)pass & EPOCH_MASK, (uint64_t)source),
                                    (uint64_t)order->items, (uint64_t)item);
    return group_sequences(dataset, order, item, sequences);
}

Status dataset_check_no_ties(const Dataset *dataset)
{
    for (int s = 0; s < dataset->sources_count; s++) {
        const SourceOrder *order = &dataset->sources[s];
        if (order->rated || dataset->kind != DATASET_RANK)
            continue;
        for (int64_t g = order->span.first_group; g < order->span.first_group + order->span.groups; g++)
            for (int64_t i = dataset->group_start[g]; i < dataset->group_start[g + 1]; i++)
                for (int64_t j = i + 1; j < dataset->group_start[g + 1]; j++)
                    if (dataset->strength[i] == dataset->strength[j])
                        return json_error((JsonPlace){order->path, dataset->line[g]},
                                          "answers %lld and %lld are equally good, and Plackett-Luce has no ties (the "
                                          "all-pairs loss leaves tied pairs out)",
                                          (long long)(i - dataset->group_start[g]) + 1,
                                          (long long)(j - dataset->group_start[g]) + 1);
    }
    return status_ok();
}
