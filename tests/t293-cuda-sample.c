//TEST timeout=240
/* t293 -- the CUDA backend draws the tokens that the CPU draws, many of them, in every mode: temperature, top-k, top-p, both, greedy; flat and
 * peaked rows, ties, one id, several segments, stored tails that hold anything; -1 where a logit is not finite. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "tests/support/twin.h"

typedef struct Mode {
    const char *name;
    float temperature, top_p;
    int64_t top_k;
} Mode;

static const Mode modes[] = {
    {"temperature 1", 1.0f, 1.0f, 0},
    {"temperature 0.7", 0.7f, 1.0f, 0},
    {"temperature 3", 3.0f, 1.0f, 0},
    {"greedy", 0.0f, 0.5f, 5},
    {"top-k 1", 1.0f, 1.0f, 1},
    {"top-k 7", 1.3f, 1.0f, 7},
    {"top-k 50", 0.9f, 1.0f, 50},
    {"top-k of all", 1.0f, 1.0f, 9999},
    {"top-p 0", 1.0f, 0.0f, 0},
    {"top-p 0.5", 1.0f, 0.5f, 0},
    {"top-p 0.9", 0.8f, 0.9f, 0},
    {"top-p 0.999", 1.5f, 0.999f, 0},
    {"top-k 20 and top-p 0.8", 1.0f, 0.8f, 20},
    {"top-k 300 and top-p 0.95", 1.2f, 0.95f, 300},
};
enum { MODES = sizeof modes / sizeof *modes };

typedef enum Kind { NORMAL, FLAT, ROUNDED, PEAKED, KINDS } Kind;

/* Row i is of kind i % KINDS. ROUNDED has many ties, FLAT nothing else; the stored tail would win, or poison. */
static float *logits_of(Twin *twin, int64_t rows, int64_t vocab, int64_t ld, uint64_t seed)
{
    float *values = twin_floats(twin, rows * ld, seed, 1.0).cpu;
    for (int64_t i = 0; i < rows * ld; i++) {
        const float x = values[i];
        const Kind kind = (Kind)(i / ld % KINDS);
        values[i] = kind == FLAT      ? -0.25f
                    : kind == ROUNDED ? rintf(2.0f * x) / 2.0f
                    : kind == PEAKED  ? 9.0f * x
                                      : 2.0f * x;
        if (i % ld >= vocab)
            values[i] = i % 2 ? NAN : 99.0f;
    }
    return values;
}

typedef struct Draws {
    TwinArray token, logprob;
} Draws;

/* Row i draws at one place among many: every position and sample is another. */
static Draws draw(Twin *twin, const float *values, int64_t rows, int64_t vocab, int64_t ld, const Mode *mode)
{
    int64_t *subsequences = memory_new((size_t)rows, sizeof *subsequences);
    int32_t *positions = memory_new((size_t)rows, sizeof *positions);
    for (int64_t i = 0; i < rows; i++) {
        subsequences[i] =
            (int64_t)rng_stream(0, RNG_ROLLOUT, (uint64_t)(i % 5), (uint64_t)(4294967295 - i)).subsequence;
        positions[i] = i % 3 == 2 ? INT32_MAX - (int32_t)i : (int32_t)(7 * i);
    }
    TwinArray logits = twin_floats_given(twin, values, rows * ld), at = twin_longs(twin, subsequences, rows);
    TwinArray position = twin_ints(twin, positions, rows);
    int32_t *unset = positions;
    memset(unset, 0x55, (size_t)rows * sizeof *unset);
    Draws draws = {twin_ints(twin, unset, rows), twin_floats_empty(twin, rows)};
    SampleArgs cpu = {logits.cpu,
                      rows,
                      vocab,
                      ld,
                      mode->temperature,
                      mode->top_p,
                      mode->top_k,
                      0x123456789abcdefull,
                      at.cpu,
                      position.cpu,
                      draws.token.cpu,
                      draws.logprob.cpu};
    SampleArgs cuda = {logits.cuda,
                       rows,
                       vocab,
                       ld,
                       mode->temperature,
                       mode->top_p,
                       mode->top_k,
                       0x123456789abcdefull,
                       at.cuda,
                       position.cuda,
                       draws.token.cuda,
                       draws.logprob.cuda};
    device_run(&twin->cpu, OP_sample, &cpu);
    device_run(&twin->cuda, OP_sample, &cuda);
    memory_free(&subsequences);
    memory_free(&positions);
    return draws;
}

