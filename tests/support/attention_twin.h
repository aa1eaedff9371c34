/* attention_twin.h -- batches of sequences for the tests of attention on both backends. */
#ifndef TESTS_SUPPORT_ATTENTION_TWIN_H
#define TESTS_SUPPORT_ATTENTION_TWIN_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/twin.h"

enum { SEQUENCES_MAX = 10 };

typedef struct Batch {
    int64_t heads, kv_heads, dim, sequences, tokens, stride, width, longest;
    double pairs; /* without a past */
    float scale;
    int32_t start[SEQUENCES_MAX + 1];
    TwinArray on_device; /* start, there */
} Batch;

static inline Batch batch_new(Twin *twin, int64_t heads, int64_t kv_heads, int64_t dim, int64_t sequences,
                              const int32_t *length)
{
    Batch batch = {.heads = heads, .kv_heads = kv_heads, .dim = dim, .sequences = sequences};
    batch.stride = (heads + 2 * kv_heads) * dim;
    batch.width = heads * dim;
    batch.scale = (float)(1.1 / sqrt((double)dim));
    for (int64_t s = 0; s < sequences; s++) {
        batch.start[s + 1] = batch.start[s] + length[s];
        batch.longest = length[s] > batch.longest ? length[s] : batch.longest;
        batch.pairs += 0.5 * length[s] * (length[s] + 1.0);
    }
    batch.tokens = batch.start[sequences];
    batch.on_device = twin_ints(twin, batch.start, sequences + 1);
    return batch;
}

static inline AttentionForwardArgs batch_forward(const Batch *batch)
{
    return (AttentionForwardArgs){.tokens = batch->tokens,
                                  .sequences = batch->sequences,
                                  .heads = batch->heads,
                                  .kv_heads = batch->kv_heads,
                                  .head_dim = batch->dim,
                                  .longest = batch->longest,
                                  .scale = batch->scale,
                                  .pairs = batch->pairs};
}

#endif
