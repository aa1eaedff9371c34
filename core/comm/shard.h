/* shard.h -- who owns what: pure arithmetic on counts, the same on every rank.
 *
 * lanes   fix the sum of a step's gradients, whoever computes it: a step's units go to lanes contiguously, lanes join in a
 *         binary tree. Ranks = 2^k <= lanes take equal runs of lanes, so ranks decide who computes, never what.
 * stripes of a flat buffer, of a fixed size: what gradients are summed over ranks by, while backward still makes those of the stripes before.
 * slices  of a stripe, one for each rank: whole blocks of SUM_BLOCK floats, so block sums never depend on ranks. */
#ifndef CORE_COMM_SHARD_H
#define CORE_COMM_SHARD_H

#include <stdint.h>

#include "core/base/status.h"

typedef struct Span {
    int64_t from, to;
} Span;

/* Item `index` of `parts` contiguous, near-equal parts of `count`: [count * i / parts, count * (i + 1) / parts). */
Span shard_span(int64_t count, int64_t parts, int64_t index);
/* Stripes of a flat buffer of `count` floats; and one of them, the last may be short. */
int64_t shard_stripes(int64_t count);
Span shard_stripe(int64_t count, int64_t stripe);
/* Slice of a stripe that `rank` of `ranks` owns; whole blocks, the last may be short or empty. */
Span shard_slice(int64_t count, int ranks, int rank, int64_t stripe);
/* Floats of all its slices. */
int64_t shard_owned(int64_t count, int ranks, int rank);
/* Tests set the size low, so that small models have several. */
void shard_set_stripe(int64_t blocks);
/* Lanes of a rank. */
Span shard_lanes(int64_t lanes, int ranks, int rank);
/* Units of a lane of a step with `units` units. */
Span shard_units(int64_t units, int64_t lanes, int64_t lane);
/* Units of a rank: those of its lanes, a contiguous run. */
Span shard_rank_units(int64_t units, int64_t lanes, int ranks, int rank);
/* STATUS_USAGE unless lanes is a power of two and ranks are not more; with `exact` they are a power of two themselves. */
Status shard_check(int64_t lanes, int ranks, bool exact);

#endif
