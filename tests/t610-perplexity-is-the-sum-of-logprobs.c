//TEST labels=mpi timeout=120 processors=2
/* Perplexity: each token's log-prob is that of one forward over the text, in whatever units, windows and ranks; texts and ids say the same; bad records
 * are refused with their line. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "core/data/template.h"
#include "core/store/checkpoint.h"
#include "eval/perplexity.h"
#include "tests/support/support.h"
#include "tests/support/tiny_file.h"

static const char *const texts[] = {"The cat sat on the mat.", "Please", "Thanks! That was the best thing.", ""};
enum { TEXTS = 4, TOKENS_MAX = 512 };

static const char *save_model(Tokenizer **tokenizer)
{
    const char *path = support_path("sft.h5");
    *tokenizer = tiny_tokenizer(290);
    tiny_save(path, *tokenizer, HEAD_LM, 7, 8, 0, 1);
    return path;
}

static json_t *next_line(JsonReader *reader)
{
    json_t *record = NULL;
    assert_ok(json_reader_next(reader, &record));
    return record;
}

static void test_logprobs(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    const char *path = save_model(&tokenizer);
    const char *input = support_path("in.jsonl"), *output = support_path("out.jsonl");
    Text lines = {0};
    for (int i = 0; i < TEXTS; i++)
        text_printf(&lines, "{\"text\": \"%s\"}\n", texts[i]);
    text_printf(&lines, "{\"tokens\": [0, 5, 6, 7]}\n{\"tokens\": []}\n");
    assert_ok(text_write_file(input, lines.bytes, lines.size));
    text_free(&lines);

    Tiny tiny;
    tiny_open_device(&tiny);
    bool has_head;
    char digest[40];
    assert_ok(model_load(comm_self(), &tiny.device, path, HEAD_LM, &tiny.model, &has_head, NULL, digest));
    tiny_add_gradient(&tiny);
    double expected = 0;
    int64_t predicted = 0;
    for (int units = 0; units < 2; units++) {
        PerplexityOptions options = {
            .model = path, .input = input, .output = output, .eos = true, .unit_tokens = units ? 5 : 4096};
        PerplexityReport report;
        assert_ok(perplexity_run(comm_self(), &tiny.device, &options, &report));
        JsonReader *reader = NULL;
        assert_ok(json_reader_open(&reader, output));
        expected = 0;
        predicted = 0;
        for (int i = 0; i < TEXTS + 2; i++) {
            TemplateTokens tokens = {0};
            if (i < TEXTS)
                assert_ok(template_encode_text(tokenizer, texts[i], strlen(texts[i]), true, &tokens));
            else if (i == TEXTS)
                for (int t = 0; t < 4; t++)
                    token_list_append(&tokens.tokens, t ? 4 + t : 0);
            json_t *record = next_line(reader);
            const json_t *ids = json_object_get(record, "tokens"), *logprobs = json_object_get(record, "logprobs");
            int32_t start[2] = {0, (int32_t)tokens.tokens.count};
            float weight[TOKENS_MAX], direct[TOKENS_MAX];
            for (int t = 0; t < TOKENS_MAX; t++)
                weight[t] = 1;
            assert_int_equal(json_array_size(ids), start[1]);
            assert_int_equal(json_array_size(logprobs), start[1]);
            if (start[1] > 1)
                tiny_nll(&tiny, false, tokens.tokens.ids, start, 1, weight, direct);
            for (int t = 0; t < start[1]; t++) {
                assert_int_equal(json_integer_value(json_array_get(ids, (size_t)t)), tokens.tokens.ids[t]);
                if (t == 0) {
                    assert_true(json_is_null(json_array_get(logprobs, 0)));
                    continue;
                }
                assert_close(json_number_value(json_array_get(logprobs, (size_t)t)), direct[t - 1], 1e-4, 1e-4);
                expected -= direct[t - 1];
                predicted++;
            }
            template_tokens_free(&tokens);
        }
        assert_null(next_line(reader));
        json_reader_close(&reader);
        assert_int_equal(report.records, TEXTS + 2);
        assert_int_equal(report.predicted, predicted);
        assert_close(report.nll, expected, 1e-5, 1e-4);
        assert_int_equal(report.text_predicted, predicted - 3);
    }
    assert_true(expected / (double)predicted > 1);
    tokenizer_close(&tokenizer);
    tiny_close(&tiny);
}

/* 150 tokens through 64 positions: windows start at 0, 32, 64, 96, and each token is predicted once, from at least 32 before it. */
static void test_windows(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    const char *path = save_model(&tokenizer), *input = support_path("long.jsonl"), *output = support_path("long.out");
    enum { LONG = 150, WINDOW = 64 };
    int32_t ids[LONG];
    tiny_tokens(9, tokenizer_vocab_size(tokenizer), ids, LONG);
    Text line = {0};
    for (int i = 0; i < LONG; i++)
        text_printf(&line, "%s%d", i ? ", " : "{\"tokens\": [", (int)ids[i]);
    text_append_string(&line, "]}\n");
    assert_ok(text_write_file(input, line.bytes, line.size));
    text_free(&line);
    Tiny tiny;
    tiny_open_device(&tiny);
    bool has_head;
    char digest[40];
    assert_ok(model_load(comm_self(), &tiny.device, path, HEAD_LM, &tiny.model, &has_head, NULL, digest));
    tiny_add_gradient(&tiny);
    PerplexityOptions options = {.model = path, .input = input, .output = output, .unit_tokens = 100};
    PerplexityReport report;
    assert_ok(perplexity_run(comm_self(), &tiny.device, &options, &report));
    assert_int_equal(report.predicted, LONG - 1);
    assert_int_equal(report.text_bytes, 0);
    JsonReader *reader = NULL;
    assert_ok(json_reader_open(&reader, output));
    const json_t *logprobs = json_object_get(next_line(reader), "logprobs");
    for (int first = 0, done = 1; done < LONG; first += WINDOW / 2) {
        int length = LONG - first < WINDOW ? LONG - first : WINDOW;
        int32_t start[2] = {0, length};
        float weight[WINDOW] = {0}, direct[WINDOW];
        tiny_nll(&tiny, false, ids + first, start, 1, weight, direct);
        for (; done < first + length; done++)
            assert_close(json_number_value(json_array_get(logprobs, (size_t)done)), direct[done - first - 1], 1e-4,
                         1e-4);
    }
    json_reader_close(&reader);
    tokenizer_close(&tokenizer);
    tiny_close(&tiny);
}

