/* attention_tensor.h -- attention's tiles on tensor cores: bf16 in shared memory, sums in fp32 registers. Internal.
 *
 * A block is 4 warps. Tiles are (rows, DIM + 8): 16 bytes behind each row, an odd number of 16-byte columns, so that the 8 rows of a matrix that
 *        ldmatrix reads at once, and 16-byte copies, fall on different banks. Columns beyond head_dim hold zeros.
 * Products come in two kinds, after how the right side lies: dots of rows (Q K', dO V'), and weighted sums of rows (P V, dS K). Weights are the
 *        sums of the first kind, rounded to bf16: the layout of a sum is that of a left side, so they never leave the registers. */
#ifndef KERNELS_CUDA_ATTENTION_TENSOR_H
#define KERNELS_CUDA_ATTENTION_TENSOR_H

#include "kernels/cuda/attention.h"
#include "kernels/cuda/mma.h"

static constexpr int TENSOR_WARPS = 4, TENSOR_THREADS = TENSOR_WARPS * WARP;

/* Quotients by a number that does not change, without dividing: exact for rows below 2^32 / size. */
struct Divisor {
    int size;
    unsigned inverse; /* 2^32 / size, rounded up; 0 for 1 */
    __device__ explicit Divisor(int by) : size(by), inverse(0xffffffffu / (unsigned)by + 1)
    {
    }
    __device__ int quotient(int row) const
    {
        return inverse ? (int)((uint64_t)(unsigned)row * inverse >> 32) : row;
    }
    /* row_at() */
    __device__ int64_t at(int row, int64_t stride, int64_t dim) const
    {
        const int whole = quotient(row);
        return whole * stride + (row - whole * size) * dim;
    }
};

/* Begin to copy the `count` rows that row_of(row) points at; zeros behind them and beyond `dim`. */
template <int ROWS, int DIM, class RowOf>
__device__ static inline void tensor_fill(bf16 *tile, int count, int dim, RowOf row_of)
{
    constexpr int PACKS = DIM / 8;
#pragma unroll
    for (int i = (int)threadIdx.x; i < ROWS * PACKS; i += TENSOR_THREADS) {
        const int row = i / PACKS, d = i % PACKS * 8;
        const bool valid = row < count && d < dim;
        cp_async_16(tile + row * (DIM + 8) + d, row_of(valid ? row : 0) + (valid ? d : 0), valid);
    }
}

/* --- Fragments --- */

/* Left side: 16 rows, 16 columns from `at`. */
template <int LD> __device__ static inline void left_load(uint32_t r[4], const bf16 *at)
{
    const int lane = (int)threadIdx.x % WARP;
    ldmatrix_x4(r, at + lane % 16 * LD + lane / 16 * 8);
}
/* Right side of dots: 16 rows of it are 16 columns of the result; r[0..1] the first 8, r[2..3] the others. */
template <int LD> __device__ static inline void right_load(uint32_t r[4], const bf16 *at)
{
    const int lane = (int)threadIdx.x % WARP;
    ldmatrix_x4(r, at + (lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8);
}
/* Right side of sums of rows: 16 rows are summed, 16 columns are those of the result. */
template <int LD> __device__ static inline void right_load_across(uint32_t r[4], const bf16 *at)
{
    const int lane = (int)threadIdx.x % WARP;
    ldmatrix_x4_trans(r, at + lane % 16 * LD + lane / 16 * 8);
}

__device__ static inline uint32_t bf16_pair(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

template <int M, int N> __device__ static inline void sums_clear(float (&sum)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[m][n][i] = 0.0f;
}

/* --- Products --- */

/* sum = a (16 M rows) times b (8 N rows) transposed, over DIM. */
template <int M, int N, int DIM>
__device__ static inline void tensor_dots(const bf16 *a, const bf16 *b, float (&sum)[M][N][4])
{
    constexpr int LD = DIM + 8;
    static_assert(N % 2 == 0 && DIM % 16 == 0, "two columns of matrices at a time");
    sums_clear(sum);
#pragma unroll
    for (int k = 0; k < DIM; k += 16) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            left_load<LD>(left[m], a + m * 16 * LD + k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            right_load<LD>(right, b + n * 8 * LD + k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16_bf16(sum[m][n], left[m], right, sum[m][n]);
                mma_m16n8k16_bf16(sum[m][n + 1], left[m], right + 2, sum[m][n + 1]);
            }
        }
    }
}

/* sum += weights (16 M rows, 8 K columns) times b (8 K rows, 8 N columns from where it points). */
template <int M, int K, int N, int LD>
__device__ static inline void tensor_gather(const float (&weights)[M][K][4], const bf16 *b, float (&sum)[M][N][4])
{
    static_assert(N % 2 == 0 && K % 2 == 0, "two matrices at a time");
#pragma unroll
    for (int k = 0; k < K; k += 2) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                left[m][i] = bf16_pair(weights[m][k + i / 2][i % 2 * 2], weights[m][k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            right_load_across<LD>(right, b + k * 8 * LD + n * 8);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_m16n8k16_bf16(sum[m][n], left[m], right, sum[m][n]);
                mma_m16n8k16_bf16(sum[m][n + 1], left[m], right + 2, sum[m][n + 1]);
            }
        }
    }
}

/* --- Results to memory, in packs, by way of the warp's own rows of a tile that nobody else reads any more --- */

/* 16 rows: sum[n][..] times factor of (row of lane, row + 8) into the tile's rows. */
template <int N, int LD>
__device__ static inline void rows_stage(bf16 *tile, const float (&sum)[N][4], float factor, float factor_below)
{
    const int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < N; n++) {
        bf16 *at = tile + lane / 4 * LD + n * 8 + lane % 4 * 2;
        const uint32_t above = bf16_pair(sum[n][0] * factor, sum[n][1] * factor);
        const uint32_t below = bf16_pair(sum[n][2] * factor_below, sum[n][3] * factor_below);
        COUNT_SHARED(at, 4, true);
        *reinterpret_cast<uint32_t *>(at) = above;
        COUNT_SHARED(at + 8 * LD, 4, true);
        *reinterpret_cast<uint32_t *>(at + 8 * LD) = below;
    }
}

/* `count` of ROWS staged rows, COLUMNS each of which `width` exist, to row_of(row). The warp's lanes together. */
template <int ROWS, int COLUMNS, int LD, class RowOf>
__device__ static inline void rows_unstage(const bf16 *tile, int count, int width, RowOf row_of)
{
    constexpr int PACKS = COLUMNS / 8;
    const int lane = (int)threadIdx.x % WARP;
#pragma unroll
    for (int i = lane; i < ROWS * PACKS; i += WARP) {
        const int row = i / PACKS, d = i % PACKS * 8;
        if (row >= count || d >= width)
            continue;
        const bf16 *at = tile + row * LD + d;
        COUNT_SHARED(at, 16, false);
        store_pack<bf16>(row_of(row) + d, *reinterpret_cast<const Pack<bf16> *>(at));
    }
}

#endif
