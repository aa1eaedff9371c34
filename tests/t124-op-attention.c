/* t124 -- attention equals a plain softmax in double, its gradient equals differences, and a cache changes nothing. */
#include <math.h>
#include <string.h>

#include "tests/support/op_check.h"

typedef struct Case {
    int64_t heads, kv_heads, dim, sequences;
    int32_t length[8];
} Case;

static const Case cases[] = {
    {1, 1, 8, 1, {1}},           {2, 2, 8, 5, {0, 1, 33, 0, 31}}, {8, 4, 8, 4, {7, 100, 64, 65}},
    {6, 2, 16, 3, {1, 129, 40}}, {3, 3, 12, 2, {17, 66}},         {4, 1, 64, 2, {130, 3}},
    {2, 1, 80, 1, {70}},         {2, 2, 128, 2, {5, 71}},         {1, 1, 32, 1, {257}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

typedef struct Problem {
    const Case *c;
    int64_t tokens, stride, width, longest;
    double pairs;
    int32_t *start;
    float scale;
} Problem;

static Problem problem_of(const Case *c)
{
    Problem p = {.c = c, .stride = (c->heads + 2 * c->kv_heads) * c->dim, .width = c->heads * c->dim};
    p.start = op_ints(c->sequences + 1);
    p.start[0] = 0;
    for (int64_t s = 0; s < c->sequences; s++) {
        int32_t n = c->length[s];
        p.start[s + 1] = p.start[s] + n;
        p.longest = n > p.longest ? n : p.longest;
        p.pairs += 0.5 * n * (n + 1.0);
    }
    p.tokens = p.start[c->sequences];
    p.scale = (float)(1.0 / sqrt((double)c->dim));
    return p;
}

/* out and lse in double; qkv (tokens, stride). */
static void reference(const Problem *p, const double *qkv, double *out, double *lse)
{
    const Case *c = p->c;
    for (int64_t s = 0; s < c->sequences; s++)
        for (int64_t t = p->start[s]; t < p->start[s + 1]; t++)
            for (int64_t h = 0; h < c->heads; h++) {
                int64_t g = h * c->kv_heads / c->heads;
                const double *q = qkv + t * p->stride + h * c->dim;
                double *o = out + t * p->width + h * c->dim, score[512], largest = -INFINITY, sum = 0.0;
                for (int64_t j = p->start[s]; j <= t; j++) {
                    const double *k = qkv + j * p->stride + (c->heads + g) * c->dim;
                    double dot = 0.0;
                    for (int64_t d = 0; d < c->dim; d++)
                        dot += q[d] * k[d];
                    score[j - p->start[s]] = dot * (double)p->scale;
                    largest = fmax(largest, score[j - p->start[s]]);
                }
                for (int64_t j = 0; j <= t - p->start[s]; j++)
                    sum += exp(score[j] - largest);
                for (int64_t d = 0; d < c->dim; d++)
                    o[d] = 0.0;
                for (int64_t j = p->start[s]; j <= t; j++) {
                    const double *v = qkv + j * p->stride + (c->heads + c->kv_heads + g) * c->dim;
                    double weight = exp(score[j - p->start[s]] - largest) / sum;
                    for (int64_t d = 0; d < c->dim; d++)
                        o[d] += weight * v[d];
                }
                lse[t * c->heads + h] = largest + log(sum);
            }
}

static AttentionForwardArgs forward_args(const Problem *p, const float *qkv, float *out, float *lse)
{
    return (AttentionForwardArgs){.qkv = qkv,
                                  .start = p->start,
                                  .out = out,
                                  .lse = lse,
                                  .tokens = p->tokens,
                                  .sequences = p->c->sequences,
                                  .heads = p->c->heads,
                                  .kv_heads = p->c->kv_heads,
                                  .head_dim = p->c->dim,
                                  .longest = p->longest,
                                  .scale = p->scale,
                                  .pairs = p->pairs};
}

static void check_forward(Device *device)
{
    for (int k = 0; k < CASES; k++) {
        Problem p = problem_of(&cases[k]);
        for (int sharp = 0; sharp < 2; sharp++) { /* large scores must neither overflow nor lose the row */
            float *qkv = op_normal(p.tokens * p.stride, 5, sharp ? 12.0 : 1.0);
            float *out = op_floats(p.tokens * p.width), *lse = op_floats(p.tokens * p.c->heads);
            double *wide = op_widen(qkv, p.tokens * p.stride);
            double *expected = op_doubles(p.tokens * p.width), *expected_lse = op_doubles(p.tokens * p.c->heads);
            reference(&p, wide, expected, expected_lse);
            AttentionForwardArgs args = forward_args(&p, qkv, out, lse);
            device_run(device, OP_attention_forward, &args);
            assert_near(out, expected, p.tokens * p.width, 1e-5, sharp ? 2e-2 : 3e-6);
            assert_near(lse, expected_lse, p.tokens * p.c->heads, 2e-6, sharp ? 1e-3 : 2e-6);
            op_keep(out, sizeof(float) * (size_t)(p.tokens * p.width));
            op_keep(lse, sizeof(float) * (size_t)(p.tokens * p.c->heads));
            float *again = op_floats(p.tokens * p.width);
            args.out = again;
            args.lse = NULL;
            device_run(device, OP_attention_forward, &args);
            assert_memory_equal(again, out, sizeof(float) * (size_t)(p.tokens * p.width));
        }
    }
}

/* Sum of out * weight, as a function of qkv. */
typedef struct Loss {
    const Problem *p;
    const double *qkv, *weight;
    double *out, *lse;
} Loss;
static double loss_value(void *context)
{
    Loss *loss = context;
    reference(loss->p, loss->qkv, loss->out, loss->lse);
    double sum = 0.0;
    for (int64_t i = 0; i < loss->p->tokens * loss->p->width; i++)
        sum += loss->weight[i] * loss->out[i];
    return sum;
}

/* The gradient in double by its formulas, for shapes where differences of everything would take too long. */
static void reference_backward(const Problem *p, const double *qkv, const double *dout, const double *out,
                               const double *lse, double *dqkv)
{
    const Case *c = p->c;
    for (int64_t i = 0; i < p->tokens * p->stride; i++)
        dqkv[i] = 0.0;
    for (int64_t s = 0; s < c->sequences; s++)
        for (int64_t t = p->start[s]; t < p->start[s + 1]; t++)
            for (int64_t h = 0; h < c->heads; h++) {
                int64_t g = h * c->kv_heads / c->heads, q_at = t * p->stride + h * c->dim;
                int64_t o_at = t * p->width + h * c->dim;
                for (int64_t j = p->start[s]; j <= t; j++) {
                    int64_t k_at = j * p->stride + (c->heads + g) * c->dim, v_at = k_at + c->kv_heads * c->dim;
                    double dot = 0.0, slope = 0.0, delta = 0.0;
                    for (int64_t d = 0; d < c->dim; d++) {
                        dot += qkv[q_at + d] * qkv[k_at + d];
                        slope += dout[o_at + d] * qkv[v_at + d];
                        delta += dout[o_at + d] * out[o_at + d];
                    }
                    double weight = exp(dot * (double)p->scale - lse[t * c->heads + h]);
                    double ds = weight * (slope - delta) * (double)p->scale;
                    for (int64_t d = 0; d < c->dim; d++) {
                        dqkv[q_at + d] += ds * qkv[k_at + d];
                        dqkv[k_at + d] += ds * qkv[q_at + d];
                        dqkv[v_at + d] += weight * dout[o_at + d];
                    }
                }
            }
}

static void check_backward(Device *device)
{
    for (int k = 0; k < CASES; k++) {
        Problem p = problem_of(&cases[k]);
        float *qkv = op_normal(p.tokens * p.stride, 6, 1.0), *dout = op_normal(p.tokens * p.width, 7, 1.0);
        float *out = op_floats(p.tokens * p.width), *lse = op_floats(p.tokens * p.c->heads);
        float *dqkv = op_floats(p.tokens * p.stride);
        AttentionForwardArgs forward = forward_args(&p, qkv, out, lse);
        device_run(device, OP_attention_forward, &forward);
        AttentionBackwardArgs args = {.qkv = qkv,
                                      .out = out,
                                      .dout = dout,
                                      .lse = lse,
                                      .start = p.start,
                                      .dqkv = dqkv,
                                      .tokens = p.tokens,
                                      .sequences = p.c->sequences,
                                      .heads = p.c->heads,
                                      .kv_heads = p.c->kv_heads,
                                      .head_dim = p.c->dim,
                                      .longest = p.longest,
                                      .scale = p.scale,
                                      .pairs = p.pairs};
        device_run(device, OP_attention_backward, &args);
        op_keep(dqkv, sizeof(float) * (size_t)(p.tokens * p.stride));
        double *wide = op_widen(qkv, p.tokens * p.stride), *weight = op_widen(dout, p.tokens * p.width);
        double *wide_out = op_doubles(p.tokens * p.width), *wide_lse = op_doubles(p.tokens * p.c->heads);
        double *expected = op_doubles(p.tokens * p.stride);
        reference(&p, wide, wide_out, wide_lse);
        reference_backward(&p, wide, weight, wide_out, wide_lse, expected);
        assert_near(dqkv, expected, p.tokens * p.stride, 1e-4, 2e-5);
        if (p.tokens <= 64) {
            Loss loss = {&p, wide, weight, wide_out, wide_lse};
            assert_slopes(wide, p.tokens * p.stride, loss_value, &loss, dqkv, 1e-4);
        }
    }
}

/* The formulas above stand on differences themselves. */
static void test_reference_backward(void **state)
{
    (void)state;
    static const Case small = {4, 2, 3, 3, {5, 0, 4}};
    Problem p = problem_of(&small);
    float *qkv = op_normal(p.tokens * p.stride, 8, 1.0), *dout = op_normal(p.tokens * p.width, 9, 1.0);
    double *wide = op_widen(qkv, p.tokens * p.stride), *weight = op_widen(dout, p.tokens * p.width);
    double *out = op_doubles(p.tokens * p.width), *lse = op_doubles(p.tokens * small.heads);
    double *slope = op_doubles(p.tokens * p.stride);
    float *narrow = op_floats(p.tokens * p.stride);
    reference(&p, wide, out, lse);
    reference_backward(&p, wide, weight, out, lse, slope);
    for (int64_t i = 0; i < p.tokens * p.stride; i++)
        narrow[i] = (float)slope[i];
    Loss loss = {&p, wide, weight, out, lse};
    assert_slopes(wide, p.tokens * p.stride, loss_value, &loss, narrow, 1e-6);
}

/* Feeds the tokens of each sequence to a cache in pieces, and compares with all of them at once. */
static void check_pieces(Device *device, const Case *c, const int *piece, int pieces)
{
    Problem p = problem_of(c);
    int64_t capacity = p.longest + 3, slots = c->sequences + 2, cache = slots * c->kv_heads * capacity * c->dim;
    float *qkv = op_normal(p.tokens * p.stride, 10, 1.0), *whole = op_floats(p.tokens * p.width);
    AttentionForwardArgs all = forward_args(&p, qkv, whole, NULL);
    device_run(device, OP_attention_forward, &all);

    KvArgs kv = {.k = op_floats(cache), .v = op_floats(cache), .slots = slots, .capacity = capacity};
    int32_t *slot = op_ints(c->sequences), *past = op_ints(c->sequences);
    for (int64_t s = 0; s < c->sequences; s++) {
        slot[s] = (int32_t)(slots - 1 - s);
        past[s] = 0;
    }
    kv.slot = slot;
    kv.past = past;
    int32_t *start = op_ints(c->sequences + 1);
    float *some = op_floats(p.tokens * p.stride), *out = op_floats(p.tokens * p.width);
    for (int round = 0;; round++) {
        int32_t take = (int32_t)piece[round < pieces ? round : pieces - 1];
        start[0] = 0;
        for (int64_t s = 0; s < c->sequences; s++) {
            int32_t left = c->length[s] - past[s], n = left < take ? left : take;
            start[s + 1] = start[s] + n;
            memcpy(some + start[s] * p.stride, qkv + (p.start[s] + past[s]) * p.stride,
                   sizeof(float) * (size_t)(n * p.stride));
        }
        if (start[c->sequences] == 0)
            break;
        Problem part = p;
        part.start = start;
        part.tokens = start[c->sequences];
        AttentionForwardArgs args = forward_args(&part, some, out, NULL);
        args.kv = kv;
        device_run(device, OP_attention_forward, &args);
        for (int64_t s = 0; s < c->sequences; s++) {
            int32_t n = start[s + 1] - start[s];
            for (int64_t i = 0; i < n * p.width; i++) {
                double expected = (double)whole[(p.start[s] + past[s]) * p.width + i];
                double found = (double)out[start[s] * p.width + i];
                assert_close(found, expected, 1e-5, 1e-5);
            }
            op_keep(out + start[s] * p.width, sizeof(float) * (size_t)(n * p.width));
            past[s] += n;
        }
    }
}

static void check_cache(Device *device)
{
    static const int ones[] = {1}, prefill[] = {40, 1}, chunks[] = {5, 17, 64, 3};
    for (int k = 1; k < 6; k++) {
        check_pieces(device, &cases[k], ones, 1);
        check_pieces(device, &cases[k], prefill, 2);
        check_pieces(device, &cases[k], chunks, 4);
    }
}

static void overflow_cache(void *argument)
{
    Device *device = argument;
    static const Case c = {1, 1, 8, 1, {4}};
    Problem p = problem_of(&c);
    static float k[32], v[32];
    static const int32_t slot[1] = {0}, past[1] = {1};
    AttentionForwardArgs args = forward_args(&p, op_normal(4 * 24, 1, 1.0), op_floats(4 * 8), NULL);
    args.kv = (KvArgs){k, v, slot, past, 1, 4};
    device_run(device, OP_attention_forward, &args);
}

static void check_full_cache(Device *device)
{
    assert_true(support_aborts(overflow_cache, device, "slot 0 of 1, 1 + 4 tokens of 4"));
    op_keep("x", 1);
}

static void test_forward(void **state)
{
    (void)state;
    op_on_devices(check_forward, true);
}
static void test_backward(void **state)
{
    (void)state;
    op_on_devices(check_backward, true);
}
static void test_cache(void **state)
{
    (void)state;
    op_on_devices(check_cache, true);
}
static void test_full_cache(void **state)
{
    (void)state;
    op_on_devices(check_full_cache, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reference_backward), cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_backward), cmocka_unit_test(test_cache),
                                       cmocka_unit_test(test_full_cache)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
