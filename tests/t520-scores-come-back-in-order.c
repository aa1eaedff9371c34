//TEST labels=mpi timeout=180 processors=2
/* The scoring tool: every shape of record gets its rewards, in order, the same for any number of ranks, from a file or a pipe; a malformed line
 * ends it with the line's number, and leaves what was said before it in a pipe and nothing in a file. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "core/data/template.h"
#include "rewards/score.h"
#include "tests/support/support.h"
#include "tests/support/tiny_file.h"

static const char lines[] =
    "{\"id\": 1, \"prompt\": \"Please bring\", \"response\": \" the kite\"}\n"
    "{\"id\": 2, \"messages\": [{\"role\": \"user\", \"content\": \"Please bring\"}, {\"role\": \"assistant\", "
    "\"content\": \" the kite\"}]}\n"
    "\n"
    "{\"prompt\": \"The cat\", \"responses\": [\" sat\", \" was red\", \" sat\"], \"ranks\": [2, 1, 2]}\n"
    "{\"prompt\": [{\"role\": \"user\", \"content\": \"Please bring\"}], \"chosen\": \" the kite\", \"rejected\": \" a "
    "hat\"}\n"
    "{\"chosen\": \"The best week.\", \"rejected\": \"A thing.\", \"gap\": 1.5}\n"
    "{\"chosen\": \"\\n\\nHuman: Please\\n\\nAssistant: bring\", \"rejected\": \"\\n\\nHuman: Please\\n\\nAssistant: "
    "hat\"}\n"
    "{\"text\": \"The best week.\"}\n";
enum { RECORDS = 7 };

static const char *path_model, *path_lines;

static int setup(void **state)
{
    (void)state;
    Tokenizer *tokenizer = tiny_tokenizer(290);
    path_model = memory_strdup(support_path("rm.h5"));
    path_lines = memory_strdup(support_path("lines.jsonl"));
    tiny_save(path_model, tokenizer, HEAD_SCALAR, 5, 8, 0.5, 2);
    tokenizer_close(&tokenizer);
    assert_ok(text_write_file(path_lines, lines, strlen(lines)));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    memory_release((void *)path_model);
    memory_release((void *)path_lines);
    return 0;
}

/* The rewards of every record, in order. */
static int read_rewards(const char *bytes, json_t **record, double *reward)
{
    int records = 0, rewards = 0;
    for (const char *line = bytes, *end; (end = strchr(line, '\n')); line = end + 1) {
        assert_true(records < RECORDS);
        assert_ok(json_read_bytes("output", line, (size_t)(end - line), &record[records]));
        const json_t *value = json_object_get(record[records], "rewards");
        if (!value)
            reward[rewards++] = json_number_value(json_object_get(record[records], "reward"));
        for (size_t i = 0; i < json_array_size(value); i++)
            reward[rewards++] = json_number_value(json_array_get(value, i));
        records++;
    }
    assert_int_equal(records, RECORDS);
    return rewards;
}

static void test_every_shape_is_scored(void **state)
{
    (void)state;
    SupportRun run = support_run_tercet(0, 60, "score --model %s %s", path_model, path_lines);
    assert_exit(&run, 0);
    json_t *record[RECORDS];
    double reward[16];
    assert_int_equal(read_rewards(text_string(&run.out), record, reward), 12);
    /* Other fields stay as they were. */
    assert_int_equal(json_integer_value(json_object_get(record[0], "id")), 1);
    assert_close(json_number_value(json_object_get(record[4], "gap")), 1.5, 0, 0);
    /* 1 and 2 are the same conversation, as is the chosen one of 4; equal answers are equal; a text is a text. */
    assert_close(reward[1], reward[0], 1e-4, 1e-5);
    assert_close(reward[5], reward[0], 1e-4, 1e-5);
    assert_close(reward[2], reward[4], 1e-4, 1e-5);
    assert_close(reward[11], reward[7], 1e-4, 1e-5);
    assert_true(fabs(reward[2] - reward[3]) > 1e-3 && fabs(reward[5] - reward[6]) > 1e-3);
    for (int i = 0; i < 3; i++)
        assert_close(json_number_value(json_object_get(record[3 + i], "margin")), reward[5 + 2 * i] - reward[6 + 2 * i],
                     1e-5, 1e-6);
    int correct = (reward[3] > reward[2]) + (reward[3] > reward[4]);
    for (int i = 0; i < 3; i++)
        correct += reward[5 + 2 * i] > reward[6 + 2 * i];
    char expected[64];
    snprintf(expected, sizeof expected, "5 pairs: accuracy %.4f", correct / 5.0);
    assert_contains(text_string(&run.err), expected);
    assert_contains(text_string(&run.err), "7 records, 12 answers");
    /* Decimals as a person writes them: what was 1.5 is, and no reward has the digits of a double. */
    assert_contains(text_string(&run.out), "\"gap\":1.5,");
    assert_lacks(text_string(&run.out), "00000");
    assert_lacks(text_string(&run.out), "99999");
    for (int i = 0; i < RECORDS; i++)
        json_decref(record[i]);

    /* One number against the model asked directly. */
    Tiny tiny;
    tiny_open_device(&tiny);
    RewardModel judge;
    assert_ok(reward_model_open(&judge, comm_self(), &tiny.device, path_model, 100));
    TemplateTokens tokens = {0};
    Message message[] = {{ROLE_USER, "Please bring", 12}, {ROLE_ASSISTANT, " the kite", 9}};
    assert_ok(template_encode(template_get(TEMPLATE_PLAIN), judge.tokenizer, message, 2, &tokens));
    const int32_t *token = tokens.tokens.ids;
    float direct;
    assert_ok(reward_model_score(&judge, &tiny.exec, &token, &tokens.tokens.count, 1, &direct));
    assert_close(reward[0], direct, 1e-4, 1e-5);
    template_tokens_free(&tokens);
    reward_model_close(&judge);
    tiny_close(&tiny);
    support_run_free(&run);
}

