/* huggingface_config.c -- config.json: one row per key, read and written by the same table. */
#include "core/store/huggingface_parts.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

typedef enum FieldKind { FIELD_INT, FIELD_FLOAT } FieldKind;

typedef struct FieldRow {
    const char *key;
    FieldKind kind;
    size_t offset;   /* in ModelShape */
    bool required;   /* else `fallback`, or what shape_complete() derives where that is 0 */
    double fallback; /* what transformers takes when the key is absent */
} FieldRow;

/* A key that must be absent or have one of the values (JSON, separated by '|'); the first is written. */
typedef struct FixedRow {
    const char *key, *values;
    bool written;
} FixedRow;

#define SHAPE_INT(key, field, ...)                                                                                     \
    {                                                                                                                  \
        key, FIELD_INT, offsetof(ModelShape, field), __VA_ARGS__                                                       \
    }
#define SHAPE_FLOAT(key, field, ...)                                                                                   \
    {                                                                                                                  \
        key, FIELD_FLOAT, offsetof(ModelShape, field), __VA_ARGS__                                                     \
    }

static const FieldRow llama_fields[] = {
    SHAPE_INT("num_hidden_layers", layers, true, 0),
    SHAPE_INT("hidden_size", width, true, 0),
    SHAPE_INT("num_attention_heads", heads, true, 0),
    SHAPE_INT("num_key_value_heads", kv_heads, false, 0),
    SHAPE_INT("head_dim", head_dim, false, 0),
    SHAPE_INT("intermediate_size", ffn, true, 0),
    SHAPE_INT("vocab_size", vocab, true, 0),
    SHAPE_INT("max_position_embeddings", positions_max, false, 2048),
    SHAPE_FLOAT("rms_norm_eps", norm_epsilon, false, 1e-6),
    SHAPE_FLOAT("rope_theta", rope_base, false, 10000),
    {0},
};
static const FixedRow llama_fixed[] = {
    {"hidden_act", "\"silu\"|\"swish\"", true},
    {"attention_bias", "false", true},
    {"mlp_bias", "false", true},
    {"rope_scaling", "null|{\"type\": \"default\"}|{\"rope_type\": \"default\"}", true},
    {"quantization_config", "null", false},
    {0},
};

static const FieldRow gpt2_fields[] = {
    SHAPE_INT("n_layer", layers, true, 0),
    SHAPE_INT("n_embd", width, true, 0),
    SHAPE_INT("n_head", heads, true, 0),
    SHAPE_INT("n_inner", ffn, false, 0),
    SHAPE_INT("vocab_size", vocab, true, 0),
    SHAPE_INT("n_positions", positions_max, false, 1024),
    SHAPE_FLOAT("layer_norm_epsilon", norm_epsilon, false, 1e-5),
    {0},
};
static const FixedRow gpt2_fixed[] = {
    {"activation_function", "\"gelu_new\"|\"gelu_pytorch_tanh\"", true},
    {"scale_attn_weights", "true", true},
    {"scale_attn_by_inverse_layer_idx", "false", true},
    {"add_cross_attention", "false", true},
    {"quantization_config", "null", false},
    {0},
};

static const struct ConfigTable {
    const char *arch;
    const FieldRow *fields;
    const FixedRow *fixed;
    const char *class_lm, *class_score, *class_none; /* of transformers, for `architectures` */
} tables[] = {
    {"llama", llama_fields, llama_fixed, "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaModel"},
    {"gpt2", gpt2_fields, gpt2_fixed, "GPT2LMHeadModel", "GPT2ForSequenceClassification", "GPT2Model"},
};

static const struct ConfigTable *table_of(const Arch *arch)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (strcmp(tables[i].arch, arch->name) == 0)
            return &tables[i];
    REQUIRE(false, "no config.json for family %s", arch->name);
    return NULL;
}

/* --- Reading ------------------------------------------------------------------------------------------------------ */

static Status field_read(JsonPlace place, const json_t *root, const FieldRow *row, ModelShape *shape)
{
    char *field = (char *)shape + row->offset;
    JsonNeed need = row->required ? JSON_REQUIRED : JSON_OPTIONAL;
    if (row->kind == FIELD_INT) {
        int64_t value = (int64_t)row->fallback;
        TRY(json_get_int64(place, root, row->key, need, &value));
        memcpy(field, &value, sizeof value);
        return status_ok();
    }
    double value = row->fallback;
    TRY(json_get_double(place, root, row->key, need, &value));
    float narrow = (float)value;
    memcpy(field, &narrow, sizeof narrow);
    return status_ok();
}

static Status fixed_check(JsonPlace place, const json_t *root, const FixedRow *row)
{
    const json_t *found = json_object_get(root, row->key);
    if (!found)
        return status_ok();
    Text permitted = {0};
    bool matches = json_is_null(found) && strcmp(row->values, "null") == 0;
    for (const char *at = row->values; *at;) {
        size_t size = strcspn(at, "|");
        json_t *value = json_loadb(at, size, JSON_DECODE_ANY, NULL);
        REQUIRE(value, "row %s of the table is not JSON", row->key);
        matches |= json_equal(found, value);
        json_decref(value);
        text_printf(&permitted, "%s%.*s", permitted.size ? " or " : "", (int)size, at);
        at += size + (at[size] == '|');
    }
    Status status = status_ok();
    if (!matches) {
        Text text = {0};
        json_append(&text, found);
        status = json_error(place, "\"%s\" is %.200s, and this program only does %s", row->key, text_string(&text),
                            text_string(&permitted));
        text_free(&text);
    }
    text_free(&permitted);
    return status;
}

