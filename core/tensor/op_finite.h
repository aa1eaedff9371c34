/* op_finite.h -- the checked build's trap: the first value that is not finite, by the name of the op that made it. */
#ifndef CORE_TENSOR_OP_FINITE_H
#define CORE_TENSOR_OP_FINITE_H

#include "core/tensor/ops.h"

/* Aborts, naming the op, its output and the element, unless all float outputs of this call are finite. Only for memory
 * that the host can read. Ops that must cope with broken numbers themselves (fill, add, sum_squares, clip_scale, adamw,
 * moments, sample) are not looked at: a gradient norm that is not finite is an outcome there, not a bug. */
void op_require_finite(OpKind op, const void *args);

#endif
