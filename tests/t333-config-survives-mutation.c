/* Twenty thousand damaged copies of a real experiment: each is read or refused with one line that names the file, and
 * what is read can be dumped and read again to the same text. Run with sanitizers to see more than crashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/config/config.h"

typedef struct Any {
    int64_t a, b, c;
    double x, y;
    bool yes;
    int choice, kind;
    const char *path, *text;
    ConfigIntList ints;
    ConfigFloatList floats;
    ConfigStringList texts, paths;
} Any;

static const ConfigKey root_keys[] = {CONFIG_KEY_INT(Any, a, "1", 0, 1e9, "h"),
                                      CONFIG_KEY_INT(Any, b, "auto", 1, 64, "h", .automatic = true),
                                      CONFIG_KEY_PATH(Any, path, "run", "h", .operational = true),
                                      {0}};
static const ConfigKey train_keys[] = {CONFIG_KEY_FLOAT(Any, x, "1e-4", 0, 1, "h"),
                                       CONFIG_KEY_FLOAT(Any, y, "0.1", -1, 10, "h", .automatic = true),
                                       CONFIG_KEY_BOOL(Any, yes, "true", "h"),
                                       CONFIG_KEY_CHOICE(Any, choice, "cosine", "constant|linear|cosine", "h"),
                                       CONFIG_KEY_STRING(Any, text, "null", "h"),
                                       CONFIG_KEY_INT_LIST(Any, ints, "[1]", 0, 10, "h"),
                                       CONFIG_KEY_FLOAT_LIST(Any, floats, "[0.9, 0.95]", 0, 1, "h"),
                                       CONFIG_KEY_STRING_LIST(Any, texts, "null", "h"),
                                       CONFIG_KEY_PATH_LIST(Any, paths, "[]", "h"),
                                       {0}};
static const ConfigKey item_keys[] = {
    CONFIG_KEY_CHOICE(Any, kind, "model", "model|length", "h"), CONFIG_KEY_FLOAT(Any, x, "1", -10, 10, "h"), {0}};
static const ConfigKey length_keys[] = {CONFIG_KEY_INT(Any, c, "32", 1, 4096, "h"), {0}};
static const ConfigGroup groups[] = {{.path = "", .keys = root_keys},
                                     {.path = "sft", .keys = train_keys, .optional = true},
                                     {.path = "sft.data[]", .keys = item_keys},
                                     {.path = "ppo", .keys = train_keys, .optional = true},
                                     {.path = "ppo.rewards[]", .keys = item_keys},
                                     {.path = "ppo.rewards[]", .keys = length_keys, .when = "kind=length"},
                                     {0}};
static ConfigSchema schema;

static const char experiment[] = "# An experiment.\n"
                                 "a: 42\n"
                                 "b: auto\n"
                                 "path: runs/demo   # where\n"
                                 "sft:\n"
                                 "  x: 3e-4\n"
                                 "  choice: linear\n"
                                 "  text: \"one \\\"two\\\" \\u00fc\\n\"\n"
                                 "  ints: [1, 2, 3]\n"
                                 "  texts:\n"
                                 "    - 'it''s'\n"
                                 "    - |\n"
                                 "      block text\n"
                                 "      of two lines\n"
                                 "  data:\n"
                                 "    - {kind: model, x: 0.5}\n"
                                 "    - kind: length\n"
                                 "      x: -1\n"
                                 "ppo:\n"
                                 "  y: auto\n"
                                 "  yes: false\n"
                                 "  paths: [\"${path}/a\", \"${config_dir}/b\"]\n"
                                 "  rewards:\n"
                                 "    - kind: length\n"
                                 "      c: 16\n"
                                 "    - kind: model\n";

enum { ROUNDS = 20000, SIZE_MAX_BYTES = 4 * sizeof experiment };

/* 1..4 edits: change, remove, double or insert a piece; pieces that mean something in YAML come often. */
static size_t mutate(char *bytes, size_t size, uint32_t round)
{
    static const char *const pieces[] = {":",    "- ",    "\n",   "\t",   "[",  "]",    "{",    "}",  "\"",
                                         "'",    "&a ",   "*a",   "!x",   "#",  "|",    "---",  ",",  "${",
                                         "null", "1e400", "-",    "\n  ", "? ", "%",    "\\",   "~",  "0",
                                         "auto", "}",     "<<: ", "...",  "@",  "\xc3", "\xff", "a: "};
    const RngStream stream = rng_stream(9, RNG_TEST, 333, round);
    uint64_t at = 0;
    const int edits = round % 2 ? 1 : 1 + (int)rng_below(stream, at++, 4);
    for (int i = 0; i < edits && size > 8; i++) {
        const size_t place = rng_below(stream, at++, size);
        const size_t length = 1 + rng_below(stream, at++, size - place < 24 ? size - place : 24);
        switch (rng_below(stream, at++, 4)) {
        case 0:
            bytes[place] = (char)rng_below(stream, at++, 256);
            break;
        case 1:
            memmove(bytes + place, bytes + place + length, size - place - length);
            size -= length;
            break;
        case 2:
            if (size + length > SIZE_MAX_BYTES)
                break;
            memmove(bytes + place + length, bytes + place, size - place);
            size += length;
            break;
        default: {
            const char *piece = pieces[rng_below(stream, at++, sizeof pieces / sizeof *pieces)];
            const size_t added = strlen(piece);
            if (size + added > SIZE_MAX_BYTES)
                break;
            memmove(bytes + place + added, bytes + place, size - place);
            memcpy(bytes + place, piece, added);
            size += added;
        }
        }
    }
    return size;
}

