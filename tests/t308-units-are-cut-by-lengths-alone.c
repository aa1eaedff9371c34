//TEST labels=cpu timeout=60
/* t308 -- a step is cut into contiguous units that keep the token budget, are a multiple of the lanes, and are balanced as well as any
 * cut could be; a step's examples are the epoch's, each once. */
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/data/batch.h"
#include "tests/support/support.h"
#include "tests/support/words.h"

static void expect_plan(const int64_t *length, int64_t examples, int64_t unit_tokens, int64_t lanes,
                        const char *expected)
{
    UnitPlan plan = {0};
    units_plan(&plan, length, examples, unit_tokens, lanes);
    Text text = {0};
    for (int64_t u = 0; u <= plan.units; u++)
        text_printf(&text, "%s%lld", u ? " " : "", (long long)plan.unit_start[u]);
    assert_string_equal(text_string(&text), expected);
    text_free(&text);
    units_free(&plan);
}
#define LENGTHS(...) (const int64_t[]){__VA_ARGS__}, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static void test_small_plans(void **state)
{
    (void)state;
    expect_plan(LENGTHS(5, 5, 5, 5), 100, 1, "0 4");
    expect_plan(LENGTHS(5, 5, 5, 5), 10, 1, "0 2 4");
    expect_plan(LENGTHS(5, 5, 5, 5), 9, 1, "0 1 2 3 4");
    expect_plan(LENGTHS(5, 5, 5, 5), 100, 2, "0 2 4");
    expect_plan(LENGTHS(5, 5, 5, 5), 100, 8, "0 1 2 3 4");
    expect_plan(LENGTHS(5, 50, 5, 5), 10, 1, "0 1 2 4");
    expect_plan(LENGTHS(1, 1, 1, 9), 100, 2, "0 3 4");
    expect_plan(LENGTHS(7), 3, 4, "0 1");
    expect_plan(NULL, 0, 3, 4, "0");
}

/* The least possible greatest unit, by trying all cuts. */
static int64_t best_greatest(const int64_t *length, int64_t examples, int64_t units)
{
    int64_t best[16][16]; /* [units][examples] */
    for (int64_t u = 0; u < 16; u++)
        for (int64_t e = 0; e < 16; e++) {
            best[u][e] = u == 0 ? (e == 0 ? 0 : INT64_MAX) : INT64_MAX;
            int64_t tail = 0;
            for (int64_t from = e - 1; u > 0 && from >= 0 && e <= examples; from--) {
                tail += length[from];
                int64_t worst = best[u - 1][from] > tail ? best[u - 1][from] : tail;
                best[u][e] = worst < best[u][e] ? worst : best[u][e];
            }
        }
    return best[units][examples];
}

static void test_random_plans(void **state)
{
    (void)state;
    for (uint64_t trial = 0; trial < 3000; trial++) {
        RngStream stream = rng_stream(11, RNG_TEST, 0, trial);
        int64_t length[15], examples = 1 + (int64_t)rng_below(stream, 0, 15), total = 0, longest = 0;
        for (int64_t i = 0; i < examples; i++) {
            length[i] = 1 + (int64_t)rng_below(stream, 1 + (uint64_t)i, 40);
            total += length[i];
            longest = length[i] > longest ? length[i] : longest;
        }
        int64_t budget = 10 + (int64_t)rng_below(stream, 20, 100), lanes = INT64_C(1) << rng_below(stream, 21, 4);
        UnitPlan plan = {0};
        units_plan(&plan, length, examples, budget, lanes);
        assert_true(plan.units <= examples && (plan.units % lanes == 0 || plan.units == examples));
        assert_true(longest > budget || plan.units >= (total + budget - 1) / budget);
        assert_int_equal(plan.unit_start[0], 0);
        assert_int_equal(plan.unit_start[plan.units], examples);
        int64_t greatest = 0;
        for (int64_t u = 0; u < plan.units; u++) {
            int64_t tokens = 0;
            assert_true(plan.unit_start[u] < plan.unit_start[u + 1]);
            for (int64_t i = plan.unit_start[u]; i < plan.unit_start[u + 1]; i++)
                tokens += length[i];
            assert_true(tokens <= budget || plan.unit_start[u + 1] - plan.unit_start[u] == 1);
            greatest = tokens > greatest ? tokens : greatest;
        }
        if (longest <= budget)
            assert_int_equal(greatest, best_greatest(length, examples, plan.units));
        units_free(&plan);
    }
}

static void test_steps_are_the_epochs(void **state)
{
    (void)state;
    Tokenizer *tokenizer = words_tokenizer(false);
    DataConfig config = words_config();
    Text text = {0};
    for (int i = 0; i < 11; i++)
        text_printf(&text, "{\"prompt\": \"ab\", \"response\": \"%.*s\"}\n", i, "0123456789ab");
    DataSource source = words_source(words_file("steps.jsonl", text_string(&text)));
    text_free(&text);
    Dataset *dataset;
    assert_ok(words_open(DATASET_SFT, &source, 1, &config, tokenizer, &dataset));
    assert_int_equal(batch_steps_per_epoch(dataset, 4), 3);
    for (int64_t epoch = 0; epoch < 2; epoch++) {
        int times[11] = {0};
        int64_t targets = 0, tokens = 0;
        for (int64_t step = 3 * epoch; step < 3 * epoch + 3; step++) {
            StepExamples examples = {0};
            batch_step(&examples, dataset, 5, step, 4, true, 20, 2);
            assert_int_equal(examples.examples, step % 3 == 2 ? 3 : 4);
            assert_int_equal(examples.group_start[examples.examples], examples.examples);
            assert_int_equal(examples.plan.unit_start[examples.plan.units], examples.examples);
            for (int64_t i = 0; i < examples.examples; i++)
                times[examples.sequence[i]]++;
            targets += examples.targets;
            tokens += examples.tokens;
            batch_step_free(&examples);
        }
        for (int i = 0; i < 11; i++)
            assert_int_equal(times[i], 1);
        assert_int_equal(targets, 55 + 11); /* the answers and their EOS */
        assert_int_equal(tokens, 55 + 11 + 22);
    }
    dataset_close(&dataset);
    tokenizer_close(&tokenizer);
}

static void test_groups_stay_whole(void **state)
{
    (void)state;
    Tokenizer *tokenizer = words_tokenizer(true);
    DataConfig config = words_config();
    DataSource source = words_source(
        words_file("groups.jsonl", "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\", \"z\"], \"ranks\": [1, 2, 3]}\n"
                                   "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\"], \"ranks\": [2, 1]}\n"));
    Dataset *dataset;
    assert_ok(words_open(DATASET_RANK, &source, 1, &config, tokenizer, &dataset));
    StepExamples examples = {0};
    batch_step(&examples, dataset, 0, 0, 2, false, 1000, 2);
    assert_int_equal(examples.examples, 2);
    assert_memory_equal(examples.group_start, ((int64_t[]){0, 3, 5}), 3 * sizeof(int64_t));
    assert_memory_equal(examples.sequence, ((int64_t[]){0, 1, 2, 3, 4}), 5 * sizeof(int64_t));
    assert_int_equal(examples.plan.units, 2);
    assert_int_equal(examples.tokens, 5 * 4);
    batch_step_free(&examples);
    dataset_close(&dataset);
    tokenizer_close(&tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_plans),
        cmocka_unit_test(test_random_plans),
        cmocka_unit_test(test_steps_are_the_epochs),
        cmocka_unit_test(test_groups_stay_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
