//TEST timeout=300 devices=cuda
/* t723 -- what an iteration makes of its responses equals PyTorch's (tests/golden/make_stages.py): log-probs of policy and reference, values and
 * entropy on the units of the update; shaped rewards, KL, advantages and returns of given log-probs and values; scores by hand. */
#include "tests/support/stage_golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"
#include "stages/ppo.h"

typedef struct Experience {
    StageGolden golden;
    Ppo *ppo;
    char path[512]; /* of the golden rollout */
} Experience;

/* A PPO that has come as far as its responses. */
static void experience_open(Experience *experience, const char *variant)
{
    StageGolden *golden = &experience->golden;
    char path[96];
    stage_golden_open(golden, variant);
    snprintf(path, sizeof path, "rollout-%s.h5", variant);
    snprintf(experience->path, sizeof experience->path, "%s", stage_golden_path(path));
    stage_golden_set(golden, "ppo.unit_tokens=24");
    static const char *const names[][2] = {{"temperature", "temperature"}, {"gamma", "gamma"}, {"lambda", "lam"}};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "ppo_%s.settings.%s", variant, names[i][1]);
        stage_golden_set(golden, "ppo.%s=%.17g", names[i][0], stage_golden_number(golden, path, -1));
    }
    snprintf(path, sizeof path, "ppo_%s.settings.kl", variant);
    stage_golden_set(golden, "ppo.kl=%s", json_string_value(stage_golden_value(golden, path)));
    snprintf(path, sizeof path, "ppo_%s.settings.whiten_rewards", variant);
    stage_golden_set(golden, "ppo.whiten_rewards=%s",
                     json_is_true(stage_golden_value(golden, path)) ? "true" : "false");
    stage_golden_configure(golden);

    Ppo *ppo = experience->ppo = memory_new(1, sizeof *ppo);
    assert_ok(stage_open(&ppo->stage, "ppo", comm_self(), &golden->device, golden->config));
    config_read(golden->config, "ppo", ppo_keys, &ppo->config);
    assert_ok(stage_model(&ppo->stage, "policy", stage_golden_path("policy"), NULL, HEAD_LM, &ppo->actor, NULL, NULL));
    assert_ok(stage_model(&ppo->stage, "reference", stage_golden_path("reference"), NULL, HEAD_LM, &ppo->reference,
                          NULL, NULL));
    assert_ok(
        stage_model(&ppo->stage, "critic", stage_golden_path("critic"), NULL, HEAD_SCALAR, &ppo->critic, NULL, NULL));
    assert_ok(rollout_read(comm_self(), experience->path, ppo->actor.shape.vocab, &ppo->rollout));
    ppo->kl_coefficient = ppo->rollout.kl_coefficient;
    ppo_plan_units(ppo);
}

static void experience_close(Experience *experience)
{
    Ppo *ppo = experience->ppo;
    rollout_free(&ppo->rollout);
    units_free(&ppo->plan);
    unit_batch_free(&ppo->unit);
    memory_free(&ppo->order);
    model_close(&ppo->actor);
    model_close(&ppo->critic);
    model_close(&ppo->reference);
    stage_close(&ppo->stage, NULL);
    memory_free(&experience->ppo);
    stage_golden_close(&experience->golden);
}

/* A column of the golden rollout against `mine`. */
static void compare_column(const Experience *experience, const char *name, const float *mine)
{
    H5File *file = NULL;
    const H5Dataset *dataset = NULL;
    int64_t rows = experience->ppo->rollout.responses;
    float *wanted = memory_new((size_t)rows, sizeof *wanted);
    assert_ok(h5_open_foreign(experience->path, NULL, &file));
    assert_ok(h5_find(file, name, DTYPE_F32, 1, &rows, &dataset));
    assert_ok(h5_read_whole(file, dataset, wanted));
    h5_close(&file);
    for (int64_t i = 0; i < rows; i++)
        if (!support_is_close(mine[i], wanted[i], 1e-5, 1e-5)) {
            print_error("%s[%lld]: %g, expected %g\n", name, (long long)i, (double)mine[i], (double)wanted[i]);
            break;
        }
    assert_floats_close(mine, wanted, (size_t)rows, 1e-5, 1e-5);
    memory_free(&wanted);
}

static void forget(float *column, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        column[i] = NAN;
}

static void experience_is_pytorchs(const char *variant)
{
    Experience experience;
    experience_open(&experience, variant);
    Ppo *ppo = experience.ppo;
    Rollout *rollout = &ppo->rollout;
    assert_true(ppo->plan.units > 3); /* several units, or packing is not seen */
    int64_t rows = rollout->responses;
    forget(rollout->kl, rows);
    forget(rollout->reward_shaped, rows);
    forget(rollout->advantage, rows);
    forget(rollout->returns, rows);
    ppo_advantage(ppo);
    compare_column(&experience, "/kl", rollout->kl);
    compare_column(&experience, "/reward_shaped", rollout->reward_shaped);
    compare_column(&experience, "/advantage", rollout->advantage);
    compare_column(&experience, "/return", rollout->returns);

    forget(rollout->old_logprob, rows);
    forget(rollout->reference_logprob, rows);
    forget(rollout->value, rows);
    assert_ok(ppo_evaluate(ppo));
    compare_column(&experience, "/exact/old_logprob", rollout->old_logprob);
    compare_column(&experience, "/reference_logprob", rollout->reference_logprob);
    compare_column(&experience, "/exact/value", rollout->value);
    char path[64];
    snprintf(path, sizeof path, "ppo_%s.entropy", variant);
    assert_close(ppo->entropy, stage_golden_number(&experience.golden, path, -1), 1e-5, 0.0);
    experience_close(&experience);
}

