/* gemm.c -- the slot `gemm`: products with few rows or one column by our own loops, the rest by the library, then bias.
 *
 * Why:   a decode step of a few sequences and a scalar head are bound by reading the matrix once, and libraries pack
 *        it first: fine for blocks of rows, wasted here.
 * Order: a dot product is summed in lanes and then by a fixed tree, whoever computes it. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/panels.h"
#include "kernels/cpu/vec.h"

enum {
    FEW_LEFT = 4,
    FEW_ROWS = 8,         /* rows up to which our own loop beats the library, */
    FEW_DEPTH = 256,      /* and the depth from which its last sums across lanes are small change */
    LONE_FLOPS = 1000000, /* below, waking other threads costs more than it brings */
};

/* out[i * stride] = alpha rows[i] . vector + beta out */
static void rows_times_vector(Device *device, const float *rows, int64_t ld, int64_t count, const float *vector,
                              int64_t k, float alpha, float beta, float *out, int64_t stride)
{
    PARALLEL_FOR(device, 2.0 * (double)count * (double)k)
    for (int64_t i = 0; i < count; i++) {
        float value = alpha * vec_dot(rows + i * ld, vector, k);
        out[i * stride] = beta == 0.0f ? value : beta * out[i * stride] + value;
    }
}

/* FEW_LEFT rows of x against two rows of the matrix, or fewer of both: eight sums in registers. */
VEC_INLINE void few_times_pair(const int left, const int right, const GemmArgs *args, int64_t i, int64_t j)
{
    const float *x = args->a + i * args->lda, *w = args->b + j * args->ldb;
    Vec sum[FEW_LEFT][2];
#pragma GCC unroll 4
    for (int r = 0; r < left; r++)
        sum[r][0] = sum[r][1] = (Vec){0};
    int64_t p = 0;
    for (; p + LANES <= args->k; p += LANES) {
        Vec w0 = vec_load(w + p), w1 = right > 1 ? vec_load(w + args->ldb + p) : w0;
#pragma GCC unroll 4
        for (int r = 0; r < left; r++) {
            Vec value = vec_load(x + r * args->lda + p);
            sum[r][0] += value * w0;
            if (right > 1)
                sum[r][1] += value * w1;
        }
    }
    int64_t rest = args->k - p;
#pragma GCC unroll 4
    for (int r = 0; r < left && rest > 0; r++) {
        Vec value = vec_load_part(x + r * args->lda + p, rest, 0.0f);
        sum[r][0] += value * vec_load_part(w + p, rest, 0.0f);
        if (right > 1)
            sum[r][1] += value * vec_load_part(w + args->ldb + p, rest, 0.0f);
    }
#pragma GCC unroll 4
    for (int r = 0; r < left; r++)
        for (int c = 0; c < right; c++) {
            float *out = args->c + (i + r) * args->ldc + j + c, value = args->alpha * vec_sum(sum[r][c]);
            *out = args->beta == 0.0f ? value : args->beta * *out + value;
        }
}

/* A few rows (a decode step of a small batch) against every row of a wide matrix, which is read once. */
static void few_times_rows(Device *device, const GemmArgs *args)
{
    int64_t pairs = (args->n + 1) / 2;
    PARALLEL_FOR(device, 2.0 * (double)args->m * (double)args->n * (double)args->k)
    for (int64_t pair = 0; pair < pairs; pair++) {
        int64_t j = 2 * pair, i = 0;
        for (; i + FEW_LEFT <= args->m && j + 2 <= args->n; i += FEW_LEFT)
            few_times_pair(FEW_LEFT, 2, args, i, j);
        for (; i < args->m; i++)
            if (j + 2 <= args->n)
                few_times_pair(1, 2, args, i, j);
            else
                few_times_pair(1, 1, args, i, j);
    }
}

static void bias_add(Device *device, const GemmArgs *args)
{
    PARALLEL_FOR(device, (double)args->m * (double)args->n)
    for (int64_t i = 0; i < args->m; i++) {
        float *row = args->c + i * args->ldc;
        for (int64_t j = 0; j < args->n; j++)
            row[j] += args->bias[j];
    }
}

void KERNEL(gemm)(Device *device, const GemmArgs *args)
{
    if (args->m == 0 || args->n == 0)
        return;
    if (KERNEL(panels_suit)(args)) {
        KERNEL(panels)(device, args);
        return;
    }
    if (!device->backend->computes)
        return;
    if (args->m == 1 && args->transpose_b && (!args->transpose_a || args->lda == 1))
        rows_times_vector(device, args->b, args->ldb, args->n, args->a, args->k, args->alpha, args->beta, args->c, 1);
    else if (args->n == 1 && !args->transpose_a && (args->transpose_b || args->ldb == 1))
        rows_times_vector(device, args->a, args->lda, args->m, args->b, args->k, args->alpha, args->beta, args->c,
                          args->ldc);
    else if (args->m <= FEW_ROWS && args->k >= FEW_DEPTH && args->transpose_b && !args->transpose_a)
        few_times_rows(device, args);
    else
        gemm_library(2.0 * (double)args->m * (double)args->n * (double)args->k < LONE_FLOPS ? 1 : device->threads,
                     args);
    if (args->bias)
        bias_add(device, args);
}

void KERNEL(bias_backward)(Device *device, const BiasBackwardArgs *args)
{
    int64_t width = args->width;
    SumBlocks blocks = sum_blocks(args->rows);
    double *partial = arena_alloc(&device->scratch, sizeof(double) * (size_t)(blocks.count * width));
    if (!device->backend->computes)
        return;
    double work = (double)args->rows * (double)width;
    PARALLEL_FOR(device, work)
    for (int64_t block = 0; block < blocks.count; block++) {
        double *sum = partial + block * width;
        for (int64_t j = 0; j < width; j++)
            sum[j] = 0.0;
        int64_t end = min_i64((block + 1) * blocks.rows, args->rows);
        for (int64_t i = block * blocks.rows; i < end; i++)
            for (int64_t j = 0; j < width; j++)
                sum[j] += args->dy[i * width + j];
    }
    for (int64_t j = 0; j < width; j++) {
        double sum = 0.0;
        for (int64_t block = 0; block < blocks.count; block++)
            sum += partial[block * width + j];
        args->dbias[j] += (float)sum;
    }
}
