/* Equal meaning gives equal canonical bytes; a dump reads back as the same values; explain says what rows say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/config/config.h"

typedef struct Root {
    int64_t seed, ranks;
    const char *output;
} Root;
typedef struct Sft {
    double lr;
    const char *model, *prompt;
    ConfigFloatList betas;
    ConfigStringList stop;
    bool pack;
} Sft;
typedef struct Data {
    const char *path;
    double weight;
    int format;
} Data;

static const ConfigKey root_keys[] = {
    CONFIG_KEY_INT(Root, seed, "1", 0, 1e9, "any"),
    CONFIG_KEY_INT(Root, ranks, "auto", 1, 64, "all", .automatic = true, .operational = true),
    CONFIG_KEY_PATH(Root, output, "run", "where", .operational = true),
    {0}};
static const ConfigKey sft_keys[] = {
    CONFIG_KEY_FLOAT(Sft, lr, "1e-4", 0, 1,
                     "larger values make the loss of the smallest model jump in its first steps"),
    CONFIG_KEY_PATH(Sft, model, "${output}/base.h5", "start"),
    CONFIG_KEY_STRING(Sft, prompt, "{instruction}", "format"),
    CONFIG_KEY_FLOAT_LIST(Sft, betas, "[0.9, 0.95]", 0, 1, "usual"),
    CONFIG_KEY_STRING_LIST(Sft, stop, "null", "stop texts"),
    CONFIG_KEY_BOOL(Sft, pack, "true", "faster"),
    CONFIG_KEY_REFUSED("padding", "nothing is padded here"),
    {0}};
static const ConfigKey data_keys[] = {CONFIG_KEY_PATH(Data, path, NULL, "file", .operational = true),
                                      CONFIG_KEY_FLOAT(Data, weight, "1", 0, 1e6, "share"),
                                      CONFIG_KEY_CHOICE(Data, format, "text", "text|chat", "format"),
                                      {0}};
static const ConfigKey rm_keys[] = {CONFIG_KEY_FLOAT(Sft, lr, "1e-5", 0, 1, "small"), {0}};
static const ConfigGroup groups[] = {{.path = "", .keys = root_keys},
                                     {.path = "sft", .keys = sft_keys, .optional = true, .help = "fine-tuning"},
                                     {.path = "sft.data[]", .keys = data_keys},
                                     {.path = "rm", .keys = rm_keys, .optional = true},
                                     {.path = "log.deep", .keys = rm_keys},
                                     {0}};
static ConfigSchema schema;

static Config *open_text(const char *yaml)
{
    Config *config;
    Status status =
        config_open((ConfigSource){.path = "exp.yaml", .text = yaml, .text_size = strlen(yaml)}, &schema, &config);
    if (status_failed(status))
        fail_msg("%s\n%s", status_message(), yaml);
    return config;
}

static char *canonical(const char *yaml, const char *path, bool semantic_only)
{
    Config *config = open_text(yaml);
    Text text = {0};
    config_canonical(config, path, semantic_only, &text);
    config_close(&config);
    char *copy = strdup(text_string(&text));
    text_free(&text);
    return copy;
}

static void expect_canonical(const char *yaml, const char *path, bool semantic_only, const char *wanted)
{
    char *found = canonical(yaml, path, semantic_only);
    assert_string_equal(found, wanted);
    free(found);
}

static void test_canonical(void **state)
{
    (void)state;
    const char *a = "seed: 3\noutput: /x\nsft:\n  lr: 0.0001\n  data:\n  - {path: a, weight: 2}\n";
    const char *b = "# the same, written otherwise\nsft: {data: [{format: text, weight: 2.0, path: b}],\n"
                    "      lr: 1e-4, betas: [0.90, .95], pack: true, stop: []}\noutput: /y\nranks: 2\nseed: +3\n";
    char *text_a = canonical(a, "*", true), *text_b = canonical(b, "*", true);
    assert_string_equal(text_a, text_b);
    free(text_a);
    free(text_b);
    expect_canonical(a, "", true, "seed=3\n");
    expect_canonical(a, "", false, "output=\"/x\"\nranks=auto\nseed=3\n");
    expect_canonical(a, "rm", false, "");
    expect_canonical("rm:\n", "rm", false, "rm.lr=1e-05\n");
    expect_canonical(a, "sft", true,
                     "sft.betas=[0.9, 0.95]\nsft.data[0].format=text\nsft.data[0].weight=2\nsft.lr=0.0001\n"
                     "sft.model=\"${output}/base.h5\"\nsft.pack=true\nsft.prompt=\"{instruction}\"\nsft.stop=[]\n");
    char *other = canonical("seed: 4\nsft: {}\n", "*", true), *one = canonical("seed: 3\nsft: {}\n", "*", true);
    assert_string_not_equal(other, one);
    free(other);
    free(one);
}

static void test_dump_reads_back(void **state)
{
    (void)state;
    const char *yamls[] = {
        "",
        "rm:\n",
        "seed: 3\noutput: /x\nsft:\n  lr: 0.1\n  prompt: \"a: b\\n\\t\\\"q\\\" # \\\\ \\x01\\x7f\\x85\\u2028\\uFEFF ü "
        "日本 😀\"\n"
        "  stop: ['', \"\\n\\n\", ' x ', '- {', 'null', '~', '\"']\n  data:\n    - path: ${config_dir}/a\n    - {path: "
        "'b c'}\n",
    };
    for (size_t i = 0; i < sizeof yamls / sizeof *yamls; i++) {
        Config *first = open_text(yamls[i]);
        Text dump = {0}, again = {0};
        config_dump_yaml(first, &dump);
        Config *second = open_text(text_string(&dump));
        config_dump_yaml(second, &again);
        assert_string_equal(text_string(&dump), text_string(&again));
        assert_int_equal(config_has(first, "rm"), config_has(second, "rm"));
        Sft a = {0}, b = {0};
        config_read(first, "sft", sft_keys, &a);
        config_read(second, "sft", sft_keys, &b);
        assert_true(a.lr == b.lr && a.pack == b.pack && a.stop.count == b.stop.count);
        assert_string_equal(a.prompt, b.prompt);
        for (int k = 0; k < a.stop.count; k++)
            assert_string_equal(a.stop.items[k], b.stop.items[k]);
        text_free(&dump);
        text_free(&again);
        config_close(&first);
        config_close(&second);
    }
    Config *config = open_text("sft: {data: [{path: p}], model: m}\n");
    Text dump = {0};
    config_dump_yaml(config, &dump);
    assert_string_equal(text_string(&dump),
                        "seed: 1\nranks: auto\noutput: \"run\"\nsft:\n  lr: 0.0001\n  model: \"m\"\n"
                        "  prompt: \"{instruction}\"\n  betas: [0.9, 0.95]\n  stop: []\n  pack: true\n  data:\n"
                        "    - path: \"p\"\n      weight: 1\n      format: text\nlog:\n  deep:\n    lr: 1e-05\n");
    text_free(&dump);
    config_close(&config);
}

static void expect_explained(const char *key, StatusCode code, const char *const *parts)
{
    Text text = {0};
    Status status = config_explain(&schema, key, &text);
    assert_int_equal(status.code, code);
    const char *found = code == STATUS_OK ? text_string(&text) : status_message();
    for (; *parts; parts++)
        if (!strstr(found, *parts))
            fail_msg("explain %s: no '%s' in:\n%s", key, *parts, found);
    text_free(&text);
}

static void test_explain(void **state)
{
    (void)state;
    expect_explained(
        "sft.lr", STATUS_OK,
        (const char *[]){"sft.lr\n", "a number from 0 to 1", "default  1e-4", "semantic", "first steps", NULL});
    expect_explained("ranks", STATUS_OK, (const char *[]){"from 1 to 64, or auto", "operational", NULL});
    expect_explained("sft.data[].path", STATUS_OK, (const char *[]){"sft.data[].path", "must be written", NULL});
    expect_explained("sft.data[3].format", STATUS_OK, (const char *[]){"one of text, chat", NULL});
    expect_explained("sft.data.format", STATUS_OK, (const char *[]){"one of text, chat", NULL});
    expect_explained("sft", STATUS_OK, (const char *[]){"fine-tuning", "betas", "sft.data[]", "weight", NULL});
    expect_explained("", STATUS_OK, (const char *[]){"seed", "rm", "log.deep", NULL});
    expect_explained("lr", STATUS_OK, (const char *[]){"sft.lr", "rm.lr", NULL});
    expect_explained("sft.padding", STATUS_OK, (const char *[]){"refused", "nothing is padded", NULL});
    expect_explained("sft.beta", STATUS_USAGE, (const char *[]){"there is no key 'sft.beta'", "sft.betas", NULL});
    expect_explained("wieght", STATUS_USAGE, (const char *[]){"sft.data[].weight", NULL});
    expect_explained("qqqqqqqq", STATUS_USAGE, (const char *[]){"there is no key 'qqqqqqqq'", NULL});
}

int main(void)
{
    config_schema_add(&schema, groups);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_dump_reads_back),
        cmocka_unit_test(test_explain),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    config_schema_free(&schema);
    return failed;
}
