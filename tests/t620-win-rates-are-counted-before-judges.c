//TEST labels=mpi timeout=180 processors=2
/* Win rates: what the table says is what the lines say; a policy against itself ties; ranks change nothing; wrong input is refused. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "eval/winrate.h"
#include "tests/support/support.h"
#include "tests/support/tiny_file.h"

enum { PROMPTS = 70 };
static const char *path_a, *path_b, *path_judge, *path_prompts, *path_words;

static int setup(void **state)
{
    (void)state;
    Tokenizer *tokenizer = tiny_tokenizer(290);
    path_a = memory_strdup(support_path("a.h5"));
    path_b = memory_strdup(support_path("b.h5"));
    path_judge = memory_strdup(support_path("judge.h5"));
    path_prompts = memory_strdup(support_path("prompts.jsonl"));
    path_words = memory_strdup(support_path("words.tsv"));
    tiny_save(path_a, tokenizer, HEAD_LM, 1, 8, 0, 1);
    tiny_save(path_b, tokenizer, HEAD_LM, 2, 8, 0, 1);
    tiny_save(path_judge, tokenizer, HEAD_SCALAR, 3, 8, 0, 1);
    tokenizer_close(&tokenizer);
    Text text = {0};
    for (int i = 0; i < PROMPTS; i++)
        text_printf(&text, "{\"prompt\": \"The cat %d\", \"answer\": \"%d\"}\n", i, i % 10);
    assert_ok(text_write_file(path_prompts, text.bytes, text.size));
    text_free(&text);
    static const char words[] = "the\t1\ncat\t1\nhat\t-1\n";
    assert_ok(text_write_file(path_words, words, strlen(words)));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    memory_release((void *)path_a);
    memory_release((void *)path_b);
    memory_release((void *)path_judge);
    memory_release((void *)path_prompts);
    memory_release((void *)path_words);
    return 0;
}

static WinrateOptions options_make(const char *const *judges, int count)
{
    WinrateOptions options = {
        .answers = {.model = path_a, .max_new = 12, .temperature = 1, .seed = 4},
        .against = path_b,
        .prompts = path_prompts,
        .judges = judges,
        .judges_count = count,
    };
    return options;
}

static void test_table_is_the_lines(void **state)
{
    (void)state;
    Text words = {0}, learned = {0};
    text_printf(&words, "{kind: words, file: \"%s\"}", path_words);
    text_printf(&learned, "learned=%s", path_judge);
    const char *judges[] = {text_string(&learned), text_string(&words), "length:6", "match"};
    WinrateOptions options = options_make(judges, 4);
    options.output = support_path("lines.jsonl");
    options.summary = support_path("summary.json");
    Tiny tiny;
    tiny_open_device(&tiny);
    WinrateReport report;
    assert_ok(winrate_run(comm_self(), &tiny.device, &options, &report));
    assert_int_equal(report.prompts, PROMPTS);
    assert_int_equal(report.judges, 4);
    assert_string_equal(report.judge[0].name, "learned");
    assert_string_equal(report.judge[1].name, "words");

    int64_t wins[4] = {0}, ties[4] = {0}, count = 0;
    double mean[4] = {0};
    JsonReader *reader = NULL;
    assert_ok(json_reader_open(&reader, options.output));
    for (json_t *record; assert_ok(json_reader_next(reader, &record)), record; count++) {
        assert_true(json_is_string(json_object_get(record, "a")) && json_is_string(json_object_get(record, "b")));
        for (int r = 0; r < 4; r++) {
            const json_t *pair = json_object_get(json_object_get(record, "judges"), report.judge[r].name);
            double a = json_number_value(json_array_get(pair, 0)), b = json_number_value(json_array_get(pair, 1));
            wins[r] += a > b;
            ties[r] += a == b;
            mean[r] += a / PROMPTS;
        }
    }
    json_reader_close(&reader);
    assert_int_equal(count, PROMPTS);
    for (int r = 0; r < 4; r++) {
        const WinrateJudge *judge = &report.judge[r];
        assert_int_equal(judge->wins, wins[r]);
        assert_int_equal(judge->ties, ties[r]);
        assert_int_equal(judge->wins + judge->ties + judge->losses, PROMPTS);
        assert_close(judge->rate, ((double)wins[r] + (double)ties[r] / 2) / PROMPTS, 1e-12, 0);
        assert_close(judge->mean_a, mean[r], 1e-5, 1e-6);
        assert_true(judge->rate_interval.low <= judge->rate && judge->rate <= judge->rate_interval.high);
        assert_true(judge->interval_a.low <= judge->mean_a && judge->mean_a <= judge->interval_a.high);
    }
    /* Two policies that are not one: there must be something to judge. */
    assert_true(wins[0] > 0 && wins[0] < PROMPTS && ties[0] == 0);
    json_t *summary = NULL;
    assert_ok(json_read_file(options.summary, 1 << 20, &summary));
    assert_int_equal(json_integer_value(json_object_get(summary, "prompts")), PROMPTS);
    assert_close(json_number_value(json_object_get(json_array_get(json_object_get(summary, "judges"), 0), "rate")),
                 report.judge[0].rate, 1e-12, 0);
    json_decref(summary);
    Text table = {0};
    winrate_table(&report, &table);
    assert_contains(text_string(&table), "learned");
    text_free(&table);

    /* Against itself, with the same numbers drawn: the same answers. */
    options.against = path_a;
    options.output = options.summary = NULL;
    options.limit = 40;
    assert_ok(winrate_run(comm_self(), &tiny.device, &options, &report));
    assert_int_equal(report.prompts, 40);
    for (int r = 0; r < 4; r++) {
        assert_int_equal(report.judge[r].ties, 40);
        assert_close(report.judge[r].rate, 0.5, 0, 0);
        assert_close(report.judge[r].mean_a, report.judge[r].mean_b, 0, 0);
    }
    text_free(&words);
    text_free(&learned);
    tiny_close(&tiny);
}

