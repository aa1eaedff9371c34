//TEST labels=cpu timeout=120
/* Training: the same tokenizer for any order of the texts, a vocabulary of the size asked for, ids that come back as the
 * text, the merges that a naive trainer finds, and clear refusals. */
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/data/json.h"
#include "core/data/tokenizer.h"
#include "core/data/tokenizer_train.h"
#include "tests/support/support.h"

enum { TEXTS = 400 };

static const char *const special[] = {"<|pad|>", "<|bos|>", "<|end|>"};
static const TokenizerTrainConfig config = {.vocab_size = 400,
                                            .frequency_min = 2,
                                            .special = special,
                                            .special_count = 3,
                                            .bos = "<|bos|>",
                                            .eos = "<|end|>",
                                            .pad = "<|pad|>",
                                            .adds_bos = true};

/* Texts of a small made-up language, with a few characters of more than one byte. */
static void make_text(int number, Text *text)
{
    static const char *const parts[] = {"ka", "lo", "mi",   "ren", "sal", "tu", "é",
                                        "ü",  "中", "🙂", "'s",  "12",  "!",  "  "};
    RngStream stream = rng_stream(1, RNG_TEST, 0, (uint64_t)number);
    text_clear(text);
    for (uint64_t i = 0; i < 30; i++) {
        text_append_string(text, parts[rng_below(stream, 2 * i, sizeof parts / sizeof *parts)]);
        if (rng_below(stream, 2 * i + 1, 3) == 0)
            text_append_string(text, " ");
    }
}

static void train(bool reversed, Text *json)
{
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    Text text = {0};
    for (int i = 0; i < TEXTS; i++) {
        make_text(reversed ? TEXTS - 1 - i : i, &text);
        assert_ok(tokenizer_trainer_add(trainer, text.bytes, text.size));
    }
    assert_ok(tokenizer_train(trainer, &config, json));
    text_free(&text);
    tokenizer_trainer_free(&trainer);
}

static void test_order_of_texts_does_not_matter(void **state)
{
    (void)state;
    Text one = {0}, other = {0};
    train(false, &one);
    train(true, &other);
    assert_string_equal(one.bytes, other.bytes);
    text_free(&one);
    text_free(&other);
}

static void test_what_comes_out(void **state)
{
    (void)state;
    Text json = {0}, text = {0}, back = {0};
    train(false, &json);
    Tokenizer *tokenizer;
    assert_ok(tokenizer_from_bytes(&tokenizer, "trained", json.bytes, json.size));
    assert_int_equal(tokenizer_vocab_size(tokenizer), 400);
    assert_int_equal(tokenizer_pad(tokenizer), 0);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_true(tokenizer_adds_bos(tokenizer));
    size_t size;
    const char *canonical = tokenizer_bytes(tokenizer, &size);
    assert_int_equal(size, json.size);
    assert_memory_equal(canonical, json.bytes, size);
    TokenList ids = {0};
    int64_t tokens = 0, bytes = 0;
    for (int i = 0; i < TEXTS; i++) {
        make_text(i, &text);
        ids.count = 0;
        text_clear(&back);
        assert_ok(tokenizer_encode(tokenizer, text.bytes, text.size, 0, &ids));
        assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &back));
        assert_string_equal(back.bytes, text.bytes);
        tokens += ids.count;
        bytes += (int64_t)text.size;
    }
    assert_true(2 * tokens < bytes); /* it learned something */
    /* A special token written in a text is text unless asked for. */
    ids.count = 0;
    assert_ok(tokenizer_encode(tokenizer, "<|end|>", 7, 0, &ids));
    assert_true(ids.count > 1);
    ids.count = 0;
    assert_ok(tokenizer_encode(tokenizer, "<|end|>", 7, TOKENIZER_PARSE_SPECIAL, &ids));
    assert_int_equal(ids.count, 1);
    assert_int_equal(ids.ids[0], 2);
    token_list_free(&ids);
    tokenizer_close(&tokenizer);
    text_free(&json);
    text_free(&text);
    text_free(&back);
}

/* The definition, spelled out: recount everything for every merge. Words are separated by hand here: "aab" 5 times... */
static void test_merges_of_a_small_case(void **state)
{
    (void)state;
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    for (int i = 0; i < 5; i++)
        assert_ok(tokenizer_trainer_add(trainer, "low", 3));
    for (int i = 0; i < 2; i++)
        assert_ok(tokenizer_trainer_add(trainer, "lower", 5));
    for (int i = 0; i < 6; i++)
        assert_ok(tokenizer_trainer_add(trainer, "newest", 6));
    for (int i = 0; i < 3; i++)
        assert_ok(tokenizer_trainer_add(trainer, "widest", 6));
    TokenizerTrainConfig small = {.vocab_size = 256 + 5, .frequency_min = 1};
    Text json = {0};
    assert_ok(tokenizer_train(trainer, &small, &json));
    /* es 9 before st 9 (e < s); then es+t 9; then lo 7 before ow 7; low 7; then e w 6 before ne 6 (e < n). */
    static const char *const expected[5][2] = {{"e", "s"}, {"es", "t"}, {"l", "o"}, {"lo", "w"}, {"e", "w"}};
    json_t *root;
    assert_ok(json_read_bytes("trained", json.bytes, json.size, &root));
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    assert_int_equal(json_array_size(merges), 5);
    for (size_t i = 0; i < 5; i++)
        for (size_t side = 0; side < 2; side++)
            assert_string_equal(json_string_value(json_array_get(json_array_get(merges, i), side)), expected[i][side]);
    json_decref(root);
    text_free(&json);
    tokenizer_trainer_free(&trainer);
}

static void test_fewer_tokens_than_asked_for(void **state)
{
    (void)state;
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    assert_ok(tokenizer_trainer_add(trainer, "aaaa", 4));
    TokenizerTrainConfig large = {.vocab_size = 1000, .frequency_min = 1};
    Text json = {0};
    assert_ok(tokenizer_train(trainer, &large, &json));
    Tokenizer *tokenizer;
    assert_ok(tokenizer_from_bytes(&tokenizer, "trained", json.bytes, json.size));
    assert_int_equal(tokenizer_vocab_size(tokenizer), 258); /* aa, aaaa */
    tokenizer_close(&tokenizer);
    text_free(&json);
    tokenizer_trainer_free(&trainer);
}

static void test_refusals(void **state)
{
    (void)state;
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    Text json = {0};
    TokenizerTrainConfig wrong = config;
    wrong.vocab_size = 258;
    assert_fails(tokenizer_train(trainer, &wrong, &json), STATUS_USAGE, "259");
    wrong = config;
    wrong.eos = "</s>";
    assert_fails(tokenizer_train(trainer, &wrong, &json), STATUS_USAGE, "</s>");
    wrong = config;
    const char *const twice[] = {"<x>", "<x>", "<y>"};
    wrong.special = twice;
    assert_fails(tokenizer_train(trainer, &wrong, &json), STATUS_USAGE, "twice");
    assert_fails(tokenizer_trainer_add(trainer, "a\xff", 2), STATUS_INPUT, "byte 1");
    assert_int_equal(json.size, 0);
    tokenizer_trainer_free(&trainer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_texts_does_not_matter), cmocka_unit_test(test_what_comes_out),
        cmocka_unit_test(test_merges_of_a_small_case), cmocka_unit_test(test_fewer_tokens_than_asked_for),
        cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
