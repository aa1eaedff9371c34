/* tokenizer_huggingface.c -- tokenizer.json to a Tokenizer: vocabulary, merges, added tokens, and which tokens are BOS and
 * EOS. Every number of the file is checked before it is used. */
#include <string.h>
#include <xxhash.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

enum { ID_SLACK = 1 << 16, PIECE_BYTES_MAX = 1 << 20 };

/* --- Vocabulary and merges -----------------------------------------------------------------------------------------*/

static Status check_id(JsonPlace place, const char *token, const json_t *value, int64_t limit, int32_t *id)
{
    if (!json_is_integer(value))
        return json_error(place, "token \"%.100s\": expected an id, found %s", token, json_type_name(value));
    int64_t number = json_integer_value(value);
    if (number < 0 || number >= limit)
        return json_error(place, "token \"%.100s\": id %lld is outside of 0..%lld", token, (long long)number,
                          (long long)limit - 1);
    *id = (int32_t)number;
    return status_ok();
}

/* Largest id + 1 over vocabulary and added tokens. Ids may have holes, but not more than ID_SLACK and as many again. */
static Status measure_vocab(JsonPlace place, const json_t *vocab, const json_t *added, int32_t *size)
{
    int64_t entries = (int64_t)json_object_size(vocab) + (int64_t)json_array_size(added);
    int64_t limit = 2 * entries + ID_SLACK;
    if (entries < 1 || limit > INT32_MAX / 4)
        return json_error(place, "a vocabulary of %lld tokens", (long long)entries);
    const char *token;
    json_t *value;
    int32_t id;
    *size = 0;
    json_object_foreach((json_t *)vocab, token, value)
    {
        TRY(check_id(place, token, value, limit, &id));
        *size = id >= *size ? id + 1 : *size;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        TRY(json_check_object(place, json_array_get(added, i)));
        TRY(check_id(place, "(added)", json_object_get(json_array_get(added, i), "id"), limit, &id));
        *size = id >= *size ? id + 1 : *size;
    }
    return status_ok();
}

static Status parse_vocab(Bpe *bpe, JsonPlace place, const json_t *vocab)
{
    const char *token;
    json_t *value;
    json_object_foreach((json_t *)vocab, token, value)
    {
        size_t size = strlen(token);
        if (size > PIECE_BYTES_MAX)
            return json_error(place, "a token of %zu bytes", size);
        if (!bpe_add_piece(bpe, (int32_t)json_integer_value(value), token, size))
            return json_error(place, "token \"%.100s\": id %lld stands twice", token,
                              (long long)json_integer_value(value));
    }
    for (int byte = 0; byte < 256; byte++) {
        Text name = {0};
        text_printf(&name, "<0x%02X>", byte);
        bpe->byte_ids[byte] = bpe_find(bpe, name.bytes, name.size);
        text_free(&name);
    }
    return status_ok();
}

