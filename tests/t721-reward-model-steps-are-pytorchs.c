//TEST timeout=300 devices=cuda
/* t721 -- two steps of the reward model equal PyTorch's in float64 (tests/golden/make_stages.py): all pairs of K ranked answers with ties
 * and margins, and Plackett-Luce; losses, accuracy, margins, gradient norms, parameters, and the rewards' moments that are stored. */
#include "tests/support/stage_golden.h"

#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"

static void steps_are_pytorchs(const char *variant, const char *loss, const char *after, int groups, int unit_tokens)
{
    StageGolden golden;
    char path[96];
    stage_golden_open(&golden, variant);
    stage_golden_set(&golden, "rm.model=%s", stage_golden_path("critic"));
    stage_golden_set(&golden, "rm.tokenizer=%s", stage_golden_path("policy"));
    stage_golden_set(&golden, "rm.template=plain");
    stage_golden_set(&golden, "rm.loss=%s", loss);
    stage_golden_set(&golden, "rm.batch=%d", groups);
    stage_golden_set(&golden, "rm.epochs=2");
    stage_golden_set(&golden, "rm.max_length=48");
    stage_golden_set(&golden, "rm.unit_tokens=%d", unit_tokens);
    if (strcmp(loss, "pairs") == 0) {
        stage_golden_set(&golden, "rm.data=[{path: %s}, {path: %s}]", stage_golden_path("ranked.jsonl"),
                         stage_golden_path("pairs.jsonl"));
        stage_golden_set(&golden, "rm.margin_scale=%.17g",
                         stage_golden_number(&golden, "rm_pairs.settings.margin_scale", -1));
    } else {
        stage_golden_set(&golden, "rm.data=[{path: %s}]", stage_golden_path("order.jsonl"));
    }
    snprintf(path, sizeof path, "%s.settings", variant);
    stage_golden_set_optimizer(&golden, "rm.optimizer", path);
    assert_ok(stage_golden_run(&golden, rm_run));
    static const char *const names[] = {"loss", "accuracy", "margin", "grad_norm"};
    for (int step = 0; step < 2; step++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            snprintf(path, sizeof path, "%s.%s", variant, names[i]);
            double found = stage_golden_metric(&golden, "rm", step + 1, "train", names[i]);
            double wanted = stage_golden_number(&golden, path, step);
            if (!support_is_close(found, wanted, 1e-4, 1e-6))
                print_error("%s, step %d: %g, expected %g\n", path, step + 1, found, wanted);
            assert_close(found, wanted, 1e-4, 1e-6);
        }
    snprintf(path, sizeof path, "%s.pairs", variant);
    assert_true(stage_golden_metric(&golden, "rm", 1, "train", "pairs") == stage_golden_number(&golden, path, -1));
    /* The bias of the head and GPT-2's key biases have gradients of zero: no reward difference, no softmax sees them. */
    stage_golden_compare(&golden, "rm/final.h5", "", HEAD_SCALAR, "critic", after, 1e-4, 1e-3, 1e-5);

    static const char *const moments[] = {"reward_mean", "reward_deviation"};
    H5File *file = NULL;
    char *final = text_join_path(golden.output, "rm/final.h5");
    assert_ok(h5_open(final, "tercet-checkpoint", &file));
    for (int i = 0; i < 2; i++) {
        double found = 0;
        snprintf(path, sizeof path, "%s.%s", variant, moments[i]);
        assert_ok(h5_read_real(file, "/state", moments[i], &found));
        assert_close(found, stage_golden_number(&golden, path, -1), 1e-4, 0.0);
    }
    h5_close(&file);
    memory_free(&final);
    stage_golden_close(&golden);
}

static void test_pairs(void **state)
{
    (void)state;
    steps_are_pytorchs("rm_pairs", "pairs", "after-rm-pairs", 4, 4096);
}

static void test_order(void **state)
{
    (void)state;
    steps_are_pytorchs("rm_order", "plackett_luce", "after-rm-order", 2, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
