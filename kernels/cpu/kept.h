/* kept.h -- work of the CPU that is asked for once and done as often as wanted (device_keep_begin): a list of ops and what they were given.
 *
 * Why:   a decode step of a small model is fifty ops of a microsecond. Asked for one by one, each costs its checks and counts, and each that is cut
 *        over threads wakes them. As a list a step costs neither; and where its rows are cut into strands, every thread runs the list of
 *        its own rows from end to end and meets the others once. Lanes of a training step are strands as well (core/train/walk.h). */
#ifndef KERNELS_CPU_KEPT_H
#define KERNELS_CPU_KEPT_H

#include "core/tensor/device.h"

typedef struct Kept Kept;

/* Stand in the place of a device's ops while work is kept: they note what they are given in the list that kept_of() says. */
extern const OpTable kept_ops;
Kept *kept_of(const Device *device);

/* An empty list; `spare` is one that is not needed any more, or NULL. `ops` will do what is noted. Those of `scratch_ops` that are not NULL take
 * scratch before they compute, and are asked for it at once. */
Kept *kept_begin(Kept *spare, Device *device, const OpTable *ops, const OpTable *scratch_ops);
void kept_close(Kept *kept);
/* `from` NULL: zeros. */
void kept_note_copy(Kept *kept, void *to, const void *from, size_t bytes);
/* What stands at `from` now, whatever will be there later. */
void kept_note_bytes(Kept *kept, void *to, const void *from, size_t bytes);
/* A strand begins, or ends and has taken so much scratch. */
void kept_strand(Kept *kept, bool begins, size_t scratch);
void kept_run(Kept *kept);

#endif