static void expect_draws(Twin *twin, const Draws *draws, const char *name)
{
    twin_expect(twin, draws->token, name);
    twin_expect_within(twin, draws->logprob, 1e-6, name, __FILE__, __LINE__);
}

static void check_rows(int64_t rows, int64_t vocab, int64_t ld, int first_mode, int last_mode)
{
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    const float *values = logits_of(&twin, rows, vocab, ld, (uint64_t)vocab);
    for (int mode = first_mode; mode < last_mode; mode++) {
        Draws draws = draw(&twin, values, rows, vocab, ld, &modes[mode]);
        expect_draws(&twin, &draws, modes[mode].name);
    }
    twin_close(&twin);
}

static void test_small(void **state)
{
    (void)state;
    check_rows(4, 1, 1, 0, MODES);
    check_rows(8, 2, 4, 0, MODES);
    check_rows(16, 31, 31, 0, MODES);
    check_rows(12, 33, 36, 0, MODES);
}

static void test_many(void **state)
{
    (void)state;
    check_rows(1200, 257, 260, 0, 4);
    check_rows(120, 257, 257, 4, MODES);
}

/* One, two and three segments, whole and begun. */
static void test_segments(void **state)
{
    (void)state;
    check_rows(8, 4096, 4096, 0, MODES);
    check_rows(8, 4097, 4100, 0, MODES);
    check_rows(4, 10007, 10007, 0, MODES);
}

static void test_large(void **state)
{
    (void)state;
    check_rows(24, 50257, 50304, 0, 3);
    check_rows(4, 50257, 50304, MODES - 1, MODES);
}

static void test_not_finite(void **state)
{
    (void)state;
    enum { ROWS = 8, VOCAB = 5001, LD = 5004 };
    for (int mode = 0; mode < MODES; mode++) {
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        float *values = logits_of(&twin, ROWS, VOCAB, LD, 77);
        values[0 * LD + VOCAB - 1] = NAN;
        values[1 * LD + 3] = INFINITY;
        values[2 * LD + 0] = -INFINITY;
        values[4 * LD + 4095] = -NAN;
        values[6 * LD + 4096] = INFINITY;
        Draws draws = draw(&twin, values, ROWS, VOCAB, LD, &modes[mode]);
        expect_draws(&twin, &draws, modes[mode].name);
        double *token = twin_read(&twin, draws.token);
        for (int i = 0; i < ROWS; i++)
            assert_int_equal(token[i] == -1.0, i == 0 || i == 1 || i == 2 || i == 4 || i == 6);
        memory_free(&token);
        twin_close(&twin);
    }
}

/* Of equals the lower id; zeros of both signs are equal. */
static void test_ties(void **state)
{
    (void)state;
    enum { ROWS = 12, VOCAB = 4200 };
    for (int mode = 0; mode < MODES; mode++) {
        Twin twin;
        twin_open(&twin, DTYPE_F32);
        float *values = twin_floats(&twin, ROWS * VOCAB, 5, 0.0).cpu;
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < VOCAB; j++) /* one, some or many zeros on top, of either sign */
                values[i * VOCAB + j] = j % (i % 3 == 0 ? 700 : 61) == i ? (j % 2 ? -0.0f : 0.0f) : -20.0f;
        Draws draws = draw(&twin, values, ROWS, VOCAB, VOCAB, &modes[mode]);
        expect_draws(&twin, &draws, modes[mode].name);
        twin_close(&twin);
    }
}

static void test_no_rows(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    const float one[4] = {1.0f};
    Draws draws = draw(&twin, one, 0, 4, 4, &modes[0]);
    expect_draws(&twin, &draws, "no rows");
    twin_close(&twin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_small),      cmocka_unit_test(test_many),
                                       cmocka_unit_test(test_segments),   cmocka_unit_test(test_large),
                                       cmocka_unit_test(test_not_finite), cmocka_unit_test(test_ties),
                                       cmocka_unit_test(test_no_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
