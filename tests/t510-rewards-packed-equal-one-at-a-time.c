/* A reward model's scores do not depend on the company that a sequence is in; what is no reward model, or does not fit, is refused;
 * as a judge it normalises when asked, and reads text where the policy's tokens are not its own. */
#include <string.h>

#include "core/base/memory.h"
#include "core/data/template.h"
#include "rewards/reward_model.h"
#include "tests/support/support.h"
#include "tests/support/tiny_file.h"

enum { SEQUENCES = 9, LONGEST = 40 };
static const int64_t lengths[SEQUENCES] = {5, 1, 17, 3, 40, 8, 2, 11, 4};

static const char *judge_path(Tokenizer **tokenizer)
{
    const char *path = support_path("rm.h5");
    *tokenizer = tiny_tokenizer(290);
    tiny_save(path, *tokenizer, HEAD_SCALAR, 5, 8, 0.5, 2);
    return path;
}

static void test_company_changes_nothing(void **state)
{
    (void)state;
    Tokenizer *tokenizer;
    const char *path = judge_path(&tokenizer);
    Tiny tiny;
    tiny_open_device(&tiny);
    int32_t ids[SEQUENCES][LONGEST];
    const int32_t *token[SEQUENCES];
    for (int i = 0; i < SEQUENCES; i++) {
        tiny_tokens(40 + (uint64_t)i, tokenizer_vocab_size(tokenizer), ids[i], lengths[i]);
        token[i] = ids[i];
    }
    RewardModel judge;
    assert_ok(reward_model_open(&judge, comm_self(), &tiny.device, path, 1000));
    assert_close(judge.mean, 0.5, 0, 0);
    assert_close(judge.deviation, 2, 0, 0);
    float packed[SEQUENCES], again[SEQUENCES], alone[SEQUENCES];
    size_t mark = arena_mark(&tiny.step);
    assert_ok(reward_model_score(&judge, &tiny.exec, token, lengths, SEQUENCES, packed));
    assert_int_equal(arena_mark(&tiny.step), mark);
    static const int64_t budgets[] = {1, 7, 30, 91};
    for (int b = 0; b < 4; b++) {
        judge.unit_tokens = budgets[b];
        assert_ok(reward_model_score(&judge, &tiny.exec, token, lengths, SEQUENCES, again));
        assert_floats_close(again, packed, SEQUENCES, 1e-4, 1e-4);
    }
    for (int i = 0; i < SEQUENCES; i++)
        assert_ok(reward_model_score(&judge, &tiny.exec, &token[i], &lengths[i], 1, &alone[i]));
    assert_floats_close(alone, packed, SEQUENCES, 1e-4, 1e-4);
    /* Not all the same, or a judge that returns a constant could pass. */
    float least = packed[0], most = packed[0];
    for (int i = 0; i < SEQUENCES; i++) {
        least = packed[i] < least ? packed[i] : least;
        most = packed[i] > most ? packed[i] : most;
    }
    assert_true(most - least > 0.1f);

    int32_t many[65] = {0};
    const int32_t *pointer = many;
    int64_t length = 65;
    assert_fails(reward_model_score(&judge, &tiny.exec, &pointer, &length, 1, again), STATUS_INPUT, "positions_max 64");
    length = 0;
    assert_fails(reward_model_score(&judge, &tiny.exec, &pointer, &length, 1, again), STATUS_INPUT, "no tokens");
    length = 2;
    many[1] = tokenizer_vocab_size(tokenizer);
    assert_fails(reward_model_score(&judge, &tiny.exec, &pointer, &length, 1, again), STATUS_INPUT, "vocabulary");
    reward_model_close(&judge);

    const char *policy = support_path("sft.h5");
    tiny_save(policy, tokenizer, HEAD_LM, 5, 8, 0, 1);
    assert_fails(reward_model_open(&judge, comm_self(), &tiny.device, policy, 1000), STATUS_INPUT, "score head");
    assert_fails(reward_model_open(&judge, comm_self(), &tiny.device, support_path("none.h5"), 1000), STATUS_IO,
                 "none.h5");
    tokenizer_close(&tokenizer);
    tiny_close(&tiny);
}

/* The score that the list of judges with this one item gives. */
static float judged(Tiny *tiny, const char *extra, const char *path, const Tokenizer *tokenizer, RewardSample sample)
{
    ConfigSchema schema = {0};
    rewards_schema(&schema, "judges[]");
    Text text = {0};
    text_printf(&text, "judges: [{kind: model, model: \"%s\"%s}]\n", path, extra);
    ConfigSource source = {.path = "test.yaml", .text = text_string(&text), .text_size = text.size};
    Config *config = NULL;
    Rewards rewards;
    assert_ok(config_open(source, &schema, &config));
    assert_ok(rewards_open(&rewards, comm_self(), &tiny->device, tokenizer, config, "judges"));
    assert_int_equal(strlen(rewards.item[0].kind->digest(rewards.item[0].self)), 32);
    float component, total, *components[REWARDS_MAX] = {&component};
    assert_ok(rewards_score(&rewards, &tiny->exec, &sample, 1, components, &total));
    rewards_close(&rewards);
    config_close(&config);
    config_schema_free(&schema);
    text_free(&text);
    return component;
}

static TemplateTokens encode(const Tokenizer *tokenizer, const char *prompt, const char *response,
                             int64_t *prompt_count)
{
    TemplateTokens tokens = {0};
    Message message = {ROLE_USER, prompt, strlen(prompt)};
    const Template *plain = template_get(TEMPLATE_PLAIN);
    assert_ok(template_encode(plain, tokenizer, &message, 1, &tokens));
    *prompt_count = tokens.tokens.count;
    assert_ok(template_encode_answer(plain, tokenizer, response, strlen(response), true, &tokens));
    return tokens;
}

static void test_judge(void **state)
{
    (void)state;
    Tokenizer *own, *other = tiny_tokenizer(265);
    const char *path = judge_path(&own), *prompt = "Please bring the hat", *response = ", the cat is red. Thanks!";
    Tiny tiny;
    tiny_open_device(&tiny);
    int64_t prompt_count, other_prompt_count;
    TemplateTokens tokens = encode(own, prompt, response, &prompt_count);
    TemplateTokens foreign = encode(other, prompt, response, &other_prompt_count);
    assert_true(tokens.tokens.count != foreign.tokens.count);
    RewardSample sample = {.prompt = prompt,
                           .response = response,
                           .fields = "{}",
                           .token = tokens.tokens.ids,
                           .count = tokens.tokens.count,
                           .prompt_count = prompt_count,
                           .stopped = true};
    float raw = judged(&tiny, "", path, own, sample);
    assert_close(judged(&tiny, ", normalise: true", path, own, sample), (raw - 0.5) / 2, 1e-5, 1e-6);
    /* From a policy with another tokenizer: the same text, so the same tokens and bits. */
    sample.token = foreign.tokens.ids;
    sample.count = foreign.tokens.count;
    sample.prompt_count = other_prompt_count;
    assert_close(judged(&tiny, "", path, other, sample), raw, 0, 0);
    sample.stopped = false;
    assert_true(judged(&tiny, "", path, other, sample) != raw);
    template_tokens_free(&tokens);
    template_tokens_free(&foreign);
    tokenizer_close(&own);
    tokenizer_close(&other);
    tiny_close(&tiny);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_company_changes_nothing), cmocka_unit_test(test_judge)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
