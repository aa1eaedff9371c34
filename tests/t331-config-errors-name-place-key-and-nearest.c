/* A wrong experiment gives one line: where, which key, what was expected, what was found, and the nearest name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/config/config.h"

typedef struct Root {
    int64_t seed;
    const char *output, *loop;
} Root;
typedef struct Ppo {
    double kl_coef;
    int64_t steps;
    bool whiten;
    int schedule;
    const char *model;
    ConfigIntList list;
} Ppo;
typedef struct Reward {
    int kind;
    int64_t target;
} Reward;

static const ConfigKey root_keys[] = {CONFIG_KEY_INT(Root, seed, "1", 0, 1e9, "any"),
                                      CONFIG_KEY_PATH(Root, output, "run", "where", .operational = true),
                                      CONFIG_KEY_PATH(Root, loop, "null", "where", .operational = true),
                                      {0}};
static const ConfigKey ppo_keys[] = {CONFIG_KEY_FLOAT(Ppo, kl_coef, "0.05", 0, 10, "k"),
                                     CONFIG_KEY_INT(Ppo, steps, "10", 1, 100, "n"),
                                     CONFIG_KEY_BOOL(Ppo, whiten, "true", "helps"),
                                     CONFIG_KEY_CHOICE(Ppo, schedule, "cosine", "constant|linear|cosine", "usual"),
                                     CONFIG_KEY_PATH(Ppo, model, NULL, "the actor to start from"),
                                     CONFIG_KEY_INT_LIST(Ppo, list, "[]", 1, 5, "some"),
                                     CONFIG_KEY_REFUSED("top_k", "PPO samples by temperature alone"),
                                     {0}};
static const ConfigKey reward_keys[] = {CONFIG_KEY_CHOICE(Reward, kind, NULL, "model|length", "judge"), {0}};
static const ConfigKey length_keys[] = {CONFIG_KEY_INT(Reward, target, "32", 1, 4096, "tokens"), {0}};
static const ConfigGroup groups[] = {{.path = "", .keys = root_keys},
                                     {.path = "ppo", .keys = ppo_keys, .optional = true},
                                     {.path = "ppo.rewards[]", .keys = reward_keys},
                                     {.path = "ppo.rewards[]", .keys = length_keys, .when = "kind=length"},
                                     {0}};
static ConfigSchema schema;

typedef struct Case {
    const char *yaml, *override;
    const char *parts[4]; /* all must be in the message */
} Case;

