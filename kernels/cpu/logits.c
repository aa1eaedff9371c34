/* logits.c -- softmax over a vocabulary: log-sum-exp, log-prob of a target, entropy, and the gradient of all three.
 *
 * A row is read twice (its largest value, then the exponentials). Exponentials are added in lanes over CHUNK values and
 * then in double, so a row of 50,000 keeps seven digits. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

enum { CHUNK = 1024 };

static float row_largest(const float *row, int64_t vocab)
{
    Vec a = vec_set(-INFINITY), b = a;
    int64_t j = 0;
    for (; j + 2 * LANES <= vocab; j += 2 * LANES) {
        a = vec_max(vec_load(row + j), a);
        b = vec_max(vec_load(row + j + LANES), b);
    }
    for (; j < vocab; j += LANES)
        a = vec_max(vec_load_part(row + j, vocab - j, -INFINITY), a);
    return vec_largest(vec_max(a, b));
}

typedef struct SoftmaxSums {
    double sum, weighted; /* of e^z and of e^z z, z relative to the largest */
} SoftmaxSums;

VEC_INLINE SoftmaxSums row_sums(const float *row, int64_t vocab, float largest, float inverse, bool weighted)
{
    SoftmaxSums sums = {0.0, 0.0};
    Vec shift = vec_set(largest), scale = vec_set(inverse);
    for (int64_t from = 0; from < vocab; from += CHUNK) {
        int64_t to = min_i64(from + CHUNK, vocab);
        Vec s = {0}, w = {0};
        int64_t j = from;
        for (; j + LANES <= to; j += LANES) {
            Vec z = (vec_load(row + j) - shift) * scale;
            Vec e = vec_exp(z);
            s += e;
            if (weighted)
                w += e * z;
        }
        if (j < to) {
            Vec z = (vec_load_part(row + j, to - j, -INFINITY) - shift) * scale;
            Vec e = vec_exp(z);
            s += e;
            if (weighted)
                w += e * vec_select(e > vec_set(0.0f), z, vec_set(0.0f));
        }
        sums.sum += (double)vec_sum(s);
        if (weighted)
            sums.weighted += (double)vec_sum(w);
    }
    return sums;
}

void KERNEL(logits_stats)(Device *device, const LogitsStatsArgs *args)
{
    float inverse = 1.0f / args->temperature;
    PARALLEL_FOR(device, 20.0 * (double)args->rows * (double)args->vocab)
    for (int64_t i = 0; i < args->rows; i++) {
        const float *row = args->logits + i * args->ld;
        float largest = row_largest(row, args->vocab);
        SoftmaxSums sums = args->entropy ? row_sums(row, args->vocab, largest, inverse, true)
                                         : row_sums(row, args->vocab, largest, inverse, false);
        double log_sum = log(sums.sum), top = (double)(largest * inverse);
        if (args->lse)
            args->lse[i] = (float)(top + log_sum);
        if (args->logprob) {
            int32_t target = args->target[i];
            REQUIRE(target >= 0 && target < args->vocab, "target %lld is %d, outside [0, %lld)", (long long)i, target,
                    (long long)args->vocab);
            args->logprob[i] = (float)((double)((row[target] - largest) * inverse) - log_sum);
        }
        if (args->entropy)
            args->entropy[i] = (float)(log_sum - sums.weighted / sums.sum);
    }
}

typedef struct RowGradient {
    Vec lse, inverse, dlogprob, dentropy, entropy;
} RowGradient;

/* Without the target's own term, which is added afterwards. */
VEC_INLINE Vec row_gradient(Vec logits, const RowGradient *g, bool with_entropy)
{
    Vec logp = logits * g->inverse - g->lse;
    Vec p = vec_exp(logp);
    Vec result = -g->dlogprob * p;
    if (with_entropy)
        result -= g->dentropy * p * (vec_select(p > vec_set(0.0f), logp, vec_set(0.0f)) + g->entropy);
    return result * g->inverse;
}

/* `to` may be `row`. */
VEC_INLINE void row_backward(const float *row, float *to, int64_t vocab, const RowGradient *g, bool with_entropy)
{
    int64_t j = 0;
    for (; j + LANES <= vocab; j += LANES)
        vec_store(to + j, row_gradient(vec_load(row + j), g, with_entropy));
    if (j < vocab)
        vec_store_part(to + j, row_gradient(vec_load_part(row + j, vocab - j, 0.0f), g, with_entropy), vocab - j);
}

void KERNEL(logits_backward)(Device *device, const LogitsBackwardArgs *args)
{
    float inverse = 1.0f / args->temperature;
    PARALLEL_FOR(device, 20.0 * (double)args->rows * (double)args->vocab)
    for (int64_t i = 0; i < args->rows; i++) {
        const float *row = args->logits + i * args->ld;
        float *to = floats(args->dlogits) + i * args->ld;
        float dlogprob = args->dlogprob[i], dentropy = args->dentropy ? args->dentropy[i] : 0.0f;
        int32_t target = args->target[i];
        REQUIRE(target >= 0 && target < args->vocab, "target %lld is %d, outside [0, %lld)", (long long)i, target,
                (long long)args->vocab);
        RowGradient g = {vec_set(args->lse[i]), vec_set(inverse), vec_set(dlogprob), vec_set(dentropy),
                         vec_set(args->dentropy ? args->entropy[i] : 0.0f)};
        if (dlogprob == 0.0f && dentropy == 0.0f) {
            memset(to, 0, sizeof(float) * (size_t)args->ld);
            continue;
        }
        if (args->dentropy)
            row_backward(row, to, args->vocab, &g, true);
        else
            row_backward(row, to, args->vocab, &g, false);
        to[target] += dlogprob * inverse;
        for (int64_t j = args->vocab; j < args->ld; j++)
            to[j] = 0.0f;
    }
}
