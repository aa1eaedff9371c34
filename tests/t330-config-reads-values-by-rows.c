/* Rows are read as they say: types, defaults, lists, auto, null, variables, overrides, groups with a condition. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/config/config.h"

typedef struct Root {
    int64_t seed, threads;
    const char *output;
    const char *cache;
} Root;
typedef enum Schedule { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE } Schedule;
typedef struct Ppo {
    double lr, kl;
    bool whiten;
    Schedule schedule;
    const char *model, *note;
    ConfigIntList steps;
    ConfigFloatList betas;
    ConfigStringList stop, files;
} Ppo;
typedef struct Reward {
    int kind;
    double weight;
} Reward;
typedef struct Length {
    int64_t target;
} Length;

static const ConfigKey root_keys[] = {
    CONFIG_KEY_INT(Root, seed, "1", 0, 1e9, "any"),
    CONFIG_KEY_INT(Root, threads, "auto", 1, 64, "all cores", .automatic = true, .operational = true),
    CONFIG_KEY_PATH(Root, output, "runs/demo", "where", .operational = true),
    CONFIG_KEY_PATH(Root, cache, "${output}/cache", "where", .operational = true),
    {0}};
static const ConfigKey ppo_keys[] = {CONFIG_KEY_FLOAT(Ppo, lr, "1e-5", 0, 1, "small"),
                                     CONFIG_KEY_FLOAT(Ppo, kl, "0.05", 0, 10, "k", .automatic = true),
                                     CONFIG_KEY_BOOL(Ppo, whiten, "true", "helps"),
                                     CONFIG_KEY_CHOICE(Ppo, schedule, "cosine", "constant|linear|cosine", "usual"),
                                     CONFIG_KEY_PATH(Ppo, model, NULL, "the actor"),
                                     CONFIG_KEY_STRING(Ppo, note, "null", "free text"),
                                     CONFIG_KEY_INT_LIST(Ppo, steps, "[]", 0, 100, "some"),
                                     CONFIG_KEY_FLOAT_LIST(Ppo, betas, "[0.9, 0.95]", 0, 1, "usual"),
                                     CONFIG_KEY_STRING_LIST(Ppo, stop, "null", "stop texts"),
                                     CONFIG_KEY_PATH_LIST(Ppo, files, "[]", "files"),
                                     CONFIG_KEY_REFUSED("top_k", "PPO samples by temperature alone"),
                                     {0}};
static const ConfigKey reward_keys[] = {CONFIG_KEY_CHOICE(Reward, kind, NULL, "model|length|match", "what judges"),
                                        CONFIG_KEY_FLOAT(Reward, weight, "1", -100, 100, "share"),
                                        {0}};
static const ConfigKey length_keys[] = {CONFIG_KEY_INT(Length, target, "32", 1, 4096, "tokens"), {0}};
static const ConfigGroup groups[] = {{.path = "", .keys = root_keys},
                                     {.path = "ppo", .keys = ppo_keys, .optional = true, .help = "PPO"},
                                     {.path = "ppo.rewards[]", .keys = reward_keys},
                                     {.path = "ppo.rewards[]", .keys = length_keys, .when = "kind=length"},
                                     {0}};

static ConfigSchema schema;

static Config *open_text(const char *yaml, int overrides_count, const char *const *overrides)
{
    const ConfigVariable variables[] = {{"DATA", "/data"}, {"UNSET", NULL}};
    Config *config;
    Status status = config_open((ConfigSource){.path = "a/b/exp.yaml",
                                               .text = yaml,
                                               .text_size = strlen(yaml),
                                               .overrides = overrides,
                                               .overrides_count = overrides_count,
                                               .variables = variables,
                                               .variables_count = 2},
                                &schema, &config);
    if (status_failed(status))
        fail_msg("%s", status_message());
    return config;
}

static void test_defaults(void **state)
{
    (void)state;
    Config *config = open_text("", 0, NULL);
    Root root;
    Ppo ppo;
    config_read(config, "", root_keys, &root);
    config_read(config, "ppo", ppo_keys, &ppo);
    assert_int_equal(root.seed, 1);
    assert_int_equal(root.threads, CONFIG_AUTO);
    assert_string_equal(root.cache, "runs/demo/cache");
    assert_false(config_has(config, "ppo"));
    assert_int_equal(config_count(config, "ppo.rewards"), 0);
    assert_true(ppo.lr == 1e-5 && ppo.whiten && ppo.schedule == SCHEDULE_COSINE);
    assert_null(ppo.model);
    assert_null(ppo.note);
    assert_int_equal(ppo.stop.count, 0);
    assert_int_equal(ppo.betas.count, 2);
    assert_true(ppo.betas.items[1] == 0.95);
    config_close(&config);
    assert_null(config);
}

static void test_values(void **state)
{
    (void)state;
    Config *config = open_text("output: /tmp/run\n"
                               "seed: 42\n"
                               "ppo:\n"
                               "  model: ${DATA}/m.h5\n"
                               "  lr: 3E-4\n"
                               "  kl: auto\n"
                               "  whiten: false\n"
                               "  schedule: linear\n"
                               "  note: \"null\"\n"
                               "  steps: 7\n"
                               "  betas: [.5, 1.]\n"
                               "  stop: [\"\\n\", no, 12]\n"
                               "  files:\n"
                               "    - ${config_dir}/x.jsonl\n"
                               "    - ${output}/y\n"
                               "  rewards:\n"
                               "    - kind: length\n"
                               "      target: 9\n"
                               "    - {kind: model, weight: -0.5}\n"
                               "    - {kind: length}\n",
                               0, NULL);
    Root root;
    Ppo ppo;
    config_read(config, "", root_keys, &root);
    config_read(config, "ppo", ppo_keys, &ppo);
    assert_int_equal(root.seed, 42);
    assert_string_equal(root.cache, "/tmp/run/cache");
    assert_true(ppo.lr == 3e-4 && ppo.kl == CONFIG_AUTO && !ppo.whiten && ppo.schedule == SCHEDULE_LINEAR);
    assert_string_equal(ppo.model, "/data/m.h5");
    assert_string_equal(ppo.note, "null");
    assert_int_equal(ppo.steps.count, 1);
    assert_int_equal(ppo.steps.items[0], 7);
    assert_true(ppo.betas.items[0] == 0.5 && ppo.betas.items[1] == 1);
    assert_int_equal(ppo.stop.count, 3);
    assert_string_equal(ppo.stop.items[0], "\n");
    assert_string_equal(ppo.stop.items[1], "no");
    assert_string_equal(ppo.stop.items[2], "12");
    assert_string_equal(ppo.files.items[0], "a/b/x.jsonl");
    assert_string_equal(ppo.files.items[1], "/tmp/run/y");
    assert_true(config_has(config, "ppo") && config_has_key(config, "ppo.lr") && !config_has(config, "ppo.rewards[3]"));
    assert_int_equal(config_count(config, "ppo.rewards"), 3);
    Reward reward;
    Length length;
    config_read(config, "ppo.rewards[1]", reward_keys, &reward);
    assert_true(reward.kind == 0 && reward.weight == -0.5);
    config_read(config, "ppo.rewards[0]", length_keys, &length);
    assert_int_equal(length.target, 9);
    config_read(config, "ppo.rewards[2]", length_keys, &length);
    assert_int_equal(length.target, 32);
    config_close(&config);
}

static void test_overrides(void **state)
{
    (void)state;
    const char *overrides[] = {
        "seed=5", "ppo.model=a: b # c",      "ppo.rewards[1].weight=0.25", "ppo.betas=[0.1]", "ppo.note=",
        "seed=6", "ppo.rewards[0]={kind: x}"};
    Config *config = open_text("seed: 3\nppo:\n  model: x\n  rewards: [{kind: model}, {kind: match}]\n", 6, overrides);
    Root root;
    Ppo ppo;
    Reward reward;
    config_read(config, "", root_keys, &root);
    config_read(config, "ppo", ppo_keys, &ppo);
    config_read(config, "ppo.rewards[1]", reward_keys, &reward);
    assert_int_equal(root.seed, 6);
    assert_string_equal(ppo.model, "a: b # c");
    assert_string_equal(ppo.note, "");
    assert_int_equal(ppo.betas.count, 1);
    assert_true(reward.weight == 0.25 && reward.kind == 2);
    config_close(&config);

    const char *whole[] = {"ppo.model=m", "ppo.rewards=[{kind: length, target: 4}]"};
    config = open_text("", 2, whole);
    Length length;
    assert_true(config_has(config, "ppo"));
    config_read(config, "ppo.rewards[0]", length_keys, &length);
    assert_int_equal(length.target, 4);
    config_close(&config);
}

static void test_empty_section_counts_as_written(void **state)
{
    (void)state;
    const char *overrides[] = {"ppo.model=m"};
    Config *config = open_text("ppo:\n", 1, overrides);
    assert_true(config_has(config, "ppo"));
    config_close(&config);
}

int main(void)
{
    config_schema_add(&schema, groups);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_empty_section_counts_as_written),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    config_schema_free(&schema);
    return failed;
}
