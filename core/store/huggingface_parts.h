/* huggingface_parts.h -- what the files of the Hugging Face import share: its tables. Private to core/store. */
#ifndef CORE_STORE_HUGGINGFACE_PARTS_H
#define CORE_STORE_HUGGINGFACE_PARTS_H

#include "core/base/text.h"
#include "core/store/huggingface.h"
#include "core/store/safetensors.h"

/* config.json of `directory` -> shape. */
Status huggingface_config_read(const char *path, ModelShape *shape);
/* The text of a config.json for this model; tokenizer may be NULL. */
void huggingface_config_write(const Model *model, const Tokenizer *tokenizer, Text *text);

/* Which rows of a fused view a tensor is. */
typedef enum NamePart { PART_ALL, PART_Q, PART_K, PART_V, PART_GATE, PART_UP } NamePart;

typedef struct NameRow {
    const char *name; /* without the base prefix; %d: the layer */
    ViewKind kind;
    NamePart part;
    bool transposed; /* stored (in, out), as GPT-2's Conv1D has it */
    bool bare;       /* never carries the base prefix: heads */
    bool optional;
} NameRow;

typedef struct NameTable {
    const char *prefix;         /* "model.", "transformer." */
    const NameRow *rows;        /* ends with a NULL name */
    const char *const *ignored; /* endings of buffers that old files store and nobody reads; ends with NULL */
} NameTable;

const NameTable *huggingface_names(const Arch *arch);
/* Rows [*from, *from + *count) of the view that this part is. */
void huggingface_part(const ModelShape *shape, const ParamView *view, NamePart part, int64_t *from, int64_t *count);
/* "model.layers.3.self_attn.q_proj.weight" */
void huggingface_row_name(const NameRow *row, const char *prefix, int64_t layer, char *name, size_t size);
/* So many rows are turned side by side: what they write of a row is a line of the cache. */
enum { HUGGINGFACE_TURN_ROWS = 16 };
/* `from` (rows, columns) becomes the first `rows` elements of `columns` rows of `to`, which lie `to_stride` elements apart. */
void huggingface_turn(const float *from, int64_t rows, int64_t columns, float *to, int64_t to_stride);

/* What becomes of a tensor of a file. */
typedef struct Fate {
    bool used;          /* it has a row */
    const NameRow *row; /* NULL: nothing that this model has */
    int view;
} Fate;
/* Read all tensors of a file that have a row into their views (huggingface_read.c). `fate`: one per tensor. `digest` (of the whole file) may be NULL. */
Status huggingface_shard_load(const Safetensors *file, const Fate *fate, const ModelShape *shape, const Params *params,
                              Device *device, H5Digest *digest);

#endif