static void test_ranks_and_pipes_change_nothing(void **state)
{
    (void)state;
    /* Enough for several rounds of small units. */
    Text many = {0};
    for (int i = 0; i < 200; i++)
        text_printf(&many, "{\"prompt\": \"The cat %d\", \"response\": \" sat on the mat %d times\"}\n", i, i * i);
    const char *input = support_path("many.jsonl"), *file = support_path("out.jsonl");
    assert_ok(text_write_file(input, many.bytes, many.size));
    text_free(&many);
    SupportRun one = support_run_tercet(0, 60, "score --model %s --unit-tokens 64 --threads 1 %s", path_model, input);
    SupportRun two = support_run_tercet(2, 90, "score --model %s --unit-tokens 64 --threads 1 %s", path_model, input);
    SupportRun piped = support_run_tercet(0, 60, "score --model %s --unit-tokens 64 --threads 1 --out %s < %s",
                                          path_model, file, input);
    assert_exit(&one, 0);
    assert_exit(&two, 0);
    assert_exit(&piped, 0);
    assert_string_equal(text_string(&two.out), text_string(&one.out));
    assert_int_equal(piped.out.size, 0);
    Text written = {0};
    assert_ok(text_read_file(file, 1 << 20, &written));
    assert_string_equal(text_string(&written), text_string(&one.out));
    assert_contains(text_string(&one.out), "\"The cat 199\"");
    text_free(&written);
    support_run_free(&one);
    support_run_free(&two);
    support_run_free(&piped);
}

static void test_a_malformed_line_ends_it(void **state)
{
    (void)state;
    static const struct {
        const char *line, *part;
    } cases[] = {
        {"{\"prompt\": \"a\", \"response\": \" b\"", "bad.jsonl:2"},
        {"{\"prompt\": \"a\"}", "bad.jsonl:2: expected something to score"},
        {"{\"response\": \"a\"}", "bad.jsonl:2: expected \"prompt\""},
        {"{\"prompt\": \"a\", \"responses\": [\"b\", \"c\"], \"ranks\": [1]}", "bad.jsonl:2: \"ranks\""},
        {"{\"chosen\": \"a\"}", "bad.jsonl:2: expected \"rejected\""},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "bad.jsonl:2"},
        {"[1]", "bad.jsonl:2"},
        {"{\"text\": \"0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9\"}",
         "at most 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        Text text = {0};
        text_printf(&text, "{\"prompt\": \"a\", \"response\": \" b\"}\n%s\n{\"prompt\": \"a\", \"response\": \" c\"}\n",
                    cases[i].line);
        const char *input = support_path("bad.jsonl"), *file = support_path("bad.out");
        assert_ok(text_write_file(input, text.bytes, text.size));
        text_free(&text);
        int ranks = i == 1 ? 2 : 0;
        SupportRun pipe = support_run_tercet(ranks, 60, "score --model %s %s", path_model, input);
        assert_exit(&pipe, STATUS_INPUT);
        assert_contains(text_string(&pipe.err), cases[i].part);
        assert_contains(text_string(&pipe.out), "\"response\":\" b\",\"reward\":");
        assert_lacks(text_string(&pipe.out), "\" c\"");
        if (i < 2) {
            SupportRun run = support_run_tercet(0, 60, "score --model %s %s --out %s", path_model, input, file);
            assert_exit(&run, STATUS_INPUT);
            assert_int_not_equal(access(file, F_OK), 0);
            SupportRun left = support_run(10, "ls %s", support_directory());
            assert_lacks(text_string(&left.out), ".tmp");
            support_run_free(&left);
            support_run_free(&run);
        }
        support_run_free(&pipe);
    }
}

static void test_wrong_models_are_refused(void **state)
{
    (void)state;
    SupportRun run = support_run_tercet(0, 60, "score --model %s %s", path_lines, path_lines);
    assert_exit(&run, STATUS_INPUT);
    support_run_free(&run);
    run = support_run_tercet(0, 60, "score %s", path_lines);
    assert_exit(&run, STATUS_USAGE);
    assert_contains(text_string(&run.err), "--model");
    support_run_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape_is_scored),
        cmocka_unit_test(test_ranks_and_pipes_change_nothing),
        cmocka_unit_test(test_a_malformed_line_ends_it),
        cmocka_unit_test(test_wrong_models_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
