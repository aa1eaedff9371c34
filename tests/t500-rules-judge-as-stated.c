/* Judges without a model on hand-made cases: words of a list, length, the known answer; and a list of judges adds up. */
#include <string.h>

#include "rewards/reward.h"
#include "rewards/reward_rules.h"
#include "tests/support/support.h"

static const char *write_file(const char *name, const char *text)
{
    const char *path = support_path("%s", name);
    assert_ok(text_write_file(path, text, strlen(text)));
    return path;
}

static RewardSample sample_make(const char *response, const char *fields)
{
    RewardSample sample = {.prompt = "p", .response = response, .fields = fields, .token = NULL};
    return sample;
}

typedef struct Judges {
    ConfigSchema schema;
    Config *config;
    Rewards rewards;
    Status status; /* of opening */
} Judges;

/* `list` is YAML; the message of a failure stays in status_message(). */
static Judges judges_open(const char *list)
{
    Judges judges = {0};
    rewards_schema(&judges.schema, "judges[]");
    Text text = {0};
    text_printf(&text, "judges: %s\n", list);
    ConfigSource source = {.path = "test.yaml", .text = text_string(&text), .text_size = text.size};
    judges.status = config_open(source, &judges.schema, &judges.config);
    if (!status_failed(judges.status))
        judges.status = rewards_open(&judges.rewards, comm_self(), NULL, NULL, judges.config, "judges");
    text_free(&text);
    return judges;
}

static void judges_close(Judges *judges)
{
    rewards_close(&judges->rewards);
    config_close(&judges->config);
    config_schema_free(&judges->schema);
}

/* The one judge of `list` on one response. */
static float judge_one(const char *list, RewardSample sample)
{
    Judges judges = judges_open(list);
    assert_ok(judges.status);
    assert_int_equal(judges.rewards.count, 1);
    float component = -99, total = -99, *components[REWARDS_MAX] = {&component};
    assert_ok(rewards_score(&judges.rewards, NULL, &sample, 1, components, &total));
    judges_close(&judges);
    return component;
}

static void test_words(void **state)
{
    (void)state;
    const char *path =
        write_file("words.tsv", "good\t1.5\t0.3\t[1, 2]\n\nbad\t-2\nsugarcoat\t0.5\n:)\t2\nself-made\t1\r\n"
                                "can't\t-0.5\ngood\t1.9\n:D\t2.5\nxd\t3\n");
    Lexicon *lexicon = NULL;
    assert_ok(lexicon_open(&lexicon, path));
    int64_t words = 0;
    /* The last of two lines of one word holds. */
    assert_close(lexicon_sum(lexicon, "good", &words), 1.9, 0, 1e-12);
    assert_int_equal(words, 1);
    /* Case, punctuation, words that are parts of others. */
    assert_close(lexicon_sum(lexicon, "GOOD, \"Good\"! goodness (bad)", &words), 1.8, 0, 1e-12);
    assert_int_equal(words, 4);
    /* Emoticons as they stand, in their own case; hyphens and apostrophes. */
    assert_close(lexicon_sum(lexicon, ":) :D :d XD", &words), 2 + 2.5 + 3, 0, 1e-12);
    assert_close(lexicon_sum(lexicon, "Self-made. I can't, good-bad", NULL), 1 - 0.5 + 1.9 - 2, 0, 1e-12);
    assert_close(lexicon_sum(lexicon, "bad...good\n\tbad\xc3\xa9", &words), -0.1, 0, 1e-12);
    assert_int_equal(words, 3);
    assert_close(lexicon_sum(lexicon, " \n", &words), 0, 0, 0);
    assert_int_equal(words, 0);
    lexicon_close(&lexicon);

    Text list = {0};
    text_printf(&list, "[{kind: words, file: \"%s\", mode: mean}]", path);
    assert_close(judge_one(text_string(&list), sample_make("good and bad", "{}")), -0.1 / 3, 1e-6, 0);
    assert_close(judge_one(text_string(&list), sample_make("", "{}")), 0, 0, 0);
    text_clear(&list);
    text_printf(&list, "[{kind: words, file: \"%s\", mode: sign}]", path);
    assert_close(judge_one(text_string(&list), sample_make("good and good and bad", "{}")), 1, 0, 0);
    assert_close(judge_one(text_string(&list), sample_make("good and bad", "{}")), 0, 0, 0);
    assert_close(judge_one(text_string(&list), sample_make("nothing", "{}")), 0, 0, 0);
    text_free(&list);
}