static void test_plain(void **state)
{
    (void)state;
    experience_is_pytorchs("tf");
}

static void test_every_knob(void **state)
{
    (void)state;
    experience_is_pytorchs("torch");
}

/* The rewards 1, 2, 3, 6 have mean 3 and variance 3.5; the third response has not ended. */
static void score(Ppo *ppo, const float rewards[4], float scores[4])
{
    Rollout *rollout = &ppo->rollout;
    rollout_free(rollout);
    rollout_new(rollout, 4, 0);
    for (int i = 0; i < 4; i++) {
        rollout->reward_raw[i] = rewards[i];
        rollout->stopped[i] = i != 2;
    }
    ppo_score(ppo);
    memcpy(scores, rollout->score, sizeof *scores * 4);
}

static void test_scores(void **state)
{
    (void)state;
    Ppo *ppo = memory_new(1, sizeof *ppo);
    const float first[4] = {1, 2, 3, 6}, second[4] = {9, 9, 9, 9};
    float found[4];
    ppo->config.reward_normalise = NORMALISE_NONE;
    score(ppo, first, found);
    assert_memory_equal(found, first, sizeof found);
    ppo->config.reward_clip = 2.5;
    score(ppo, first, found);
    const float clipped[4] = {1, 2, 2.5f, 2.5f};
    assert_memory_equal(found, clipped, sizeof found);
    ppo->config.missing_eos_value = 4;
    ppo->config.missing_eos = MISSING_EOS_SUBTRACT;
    score(ppo, first, found);
    assert_true(found[2] == -1.5f && found[3] == 2.5f);
    ppo->config.missing_eos = MISSING_EOS_REPLACE;
    score(ppo, first, found);
    assert_true(found[2] == -4 && found[1] == 2);

    ppo->config.missing_eos = MISSING_EOS_NONE;
    ppo->config.reward_clip = 0;
    for (int running = 0; running < 2; running++) {
        ppo->config.reward_normalise = running ? NORMALISE_RUNNING : NORMALISE_FIRST;
        ppo->reward_count = ppo->reward_mean = ppo->reward_m2 = 0;
        score(ppo, first, found);
        for (int i = 0; i < 4; i++)
            assert_close(found[i], (first[i] - 3) / sqrt(3.5), 1e-6, 1e-7);
        score(ppo, second, found);
        /* All eight: mean 6, variance (25 + 16 + 9 + 0 + 4 * 9) / 8. */
        assert_close(found[0], running ? 3 / sqrt(86.0 / 8) : 6 / sqrt(3.5), 1e-6, 0.0);
    }
    rollout_free(&ppo->rollout);
    memory_free(&ppo);
}

/* Huang et al. 2023's worked example of whitening that keeps the mean: 1.2, 1.3 ... 2.0 with the biased variance, here the rewards of nine
 * responses of one token. */
static void test_whitening_example(void **state)
{
    (void)state;
    const float wanted[9] = {0.0508f, 0.4381f, 0.8254f, 1.2127f, 1.6000f, 1.9873f, 2.3746f, 2.7619f, 3.1492f};
    StageGolden golden;
    Arena step = {0};
    stage_golden_open(&golden, "whitening");
    assert_ok(device_arena(&golden.device, &step, "step", 0));
    Ppo *ppo = memory_new(1, sizeof *ppo);
    ppo->stage.exec = (Exec){.device = &golden.device, .step = &step};
    ppo->config.whiten_rewards = true;
    ppo->config.gamma = ppo->config.lambda = 1;
    Rollout *rollout = &ppo->rollout;
    rollout_new(rollout, 9, 0);
    for (int i = 0; i < 9; i++) {
        rollout->prompt_length[i] = rollout->response_length[i] = 1;
        rollout->score[i] = 1.2f + 0.1f * (float)i;
    }
    rollout_allocate(rollout);
    ppo_advantage(ppo);
    assert_floats_close(rollout->reward_shaped, wanted, 9, 0.0, 6e-5);
    assert_floats_close(rollout->returns, rollout->reward_shaped, 9, 0.0, 1e-6);
    rollout_free(rollout);
    memory_free(&ppo);
    arena_close(&step);
    stage_golden_close(&golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_every_knob),
                                       cmocka_unit_test(test_scores), cmocka_unit_test(test_whitening_example)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
