//TEST labels=data timeout=120
/* t309 -- files as people publish them, each by `auto` alone: the counts are those of their documentation, and every rank that opens a
 * data set sees the same. */
#include <stdio.h>
#include <string.h>

#include "core/data/json.h"
#include "tests/support/support.h"
#include "tests/support/words.h"

static Tokenizer *tokenizer;

static Dataset *open_real(DatasetKind kind, const char *name, DataFormat format)
{
    DataConfig config = words_config();
    DataSource source = words_source(support_data(name));
    source.format = format;
    Dataset *dataset;
    assert_ok(words_open(kind, &source, 1, &config, tokenizer, &dataset));
    return dataset;
}

static void test_counts(void **state)
{
    (void)state;
    static const struct {
        DatasetKind kind;
        const char *name;
        DataFormat format;
        int64_t examples, sequences;
    } cases[] = {
        {DATASET_RANK, "datasets/oasst-sample/en_100_message.jsonl", DATA_AUTO, 212, 0},
        {DATASET_PROMPT, "datasets/oasst-sample/en_100_text.jsonl", DATA_AUTO, 100, 100},
        {DATASET_RANK, "datasets/llama-factory-demo/dpo_en_demo.json", DATA_AUTO, 300, 600},
        {DATASET_RANK, "datasets/llama-factory-demo/dpo_zh_demo.json", DATA_AUTO, 300, 600},
        {DATASET_SFT, "datasets/llama-factory-demo/alpaca_en_demo.json", DATA_AUTO, 999, 999},
        {DATASET_SFT, "datasets/llama-factory-demo/alpaca_zh_demo.json", DATA_AUTO, 1000, 1000},
        {DATASET_RANK, "datasets/medicalgpt/dpo_zh_500.jsonl", DATA_AUTO, 500, 1000},
        {DATASET_SFT, "datasets/medicalgpt/medical_sft_1K_format.jsonl", DATA_AUTO, 1000, 1000},
        {DATASET_SFT, "datasets/fastchat/dummy_conversation.json", DATA_AUTO, 500, 500},
        {DATASET_PROMPT, "datasets/gsm8k/test.jsonl", DATA_AUTO, 1319, 1319},
        {DATASET_SFT, "datasets/gsm8k/train.jsonl", DATA_AUTO, 7473, 7473},
        {DATASET_PROMPT, "datasets/self-instruct/seed_tasks.jsonl", DATA_AUTO, 175, 175},
        {DATASET_RANK, "datasets/vader-ratings/split/train.tsv", DATA_AUTO, 6441, 12881},
        {DATASET_SFT, "datasets/vader-ratings/split/test.tsv", DATA_AUTO, 1432, 1432},
        {DATASET_RANK, "datasets/vader-ratings/split/test_pairs.jsonl", DATA_AUTO, 2000, 4000},
        {DATASET_RANK, "datasets/vader-ratings/tweets_GroundTruth.txt", DATA_RATED, 2100, 4200},
        {DATASET_RANK, "datasets/vader-ratings/movieReviewSnippets_GroundTruth.txt", DATA_RATED, 5303, 10605},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Dataset *dataset = open_real(cases[i].kind, cases[i].name, cases[i].format);
        assert_int_equal(dataset_examples_per_epoch(dataset), cases[i].examples);
        if (cases[i].sequences)
            assert_int_equal(dataset_sequences(dataset), cases[i].sequences);
        dataset_close(&dataset);
    }
}

/* 2.6 million tokens, read where they lie: what is learned of a record is its answer. */
static void test_tokens_are_the_texts(void **state)
{
    (void)state;
    Dataset *dataset = open_real(DATASET_SFT, "datasets/gsm8k/train.jsonl", DATA_AUTO);
    JsonReader *reader;
    json_t *record;
    int64_t index = 0;
    assert_ok(json_reader_open(&reader, support_data("datasets/gsm8k/train.jsonl")));
    for (;; index++) {
        assert_ok(json_reader_next(reader, &record));
        if (!record)
            break;
        Sequence sequence = dataset_sequence(dataset, index);
        Text text = {0};
        assert_int_equal(sequence.token[0], tokenizer_bos(tokenizer));
        assert_int_equal(sequence.token[sequence.count - 1], tokenizer_eos(tokenizer));
        assert_true(!sequence.loss[sequence.prompt - 1] && sequence.loss[sequence.prompt]);
        assert_ok(tokenizer_decode(tokenizer, sequence.token + sequence.prompt, sequence.count - sequence.prompt - 1,
                                   TOKENIZER_CONTINUE, &text));
        const char *answer = json_string_value(json_object_get(record, "answer"));
        assert_true(sequence.count == 1024 || strcmp(text_string(&text), answer) == 0);
        text_free(&text);
    }
    assert_int_equal(index, dataset_sequences(dataset));
    json_reader_close(&reader);
    dataset_close(&dataset);
}

static void test_trees_hold_their_pairs(void **state)
{
    (void)state;
    Dataset *dataset = open_real(DATASET_RANK, "datasets/oasst-sample/en_100_message.jsonl", DATA_AUTO);
    int64_t pairs = 0, sequences[GROUP_ANSWERS_MAX];
    int most = 0;
    for (int64_t i = 0; i < dataset_examples_per_epoch(dataset); i++) {
        int answers = dataset_example(dataset, 0, 0, i, false, sequences);
        pairs += (int64_t)answers * (answers - 1) / 2;
        most = answers > most ? answers : most;
    }
    assert_int_equal(pairs, 754);
    assert_int_equal(most, 9);
    assert_ok(dataset_check_no_ties(dataset));
    dataset_close(&dataset);
}

int main(void)
{
    support_need_data();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts), cmocka_unit_test(test_trees_hold_their_pairs),
                                       cmocka_unit_test(test_tokens_are_the_texts)};
    assert_ok(tokenizer_open(&tokenizer, support_data("models/stories260K-hf")));
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return failures;
}
