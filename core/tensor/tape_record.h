/* tape_record.h -- how the front doors of this room write on the tape; nobody else includes it.
 *
 * A gradient lives in a buffer with a count of references, because one buffer may be the gradient of two nodes at once
 * (x and residual of a norm). Whoever takes a buffer out of a node holds its reference, may write into it when it is
 * exclusive, and must give or drop it. A gradient has the element type of its tensor. Buffer handles are never 0; 0
 * means none. */
#ifndef CORE_TENSOR_TAPE_RECORD_H
#define CORE_TENSOR_TAPE_RECORD_H

#include "core/tensor/forward.h"

typedef struct TapeEntry TapeEntry;
typedef void (*TapeBackward)(Exec *exec, const TapeEntry *entry);

/* One op that ran: its tensors as they were and what its backward needs beside. */
struct TapeEntry {
    TapeBackward backward;
    Tensor x, y;
    Parameter weight, bias; /* norm: gain and bias */
    uintptr_t below; /* no entry before this one adds to a gradient at this address or above; made by tape_backward */
    union {
        struct {
            NormForwardArgs args;
            Tensor residual, sum;
        } norm;
        EmbedArgs embed;
        RopeArgs rope;
        ActKind act;
        AttentionForwardArgs attention;
        Tensor index;
    } saved;
};

/* Is the gradient of x, or of one of these parameters (NULL: no more), wanted? False without a tape. */
bool tape_wants(const Exec *exec, Tensor x, const Parameter *first, const Parameter *second);
/* Give `y` a node of its own. */
Tensor tape_node(Tape *tape, Tensor y);
/* Append an entry; the pointer holds until the next one. */
TapeEntry *tape_push(Tape *tape, TapeBackward backward);

/* A buffer of `bytes` from the free list or the step arena, contents undefined, held once by the caller. */
int tape_buffer_new(Exec *exec, size_t bytes);
void *tape_buffer_data(const Tape *tape, int buffer);
/* May it be written in place: held once, and the tape's own? */
bool tape_buffer_exclusive(const Tape *tape, int buffer);
int tape_buffer_share(Tape *tape, int buffer);
void tape_buffer_drop(Tape *tape, int buffer);
/* The same contents, exclusive: `buffer` itself where it is so already, else a copy. Consumes the reference. */
int tape_buffer_own(Exec *exec, int buffer);

/* Take y's gradient out of its node; 0 where nothing has reached it. */
int tape_gradient_take(Tape *tape, Tensor y);
/* Contribute: becomes x's gradient, or is added to it. Consumes the reference; x without a node: dropped. */
void tape_gradient_give(Exec *exec, Tensor x, int buffer);
/* Where to add a contribution directly. *first: nothing is there yet, and the contribution must be written. NULL: none
 * is wanted. */
void *tape_gradient_at(Exec *exec, Tensor x, bool *first);

#endif