static void read_everything(const Config *config)
{
    Any any;
    config_read(config, "", root_keys, &any);
    config_read(config, "sft", train_keys, &any);
    config_read(config, "ppo", train_keys, &any);
    for (int i = 0; i < config_count(config, "ppo.rewards"); i++) {
        Text path = {0};
        text_printf(&path, "ppo.rewards[%d]", i);
        config_read(config, text_string(&path), item_keys, &any);
        if (any.kind == 1)
            config_read(config, text_string(&path), length_keys, &any);
        text_free(&path);
    }
}

static void test_mutations(void **state)
{
    (void)state;
    char *bytes = malloc(SIZE_MAX_BYTES);
    int read = 0, refused = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        size_t size = sizeof experiment - 1;
        memcpy(bytes, experiment, size);
        if (round > 0)
            size = mutate(bytes, size, round);
        Config *config;
        char *exact = malloc(size ? size : 1); /* no byte to spare, so that a sanitizer sees a read past the end */
        memcpy(exact, bytes, size);
        Status status =
            config_open((ConfigSource){.path = "exp.yaml", .text = exact, .text_size = size}, &schema, &config);
        free(exact);
        if (status_failed(status)) {
            assert_true(round > 0);
            assert_int_equal(status.code, STATUS_USAGE);
            assert_true(text_starts_with(status_message(), "exp.yaml:"));
            if (strchr(status_message(), '\n'))
                fail_msg("round %u: more than one line: %s", round, status_message());
            assert_null(config);
            refused++;
            continue;
        }
        read++;
        read_everything(config);
        Text first = {0}, second = {0}, canon = {0};
        config_canonical(config, "*", true, &canon);
        config_dump_yaml(config, &first);
        config_close(&config);
        status = config_open((ConfigSource){.path = "again", .text = first.bytes, .text_size = first.size}, &schema,
                             &config);
        if (status_failed(status))
            fail_msg("round %u: a dump is refused: %s\n%s", round, status_message(), text_string(&first));
        config_dump_yaml(config, &second);
        assert_string_equal(text_string(&first), text_string(&second));
        config_close(&config);
        text_free(&first);
        text_free(&second);
        text_free(&canon);
    }
    free(bytes);
    print_message("%d read, %d refused\n", read, refused);
    assert_true(read > ROUNDS / 20 && refused > ROUNDS / 4);
}

static void test_every_truncation(void **state)
{
    (void)state;
    for (size_t size = 0; size < sizeof experiment; size++) {
        Config *config;
        char *exact = malloc(size ? size : 1);
        memcpy(exact, experiment, size);
        Status status =
            config_open((ConfigSource){.path = "exp.yaml", .text = exact, .text_size = size}, &schema, &config);
        assert_true(status.code == STATUS_OK || status.code == STATUS_USAGE);
        config_close(&config);
        free(exact);
    }
}

static void test_overrides(void **state)
{
    (void)state;
    static const char *const seeds[] = {"ppo.rewards[0].c=5", "sft.data=[{kind: model}]", "sft.texts=['a', b]", "a=1"};
    for (uint32_t round = 0; round < 4000; round++) {
        char override[256];
        const char *seed = seeds[round % 4];
        size_t size = mutate(strcpy(override, seed), strlen(seed), round);
        override[size < 255 ? size : 255] = 0;
        const char *list = override;
        Config *config;
        Status status = config_open((ConfigSource){.path = "exp.yaml",
                                                   .text = experiment,
                                                   .text_size = sizeof experiment - 1,
                                                   .overrides = &list,
                                                   .overrides_count = 1},
                                    &schema, &config);
        assert_true(status.code == STATUS_OK || status.code == STATUS_USAGE);
        config_close(&config);
    }
}

int main(void)
{
    config_schema_add(&schema, groups);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mutations),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_overrides),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    config_schema_free(&schema);
    return failed;
}
