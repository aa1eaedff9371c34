/* narrow.h -- heads so narrow (8 or 16) that a register of their rows, lying across, stays in registers.
 *
 * Why:   attention on such heads is as much moving as multiplying. What general loops do per row here costs as much as the row's products, so
 *        `dim` is a constant, rows are copied and turned without a loop, and sums over rows stay where they are made. */
#ifndef KERNELS_CPU_NARROW_H
#define KERNELS_CPU_NARROW_H

#include "kernels/cpu/tile.h"

enum { NARROW_MAX = 16 };

VEC_INLINE bool narrow_suits(int64_t dim)
{
    return dim == 8 || dim == NARROW_MAX;
}

/* Rows (LANES, dim), one after the other in `x` -> dim registers of one value of each row: log2 dim rounds that part even
 * from odd elements. */
VEC_INLINE void rows_turn(const int dim, Vec *x)
{
    Vec next[NARROW_MAX];
#pragma GCC unroll 4
    for (int round = 1; round < dim; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < dim / 2; i++) {
            next[i] = VEC_EVEN(x[2 * i], x[2 * i + 1]);
            next[i + dim / 2] = VEC_ODD(x[2 * i], x[2 * i + 1]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < dim; i++)
            x[i] = next[i];
    }
}
VEC_INLINE void rows_across(const int dim, const float *rows, Vec *across)
{
#pragma GCC unroll 16
    for (int i = 0; i < dim; i++)
        across[i] = vec_load(rows + i * LANES);
    rows_turn(dim, across);
}

/* The way back. */
VEC_INLINE void rows_along(const int dim, Vec *across, float *rows)
{
    Vec next[NARROW_MAX];
#pragma GCC unroll 4
    for (int round = 1; round < dim; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < dim / 2; i++) {
            next[2 * i] = VEC_WEAVE_LOW(across[i], across[i + dim / 2]);
            next[2 * i + 1] = VEC_WEAVE_HIGH(across[i], across[i + dim / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < dim; i++)
            across[i] = next[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < dim; i++)
        vec_store(rows + i * LANES, across[i]);
}

/* The sum of each of LANES rows, by the same halving: sums of two neighbours, of four, ... */
VEC_INLINE Vec rows_sum(const int dim, Vec *x)
{
#pragma GCC unroll 4
    for (int left = dim / 2; left >= 1; left /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < left; i++)
            x[i] = VEC_EVEN(x[2 * i], x[2 * i + 1]) + VEC_ODD(x[2 * i], x[2 * i + 1]);
    }
    return x[0];
}

/* to (count, dim) = rows, and zeros up to a whole register of rows. */
VEC_INLINE void rows_pack(const int dim, TileRows rows, int64_t count, float *to)
{
    for (int64_t j = 0; j < count; j++)
        memcpy(to + j * dim, rows.at + j * rows.ld, sizeof(float) * (size_t)dim);
    memset(to + count * dim, 0, sizeof(float) * (size_t)((tile_padded(count) - count) * dim));
}

/* first + the dot product of `row` with each of the rows across. */
VEC_INLINE Vec narrow_dot(const int dim, const Vec *across, const float *row, Vec first)
{
    Vec second = across[1] * vec_set(row[1]);
    first += across[0] * vec_set(row[0]);
#pragma GCC unroll 16
    for (int d = 2; d < dim; d += 2) {
        first += across[d] * vec_set(row[d]);
        second += across[d + 1] * vec_set(row[d + 1]);
    }
    return first + second;
}

/* sum (dim, ld) += over `count` rows the register left[i] times each value of row i; left (count, LANES), rows (count, dim). */
VEC_INLINE void narrow_add(const int dim, int64_t count, const float *left, const float *rows, float *sum, int64_t ld)
{
    enum { HELD = 8 }; /* sums that stay in registers, whatever the instruction set */
#pragma GCC unroll 2
    for (int from = 0; from < dim; from += HELD) {
        Vec held[HELD];
#pragma GCC unroll 8
        for (int d = 0; d < HELD; d++)
            held[d] = vec_load(sum + (from + d) * ld);
        for (int64_t i = 0; i < count; i++) {
            Vec weight = vec_load(left + i * LANES);
#pragma GCC unroll 8
            for (int d = 0; d < HELD; d++)
                held[d] += weight * vec_set(rows[i * dim + from + d]);
        }
#pragma GCC unroll 8
        for (int d = 0; d < HELD; d++)
            vec_store(sum + (from + d) * ld, held[d]);
    }
}

#endif
