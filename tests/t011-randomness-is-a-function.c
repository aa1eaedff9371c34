/* t011 -- Philox4x32-10 equals its published vectors, streams stay apart, permutations are bijections. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"

/* Known answers of the Random123 distribution (Salmon et al., 2011): zeros, all ones, digits of pi. */
static void test_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t words[4];
        rng_philox(known[i].key[0] | (uint64_t)known[i].key[1] << 32,
                   known[i].counter[2] | (uint64_t)known[i].counter[3] << 32,
                   known[i].counter[0] | (uint64_t)known[i].counter[1] << 32, words);
        assert_memory_equal(words, known[i].expected, sizeof words);
    }
}

/* The documented layout, which cuRAND shares: subsequence = purpose:8 | step:24 | sample:32, block = position. */
static void test_stream_layout(void **state)
{
    (void)state;
    RngStream stream = rng_stream(77, RNG_ROLLOUT, 0x123456, 0x89abcdef);
    assert_int_equal(stream.seed, 77);
    assert_true(stream.subsequence == 0x0312345689abcdefull);
    uint32_t words[4];
    rng_philox(77, 0x0312345689abcdefull, 5, words);
    assert_close(rng_uniform(stream, 5), (words[0] + 0.5) / 4294967296.0, 0.0, 0.0);
}

static void step_out_of_range(void *argument)
{
    (void)argument;
    (void)rng_stream(1, RNG_TEST, 1u << 24, 0);
}

static void sample_out_of_range(void *argument)
{
    (void)argument;
    (void)rng_stream(1, RNG_TEST, 0, 1ull << 32);
}

static void test_stream_range_is_checked(void **state)
{
    (void)state;
    assert_true(support_aborts(step_out_of_range, NULL, "step 16777216"));
    assert_true(support_aborts(sample_out_of_range, NULL, "sample 4294967296"));
}

static void test_uniform(void **state)
{
    (void)state;
    enum { DRAWS = 200000, BINS = 64 };
    int bins[BINS] = {0};
    double sum = 0.0, squares = 0.0, lag = 0.0, previous = 0.5;
    RngStream stream = rng_stream(1, RNG_TEST, 3, 9);
    for (int i = 0; i < DRAWS; i++) {
        double u = rng_uniform(stream, (uint64_t)i);
        assert_true(u > 0.0 && u < 1.0);
        sum += u;
        squares += u * u;
        lag += (u - 0.5) * (previous - 0.5);
        previous = u;
        bins[(int)(u * BINS)]++;
    }
    /* Five standard errors each. */
    assert_close(sum / DRAWS, 0.5, 0.0, 5.0 * sqrt(1.0 / 12.0 / DRAWS));
    assert_close(squares / DRAWS, 1.0 / 3.0, 0.0, 5.0 * sqrt(4.0 / 45.0 / DRAWS));
    assert_close(lag / DRAWS, 0.0, 0.0, 5.0 / 12.0 / sqrt(DRAWS));
    double chi = 0.0, expected = (double)DRAWS / BINS;
    for (int i = 0; i < BINS; i++)
        chi += (bins[i] - expected) * (bins[i] - expected) / expected;
    assert_true(chi < BINS - 1 + 5.0 * sqrt(2.0 * (BINS - 1)));
    assert_true(chi > BINS - 1 - 5.0 * sqrt(2.0 * (BINS - 1)));
}

/* Streams that differ in one field share no word and are not correlated. */
static void test_streams_are_apart(void **state)
{
    (void)state;
    const RngStream base = rng_stream(1, RNG_TEST, 1, 1);
    const RngStream others[] = {rng_stream(2, RNG_TEST, 1, 1), rng_stream(1, RNG_DEMO, 1, 1),
                                rng_stream(1, RNG_TEST, 2, 1), rng_stream(1, RNG_TEST, 1, 2)};
    enum { DRAWS = 20000 };
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
        double product = 0.0;
        int equal = 0;
        for (uint64_t i = 0; i < DRAWS; i++) {
            double a = rng_uniform(base, i), b = rng_uniform(others[k], i);
            equal += a == b;
            product += (a - 0.5) * (b - 0.5);
        }
        assert_true(equal <= 1);
        assert_close(product / DRAWS, 0.0, 0.0, 5.0 / 12.0 / sqrt(DRAWS));
    }
}

