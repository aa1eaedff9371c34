//TEST timeout=300 devices=cuda
/* t722 -- a whole PPO iteration from a rollout file that h5py wrote, against PyTorch in float64 (tests/golden/make_stages.py): parameters of actor
 * and critic after every epoch's clipped step, and what is logged of each; the KL controller against values by hand. */
#include "tests/support/stage_golden.h"

#include <stdio.h>

#include "core/h5/h5.h"

static double setting(const StageGolden *golden, const char *variant, const char *name)
{
    char path[96];
    snprintf(path, sizeof path, "%s.settings.%s", variant, name);
    return stage_golden_number(golden, path, -1);
}

/* `variant`: "tf" or "torch". */
static void open_iteration(StageGolden *golden, const char *output, const char *variant, int epochs)
{
    static const char *const numbers[] = {"temperature", "clip_low",          "clip_high",
                                          "value_clip",  "value_coefficient", "entropy_coefficient"};
    char section[32], from[96];
    stage_golden_open(golden, output);
    snprintf(section, sizeof section, "ppo_%s", variant);
    stage_golden_set(golden, "ppo.policy=%s", stage_golden_path("policy"));
    stage_golden_set(golden, "ppo.reference=%s", stage_golden_path("reference"));
    stage_golden_set(golden, "ppo.critic=%s", stage_golden_path("critic"));
    snprintf(from, sizeof from, "rollout-%s.h5", variant);
    stage_golden_set(golden, "ppo.rollout=%s", stage_golden_path(from));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        stage_golden_set(golden, "ppo.%s=%.17g", numbers[i], setting(golden, section, numbers[i]));
    stage_golden_set(golden, "ppo.epochs=%d", epochs);
    /* The schedule's length counts epochs of all iterations, though one alone is run. */
    stage_golden_set(golden, "ppo.iterations=%d", (int)setting(golden, section, "actor.steps") / epochs);
    stage_golden_set(golden, "ppo.unit_tokens=24");
    snprintf(from, sizeof from, "%s.settings.actor", section);
    stage_golden_set_optimizer(golden, "ppo.actor_optimizer", from);
    snprintf(from, sizeof from, "%s.settings.critic", section);
    stage_golden_set_optimizer(golden, "ppo.critic_optimizer", from);
}

/* What is logged is the mean over epochs. */
static void compare_metrics(const StageGolden *golden, const char *variant, int epochs)
{
    static const char *const names[] = {"policy_loss",     "value_loss",   "clip_fraction", "value_clip_fraction",
                                        "approx_kl",       "approx_kl_k3", "ratio",         "actor_grad_norm",
                                        "critic_grad_norm"};
    static const char *const rollout[] = {"kl",    "score",  "reward",     "shaped_reward", "value",
                                          "ended", "length", "length_min", "length_max",    "explained_variance"};
    char path[96];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "ppo_%s.epochs.%s", variant, names[i]);
        double wanted = 0;
        for (int epoch = 0; epoch < epochs; epoch++)
            wanted += stage_golden_number(golden, path, epoch) / epochs;
        double found = stage_golden_metric(golden, "ppo", 1, "iteration", names[i]);
        if (!support_is_close(found, wanted, 1e-4, 1e-6))
            print_error("%s after %d epochs: %g, expected %g\n", names[i], epochs, found, wanted);
        assert_close(found, wanted, 1e-4, 1e-6);
    }
    for (size_t i = 0; i < sizeof rollout / sizeof *rollout; i++) {
        snprintf(path, sizeof path, "ppo_%s.rollout.%s", variant, rollout[i]);
        double found = stage_golden_metric(golden, "ppo", 1, "iteration", rollout[i]);
        double wanted = stage_golden_number(golden, path, -1);
        if (!support_is_close(found, wanted, 1e-5, 1e-6))
            print_error("%s: %g, expected %g\n", rollout[i], found, wanted);
        assert_close(found, wanted, 1e-5, 1e-6);
    }
    for (int critic = 0; critic < 2; critic++) {
        const char *name = critic ? "critic_lr" : "actor_lr";
        snprintf(path, sizeof path, "ppo_%s.epochs.%s", variant, name);
        assert_close(stage_golden_metric(golden, "ppo", 1, "iteration", name),
                     stage_golden_number(golden, path, epochs - 1), 1e-12, 0.0);
    }
}

