/* tensor.h -- a contiguous row-major array on a device, passed by value; it owns nothing.
 *
 * Why:   memory belongs to arenas (arena.h), so a Tensor is an address with a shape and may be copied freely.
 * Rule:  above kernels/ nobody dereferences `data`: it is the device's. tensor_read and tensor_write (device.h) move
 *        values, and are counted. */
#ifndef CORE_TENSOR_TENSOR_H
#define CORE_TENSOR_TENSOR_H

#include <stdbool.h>

#include "core/base/arena.h"
#include "core/tensor/dtype.h"

enum { TENSOR_DIMS_MAX = 4 };

typedef struct Tensor {
    void *data; /* device address; NULL: absent */
    int64_t shape[TENSOR_DIMS_MAX];
    DType dtype;
    int ndim;
    int node; /* where a Tape keeps its gradient; 0: none is wanted */
} Tensor;

/* A learned array. `grad` absent (data NULL): frozen, and backward skips it. Gradients always accumulate (+=). */
typedef struct Parameter {
    Tensor value, grad;
} Parameter;

static inline bool tensor_present(Tensor tensor)
{
    return tensor.data != NULL;
}
static inline Tensor tensor_absent(void)
{
    Tensor tensor = {0};
    return tensor;
}
/* Elements in all. */
int64_t tensor_count(Tensor tensor);
size_t tensor_bytes(Tensor tensor);
/* Product of all dimensions but the last: the rows of a (rows, width) reading. */
int64_t tensor_rows_count(Tensor tensor);
int64_t tensor_width(Tensor tensor);

/* Allocate from an arena; contents undefined. */
Tensor tensor_new1(Arena *arena, DType dtype, int64_t a);
Tensor tensor_new2(Arena *arena, DType dtype, int64_t a, int64_t b);
Tensor tensor_new3(Arena *arena, DType dtype, int64_t a, int64_t b, int64_t c);
/* Name memory that exists already. */
Tensor tensor_at(void *data, DType dtype, int ndim, const int64_t *shape);
/* Rows [from, from + count) of the first dimension. The view has no gradient of its own. */
Tensor tensor_rows(Tensor tensor, int64_t from, int64_t count);
/* Elements [from, from + count) of the flat array, as one dimension. */
Tensor tensor_range(Tensor tensor, int64_t from, int64_t count);
/* Same elements, same gradient, other shape. */
Tensor tensor_reshape2(Tensor tensor, int64_t a, int64_t b);
/* Aborts, naming `what`, unless dtype and shape are these (-1: any). */
void tensor_check(Tensor tensor, const char *what, DType dtype, int ndim, int64_t a, int64_t b);

#endif
