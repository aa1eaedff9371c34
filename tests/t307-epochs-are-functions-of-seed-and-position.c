//TEST labels=cpu timeout=60
/* t307 -- every example comes exactly as often as its file's weight says, in an order that seed and epoch decide; pairs of rated
 * texts are far enough apart and every such pair is drawn; over-long sequences are cut as configured; the cache is used, and made
 * anew when it was damaged. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "tests/support/support.h"
#include "tests/support/words.h"

static Tokenizer *tokenizer;

enum { FIRST = 10, SECOND = 7 };

static const char *numbered_file(const char *name, char letter, int count)
{
    Text text = {0};
    for (int i = 0; i < count; i++)
        text_printf(&text, "%c%d\n", letter, i);
    const char *path = words_file(name, text_string(&text));
    text_free(&text);
    return path;
}

static Dataset *open_mix(double first, double second)
{
    DataConfig config = words_config();
    DataSource sources[] = {words_source(numbered_file("first.txt", 'a', FIRST)),
                            words_source(numbered_file("second.txt", 'b', SECOND))};
    sources[0].weight = first;
    sources[1].weight = second;
    Dataset *dataset;
    assert_ok(words_open(DATASET_SFT, sources, 2, &config, tokenizer, &dataset));
    return dataset;
}

static void count_epochs(const Dataset *dataset, bool shuffle, int64_t epochs, int times[FIRST + SECOND])
{
    memset(times, 0, (FIRST + SECOND) * sizeof *times);
    for (int64_t e = 0; e < epochs; e++)
        for (int64_t i = 0; i < dataset_examples_per_epoch(dataset); i++) {
            int64_t sequences[GROUP_ANSWERS_MAX];
            assert_int_equal(dataset_example(dataset, 9, e, i, shuffle, sequences), 1);
            times[sequences[0]]++;
        }
}

static void test_weights_are_passes(void **state)
{
    (void)state;
    int times[FIRST + SECOND];
    for (int shuffle = 0; shuffle < 2; shuffle++) {
        Dataset *dataset = open_mix(1, 2);
        assert_int_equal(dataset_examples_per_epoch(dataset), FIRST + 2 * SECOND);
        count_epochs(dataset, shuffle, 1, times);
        for (int i = 0; i < FIRST + SECOND; i++)
            assert_int_equal(times[i], i < FIRST ? 1 : 2);
        dataset_close(&dataset);
        dataset = open_mix(0.5, 1);
        assert_int_equal(dataset_examples_per_epoch(dataset), FIRST / 2 + SECOND);
        count_epochs(dataset, shuffle, 1, times);
        for (int i = 0; i < FIRST; i++)
            assert_in_range(times[i], 0, 1);
        count_epochs(dataset, shuffle, 6, times);
        for (int i = 0; i < FIRST + SECOND; i++)
            assert_int_equal(times[i], i < FIRST ? 3 : 6);
        dataset_close(&dataset);
    }
}

static void order_of(const Dataset *dataset, uint64_t seed, int64_t epoch, bool shuffle, int64_t *order)
{
    for (int64_t i = 0; i < dataset_examples_per_epoch(dataset); i++) {
        int64_t sequences[GROUP_ANSWERS_MAX];
        dataset_example(dataset, seed, epoch, i, shuffle, sequences);
        order[i] = sequences[0];
    }
}

static void test_order_is_a_function(void **state)
{
    (void)state;
    Dataset *dataset = open_mix(1, 1);
    int64_t orders[4][FIRST + SECOND];
    order_of(dataset, 1, 0, true, orders[0]);
    order_of(dataset, 1, 0, true, orders[1]);
    assert_memory_equal(orders[0], orders[1], sizeof orders[0]);
    order_of(dataset, 1, 1, true, orders[1]);
    order_of(dataset, 2, 0, true, orders[2]);
    order_of(dataset, 1, 5, false, orders[3]);
    assert_memory_not_equal(orders[0], orders[1], sizeof orders[0]);
    assert_memory_not_equal(orders[0], orders[2], sizeof orders[0]);
    for (int i = 0; i < FIRST + SECOND; i++)
        assert_int_equal(orders[3][i], i);
    dataset_close(&dataset);
}

static void test_pairs_are_far_apart(void **state)
{
    (void)state;
    static const float ratings[] = {0, 0.5f, 1, 1, 2.5f, 3.3f, 2.3f, -1};
    enum { TEXTS = 8 };
    Text text = {0};
    for (int i = 0; i < TEXTS; i++)
        text_printf(&text, "%g\ttext %d\n", (double)ratings[i], i);
    DataSource source = words_source(words_file("rated.tsv", text_string(&text)));
    text_free(&text);
    DataConfig config = words_config();
    config.pairs = 200;
    Dataset *dataset;
    assert_ok(words_open(DATASET_RANK, &source, 1, &config, tokenizer, &dataset));
    assert_int_equal(dataset_examples_per_epoch(dataset), 200);
    int drawn[TEXTS][TEXTS] = {{0}};
    for (int64_t e = 0; e < 10; e++)
        for (int64_t i = 0; i < 200; i++) {
            int64_t pair[GROUP_ANSWERS_MAX];
            assert_int_equal(dataset_example(dataset, 3, e, i, true, pair), 2);
            assert_true(dataset_sequence(dataset, pair[0]).strength == ratings[pair[0]]);
            drawn[pair[0]][pair[1]]++;
        }
    int possible = 0;
    for (int i = 0; i < TEXTS; i++)
        for (int j = 0; j < TEXTS; j++)
            possible += (double)ratings[i] - (double)ratings[j] >= 1 - 1e-6;
    for (int i = 0; i < TEXTS; i++)
        for (int j = 0; j < TEXTS; j++) {
            bool far = (double)ratings[i] - (double)ratings[j] >= 1 - 1e-6;
            double expected = far ? 2000.0 / possible : 0; /* five standard deviations of a binomial */
            assert_close(drawn[i][j], expected, 0, far ? 5 * 10 : 0);
        }
    int64_t first[GROUP_ANSWERS_MAX], second[GROUP_ANSWERS_MAX];
    int same = 0;
    for (int64_t i = 0; i < 200; i++) {
        dataset_example(dataset, 3, 0, i, false, first);
        dataset_example(dataset, 3, 7, i, false, second);
        assert_memory_equal(first, second, 2 * sizeof *first);
        dataset_example(dataset, 3, 7, i, true, second);
        same += memcmp(first, second, 2 * sizeof *first) == 0;
    }
    assert_in_range(same, 0, 60);
    dataset_close(&dataset);
}