static void test_damaged_lists_are_refused(void **state)
{
    (void)state;
    Lexicon *lexicon = NULL;
    assert_fails(lexicon_open(&lexicon, write_file("a.tsv", "good\t1\nbad -2\n")), STATUS_INPUT,
                 "a.tsv:2: expected a word");
    assert_null(lexicon);
    assert_fails(lexicon_open(&lexicon, write_file("b.tsv", "good\tx\n")), STATUS_INPUT, "b.tsv:1");
    assert_fails(lexicon_open(&lexicon, write_file("c.tsv", "good\tnan\n")), STATUS_INPUT, "c.tsv:1");
    assert_fails(lexicon_open(&lexicon, write_file("d.tsv", "\n\n")), STATUS_INPUT, "no words");
    assert_fails(lexicon_open(&lexicon, support_path("none.tsv")), STATUS_IO, "none.tsv");
}

static void test_length(void **state)
{
    (void)state;
    RewardSample sample = sample_make("one two  three\n", "{}");
    sample.count = 30;
    sample.prompt_count = 10;
    assert_close(judge_one("[{kind: length, target: 25}]", sample), -0.2, 1e-6, 0);
    sample.stopped = true;
    assert_close(judge_one("[{kind: length, target: 25}]", sample), -6.0 / 25, 1e-6, 0);
    assert_close(judge_one("[{kind: length, target: 38, form: linear}]", sample), 0.5, 1e-6, 0);
    assert_close(judge_one("[{kind: length, target: 2, unit: words}]", sample), -0.5, 1e-6, 0);
}

static void expect_number(const char *text, double expected)
{
    double number = -1;
    if (!match_number(text, &number))
        fail_msg("no number in \"%s\"", text);
    assert_close(number, expected, 1e-12, 0);
}

static void test_numbers(void **state)
{
    (void)state;
    expect_number("18", 18);
    expect_number("She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", 18);
    expect_number("#### -1,234.50\nand then 7", -1234.5);
    expect_number("16-3", 3);
    expect_number("it is -3.", -3);
    expect_number("x=-$4", -4);
    expect_number("1,23", 23);
    expect_number("version 3.14.", 3.14);
    expect_number("1,000,000 people", 1e6);
    expect_number("0.50%", 0.5);
    double number;
    assert_false(match_number("none here - at all, .", &number));
    assert_false(match_number("12 #### none", &number));
}

static void test_match(void **state)
{
    (void)state;
    const char *known = "{\"answer\": \"9 * 2 = <<9*2=18>>18\\n#### 18\", \"n\": 2.5, \"word\": \" Paris \"}";
    const char *number = "[{kind: match}]";
    assert_close(judge_one(number, sample_make("so it is 18.0 dollars", known)), 1, 0, 0);
    assert_close(judge_one(number, sample_make("9 * 2 = 18, or 19", known)), 0, 0, 0);
    assert_close(judge_one(number, sample_make("", known)), 0, 0, 0);
    assert_close(judge_one("[{kind: match, field: n}]", sample_make("2.50", known)), 1, 0, 0);
    const char *exact = "[{kind: match, field: word, mode: exact}]";
    assert_close(judge_one(exact, sample_make("\nParis", known)), 1, 0, 0);
    assert_close(judge_one(exact, sample_make("Paris.", known)), 0, 0, 0);

    Judges judges = judges_open("[{kind: match, field: solution}]");
    assert_ok(judges.status);
    float component, total, *components[REWARDS_MAX] = {&component};
    RewardSample sample = sample_make("1", known);
    assert_fails(rewards_score(&judges.rewards, NULL, &sample, 1, components, &total), STATUS_INPUT, "\"solution\"");
    judges_close(&judges);
    judges = judges_open("[{kind: match, field: word}]");
    assert_fails(rewards_score(&judges.rewards, NULL, &sample, 1, components, &total), STATUS_INPUT,
                 "expected a number");
    judges_close(&judges);
}

