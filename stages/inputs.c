/* inputs.c -- from keys of type PATH to files and digests. */
#include "stages/inputs.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/memory.h"
#include "core/data/dataset.h"
#include "core/h5/h5.h"
#include "rewards/reward.h"
#include "stages/sections.h"
#include "stages/stage.h"

enum { SECTION_BYTES_MAX = 8192 }; /* of any section's struct */

static void inputs_add(Inputs *inputs, const char *path)
{
    int64_t capacity = inputs->capacity;
    int at = 0;
    while (at < inputs->count && strcmp(inputs->path[at], path) < 0)
        at++;
    if (at < inputs->count && strcmp(inputs->path[at], path) == 0)
        return;
    memory_reserve(&inputs->path, inputs->count, &capacity);
    inputs->capacity = (int)capacity;
    memmove(inputs->path + at + 1, inputs->path + at, (size_t)(inputs->count - at) * sizeof *inputs->path);
    inputs->path[at] = memory_strdup(path);
    inputs->count++;
}

/* Every PATH of one section or item. */
static void inputs_of_keys(const Config *config, const char *path, const ConfigKey *keys, Inputs *inputs)
{
    char *values = memory_new(SECTION_BYTES_MAX, 1);
    config_read(config, path, keys, values);
    for (const ConfigKey *key = keys; key->name; key++) {
        if (key->type != CONFIG_PATH)
            continue;
        REQUIRE(key->offset + sizeof(char *) <= SECTION_BYTES_MAX, "section %s is larger than expected", path);
        const char *value = *(const char **)(values + key->offset);
        if (value)
            inputs_add(inputs, value);
    }
    memory_free(&values);
}

static void inputs_of_list(const Config *config, const char *path, const ConfigKey *keys, Inputs *inputs)
{
    for (int i = 0; i < config_count(config, path); i++) {
        char item[96];
        snprintf(item, sizeof item, "%s[%d]", path, i);
        inputs_of_keys(config, item, keys, inputs);
    }
}

void inputs_list(const Config *config, const char *stage, Inputs *inputs)
{
    memset(inputs, 0, sizeof *inputs);
    char path[64];
    bool ppo = strcmp(stage, "ppo") == 0;
    inputs_of_keys(config, stage, ppo ? ppo_keys : strcmp(stage, "rm") == 0 ? rm_keys : sft_keys, inputs);
    const char *const lists[] = {"data", "eval_data", "prompts"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s.%s", stage, lists[i]);
        if (ppo == (i == 2))
            inputs_of_list(config, path, data_source_keys, inputs);
    }
    for (int i = 0; ppo && i < config_count(config, "ppo.rewards"); i++) {
        snprintf(path, sizeof path, "ppo.rewards[%d]", i);
        const RewardKind *kind = rewards_kind(config, path);
        if (kind->keys)
            inputs_of_keys(config, path, kind->keys, inputs);
    }
}

void inputs_free(Inputs *inputs)
{
    for (int i = 0; i < inputs->count; i++)
        memory_free(&inputs->path[i]);
    memory_free(&inputs->path);
    inputs->count = inputs->capacity = 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The digest of the digests of a model directory's files (config, weights, tokenizer), by name. */
static Status digest_directory(const char *path, H5Digest *digest)
{
    char **names = NULL;
    int64_t count = 0, capacity = 0;
    DIR *handle = opendir(path);
    if (!handle)
        return status_error(STATUS_IO, "%s: cannot list", path);
    for (struct dirent *entry = readdir(handle); entry; entry = readdir(handle)) {
        if (!text_ends_with(entry->d_name, ".json") && !text_ends_with(entry->d_name, ".safetensors") &&
            !text_ends_with(entry->d_name, ".model"))
            continue;
        memory_reserve(&names, count, &capacity);
        names[count++] = memory_strdup(entry->d_name);
    }
    closedir(handle);
    if (count > 0)
        qsort(names, (size_t)count, sizeof *names, by_name);
    Text all = {0};
    Status status = status_ok();
    for (int64_t i = 0; i < count; i++) {
        char *file = text_join_path(path, names[i]);
        H5Digest one;
        if (!status_failed(status))
            status = h5_digest_file(file, &one);
        if (!status_failed(status)) {
            text_append_string(&all, names[i]);
            text_append(&all, one.bytes, sizeof one.bytes);
        }
        memory_free(&file);
        memory_free(&names[i]);
    }
    *digest = h5_digest_bytes(text_string(&all), all.size);
    text_free(&all);
    memory_free(&names);
    return status;
}

/* An artifact of ours, or a rollout that another program wrote. */
static Status digest_artifact(const char *path, H5Digest *digest)
{
    H5File *file = NULL;
    TRY(h5_open_foreign(path, NULL, &file));
    Status status = h5_digest_semantic(file, digest);
    h5_close(&file);
    return status;
}

Status inputs_text(const Inputs *inputs, Text *text)
{
    text_append(text, "", 0);
    for (int i = 0; i < inputs->count; i++) {
        const char *path = inputs->path[i];
        struct stat info;
        H5Digest digest;
        char hex[H5_DIGEST_TEXT] = "absent";
        if (stat(path, &info) == 0) {
            Status status = S_ISDIR(info.st_mode)         ? digest_directory(path, &digest)
                            : text_ends_with(path, ".h5") ? digest_artifact(path, &digest)
                                                          : h5_digest_file(path, &digest);
            TRY(status);
            h5_digest_text(digest, hex);
        }
        text_printf(text, "%s  %s\n", hex, path);
    }
    return status_ok();
}
