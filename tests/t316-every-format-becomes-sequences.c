//TEST labels=cpu timeout=60
/* t316 -- each format, from a small file: what is learned, which answers are compared, what a prompt is; and files that are wrong
 * say where. */
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/rng.h"
#include "tests/support/support.h"
#include "tests/support/words.h"

static Tokenizer *tokenizer;
static DataConfig config;

static Dataset *open_one(DatasetKind kind, const char *name, const char *text)
{
    DataSource source = words_source(words_file(name, text));
    Dataset *dataset;
    assert_ok(words_open(kind, &source, 1, &config, tokenizer, &dataset));
    return dataset;
}

/* SFT: every example as it stands in the file, tokens with loss in brackets. */
static void expect_sft(const char *name, const char *text, const char *const *expected)
{
    Dataset *dataset = open_one(DATASET_SFT, name, text);
    int64_t count = 0, sequences[GROUP_ANSWERS_MAX];
    for (; expected[count]; count++) {
        assert_true(count < dataset_examples_per_epoch(dataset));
        assert_int_equal(dataset_example(dataset, 1, 0, count, false, sequences), 1);
        assert_string_equal(words_loss(tokenizer, dataset_sequence(dataset, sequences[0])), expected[count]);
    }
    assert_int_equal(dataset_examples_per_epoch(dataset), count);
    dataset_close(&dataset);
}
#define EXPECT_SFT(name, text, ...) expect_sft(name, text, (const char *const[]){__VA_ARGS__, NULL})

static void test_sft(void **state)
{
    (void)state;
    EXPECT_SFT("a.txt", "one\n\n  \ntwo\r\nthree", "<bos>[one<eos>]", "<bos>[two<eos>]", "<bos>[three<eos>]");
    EXPECT_SFT("a.jsonl", "{\"text\": \"one\"}\n\n\"two\"\n", "<bos>[one<eos>]", "<bos>[two<eos>]");
    EXPECT_SFT("b.json", "[{\"prompt\": \"p\", \"response\": \"r\"}, {\"prompt\": \"q\", \"completion\": \"\"}]",
               "<bos>p[r<eos>]", "<bos>q[<eos>]");
    EXPECT_SFT("c.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}", "<bos>q[a<eos>]");
    EXPECT_SFT("d.json",
               "[{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}, "
               "{\"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\"}]",
               "<bos>i[o<eos>]", "<bos>i\n\nn[o<eos>]");
    EXPECT_SFT("e.jsonl",
               "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"u\"}, "
               "{\"role\": \"assistant\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"v\"}, "
               "{\"role\": \"assistant\", \"content\": \"b\"}]}",
               "<bos>s\n\nu[a<eos>]v[b<eos>]");
    EXPECT_SFT(
        "f.json",
        "[{\"conversations\": [{\"from\": \"human\", \"value\": \"u\"}, {\"from\": \"gpt\", \"value\": \"a\"}]}]",
        "<bos>u[a<eos>]");
    EXPECT_SFT("g.jsonl", "{\"prompt\": \"p\", \"chosen\": \"good\", \"rejected\": \"bad\"}", "<bos>p[good<eos>]");
    EXPECT_SFT("h.jsonl", "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\"], \"scores\": [0.1, 3]}", "<bos>p[y<eos>]");
    EXPECT_SFT("i.tsv", "1.5\tfine\n-2\tpoor\n", "<bos>[fine<eos>]", "<bos>[poor<eos>]");
    EXPECT_SFT("j.jsonl",
               "{\"role\": \"prompter\", \"text\": \"P\", \"replies\": [{\"role\": \"assistant\", \"text\": \"A\", "
               "\"rank\": 1, \"replies\": [{\"role\": \"prompter\", \"text\": \"Q\", \"replies\": [{\"role\": "
               "\"assistant\", \"text\": \"C\", \"rank\": null, \"replies\": []}]}]}, {\"role\": \"assistant\", "
               "\"text\": \"B\", \"rank\": 0, \"replies\": []}]}",
               "<bos>P[B<eos>]", "<bos>PA<eos>Q[C<eos>]");
    config.train_on_prompt = true;
    EXPECT_SFT("b.jsonl", "{\"prompt\": \"p\", \"response\": \"r\"}", "<bos>[pr<eos>]");
    config = words_config();
    config.append_eos = false;
    EXPECT_SFT("a.txt", "one", "<bos>[one]");
    config = words_config();
    config.template = TEMPLATE_CHATML;
    EXPECT_SFT("k.jsonl", "{\"prompt\": \"p\", \"response\": \"r\"}",
               "<bos><|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n[r<|im_end|>]");
    config = words_config();
}

