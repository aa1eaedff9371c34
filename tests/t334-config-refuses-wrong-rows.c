/* A row that contradicts itself, or a read that no row allows, is a programmer's error: it aborts and names the row. */
#include "core/config/config.h"
#include "tests/support/support.h"

typedef struct Owner {
    int64_t count;
    int kind;
    const char *name;
} Owner;

static const ConfigKey good_keys[] = {
    CONFIG_KEY_INT(Owner, count, "3", 1, 5, "help"), CONFIG_KEY_CHOICE(Owner, kind, "a", "a|b", "help"), {0}};
static const ConfigKey other_keys[] = {CONFIG_KEY_STRING(Owner, name, "x", "help"), {0}};
static const ConfigKey out_of_range_keys[] = {CONFIG_KEY_INT(Owner, count, "9", 1, 5, "help"), {0}};
static const ConfigKey no_choice_keys[] = {CONFIG_KEY_CHOICE(Owner, kind, "c", "a|b", "help"), {0}};
static const ConfigKey no_help_keys[] = {CONFIG_KEY_STRING(Owner, name, "x", ""), {0}};
static const ConfigKey twice_keys[] = {
    CONFIG_KEY_STRING(Owner, name, "x", "help"), CONFIG_KEY_STRING(Owner, name, "y", "help"), {0}};
static const ConfigKey automatic_keys[] = {CONFIG_KEY_STRING(Owner, name, "x", "help", .automatic = true), {0}};

typedef struct Case {
    ConfigGroup groups[3];
    const char *part;
} Case;

static const Case cases[] = {
    {{{.path = "a", .keys = out_of_range_keys}}, "row a.count: default: expected a whole number from 1 to 5"},
    {{{.path = "a", .keys = no_choice_keys}}, "row a.kind: default: expected one of a, b"},
    {{{.path = "a", .keys = no_help_keys}}, "row a.name has no help"},
    {{{.path = "a", .keys = twice_keys}}, "row a.name is there twice"},
    {{{.path = "a", .keys = automatic_keys}}, "row a.name: auto is for INT and FLOAT"},
    {{{.path = "a", .keys = good_keys}, {.path = "a", .keys = good_keys}}, "row a.count is there twice"},
    {{{.path = "a", .keys = good_keys, .when = "kind"}}, "when needs key=value"},
};

static void add_groups(void *argument)
{
    ConfigSchema schema = {0};
    config_schema_add(&schema, argument);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!support_aborts(add_groups, (void *)cases[i].groups, cases[i].part))
            fail_msg("no abort with '%s'", cases[i].part);
}

static Config *config;

static void read_without_group(void *argument)
{
    (void)argument;
    Owner owner;
    config_read(config, "b", good_keys, &owner);
}

static void read_other_kind(void *argument)
{
    (void)argument;
    Owner owner;
    config_read(config, "a", other_keys, &owner);
}

static void test_reads(void **state)
{
    (void)state;
    static const ConfigGroup groups[] = {
        {.path = "a", .keys = good_keys}, {.path = "a", .keys = other_keys, .when = "kind=b"}, {0}};
    ConfigSchema schema = {0};
    config_schema_add(&schema, groups);
    assert_ok(config_open((ConfigSource){0}, &schema, &config));
    assert_true(support_aborts(read_without_group, NULL, "no group with these rows is in force at 'b'"));
    assert_true(support_aborts(read_other_kind, NULL, "no group with these rows is in force at 'a'"));
    config_close(&config);
    const char *overrides[] = {"a.kind=b", "a.name=y"};
    Owner owner = {0};
    assert_ok(config_open((ConfigSource){.overrides = overrides, .overrides_count = 2}, &schema, &config));
    config_read(config, "a", other_keys, &owner);
    assert_string_equal(owner.name, "y");
    config_close(&config);
    config_schema_free(&schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
