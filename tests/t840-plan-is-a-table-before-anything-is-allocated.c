//TEST timeout=60
/* t840 -- `tercet plan`: a table of every stage of the experiment, for models far larger than the machine too; wrong experiments are one
 * clear line and exit code 2. */
#include "tests/support/support.h"

#include <string.h>

static const char *write_experiment(void)
{
    Text text = {0};
    for (int i = 0; i < 16; i++)
        text_printf(&text, "{\"text\": \"once upon a time there was number %d\"}\n", i);
    assert_ok(text_write_file(support_path("texts.jsonl"), text.bytes, text.size));
    assert_ok(text_write_file(support_path("words.txt"), text.bytes, text.size));
    text_clear(&text);
    text_printf(&text,
                "output: %s\nranks: 4\nlanes: 8\nthreads: 1\n"
                "model: {layers: 80, width: 8192, heads: 64, kv_heads: 8, ffn: 28672, positions_max: 256}\n"
                "sft: {tokenizer: %s, batch: 8, max_length: 64, data: [{path: %s}], eval_data: [{path: %s}]}\n"
                "ppo: {batch: 8, max_new: 16, prompts: [{path: %s, prompt_tokens: 4}], "
                "rewards: [{kind: length, weight: 1}]}\n",
                support_path("out"), support_path("tokenizer.json"), support_path("texts.jsonl"),
                support_path("texts.jsonl"), support_path("texts.jsonl"));
    const char *path = support_path("experiment.yaml");
    assert_ok(text_write_file(path, text.bytes, text.size));
    text_free(&text);
    return path;
}

static void test_every_stage_has_its_table(void **state)
{
    (void)state;
    const char *experiment = write_experiment();
    SupportRun run = support_run_tercet(0, 50, "tokenizer train --vocab 300 --out %s %s",
                                        support_path("tokenizer.json"), support_path("words.txt"));
    assert_exit(&run, 0);
    support_run_free(&run);
    run = support_run_tercet(0, 50, "plan %s", experiment);
    assert_exit(&run, 0);
    const char *out = text_string(&run.out);
    assert_contains(out, "sft: bytes of one rank");
    assert_contains(out, "ppo: bytes of one rank");
    assert_lacks(out, "rm: bytes");
    assert_contains(out, "step: train");
    assert_contains(out, "step: evaluate");
    assert_contains(out, "step: rollout");
    assert_contains(out, "step: update");
    assert_contains(out, "gradient buffers of a step: 2 = 1 + log2(8 lanes / 4 ranks)");
    assert_contains(out, "4 ranks on one node");
    /* 68e9 parameters: terabytes for PPO's three models and what two of them learn with. */
    assert_contains(out, "TiB");
    assert_contains(out, "which is not enough for all ranks");
    support_run_free(&run);
}

static void test_mistakes_are_one_line(void **state)
{
    (void)state;
    const char *experiment = support_path("experiment.yaml");
    SupportRun run = support_run_tercet(0, 50, "plan");
    assert_exit(&run, 2);
    assert_contains(text_string(&run.err), "plan needs an experiment");
    support_run_free(&run);
    run = support_run_tercet(0, 50, "plan %s ranks=3", experiment);
    assert_exit(&run, 2);
    assert_contains(text_string(&run.err), "3");
    support_run_free(&run);
    run = support_run_tercet(0, 50, "plan %s ppo.policy=nowhere.h5", experiment);
    assert_exit(&run, 4);
    assert_contains(text_string(&run.err), "nowhere.h5");
    assert_int_equal(text_string(&run.out)[0], 0);
    support_run_free(&run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_stage_has_its_table),
        cmocka_unit_test(test_mistakes_are_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
