/* words.c -- see words.h. */
#include "tests/support/words.h"

#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_train.h"
#include "tests/support/support.h"

static void make_json(bool adds_bos, Text *json)
{
    static const char *const special[] = {"<bos>", "<eos>", "<|im_end|>"};
    /* No words: nothing to merge. */
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    TokenizerTrainConfig config = {.vocab_size = 259,
                                   .frequency_min = 1,
                                   .special = special,
                                   .special_count = 3,
                                   .bos = "<bos>",
                                   .eos = "<eos>",
                                   .adds_bos = adds_bos};
    assert_ok(tokenizer_train(trainer, &config, json));
    tokenizer_trainer_free(&trainer);
}

const char *words_tokenizer_file(bool adds_bos)
{
    Text json = {0};
    make_json(adds_bos, &json);
    const char *path = words_file("tokenizer.json", text_string(&json));
    text_free(&json);
    return path;
}

Tokenizer *words_tokenizer(bool adds_bos)
{
    Text json = {0};
    Tokenizer *tokenizer;
    make_json(adds_bos, &json);
    assert_ok(tokenizer_from_bytes(&tokenizer, "words", text_string(&json), json.size));
    assert_int_equal(tokenizer_vocab_size(tokenizer), 259);
    text_free(&json);
    return tokenizer;
}

const char *words_file(const char *name, const char *text)
{
    const char *path = support_path("%s", name);
    assert_ok(text_write_file(path, text, strlen(text)));
    return path;
}

DataConfig words_config(void)
{
    return (DataConfig){.max_length = 1024, .append_eos = true, .gap = 1};
}

DataSource words_source(const char *path)
{
    return (DataSource){.path = path, .weight = 1};
}

Status words_open(DatasetKind kind, const DataSource *sources, int count, const DataConfig *config,
                  const Tokenizer *tokenizer, Dataset **dataset)
{
    return dataset_open(comm_self(), kind, sources, count, config, tokenizer, support_path("cache"), dataset);
}

static const char *describe(const Tokenizer *tokenizer, Sequence sequence, bool loss)
{
    static Text ring[16];
    static unsigned at;
    Text *text = &ring[at++ % 16];
    text_clear(text);
    bool learned = false;
    for (int64_t i = 0; i <= sequence.count; i++) {
        bool now = loss && i < sequence.count && sequence.loss[i];
        if (now != learned)
            text_append_string(text, now ? "[" : "]");
        learned = now;
        if (i < sequence.count)
            assert_ok(tokenizer_decode(tokenizer, sequence.token + i, 1, TOKENIZER_CONTINUE, text));
    }
    return text_string(text);
}

const char *words_text(const Tokenizer *tokenizer, Sequence sequence)
{
    return describe(tokenizer, sequence, false);
}

const char *words_loss(const Tokenizer *tokenizer, Sequence sequence)
{
    return describe(tokenizer, sequence, true);
}
