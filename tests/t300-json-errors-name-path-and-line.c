//TEST labels=cpu timeout=120
/* JSON records: JSONL and arrays read the same, errors name path, line and key, and damaged files end in a clear error. */
#include <stdio.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/data/json.h"
#include "tests/support/support.h"

static const char *write_file(const char *name, const char *bytes, size_t size)
{
    const char *path = support_path("%s", name);
    assert_ok(text_write_file(path, bytes, size));
    return path;
}

/* Reads all records; what they are as JSON, one a line, in `out`. */
static Status read_all(const char *path, Text *out)
{
    JsonReader *reader;
    TRY(json_reader_open(&reader, path));
    json_t *value = NULL;
    Status status;
    do {
        status = json_reader_next(reader, &value);
        if (!status_failed(status) && value) {
            text_printf(out, "%lld ", (long long)json_reader_place(reader).line);
            json_append(out, value);
            text_append_string(out, "\n");
        }
    } while (!status_failed(status) && value);
    json_reader_close(&reader);
    return status;
}

static void expect_records(const char *content, const char *expected)
{
    Text out = {0};
    assert_ok(read_all(write_file("a.json", content, strlen(content)), &out));
    assert_string_equal(text_string(&out), expected);
    text_free(&out);
}

static void expect_error(const char *content, size_t size, const char *part)
{
    Text out = {0};
    assert_fails(read_all(write_file("a.json", content, size), &out), STATUS_INPUT, part);
    text_free(&out);
}

static void test_lines_and_arrays(void **state)
{
    (void)state;
    expect_records("{\"a\":1}\n\n{\"a\": [2, \"x\\n]\"]}\n", "1 {\"a\":1}\n3 {\"a\":[2,\"x\\n]\"]}\n");
    expect_records("{\"a\":1}\r\n{\"a\":2}", "1 {\"a\":1}\n2 {\"a\":2}\n");
    expect_records("\xef\xbb\xbf{\"a\":1}", "1 {\"a\":1}\n");
    expect_records(" \n[\n {\"a\":\n1} , {\"b\":\"}\\\"]\"},\n\n\"text\", 4.5,null\n]\n",
                   "3 {\"a\":1}\n4 {\"b\":\"}\\\"]\"}\n6 \"text\"\n6 4.5\n6 null\n");
    expect_records("[]", "");
    expect_records("", "");
    expect_records("\n \n", "");
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    expect_error("{\"a\":1}\n{\"a\":}\n", 15, "a.json:2: expected JSON");
    expect_error("{\"a\":1}\n{\"a\":\"\xff\"}\n", 18, "a.json:2: expected JSON");
    expect_error("{\"a\":1,\"a\":2}", 13, "a.json:1: expected JSON");
    expect_error("[{\"a\":1},\n{\"b\":\n}]", 18, "a.json:3: expected JSON");
    expect_error("[{\"a\":1},\n{\"b\":", 15, "truncated");
    expect_error("[{\"a\":1}", 8, "truncated");
    expect_error("[{\"a\":1} {\"b\":2}]", 17, "','");
    expect_error("[,1]", 4, "expected a record");
    expect_error("[1,]", 4, "expected a record");
    expect_error("[1]]", 4, "end of the file");
    expect_error("{\"a\":1", 6, "a.json:1");
    expect_error("hello\n", 6, "a.json:1");
    char deep[5000];
    memset(deep, '{', sizeof deep);
    expect_error(deep, sizeof deep, "a.json:1");
    Text out = {0};
    assert_fails(read_all(support_path("none.json"), &out), STATUS_IO, "none.json");
    text_free(&out);
}

static void test_after_an_error_the_reader_stays_failed(void **state)
{
    (void)state;
    JsonReader *reader;
    assert_ok(json_reader_open(&reader, write_file("b.json", "{}\nx\n{}\n", 8)));
    json_t *value;
    assert_ok(json_reader_next(reader, &value));
    assert_non_null(value);
    assert_fails(json_reader_next(reader, &value), STATUS_INPUT, "b.json:2");
    assert_fails(json_reader_next(reader, &value), STATUS_INPUT, "b.json");
    assert_null(value);
    json_reader_close(&reader);
    assert_null(reader);
}

