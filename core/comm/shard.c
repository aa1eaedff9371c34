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

/* 32 MiB: large enough that a slice of it, one of eight, is a message that fills a link, small enough that little is left to exchange when backward ends. */
static int64_t stripe_blocks = 2048;

void shard_set_stripe(int64_t blocks)
{
    REQUIRE(blocks >= 1, "stripes of %lld blocks", (long long)blocks);
    stripe_blocks = blocks;
}

int64_t shard_stripes(int64_t count)
{
    int64_t blocks = (count + SUM_BLOCK - 1) / SUM_BLOCK;
    return (blocks + stripe_blocks - 1) / stripe_blocks;
}

/* Blocks [from, to) as floats. */
static Span span_of_blocks(int64_t count, int64_t from, int64_t to)
{
    Span span = {from * SUM_BLOCK, to * SUM_BLOCK};
    span.from = span.from < count ? span.from : count;
    span.to = span.to < count ? span.to : count;
    return span;
}

Span shard_stripe(int64_t count, int64_t stripe)
{
    return span_of_blocks(count, stripe * stripe_blocks, (stripe + 1) * stripe_blocks);
}

Span shard_slice(int64_t count, int ranks, int rank, int64_t stripe)
{
    Span whole = shard_stripe(count, stripe);
    int64_t first = stripe * stripe_blocks;
    Span blocks = shard_span((whole.to - whole.from + SUM_BLOCK - 1) / SUM_BLOCK, ranks, rank);
    return span_of_blocks(count, first + blocks.from, first + blocks.to);
}

int64_t shard_owned(int64_t count, int ranks, int rank)
{
    int64_t owned = 0;
    for (int64_t stripe = 0; stripe < shard_stripes(count); stripe++) {
        Span slice = shard_slice(count, ranks, rank, stripe);
        owned += slice.to - slice.from;
    }
    return owned;
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

Status shard_check(int64_t lanes, int ranks, bool exact)
{
    if (!is_power_of_two(lanes))
        return status_error(STATUS_USAGE, "lanes: expected a power of two, found %lld", (long long)lanes);
    if (exact && (!is_power_of_two(ranks) || ranks > lanes))
        return status_error(STATUS_USAGE, "ranks: expected a power of two of at most %lld (lanes), found %d",
                            (long long)lanes, ranks);
    if (ranks < 1 || ranks > lanes)
        return status_error(STATUS_USAGE, "ranks: expected at most %lld (lanes), found %d", (long long)lanes, ranks);
    return status_ok();
}
