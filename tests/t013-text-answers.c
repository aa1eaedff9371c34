/* t013 -- byte strings grow, near names are found, UTF-8 is judged as the Unicode standard does, figures read well. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"

static void test_growing(void **state)
{
    (void)state;
    Text text = {0};
    assert_string_equal(text_string(&text), "");
    text_append(&text, "a\0b", 3);
    assert_int_equal(text.size, 3);
    assert_memory_equal(text.bytes, "a\0b", 4);
    text_clear(&text);
    assert_string_equal(text_string(&text), "");
    for (int i = 0; i < 1000; i++)
        text_printf(&text, "%d,", i);
    assert_int_equal(text.size, 10 * 2 + 90 * 3 + 900 * 4);
    assert_true(text_starts_with(text.bytes, "0,1,2,"));
    assert_true(text_ends_with(text.bytes, ",998,999,"));
    text_append_string(&text, "");
    assert_int_equal(text.bytes[text.size], 0);
    text_free(&text);
    assert_null(text.bytes);
    text_append(&text, NULL, 0);
    assert_string_equal(text_string(&text), "");
    text_free(&text);
}

static void test_prefixes(void **state)
{
    (void)state;
    assert_true(text_starts_with("model.h5", "model"));
    assert_true(text_starts_with("model", ""));
    assert_false(text_starts_with("mod", "model"));
    assert_true(text_ends_with("model.h5", ".h5"));
    assert_false(text_ends_with("h5", ".h5"));
    assert_true(text_ends_with("", ""));
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const keys[] = {"temperature", "top_k", "top_p", "seed", "learning_rate", "lr"};
    const size_t count = sizeof keys / sizeof *keys;
    assert_string_equal(text_nearest("temprature", keys, count), "temperature");
    assert_string_equal(text_nearest("learning-rate", keys, count), "learning_rate");
    assert_string_equal(text_nearest("seeed", keys, count), "seed");
    assert_string_equal(text_nearest("top_q", keys, count), "top_k"); /* the first of equals */
    assert_string_equal(text_nearest("tok_p", keys, count), "top_p");
    assert_string_equal(text_nearest("top_p", keys, count), "top_p");
    assert_null(text_nearest("colour", keys, count));
    assert_null(text_nearest("zz", keys, count));
    assert_null(text_nearest("seed", keys, 0));
    assert_null(text_nearest("", keys, count));
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size, expected;
    } cases[] = {
        {"a", 1, 1},
        {"\0", 1, 1},
        {"\x7f", 1, 1},
        {"", 0, 0},
        {"\xc3\xa9", 2, 2},
        {"\xc2\x80", 2, 2},
        {"\xdf\xbf", 2, 2},
        {"\xe2\x82\xac", 3, 3},
        {"\xe0\xa0\x80", 3, 3},
        {"\xef\xbf\xbf", 3, 3},
        {"\xf0\x9f\x98\x80", 4, 4},
        {"\xf0\x90\x80\x80", 4, 4},
        {"\xf4\x8f\xbf\xbf", 4, 4},
        {"\xed\x9f\xbf", 3, 3},
        {"\xee\x80\x80", 3, 3},
        /* cut off */
        {"\xc3", 1, 0},
        {"\xe2\x82", 2, 0},
        {"\xf0\x9f\x98", 3, 0},
        {"\xf0\x9f\x98\x80", 3, 0},
        /* a continuation at the start, none where one must be */
        {"\x80", 1, 0},
        {"\xbf\xbf", 2, 0},
        {"\xc3\x28", 2, 0},
        {"\xe2\x28\xa1", 3, 0},
        {"\xe2\x82\x28", 3, 0},
        {"\xf0\x28\x8c\xbc", 4, 0},
        {"\xf0\x90\x28\xbc", 4, 0},
        {"\xf0\x90\x8c\x28", 4, 0},
        /* overlong */
        {"\xc0\x80", 2, 0},
        {"\xc1\xbf", 2, 0},
        {"\xe0\x80\xaf", 3, 0},
        {"\xe0\x9f\xbf", 3, 0},
        {"\xf0\x80\x80\xaf", 4, 0},
        {"\xf0\x8f\xbf\xbf", 4, 0},
        /* surrogates, above U+10FFFF, bytes that never occur */
        {"\xed\xa0\x80", 3, 0},
        {"\xed\xbf\xbf", 3, 0},
        {"\xf4\x90\x80\x80", 4, 0},
        {"\xf5\x80\x80\x80", 4, 0},
        {"\xf8\x88\x80\x80\x80", 5, 0},
        {"\xfe", 1, 0},
        {"\xff", 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t found = text_utf8_length(cases[i].bytes, cases[i].size);
        if (found != cases[i].expected)
            print_error("case %zu\n", i);
        assert_int_equal(found, cases[i].expected);
    }
}

/* Every code point, encoded by the definition, is accepted with its length; the surrogates are not. */
static void test_utf8_all_code_points(void **state)
{
    (void)state;
    for (uint32_t point = 0; point <= 0x10ffff; point++) {
        unsigned char bytes[4];
        size_t length = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
        static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
        uint32_t rest = point;
        for (size_t i = length - 1; i > 0; i--, rest >>= 6)
            bytes[i] = (unsigned char)(0x80 | (rest & 0x3f));
        bytes[0] = (unsigned char)(lead[length] | rest);
        bool surrogate = point >= 0xd800 && point <= 0xdfff;
        if (text_utf8_length((const char *)bytes, length) != (surrogate ? 0 : length))
            fail_msg("U+%04X", (unsigned)point);
    }
}

static void test_figures(void **state)
{
    (void)state;
    assert_string_equal(text_bytes(0), "0 B");
    assert_string_equal(text_bytes(1023), "1023 B");
    assert_string_equal(text_bytes(1024), "1.0 KiB");
    assert_string_equal(text_bytes(1.5 * 1024 * 1024 * 1024), "1.5 GiB");
    assert_string_equal(text_bytes(1024.0 * 1024.0 - 1.0), "1.0 MiB"); /* not 1024.0 KiB */
    assert_string_equal(text_count(999), "999");
    assert_string_equal(text_count(2.5), "2.5");
    assert_string_equal(text_count(12345), "12.3k");
    assert_string_equal(text_count(999999), "1.0M");
    assert_string_equal(text_count(-12345), "-12.3k");
    assert_string_equal(text_count(7e12), "7.0T");
    assert_string_equal(text_duration(0), "0:00");
    assert_string_equal(text_duration(41.2), "0:41");
    assert_string_equal(text_duration(59.7), "1:00");
    assert_string_equal(text_duration(3723), "1:02:03");
    assert_string_equal(text_duration(360000), "100:00:00");
    assert_string_equal(text_duration(-1), "?");
    assert_string_equal(text_duration(NAN), "?");
    assert_string_equal(text_duration(INFINITY), "?");
    /* Several in one call of printf */
    const char *a = text_bytes(1), *b = text_bytes(2), *c = text_count(3);
    assert_string_equal(a, "1 B");
    assert_string_equal(b, "2 B");
    assert_string_equal(c, "3");
}

static void check_join(const char *directory, const char *name, const char *expected)
{
    char *path = text_join_path(directory, name);
    assert_string_equal(path, expected);
    memory_free(&path);
}

static void test_join(void **state)
{
    (void)state;
    check_join("a", "b", "a/b");
    check_join("a/", "b", "a/b");
    check_join("a//", "//b", "a/b");
    check_join("/", "b", "/b");
    check_join(".", "b/c", "./b/c");
    check_join("", "b", "b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_utf8_all_code_points),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_join),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