static void test_getters(void **state)
{
    (void)state;
    json_t *value;
    const char *record = "{\"s\":\"x\\u0000y\",\"i\":3,\"w\":4.0,\"d\":2.5,\"b\":true,\"l\":[1],\"o\":{},\"n\":null}";
    assert_ok(json_read_bytes("r", record, strlen(record), &value));
    JsonPlace place = {"file.jsonl", 12};
    const char *string = "default";
    size_t size;
    int64_t integer = 7;
    double number;
    bool truth;
    const json_t *part;
    assert_ok(json_get_string(place, value, "s", JSON_REQUIRED, &string, &size));
    assert_int_equal(size, 3);
    assert_fails(json_get_string(place, value, "s", JSON_REQUIRED, &string, NULL), STATUS_INPUT, "zero byte");
    assert_ok(json_get_int64(place, value, "n", JSON_OPTIONAL, &integer));
    assert_ok(json_get_int64(place, value, "missing", JSON_OPTIONAL, &integer));
    assert_int_equal(integer, 7);
    assert_ok(json_get_int64(place, value, "w", JSON_REQUIRED, &integer));
    assert_int_equal(integer, 4);
    assert_ok(json_get_double(place, value, "i", JSON_REQUIRED, &number));
    assert_close(number, 3.0, 0, 0);
    assert_ok(json_get_bool(place, value, "b", JSON_REQUIRED, &truth));
    assert_true(truth);
    assert_ok(json_get_array(place, value, "l", JSON_REQUIRED, &part));
    assert_ok(json_get_object(place, value, "o", JSON_REQUIRED, &part));
    assert_fails(json_get_int64(place, value, "d", JSON_REQUIRED, &integer), STATUS_INPUT,
                 "file.jsonl:12: key \"d\": expected an integer, found number");
    assert_fails(json_get_int64(place, value, "missing", JSON_REQUIRED, &integer), STATUS_INPUT,
                 "file.jsonl:12: key \"missing\" is missing");
    assert_fails(json_get_string(place, value, "l", JSON_OPTIONAL, &string, &size), STATUS_INPUT, "found array");
    assert_fails(json_get_array(place, value, "o", JSON_REQUIRED, &part), STATUS_INPUT, "found object");
    assert_fails(json_get_object(place, value, "n", JSON_REQUIRED, &part), STATUS_INPUT, "found null");
    assert_fails(json_get_bool(place, part = json_object_get(value, "l"), "b", JSON_REQUIRED, &truth), STATUS_INPUT,
                 "expected an object, found array");
    assert_true(json_has(value, "s"));
    assert_false(json_has(value, "n"));
    json_decref(value);
}

/* Any change of bytes ends in records or in one error line that names the file. */
static void test_damaged_files(void **state)
{
    (void)state;
    static const char *const contents[] = {
        "{\"prompt\": \"Say \\\"hi\\\"\", \"n\": [1, 2.5e3, null, true]}\n{\"prompt\": \"\xe4\xb8\xad\\u4e2d\"}\n",
        "[{\"prompt\": \"a\", \"x\": {\"y\": [[]]}},\n {\"prompt\": \"b]\"}, 3, \"s\"]\n"};
    int failures = 0;
    for (uint64_t round = 0; round < 600; round++) {
        RngStream stream = rng_stream(3, RNG_TEST, 0, round);
        char bytes[256];
        size_t size = strlen(contents[round % 2]);
        memcpy(bytes, contents[round % 2], size);
        for (uint64_t flip = 0; flip <= round % 4; flip++)
            bytes[rng_below(stream, 2 * flip, size)] = (char)rng_below(stream, 2 * flip + 1, 256);
        if (round % 3 == 0)
            size = rng_below(stream, 99, size);
        Text out = {0};
        const char *path = write_file("damaged.json", bytes, size);
        if (status_failed(read_all(path, &out))) {
            failures++;
            assert_contains(status_message(), "damaged.json");
        }
        text_free(&out);
    }
    assert_true(failures > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines_and_arrays),
                                       cmocka_unit_test(test_errors_name_the_line),
                                       cmocka_unit_test(test_after_an_error_the_reader_stays_failed),
                                       cmocka_unit_test(test_getters), cmocka_unit_test(test_damaged_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
