/* A real model: stories260K, read as a Hugging Face directory, gives the log-probs and greedy texts that llama2.c gives. */
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "core/model/generate.h"
#include "core/store/huggingface.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { TOKENS_MAX = 512, STORIES_MAX = 32 };

typedef struct Story {
    int32_t prompt[TOKENS_MAX], greedy[TOKENS_MAX], made[TOKENS_MAX];
    float prompt_logprob[TOKENS_MAX], greedy_logprob[TOKENS_MAX], made_logprob[TOKENS_MAX], logits[8];
    int32_t prompt_count, greedy_count;
} Story;

static int32_t read_numbers(JsonPlace place, const json_t *object, const char *key, int32_t *integers, float *reals)
{
    const json_t *array;
    assert_ok(json_get_array(place, object, key, JSON_REQUIRED, &array));
    assert_true(json_array_size(array) <= TOKENS_MAX);
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (integers)
            integers[i] = (int32_t)json_integer_value(json_array_get(array, i));
        else
            reals[i] = (float)json_number_value(json_array_get(array, i));
    }
    return (int32_t)json_array_size(array);
}

static int read_stories(Story *stories)
{
    JsonReader *reader;
    assert_ok(json_reader_open(&reader, support_data("vectors/stories260K_golden.jsonl")));
    int count = 0;
    for (;; count++) {
        json_t *record;
        assert_ok(json_reader_next(reader, &record));
        if (!record)
            break;
        assert_true(count < STORIES_MAX);
        Story *story = &stories[count];
        JsonPlace place = json_reader_place(reader);
        story->prompt_count = read_numbers(place, record, "prompt_ids", story->prompt, NULL);
        story->greedy_count = read_numbers(place, record, "greedy_ids", story->greedy, NULL);
        /* The first token of a prompt has no log-prob. */
        int32_t given = read_numbers(place, record, "prompt_logprobs", NULL, story->prompt_logprob);
        assert_int_equal(given, story->prompt_count - 1);
        read_numbers(place, record, "greedy_logprobs", NULL, story->greedy_logprob);
        assert_int_equal(read_numbers(place, record, "logits_400_407_after_prompt", NULL, story->logits), 8);
    }
    json_reader_close(&reader);
    return count;
}

static void test_stories(void **state)
{
    (void)state;
    Story *stories = memory_new(STORIES_MAX, sizeof *stories);
    int count = read_stories(stories);
    assert_int_equal(count, 10);
    Tiny tiny;
    tiny_open_device(&tiny);
    const char *directory = support_data("models/stories260K-hf");
    assert_true(huggingface_is_directory(directory));
    bool has_head;
    assert_ok(huggingface_load(directory, &tiny.device, HEAD_LM, &tiny.model, &has_head, NULL));
    assert_int_equal(params_learned(&tiny.model.params), 260032);

    /* Log-probs of prompt and continuation, one forward over all ten packed. */
    int32_t *tokens = memory_new((size_t)count * 2 * TOKENS_MAX, sizeof *tokens), start[STORIES_MAX + 1] = {0};
    for (int s = 0; s < count; s++) {
        Story *story = &stories[s];
        int32_t *at = tokens + start[s];
        memcpy(at, story->prompt, sizeof *at * (size_t)story->prompt_count);
        memcpy(at + story->prompt_count, story->greedy, sizeof *at * (size_t)story->greedy_count);
        start[s + 1] = start[s] + story->prompt_count + story->greedy_count;
    }
    size_t all = (size_t)start[count];
    float *logprob = memory_new(all, sizeof *logprob), *weight = memory_new(all, sizeof *weight);
    tiny_nll(&tiny, false, tokens, start, count, weight, logprob);
    for (int s = 0; s < count; s++) {
        const Story *story = &stories[s];
        const float *mine = logprob + start[s];
        size_t given = (size_t)story->prompt_count - 1;
        assert_floats_close(mine, story->prompt_logprob, given, 0, 1e-3);
        assert_floats_close(mine + given, story->greedy_logprob, (size_t)story->greedy_count, 0, 1e-3);
    }

    /* Raw logits after each prompt. */
    for (int s = 0; s < count; s++) {
        int32_t one[2] = {0, stories[s].prompt_count};
        TokenBatch batch = token_batch_make(&tiny.device, &tiny.step, stories[s].prompt, one, 1, NULL);
        Tensor hidden = model_hidden(&tiny.model, &tiny.exec, &batch, tensor_absent(), NULL);
        VocabularyHead head = model_vocabulary_head(&tiny.model, 1);
        float logits[512];
        tensor_read(&tiny.device, head_logits(&tiny.exec, &head, tensor_rows(hidden, one[1] - 1, 1)), logits);
        assert_floats_close(logits + 400, stories[s].logits, 8, 0, 1e-3);
        tiny_rewind(&tiny);
    }

    /* The texts themselves, decoded in few slots. */
    GenerateRequest request[STORIES_MAX];
    GenerateResult result[STORIES_MAX];
    for (int s = 0; s < count; s++) {
        request[s] = (GenerateRequest){stories[s].prompt, stories[s].prompt_count,
                                       rng_stream(0, RNG_GENERATE, 0, (uint64_t)s), false};
        result[s] = (GenerateResult){.token = stories[s].made, .logprob = stories[s].made_logprob};
    }
    GenerateOptions options = {.slots = 4, .max_new = stories[0].greedy_count, .top_p = 1};
    assert_ok(generate(&tiny.model, &tiny.exec, request, count, &options, result));
    for (int s = 0; s < count; s++) {
        size_t made = (size_t)result[s].count;
        assert_int_equal(made, stories[s].greedy_count);
        assert_memory_equal(stories[s].made, stories[s].greedy, made * sizeof(int32_t));
        assert_floats_close(stories[s].made_logprob, stories[s].greedy_logprob, made, 0, 1e-3);
    }
    memory_free(&weight);
    memory_free(&logprob);
    memory_free(&tokens);
    memory_free(&stories);
    tiny_close(&tiny);
}

int main(void)
{
    support_need_data();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
