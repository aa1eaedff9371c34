/* tokenizer_open.c -- which files make a tokenizer, and writing one for other programs. */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

/* --- The formats, by their first byte or their name ------------------------------------------------------------------*/

/* The tokenizer.json of GPT-2's encoder.json (id of each token) and vocab.bpe (merges, one a line). */
static Status pair_to_json(const char *vocab_path, const char *merges_path, json_t **root)
{
    json_t *vocab = NULL, *merges = json_array();
    Text lines = {0};
    Status status;
    *root = NULL;
    TRY_GOTO(json_read_file(vocab_path, TOKENIZER_FILE_BYTES_MAX, &vocab), done);
    TRY_GOTO(json_check_object((JsonPlace){vocab_path, 0}, vocab), done);
    TRY_GOTO(text_read_file(merges_path, TOKENIZER_FILE_BYTES_MAX, &lines), done);
    int64_t line = 0;
    for (const char *at = text_string(&lines), *end; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, "\n");
        size_t size = (size_t)(end - at);
        size -= size && at[size - 1] == '\r';
        line++;
        if (!size || (line == 1 && text_starts_with(at, "#version")))
            continue;
        json_t *merge = json_stringn(at, size);
        if (!merge) {
            status = json_error((JsonPlace){merges_path, line}, "expected two tokens, found bytes that are not UTF-8");
            goto done;
        }
        json_array_append_new(merges, merge);
    }
    json_t *end_of_text = json_object_get(vocab, "<|endoftext|>"), *added = json_array();
    if (json_is_integer(end_of_text))
        json_array_append_new(added, json_pack("{s:O, s:s, s:b, s:b}", "id", end_of_text, "content", "<|endoftext|>",
                                               "special", 1, "normalized", 0));
    static const char bytes[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}";
    *root = json_pack("{s:s, s:n, s:n, s:o, s:n, s:o, s:n, s:o, s:{s:s, s:O, s:O}}", "version", "1.0", "truncation",
                      "padding", "added_tokens", added, "normalizer", "pre_tokenizer", json_loads(bytes, 0, NULL),
                      "post_processor", "decoder", json_loads(bytes, 0, NULL), "model", "type", "BPE", "vocab", vocab,
                      "merges", merges);
    REQUIRE(*root, "a tokenizer.json from its parts");
done:
    json_decref(vocab);
    json_decref(merges);
    text_free(&lines);
    return status;
}

static Status bytes_to_json(const char *name, const char *bytes, size_t size, json_t **root)
{
    *root = NULL;
    size_t first = 0;
    while (first < size && strchr(" \t\r\n", bytes[first]) && bytes[first])
        first++;
    if (first == size)
        return status_error(STATUS_INPUT, "%s: expected a tokenizer, found an empty file", name);
    /* A SentencePiece model starts with its first piece: field 1, 0x0a, which is also a newline. */
    if (bytes[first] == '{')
        return json_read_bytes(name, bytes, size, root);
    if (bytes[0] == 0x0a)
        return sentencepiece_to_json(name, bytes, size, root);
    return status_error(STATUS_INPUT, "%s: expected a tokenizer.json or a tokenizer.model, found neither", name);
}

Status tokenizer_from_bytes(Tokenizer **tokenizer, const char *name, const void *bytes, size_t size)
{
    *tokenizer = NULL;
    json_t *root;
    TokenizerHints hints = {0};
    TRY(bytes_to_json(name, bytes, size, &root));
    Status status = tokenizer_from_json(tokenizer, name, root, &hints);
    json_decref(root);
    return status;
}

/* --- Files ---------------------------------------------------------------------------------------------------------*/

static bool file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* *value stays NULL where the file is not there. */
static Status read_beside(const char *directory, const char *name, json_t **value)
{
    char *path = text_join_path(directory, name);
    Status status = file_exists(path) ? json_read_file(path, TOKENIZER_FILE_BYTES_MAX, value) : status_ok();
    if (!status_failed(status) && *value)
        status = json_check_object((JsonPlace){path, 0}, *value);
    memory_free(&path);
    return status;
}

static Status file_to_json(const char *path, const char *directory, const char *base, json_t **root)
{
    bool gpt2 = strcmp(base, "encoder.json") == 0;
    if (gpt2 || strcmp(base, "vocab.json") == 0) {
        char *merges = text_join_path(directory, gpt2 ? "vocab.bpe" : "merges.txt");
        Status status = pair_to_json(path, merges, root);
        memory_free(&merges);
        return status;
    }
    Text bytes = {0};
    Status status = text_read_file(path, TOKENIZER_FILE_BYTES_MAX, &bytes);
    if (!status_failed(status))
        status = bytes_to_json(path, text_string(&bytes), bytes.size, root);
    text_free(&bytes);
    return status;
}

static Status open_file(Tokenizer **tokenizer, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    char *directory = memory_strdup(slash ? path : ".");
    if (slash)
        directory[slash == path ? 1 : slash - path] = 0;
    char *config_path = text_join_path(directory, "tokenizer_config.json");
    json_t *root = NULL, *tokenizer_config = NULL, *map = NULL, *config = NULL;
    Status status;
    TRY_GOTO(file_to_json(path, directory, base, &root), done);
    TRY_GOTO(read_beside(directory, "tokenizer_config.json", &tokenizer_config), done);
    TRY_GOTO(read_beside(directory, "special_tokens_map.json", &map), done);
    TRY_GOTO(read_beside(directory, "config.json", &config), done);
    TokenizerHints hints = {{config_path, 0}, tokenizer_config, map, config};
    status = tokenizer_from_json(tokenizer, path, root, &hints);
done:
    json_decref(root);
    json_decref(tokenizer_config);
    json_decref(map);
    json_decref(config);
    memory_free(&directory);
    memory_free(&config_path);
    return status;
}

Status tokenizer_open(Tokenizer **tokenizer, const char *path)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "encoder.json"};
    *tokenizer = NULL;
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return open_file(tokenizer, path);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *file = text_join_path(path, names[i]);
        bool exists = file_exists(file);
        Status status = exists ? open_file(tokenizer, file) : status_ok();
        memory_free(&file);
        if (exists)
            return status;
    }
    return status_error(STATUS_INPUT,
                        "%s: no tokenizer here (tokenizer.json, tokenizer.model, vocab.json or encoder.json)", path);
}

/* --- For other programs --------------------------------------------------------------------------------------------*/

static void set_token(json_t *object, const char *key, const Tokenizer *tokenizer, int32_t id)
{
    if (id >= 0)
        json_object_set_new(object, key, json_string(tokenizer_token_text(tokenizer, id)));
}

Status tokenizer_save(const Tokenizer *tokenizer, const char *directory)
{
    char *path = text_join_path(directory, "tokenizer.json");
    Status status = text_write_file(path, tokenizer->canonical.bytes, tokenizer->canonical.size);
    memory_free(&path);
    TRY(status);
    json_t *config = json_pack("{s:s, s:b, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "add_bos_token",
                               tokenizer->adds_bos, "add_eos_token", 0, "clean_up_tokenization_spaces", 0);
    set_token(config, "bos_token", tokenizer, tokenizer->bos);
    set_token(config, "eos_token", tokenizer, tokenizer->eos);
    set_token(config, "pad_token", tokenizer, tokenizer->pad);
    set_token(config, "unk_token", tokenizer, tokenizer->unk);
    Text text = {0};
    json_append(&text, config);
    text_append_string(&text, "\n");
    path = text_join_path(directory, "tokenizer_config.json");
    status = text_write_file(path, text.bytes, text.size);
    memory_free(&path);
    text_free(&text);
    json_decref(config);
    return status;
}