static void test_a_list_adds_up(void **state)
{
    (void)state;
    Text list = {0};
    text_printf(&list,
                "[{kind: length, unit: words, target: 4, weight: 2}, {kind: words, file: \"%s\", weight: -0.5}, "
                "{kind: match, weight: 0, name: known}]",
                write_file("list.tsv", "good\t1.5\n"));
    Judges judges = judges_open(text_string(&list));
    assert_ok(judges.status);
    assert_int_equal(judges.rewards.count, 3);
    assert_string_equal(judges.rewards.item[0].name, "length");
    assert_string_equal(judges.rewards.item[2].name, "known");
    RewardSample samples[] = {sample_make("good good 7", "{\"answer\": 7}"), sample_make("a b c d", "{\"answer\": 7}")};
    float component[3][2], total[2], *components[REWARDS_MAX] = {component[0], component[1], component[2]};
    assert_ok(rewards_score(&judges.rewards, NULL, samples, 2, components, total));
    assert_close(component[0][0], -0.25, 1e-6, 0);
    assert_close(component[1][0], 3, 1e-6, 0);
    /* Weight 0: reported, not counted. */
    assert_close(component[2][0], 1, 0, 0);
    assert_close(component[2][1], 0, 0, 0);
    assert_close(total[0], 2 * -0.25 - 0.5 * 3, 1e-6, 0);
    assert_close(total[1], 0, 0, 1e-7);
    assert_int_equal(strlen(judges.rewards.item[1].kind->digest(judges.rewards.item[1].self)), 32);
    judges_close(&judges);
    text_free(&list);
}

/* A judge that is not a number stops everything, whatever it weighs. */
static Status nan_score(void *self, Exec *exec, const RewardSample *samples, int64_t count, float *score)
{
    (void)self;
    (void)exec;
    (void)samples;
    for (int64_t i = 0; i < count; i++)
        score[i] = i == 1 ? (float)__builtin_nan("") : 0;
    return status_ok();
}

static void test_a_reward_that_is_no_number_is_refused(void **state)
{
    (void)state;
    RewardKind kind = {.name = "nan", .score = nan_score};
    Rewards rewards = {.count = 1};
    rewards.item[0].kind = &kind;
    rewards.item[0].name = "broken";
    RewardSample samples[2] = {sample_make("a", "{}"), sample_make("b", "{}")};
    float component[2], total[2], *components[REWARDS_MAX] = {component};
    assert_fails(rewards_score(&rewards, NULL, samples, 2, components, total), STATUS_NUMERIC,
                 "judge broken: the reward of sample 1");
}

static void test_wrong_lists_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *list, *part;
    } cases[] = {
        {"[{kind: length}, {kind: length}]", "two judges are called \"length\""},
        {"[{kind: lenth}]", "length"},
        {"[{weight: 1}]", "kind"},
        {"[{kind: length, mode: sum}]", "mode"},
        {"[{kind: words}]", "file"},
        {"[{kind: length, name: a/b}]", "without /"},
        {"[{kind: words, file: /nowhere/at/all.tsv}]", "judges[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Judges judges = judges_open(cases[i].list);
        if (!status_failed(judges.status))
            fail_msg("%s was accepted", cases[i].list);
        assert_contains(status_message(), cases[i].part);
        judges_close(&judges);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_damaged_lists_are_refused),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_match),
        cmocka_unit_test(test_a_list_adds_up),
        cmocka_unit_test(test_a_reward_that_is_no_number_is_refused),
        cmocka_unit_test(test_wrong_lists_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