/* RANK: the groups, each "text=strength text=strength". */
static void expect_rank(const char *name, const char *text, const char *const *expected)
{
    Dataset *dataset = open_one(DATASET_RANK, name, text);
    int64_t count = 0, sequences[GROUP_ANSWERS_MAX];
    for (; expected[count]; count++) {
        assert_true(count < dataset_examples_per_epoch(dataset));
        int answers = dataset_example(dataset, 1, 0, count, false, sequences);
        Text group = {0};
        for (int i = 0; i < answers; i++) {
            Sequence answer = dataset_sequence(dataset, sequences[i]);
            text_printf(&group, "%s%s=%.3g", i ? " " : "", words_text(tokenizer, answer), (double)answer.strength);
        }
        assert_string_equal(text_string(&group), expected[count]);
        text_free(&group);
    }
    assert_int_equal(dataset_examples_per_epoch(dataset), count);
    dataset_close(&dataset);
}
#define EXPECT_RANK(name, text, ...) expect_rank(name, text, (const char *const[]){__VA_ARGS__, NULL})

static void test_rank(void **state)
{
    (void)state;
    EXPECT_RANK("a.jsonl",
                "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}\n"
                "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"margin\": 2.5}\n"
                "{\"chosen\": \"c\", \"rejected\": \"r\", \"margin\": 0}",
                "<bos>pc<eos>=1 <bos>pr<eos>=0", "<bos>pc<eos>=2.5 <bos>pr<eos>=0",
                "<bos>c<eos>=1.18e-38 <bos>r<eos>=0");
    EXPECT_RANK("hh.jsonl",
                "{\"chosen\": \"\\n\\nHuman: hi\\n\\nAssistant: yo\\n\\nHuman: more\\n\\nAssistant: good\", "
                "\"rejected\": \"\\n\\nHuman: hi\\n\\nAssistant: yo\\n\\nHuman: more\\n\\nAssistant: bad\"}",
                "<bos>hiyo<eos>moregood<eos>=1 <bos>hiyo<eos>morebad<eos>=0");
    config.template = TEMPLATE_HH;
    EXPECT_RANK("hh2.jsonl",
                "{\"prompt\": \"\\n\\nHuman: hi\\n\\nAssistant:\", \"chosen\": \"good\", \"rejected\": \" bad\"}",
                "<bos>\n\nHuman: hi\n\nAssistant: good<eos>=1 <bos>\n\nHuman: hi\n\nAssistant: bad<eos>=0");
    config = words_config();
    EXPECT_RANK("lf.json",
                "[{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}], \"chosen\": {\"from\": \"gpt\", "
                "\"value\": \"c\"}, \"rejected\": {\"from\": \"gpt\", \"value\": \"r\"}}]",
                "<bos>qc<eos>=1 <bos>qr<eos>=0");
    EXPECT_RANK("uf.jsonl",
                "{\"prompt\": \"q\", \"chosen\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", "
                "\"content\": \"c\"}], \"rejected\": [{\"role\": \"assistant\", \"content\": \"r\"}]}",
                "<bos>qc<eos>=1 <bos>qr<eos>=0");
    EXPECT_RANK("ranked.jsonl",
                "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\", \"z\"], \"ranks\": [2, 1, 3]}\n"
                "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\"], \"scores\": [0.5, -1]}",
                "<bos>px<eos>=-2 <bos>py<eos>=-1 <bos>pz<eos>=-3", "<bos>px<eos>=0.5 <bos>py<eos>=-1");
    EXPECT_RANK("tree.jsonl",
                "{\"role\": \"prompter\", \"text\": \"P\", \"replies\": [{\"role\": \"assistant\", \"text\": \"A\", "
                "\"rank\": 1, \"replies\": [{\"role\": \"prompter\", \"text\": \"Q\", \"replies\": [{\"role\": "
                "\"assistant\", \"text\": \"C\", \"rank\": 0}, {\"role\": \"assistant\", \"text\": \"D\", \"rank\": "
                "1}, {\"role\": \"assistant\", \"text\": \"E\", \"rank\": null}]}]}, {\"role\": \"assistant\", "
                "\"text\": \"B\", \"rank\": 0, \"replies\": []}]}",
                "<bos>PA<eos>=-1 <bos>PB<eos>=0", "<bos>PA<eos>QC<eos>=0 <bos>PA<eos>QD<eos>=-1");
    EXPECT_RANK("two.tsv", "1\tlow\n3\thigh\n", "<bos>high<eos>=3 <bos>low<eos>=1");
    EXPECT_RANK("three.tsv", "7\t1\tlow\n9\t3\thigh\n", "<bos>high<eos>=3 <bos>low<eos>=1");
}

