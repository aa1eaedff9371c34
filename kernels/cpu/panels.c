/* panels.c -- C (m, n) = X (m, k) W (n, k) transposed for many rows of X and a large W: a linear layer, the vocabulary head.
 *
 * Why:   W (out, in) lies across what the library multiplies, and its own turning of it is slow: 15 GB/s, and worse where
 *        rows lie a multiple of a page apart. For 256 rows of X that is a fifth of the product.
 * How:   PANEL rows of W at a time are transposed into scratch that stays in cache, by all threads, and the library gets
 *        a product whose operands both lie as it reads them. C's columns are given their bias in the same visit, and the
 *        product is added to it. */
#include "kernels/cpu/panels.h"
#include "kernels/cpu/vec.h"

enum {
    PANEL = 384,           /* rows of W: with any usual depth a panel stays in the second or third cache */
    PANEL_LD = PANEL + 16, /* so that columns of a panel do not crowd the same cache sets */
    ROWS_MIN = 65,         /* below, skinny products are faster still */
    MATRIX_MIN = 1 << 17,  /* floats of W; the library turns a smaller one inside its caches */
};

bool KERNEL(panels_suit)(const GemmArgs *args)
{
    return args->transpose_b && !args->transpose_a && args->m >= ROWS_MIN && args->n * args->k >= MATRIX_MIN;
}

/* Rows [from, from + LANES) of a panel of `count` rows -> columns of `to` (k, PANEL_LD). */
static void turn_rows(const float *w, int64_t ld, int64_t from, int64_t count, int64_t k, float *to)
{
    int64_t p = 0;
    if (from + LANES <= count)
        for (; p + LANES <= k; p += LANES)
            vec_transpose(w + from * ld + p, ld, to + p * PANEL_LD + from, PANEL_LD);
    for (; p < k; p++)
        for (int64_t r = from; r < min_i64(from + LANES, count); r++)
            to[p * PANEL_LD + r] = w[r * ld + p];
}

static void bias_begin(const GemmArgs *args, int64_t i, int64_t from, int64_t count)
{
    float *c = floats(args->c) + i * args->ldc + from;
    const float *bias = args->bias + from;
    if (args->beta == 0.0f)
        memcpy(c, bias, sizeof(float) * (size_t)count);
    else
        for (int64_t j = 0; j < count; j++)
            c[j] = args->beta * c[j] + bias[j];
}

void KERNEL(panels)(Device *device, const GemmArgs *args)
{
    float *panel = arena_alloc(&device->scratch, sizeof(float) * (size_t)(args->k * PANEL_LD)); /* (k, PANEL_LD) */
    if (!device->backend->computes)
        return;
    for (int64_t from = 0; from < args->n; from += PANEL) {
        int64_t count = min_i64(PANEL, args->n - from);
#pragma omp parallel num_threads(device->threads)
        {
#pragma omp for schedule(static) nowait
            for (int64_t r = 0; r < count; r += LANES)
                turn_rows(floats(args->b) + from * args->ldb, args->ldb, r, count, args->k, panel);
            if (args->bias) {
#pragma omp for schedule(static) nowait
                for (int64_t i = 0; i < args->m; i++)
                    bias_begin(args, i, from, count);
            }
        }
        GemmArgs part = *args;
        part.transpose_b = false;
        part.n = count;
        part.b = panel;
        part.ldb = PANEL_LD;
        part.c = floats(args->c) + from;
        part.beta = args->bias ? 1.0f : args->beta;
        gemm_library(device->threads, &part);
    }
}
