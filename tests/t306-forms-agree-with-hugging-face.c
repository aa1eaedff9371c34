//TEST labels=cpu timeout=120
/* Tokenizers of every form that is read, small ones, against what Hugging Face tokenizers gives (golden/make_tokenizers.py): ids
 * with and without special tokens parsed, texts back, texts of random ids with and without special tokens. */
#include <string.h>

#include "core/data/json.h"
#include "core/data/tokenizer.h"
#include "tests/support/support.h"

static int wrong;

static void print_ids(const char *what, const TokenList *ids)
{
    print_message("  %s:", what);
    for (int64_t i = 0; i < ids->count && i < 30; i++)
        print_message(" %d", ids->ids[i]);
    print_message("\n");
}

static void read_ids(const json_t *array, TokenList *ids)
{
    ids->count = 0;
    for (size_t i = 0; i < json_array_size(array); i++)
        token_list_append(ids, (int32_t)json_integer_value(json_array_get(array, i)));
}

static void compare_ids(const Tokenizer *tokenizer, const char *name, const json_t *row, const char *key,
                        unsigned flags)
{
    TokenList ids = {0}, expected = {0};
    const json_t *text = json_object_get(row, "text");
    read_ids(json_object_get(row, key), &expected);
    assert_ok(tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), flags, &ids));
    if (ids.count != expected.count ||
        (ids.count && memcmp(ids.ids, expected.ids, (size_t)ids.count * sizeof *ids.ids) != 0)) {
        print_message("%s, %s: \"%s\"\n", name, key, json_string_value(text));
        print_ids("got     ", &ids);
        print_ids("expected", &expected);
        wrong++;
    }
    token_list_free(&ids);
    token_list_free(&expected);
}

static void compare_text(const Tokenizer *tokenizer, const char *name, const json_t *ids_value, const json_t *expected,
                         unsigned flags)
{
    TokenList ids = {0};
    Text text = {0};
    read_ids(ids_value, &ids);
    assert_ok(tokenizer_decode(tokenizer, ids.ids, ids.count, flags, &text));
    if (text.size != json_string_length(expected) ||
        memcmp(text_string(&text), json_string_value(expected), text.size) != 0) {
        print_message("%s, decoded: got \"%s\", expected \"%s\"\n", name, text_string(&text),
                      json_string_value(expected));
        print_ids("ids", &ids);
        wrong++;
    }
    token_list_free(&ids);
    text_free(&text);
}

static void test_goldens(void **state)
{
    (void)state;
    JsonReader *reader;
    assert_ok(json_reader_open(&reader, support_source("tests/golden/tokenizers.jsonl")));
    json_t *row;
    for (;;) {
        assert_ok(json_reader_next(reader, &row));
        if (!row)
            break;
        const char *name = json_string_value(json_object_get(row, "name"));
        Text json = {0};
        json_append(&json, json_object_get(row, "tokenizer"));
        Tokenizer *tokenizer;
        assert_ok(tokenizer_from_bytes(&tokenizer, name, json.bytes, json.size));
        text_free(&json);
        const json_t *cases = json_object_get(row, "cases"), *decoded = json_object_get(row, "decoded");
        assert_true(json_array_size(cases) > 50);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *one = json_array_get(cases, i);
            compare_ids(tokenizer, name, one, "parsed", TOKENIZER_PARSE_SPECIAL);
            compare_ids(tokenizer, name, one, "plain", 0);
            compare_text(tokenizer, name, json_object_get(one, "parsed"), json_object_get(one, "decoded"), 0);
        }
        for (size_t i = 0; i < json_array_size(decoded); i++) {
            const json_t *one = json_array_get(decoded, i);
            compare_text(tokenizer, name, json_object_get(one, "ids"), json_object_get(one, "text"), 0);
            compare_text(tokenizer, name, json_object_get(one, "ids"), json_object_get(one, "skipped"),
                         TOKENIZER_SKIP_SPECIAL);
        }
        assert_int_equal(tokenizer_adds_bos(tokenizer), strcmp(name, "llama2") == 0);
        tokenizer_close(&tokenizer);
    }
    assert_int_equal(json_reader_count(reader), 13);
    json_reader_close(&reader);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
