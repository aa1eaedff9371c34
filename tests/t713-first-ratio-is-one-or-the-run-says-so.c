//TEST labels=stages timeout=120
/* Before the first step of an iteration every ratio is 1 to the last bit; if one weight changes between evaluation and update, the run stops and says
 * how many ratios are not. At the start every KL and every value is 0, and updates leave the reference alone. Judged on a policy of two layers with fresh parameters; the experiment is written here. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/text.h"
#include "kernels/cpu/device_cpu.h"
#include "core/data/tokenizer_train.h"
#include "stages/ppo.h"
#include "tests/support/support.h"
#include "tests/support/tiny_file.h"

static const char experiment[] = "output: %s/run\n"
                                 "threads: 1\n"
                                 "lanes: 2\n"
                                 "ppo:\n"
                                 "  policy: %s/policy\n"
                                 "  prompts: [{path: %s/prompts.jsonl}]\n"
                                 "  rewards: [{kind: length}]\n"
                                 "  batch: 8\n"
                                 "  unit_prompts: 2\n"
                                 "  max_new: 10\n"
                                 "  minibatches: 2\n"
                                 "  unit_tokens: 64\n"
                                 "  temperature: 0.7\n";

/* 256 bytes and three special tokens: what a trainer makes of nothing. */
static Tokenizer *byte_tokenizer(void)
{
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    const char *special[] = {"<|pad|>", "<|bos|>", "<|eos|>"};
    TokenizerTrainConfig config = {.vocab_size = 259,
                                   .frequency_min = 1,
                                   .special = special,
                                   .special_count = 3,
                                   .bos = special[1],
                                   .eos = special[2],
                                   .pad = special[0],
                                   .adds_bos = true};
    Text json = {0};
    Tokenizer *tokenizer = NULL;
    assert_int_equal(tokenizer_train(trainer, &config, &json).code, STATUS_OK);
    assert_int_equal(tokenizer_from_bytes(&tokenizer, "test", text_string(&json), json.size).code, STATUS_OK);
    text_free(&json);
    tokenizer_trainer_free(&trainer);
    return tokenizer;
}

/* Writes policy, prompts and experiment into `folder`; opens the configuration. */
static Config *make_experiment(const char *folder, ConfigSchema *schema)
{
    Tokenizer *tokenizer = byte_tokenizer();
    Text text = {0}, prompts = {0};
    char *policy = text_join_path(folder, "policy"), *path = text_join_path(folder, "prompts.jsonl");
    tiny_export(policy, tokenizer, 5);
    for (int i = 0; i < 8; i++)
        text_printf(&prompts, "{\"prompt\": \"number %d%.*s\"}\n", i * 977, i, "abcdefgh");
    assert_int_equal(text_write_file(path, text_string(&prompts), prompts.size).code, STATUS_OK);
    text_printf(&text, experiment, folder, folder, folder);
    stages_schema(schema);
    Config *opened = NULL;
    ConfigSource source = {.path = "experiment", .text = text_string(&text), .text_size = text.size};
    Status status = config_open(source, schema, &opened);
    assert_string_equal(status_failed(status) ? status_message() : "", "");
    text_free(&text);
    text_free(&prompts);
    memory_free(&policy);
    memory_free(&path);
    tokenizer_close(&tokenizer);
    return opened;
}

static void first_ratio(void **state)
{
    (void)state;
    Device device;
    ConfigSchema schema = {0};
    bool complete = false;
    assert_int_equal(device_open_cpu(&device, 2, NULL).code, STATUS_OK);
    Config *config = make_experiment(support_directory(), &schema);
    Ppo *ppo = memory_new(1, sizeof *ppo);
    Status status = ppo_open(ppo, comm_self(), &device, config, &complete);
    assert_string_equal(status_failed(status) ? status_message() : "", "");
    assert_int_equal(ppo_experience(ppo).code, STATUS_OK);

    /* One weight of the last layer, by one unit in the last place and back: exact. By a little: not. */
    int view = params_find(&ppo->actor.params, "layer.1.down.weight");
    assert_true(view >= 0);
    Tensor weight = tensor_range(ppo->actor.params.value, ppo->actor.params.view[view].offset, 1);
    float value, moved;
    tensor_read(&device, weight, &value);
    moved = value + 1e-3f;
    tensor_write(&device, weight, &moved);
    status = ppo_update(ppo);
    assert_int_equal(status.code, STATUS_NUMERIC);
    assert_non_null(strstr(status_message(), "ratios before the first step are not 1"));
    ppo_close(ppo, NULL);
    memset(ppo, 0, sizeof *ppo);

    /* At the start the policy is its reference to the last bit, and a critic that begins as a policy says 0. */
    assert_int_equal(ppo_open(ppo, comm_self(), &device, config, &complete).code, STATUS_OK);
    assert_int_equal(ppo_experience(ppo).code, STATUS_OK);
    Rollout *rollout = &ppo->rollout;
    size_t bytes = (size_t)rollout->responses * sizeof(float);
    assert_memory_equal(rollout->old_logprob, rollout->reference_logprob, bytes);
    for (int64_t i = 0; i < rollout->responses; i++)
        assert_true(rollout->value[i] == 0 && rollout->kl[i] == 0);
    float *reference = memory_new(1, bytes), *old = memory_new(1, bytes);
    memcpy(reference, rollout->reference_logprob, bytes);
    memcpy(old, rollout->old_logprob, bytes);
    status = ppo_update(ppo);
    assert_string_equal(status_failed(status) ? status_message() : "", "");
    assert_int_equal(ppo->update.minibatches, 8);
    /* Epochs later the ratio has moved: the check above looks at something alive. */
    assert_true(ppo->update.approx_kl > 0);
    /* The update has moved policy and critic, and not one bit of the reference. */
    assert_int_equal(ppo_evaluate(ppo).code, STATUS_OK);
    assert_memory_equal(rollout->reference_logprob, reference, bytes);
    assert_memory_not_equal(rollout->old_logprob, old, bytes);
    assert_true(rollout->value[0] != 0);
    memory_free(&reference);
    memory_free(&old);
    ppo_close(ppo, NULL);
    memory_free(&ppo);
    config_close(&config);
    config_schema_free(&schema);
    device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(first_ratio)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
