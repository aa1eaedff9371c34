//TEST timeout=120
/* t289 -- log-sum-exp, log-prob, entropy and their gradient on the CUDA backend are the CPU's: odd widths, stored tails that hold anything, rows that no
 * loss wants, in place, BF16; a row has the same bits whichever outputs are asked for and whatever stands around it. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/twin.h"

typedef struct Shape {
    int64_t rows, vocab, ld;
    float temperature;
    double spread;
} Shape;

static const Shape shapes[] = {
    {1, 1, 1, 1.0f, 1.0},         {3, 2, 4, 0.7f, 3.0},       {5, 31, 31, 1.0f, 2.0},      {31, 33, 36, 1.3f, 4.0},
    {7, 257, 260, 1.0f, 8.0},     {33, 255, 256, 2.0f, 1.0},  {2, 4096, 4096, 1.0f, 3.0},  {3, 4097, 4224, 0.9f, 3.0},
    {2, 10007, 10008, 1.0f, 2.0}, {1, 9001, 9001, 1.0f, 2.0}, {2, 8191, 8192, 0.5f, 30.0},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Logits whose stored tail is NaN. */
static float *logits_of(Twin *twin, const Shape *shape, uint64_t seed)
{
    float *values = twin_floats(twin, shape->rows * shape->ld, seed, 1.0).cpu;
    for (int64_t i = 0; i < shape->rows; i++)
        for (int64_t j = 0; j < shape->ld; j++)
            values[i * shape->ld + j] =
                j < shape->vocab ? values[i * shape->ld + j] * (float)shape->spread + (float)(i % 7) : NAN;
    return values;
}

static void check_stats(Twin *twin, const Shape *shape, bool entropies)
{
    float *values = logits_of(twin, shape, 1);
    TwinArray logits = twin_floats_given(twin, values, shape->rows * shape->ld);
    TwinArray target = twin_ints_below(twin, shape->rows, 2, shape->vocab);
    TwinArray lse = twin_floats_empty(twin, shape->rows), logprob = twin_floats_empty(twin, shape->rows);
    TwinArray entropy = twin_floats_empty(twin, shape->rows);
    LogitsStatsArgs args = {
        .rows = shape->rows, .vocab = shape->vocab, .ld = shape->ld, .temperature = shape->temperature};
    LogitsStatsArgs cpu = args, cuda = args;
    cpu.logits = logits.cpu, cpu.target = target.cpu, cpu.lse = lse.cpu, cpu.logprob = logprob.cpu;
    cuda.logits = logits.cuda, cuda.target = target.cuda, cuda.lse = lse.cuda, cuda.logprob = logprob.cuda;
    cpu.entropy = entropies ? entropy.cpu : NULL;
    cuda.entropy = entropies ? entropy.cuda : NULL;
    device_run(&twin->cpu, OP_logits_stats, &cpu);
    device_run(&twin->cuda, OP_logits_stats, &cuda);
    twin_expect_within(twin, lse, 1e-6, "lse", __FILE__, __LINE__);
    twin_expect_within(twin, logprob, 1e-6, "logprob", __FILE__, __LINE__);
    if (entropies)
        twin_expect_within(twin, entropy, 5e-6, "entropy", __FILE__, __LINE__);
    /* Alone, without the entropy and among other rows: the same bits. */
    int64_t i = shape->rows - 1;
    TwinArray again = twin_floats_empty(twin, 1), none = twin_floats_empty(twin, shape->rows);
    LogitsStatsArgs one = cuda;
    one.rows = 1;
    one.logits += i * shape->ld;
    one.target += i;
    one.logprob = again.cuda;
    one.entropy = one.lse = NULL;
    LogitsStatsArgs nothing = cuda;
    nothing.target = NULL;
    nothing.lse = nothing.logprob = NULL;
    nothing.entropy = none.cuda;
    device_run(&twin->cuda, OP_logits_stats, &nothing);
    if (shape->ld % 4 == 0) { /* else it is read by other widths, which may differ */
        device_run(&twin->cuda, OP_logits_stats, &one);
        double *all = twin_read(twin, logprob), *single = twin_read(twin, again);
        assert_memory_equal(single, all + i, sizeof *single);
        memory_free(&all);
        memory_free(&single);
    }
}

static void test_stats(void **state)
{
    (void)state;
    for (int k = 0; k < SHAPES; k++)
        for (int entropies = 0; entropies < 2; entropies++) {
            Twin twin;
            twin_open(&twin, DTYPE_F32);
            check_stats(&twin, &shapes[k], entropies);
            twin_close(&twin);
        }
}

