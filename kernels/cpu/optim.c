/* optim.c -- what happens to flat buffers once a step: the gradient's norm, the factor that clips it, AdamW. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

void KERNEL(sum_squares)(Device *device, const SumSquaresArgs *args)
{
    int64_t blocks = (args->count + SUM_BLOCK - 1) / SUM_BLOCK;
    PARALLEL_FOR(device, args->count)
    for (int64_t block = 0; block < blocks; block++) {
        const float *x = args->x + block * SUM_BLOCK;
        int64_t count = min_i64(SUM_BLOCK, args->count - block * SUM_BLOCK);
        double lane[16] = {0};
        int64_t i = 0;
        for (; i + 16 <= count; i += 16)
            for (int k = 0; k < 16; k++)
                lane[k] += (double)x[i + k] * (double)x[i + k];
        for (int k = 0; i < count; i++, k++)
            lane[k] += (double)x[i] * (double)x[i];
        for (int width = 8; width >= 1; width /= 2)
            for (int k = 0; k < width; k++)
                lane[k] += lane[k + width];
        args->result[block] = lane[0];
    }
}

void KERNEL(clip_scale)(Device *device, const ClipScaleArgs *args)
{
    (void)device;
    double sum = 0.0;
    for (int64_t block = 0; block < args->blocks; block++)
        sum += args->block[block];
    double norm = sqrt(sum), factor = 1.0;
    if (args->max_norm > 0.0 && args->max_norm / (norm + 1e-6) < 1.0)
        factor = args->max_norm / (norm + 1e-6);
    *args->norm = norm;
    *args->scale = isfinite(norm) ? (float)factor : -1.0f;
}

/* One pass over the four streams. `rate` and `root` hold the bias corrections of the form in use:
 * p = p * keep - rate * m / (sqrt(v) * root + epsilon). */
typedef struct AdamFactors {
    float scale, beta1, beta2, rest1, rest2, rate, root, epsilon, keep;
} AdamFactors;

static void adamw_run(const AdamFactors *f, float *restrict p, const float *restrict g, float *restrict m,
                      float *restrict v, int64_t count)
{
    AdamFactors a = *f;
    for (int64_t i = 0; i < count; i++) {
        float gradient = g[i] * a.scale;
        m[i] = a.beta1 * m[i] + a.rest1 * gradient;
        v[i] = a.beta2 * v[i] + a.rest2 * gradient * gradient;
        p[i] = p[i] * a.keep - a.rate * m[i] / (sqrtf(v[i]) * a.root + a.epsilon);
    }
}

void KERNEL(adamw)(Device *device, const AdamWArgs *args)
{
    REQUIRE(args->step >= 1, "step %lld counts from 1", (long long)args->step);
    if (args->scale && *args->scale < 0.0f)
        return;
    double first = 1.0 - pow(args->beta1, (double)args->step), second = 1.0 - pow(args->beta2, (double)args->step);
    AdamFactors f = {.scale = args->scale ? *args->scale : 1.0f,
                     .beta1 = (float)args->beta1,
                     .beta2 = (float)args->beta2,
                     .rest1 = (float)(1.0 - args->beta1),
                     .rest2 = (float)(1.0 - args->beta2),
                     .epsilon = (float)args->epsilon,
                     .keep = (float)(1.0 - args->lr * args->decay)};
    if (args->form == ADAM_TORCH) {
        f.rate = (float)(args->lr / first);
        f.root = (float)(1.0 / sqrt(second));
    } else {
        f.rate = (float)(args->lr * sqrt(second) / first);
        f.root = 1.0f;
    }
    enum { RUN = 4096 };
    int64_t runs = (args->count + RUN - 1) / RUN;
    PARALLEL_FOR(device, 4.0 * (double)args->count)
    for (int64_t run = 0; run < runs; run++) {
        int64_t from = run * RUN;
        adamw_run(&f, args->parameter + from, args->gradient + from, args->exp_avg + from, args->exp_avg_sq + from,
                  min_i64(RUN, args->count - from));
    }
}
