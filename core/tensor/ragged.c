/* ragged.c -- offsets and positions of sequences that stand end to end, made on the host and copied to the device. */
#include "core/tensor/ragged.h"

enum { POSITIONS_AT_ONCE = 4096 }; /* tokens per copy: small enough for the stack, so that a step allocates nothing */

Ragged ragged_make(Device *device, Arena *arena, const int32_t *host_start, int64_t sequences)
{
    REQUIRE(sequences >= 0 && host_start[0] == 0, "ragged rows: %lld sequences that begin at %d", (long long)sequences,
            host_start[0]);
    Ragged rows = {.tokens = host_start[sequences], .sequences = sequences, .host_start = host_start};
    for (int64_t s = 0; s < sequences; s++) {
        int64_t length = (int64_t)host_start[s + 1] - host_start[s];
        REQUIRE(length >= 0, "ragged rows: sequence %lld has length %lld", (long long)s, (long long)length);
        if (length > rows.longest)
            rows.longest = length;
        rows.pairs += 0.5 * (double)length * (double)(length + 1);
    }
    rows.start = tensor_new1(arena, DTYPE_I32, sequences + 1);
    tensor_write(device, rows.start, host_start);
    return rows;
}

TokenBatch token_batch_make(Device *device, Arena *arena, const int32_t *tokens, const int32_t *host_start,
                            int64_t sequences, const int32_t *first_position)
{
    TokenBatch batch = {.rows = ragged_make(device, arena, host_start, sequences)};
    batch.token = tensor_new1(arena, DTYPE_I32, batch.rows.tokens);
    tensor_write(device, batch.token, tokens);
    batch.position = tensor_new1(arena, DTYPE_I32, batch.rows.tokens);

    int32_t position[POSITIONS_AT_ONCE];
    int64_t written = 0, filled = 0;
    for (int64_t s = 0; s < sequences; s++) {
        int32_t first = first_position ? first_position[s] : 0;
        for (int32_t t = host_start[s]; t < host_start[s + 1]; t++) {
            position[filled++] = first + (t - host_start[s]);
            if (filled == POSITIONS_AT_ONCE) {
                tensor_write(device, tensor_range(batch.position, written, filled), position);
                written += filled;
                filled = 0;
            }
        }
    }
    if (filled)
        tensor_write(device, tensor_range(batch.position, written, filled), position);
    return batch;
}
