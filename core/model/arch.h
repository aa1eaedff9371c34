/* arch.h -- a model family is a row of axes, not a branch.
 *
 * Every row runs the one decoder of decoder.c:  x = embed; per layer: x += attention(norm(x)); x += mlp(norm(x)); head(norm(x)). */
#ifndef CORE_MODEL_ARCH_H
#define CORE_MODEL_ARCH_H

#include "core/config/config.h"
#include "core/tensor/ops.h"

typedef enum PositionKind { POSITION_ROPE, POSITION_LEARNED } PositionKind;

typedef struct Arch {
    const char *name; /* "llama", "gpt2" */
    NormKind norm;
    PositionKind position;
    ActKind act;
    bool qkv_bias, projection_bias, mlp_bias; /* qkv; attention's output; both of the MLP */
    bool tied;               /* what a config.json that does not say means: LM head is the token table */
    const char *huggingface; /* model_type in config.json */
} Arch;

/* NULL if there is none of that name. */
const Arch *arch_find(const char *name);
/* The same by model_type of a Hugging Face config.json. */
const Arch *arch_find_huggingface(const char *model_type);
/* Does the MLP gate (twice as many rows in `up`)? */
bool arch_gated(const Arch *arch);
/* "llama, gpt2" for messages. */
const char *arch_names(void);

typedef struct ModelShape {
    const Arch *arch;
    int64_t layers, width, heads, kv_heads, head_dim, ffn;
    int64_t vocab;         /* ids that exist */
    int64_t positions_max; /* longest sequence */
    float norm_epsilon, rope_base;
    bool tied;
} ModelShape;

enum { VOCAB_MULTIPLE = 128 };
/* Rows of the token table as stored: vocab rounded up to VOCAB_MULTIPLE; the tail is zero and masked. */
int64_t model_shape_vocab_stored(const ModelShape *shape);
/* Every value in range and consistent (heads divide by kv_heads, ...); STATUS_INPUT names the value. */
Status model_shape_check(const ModelShape *shape, const char *where);
bool model_shape_equal(const ModelShape *a, const ModelShape *b);
/* A text form, one line of JSON, stored in checkpoints; and back. */
char *model_shape_to_text(const ModelShape *shape); /* memory_free it */
Status model_shape_from_text(const char *text, const char *where, ModelShape *shape);

/* The section `model:` of an experiment that starts from nothing. */
typedef struct ModelConfig {
    const char *arch;
    int64_t layers, width, heads, kv_heads, ffn, positions_max; /* kv_heads, ffn: CONFIG_AUTO for the family's rule */
    double norm_epsilon, rope_base;
    bool tied;
} ModelConfig;
extern const ConfigKey model_shape_keys[];
/* STATUS_USAGE names the key. */
Status model_shape_from_config(const ModelConfig *config, int64_t vocab, ModelShape *shape);

#endif
