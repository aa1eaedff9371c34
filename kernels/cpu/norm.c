/* norm.c -- residual addition with RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) of the sum.
 *
 * Backward, with h = s normalised and g = dy * gain:
 *        LayerNorm  dx = dsum + rstd (g - mean(g) - h mean(g h))        RMSNorm: without mean(g)
 * dgain and dbias are sums over all rows: blocks of rows fixed by the shape, in double, joined in order. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

typedef struct RowSums {
    float first, second;
} RowSums;

/* sum of s and of s^2 about `centre` */
VEC_INLINE RowSums row_sums(const float *s, int64_t width, float centre)
{
    Vec first = {0}, second = {0}, shift = vec_set(centre);
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES) {
        Vec value = vec_load(s + j) - shift;
        first += value;
        second += value * value;
    }
    if (j < width) {
        Vec value = vec_load_part(s + j, width - j, centre) - shift;
        first += value;
        second += value * value;
    }
    return (RowSums){vec_sum(first), vec_sum(second)};
}

static void norm_forward_rows(const NormForwardArgs *args, Share rows)
{
    int64_t width = args->width;
    for (int64_t i = rows.from; i < rows.to; i++) {
        const float *s = floats(args->x) + i * width;
        if (args->residual) {
            const float *residual = floats(args->residual) + i * width;
            float *sum = floats(args->sum) + i * width;
            for (int64_t j = 0; j < width; j++)
                sum[j] = s[j] + residual[j];
            s = sum;
        }
        float mean = 0.0f;
        if (args->kind == NORM_LAYER)
            mean = row_sums(s, width, 0.0f).first / (float)width;
        RowSums sums = row_sums(s, width, mean);
        float rstd = 1.0f / sqrtf(sums.second / (float)width + args->epsilon);
        float *y = floats(args->y) + i * width;
        if (args->bias)
            for (int64_t j = 0; j < width; j++)
                y[j] = (s[j] - mean) * rstd * args->gain[j] + args->bias[j];
        else
            for (int64_t j = 0; j < width; j++)
                y[j] = (s[j] - mean) * rstd * args->gain[j];
        if (args->mean)
            args->mean[i] = mean;
        if (args->rstd)
            args->rstd[i] = rstd;
    }
}

void KERNEL(norm_forward)(Device *device, const NormForwardArgs *args)
{
    ON_THREADS(cpu_threads(device, 4.0 * (double)args->rows * (double)args->width),
               norm_forward_rows(args, cpu_share(args->rows, 1)));
}

/* One row: adds to dgain and dbias before dx, which may stand on dy or dsum. */
VEC_INLINE void norm_backward_row(const NormBackwardArgs *args, int64_t i, double *dgain, double *dbias)
{
    int64_t width = args->width;
    const float *dy = floats(args->dy) + i * width, *s = floats(args->sum) + i * width, *gain = args->gain;
    const float *dsum = args->dsum ? floats(args->dsum) + i * width : NULL;
    float *dx = floats(args->dx) + i * width;
    float mean = args->kind == NORM_LAYER ? args->mean[i] : 0.0f, rstd = args->rstd[i];
    if (dgain)
        for (int64_t j = 0; j < width; j++)
            dgain[j] += (double)(dy[j] * ((s[j] - mean) * rstd));
    if (dbias)
        for (int64_t j = 0; j < width; j++)
            dbias[j] += (double)dy[j];
    Vec plain = {0}, along = {0}, centre = vec_set(mean);
    int64_t j = 0;
    for (; j + LANES <= width; j += LANES) {
        Vec g = vec_load(dy + j) * vec_load(gain + j);
        plain += g;
        along += g * (vec_load(s + j) - centre);
    }
    if (j < width) {
        Vec g = vec_load_part(dy + j, width - j, 0.0f) * vec_load_part(gain + j, width - j, 0.0f);
        plain += g;
        along += g * (vec_load_part(s + j, width - j, 0.0f) - centre);
    }
    float mean_plain = args->kind == NORM_LAYER ? vec_sum(plain) / (float)width : 0.0f;
    float slope = vec_sum(along) * rstd * rstd / (float)width;
    if (dsum)
        for (j = 0; j < width; j++)
            dx[j] = dsum[j] + rstd * (dy[j] * gain[j] - mean_plain - (s[j] - mean) * slope);
    else
        for (j = 0; j < width; j++)
            dx[j] = rstd * (dy[j] * gain[j] - mean_plain - (s[j] - mean) * slope);
}

static void join_blocks(const double *partial, int64_t blocks, int64_t stride, int64_t width, float *total)
{
    for (int64_t j = 0; j < width; j++) {
        double sum = 0.0;
        for (int64_t block = 0; block < blocks; block++)
            sum += partial[block * stride + j];
        total[j] += (float)sum;
    }
}

void KERNEL(norm_backward)(Device *device, const NormBackwardArgs *args)
{
    int64_t width = args->width;
    SumBlocks blocks = sum_blocks(args->rows);
    double *partial = arena_alloc(&device->scratch, sizeof(double) * (size_t)(2 * blocks.count * width));
    if (!device->backend->computes)
        return;
    PARALLEL_FOR(device, 10.0 * (double)args->rows * (double)width)
    for (int64_t block = 0; block < blocks.count; block++) {
        double *dgain = args->dgain ? partial + 2 * block * width : NULL;
        double *dbias = args->dbias ? partial + (2 * block + 1) * width : NULL;
        for (int64_t j = 0; j < width; j++) {
            if (dgain)
                dgain[j] = 0.0;
            if (dbias)
                dbias[j] = 0.0;
        }
        int64_t end = min_i64((block + 1) * blocks.rows, args->rows);
        for (int64_t i = block * blocks.rows; i < end; i++)
            norm_backward_row(args, i, dgain, dbias);
    }
    if (args->dgain)
        join_blocks(partial, blocks.count, 2 * width, width, args->dgain);
    if (args->dbias)
        join_blocks(partial + width, blocks.count, 2 * width, width, args->dbias);
}
