/* The report: first and last of each figure, judges, win rates, seconds; and demands that fail when they are not met. */
#include <string.h>

#include "core/base/memory.h"
#include "eval/report.h"
#include "tests/support/support.h"

static void put(const char *directory, const char *name, const char *text)
{
    char *path = text_join_path(directory, name);
    assert_ok(text_write_file(path, text, strlen(text)));
    memory_free(&path);
}

static void make_run(const char *directory)
{
    static const char *const folders[] = {"sft", "rm", "ppo", "eval"};
    for (int i = 0; i < 4; i++) {
        char *path = text_join_path(directory, folders[i]);
        assert_ok(text_make_directories(path));
        memory_free(&path);
    }
    put(directory, "sft/metrics.jsonl",
        "{\"step\":1,\"phase\":\"train\",\"loss\":5.25,\"lr\":0.1}\n{\"step\":2,\"phase\":\"train\",\"loss\":1.125}\n"
        "{\"step\":2,\"phase\":\"evaluate\",\"held_out_loss\":1.5,\"perplexity\":4.4817}\n");
    put(directory, "rm/metrics.jsonl",
        "{\"step\":1,\"phase\":\"train\",\"loss\":0.7,\"accuracy\":0.1}\n"
        "{\"step\":5,\"phase\":\"evaluate\",\"accuracy\":0.61}\n{\"step\":9,\"phase\":\"evaluate\",\"accuracy\":0.84}"
        "\n");
    Text ppo = {0};
    for (int i = 1; i <= 20; i++)
        text_printf(&ppo,
                    "{\"step\":%d,\"phase\":\"iteration\",\"reward\":%d,\"kl\":%g,\"reward/true\":%g,\"reward/flat\":1,"
                    "\"odd\":null}\n",
                    i, i, 0.5 * i,
                    i <= 2    ? 0.25
                    : i >= 19 ? 0.75
                              : 0.9);
    put(directory, "ppo/metrics.jsonl", text_string(&ppo));
    text_free(&ppo);
    put(directory, "sft/timings.jsonl",
        "{\"step\":1,\"phases\":{\"train\":{\"seconds\":1.5}},\"seconds\":1.5}\n"
        "{\"step\":2,\"phases\":{\"train\":{\"seconds\":2.0},\"save\":{\"seconds\":0.5}},\"seconds\":2.5}\n");
    put(directory, "eval/winrate.json",
        "{\"a\":\"ppo.h5\",\"b\":\"sft.h5\",\"prompts\":100,\"judges\":["
        "{\"name\":\"true\",\"rate\":0.7,\"rate_interval\":[0.61,0.79],\"mean_a\":0.8,\"mean_b\":0.5},"
        "{\"name\":\"lex\",\"rate\":0.55,\"rate_interval\":[0.45,0.65],\"mean_a\":0.5,\"mean_b\":0.4}]}\n");
}

static void test_table(void **state)
{
    (void)state;
    const char *directory = support_path("run");
    make_run(directory);
    Text text = {0};
    assert_ok(report_write(directory, &text));
    static const char *const rows[] = {
        "sft   loss on its training data                5.2500       1.1250\n",
        "sft   loss on held-out data                    1.5000       1.5000\n",
        "rm    accuracy on held-out pairs               0.6100       0.8400\n",
        "ppo   reward                                   1.0000      20.0000\n",
        "ppo   KL to the reference, nats                0.5000      10.0000\n",
        "ppo   judge: true                              0.2500       0.7500\n",
        "ppo.h5 against sft.h5 on 100 held-out prompts\n",
        "  true                      0.700  [0.610, 0.790]         0.8000       0.5000\n",
        "  sft        4.0    train 3.5  save 0.5\n",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_contains(text_string(&text), rows[i]);
    text_free(&text);
}

static void test_demands(void **state)
{
    (void)state;
    const char *directory = support_path("demands");
    make_run(directory);
    assert_ok(report_check(directory, &(ReportNeeds){0}));
    assert_ok(report_check(directory, &(ReportNeeds){.accuracy = 0.84, .rise = "true", .winrate = "true"}));
    assert_fails(report_check(directory, &(ReportNeeds){.accuracy = 0.85}), STATUS_NUMERIC, "0.8400");
    assert_fails(report_check(directory, &(ReportNeeds){.rise = "flat"}), STATUS_NUMERIC, "did not rise");
    assert_fails(report_check(directory, &(ReportNeeds){.rise = "false"}), STATUS_INPUT, "no judge called false");
    assert_fails(report_check(directory, &(ReportNeeds){.winrate = "lex"}), STATUS_NUMERIC, "not above 0.5");
    assert_fails(report_check(directory, &(ReportNeeds){.winrate = "learned"}), STATUS_INPUT, "learned");
}

static void test_damage(void **state)
{
    (void)state;
    const char *directory = support_path("damage");
    Text text = {0};
    assert_fails(report_write(directory, &text), STATUS_INPUT, "no metrics");
    make_run(directory);
    put(directory, "rm/metrics.jsonl", "{\"step\":1,\"phase\":\"train\",\"loss\":0.7}\n{\"step\":2,\"pha");
    assert_fails(report_write(directory, &text), STATUS_INPUT, "rm/metrics.jsonl:2");
    make_run(directory);
    put(directory, "eval/winrate.json", "{\"a\":\"x\",\"b\":\"y\",\"prompts\":1,\"judges\":[{\"name\":\"true\"}]}");
    assert_fails(report_write(directory, &text), STATUS_INPUT, "winrate.json");
    text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_demands),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