static const Case cases[] = {
    {"ppo:\n  model: m\n  kl_coeff: 1\n", NULL, {"exp.yaml:3:3: ppo.kl_coeff", "unknown key", "kl_coef?"}},
    {"pp: {}\n", NULL, {"exp.yaml:1:1: pp", "did you mean ppo?"}},
    {"kl_coef: 1\n", NULL, {"exp.yaml:1:1", "there is ppo.kl_coef"}},
    {"ppo.kl_coef: 1\n", NULL, {"exp.yaml:1:1", "write kl_coef: inside ppo:"}},
    {"seed: abc\n", NULL, {"exp.yaml:1:7: seed", "a whole number from 0 to 1000000000", "found \"abc\""}},
    {"seed: 1e6\n", NULL, {"write it out, as in 1000000"}},
    {"seed: 010\n", NULL, {"without a leading zero"}},
    {"seed: '5'\n", NULL, {"found the text \"5\""}},
    {"seed: 99999999999999999999\n", NULL, {"seed", "from 0 to 1000000000"}},
    {"seed: -1\n", NULL, {"from 0 to", "\"-1\""}},
    {"seed: null\n", NULL, {"found nothing (null)", "leave the key out"}},
    {"seed: [1]\n", NULL, {"found a list of 1"}},
    {"seed: {a: 1}\n", NULL, {"found a section"}},
    {"ppo: {model: m, kl_coef: .nan}\n", NULL, {"ppo.kl_coef", "a number from 0 to 10"}},
    {"ppo: {model: m, kl_coef: 1e999}\n", NULL, {"ppo.kl_coef", "a number from 0 to 10"}},
    {"ppo: {model: m, kl_coef: 0x10}\n", NULL, {"ppo.kl_coef", "a number from 0 to 10"}},
    {"ppo: {model: m, whiten: yes}\n", NULL, {"exp.yaml:1:25: ppo.whiten", "true or false", "\"yes\""}},
    {"ppo: {model: m, schedule: cosin}\n", NULL, {"one of constant, linear, cosine", "did you mean cosine?"}},
    {"ppo: {model: m, list: [1, 9]}\n", NULL, {"item 2", "each from 1 to 5", "\"9\""}},
    {"ppo: {model: m, top_k: 50}\n", NULL, {"exp.yaml:1:17: ppo.top_k: PPO samples by temperature alone"}},
    {"ppo:\n  steps: 3\n", NULL, {"exp.yaml:1:1: ppo.model", "must be written", "the actor to start from"}},
    {"ppo: {modell: m}\n", NULL, {"ppo.modell", "did you mean model?"}},
    {"ppo: 3\n", NULL, {"exp.yaml:1:6: ppo", "expected a section", "\"3\""}},
    {"ppo: {model: m, rewards: {kind: model}}\n", NULL, {"ppo.rewards", "a list of sections"}},
    {"ppo: {model: m, rewards: [model]}\n", NULL, {"ppo.rewards[0]", "expected a section"}},
    {"ppo: {model: m, rewards: [{kind: model}, {}]}\n", NULL, {"ppo.rewards[1].kind", "must be written"}},
    {"ppo: {model: m, rewards: [{kind: model, target: 3}]}\n",
     NULL,
     {"ppo.rewards[0].target", "only where kind=length"}},
    {"ppo: {model: '${nope}/x'}\n", NULL, {"exp.yaml:1:14: ppo.model: unknown variable ${nope}", "${config_dir}"}},
    {"ppo: {model: '${UNSET}/x'}\n", NULL, {"${UNSET} is used, but it is not set"}},
    {"ppo: {model: '${out'}\n", NULL, {"without '}'"}},
    {"ppo: {model: '${loop}'}\n", NULL, {"${loop} is used, but the key loop is not written"}},
    {"loop: '${loop}/a'\n", NULL, {"circle"}},
    {"ppo: {model: ''}\n", NULL, {"empty path"}},
    {"seed: 1\nppo: {model: m}\nseed: 2\n", NULL, {"exp.yaml:3:1: key 'seed' is here twice", "line 1"}},
    {"a: &x 1\nb: *x\n", NULL, {"exp.yaml:1:4", "anchors"}},
    {"seed: *x\n", NULL, {"exp.yaml:1:7", "aliases"}},
    {"seed: !!int 3\n", NULL, {"tags"}},
    {"seed: 1\n---\nseed: 2\n", NULL, {"second document"}},
    {"- 1\n- 2\n", NULL, {"exp.yaml:1:1: expected sections and keys", "a list of 2"}},
    {"hello\n", NULL, {"expected sections and keys", "\"hello\""}},
    {"ppo:\n\tmodel: m\n", NULL, {"exp.yaml:2:", "indented by a tab"}},
    {"seed: [1, 2\n", NULL, {"exp.yaml:2:1", "line 1"}},
    {"seed: \"a\\0b\"\n", NULL, {"zero byte"}},
    {"? [a, b]\n: 1\n", NULL, {"a key must be a plain name"}},
    {"seed: [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]\n", NULL, {"nested too deeply"}},
    {"seed: \xff\xfe\n", NULL, {"exp.yaml: byte 6"}},
    {"", "seed", {"argument 'seed': expected key=value"}},
    {"", "=3", {"expected key=value"}},
    {"", "sed=3", {"argument sed=3: sed: unknown key; did you mean seed?"}},
    {"", "seed=x", {"argument seed=x: seed: expected a whole number", "\"x\""}},
    {"", "seed.x=1", {"argument seed.x=1", "expected a whole number"}},
    {"seed: 4", "seed.x=1", {"argument seed.x=1: there is no section"}},
    {"", "ppo.rewards[0].kind=model", {"there is no item rewards[0]; the list has 0"}},
    {"ppo: {model: m, rewards: [{kind: model}]}", "ppo.rewards[1].kind=model", {"no item rewards[1]", "has 1"}},
    {"ppo: {model: m, rewards: [{kind: model}]}", "ppo.rewards[x].kind=model", {"expected rewards[0].key=value"}},
    {"", "ppo.list=[1, 2", {"argument ppo.list=[1, 2:"}},
    {"", "ppo.model=\xff", {"not UTF-8"}},
    {"", "..=1", {"argument ..=1"}},
    {"", "a[=1", {"argument a[=1"}},
};

