/* huggingface_names.c -- the tensors of each family under the names that transformers gives them, and GPT-2's matrices turned, which lie there with
 * inputs first. */
#include "core/store/huggingface_parts.h"

#include <stdio.h>
#include <string.h>

static const NameRow llama_rows[] = {
    {.name = "embed_tokens.weight", .kind = VIEW_TOKEN},
    {.name = "layers.%d.input_layernorm.weight", .kind = VIEW_ATTENTION_NORM_GAIN},
    {.name = "layers.%d.self_attn.q_proj.weight", .kind = VIEW_QKV_WEIGHT, .part = PART_Q},
    {.name = "layers.%d.self_attn.k_proj.weight", .kind = VIEW_QKV_WEIGHT, .part = PART_K},
    {.name = "layers.%d.self_attn.v_proj.weight", .kind = VIEW_QKV_WEIGHT, .part = PART_V},
    {.name = "layers.%d.self_attn.o_proj.weight", .kind = VIEW_PROJECTION_WEIGHT},
    {.name = "layers.%d.post_attention_layernorm.weight", .kind = VIEW_MLP_NORM_GAIN},
    {.name = "layers.%d.mlp.gate_proj.weight", .kind = VIEW_UP_WEIGHT, .part = PART_GATE},
    {.name = "layers.%d.mlp.up_proj.weight", .kind = VIEW_UP_WEIGHT, .part = PART_UP},
    {.name = "layers.%d.mlp.down_proj.weight", .kind = VIEW_DOWN_WEIGHT},
    {.name = "norm.weight", .kind = VIEW_FINAL_NORM_GAIN},
    {.name = "lm_head.weight", .kind = VIEW_HEAD, .bare = true},
    {.name = "score.weight", .kind = VIEW_SCORE_WEIGHT, .bare = true},
    {.name = "score.bias", .kind = VIEW_SCORE_BIAS, .bare = true, .optional = true},
    {0},
};

static const NameRow gpt2_rows[] = {
    {.name = "wte.weight", .kind = VIEW_TOKEN},
    {.name = "wpe.weight", .kind = VIEW_POSITION},
    {.name = "h.%d.ln_1.weight", .kind = VIEW_ATTENTION_NORM_GAIN},
    {.name = "h.%d.ln_1.bias", .kind = VIEW_ATTENTION_NORM_BIAS},
    {.name = "h.%d.attn.c_attn.weight", .kind = VIEW_QKV_WEIGHT, .transposed = true},
    {.name = "h.%d.attn.c_attn.bias", .kind = VIEW_QKV_BIAS},
    {.name = "h.%d.attn.c_proj.weight", .kind = VIEW_PROJECTION_WEIGHT, .transposed = true},
    {.name = "h.%d.attn.c_proj.bias", .kind = VIEW_PROJECTION_BIAS},
    {.name = "h.%d.ln_2.weight", .kind = VIEW_MLP_NORM_GAIN},
    {.name = "h.%d.ln_2.bias", .kind = VIEW_MLP_NORM_BIAS},
    {.name = "h.%d.mlp.c_fc.weight", .kind = VIEW_UP_WEIGHT, .transposed = true},
    {.name = "h.%d.mlp.c_fc.bias", .kind = VIEW_UP_BIAS},
    {.name = "h.%d.mlp.c_proj.weight", .kind = VIEW_DOWN_WEIGHT, .transposed = true},
    {.name = "h.%d.mlp.c_proj.bias", .kind = VIEW_DOWN_BIAS},
    {.name = "ln_f.weight", .kind = VIEW_FINAL_NORM_GAIN},
    {.name = "ln_f.bias", .kind = VIEW_FINAL_NORM_BIAS},
    {.name = "lm_head.weight", .kind = VIEW_HEAD, .bare = true},
    {.name = "score.weight", .kind = VIEW_SCORE_WEIGHT, .bare = true},
    {.name = "score.bias", .kind = VIEW_SCORE_BIAS, .bare = true, .optional = true},
    {0},
};

/* Tables that follow from the shape, stored as buffers by older versions: rotation frequencies and causal masks. */
static const char *const llama_ignored[] = {".rotary_emb.inv_freq", NULL};
static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias", NULL};

static const struct {
    const char *arch;
    NameTable table;
} tables[] = {
    {"llama", {"model.", llama_rows, llama_ignored}},
    {"gpt2", {"transformer.", gpt2_rows, gpt2_ignored}},
};

const NameTable *huggingface_names(const Arch *arch)
{
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (strcmp(tables[i].arch, arch->name) == 0)
            return &tables[i].table;
    REQUIRE(false, "no Hugging Face names for family %s", arch->name);
    return NULL;
}

void huggingface_part(const ModelShape *shape, const ParamView *view, NamePart part, int64_t *from, int64_t *count)
{
    int64_t q = shape->heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    switch (part) {
    case PART_ALL:
        *from = 0, *count = view->shape[0];
        return;
    case PART_Q:
        *from = 0, *count = q;
        return;
    case PART_K:
        *from = q, *count = kv;
        return;
    case PART_V:
        *from = q + kv, *count = kv;
        return;
    case PART_GATE:
        *from = 0, *count = shape->ffn;
        return;
    case PART_UP:
        *from = shape->ffn, *count = shape->ffn;
        return;
    }
}

void huggingface_row_name(const NameRow *row, const char *prefix, int64_t layer, char *name, size_t size)
{
    const char *hole = strstr(row->name, "%d");
    prefix = row->bare ? "" : prefix;
    if (hole)
        snprintf(name, size, "%s%.*s%lld%s", prefix, (int)(hole - row->name), row->name, (long long)layer, hole + 2);
    else
        snprintf(name, size, "%s%s", prefix, row->name);
}

/* --- Turning ------------------------------------------------------------------------------------------------------- */

enum { TILE = 4 };
typedef float Four __attribute__((vector_size(16), aligned(4)));
typedef int32_t FourIndex __attribute__((vector_size(16)));

static void turn_tile(const float *from, int64_t from_stride, float *to, int64_t to_stride)
{
    Four row[TILE];
    for (int i = 0; i < TILE; i++)
        row[i] = *(const Four *)(from + i * from_stride);
    const FourIndex low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
    Four a = __builtin_shuffle(row[0], row[1], low), b = __builtin_shuffle(row[2], row[3], low);
    Four c = __builtin_shuffle(row[0], row[1], high), d = __builtin_shuffle(row[2], row[3], high);
    *(Four *)(to + 0 * to_stride) = __builtin_shuffle(a, b, first);
    *(Four *)(to + 1 * to_stride) = __builtin_shuffle(a, b, second);
    *(Four *)(to + 2 * to_stride) = __builtin_shuffle(c, d, first);
    *(Four *)(to + 3 * to_stride) = __builtin_shuffle(c, d, second);
}

void huggingface_turn(const float *from, int64_t rows, int64_t columns, float *to, int64_t to_stride)
{
    int64_t tiled_columns = columns / TILE * TILE, tiled_rows = rows / TILE * TILE;
    for (int64_t strip = 0; strip < tiled_rows; strip += HUGGINGFACE_TURN_ROWS) {
        int64_t end = strip + HUGGINGFACE_TURN_ROWS < tiled_rows ? strip + HUGGINGFACE_TURN_ROWS : tiled_rows;
        for (int64_t j = 0; j < tiled_columns; j += TILE)
            for (int64_t i = strip; i < end; i += TILE)
                turn_tile(from + i * columns + j, columns, to + j * to_stride + i, to_stride);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i < tiled_rows ? tiled_columns : 0; j < columns; j++)
            to[j * to_stride + i] = from[i * columns + j];
}
