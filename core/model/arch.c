/* arch.c -- the table of model families, and what makes a shape valid. */
#include "core/model/arch.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/text.h"

static const Arch archs[] = {
    {.name = "llama", .norm = NORM_RMS, .position = POSITION_ROPE, .act = ACT_SWIGLU, .huggingface = "llama"},
    {.name = "gpt2",
     .norm = NORM_LAYER,
     .position = POSITION_LEARNED,
     .act = ACT_GELU_TANH,
     .qkv_bias = true,
     .projection_bias = true,
     .mlp_bias = true,
     .tied = true,
     .huggingface = "gpt2"},
};
enum { ARCHS = sizeof archs / sizeof archs[0] };

const Arch *arch_find(const char *name)
{
    for (int i = 0; i < ARCHS; i++)
        if (strcmp(archs[i].name, name) == 0)
            return &archs[i];
    return NULL;
}

const Arch *arch_find_huggingface(const char *model_type)
{
    for (int i = 0; i < ARCHS; i++)
        if (strcmp(archs[i].huggingface, model_type) == 0)
            return &archs[i];
    return NULL;
}

const char *arch_names(void)
{
    return "llama, gpt2";
}

bool arch_gated(const Arch *arch)
{
    return arch->act == ACT_SWIGLU;
}

int64_t model_shape_vocab_stored(const ModelShape *shape)
{
    return (shape->vocab + VOCAB_MULTIPLE - 1) / VOCAB_MULTIPLE * VOCAB_MULTIPLE;
}

/* --- One row per number of a shape: its name in text and messages, and its range ---------------------------------- */

typedef struct ShapeField {
    const char *name;
    size_t offset;
    int64_t min, max;
} ShapeField;

/* The limits keep every product of two of them, and the sum of a billion layers' worth, inside int64_t. */
static const ShapeField shape_fields[] = {
    {"layers", offsetof(ModelShape, layers), 1, 4096},
    {"width", offsetof(ModelShape, width), 1, 1 << 20},
    {"heads", offsetof(ModelShape, heads), 1, 1 << 14},
    {"kv_heads", offsetof(ModelShape, kv_heads), 1, 1 << 14},
    {"head_dim", offsetof(ModelShape, head_dim), 1, 1 << 14},
    {"ffn", offsetof(ModelShape, ffn), 1, 1 << 22},
    {"vocab", offsetof(ModelShape, vocab), 1, 1 << 26},
    {"positions_max", offsetof(ModelShape, positions_max), 1, 1 << 26},
};
enum { SHAPE_FIELDS = sizeof shape_fields / sizeof shape_fields[0] };

static int64_t *shape_field(const ModelShape *shape, int field)
{
    return (int64_t *)((char *)shape + shape_fields[field].offset);
}

Status model_shape_check(const ModelShape *shape, const char *where)
{
    if (!shape->arch)
        return status_error(STATUS_INPUT, "%s: no model family; there are %s", where, arch_names());
    for (int i = 0; i < SHAPE_FIELDS; i++) {
        const ShapeField *field = &shape_fields[i];
        int64_t value = *shape_field(shape, i);
        if (value < field->min || value > field->max)
            return status_error(STATUS_INPUT, "%s: %s is %lld, expected %lld to %lld", where, field->name,
                                (long long)value, (long long)field->min, (long long)field->max);
    }
    if (shape->heads % shape->kv_heads != 0)
        return status_error(STATUS_INPUT, "%s: %lld heads cannot share %lld kv_heads: expected a divisor of heads",
                            where, (long long)shape->heads, (long long)shape->kv_heads);
    if (shape->arch->position == POSITION_ROPE && shape->head_dim % 2 != 0)
        return status_error(STATUS_INPUT, "%s: head_dim is %lld, expected an even number for rotary positions", where,
                            (long long)shape->head_dim);
    if (!(shape->norm_epsilon > 0 && shape->norm_epsilon < 1))
        return status_error(STATUS_INPUT, "%s: norm_epsilon is %g, expected above 0 and below 1", where,
                            (double)shape->norm_epsilon);
    if (shape->arch->position == POSITION_ROPE && !(shape->rope_base > 0 && isfinite(shape->rope_base)))
        return status_error(STATUS_INPUT, "%s: rope_base is %g, expected a positive number", where,
                            (double)shape->rope_base);
    return status_ok();
}

bool model_shape_equal(const ModelShape *a, const ModelShape *b)
{
    if (a->arch != b->arch || a->tied != b->tied || a->norm_epsilon != b->norm_epsilon)
        return false;
    if (a->arch->position == POSITION_ROPE && a->rope_base != b->rope_base)
        return false;
    for (int i = 0; i < SHAPE_FIELDS; i++)
        if (*shape_field(a, i) != *shape_field(b, i))
            return false;
    return true;
}

/* --- Text form ---------------------------------------------------------------------------------------------------- */

char *model_shape_to_text(const ModelShape *shape)
{
    Text text = {0};
    text_printf(&text, "{\"arch\": \"%s\"", shape->arch->name);
    for (int i = 0; i < SHAPE_FIELDS; i++)
        text_printf(&text, ", \"%s\": %lld", shape_fields[i].name, (long long)*shape_field(shape, i));
    text_append_string(&text, ", \"norm_epsilon\": ");
    text_append_float(&text, shape->norm_epsilon);
    if (shape->arch->position == POSITION_ROPE) {
        text_append_string(&text, ", \"rope_base\": ");
        text_append_float(&text, shape->rope_base);
    }
    text_printf(&text, ", \"tied\": %s}", shape->tied ? "true" : "false");
    char *result = memory_strdup(text_string(&text));
    text_free(&text);
    return result;
}

