//TEST labels=cpu;data timeout=120
/* The tokenizers give the ids that other programs gave for 211 real texts; a digest names a tokenizer wherever it came from. */
#include <string.h>

#include "core/data/json.h"
#include "core/data/tokenizer.h"
#include "tests/support/support.h"

typedef struct Case {
    const char *column, *file;
    unsigned flags;
} Case;

static const Case cases[] = {
    {"gpt2", "tokenizers/gpt2/encoder.json", TOKENIZER_PARSE_SPECIAL},
    {"gpt-neox-20b", "tokenizers/gpt-neox-20b/20B_tokenizer.json", TOKENIZER_PARSE_SPECIAL},
    {"minimind", "tokenizers/minimind/tokenizer.json", TOKENIZER_PARSE_SPECIAL},
    {"mistral-v1", "tokenizers/mistral/tokenizer.model.v1", 0},
    {"tok512", "models/stories260K/tok512.model", 0},
};

static bool ids_equal(const TokenList *ids, const json_t *expected)
{
    if ((size_t)ids->count != json_array_size(expected))
        return false;
    for (int64_t i = 0; i < ids->count; i++)
        if (ids->ids[i] != json_integer_value(json_array_get(expected, (size_t)i)))
            return false;
    return true;
}

static void compare_column(const Case *one)
{
    Tokenizer *tokenizer;
    assert_ok(tokenizer_open(&tokenizer, support_data(one->file)));
    JsonReader *reader;
    assert_ok(json_reader_open(&reader, support_data("vectors/texts_211.jsonl")));
    TokenList ids = {0};
    Text back = {0};
    json_t *row;
    int checked = 0, different = 0, returned = 0;
    for (;;) {
        assert_ok(json_reader_next(reader, &row));
        if (!row)
            break;
        const char *text;
        size_t size;
        const json_t *columns, *expected;
        JsonPlace place = json_reader_place(reader);
        assert_ok(json_get_string(place, row, "text", JSON_REQUIRED, &text, &size));
        assert_ok(json_get_object(place, row, "ids", JSON_REQUIRED, &columns));
        assert_ok(json_get_array(place, columns, one->column, JSON_REQUIRED, &expected));
        ids.count = 0;
        assert_ok(tokenizer_encode(tokenizer, text, size, one->flags, &ids));
        if (!ids_equal(&ids, expected)) {
            different++;
            print_message("%s: text %d differs: \"%.60s\" got", one->column, checked, text);
            for (int64_t i = 0; i < ids.count && i < 12; i++)
                print_message(" %d", ids.ids[i]);
            print_message("\n");
        }
        text_clear(&back);
        assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, 0, &back));
        returned += back.size == size && memcmp(text_string(&back), text, size) == 0;
        checked++;
    }
    print_message("%s: %d texts, %d different, %d returned exactly\n", one->column, checked, different, returned);
    json_reader_close(&reader);
    token_list_free(&ids);
    text_free(&back);
    tokenizer_close(&tokenizer);
    assert_int_equal(checked, 211);
    assert_int_equal(different, 0);
}

static void test_gpt2(void **state)
{
    (void)state;
    compare_column(&cases[0]);
}

static void test_gpt_neox(void **state)
{
    (void)state;
    compare_column(&cases[1]);
}

static void test_minimind(void **state)
{
    (void)state;
    compare_column(&cases[2]);
}

static void test_mistral(void **state)
{
    (void)state;
    compare_column(&cases[3]);
}

static void test_tok512(void **state)
{
    (void)state;
    compare_column(&cases[4]);
}

static uint64_t hash_id(uint64_t value, int32_t id)
{
    for (int shift = 0; shift < 32; shift += 8)
        value = (value ^ ((uint32_t)id >> shift & 0xff)) * 0x100000001b3u;
    return value;
}

/* The tokenizer.json of a Hugging Face directory, special tokens parsed: golden/hash_stories_ids.py. */
static void test_hugging_face_directory(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    assert_ok(tokenizer_open(&tokenizer, support_data("models/stories260K-hf")));
    assert_int_equal(tokenizer_vocab_size(tokenizer), 512);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_int_equal(tokenizer_eos(tokenizer), 2);
    assert_int_equal(tokenizer_pad(tokenizer), -1);
    assert_int_equal(tokenizer_unk(tokenizer), 0);
    assert_true(tokenizer_adds_bos(tokenizer));
    JsonReader *reader;
    assert_ok(json_reader_open(&reader, support_data("vectors/texts_211.jsonl")));
    uint64_t hash = 0xcbf29ce484222325u;
    TokenList ids = {0};
    json_t *row;
    for (;;) {
        assert_ok(json_reader_next(reader, &row));
        if (!row)
            break;
        const json_t *text = json_object_get(row, "text");
        ids.count = 0;
        assert_ok(tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                   TOKENIZER_PARSE_SPECIAL, &ids));
        for (int64_t i = 0; i < ids.count; i++)
            hash = hash_id(hash, ids.ids[i]);
        hash = hash_id(hash, -1);
    }
    assert_true(hash == 0xd015773ccd5a9492u);
    json_reader_close(&reader);
    token_list_free(&ids);
    tokenizer_close(&tokenizer);
}

/* Saved, opened from the file or from bytes: the same digest, roles and canonical form. */
static void test_digest_names_the_tokenizer(void **state)
{
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        Tokenizer *tokenizer, *saved, *stored;
        assert_ok(tokenizer_open(&tokenizer, support_data(cases[c].file)));
        assert_ok(text_make_directories(support_path("%s", cases[c].column)));
        assert_ok(tokenizer_save(tokenizer, support_path("%s", cases[c].column)));
        assert_ok(tokenizer_open(&saved, support_path("%s", cases[c].column)));
        size_t size;
        const char *bytes = tokenizer_bytes(tokenizer, &size);
        assert_ok(tokenizer_from_bytes(&stored, "stored", bytes, size));
        assert_true(tokenizer_digest(tokenizer) == tokenizer_digest(saved));
        assert_true(tokenizer_digest(tokenizer) == tokenizer_digest(stored));
        assert_int_equal(tokenizer_eos(tokenizer), tokenizer_eos(stored));
        assert_int_equal(tokenizer_adds_bos(tokenizer), tokenizer_adds_bos(saved));
        assert_true(tokenizer_eos(tokenizer) >= 0);
        tokenizer_close(&tokenizer);
        tokenizer_close(&saved);
        tokenizer_close(&stored);
    }
}

int main(void)
{
    support_need_data();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2),
                                       cmocka_unit_test(test_gpt_neox),
                                       cmocka_unit_test(test_minimind),
                                       cmocka_unit_test(test_mistral),
                                       cmocka_unit_test(test_tok512),
                                       cmocka_unit_test(test_hugging_face_directory),
                                       cmocka_unit_test(test_digest_names_the_tokenizer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
