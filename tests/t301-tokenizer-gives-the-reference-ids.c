//TEST labels=cpu;data timeout=120
/* The tokenizers give the ids that other programs gave for 211 real texts, and give the texts back. */
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

int main(void)
{
    support_need_data();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gpt2), cmocka_unit_test(test_gpt_neox),
                                       cmocka_unit_test(test_minimind), cmocka_unit_test(test_mistral),
                                       cmocka_unit_test(test_tok512)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
