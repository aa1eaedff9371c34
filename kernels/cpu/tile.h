/* tile.h -- small matrix products and packings inside attention: operands that stand in the first cache.
 *
 * How:   C (m, n) = or += A (m, k) B (k, n). B and C are read by registers of LANES columns, so n is a multiple of LANES
 *        (packings pad with zeros); A is read one value at a time with any two strides, so a transposed A costs nothing.
 * Order: every element of C is one sum in order of k, whatever the blocking. */
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include "kernels/cpu/vec.h"

enum { TILE_ROWS = 64, TILE_KEYS = 64, HEAD_DIM_MAX = 256 };

/* Up to a whole register. */
VEC_INLINE int64_t tile_padded(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

typedef struct TileA {
    const float *at;
    int64_t row, k; /* strides */
} TileA;

/* One block of registers; `rows` and `vecs` are constants where this is inlined. */
VEC_INLINE void tile_block(const int rows, const int vecs, TileA a, const float *b, int64_t ldb, float *c, int64_t ldc,
                           int64_t k, bool accumulate)
{
    Vec sum[8][4];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vecs; j++)
            sum[i][j] = accumulate ? vec_load(c + i * ldc + j * LANES) : (Vec){0};
    for (int64_t p = 0; p < k; p++) {
        Vec right[4];
#pragma GCC unroll 4
        for (int j = 0; j < vecs; j++)
            right[j] = vec_load(b + p * ldb + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            Vec left = vec_set(a.at[i * a.row + p * a.k]);
#pragma GCC unroll 4
            for (int j = 0; j < vecs; j++)
                sum[i][j] += left * right[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vecs; j++)
            vec_store(c + i * ldc + j * LANES, sum[i][j]);
}

static __attribute__((noinline, unused)) void tile_product(int64_t m, int64_t n, int64_t k, TileA a, const float *b,
                                                           int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    int64_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES) {
        int64_t i = 0;
        for (; VEC_BYTES == 64 && i + 8 <= m; i += 8)
            tile_block(8, 2, (TileA){a.at + i * a.row, a.row, a.k}, b + j, ldb, c + i * ldc + j, ldc, k, accumulate);
        for (; i + 4 <= m; i += 4)
            tile_block(4, 2, (TileA){a.at + i * a.row, a.row, a.k}, b + j, ldb, c + i * ldc + j, ldc, k, accumulate);
        for (; i < m; i++)
            tile_block(1, 2, (TileA){a.at + i * a.row, a.row, a.k}, b + j, ldb, c + i * ldc + j, ldc, k, accumulate);
    }
    if (j < n) {
        int64_t i = 0;
        for (; i + 8 <= m; i += 8)
            tile_block(8, 1, (TileA){a.at + i * a.row, a.row, a.k}, b + j, ldb, c + i * ldc + j, ldc, k, accumulate);
        for (; i < m; i++)
            tile_block(1, 1, (TileA){a.at + i * a.row, a.row, a.k}, b + j, ldb, c + i * ldc + j, ldc, k, accumulate);
    }
}

/* A row of attention is one (query, head in group) pair; this walks them without dividing. */
typedef struct RowAt {
    int64_t query, head;
} RowAt;
VEC_INLINE RowAt row_at(int64_t row, int64_t group)
{
    return (RowAt){row / group, row % group};
}
VEC_INLINE void row_step(RowAt *at, int64_t group)
{
    if (++at->head == group) {
        at->head = 0;
        at->query++;
    }
}

/* Rows of keys or values: `count` rows of `dim`, the next one `ld` floats on. */
typedef struct TileRows {
    const float *at;
    int64_t ld;
} TileRows;

/* to (dim, TILE_KEYS) = rows transposed, columns from count to a whole register zero. Writes whole registers of rows too:
 * there is room for tile_padded(dim) of them. */
static inline void tile_transpose(TileRows rows, int64_t count, int64_t dim, float *to)
{
    for (int64_t j = 0; j < count; j += LANES)
        for (int64_t d = 0; d < dim; d += LANES) {
            const float *from = rows.at + j * rows.ld + d;
            if (j + LANES <= count && d + LANES <= dim) {
                vec_transpose(from, rows.ld, to + d * TILE_KEYS + j, TILE_KEYS);
                continue;
            }
            float block[LANES * LANES];
            for (int64_t r = 0; r < LANES; r++) {
                Vec row = {0};
                if (j + r < count)
                    row = dim - d < LANES ? vec_load_part(from + r * rows.ld, dim - d, 0.0f)
                                          : vec_load(from + r * rows.ld);
                vec_store(block + r * LANES, row);
            }
            vec_transpose(block, LANES, to + d * TILE_KEYS + j, TILE_KEYS);
        }
}

/* The way back: rows (count, dim) = scale from (dim, TILE_KEYS), of which whole registers are read both ways. */
static inline void tile_transpose_back(const float *from, int64_t count, int64_t dim, float scale, float *rows,
                                       int64_t ld)
{
    for (int64_t j = 0; j < count; j += LANES)
        for (int64_t d = 0; d < dim; d += LANES) {
            float block[LANES * LANES];
            vec_transpose(from + d * TILE_KEYS + j, TILE_KEYS, block, LANES);
            for (int64_t r = 0; r < LANES && j + r < count; r++)
                vec_scale(rows + (j + r) * ld + d, block + r * LANES, dim - d < LANES ? dim - d : LANES, scale);
        }
}

/* The rows as they stand when `dim` is whole registers, else a padded copy in `buffer`. */
static inline TileRows tile_rows_padded(TileRows rows, int64_t count, int64_t dim, float *buffer)
{
    if (dim % LANES == 0)
        return rows;
    int64_t padded = tile_padded(dim);
    for (int64_t j = 0; j < count; j++) {
        memcpy(buffer + j * padded, rows.at + j * rows.ld, sizeof(float) * (size_t)dim);
        for (int64_t d = dim; d < padded; d++)
            buffer[j * padded + d] = 0.0f;
    }
    return (TileRows){buffer, padded};
}

/* The rows one after the other: far-apart rows of a fused qkv would each cost a page and crowd the same cache sets. */
static inline TileRows tile_rows_close(TileRows rows, int64_t count, int64_t dim, float *buffer)
{
    if (rows.ld == dim)
        return rows;
    for (int64_t j = 0; j < count; j++)
        memcpy(buffer + j * dim, rows.at + j * rows.ld, sizeof(float) * (size_t)dim);
    return (TileRows){buffer, dim};
}

#endif
