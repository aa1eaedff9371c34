/* reduce.h -- the sum over ranks of a flat buffer of gradients, stripe by stripe, each rank its slices; and gathering what they make of them.
 *
 * Exact: after its lanes are joined, rank r holds one gradient buffer, a whole subtree of the binary tree over lanes. Each rank receives every
 *        other rank's part of its own slices and adds them as the upper part of that tree ((0+1)+(2+3))+..., so the result has the bits that one rank
 *        alone would have made. Ring volume. Ranks are a power of two.
 * Fast:  the library that moves them adds, in an order that depends on the number of ranks and the machine: other bits on other ranks.
 * When:  a stripe may be asked for as soon as its floats are final, while backward makes those before it: reduce_from. Where a library moves device memory on the
 *        communication queue (reduce_overlaps), that goes on beside the compute queue; elsewhere it is done when asked for. */
#ifndef CORE_COMM_REDUCE_H
#define CORE_COMM_REDUCE_H

#include "core/comm/comm.h"
#include "core/comm/shard.h"
#include "core/tensor/forward.h"

typedef enum ReduceKind { REDUCE_EXACT, REDUCE_FAST } ReduceKind; /* as the choices of `reduce` stand */

enum { REDUCE_WINDOWS = 2 }; /* one is filled by the communication queue while what is in the other is added */

/* What peers send of their parts of one window of this rank's slice. */
typedef struct ReduceWindow {
    Tensor *received; /* (ranks), this rank's own absent */
    Span part;        /* of the flat buffer; may be empty */
    DeviceEvent there;
    bool under_way;
} ReduceWindow;

typedef struct Reduction {
    ReduceKind kind;
    Comm *comm;
    Exec *exec;
    Tensor flat;    // (count) F32
    int64_t left;   /* stripes that have not been asked for: the first of them */
    int64_t length; /* floats of a window, of each peer */
    ReduceWindow window[REDUCE_WINDOWS];
    int turn;
    Tensor *tensors; /* (4 * ranks) host memory of the lists */
    size_t mark;     /* of exec->step, below the windows */
} Reduction;

/* Host memory, once for many sums. [local] */
void reduce_open(Reduction *reduction, ReduceKind kind, Comm *comm);
void reduce_close(Reduction *reduction);
/* Bytes of device memory that a sum needs in exec->step for `count` floats: what is received. */
size_t reduce_bytes(ReduceKind kind, int64_t count, int ranks);
/* A sum of `flat` (count) F32 is to come: takes its memory. [local] */
void reduce_begin(Reduction *reduction, Exec *exec, Tensor flat);
/* The floats from `at` on are final (or would be, once the compute queue has done what it was asked for): the whole stripes among them are asked for. Every rank
 * comes through the stripes in the same order, in whatever steps. [collective] */
void reduce_from(Reduction *reduction, int64_t at);
/* All the rest. On return (on the compute queue) this rank's slices of `flat` hold the sum; other floats are undefined. The step arena is as before. [collective] */
void reduce_end(Reduction *reduction);
/* Does reduce_from return before the exchange is done? */
bool reduce_overlaps(const Reduction *reduction);

/* Every rank's slices to all ranks. `all` has one element for each `each` floats of a flat buffer of `count`: 1, or SUM_BLOCK. [collective] */
void gather_slices(Comm *comm, Exec *exec, Tensor all, int64_t count, int64_t each);

#endif
