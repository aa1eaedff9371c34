//TEST timeout=300 devices=cuda
/* t720 -- three steps of supervised fine-tuning equal PyTorch's in float64 (tests/golden/make_stages.py): losses, gradient norms, rates and parameters. */
#include "tests/support/stage_golden.h"

/* unit_tokens: how the batch is cut into units, which must not matter. */
static void steps_are_pytorchs(const char *output, int unit_tokens, int lanes)
{
    StageGolden golden;
    stage_golden_open(&golden, output);
    stage_golden_set(&golden, "lanes=%d", lanes);
    stage_golden_set(&golden, "sft.model=%s", stage_golden_path("policy"));
    stage_golden_set(&golden, "sft.data=[{path: %s}]", stage_golden_path("sft.jsonl"));
    stage_golden_set(&golden, "sft.eval_data=[{path: %s}]", stage_golden_path("sft.jsonl"));
    stage_golden_set(&golden, "sft.template=plain");
    stage_golden_set(&golden, "sft.batch=6");
    stage_golden_set(&golden, "sft.epochs=3");
    stage_golden_set(&golden, "sft.eval_every=1");
    stage_golden_set(&golden, "sft.max_length=48");
    stage_golden_set(&golden, "sft.unit_tokens=%d", unit_tokens);
    stage_golden_set_optimizer(&golden, "sft.optimizer", "sft.settings");
    assert_ok(stage_golden_run(&golden, sft_run));
    for (int step = 0; step < 3; step++) {
        double loss = stage_golden_number(&golden, "sft.loss", step);
        assert_close(stage_golden_metric(&golden, "sft", step + 1, "train", "loss"), loss, 1e-5, 0.0);
        assert_close(stage_golden_metric(&golden, "sft", step, "evaluate", "held_out_loss"), loss, 1e-5, 0.0);
        assert_close(stage_golden_metric(&golden, "sft", step + 1, "train", "grad_norm"),
                     stage_golden_number(&golden, "sft.grad_norm", step), 1e-4, 0.0);
        assert_true(stage_golden_metric(&golden, "sft", step + 1, "train", "targets") ==
                    stage_golden_number(&golden, "sft.targets", -1));
    }
    stage_golden_compare(&golden, "sft/final.h5", "", HEAD_LM, "policy", "after-sft", 1e-4, 1e-3, 1e-7);
    stage_golden_close(&golden);
}

static void test_one_unit(void **state)
{
    (void)state;
    steps_are_pytorchs("whole", 4096, 1);
}

static void test_many_units(void **state)
{
    (void)state;
    steps_are_pytorchs("cut", 16, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_unit), cmocka_unit_test(test_many_units)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
