//TEST labels=cpu;data timeout=300
/* Flipped bytes, swapped words and truncation in tokenizer.json, tokenizer.model, encoder.json and vocab.bpe: a clear error that names the file, or
 * a tokenizer that works; never a crash. Also the refusals that a person will meet. */
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/data/json.h"
#include "core/data/tokenizer.h"
#include "tests/support/support.h"

static void use(const Tokenizer *tokenizer)
{
    static const char text[] =
        " Once upon a time,  <s> Tim's\tdog \xe4\xb8\xad\xf0\x9f\x99\x82 won't 1234!<|im_end|>\n";
    TokenList ids = {0};
    Text back = {0};
    /* A damaged pattern or normaliser may refuse a text. */
    if (!status_failed(tokenizer_encode(tokenizer, text, sizeof text - 1, TOKENIZER_PARSE_SPECIAL, &ids)))
        assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &back));
    for (int32_t id = 0; id < tokenizer_vocab_size(tokenizer); id += 97)
        assert_ok(tokenizer_decode(tokenizer, &id, 1, 0, &back));
    /* Its canonical form opens, and is its own canonical form. */
    size_t size;
    const char *bytes = tokenizer_bytes(tokenizer, &size);
    Tokenizer *again;
    assert_ok(tokenizer_from_bytes(&again, "canonical", bytes, size));
    assert_true(tokenizer_digest(again) == tokenizer_digest(tokenizer));
    tokenizer_close(&again);
    token_list_free(&ids);
    text_free(&back);
}

/* A small tokenizer.json with all its parts: random bytes of a large one would fall into its vocabulary. */
static void damage(const char *name, const char *original, size_t size, int rounds, uint64_t seed)
{
    int refused = 0;
    char *bytes = memory_new(size, 1);
    for (int round = 0; round < rounds; round++) {
        RngStream stream = rng_stream(seed, RNG_TEST, 0, (uint64_t)round);
        memcpy(bytes, original, size);
        size_t used = round % 5 == 0 ? rng_below(stream, 0, size) : size;
        for (uint64_t i = 0; i < 1 + (uint64_t)round % 6; i++) {
            size_t at = rng_below(stream, 3 * i + 1, size);
            switch (rng_below(stream, 3 * i + 2, 3)) {
            case 0:
                bytes[at] = (char)rng_below(stream, 3 * i + 3, 256);
                break;
            case 1: /* a character that means something */
                bytes[at] = "{}[]\",:0129-\\nte"[rng_below(stream, 3 * i + 3, 16)];
                break;
            default: { /* a piece from elsewhere */
                size_t from = rng_below(stream, 3 * i + 3, size), length = 1 + round % 24;
                length = length > size - at ? size - at : length;
                length = length > size - from ? size - from : length;
                memmove(bytes + at, bytes + from, length);
            }
            }
        }
        Tokenizer *tokenizer;
        Status status = tokenizer_from_bytes(&tokenizer, name, bytes, used);
        if (status_failed(status)) {
            refused++;
            assert_null(tokenizer);
            assert_int_equal(status.code, STATUS_INPUT);
            assert_contains(status_message(), name);
        } else {
            use(tokenizer);
            tokenizer_close(&tokenizer);
        }
    }
    print_message("%s: %d of %d refused\n", name, refused, rounds);
    assert_true(refused > rounds / 20);
    memory_free(&bytes);
}

static void damage_file(const char *name, const char *file, int rounds)
{
    Text text = {0};
    assert_ok(text_read_file(support_data(file), 64 << 20, &text));
    damage(name, text.bytes, text.size, rounds, 11);
    text_free(&text);
}

/* The parts around vocabulary and merges, with few of those. */
static void test_parts(void **state)
{
    (void)state;
    static const char json[] =
        "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":9,\"content\":\"<s>\",\"special\":true,\"lstrip\":true,"
        "\"rstrip\":true,\"single_word\":true,\"normalized\":false},{\"id\":10,\"content\":\"dog\",\"special\":false,"
        "\"normalized\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":"
        "\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":"
        "\"\xe2\x96\x81\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
        "\"pattern\":"
        "{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\s+(?!\\\\S)\"},\"behavior\":"
        "\"MergedWithNext\",\"invert\":false},{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_"
        "scheme\":"
        "\"first\",\"split\":true},{\"type\":\"Digits\",\"individual_digits\":true}]},\"post_processor\":{\"type\":"
        "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}]},\"decoder\":{\"type\":"
        "\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
        "\",\"start\":1,\"stop\":0}]},"
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"u\",\"fuse_unk\":true,\"byte_fallback\":true,"
        "\"vocab\":{\"u\":0,\"p\":1,\"o\":2,\"n\":3,\"up\":4,\"on\":5,\"\xe2\x96\x81\":6,\"<0xE4>\":7,\"upon\":8},"
        "\"merges\":[\"u p\",\"o n\",[\"up\",\"on\"]]}}";
    damage("parts.json", json, sizeof json - 1, 3000, 5);
}

static void test_files(void **state)
{
    (void)state;
    damage_file("tok512.model", "models/stories260K/tok512.model", 600);
    damage_file("stories.json", "models/stories260K-hf/tokenizer.json", 300);
    damage_file("minimind.json", "tokenizers/minimind/tokenizer.json", 40);
}