static void test_program(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    const char *path = save_model(&tokenizer), *input = support_path("many.jsonl");
    tokenizer_close(&tokenizer);
    Text lines = {0};
    for (int i = 0; i < 60; i++)
        text_printf(&lines, "{\"text\": \"%s %d\"}\n", texts[i % TEXTS], i);
    assert_ok(text_write_file(input, lines.bytes, lines.size));
    text_free(&lines);
    static const char command[] = "eval perplexity --model %s --tokens --threads 1 --unit-tokens 50 %s";
    SupportRun one = support_run_tercet(0, 60, command, path, input),
               two = support_run_tercet(2, 60, command, path, input);
    assert_exit(&one, 0);
    assert_exit(&two, 0);
    assert_string_equal(text_string(&one.out), text_string(&two.out));
    assert_contains(text_string(&one.err), "perplexity ");
    support_run_free(&one);
    support_run_free(&two);

    static const struct {
        const char *line, *part;
    } bad[] = {
        {"{\"tokens\": [1, 100000]}", "\"tokens\"[1]"},
        {"{\"tokens\": [1.5]}", "\"tokens\"[0]"},
        {"{\"txt\": \"a\"}", "expected \"text\" or \"tokens\""},
        {"{\"text\": 3}", "\"text\""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lines = (Text){0};
        text_printf(&lines, "{\"text\": \"a b\"}\n%s\n", bad[i].line);
        assert_ok(text_write_file(input, lines.bytes, lines.size));
        text_free(&lines);
        SupportRun run = support_run_tercet(0, 60, "eval perplexity --model %s --tokens %s", path, input);
        assert_exit(&run, STATUS_INPUT);
        assert_contains(text_string(&run.err), "many.jsonl:2");
        assert_contains(text_string(&run.err), bad[i].part);
        assert_contains(text_string(&run.out), "\"logprobs\":[null,");
        support_run_free(&run);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
