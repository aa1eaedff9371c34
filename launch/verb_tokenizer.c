/* verb_tokenizer.c -- `tercet tokenizer train` and `tercet export`: what other programs read. */
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/data/json.h"
#include "core/data/tokenizer_train.h"
#include "core/store/checkpoint.h"
#include "core/store/huggingface.h"
#include "launch/verbs.h"

/* Every string in a record is text to count words in: keys are not. */
static Status train_on_value(TokenizerTrainer *trainer, const json_t *value)
{
    if (json_is_string(value))
        return tokenizer_trainer_add(trainer, json_string_value(value), json_string_length(value));
    size_t index;
    json_t *item;
    if (json_is_array(value)) {
        json_array_foreach(value, index, item) TRY(train_on_value(trainer, item));
    }
    if (json_is_object(value)) {
        const char *key;
        json_object_foreach((json_t *)value, key, item) TRY(train_on_value(trainer, item));
    }
    return status_ok();
}

static Status train_on_records(TokenizerTrainer *trainer, const char *path)
{
    JsonReader *reader = NULL;
    json_t *value = NULL;
    TRY(json_reader_open(&reader, path));
    Status status = json_reader_next(reader, &value);
    while (!status_failed(status) && value) {
        status = train_on_value(trainer, value);
        if (!status_failed(status))
            status = json_reader_next(reader, &value);
    }
    json_reader_close(&reader);
    return status;
}

static Status train_on_text(TokenizerTrainer *trainer, const char *path)
{
    Text text = {0};
    Status status = text_read_file(path, (size_t)4 << 30, &text);
    if (!status_failed(status)) {
        status = tokenizer_trainer_add(trainer, text_string(&text), text.size);
        if (status_failed(status))
            status = status_prefix(status, "%s", path);
    }
    text_free(&text);
    return status;
}

static Status train(TokenizerTrainer *trainer, int64_t vocab, bool adds_bos, const char *out, const char **files,
                    int count)
{
    for (int i = 0; i < count; i++) {
        bool records = text_ends_with(files[i], ".jsonl") || text_ends_with(files[i], ".json");
        TRY(records ? train_on_records(trainer, files[i]) : train_on_text(trainer, files[i]));
    }
    const char *special[] = {"<|pad|>", "<|bos|>", "<|eos|>"};
    TokenizerTrainConfig config = {
        .vocab_size = (int32_t)vocab,
        .frequency_min = 2,
        .special = special,
        .special_count = 3,
        .bos = special[1],
        .eos = special[2],
        .pad = special[0],
        .adds_bos = adds_bos,
    };
    Text json = {0};
    Status status = tokenizer_train(trainer, &config, &json);
    if (!status_failed(status))
        status = text_write_file(out, text_string(&json), json.size);
    text_free(&json);
    if (!status_failed(status))
        log_info("wrote %s", out);
    return status;
}

Status verb_tokenizer(Launch *launch, int argc, char **argv)
{
    (void)launch;
    int64_t vocab = 0;
    const char *out = NULL, *files[256];
    bool no_bos = false;
    int count = 0;
    const Option options[] = {{"--vocab", OPTION_INT, &vocab},
                              {"--out", OPTION_STRING, &out},
                              {"--no-bos", OPTION_FLAG, &no_bos},
                              {NULL, OPTION_FLAG, NULL}};
    TRY(options_parse(argc, argv, options, files, 256, &count));
    if (count < 2 || strcmp(files[0], "train") != 0 || !out)
        return status_error(STATUS_USAGE, "tokenizer: expected tokenizer train --vocab N --out FILE.json FILE...");
    if (vocab < 259 || vocab > 1 << 20)
        return status_error(STATUS_USAGE,
                            "--vocab: expected 259 (256 bytes and 3 special tokens) to 1048576, found %lld",
                            (long long)vocab);
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    Status status = train(trainer, vocab, !no_bos, out, files + 1, count - 1);
    tokenizer_trainer_free(&trainer);
    return status;
}

Status verb_export(Launch *launch, int argc, char **argv)
{
    const char *path = NULL, *out = NULL, *words[1];
    int count = 0;
    const Option options[] = {
        {"--model", OPTION_STRING, &path}, {"--out", OPTION_STRING, &out}, {NULL, OPTION_FLAG, NULL}};
    TRY(options_parse(argc, argv, options, words, 0, &count));
    if (!path || !out)
        return status_error(STATUS_USAGE, "export: expected export --model FILE.h5 --out DIRECTORY");
    CheckpointInfo info;
    TRY(checkpoint_inspect(path, &info));
    TRY(launch_device(launch, &(DeviceWish){.device = "cpu", .threads = CONFIG_AUTO}));
    Model model = {0};
    Tokenizer *tokenizer = NULL;
    bool has_head = false;
    char digest[40];
    Status status =
        model_load(launch->bootstrap.comm, &launch->device, path, info.head, &model, &has_head, &tokenizer, digest);
    if (!status_failed(status) && comm_rank(launch->bootstrap.comm) == 0)
        status = huggingface_export(out, &model, tokenizer);
    status = comm_agree(launch->bootstrap.comm, status);
    if (model.device)
        model_close(&model);
    tokenizer_close(&tokenizer);
    return status;
}
