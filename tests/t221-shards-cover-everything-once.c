//TEST timeout=20
/* t221 -- spans, slices, lanes and units: whatever the number of ranks, everything is owned once, in order, on fixed blocks. */
#include "tests/support/support.h"

#include "core/comm/shard.h"
#include "core/tensor/ops.h"

static void test_spans_tile(void **state)
{
    (void)state;
    const int64_t counts[] = {0, 1, 2, 7, 64, 1000003, INT64_MAX / 2};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int64_t parts = 1; parts <= 33; parts++) {
            int64_t at = 0;
            for (int64_t i = 0; i < parts; i++) {
                Span span = shard_span(counts[c], parts, i);
                assert_int_equal(span.from, at);
                int64_t length = span.to - span.from, floor = counts[c] / parts;
                assert_true(length == floor || length == floor + 1);
                at = span.to;
            }
            assert_int_equal(at, counts[c]);
        }
    assert_int_equal(shard_span(10, 4, 1).from, 2); /* the header's formula: 10 * 1 / 4 */
    assert_int_equal(shard_span(10, 4, 1).to, 5);
}

static void test_slices_are_whole_blocks(void **state)
{
    (void)state;
    const int64_t counts[] = {1, SUM_BLOCK - 1, SUM_BLOCK, SUM_BLOCK + 1, 10 * SUM_BLOCK + 5, 123456789};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
        for (int ranks = 1; ranks <= 16; ranks++) {
            int64_t at = 0, owned[16] = {0}, all = 0;
            for (int64_t stripe = 0; stripe < shard_stripes(counts[c]); stripe++) {
                Span whole = shard_stripe(counts[c], stripe);
                assert_int_equal(whole.from, at);
                for (int rank = 0; rank < ranks; rank++) {
                    Span slice = shard_slice(counts[c], ranks, rank, stripe);
                    assert_int_equal(slice.from, at);
                    assert_true(slice.to >= slice.from);
                    assert_true(slice.from % SUM_BLOCK == 0 || slice.from == counts[c]);
                    assert_true(slice.to % SUM_BLOCK == 0 || slice.to == counts[c]);
                    owned[rank] += slice.to - slice.from;
                    at = slice.to;
                }
                assert_int_equal(whole.to, at);
            }
            assert_int_equal(at, counts[c]);
            for (int rank = 0; rank < ranks; rank++) {
                assert_int_equal(shard_owned(counts[c], ranks, rank), owned[rank]);
                all += owned[rank];
            }
            assert_int_equal(all, counts[c]);
        }
}

/* The same on stripes of other sizes. */
static void test_stripes_of_any_size(void **state)
{
    for (int64_t blocks = 1; blocks <= 7; blocks += 3) {
        shard_set_stripe(blocks);
        assert_int_equal(shard_stripes(7 * SUM_BLOCK + 1), (8 + blocks - 1) / blocks);
        test_slices_are_whole_blocks(state);
    }
    shard_set_stripe(2048);
}

static void test_units_follow_lanes(void **state)
{
    (void)state;
    for (int64_t lanes = 1; lanes <= 8; lanes *= 2)
        for (int ranks = 1; ranks <= lanes; ranks *= 2)
            for (int64_t units = 0; units <= 20; units++) {
                int64_t unit = 0, lane = 0;
                for (int rank = 0; rank < ranks; rank++) {
                    Span own = shard_lanes(lanes, ranks, rank), of_rank = shard_rank_units(units, lanes, ranks, rank);
                    assert_int_equal(own.from, lane);
                    assert_int_equal(own.to - own.from, lanes / ranks); /* equal runs */
                    assert_int_equal(of_rank.from, unit);
                    for (; lane < own.to; lane++) {
                        Span span = shard_units(units, lanes, lane);
                        assert_int_equal(span.from, unit);
                        unit = span.to;
                    }
                    assert_int_equal(of_rank.to, unit);
                }
                assert_int_equal(lane, lanes);
                assert_int_equal(unit, units);
            }
}

static void test_check(void **state)
{
    (void)state;
    assert_ok(shard_check(1, 1, true));
    assert_ok(shard_check(8, 2, true));
    assert_ok(shard_check(8, 8, true));
    assert_fails(shard_check(6, 2, true), STATUS_USAGE, "power of two, found 6");
    assert_fails(shard_check(0, 1, true), STATUS_USAGE, "found 0");
    assert_fails(shard_check(-4, 1, true), STATUS_USAGE, "found -4");
    assert_fails(shard_check(8, 3, true), STATUS_USAGE, "found 3");
    assert_fails(shard_check(2, 4, true), STATUS_USAGE, "at most 2");
    assert_ok(shard_check(8, 3, false));
    assert_fails(shard_check(6, 3, false), STATUS_USAGE, "power of two, found 6");
    assert_fails(shard_check(2, 3, false), STATUS_USAGE, "at most 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans_tile),
        cmocka_unit_test(test_slices_are_whole_blocks),
        cmocka_unit_test(test_stripes_of_any_size),
        cmocka_unit_test(test_units_follow_lanes),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