static void test_prompts(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *tokens, *fields;
    } cases[] = {
        {"a.jsonl", "{\"prompt\": \"p\", \"answer\": 42}", "<bos>p", "{\"prompt\":\"p\",\"answer\":42}"},
        {"b.jsonl", "{\"question\": \"q\", \"answer\": \"#### 7\"}", "<bos>q",
         "{\"question\":\"q\",\"answer\":\"#### 7\",\"prompt\":\"q\"}"},
        {"c.jsonl", "{\"instruction\": \"i\", \"input\": \"n\"}", "<bos>i\n\nn",
         "{\"instruction\":\"i\",\"input\":\"n\",\"prompt\":\"i\\n\\nn\"}"},
        {"d.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}]}", "<bos>u",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"u\"}],\"prompt\":\"u\"}"},
        {"e.jsonl", "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}", "<bos>p", NULL},
        {"f.jsonl",
         "{\"conversations\": [{\"from\": \"human\", \"value\": \"u\"}, {\"from\": \"gpt\", \"value\": \"a\"}]}",
         "<bos>u", NULL},
        {"g.txt", "a line", "<bos>a line", "{\"text\":\"a line\",\"prompt\":\"a line\"}"},
        {"h.jsonl", "\"only a string\"", "<bos>only a string", "{\"prompt\":\"only a string\"}"},
        {"i.tsv", "0.5\ta text", "<bos>a text", NULL},
        {"j.jsonl", "{\"message_id\": \"m\", \"role\": \"prompter\", \"text\": \"P\", \"replies\": []}", "<bos>P",
         "{\"message_id\":\"m\",\"prompt\":\"P\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Dataset *dataset = open_one(DATASET_PROMPT, cases[i].name, cases[i].text);
        assert_int_equal(dataset_sequences(dataset), 1);
        Sequence prompt = dataset_sequence(dataset, 0);
        assert_string_equal(words_text(tokenizer, prompt), cases[i].tokens);
        assert_int_equal(prompt.prompt, prompt.count);
        if (cases[i].fields)
            assert_string_equal(dataset_fields(dataset, 0), cases[i].fields);
        dataset_close(&dataset);
    }
    DataSource source = words_source(words_file("t.txt", "wonderful\nbad\n"));
    source.prompt_tokens = 4;
    Dataset *dataset;
    assert_ok(words_open(DATASET_PROMPT, &source, 1, &config, tokenizer, &dataset));
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 0)), "<bos>wond");
    assert_string_equal(dataset_fields(dataset, 0), "{\"text\":\"wonderful\",\"prompt\":\"wond\"}");
    assert_string_equal(words_text(tokenizer, dataset_sequence(dataset, 1)), "<bos>bad");
    dataset_close(&dataset);
}

