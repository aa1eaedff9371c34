/* reduce.h -- the exact sum over ranks: exchange slices, add each in tree order, gather: ring volume, fixed bits.
 *
 * After its lanes are joined, rank r holds one gradient buffer, a whole subtree of the binary tree over lanes. Each rank receives every
 * other rank's part of its own slice and adds them as the upper part of that tree ((0+1)+(2+3))+..., so the result has the bits that one rank
 * alone would have made. */
#ifndef CORE_COMM_REDUCE_H
#define CORE_COMM_REDUCE_H

#include "core/comm/comm.h"
#include "core/comm/shard.h"
#include "core/tensor/forward.h"

/* Bytes of device memory that reduce_slices needs in exec->step for `count` floats: the received slices. */
size_t reduce_bytes(int64_t count, int ranks);
/* `flat` (count) F32: on return this rank's slice of it holds the sum over ranks; the rest is undefined. [collective] */
void reduce_slices(Comm *comm, Exec *exec, Tensor flat);
/* Every rank's slice of `flat` to all ranks. [collective] */
void gather_slices(Comm *comm, Exec *exec, Tensor flat);
/* Every rank's part of `all` to all ranks; parts by offsets in bytes, size + 1 of them, equal on all ranks, which cover it. [collective] */
void gather_parts(Comm *comm, Exec *exec, Tensor all, const size_t *offsets);

#endif
