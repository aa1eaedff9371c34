/* ragged.h -- sequences of different lengths, end to end in one array, with where each begins. No padding exists.
 *
 *        rows        [ a a a a | b | c c c ]          tokens = 8, sequences = 3
 *        start       [ 0         4   5       8 ]      sequences + 1 offsets
 *
 * Lengths are known on the host before anything runs, so both sides hold them: the device reads `start`, the host
 * plans with `host_start`, `longest` and `pairs`. */
#ifndef CORE_TENSOR_RAGGED_H
#define CORE_TENSOR_RAGGED_H

#include "core/tensor/device.h"

typedef struct Ragged {
    int64_t tokens, sequences;
    int64_t longest;
    double pairs;              /* (query, key) pairs that causal attention visits: the sum of n (n + 1) / 2 */
    const int32_t *host_start; /* sequences + 1, in host memory, borrowed */
    Tensor start;              /* (sequences + 1) I32 on the device */
} Ragged;

/* `host_start` must outlive the result (trainers keep it with the unit). Copies it to the step arena's device. */
Ragged ragged_make(Device *device, Arena *arena, const int32_t *host_start, int64_t sequences);

/* What a decoder reads. Positions start at 0 in each sequence, or where its cached past ends. */
typedef struct TokenBatch {
    Ragged rows;
    Tensor token;    /* (tokens) I32 */
    Tensor position; /* (tokens) I32 */
} TokenBatch;

/* `tokens` (rows.tokens) on the host; `first_position` (sequences) or NULL for zeros. */
TokenBatch token_batch_make(Device *device, Arena *arena, const int32_t *tokens, const int32_t *host_start,
                            int64_t sequences, const int32_t *first_position);

#endif