/* --- Lengths --------------------------------------------------------------------------------------------------------*/

static Dataset *open_long(DatasetKind kind, Overlong overlong, const char *text)
{
    DataSource source = words_source(words_file("long.jsonl", text));
    DataConfig config = words_config();
    config.max_length = 10;
    config.overlong = overlong;
    Dataset *dataset;
    assert_ok(words_open(kind, &source, 1, &config, tokenizer, &dataset));
    assert_true(dataset_longest(dataset) <= 10);
    return dataset;
}

static void expect_long(const char *text, const char *expected, int64_t prompt)
{
    Dataset *dataset = open_long(DATASET_SFT, OVERLONG_TRUNCATE, text);
    Sequence sequence = dataset_sequence(dataset, 0);
    assert_string_equal(words_loss(tokenizer, sequence), expected);
    assert_int_equal(sequence.prompt, prompt);
    dataset_close(&dataset);
}

static void test_overlong_is_cut_or_dropped(void **state)
{
    (void)state;
    expect_long("{\"text\": \"12345678\"}", "<bos>[12345678<eos>]", 0);
    expect_long("{\"text\": \"123456789\"}", "<bos>[12345678<eos>]", 0);
    expect_long("{\"prompt\": \"abc\", \"response\": \"12345678\"}", "<bos>abc[12345<eos>]", 4);
    expect_long("{\"prompt\": \"abcdefghijk\", \"response\": \"12345678\"}", "<bos>hijk[1234<eos>]", 5);
    expect_long("{\"prompt\": \"abcdefghijk\", \"response\": \"1\"}", "<bos>efghijk[1<eos>]", 8);
    /* A later question whose answer is lost goes too. */
    expect_long("{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}, {\"role\": \"assistant\", \"content\": "
                "\"12\"}, {\"role\": \"user\", \"content\": \"cdef\"}, {\"role\": \"assistant\", \"content\": \"3\"}]}",
                "<bos>ab[12<eos>]", 3);
    expect_long("{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}, {\"role\": \"assistant\", \"content\": "
                "\"12\"}, {\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"3456\"}]}",
                "<bos>ab[12<eos>]c[34<eos>]", 3);
    Dataset *dataset = open_long(DATASET_SFT, OVERLONG_DROP, "{\"text\": \"123456789\"}\n{\"text\": \"ok\"}");
    assert_int_equal(dataset_sequences(dataset), 1);
    dataset_close(&dataset);
    /* A group's prompts are cut alike; a group of which one answer is left goes. */
    const char *group = "{\"prompt\": \"abcdefgh\", \"responses\": [\"1\", \"1234567\"], \"ranks\": [1, 2]}\n"
                        "{\"prompt\": \"a\", \"responses\": [\"1\", \"2\"], \"ranks\": [1, 2]}";
    dataset = open_long(DATASET_RANK, OVERLONG_TRUNCATE, group);
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 0)), "<bos>efgh1<eos>");
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 1)), "<bos>efgh1234<eos>");
    dataset_close(&dataset);
    dataset = open_long(DATASET_RANK, OVERLONG_DROP, group);
    assert_int_equal(dataset_examples_per_epoch(dataset), 1);
    dataset_close(&dataset);
    dataset = open_long(DATASET_PROMPT, OVERLONG_TRUNCATE, "{\"prompt\": \"abcdefghijk\"}");
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 0)), "<bos>cdefghijk");
    dataset_close(&dataset);
    DataSource source = words_source(words_file("long.jsonl", "{\"text\": \"123456789\"}"));
    DataConfig config = words_config();
    config.max_length = 8;
    config.overlong = OVERLONG_DROP;
    assert_fails(words_open(DATASET_SFT, &source, 1, &config, tokenizer, &dataset), STATUS_INPUT,
                 "long.jsonl: no example is left");
}

