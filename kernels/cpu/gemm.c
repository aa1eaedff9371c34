/* gemm.c -- the slot `gemm`: products with one row or one column by our own loops, the rest by the library, then bias.
 *
 * Why:   a decode step of one sequence and a scalar head are matrix times vector: bound by reading the matrix once,
 *        where libraries built for blocks of rows give 1/3 of what memory can do (one row of oneDNN: 29 GFLOP/s of an
 *        in-cache 3072 x 768).
 * Order: a dot product is summed in lanes and then by a fixed tree, whoever computes it. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

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
    if (args->m == 1 && args->transpose_b && (!args->transpose_a || args->lda == 1))
        rows_times_vector(device, args->b, args->ldb, args->n, args->a, args->k, args->alpha, args->beta, args->c, 1);
    else if (args->n == 1 && !args->transpose_a && (args->transpose_b || args->ldb == 1))
        rows_times_vector(device, args->a, args->lda, args->m, args->b, args->k, args->alpha, args->beta, args->c,
                          args->ldc);
    else
        gemm_library(device->threads, args);
    if (args->bias)
        bias_add(device, args);
}

void KERNEL(bias_backward)(Device *device, const BiasBackwardArgs *args)
{
    int64_t width = args->width;
    SumBlocks blocks = sum_blocks(args->rows);
    double *partial = arena_alloc(&device->scratch, sizeof(double) * (size_t)(blocks.count * width));
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