static void test_below(void **state)
{
    (void)state;
    RngStream stream = rng_stream(5, RNG_TEST, 0, 0);
    int counts[7] = {0};
    for (uint64_t i = 0; i < 70000; i++) {
        uint64_t value = rng_below(stream, i, 7);
        assert_true(value < 7);
        counts[value]++;
    }
    for (int i = 0; i < 7; i++)
        assert_close(counts[i], 10000.0, 0.0, 5.0 * sqrt(10000.0));
    assert_int_equal(rng_below(stream, 1, 1), 0);
    uint64_t high = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t value = rng_below(stream, i, UINT64_MAX);
        high = value > high ? value : high;
    }
    assert_true(high > UINT64_MAX / 100 * 98); /* all 64 bits are reached: P(miss) is 2e-9 */
}

static void test_normals(void **state)
{
    (void)state;
    enum { BLOCKS = 50000 };
    double moments[5] = {0};
    for (uint64_t i = 0; i < BLOCKS; i++) {
        double normal[4];
        rng_normal4(rng_stream(9, RNG_INIT, 0, 4), i, normal);
        for (int j = 0; j < 4; j++) {
            assert_true(isfinite(normal[j]));
            double power = 1.0;
            for (int k = 1; k <= 4; k++) {
                power *= normal[j];
                moments[k] += power;
            }
        }
    }
    const double draws = 4.0 * BLOCKS;
    assert_close(moments[1] / draws, 0.0, 0.0, 5.0 * sqrt(1.0 / draws));
    assert_close(moments[2] / draws, 1.0, 0.0, 5.0 * sqrt(2.0 / draws));
    assert_close(moments[3] / draws, 0.0, 0.0, 5.0 * sqrt(15.0 / draws));
    assert_close(moments[4] / draws, 3.0, 0.0, 5.0 * sqrt(96.0 / draws));
}

static void check_permutation(uint64_t count, uint64_t epoch)
{
    RngStream stream = rng_stream(3, RNG_SHUFFLE, epoch, 0);
    unsigned char *seen = memory_new(count, 1);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t image = rng_permute(stream, count, i);
        assert_true(image < count);
        assert_int_equal(seen[image], 0);
        seen[image] = 1;
    }
    memory_free(&seen);
}

static void test_permutation_is_a_bijection(void **state)
{
    (void)state;
    for (uint64_t count = 1; count <= 300; count++)
        check_permutation(count, count);
    static const uint64_t counts[] = {1023, 1024, 1025, 4096, 4097, 65535, 65537, 100003};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        check_permutation(counts[i], 1);
    /* The largest sets: images stay inside and two indices never share one. */
    const uint64_t large = 3000000000000ull;
    assert_true(rng_permute(rng_stream(3, RNG_SHUFFLE, 0, 0), large, 0) < large);
    assert_true(rng_permute(rng_stream(3, RNG_SHUFFLE, 0, 0), large, 0) !=
                rng_permute(rng_stream(3, RNG_SHUFFLE, 0, 0), large, large - 1));
}

static void check_chi_square(const int *counts, size_t cells, double draws, double freedom, const char *what)
{
    double chi = 0.0, expected = draws / (double)cells;
    for (size_t i = 0; i < cells; i++)
        chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    if (!(fabs(chi - freedom) <= 5.0 * sqrt(2.0 * freedom) + 5.0))
        fail_msg("%s: chi-square %.1f with %.0f degrees of freedom", what, chi, freedom);
}

/* Over many epochs each index comes to each place equally often, and so do neighbours; small sets too. */
static void test_permutation_shuffles(void **state)
{
    (void)state;
    enum { COUNT_MAX = 23, EPOCHS = 6000 };
    for (int count = 2; count <= COUNT_MAX; count = 2 * count + 1) {
        int where[COUNT_MAX * COUNT_MAX] = {0}, pairs[COUNT_MAX * COUNT_MAX] = {0};
        for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
            RngStream stream = rng_stream(8, RNG_SHUFFLE, epoch, 0);
            int first = 0, second = 0;
            for (int i = 0; i < count; i++) {
                int image = (int)rng_permute(stream, (uint64_t)count, (uint64_t)i);
                where[i * count + image]++;
                first = i == 0 ? image : first;
                second = i == 1 ? image : second;
            }
            pairs[first * (count - 1) + second - (second > first)]++;
        }
        size_t cells = (size_t)count * (size_t)count;
        check_chi_square(where, cells, (double)EPOCHS * count, (count - 1.0) * (count - 1.0), "places");
        if (count > 2)
            check_chi_square(pairs, cells - (size_t)count, EPOCHS, count * (count - 1.0) - 1.0, "pairs");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_stream_layout),
        cmocka_unit_test(test_stream_range_is_checked),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_streams_are_apart),
        cmocka_unit_test(test_below),
        cmocka_unit_test(test_normals),
        cmocka_unit_test(test_permutation_is_a_bijection),
        cmocka_unit_test(test_permutation_shuffles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