/* "left right", or ["left", "right"] where tokens may hold spaces. */
static Status split_merge(JsonPlace place, const json_t *merge, size_t rank, const char **left, size_t *left_size,
                          const char **right, size_t *right_size)
{
    if (json_is_array(merge) && json_array_size(merge) == 2 && json_is_string(json_array_get(merge, 0)) &&
        json_is_string(json_array_get(merge, 1))) {
        *left = json_string_value(json_array_get(merge, 0));
        *left_size = json_string_length(json_array_get(merge, 0));
        *right = json_string_value(json_array_get(merge, 1));
        *right_size = json_string_length(json_array_get(merge, 1));
        return status_ok();
    }
    const char *space = json_is_string(merge) ? strchr(json_string_value(merge), ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return json_error(place, "merge %zu: expected two tokens, found %s", rank, json_type_name(merge));
    *left = json_string_value(merge);
    *left_size = (size_t)(space - *left);
    *right = space + 1;
    *right_size = json_string_length(merge) - *left_size - 1;
    return status_ok();
}

static Status parse_merges(Bpe *bpe, JsonPlace place, const json_t *merges, bool ranked_by_result)
{
    size_t count = json_array_size(merges);
    if (count > INT32_MAX / 4)
        return json_error(place, "%zu merges", count);
    bpe_reserve_merges(bpe, (int64_t)count);
    Text joined = {0};
    Status status = status_ok();
    int32_t last_id = -1, rank = 0;
    for (size_t i = 0; i < count; i++) {
        const char *left = NULL, *right = NULL;
        size_t left_size = 0, right_size = 0;
        TRY_GOTO(split_merge(place, json_array_get(merges, i), i, &left, &left_size, &right, &right_size), done);
        text_clear(&joined);
        text_append(&joined, left, left_size);
        text_append(&joined, right, right_size);
        int32_t left_id = bpe_find(bpe, left, left_size), right_id = bpe_find(bpe, right, right_size);
        int32_t id = bpe_find(bpe, text_string(&joined), joined.size);
        if (left_id < 0 || right_id < 0 || id < 0) {
            status = json_error(place, "merge %zu: \"%.100s\" is not in the vocabulary", i,
                                left_id < 0    ? left
                                : right_id < 0 ? right
                                               : text_string(&joined));
            goto done;
        }
        if (!ranked_by_result || id != last_id)
            rank = (int32_t)i;
        last_id = id;
        bpe_add_merge(bpe, left_id, right_id, rank, id);
    }
done:
    text_free(&joined);
    return status;
}

static Status refuse_unsupported(JsonPlace place, const json_t *model)
{
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;
    if (!json_has(model, "merges") || json_has(model, "type"))
        TRY(json_get_string(place, model, "type", JSON_REQUIRED, &type, NULL));
    if (strcmp(type, "BPE") != 0)
        return json_error(place, "%s is not supported as a tokenizer model; BPE is", type);
    TRY(json_get_string(place, model, "continuing_subword_prefix", JSON_OPTIONAL, &prefix, NULL));
    TRY(json_get_string(place, model, "end_of_word_suffix", JSON_OPTIONAL, &suffix, NULL));
    TRY(json_get_double(place, model, "dropout", JSON_OPTIONAL, &dropout));
    if (*prefix || *suffix)
        return json_error(place, "BPE with continuing_subword_prefix or end_of_word_suffix is not supported");
    if (!(dropout == 0))
        return json_error(place, "BPE with dropout is not supported");
    return status_ok();
}

static Status parse_model(Tokenizer *tokenizer, JsonPlace place, const json_t *root, const json_t *model)
{
    const json_t *vocab, *merges, *added = NULL;
    TRY(refuse_unsupported(place, model));
    TRY(json_get_object(place, model, "vocab", JSON_REQUIRED, &vocab));
    TRY(json_get_array(place, model, "merges", JSON_REQUIRED, &merges));
    TRY(json_get_array(place, root, "added_tokens", JSON_OPTIONAL, &added));
    int32_t size = 0;
    TRY(measure_vocab(place, vocab, added, &size));
    Bpe *bpe = &tokenizer->bpe;
    bpe_init(bpe, size, (int32_t)(json_object_size(vocab) + json_array_size(added)));
    TRY(json_get_bool(place, model, "byte_fallback", JSON_OPTIONAL, &bpe->byte_fallback));
    TRY(json_get_bool(place, model, "fuse_unk", JSON_OPTIONAL, &bpe->fuse_unk));
    TRY(json_get_bool(place, model, "ignore_merges", JSON_OPTIONAL, &bpe->ignore_merges));
    TRY(parse_vocab(bpe, place, vocab));
    TRY(parse_merges(bpe, place, merges, tokenizer->sentencepiece));
    const char *unk = NULL;
    size_t unk_size = 0;
    TRY(json_get_string(place, model, "unk_token", JSON_OPTIONAL, &unk, &unk_size));
    if (unk && (bpe->unk = bpe_find(bpe, unk, unk_size)) < 0)
        return json_error(place, "unk_token \"%.100s\" is not in the vocabulary", unk);
    return status_ok();
}

/* --- Added tokens --------------------------------------------------------------------------------------------------*/

static Status parse_added_token(Tokenizer *tokenizer, JsonPlace place, const json_t *value)
{
    AddedToken token = {0};
    const char *content;
    size_t size;
    int64_t id;
    TRY(json_get_string(place, value, "content", JSON_REQUIRED, &content, &size));
    TRY(json_get_int64(place, value, "id", JSON_REQUIRED, &id));
    token.special = false;
    TRY(json_get_bool(place, value, "special", JSON_OPTIONAL, &token.special));
    token.normalized = !token.special;
    TRY(json_get_bool(place, value, "normalized", JSON_OPTIONAL, &token.normalized));
    TRY(json_get_bool(place, value, "single_word", JSON_OPTIONAL, &token.single_word));
    TRY(json_get_bool(place, value, "lstrip", JSON_OPTIONAL, &token.lstrip));
    TRY(json_get_bool(place, value, "rstrip", JSON_OPTIONAL, &token.rstrip));
    token.id = bpe_find(&tokenizer->bpe, content, size);
    if (token.id < 0) {
        if (size > PIECE_BYTES_MAX || !bpe_add_piece(&tokenizer->bpe, (int32_t)id, content, size))
            return json_error(place, "added token \"%.100s\": id %lld is taken by another token", content,
                              (long long)id);
        token.id = (int32_t)id;
    } else if (token.id != id) {
        return json_error(place, "added token \"%.100s\": id %lld here, %d in the vocabulary", content, (long long)id,
                          token.id);
    }
    tokenizer->special[token.id] = token.special;
    if (!token.normalized) {
        added_tokens_append(&tokenizer->added, &token, content, size);
        return status_ok();
    }
    Text normalized = {0};
    text_append(&normalized, content, size);
    Status status = normalizer_apply(&tokenizer->normalizer, true, &normalized);
    if (!status_failed(status))
        added_tokens_append(&tokenizer->added_normalized, &token, text_string(&normalized), normalized.size);
    text_free(&normalized);
    return status;
}

static Status parse_added(Tokenizer *tokenizer, JsonPlace place, const json_t *root)
{
    const json_t *list = NULL;
    TRY(json_get_array(place, root, "added_tokens", JSON_OPTIONAL, &list));
    tokenizer->special = memory_new((size_t)tokenizer->bpe.size, sizeof *tokenizer->special);
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(parse_added_token(tokenizer, place, json_array_get(list, i)));
    added_tokens_sort(&tokenizer->added);
    added_tokens_sort(&tokenizer->added_normalized);
    return status_ok();
}

/* --- Who is BOS ----------------------------------------------------------------------------------------------------*/

/* "</s>" or {"content": "</s>", ...}; -1 where there is no such key, or the token is not in the vocabulary. */
static int32_t hinted_token(const Tokenizer *tokenizer, const json_t *file, const char *key)
{
    const json_t *value = json_object_get(file, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    return json_is_string(value) ? bpe_find(&tokenizer->bpe, json_string_value(value), json_string_length(value)) : -1;
}

/* config.json has ids, or (EOS) a list of ids of which the first is taken. */
static int32_t hinted_id(const Tokenizer *tokenizer, const json_t *file, const char *key)
{
    const json_t *value = json_object_get(file, key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    return id >= 0 && id < tokenizer->bpe.size && tokenizer->bpe.pieces[id].offset != UINT32_MAX ? (int32_t)id : -1;
}

static int32_t find_role(const Tokenizer *tokenizer, const TokenizerHints *hints, const char *token_key,
                         const char *id_key, const char *const *usual)
{
    int32_t id = hinted_token(tokenizer, hints->tokenizer_config, token_key);
    if (id >= 0)
        return id;
    if (json_object_get(hints->tokenizer_config, token_key)) /* null: the tokenizer says that it has none */
        return -1;
    if ((id = hinted_token(tokenizer, hints->special_tokens_map, token_key)) >= 0)
        return id;
    if ((id = hinted_id(tokenizer, hints->config, id_key)) >= 0)
        return id;
    for (; *usual; usual++)
        if ((id = tokenizer_token_id(tokenizer, *usual)) >= 0 && tokenizer->special[id])
            return id;
    return -1;
}

/* The post-processor puts the token `id` in front of a text. */
static bool template_starts_with(const json_t *post, const Tokenizer *tokenizer, int32_t id)
{
    const json_t *type = json_object_get(post, "type");
    if (!json_is_string(type))
        return false;
    if (strcmp(json_string_value(type), "Sequence") == 0) {
        const json_t *list = json_object_get(post, "processors");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *inner = json_array_get(list, i);
            if (!json_object_get(inner, "processors") && template_starts_with(inner, tokenizer, id))
                return true;
        }
        return false;
    }
    if (strcmp(json_string_value(type), "TemplateProcessing") != 0)
        return false;
    const json_t *first = json_array_get(json_object_get(post, "single"), 0);
    const json_t *name = json_object_get(json_object_get(first, "SpecialToken"), "id");
    return json_is_string(name) && id >= 0 &&
           bpe_find(&tokenizer->bpe, json_string_value(name), json_string_length(name)) == id;
}

static Status role_from_canonical(const Tokenizer *tokenizer, JsonPlace place, const json_t *own, const char *key,
                                  int32_t *id)
{
    int64_t value;
    TRY(json_get_int64(place, own, key, JSON_REQUIRED, &value));
    if (value < -1 || value >= tokenizer->bpe.size)
        return json_error(place, "model.tercet.%s: %lld is no token", key, (long long)value);
    *id = (int32_t)value;
    return status_ok();
}

static Status parse_roles(Tokenizer *tokenizer, JsonPlace place, const json_t *root, json_t *model,
                          const TokenizerHints *hints)
{
    static const char *const bos[] = {"<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>", NULL};
    static const char *const eos[] = {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", NULL};
    static const char *const pad[] = {"<pad>", "<|padding|>", "<|pad|>", "[PAD]", NULL};
    static const char *const unk[] = {NULL};
    const json_t *own = json_object_get(model, "tercet");
    if (own) {
        TRY(role_from_canonical(tokenizer, place, own, "bos", &tokenizer->bos));
        TRY(role_from_canonical(tokenizer, place, own, "eos", &tokenizer->eos));
        TRY(role_from_canonical(tokenizer, place, own, "pad", &tokenizer->pad));
        TRY(role_from_canonical(tokenizer, place, own, "unk", &tokenizer->unk));
        TRY(json_get_bool(place, own, "adds_bos", JSON_REQUIRED, &tokenizer->adds_bos));
    } else {
        tokenizer->bos = find_role(tokenizer, hints, "bos_token", "bos_token_id", bos);
        tokenizer->eos = find_role(tokenizer, hints, "eos_token", "eos_token_id", eos);
        tokenizer->pad = find_role(tokenizer, hints, "pad_token", "pad_token_id", pad);
        tokenizer->unk = tokenizer->bpe.unk;
        if (tokenizer->unk < 0)
            tokenizer->unk = find_role(tokenizer, hints, "unk_token", "unk_token_id", unk);
        tokenizer->adds_bos = template_starts_with(json_object_get(root, "post_processor"), tokenizer, tokenizer->bos);
    }
    if (hints->tokenizer_config)
        TRY(json_get_bool(hints->place, hints->tokenizer_config, "add_bos_token", JSON_OPTIONAL, &tokenizer->adds_bos));
    tokenizer->adds_bos = tokenizer->adds_bos && tokenizer->bos >= 0;
    json_t *canonical =
        json_pack("{s:i, s:i, s:i, s:i, s:b, s:b}", "bos", tokenizer->bos, "eos", tokenizer->eos, "pad", tokenizer->pad,
                  "unk", tokenizer->unk, "adds_bos", tokenizer->adds_bos, "sentencepiece", tokenizer->sentencepiece);
    REQUIRE(canonical && json_object_set_new(model, "tercet", canonical) == 0, "the tokenizer's roles as JSON");
    return status_ok();
}

json_t *tokenizer_bos_template(const char *token, int32_t id)
{
    json_t *special = json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", token, "type_id", 0);
    json_t *sequences[2];
    for (int i = 0; i < 2; i++)
        sequences[i] = json_pack("{s:{s:s, s:i}}", "Sequence", "id", i ? "B" : "A", "type_id", i);
    json_t *value = json_pack("{s:s, s:[O, O], s:[O, O, O], s:{s:{s:s, s:[i], s:[s]}}}", "type", "TemplateProcessing",
                              "single", special, sequences[0], "pair", special, sequences[0], sequences[1],
                              "special_tokens", token, "id", token, "ids", (int)id, "tokens", token);
    REQUIRE(value, "a post-processor from its parts");
    json_decref(special);
    json_decref(sequences[0]);
    json_decref(sequences[1]);
    return value;
}

/* --- The whole -----------------------------------------------------------------------------------------------------*/

Status tokenizer_parse(Tokenizer *tokenizer, JsonPlace place, json_t *root, const TokenizerHints *hints)
{
    TRY(json_check_object(place, root));
    const json_t *model;
    TRY(json_get_object(place, root, "model", JSON_REQUIRED, &model));
    const json_t *own = NULL;
    TRY(json_get_object(place, model, "tercet", JSON_OPTIONAL, &own));
    if (own)
        TRY(json_get_bool(place, own, "sentencepiece", JSON_REQUIRED, &tokenizer->sentencepiece));
    TRY(normalizer_parse(&tokenizer->normalizer, place, json_object_get(root, "normalizer"), 0));
    TRY(pretokenizer_parse(&tokenizer->pretokenizer, place, json_object_get(root, "pre_tokenizer"), 0));
    TRY(parse_model(tokenizer, place, root, model));
    TRY(parse_added(tokenizer, place, root));
    TRY(decoder_parse(&tokenizer->decoder, place, json_object_get(root, "decoder"), &tokenizer->bpe));
    TRY(parse_roles(tokenizer, place, root, json_object_get(root, "model"), hints));
    json_append(&tokenizer->canonical, root);
    tokenizer->digest = XXH3_64bits(tokenizer->canonical.bytes, tokenizer->canonical.size);
    return status_ok();
}
