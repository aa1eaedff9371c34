/* unit_batch.h -- one unit's sequences and the rows of them that carry a loss, gathered on the host and sent to the device in one go.
 *
 * Why:   SFT, reward model and PPO differ in which positions are scored and with which numbers, not in how sequences are packed.
 * How:   begin, then for each sequence unit_batch_sequence and its rows, then unit_batch_upload. Host lists grow and are kept. */
#ifndef STAGES_UNIT_BATCH_H
#define STAGES_UNIT_BATCH_H

#include "core/tensor/forward.h"

typedef struct UnitBatch {
    int64_t tokens, sequences, rows;
    int32_t *token, *start, *row, *target; /* host: (tokens), (sequences + 1), (rows), (rows) */
    float *weight;                         /* host: (rows) */
    int64_t tokens_capacity, sequences_capacity, row_capacity, target_capacity, weight_capacity;
    /* On the device, in the step arena, after unit_batch_upload. */
    TokenBatch batch;
    Tensor wanted;  /* (rows) I32, for model_hidden; absent where every token is a row */
    Tensor targets; /* (rows) I32 */
    Tensor weights; /* (rows) F32 */
} UnitBatch;

/* Room for units of `tokens` tokens, so that steps need no more memory; units may be larger all the same. */
void unit_batch_reserve(UnitBatch *unit, int64_t tokens);
void unit_batch_begin(UnitBatch *unit);
/* Append a sequence; `count` >= 1. */
void unit_batch_sequence(UnitBatch *unit, const int32_t *token, int64_t count);
/* The hidden state at `position` of the sequence appended last is a row: it predicts `target` (or is scored: target -1 is stored as 0). Positions ascend. */
void unit_batch_row(UnitBatch *unit, int64_t position, int32_t target, float weight);
void unit_batch_upload(UnitBatch *unit, Exec *exec);
/* `count` floats, or int32s, from the host as a device tensor of one dimension. */
Tensor unit_batch_floats(Exec *exec, const float *values, int64_t count);
Tensor unit_batch_ints(Exec *exec, const int32_t *values, int64_t count);
void unit_batch_free(UnitBatch *unit);

#endif