static Status shape_parse(json_t *root, const char *where, ModelShape *shape)
{
    if (!json_is_object(root))
        return status_error(STATUS_INPUT, "%s: expected a JSON object with a model's shape", where);
    const char *name = json_string_value(json_object_get(root, "arch"));
    if (!name)
        return status_error(STATUS_INPUT, "%s: the shape has no text \"arch\"", where);
    shape->arch = arch_find(name);
    if (!shape->arch)
        return status_error(STATUS_INPUT, "%s: unknown model family \"%s\"; there are %s", where, name, arch_names());
    for (int i = 0; i < SHAPE_FIELDS; i++) {
        json_t *value = json_object_get(root, shape_fields[i].name);
        if (!json_is_integer(value))
            return status_error(STATUS_INPUT, "%s: the shape has no whole number \"%s\"", where, shape_fields[i].name);
        *shape_field(shape, i) = json_integer_value(value);
    }
    json_t *epsilon = json_object_get(root, "norm_epsilon"), *base = json_object_get(root, "rope_base");
    json_t *tied = json_object_get(root, "tied");
    if (!json_is_number(epsilon))
        return status_error(STATUS_INPUT, "%s: the shape has no number \"norm_epsilon\"", where);
    if (shape->arch->position == POSITION_ROPE && !json_is_number(base))
        return status_error(STATUS_INPUT, "%s: the shape has no number \"rope_base\"", where);
    if (!json_is_boolean(tied))
        return status_error(STATUS_INPUT, "%s: the shape has no true or false \"tied\"", where);
    shape->norm_epsilon = (float)json_number_value(epsilon);
    shape->rope_base = base ? (float)json_number_value(base) : 0;
    shape->tied = json_is_true(tied);
    return model_shape_check(shape, where);
}

Status model_shape_from_text(const char *text, const char *where, ModelShape *shape)
{
    json_error_t error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return status_error(STATUS_INPUT, "%s: the model's shape is not JSON: line %d: %s", where, error.line,
                            error.text);
    *shape = (ModelShape){0};
    Status status = shape_parse(root, where, shape);
    json_decref(root);
    return status;
}

/* --- The section `model:` ----------------------------------------------------------------------------------------- */

const ConfigKey model_shape_keys[] = {
    CONFIG_KEY_STRING(ModelConfig, arch, "llama",
                      "family of the decoder: llama (RMSNorm, rotary positions, SwiGLU, no biases) or gpt2 (LayerNorm, "
                      "learned positions, GELU, biases). llama learns faster for its size"),
    CONFIG_KEY_INT(ModelConfig, layers, "4", 1, 4096, "decoder layers; four suit the demo's grammar"),
    CONFIG_KEY_INT(ModelConfig, width, "128", 1, 1 << 20,
                   "length of the vector that runs through the layers; a multiple of heads"),
    CONFIG_KEY_INT(ModelConfig, heads, "4", 1, 1 << 14, "query heads; width / heads is the length of each"),
    CONFIG_KEY_INT(
        ModelConfig, kv_heads, "auto", 1, 1 << 14,
        "key and value heads, shared by groups of query heads (grouped-query attention); a divisor of heads. "
        "auto: as many as heads. Fewer make the cache of generation smaller",
        .automatic = true),
    CONFIG_KEY_INT(ModelConfig, ffn, "auto", 1, 1 << 22,
                   "inner width of the MLP. auto: 8/3 of width rounded up to 32 for gated families, which makes their "
                   "three matrices as large as the usual two, else 4 times width",
                   .automatic = true),
    CONFIG_KEY_INT(ModelConfig, positions_max, "512", 1, 1 << 26,
                   "longest sequence in tokens, prompt and answer together"),
    CONFIG_KEY_FLOAT(ModelConfig, norm_epsilon, "1e-5", 1e-12, 0.1,
                     "added to the variance inside norms; 1e-5 is what both families use"),
    CONFIG_KEY_FLOAT(ModelConfig, rope_base, "10000", 1, 1e9,
                     "base of the rotary frequencies (llama); larger for long sequences (Su et al. 2021 use 10000)"),
    CONFIG_KEY_BOOL(ModelConfig, tied, "true",
                    "the output head is the token table: fewer parameters, and better for small models"),
    {0},
};

Status model_shape_from_config(const ModelConfig *config, int64_t vocab, ModelShape *shape)
{
    const Arch *arch = arch_find(config->arch);
    if (!arch)
        return status_error(STATUS_USAGE, "model.arch: unknown family \"%s\"; there are %s", config->arch,
                            arch_names());
    if (config->width % config->heads != 0)
        return status_error(STATUS_USAGE, "model.width: %lld is not a multiple of model.heads = %lld",
                            (long long)config->width, (long long)config->heads);
    int64_t ffn = config->ffn;
    if (ffn == CONFIG_AUTO)
        ffn = arch_gated(arch) ? (config->width * 8 / 3 + 31) / 32 * 32 : 4 * config->width;
    *shape = (ModelShape){
        .arch = arch,
        .layers = config->layers,
        .width = config->width,
        .heads = config->heads,
        .kv_heads = config->kv_heads == CONFIG_AUTO ? config->heads : config->kv_heads,
        .head_dim = config->width / config->heads,
        .ffn = ffn,
        .vocab = vocab,
        .positions_max = config->positions_max,
        .norm_epsilon = (float)config->norm_epsilon,
        .rope_base = (float)config->rope_base,
        .tied = config->tied,
    };
    Status status = model_shape_check(shape, "model");
    if (status_failed(status))
        status.code = STATUS_USAGE;
    return status;
}
