/* shard.c -- who owns what: integer arithmetic alone, so every rank works it out for itself and all agree. */
#include "core/comm/shard.h"

#include "core/tensor/ops.h"

Span shard_span(int64_t count, int64_t parts, int64_t index)
{
    REQUIRE(count >= 0 && parts >= 1 && index >= 0 && index < parts, "part %lld of %lld of %lld items",
            (long long)index, (long long)parts, (long long)count);
    /* count * index / parts without the product, which could overflow */
    int64_t whole = count / parts, rest = count % parts;
    Span span = {whole * index + rest * index / parts, whole * (index + 1) + rest * (index + 1) / parts};
    return span;
}

Span shard_slice(int64_t count, int ranks, int rank)
{
    Span blocks = shard_span((count + SUM_BLOCK - 1) / SUM_BLOCK, ranks, rank);
    Span slice = {blocks.from * SUM_BLOCK, blocks.to * SUM_BLOCK};
    slice.from = slice.from < count ? slice.from : count;
    slice.to = slice.to < count ? slice.to : count;
    return slice;
}

Span shard_lanes(int64_t lanes, int ranks, int rank)
{
    return shard_span(lanes, ranks, rank);
}

Span shard_units(int64_t units, int64_t lanes, int64_t lane)
{
    return shard_span(units, lanes, lane);
}

Span shard_rank_units(int64_t units, int64_t lanes, int ranks, int rank)
{
    Span own = shard_lanes(lanes, ranks, rank);
    if (own.from == own.to)
        return (Span){0, 0};
    Span span = {shard_units(units, lanes, own.from).from, shard_units(units, lanes, own.to - 1).to};
    return span;
}

static bool is_power_of_two(int64_t value)
{
    return value >= 1 && (value & (value - 1)) == 0;
}

Status shard_check(int64_t lanes, int ranks)
{
    if (!is_power_of_two(lanes))
        return status_error(STATUS_USAGE, "lanes: expected a power of two, found %lld", (long long)lanes);
    if (!is_power_of_two(ranks) || ranks > lanes)
        return status_error(STATUS_USAGE, "ranks: expected a power of two of at most %lld (lanes), found %d",
                            (long long)lanes, ranks);
    return status_ok();
}