static void test_errors_name_the_place(void **state)
{
    (void)state;
    static const struct {
        DatasetKind kind;
        const char *name, *text, *part;
    } cases[] = {
        {DATASET_SFT, "a.jsonl", "{\"text\": \"one\"}\n{\"text\": 3}", "a.jsonl:2: "},
        {DATASET_SFT, "a.jsonl", "{\"text\": \"one\"}\n{\"text\": \"x\"", "a.jsonl:2: "},
        {DATASET_SFT, "a.jsonl", "{\"text\": \"one\"}\n{\"texts\": \"x\"}", "a.jsonl:2: key \"text\" is missing"},
        {DATASET_SFT, "a.jsonl", "{\"body\": \"one\"}", "a.jsonl:1: cannot tell the format"},
        {DATASET_SFT, "a.jsonl", "{\"text\": \" \"}", "a.jsonl:1: the text is empty"},
        {DATASET_SFT, "a.jsonl", "", "a.jsonl: the file holds no records"},
        {DATASET_SFT, "a.txt",
         "good\nb\xff"
         "d\n",
         "a.txt:2: the text is not valid UTF-8"},
        {DATASET_SFT, "a.jsonl",
         "{\"text\": \"b\xff"
         "d\"}",
         "a.jsonl:1"},
        {DATASET_SFT, "a.jsonl", "{\"prompt\": \"p\"}", "a.jsonl:1: nothing to learn"},
        {DATASET_PROMPT, "a.jsonl", "{\"prompt\": \"p\"}\n{\"prompt\": \"\"}",
         "a.jsonl:2: prompt: the prompt is empty"},
        {DATASET_PROMPT, "a.jsonl", "{\"prompt\": [1]}", "a.jsonl:1: expected an object"},
        {DATASET_PROMPT, "a.jsonl", "{\"messages\": [{\"role\": \"judge\", \"content\": \"c\"}]}", "found 'judge'"},
        {DATASET_SFT, "a.jsonl", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"c\"}]}", "a.jsonl:1: "},
        {DATASET_SFT, "a.jsonl",
         "{\"messages\": [{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"c\"},"
         "{\"role\":\"assistant\",\"content\":\"c\"}]}",
         "a.jsonl:1: message 3"},
        {DATASET_RANK, "a.jsonl", "{\"text\": \"one\"}", "a.jsonl:1: nothing to compare"},
        {DATASET_RANK, "a.jsonl", "{\"prompt\": \"p\", \"responses\": [\"x\"], \"ranks\": [1, 2]}",
         "1 responses, but 2"},
        {DATASET_RANK, "a.jsonl", "{\"prompt\": \"p\", \"responses\": [\"x\"], \"ranks\": [1]}", "expected 2 to 64"},
        {DATASET_RANK, "a.jsonl", "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\"], \"ranks\": [1, \"b\"]}",
         "ranks: expected a list of numbers"},
        {DATASET_RANK, "a.jsonl", "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": 4}",
         "rejected: expected a string"},
        {DATASET_RANK, "a.jsonl", "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"margin\": -1}",
         "margin"},
        {DATASET_RANK, "a.tsv", "1\tfine\nhuh\tbad\n", "a.tsv:2: expected a number as rating, found 'huh'"},
        {DATASET_RANK, "a.tsv", "1\tfine\nbad\n", "a.tsv:2: expected rating<TAB>text"},
        {DATASET_RANK, "a.tsv", "1\tfine\n1.5\tgood\n", "no two of the 2 rated texts are 1 apart"},
        {DATASET_RANK, "a.jsonl", "{\"chosen\": [{\"role\": \"assistant\", \"content\": \"c\"}], \"rejected\": \"r\"}",
         "chosen: an answer without a prompt"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DataSource source = words_source(words_file(cases[i].name, cases[i].text));
        Dataset *dataset;
        assert_fails(words_open(cases[i].kind, &source, 1, &config, tokenizer, &dataset), STATUS_INPUT, cases[i].part);
        assert_null(dataset);
    }
    DataSource absent = words_source(support_path("absent.jsonl"));
    Dataset *dataset;
    assert_fails(words_open(DATASET_SFT, &absent, 1, &config, tokenizer, &dataset), STATUS_IO, "absent.jsonl");
}