/* In place (F32) or apart; row 0 unwanted: it gives zeros and may hold anything. */
static void check_backward(Twin *twin, const Shape *shape, bool entropies, bool in_place)
{
    const int64_t rows = shape->rows, count = rows * shape->ld;
    float *values = logits_of(twin, shape, 3), *slope = twin_floats(twin, rows, 4, 1.0).cpu;
    if (rows > 1)
        slope[0] = 0.0f;
    TwinArray logits = twin_floats_given(twin, values, count), target = twin_ints_below(twin, rows, 5, shape->vocab);
    if (rows > 2)
        slope[2] = 0.0f; /* wanted for its entropy alone */
    TwinArray dlogprob = twin_floats_given(twin, slope, rows), dlogits = twin_empty(twin, count);
    if (rows > 2)
        slope[2] = 0.7f;
    TwinArray dentropy = twin_floats_given(twin, slope, rows);
    TwinArray lse = twin_floats_empty(twin, rows), entropy = twin_floats_empty(twin, rows);
    LogitsStatsArgs stats = {logits.cpu,   NULL,      lse.cpu,           NULL, entropy.cpu, rows,
                             shape->vocab, shape->ld, shape->temperature};
    device_run(&twin->cpu, OP_logits_stats, &stats);
    if (rows > 1) {
        values[0] = ((float *)lse.cpu)[0] = NAN;
        logits = twin_floats_given(twin, values, count);
    }
    lse = twin_floats_given(twin, lse.cpu, rows);
    entropy = twin_floats_given(twin, entropy.cpu, rows);
    if (in_place)
        dlogits = logits;
    LogitsBackwardArgs cpu = {DTYPE_F32,    logits.cpu,
                              dlogits.cpu,  target.cpu,
                              lse.cpu,      entropies ? entropy.cpu : NULL,
                              dlogprob.cpu, entropies ? dentropy.cpu : NULL,
                              rows,         shape->vocab,
                              shape->ld,    shape->temperature};
    LogitsBackwardArgs cuda = {twin->dtype,   logits.cuda,
                               dlogits.cuda,  target.cuda,
                               lse.cuda,      entropies ? entropy.cuda : NULL,
                               dlogprob.cuda, entropies ? dentropy.cuda : NULL,
                               rows,          shape->vocab,
                               shape->ld,     shape->temperature};
    device_run(&twin->cpu, OP_logits_backward, &cpu);
    device_run(&twin->cuda, OP_logits_backward, &cuda);
    twin_expect(twin, dlogits, "dlogits");
    double *got = twin_read(twin, dlogits);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < shape->ld; j++)
            if (j >= shape->vocab || (i == 0 && rows > 1))
                assert_true(got[i * shape->ld + j] == 0.0);
    memory_free(&got);
}

static void test_backward(void **state)
{
    (void)state;
    for (int k = 0; k < SHAPES; k++)
        for (int variant = 0; variant < 6; variant++) { /* BF16, F32 apart, F32 in place; with entropies and without */
            Twin twin;
            twin_open(&twin, variant / 2 == 0 ? DTYPE_BF16 : DTYPE_F32);
            check_backward(&twin, &shapes[k], variant % 2, variant / 2 == 2);
            twin_close(&twin);
        }
}

/* One logit that towers over all: its log-prob is 0, the others' are large, nothing is lost or infinite. */
static void test_peaks(void **state)
{
    (void)state;
    enum { ROWS = 4, VOCAB = 5000 };
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    float *values = memory_new(ROWS * VOCAB, sizeof *values);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < VOCAB; j++)
            values[i * VOCAB + j] = i == 3 ? -2.0f : -1e4f;
    values[0] = 1e4f;
    values[1 * VOCAB + VOCAB - 1] = 1e4f;
    values[2 * VOCAB + 2222] = 90.0f;
    static const int32_t targets[ROWS] = {0, 17, 2222, 4999};
    TwinArray logits = twin_floats_given(&twin, values, ROWS * VOCAB), target = twin_ints(&twin, targets, ROWS);
    TwinArray lse = twin_floats_empty(&twin, ROWS), logprob = twin_floats_empty(&twin, ROWS);
    TwinArray entropy = twin_floats_empty(&twin, ROWS);
    LogitsStatsArgs cuda = {logits.cuda, target.cuda, lse.cuda, logprob.cuda, entropy.cuda, ROWS, VOCAB, VOCAB, 1.0f};
    device_run(&twin.cuda, OP_logits_stats, &cuda);
    const double uniform = log((double)VOCAB);
    const double expected[ROWS] = {0.0, -2e4, 0.0, -uniform};
    double *got = twin_read(&twin, logprob), *entropies = twin_read(&twin, entropy);
    for (int i = 0; i < ROWS; i++) {
        assert_close(got[i], expected[i], 1e-6, 1e-6);
        assert_close(entropies[i], i == 3 ? uniform : 0.0, 1e-6, 1e-6);
    }
    memory_free(&got);
    memory_free(&entropies);
    memory_free(&values);
    twin_close(&twin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stats), cmocka_unit_test(test_backward),
                                       cmocka_unit_test(test_peaks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
