/* huggingface.h -- models in and out of Hugging Face directories: config.json, model.safetensors (one file or shards),
 * tokenizer.json.
 *
 * Why:   that is what models come in, and what other programs read. Names, shapes and settings of both families stand in
 *        tables (huggingface_names.c, huggingface_config.c) that serve import and export alike.
 * Rules: whatever a config.json asks for that the family here does not do (scaled rotary positions, biases, another
 *        activation) is refused by its key's name, never ignored. A tensor that is missing, has another shape or is not
 *        known is an error that names file and tensor. Pickled weights (pytorch_model.bin) are not read: they can run
 *        code. */
#ifndef CORE_STORE_HUGGINGFACE_H
#define CORE_STORE_HUGGINGFACE_H

#include "core/data/tokenizer.h"
#include "core/h5/h5.h"
#include "core/model/model.h"

/* Is `path` a directory that holds a config.json? [local] */
bool huggingface_is_directory(const char *path);

/* The shape that config.json describes. [local] */
Status huggingface_read_shape(const char *directory, ModelShape *shape);

/* Open `model` with the head that is wanted and fill it. An LM head that is not wanted is dropped, and so is a score head;
 * one that is wanted and not there is left zero with *has_head false (a tied LM head is always there). `digest` is of
 * the bytes of config.json and of the weight files in order of name; NULL: not wanted. On failure nothing stays open.
 * [local] */
Status huggingface_load(const char *directory, Device *device, HeadKind head, Model *model, bool *has_head,
                        H5Digest *digest);

/* Write config.json, model.safetensors (F32) and, where a tokenizer is given, its files into `directory`, which is made if
 * need be. Each file is whole or absent; model.safetensors comes last. A score head's bias is written as score.bias, which
 * Hugging Face has not: load reads it, others lack a constant. [local] */
Status huggingface_export(const char *directory, const Model *model, const Tokenizer *tokenizer);

#endif
