/* sums.h -- sums over the rows of a matrix, one per column: blocks of rows cut by the shape alone, each block's partial sums in F32, joined in
 * order. */
#ifndef KERNELS_CUDA_SUMS_H
#define KERNELS_CUDA_SUMS_H

#include "kernels/cuda/cuda.h"

typedef struct RowBlocks {
    int64_t count, rows; /* rows of each, the last may have fewer */
} RowBlocks;

/* At most `limit` blocks of at least `least` rows. */
static inline RowBlocks row_blocks(int64_t rows, int64_t least, int64_t limit)
{
    int64_t each = ceil_div(rows, limit) > least ? ceil_div(rows, limit) : least;
    return {ceil_div(rows, each), each};
}

/* total[j] += sum over blocks b, in a fixed order, of partial[b * stride + j], for j < width. */
void cuda_join_blocks(Cuda *cuda, const float *partial, int64_t blocks, int64_t stride, int64_t width, float *total);

#endif
