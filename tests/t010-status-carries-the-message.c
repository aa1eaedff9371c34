/* t010 -- a failure keeps its message on the way up, and only failures do; programmer's errors abort and say where. */
#include "tests/support/support.h"

#include <string.h>

#include "core/base/status.h"

static Status open_shard(int shard)
{
    if (shard == 2)
        return status_error(STATUS_INPUT, "shard %d: expected 4 bytes, found 3", shard);
    return status_ok();
}

static Status open_all(int count, int *opened)
{
    for (int i = 0; i < count; i++) {
        TRY(open_shard(i));
        *opened = i + 1;
    }
    return status_ok();
}

static Status open_with_cleanup(int count, bool *cleaned)
{
    Status status = status_ok();
    for (int i = 0; i < count; i++)
        TRY_GOTO(open_shard(i), done);
done:
    *cleaned = true;
    return status;
}

static void test_try(void **state)
{
    (void)state;
    int opened = 0;
    assert_ok(open_all(2, &opened));
    assert_int_equal(opened, 2);
    assert_fails(open_all(9, &opened), STATUS_INPUT, "shard 2: expected 4 bytes, found 3");
    assert_int_equal(opened, 2);
    bool cleaned = false;
    assert_fails(open_with_cleanup(9, &cleaned), STATUS_INPUT, "shard 2");
    assert_true(cleaned);
}

static void test_prefix(void **state)
{
    (void)state;
    Status status = status_prefix(open_shard(2), "model %s", "a.bin");
    assert_int_equal(status.code, STATUS_INPUT);
    assert_string_equal(status_message(), "model a.bin: shard 2: expected 4 bytes, found 3");
    status = status_prefix(status, "configs/x.yaml:12");
    assert_string_equal(status_message(), "configs/x.yaml:12: model a.bin: shard 2: expected 4 bytes, found 3");
    Status fine = status_prefix(status_ok(), "never seen");
    assert_int_equal(fine.code, STATUS_OK);
    assert_null(strstr(status_message(), "never seen"));
}

static void test_message_may_quote_itself(void **state)
{
    (void)state;
    (void)open_shard(2);
    Status status = status_error(STATUS_IO, "again: %s", status_message());
    assert_int_equal(status.code, STATUS_IO);
    assert_string_equal(status_message(), "again: shard 2: expected 4 bytes, found 3");
}

static void test_long_messages_are_cut(void **state)
{
    (void)state;
    char filler[6000];
    memset(filler, 'x', sizeof filler);
    filler[sizeof filler - 1] = 0;
    Status status = status_error(STATUS_IO, "head %s", filler);
    for (int i = 0; i < 3; i++)
        status = status_prefix(status, "prefix %s", i == 2 ? filler : "short");
    assert_true(status_failed(status));
    assert_true(strlen(status_message()) < 4096);
    assert_true(strlen(status_message()) > 4000);
    assert_true(text_starts_with(status_message(), "prefix xxx"));
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(status_name(STATUS_INPUT), "input");
    assert_string_equal(status_name(STATUS_STOPPED), "stopped");
    assert_string_equal(status_name((StatusCode)99), "unknown");
}

static void require_fails(void *argument)
{
    int found = *(int *)argument;
    status_set_rank(3);
    REQUIRE(found == 7, "found %d", found);
}

static void test_require_aborts_with_rank_and_values(void **state)
{
    (void)state;
    int found = 8;
    assert_true(support_aborts(require_fails, &found, "rank 3: "));
    assert_true(support_aborts(require_fails, &found, "REQUIRE(found == 7) failed: found 8"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_try),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_message_may_quote_itself),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_require_aborts_with_rank_and_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
