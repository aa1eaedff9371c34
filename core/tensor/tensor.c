/* tensor.c -- shapes, views and checks of tensors; no arithmetic on elements happens here. */
#include "core/tensor/tensor.h"

#include "core/base/status.h"

static int64_t multiply(int64_t a, int64_t b)
{
    int64_t product;
    REQUIRE(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), "tensor size overflow: %lld x %lld",
            (long long)a, (long long)b);
    return product;
}

int64_t tensor_count(Tensor tensor)
{
    int64_t count = 1;
    for (int i = 0; i < tensor.ndim; i++)
        count = multiply(count, tensor.shape[i]);
    return count;
}

size_t tensor_bytes(Tensor tensor)
{
    return (size_t)multiply(tensor_count(tensor), (int64_t)dtype_size(tensor.dtype));
}

int64_t tensor_rows_count(Tensor tensor)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < tensor.ndim; i++)
        rows = multiply(rows, tensor.shape[i]);
    return rows;
}

int64_t tensor_width(Tensor tensor)
{
    return tensor.ndim ? tensor.shape[tensor.ndim - 1] : 1;
}

Tensor tensor_at(void *data, DType dtype, int ndim, const int64_t *shape)
{
    REQUIRE(ndim >= 0 && ndim <= TENSOR_DIMS_MAX, "a tensor has at most %d dimensions, not %d", TENSOR_DIMS_MAX, ndim);
    Tensor tensor = {.data = data, .dtype = dtype, .ndim = ndim};
    for (int i = 0; i < ndim; i++)
        tensor.shape[i] = shape[i];
    return tensor;
}

static Tensor allocate(Arena *arena, DType dtype, int ndim, const int64_t *shape)
{
    Tensor tensor = tensor_at(NULL, dtype, ndim, shape);
    tensor.data = arena_alloc(arena, tensor_bytes(tensor));
    return tensor;
}

Tensor tensor_new1(Arena *arena, DType dtype, int64_t a)
{
    return allocate(arena, dtype, 1, (int64_t[]){a});
}

Tensor tensor_new2(Arena *arena, DType dtype, int64_t a, int64_t b)
{
    return allocate(arena, dtype, 2, (int64_t[]){a, b});
}

Tensor tensor_new3(Arena *arena, DType dtype, int64_t a, int64_t b, int64_t c)
{
    return allocate(arena, dtype, 3, (int64_t[]){a, b, c});
}

static void *offset(Tensor tensor, int64_t elements)
{
    return (char *)tensor.data + (size_t)elements * dtype_size(tensor.dtype);
}

Tensor tensor_rows(Tensor tensor, int64_t from, int64_t count)
{
    REQUIRE(tensor.ndim >= 1 && from >= 0 && count >= 0 && from <= tensor.shape[0] - count,
            "rows [%lld, %lld) of a tensor with %lld", (long long)from, (long long)(from + count),
            (long long)tensor.shape[0]);
    int64_t row = 1;
    for (int i = 1; i < tensor.ndim; i++)
        row = multiply(row, tensor.shape[i]);
    Tensor view = tensor;
    view.data = offset(tensor, from * row);
    view.shape[0] = count;
    view.node = 0;
    return view;
}

Tensor tensor_range(Tensor tensor, int64_t from, int64_t count)
{
    int64_t all = tensor_count(tensor);
    REQUIRE(from >= 0 && count >= 0 && from <= all - count, "elements [%lld, %lld) of a tensor with %lld",
            (long long)from, (long long)(from + count), (long long)all);
    return tensor_at(offset(tensor, from), tensor.dtype, 1, &count);
}

Tensor tensor_reshape2(Tensor tensor, int64_t a, int64_t b)
{
    REQUIRE(multiply(a, b) == tensor_count(tensor), "a tensor of %lld elements cannot be read as %lld x %lld",
            (long long)tensor_count(tensor), (long long)a, (long long)b);
    int node = tensor.node;
    tensor = tensor_at(tensor.data, tensor.dtype, 2, (int64_t[]){a, b});
    tensor.node = node;
    return tensor;
}

void tensor_check(Tensor tensor, const char *what, DType dtype, int ndim, int64_t a, int64_t b)
{
    REQUIRE(tensor_present(tensor), "%s: a tensor is wanted, none was given", what);
    REQUIRE(tensor.dtype == dtype, "%s: %s is wanted, %s was given", what, dtype_name(dtype), dtype_name(tensor.dtype));
    REQUIRE(ndim < 0 || tensor.ndim == ndim, "%s: %d dimensions are wanted, %d were given", what, ndim, tensor.ndim);
    REQUIRE(a < 0 || (tensor.ndim >= 1 && tensor.shape[0] == a), "%s: first dimension %lld is wanted, %lld was given",
            what, (long long)a, (long long)(tensor.ndim >= 1 ? tensor.shape[0] : 0));
    REQUIRE(b < 0 || (tensor.ndim >= 2 && tensor.shape[1] == b), "%s: second dimension %lld is wanted, %lld was given",
            what, (long long)b, (long long)(tensor.ndim >= 2 ? tensor.shape[1] : 0));
}