static Status open_case(const char *yaml, size_t size, const char *override, Config **config)
{
    const ConfigVariable variables[] = {{"UNSET", NULL}};
    return config_open((ConfigSource){.path = "exp.yaml",
                                      .text = yaml,
                                      .text_size = size,
                                      .overrides = &override,
                                      .overrides_count = override ? 1 : 0,
                                      .variables = variables,
                                      .variables_count = 1},
                       &schema, config);
}

static void test_messages(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config *config;
        Status status = open_case(cases[i].yaml, strlen(cases[i].yaml), cases[i].override, &config);
        bool ok = status.code == STATUS_USAGE && !config;
        for (int k = 0; k < 4 && cases[i].parts[k] && ok; k++)
            ok = strstr(status_message(), cases[i].parts[k]) != NULL;
        if (strchr(status_message(), '\n'))
            ok = false;
        if (!ok) {
            print_error("case %zu: code %d, message: %s\n", i, status.code, status_message());
            failures++;
        }
        config_close(&config);
    }
    assert_int_equal(failures, 0);
}

static void test_files(void **state)
{
    (void)state;
    Config *config;
    Status status = config_open((ConfigSource){.path = "/nonexistent/exp.yaml"}, &schema, &config);
    assert_int_equal(status.code, STATUS_IO);
    assert_non_null(strstr(status_message(), "/nonexistent/exp.yaml"));
    status = config_open((ConfigSource){.path = "/"}, &schema, &config);
    assert_true(status_failed(status));

    const size_t size = (1 << 20) + 1;
    char *huge = malloc(size);
    memset(huge, ' ', size);
    status = open_case(huge, size, NULL, &config);
    assert_int_equal(status.code, STATUS_USAGE);
    assert_non_null(strstr(status_message(), "at most"));
    for (size_t i = 0; i + 3 < size; i += 3)
        memcpy(huge + i, "[, ", 3);
    status = open_case(huge, 1 << 20, NULL, &config);
    assert_int_equal(status.code, STATUS_USAGE);
    memcpy(huge, "seed: [", 7);
    for (size_t i = 7; i + 3 < size; i += 3)
        memcpy(huge + i, "1, ", 3);
    status = open_case(huge, 1 << 20, NULL, &config);
    assert_int_equal(status.code, STATUS_USAGE);
    assert_non_null(strstr(status_message(), "too many values"));
    free(huge);
}

static void test_own_checks_have_a_place(void **state)
{
    (void)state;
    Config *config;
    const char *yaml = "ppo:\n  model: m\n  steps: 3\n";
    Status status = open_case(yaml, strlen(yaml), NULL, &config);
    assert_false(status_failed(status));
    status = config_error(config, "ppo.steps", "must be below %d", 3);
    assert_int_equal(status.code, STATUS_USAGE);
    assert_string_equal(status_message(), "exp.yaml:3:10: ppo.steps: must be below 3");
    status = config_error(config, "seed", "no");
    assert_string_equal(status_message(), "exp.yaml: seed: no");
    (void)status;
    config_close(&config);
}

int main(void)
{
    config_schema_add(&schema, groups);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_own_checks_have_a_place),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    config_schema_free(&schema);
    return failed;
}
