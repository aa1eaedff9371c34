/* tiny.h -- a small model, on the CPU unless told otherwise, with everything a test needs to run it forward and backward. */
#ifndef TESTS_SUPPORT_TINY_H
#define TESTS_SUPPORT_TINY_H

#include "core/model/model.h"

typedef struct Tiny {
    Device device;
    Arena step;
    Tape *tape;
    Model model;
    Tensor grad; /* (params.count), in the model's arena; set as the model's gradient */
    Exec exec;   /* without tape; tiny_train_exec() has one */
} Tiny;

/* 2 layers, width 32, 4 heads that share 2 key heads, ffn 48, vocab 70 (so that the stored tail exists), 64 positions. */
ModelShape tiny_shape(const char *arch, bool tied);
/* What tiny_open and tiny_open_device open from now on; NULL: the CPU with one thread. */
void tiny_use_device(Status (*open)(Device *device));
/* Parameters by params_initialise(seed), matrices times `gain` so that logits are far from uniform. */
void tiny_open(Tiny *tiny, const ModelShape *shape, HeadKind head, uint64_t seed, float gain);
/* The device and the model's memory, parameters zero: for tests that read them from a file. Model not opened yet. */
void tiny_open_device(Tiny *tiny);
/* After tiny_open_device and something that opened tiny->model: the gradient buffer. */
void tiny_add_gradient(Tiny *tiny);
void tiny_close(Tiny *tiny);

/* A tape on the step arena, gradients zeroed. */
Exec tiny_train_exec(Tiny *tiny);
/* Rewind the step arena and forget the tape. */
void tiny_rewind(Tiny *tiny);
/* A tensor of the step arena from host memory. */
Tensor tiny_upload(Tiny *tiny, DType dtype, const void *host, int64_t count);

/* A ragged language-model loss: sum over t of weight[t] * NLL(tokens[t + 1]), weight[t] for every token that has a next one
 * in its sequence (others are ignored). Gradients go to tiny->grad when `train`. Log-probs of the targets, in order of t,
 * 0 where there is none, when `logprob` is not NULL. */
double tiny_nll(Tiny *tiny, bool train, const int32_t *tokens, const int32_t *start, int64_t sequences,
                const float *weight, float *logprob);
/* Deterministic pseudo-random tokens below `vocab`. */
void tiny_tokens(uint64_t seed, int64_t vocab, int32_t *tokens, int64_t count);

#endif
