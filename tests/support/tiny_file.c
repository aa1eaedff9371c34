/* tiny_file.c -- see tiny_file.h. */
#include "tests/support/tiny_file.h"

#include <string.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_train.h"
#include "core/store/checkpoint.h"
#include "core/store/huggingface.h"
#include "tests/support/support.h"

Tokenizer *tiny_tokenizer(int32_t vocab)
{
    static const char *const texts[] = {
        "Please bring the kite and the lamp.",
        "The cat sat on the mat, and the hat was red.",
        "Thanks! That was the best thing that I have read this week.",
    };
    static const char *const special[] = {"<s>", "</s>"};
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_ok(tokenizer_trainer_add(trainer, texts[i], strlen(texts[i])));
    TokenizerTrainConfig config = {.vocab_size = vocab,
                                   .frequency_min = 1,
                                   .special = special,
                                   .special_count = 2,
                                   .bos = "<s>",
                                   .eos = "</s>",
                                   .adds_bos = true};
    Text json = {0};
    assert_ok(tokenizer_train(trainer, &config, &json));
    Tokenizer *tokenizer = NULL;
    assert_ok(tokenizer_from_bytes(&tokenizer, "tiny tokenizer", json.bytes, json.size));
    text_free(&json);
    tokenizer_trainer_free(&trainer);
    return tokenizer;
}

ModelShape tiny_file_shape(const Tokenizer *tokenizer)
{
    ModelShape shape = tiny_shape("llama", false);
    shape.vocab = tokenizer_vocab_size(tokenizer);
    return shape;
}

void tiny_export(const char *path, const Tokenizer *tokenizer, uint64_t seed)
{
    ModelShape shape = tiny_shape("llama", true);
    shape.vocab = tokenizer_vocab_size(tokenizer);
    Tiny tiny;
    tiny_open(&tiny, &shape, HEAD_LM, seed, 1.0f);
    assert_ok(huggingface_export(path, &tiny.model, tokenizer));
    tiny_close(&tiny);
}

void tiny_save(const char *path, const Tokenizer *tokenizer, HeadKind head, uint64_t seed, float gain, double mean,
               double deviation)
{
    ModelShape shape = tiny_file_shape(tokenizer);
    Tiny tiny;
    tiny_open(&tiny, &shape, head, seed, gain);
    /* A fresh scalar head is zero, and so would all rewards be. */
    int score = params_index(&tiny.model.params, VIEW_SCORE_WEIGHT, 0);
    if (score >= 0) {
        float weight[512];
        assert_true(shape.width <= 512);
        for (int64_t i = 0; i < shape.width; i++)
            weight[i] = (float)(i % 7) - 3;
        tensor_write(&tiny.device,
                     tensor_range(tiny.model.params.value, tiny.model.params.view[score].offset, shape.width), weight);
    }
    CheckpointHeader header = {
        .stage = head == HEAD_SCALAR ? "rm" : "sft", .config = "", .config_digest = "00", .tokenizer = tokenizer};
    CheckpointModel model = {.role = "", .model = &tiny.model};
    StateItem state[] = {{.name = "reward_mean", .kind = STATE_DOUBLE, .value = &mean},
                         {.name = "reward_deviation", .kind = STATE_DOUBLE, .value = &deviation}};
    assert_ok(checkpoint_write(comm_self(), path, &header, &model, 1, state, head == HEAD_SCALAR ? 2 : 0));
    tiny_close(&tiny);
}
