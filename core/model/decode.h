/* decode.h -- running sequences as the device holds them, so that a burst of decode steps needs nothing of the host. Internal to this room.
 *
 * Why:   each read of a device's result stops the host until the device is idle, and a GPU must then wait for the host in turn. Tokens, positions,
 *        lengths and the end-of-sequence test stay on the device; the host reads what was drawn once per device->burst steps. A sequence that ends inside a burst
 *        goes on computing what nobody reads: at most burst - 1 rows, counted (generate_wasted_rows).
 * How:   every step works on the same addresses, so a backend that can keep work (device_keep_begin) is asked for the ops of a step once per number of rows. */
#ifndef CORE_MODEL_DECODE_H
#define CORE_MODEL_DECODE_H

#include "core/model/generate.h"

/* What the host tells of one row, and reads again after a burst. */
typedef struct DecodeRow {
    int32_t slot;  /* of the cache */
    int32_t next;  /* the newest token, not yet in the cache */
    int32_t past;  /* tokens in the cache */
    int32_t index; /* of the token to be drawn, in its response */
    int32_t left;  /* tokens that may still be drawn, >= 1 */
    int64_t subsequence;
} DecodeRow;

typedef struct Decode Decode;

/* Memory for `slots` rows in exec->step and on the host; decode_close before the arena is rewound. */
Decode *decode_open(const Model *model, Exec *exec, const KvCache *cache, const GenerateOptions *options, uint64_t seed,
                    int64_t slots);
void decode_close(Decode *decode);
/* From now on these rows, as told. */
void decode_set(Decode *decode, const DecodeRow *row, int64_t rows);
/* So many steps; *drawn: (steps, 2, rows): tokens (-1: logits not finite; below: the row had ended before) and the bits of their log-probs. One read. */
enum { DECODE_ENDED = -2 };
void decode_run(Decode *decode, int64_t steps, const int32_t **drawn);

#endif