static void test_ties_are_found(void **state)
{
    (void)state;
    Dataset *dataset = open_one(DATASET_RANK, "ties.jsonl",
                                "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\"], \"ranks\": [1, 2]}\n"
                                "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\", \"z\"], \"ranks\": [1, 2, 1]}\n");
    assert_fails(dataset_check_no_ties(dataset), STATUS_INPUT, "ties.jsonl:2: answers 1 and 3");
    dataset_close(&dataset);
    dataset = open_one(DATASET_RANK, "fine.tsv", "1\ta\n1\tb\n3\tc\n");
    assert_ok(dataset_check_no_ties(dataset));
    dataset_close(&dataset);
}

/* Random bytes of every format's file changed: an error or a data set, never a crash. */
static void test_damaged_files_are_refused_or_read(void **state)
{
    (void)state;
    static const char *const files[] = {
        "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"margin\": 2.5}\n{\"chosen\": \"\\n\\nHuman: "
        "a\\n\\nAssistant: b\", \"rejected\": \"\\n\\nHuman: a\\n\\nAssistant: c\"}\n",
        "{\"prompt\": \"p\", \"responses\": [\"x\", \"y\", \"z\"], \"ranks\": [2, 1, 3]}\n",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n",
        "{\"role\": \"prompter\", \"text\": \"P\", \"replies\": [{\"role\": \"assistant\", \"text\": \"A\", \"rank\": "
        "1, "
        "\"replies\": []}, {\"role\": \"assistant\", \"text\": \"B\", \"rank\": 0}]}\n",
        "{\"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\"}\n",
        "[{\"rating\": 1, \"text\": \"t\"}, {\"rating\": -1.5, \"text\": \"s\"}]",
    };
    log_set_level(LOG_QUIET);
    int opened = 0;
    for (uint64_t trial = 0; trial < 360; trial++) {
        RngStream stream = rng_stream(5, RNG_TEST, 0, trial);
        Text text = {0};
        text_append_string(&text, files[trial % 6]);
        uint64_t changes = 1 + rng_below(stream, 0, 3);
        for (uint64_t i = 0; i < changes; i++) {
            static const char letters[] = "{}[]\",:\\0-e\n\xff\xc3 anrbcdfghijklmopqstuvwxyzABCD";
            text.bytes[rng_below(stream, 3 * i + 1, text.size)] = letters[rng_below(stream, 3 * i + 2, sizeof letters)];
        }
        const char *path = support_path("mutant.json");
        FILE *file = fopen(path, "wb"); /* text_write_file would wait for the disk every time */
        assert_non_null(file);
        fwrite(text.bytes, 1, text.size, file);
        fclose(file);
        DataSource source = words_source(path);
        Dataset *dataset;
        Status status = words_open((DatasetKind)(trial / 6 % 3), &source, 1, &config, tokenizer, &dataset);
        if (!status_failed(status))
            opened++;
        else
            assert_contains(status_message(), "mutant.json");
        dataset_close(&dataset);
        text_free(&text);
    }
    log_set_level(LOG_INFO);
    assert_true(opened > 10 && opened < 340);
}

static void test_template_words_are_the_templates(void **state)
{
    (void)state;
    const ConfigKey *key = data_config_keys;
    while (strcmp(key->name, "template") != 0)
        key++;
    Text words = {0};
    for (const char *const *name = template_names(); *name; name++)
        text_printf(&words, "%s%s", words.size ? "|" : "", *name);
    assert_string_equal(key->choices, text_string(&words));
    text_free(&words);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sft),
        cmocka_unit_test(test_rank),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_errors_name_the_place),
        cmocka_unit_test(test_ties_are_found),
        cmocka_unit_test(test_damaged_files_are_refused_or_read),
        cmocka_unit_test(test_template_words_are_the_templates),
    };
    tokenizer = words_tokenizer(true);
    config = words_config();
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return failures;
}