static void compare_parameters(StageGolden *golden, const char *variant)
{
    char after[64];
    snprintf(after, sizeof after, "after-ppo-%s-actor", variant);
    stage_golden_compare(golden, "ppo/final.h5", "", HEAD_LM, "policy", after, 1e-4, 1e-3, 1e-7);
    snprintf(after, sizeof after, "after-ppo-%s-critic", variant);
    stage_golden_compare(golden, "ppo/step-00000001.h5", "/critic", HEAD_SCALAR, "critic", after, 1e-4, 1e-3, 1e-7);
}

static void iteration_is_pytorchs(const char *variant)
{
    StageGolden golden;
    char output[32];
    for (int epochs = 1; epochs <= 2; epochs++) {
        snprintf(output, sizeof output, "%s-%d", variant, epochs);
        open_iteration(&golden, output, variant, epochs);
        assert_ok(stage_golden_run(&golden, ppo_run));
        compare_metrics(&golden, variant, epochs);
        if (epochs == 2)
            compare_parameters(&golden, variant);
        stage_golden_close(&golden);
    }
}

static void test_tf(void **state)
{
    (void)state;
    iteration_is_pytorchs("tf");
}

static void test_torch(void **state)
{
    (void)state;
    iteration_is_pytorchs("torch");
}

/* The same numbers when it is stopped before, between and after the minibatches, and goes on. */
static void test_interrupted(void **state)
{
    (void)state;
    for (int stop = 1; stop <= 3; stop++) {
        StageGolden golden;
        char output[32];
        snprintf(output, sizeof output, "stopped-%d", stop);
        open_iteration(&golden, output, "torch", 2);
        stage_golden_set(&golden, "stop_after=%d", stop);
        assert_fails(stage_golden_run(&golden, ppo_run), STATUS_STOPPED, "run it again");
        stage_golden_set(&golden, "stop_after=0");
        assert_ok(stage_golden_run(&golden, ppo_run));
        compare_metrics(&golden, "torch", 2);
        compare_parameters(&golden, "torch");
        stage_golden_close(&golden);
    }
}

/* beta *= 1 + clip(KL / target - 1, +-0.2) * responses / horizon; the rollout has 7 responses. */
static void test_kl_controller(void **state)
{
    (void)state;
    const double target_of_kl[] = {0.5, 2.0, 1.0 / 1.1}, error[] = {0.2, -0.2, 0.1};
    for (int i = 0; i < 3; i++) {
        StageGolden golden;
        char output[32];
        snprintf(output, sizeof output, "controller-%d", i);
        open_iteration(&golden, output, "tf", 1);
        double kl = stage_golden_number(&golden, "ppo_tf.rollout.kl", -1);
        stage_golden_set(&golden, "ppo.kl_target=%.17g", kl * target_of_kl[i]);
        stage_golden_set(&golden, "ppo.kl_horizon=28");
        assert_ok(stage_golden_run(&golden, ppo_run));
        H5File *file = NULL;
        double found = 0;
        assert_ok(h5_open(support_path("%s/ppo/final.h5", output), "tercet-checkpoint", &file));
        assert_ok(h5_read_real(file, "/state", "kl_coefficient", &found));
        h5_close(&file);
        double start = setting(&golden, "ppo_tf", "kl_coefficient");
        assert_close(found, start * (1 + error[i] * 7 / 28), 1e-6, 0.0);
        stage_golden_close(&golden);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tf), cmocka_unit_test(test_torch),
                                       cmocka_unit_test(test_interrupted), cmocka_unit_test(test_kl_controller)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