static void test_pair(void **state)
{
    (void)state;
    static const char vocab[] = "{\"a\":0,\"b\":1,\"ab\":2,\"<|endoftext|>\":3}", merges[] = "#version: 0.2\na b\n";
    for (uint64_t round = 0; round < 200; round++) {
        RngStream stream = rng_stream(6, RNG_TEST, 0, round);
        char one[sizeof vocab], other[sizeof merges];
        memcpy(one, vocab, sizeof vocab);
        memcpy(other, merges, sizeof merges);
        one[rng_below(stream, 0, sizeof vocab - 1)] = (char)rng_below(stream, 1, 256);
        other[rng_below(stream, 2, sizeof merges - 1)] = (char)rng_below(stream, 3, 256);
        assert_ok(text_write_file(support_path("encoder.json"), round % 2 ? vocab : one, sizeof vocab - 1));
        assert_ok(text_write_file(support_path("vocab.bpe"), round % 2 ? other : merges, sizeof merges - 1));
        Tokenizer *tokenizer;
        if (status_failed(tokenizer_open(&tokenizer, support_path("encoder.json"))))
            continue;
        use(tokenizer);
        tokenizer_close(&tokenizer);
    }
    Tokenizer *tokenizer;
    assert_ok(text_write_file(support_path("encoder.json"), vocab, sizeof vocab - 1));
    assert_ok(text_write_file(support_path("vocab.bpe"), merges, sizeof merges - 1));
    assert_ok(tokenizer_open(&tokenizer, support_directory()));
    assert_int_equal(tokenizer_eos(tokenizer), 3);
    TokenList ids = {0};
    assert_ok(tokenizer_encode(tokenizer, "abb", 3, 0, &ids));
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.ids[0], 2);
    assert_int_equal(ids.ids[1], 1);
    token_list_free(&ids);
    tokenizer_close(&tokenizer);
}

static void test_refusals(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    assert_fails(tokenizer_open(&tokenizer, support_path("none/tokenizer.json")), STATUS_IO, "tokenizer.json");
    assert_ok(text_make_directories(support_path("empty")));
    assert_fails(tokenizer_open(&tokenizer, support_path("empty")), STATUS_INPUT, "no tokenizer here");
    assert_fails(tokenizer_from_bytes(&tokenizer, "x", "", 0), STATUS_INPUT, "empty");
    assert_fails(tokenizer_from_bytes(&tokenizer, "x", "PK", 2), STATUS_INPUT, "neither");
    static const char *const refused[][2] = {
        {"{}", "\"model\" is missing"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram is not supported"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece is not supported"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "stands twice"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "outside"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2000000000},\"merges\":[]}}", "outside"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "not in the vocabulary"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "expected two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Precompiled\"}}",
         "normalizer \"Precompiled\" is not supported"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\","
         "\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}}",
         "pattern \"("},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_fails(tokenizer_from_bytes(&tokenizer, "given.json", refused[i][0], strlen(refused[i][0])), STATUS_INPUT,
                     refused[i][1]);
}

static void test_unigram_is_refused_by_name(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    assert_fails(tokenizer_open(&tokenizer, support_data("tokenizers/t5/t5_tokenizer_base.model")), STATUS_INPUT,
                 "Unigram is not supported");
}

/* Text that is no UTF-8 is an error, not a crash. A word of a hundred thousand letters takes no time. */
static void test_hard_texts(void **state)
{
    (void)state;
    static const char *const files[] = {"tokenizers/minimind", "tokenizers/mistral/tokenizer.model.v1"};
    enum { LETTERS = 300000 };
    char *word = memory_new(LETTERS, 1);
    for (int i = 0; i < LETTERS; i++)
        word[i] = "abcde"[i * 7 % 11 % 5];
    for (size_t f = 0; f < 2; f++) {
        Tokenizer *tokenizer;
        TokenList ids = {0};
        Text back = {0};
        assert_ok(tokenizer_open(&tokenizer, support_data(files[f])));
        static const char *const bad[] = {"a\x80", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe4\xb8", "\xff"};
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            assert_fails(tokenizer_encode(tokenizer, bad[i], strlen(bad[i]), 0, &ids), STATUS_INPUT, "not UTF-8");
            assert_int_equal(ids.count, 0);
        }
        assert_ok(tokenizer_encode(tokenizer, word, LETTERS, 0, &ids));
        assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &back));
        assert_int_equal(back.size, LETTERS);
        assert_memory_equal(back.bytes, word, LETTERS);
        ids.count = 0;
        text_clear(&back);
        assert_ok(tokenizer_encode(tokenizer, "a\0b", 3, 0, &ids));
        assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &back));
        assert_int_equal(back.size, 3);
        assert_memory_equal(back.bytes, "a\0b", 3);
        token_list_free(&ids);
        text_free(&back);
        tokenizer_close(&tokenizer);
    }
    memory_free(&word);
}

/* Without the real data the first group still runs. */
int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts), cmocka_unit_test(test_pair),
                                       cmocka_unit_test(test_refusals)};
    const struct CMUnitTest data_tests[] = {cmocka_unit_test(test_files),
                                            cmocka_unit_test(test_unigram_is_refused_by_name),
                                            cmocka_unit_test(test_hard_texts)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed)
        return failed;
    support_need_data();
    return cmocka_run_group_tests(data_tests, NULL, NULL);
}