static void test_whole_text_is_cut_into_pieces(void **state)
{
    (void)state;
    DataSource source = words_source(words_file("book.txt", "one\ntwo\n\nthree\n"));
    source.whole = true;
    DataConfig config = words_config();
    config.max_length = 8;
    Dataset *dataset;
    assert_ok(words_open(DATASET_SFT, &source, 1, &config, tokenizer, &dataset));
    assert_int_equal(dataset_sequences(dataset), 3);
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 0)), "<bos>one\ntwo");
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 1)), "\n\nthree\n");
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 2)), "<eos>");
    dataset_close(&dataset);
    source.limit = 2;
    assert_ok(words_open(DATASET_SFT, &source, 1, &config, tokenizer, &dataset));
    assert_int_equal(dataset_examples_per_epoch(dataset), 2);
    dataset_close(&dataset);
}

/* --- The cache ------------------------------------------------------------------------------------------------------*/

static const char *only_file(const char *directory, int expected)
{
    SupportRun run = support_run(10, "ls %s | wc -l; ls %s | head -1", directory, directory);
    int count = 0;
    char name[128];
    assert_int_equal(sscanf(text_string(&run.out), "%d %127s", &count, name), 2);
    assert_int_equal(count, expected);
    support_run_free(&run);
    return support_path("only/%s", name);
}

static Dataset *open_cached(const DataConfig *config, const char *text)
{
    DataSource source = words_source(words_file("cached.txt", text));
    Dataset *dataset;
    assert_ok(dataset_open(comm_self(), DATASET_SFT, &source, 1, config, tokenizer, support_path("only"), &dataset));
    return dataset;
}

static void test_cache_is_reused_and_remade(void **state)
{
    (void)state;
    DataConfig config = words_config();
    char digest[64];
    Dataset *dataset = open_cached(&config, "one\ntwo\n");
    snprintf(digest, sizeof digest, "%s", dataset_digest(dataset));
    dataset_close(&dataset);
    char *path = memory_strdup(only_file(support_path("only"), 1)); /* the ring would turn */
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    config.gap = 2; /* changes no token of SFT */
    dataset = open_cached(&config, "one\ntwo\n");
    assert_string_equal(dataset_digest(dataset), digest);
    dataset_close(&dataset);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);

    log_set_level(LOG_QUIET);
    for (int64_t at = 0; at < before.st_size; at += 97) {
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, at, SEEK_SET);
        fputs("damage", file);
        fclose(file);
        dataset = open_cached(&config, "one\ntwo\n");
        assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 1)), "<bos>two<eos>");
        assert_string_equal(dataset_digest(dataset), digest);
        dataset_close(&dataset);
    }
    log_set_level(LOG_INFO);
    assert_int_equal(truncate(path, before.st_size - 100), 0);
    dataset = open_cached(&config, "one\ntwo\n");
    dataset_close(&dataset);
    only_file(support_path("only"), 1);

    dataset = open_cached(&config, "one\ntwi\n");
    assert_string_not_equal(dataset_digest(dataset), digest);
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 1)), "<bos>twi<eos>");
    dataset_close(&dataset);
    config.max_length = 512;
    dataset = open_cached(&config, "one\ntwi\n");
    dataset_close(&dataset);
    only_file(support_path("only"), 3); /* and no temporary file */
    DataSource source = words_source(words_file("cached.txt", "one\n\xff\n"));
    assert_fails(dataset_open(comm_self(), DATASET_SFT, &source, 1, &config, tokenizer, support_path("only"), &dataset),
                 STATUS_INPUT, "cached.txt:2");
    only_file(support_path("only"), 3);
    memory_free(&path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_passes),
        cmocka_unit_test(test_order_is_a_function),
        cmocka_unit_test(test_pairs_are_far_apart),
        cmocka_unit_test(test_overlong_is_cut_or_dropped),
        cmocka_unit_test(test_whole_text_is_cut_into_pieces),
        cmocka_unit_test(test_cache_is_reused_and_remade),
    };
    tokenizer = words_tokenizer(true);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return failures;
}
