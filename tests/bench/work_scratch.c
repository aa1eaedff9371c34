/* work_scratch.c -- see work_scratch.h. */
#define _GNU_SOURCE
#include "tests/bench/work_scratch.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/store/checkpoint.h"
#include "stages/stage.h"

/* --- The directory --- */

enum { SCRATCH_PATH_MAX = 1024 };

Status scratch_open(Bench *bench, Scratch *scratch)
{
    char path[SCRATCH_PATH_MAX];
    int size = snprintf(path, sizeof path, "%s/tercet-bench-XXXXXX", bench_text(bench, "dir", P_tmpdir));
    REQUIRE(size < SCRATCH_PATH_MAX, "dir= is too long");
    Status status = status_ok();
    if (comm_rank(bench->comm) == 0 && !mkdtemp(path))
        status = status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    TRY(comm_agree(bench->comm, status));
    comm_broadcast(bench->comm, 0, path, sizeof path);
    scratch->path = memory_strdup(path);
    return status_ok();
}

static int remove_one(const char *path, const struct stat *about, int flag, struct FTW *where)
{
    (void)about;
    (void)flag;
    (void)where;
    return remove(path);
}

void scratch_close(Bench *bench, Scratch *scratch)
{
    if (!scratch->path)
        return;
    comm_barrier(bench->comm);
    if (comm_rank(bench->comm) == 0)
        nftw(scratch->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    memory_free(&scratch->path);
}

char *scratch_path(const Scratch *scratch, const char *name)
{
    return text_join_path(scratch->path, name);
}

/* --- The tokenizer --- */

/* GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on. */
static void byte_append(Text *json, int byte, int *others)
{
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    int character = printable ? byte : 256 + (*others)++;
    if (character == '"' || character == '\\')
        text_printf(json, "\\%c", character);
    else if (character < 0x80)
        text_printf(json, "%c", character);
    else
        text_printf(json, "%c%c", 0xC0 | character >> 6, 0x80 | (character & 0x3F));
}

Status tokenizer_of_bytes(int64_t vocab, Tokenizer **tokenizer)
{
    Text json = {0};
    text_append_string(&json, "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null, \"pre_tokenizer\": "
                              "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
                              "\"use_regex\": true}, \"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\"}, "
                              "\"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {");
    int others = 0;
    for (int byte = 0; byte < 256; byte++) {
        text_append_string(&json, byte ? ", \"" : "\"");
        byte_append(&json, byte, &others);
        text_printf(&json, "\": %d", byte);
    }
    for (int64_t id = 256; id < vocab; id++)
        text_printf(&json, ", \"word%lld\": %lld", (long long)id, (long long)id);
    text_append_string(&json, "}}}");
    Status status = tokenizer_from_bytes(tokenizer, "tokenizer of bytes", json.bytes, json.size);
    text_free(&json);
    return status;
}

/* --- Models --- */

/* A fresh score head is zero, and so would all rewards be. */
static void score_head_fill(Model *model)
{
    int view = params_index(&model->params, VIEW_SCORE_WEIGHT, 0);
    if (view < 0)
        return;
    int64_t width = model->shape.width;
    float *weight = memory_new((size_t)width, sizeof *weight);
    for (int64_t i = 0; i < width; i++)
        weight[i] = (float)(i % 7) - 3;
    tensor_write(model->device, tensor_range(model->params.value, model->params.view[view].offset, width), weight);
    memory_free(&weight);
}

Status model_file_write(Bench *bench, const char *shape, HeadKind head, const Tokenizer *tokenizer, const char *path)
{
    if (comm_rank(bench->comm) != 0)
        return comm_agree(bench->comm, status_ok());
    Model model = {0};
    Status status = model_random(bench, shape, head, &model);
    if (!status_failed(status)) {
        score_head_fill(&model);
        double mean = 0, deviation = 1;
        CheckpointHeader header = {
            .stage = head == HEAD_SCALAR ? "rm" : "sft", .config = "", .config_digest = "00", .tokenizer = tokenizer};
        CheckpointModel only = {.role = "", .model = &model};
        StateItem state[] = {{.name = "reward_mean", .kind = STATE_DOUBLE, .value = &mean},
                             {.name = "reward_deviation", .kind = STATE_DOUBLE, .value = &deviation}};
        status = checkpoint_write(comm_self(), path, &header, &only, 1, state, head == HEAD_SCALAR ? 2 : 0);
        model_close(&model);
    }
    return comm_agree(bench->comm, status);
}

/* --- The configuration --- */

Status config_of_words(ConfigSchema *schema, const char *const *words, int count, Config **config)
{
    *schema = (ConfigSchema){0};
    stages_schema(schema);
    ConfigSource source = {.overrides = words, .overrides_count = count};
    return config_open(source, schema, config);
}