/* Transformers 5 keeps the rotary settings in an object of their own. */
static Status rope_parameters_read(JsonPlace place, const json_t *root, ModelShape *shape)
{
    const json_t *rope = NULL;
    TRY(json_get_object(place, root, "rope_parameters", JSON_OPTIONAL, &rope));
    if (!rope)
        return status_ok();
    const char *type = "default";
    TRY(json_get_string(place, rope, "rope_type", JSON_OPTIONAL, &type, NULL));
    if (strcmp(type, "default") != 0)
        return json_error(place, "\"rope_parameters\" has rope_type \"%s\", and this program only does \"default\"",
                          type);
    double base = shape->rope_base;
    TRY(json_get_double(place, rope, "rope_theta", JSON_OPTIONAL, &base));
    shape->rope_base = (float)base;
    return status_ok();
}

static Status shape_read(JsonPlace place, const json_t *root, ModelShape *shape)
{
    TRY(json_check_object(place, root));
    const char *type;
    TRY(json_get_string(place, root, "model_type", JSON_REQUIRED, &type, NULL));
    const Arch *arch = arch_find_huggingface(type);
    if (!arch)
        return json_error(place, "model_type \"%s\" is not a family this program has; there are %s", type,
                          arch_names());
    *shape = (ModelShape){.arch = arch, .tied = arch->tied};
    const struct ConfigTable *table = table_of(arch);
    for (const FieldRow *row = table->fields; row->key; row++)
        TRY(field_read(place, root, row, shape));
    for (const FixedRow *row = table->fixed; row->key; row++)
        TRY(fixed_check(place, root, row));
    TRY(json_get_bool(place, root, "tie_word_embeddings", JSON_OPTIONAL, &shape->tied));
    if (arch->position == POSITION_ROPE)
        TRY(rope_parameters_read(place, root, shape));

    if (!shape->kv_heads)
        shape->kv_heads = shape->heads;
    if (!shape->ffn)
        shape->ffn = shape->width > 0 && shape->width < INT64_MAX / 4 ? 4 * shape->width : 0;
    if (!shape->head_dim && shape->heads > 0) {
        if (shape->width % shape->heads != 0)
            return json_error(place, "a width of %lld does not divide into %lld heads", (long long)shape->width,
                              (long long)shape->heads);
        shape->head_dim = shape->width / shape->heads;
    }
    return model_shape_check(shape, place.path);
}

Status huggingface_config_read(const char *path, ModelShape *shape)
{
    json_t *root;
    TRY(json_read_file(path, CONFIG_BYTES_MAX, &root));
    JsonPlace place = {path, 0};
    Status status = shape_read(place, root, shape);
    json_decref(root);
    return status;
}

/* --- Writing ------------------------------------------------------------------------------------------------------ */

static void id_write(Text *text, const char *key, int32_t id)
{
    if (id >= 0)
        text_printf(text, "  \"%s\": %d,\n", key, (int)id);
}

void huggingface_config_write(const Model *model, const Tokenizer *tokenizer, Text *text)
{
    const ModelShape *shape = &model->shape;
    const struct ConfigTable *table = table_of(shape->arch);
    const char *class = model->head == HEAD_LM       ? table->class_lm
                        : model->head == HEAD_SCALAR ? table->class_score
                                                     : table->class_none;
    text_printf(text, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n", class,
                shape->arch->huggingface);
    for (const FieldRow *row = table->fields; row->key; row++) {
        const char *field = (const char *)shape + row->offset;
        if (row->kind == FIELD_INT) {
            int64_t value;
            memcpy(&value, field, sizeof value);
            text_printf(text, "  \"%s\": %lld,\n", row->key, (long long)value);
        } else {
            float value;
            memcpy(&value, field, sizeof value);
            text_printf(text, "  \"%s\": ", row->key);
            text_append_float(text, value);
            text_append_string(text, ",\n");
        }
    }
    for (const FixedRow *row = table->fixed; row->key; row++)
        if (row->written)
            text_printf(text, "  \"%s\": %.*s,\n", row->key, (int)strcspn(row->values, "|"), row->values);
    if (model->head == HEAD_SCALAR)
        text_append_string(text, "  \"id2label\": {\"0\": \"score\"},\n  \"label2id\": {\"score\": 0},\n");
    if (tokenizer) {
        id_write(text, "bos_token_id", tokenizer_bos(tokenizer));
        id_write(text, "eos_token_id", tokenizer_eos(tokenizer));
        id_write(text, "pad_token_id", tokenizer_pad(tokenizer));
    }
    text_printf(text, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"float32\"\n}\n",
                shape->tied ? "true" : "false");
}
