/* gemm.c -- the slot `gemm`: who computes a product is a question of its shape. Few rows against a matrix (skinny.c), many
 * against a large one (panels.c), one column by dot products here, the rest by the library; then bias. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/panels.h"
#include "kernels/cpu/skinny.h"
#include "kernels/cpu/vec.h"

enum {
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

/* What a product over nothing leaves of C; libraries differ. */
static void scale_rows(Device *device, const GemmArgs *args)
{
    PARALLEL_FOR(device, (double)args->m * (double)args->n)
    for (int64_t i = 0; i < args->m; i++) {
        float *row = floats(args->c) + i * args->ldc;
        for (int64_t j = 0; j < args->n; j++)
            row[j] = args->beta == 0.0f ? 0.0f : args->beta * row[j];
    }
}

static void bias_add(const GemmArgs *args, Share rows)
{
    for (int64_t i = rows.from; i < rows.to; i++) {
        float *row = floats(args->c) + i * args->ldc;
        for (int64_t j = 0; j < args->n; j++)
            row[j] += args->bias[j];
    }
}

void KERNEL(gemm)(Device *device, const GemmArgs *args)
{
    if (args->m == 0 || args->n == 0)
        return;
    if (args->k && KERNEL(skinny_suits)(args)) {
        KERNEL(skinny)(device, args);
        return;
    }
    if (args->k && KERNEL(panels_suit)(args)) {
        KERNEL(panels)(device, args);
        return;
    }
    if (!device->backend->computes)
        return;
    if (!args->k)
        scale_rows(device, args);
    else if (args->n == 1 && !args->transpose_a && (args->transpose_b || args->ldb == 1))
        rows_times_vector(device, args->a, args->lda, args->m, args->b, args->k, args->alpha, args->beta, args->c,
                          args->ldc);
    else
        gemm_library(2.0 * (double)args->m * (double)args->n * (double)args->k < LONE_FLOPS ? 1 : device->threads,
                     args);
    if (args->bias)
        ON_THREADS(cpu_threads(device, (double)args->m * (double)args->n), bias_add(args, cpu_share(args->m, 1)));
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
                sum[j] += floats(args->dy)[i * width + j];
    }
    for (int64_t j = 0; j < width; j++) {
        double sum = 0.0;
        for (int64_t block = 0; block < blocks.count; block++)
            sum += partial[block * width + j];
        args->dbias[j] += (float)sum;
    }
}
