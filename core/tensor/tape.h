/* tape.h -- reverse-mode differentiation: front doors record what they ran, tape_backward() runs the partners in
 * reverse.
 *
 * Why:   a model family writes its forward once. Inference passes no tape and saves nothing.
 * How:   a recorded tensor gets a node number; the tape keeps one gradient per node. Gradient buffers come from the
 *        step arena through a free list by size, so backward holds only the gradients that are alive. The first
 *        contribution to a gradient is written, later ones are added, in the order of the tape. Losses are terminals:
 *        they run their backward in the same visit and seed gradients. Parameters' gradients always accumulate.
 * Rule:  one tape belongs to one step arena: reset the tape when the arena is rewound below what was recorded. */
#ifndef CORE_TENSOR_TAPE_H
#define CORE_TENSOR_TAPE_H

#include "core/tensor/tensor.h"

typedef struct Tape Tape;
typedef struct Exec Exec;

Tape *tape_open(void);
void tape_close(Tape *tape);
/* Forget everything recorded; call when the step arena is rewound. */
void tape_reset(Tape *tape);
/* d loss / d x, same number of elements, added to what is there. For losses computed outside this room; `gradient` must
 * live until tape_backward() ends, and is not written. */
void tape_seed(Exec *exec, Tensor x, Tensor gradient);
/* Stands in for a flat buffer of `count` gradients of parameters while a pass is recorded that goes backward later, on a tape that takes it (tape_take).
 * Nothing can be written there. */
Tensor tape_gradients_later(int64_t count);
/* `tape`, which has nothing recorded, goes on from where `kept` stands, which is left with nothing. Gradients that were to come later go to `gradients`. */
void tape_take(Tape *tape, Tape *kept, Tensor gradients);
/* Told by tape_backward as it goes: gradients of parameters from the address `from` on get nothing more from this tape (once the device has done what it was
 * asked for so far). NULL: none does. */
typedef struct TapeWatch {
    void *context;
    void (*complete)(void *context, const void *from); /* NULL: nobody is told */
} TapeWatch;
void tape_watch(Tape *tape, TapeWatch watch);
/* Run all recorded backwards, last first, then forget them. */
void tape_backward(Exec *exec);

#endif
