/* shard.h -- who owns what: pure arithmetic on counts, the same on every rank.
 *
 * lanes   fix the sum of a step's gradients, whoever computes it: a step's units go to lanes contiguously, lanes join in a
 *         binary tree. Ranks = 2^k <= lanes take equal runs of lanes, so ranks decide who computes, never what.
 * slices  of a flat buffer: whole blocks of SUM_BLOCK floats, so block sums never depend on ranks. */
#ifndef CORE_COMM_SHARD_H
#define CORE_COMM_SHARD_H

#include <stdint.h>

#include "core/base/status.h"

typedef struct Span {
    int64_t from, to;
} Span;

/* Item `index` of `parts` contiguous, near-equal parts of `count`: [count * i / parts, count * (i + 1) / parts). */
Span shard_span(int64_t count, int64_t parts, int64_t index);
/* Slice of `count` floats that `rank` of `ranks` owns; whole blocks, the last may be short or empty. */
Span shard_slice(int64_t count, int ranks, int rank);
/* Lanes of a rank. */
Span shard_lanes(int64_t lanes, int ranks, int rank);
/* Units of a lane of a step with `units` units. */
Span shard_units(int64_t units, int64_t lanes, int64_t lane);
/* Units of a rank: those of its lanes, a contiguous run. */
Span shard_rank_units(int64_t units, int64_t lanes, int ranks, int rank);
/* STATUS_USAGE unless lanes is a power of two and ranks a power of two not above it. */
Status shard_check(int64_t lanes, int ranks);

#endif