static void test_ranks_change_nothing(void **state)
{
    (void)state;
    static const char command[] = "eval winrate --model %s --against %s --prompts %s --judge %s --judge words:%s "
                                  "--max-new 10 --temperature 1 --threads 1 --out -";
    SupportRun one = support_run_tercet(0, 60, command, path_a, path_b, path_prompts, path_judge, path_words);
    SupportRun two = support_run_tercet(2, 90, command, path_a, path_b, path_prompts, path_judge, path_words);
    assert_exit(&one, 0);
    assert_exit(&two, 0);
    assert_string_equal(text_string(&one.out), text_string(&two.out));
    assert_contains(text_string(&one.err), "win rate");
    support_run_free(&one);
    support_run_free(&two);
}

static void test_samples_stand_side_by_side(void **state)
{
    (void)state;
    SupportRun run = support_run_tercet(0, 60,
                                        "eval sample --model %s --against %s --prompts %s --limit 2 --label after "
                                        "--against-label before --max-new 6",
                                        path_a, path_b, path_prompts);
    assert_exit(&run, 0);
    const char *out = text_string(&run.out);
    assert_contains(out, "The cat 1");
    assert_lacks(out, "The cat 2");
    assert_contains(out, "before");
    assert_true(strstr(out, "before") < strstr(out, "after"));
    support_run_free(&run);
}

static void test_wrong_input_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *words, *part;
        int code;
    } cases[] = {
        {"--judge demo --max-new 60", "at most 64", STATUS_INPUT},
        {"--judge /nowhere/rm.h5 --max-new 4", "/nowhere/rm.h5", STATUS_IO},
        {"--judge '{kind: lenth}'", "length", STATUS_USAGE},
        {"--judge match:solution --max-new 4", "\"solution\"", STATUS_INPUT},
        {"--max-new 4", "--judge", STATUS_USAGE},
        {"--judge demo --template chatty", "chatty", STATUS_USAGE},
        {"--judge demo --judges 3", "--judge", STATUS_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        SupportRun run = support_run_tercet(0, 60, "eval winrate --model %s --against %s --prompts %s --limit 3 %s",
                                            path_a, path_b, path_prompts, cases[i].words);
        assert_exit(&run, cases[i].code);
        assert_contains(text_string(&run.err), cases[i].part);
        support_run_free(&run);
    }
    /* A reward model is no policy. */
    SupportRun run =
        support_run_tercet(2, 60, "eval winrate --model %s --against %s --prompts %s --judge demo --max-new 4",
                           path_judge, path_b, path_prompts);
    assert_exit(&run, STATUS_INPUT);
    assert_contains(text_string(&run.err), "expected a language model");
    support_run_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_the_lines),
        cmocka_unit_test(test_ranks_change_nothing),
        cmocka_unit_test(test_samples_stand_side_by_side),
        cmocka_unit_test(test_wrong_input_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
