/* vec.h -- a register of floats, as wide as the instruction set has, and the functions that libm has not for it.
 *
 * Why:   sums must have a fixed order, so the compiler may not reorder them, and libm's exp is one value at a time.
 *        With GCC's vector types the order (lanes, then a fixed tree) is written down and the same everywhere.
 * How:   exp and erfc are our own fits (Cody-Waite reduction, then polynomials by least squares at Chebyshev nodes in
 *        extended precision): exp is within 2 ulp, erfc within 4e-7 relative over [0, 9], where GELU reads it. */
#ifndef KERNELS_CPU_VEC_H
#define KERNELS_CPU_VEC_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VEC_BYTES 64
#elif defined(__AVX2__)
#define VEC_BYTES 32
#else
#define VEC_BYTES 16
#endif
enum { LANES = VEC_BYTES / 4 };
typedef float Vec __attribute__((vector_size(VEC_BYTES)));
typedef int32_t VecI __attribute__((vector_size(VEC_BYTES)));
typedef Vec VecUnaligned __attribute__((aligned(4), may_alias));

#define VEC_INLINE static inline __attribute__((always_inline, unused))

VEC_INLINE Vec vec_load(const float *x)
{
    return *(const VecUnaligned *)x;
}
VEC_INLINE void vec_store(float *x, Vec value)
{
    *(VecUnaligned *)x = value;
}
VEC_INLINE Vec vec_set(float x)
{
    return x - (Vec){0};
}
/* A value that is used several times stays in a register: the compiler would rather load it at each use. */
#if defined(__x86_64__)
#define VEC_KEEP(x) __asm__("" : "+v"(x))
#else
#define VEC_KEEP(x) (void)(x)
#endif
/* The first `count` < LANES floats, then `rest`; and to store as many. */
#if defined(__AVX512F__)
VEC_INLINE Vec vec_load_part(const float *x, int64_t count, float rest)
{
    return (Vec)_mm512_mask_loadu_ps((__m512)vec_set(rest), (__mmask16)((1u << count) - 1u), x);
}
VEC_INLINE void vec_store_part(float *x, Vec value, int64_t count)
{
    _mm512_mask_storeu_ps(x, (__mmask16)((1u << count) - 1u), (__m512)value);
}
#else
VEC_INLINE Vec vec_load_part(const float *x, int64_t count, float rest)
{
    float buffer[LANES];
    for (int lane = 0; lane < LANES; lane++)
        buffer[lane] = lane < count ? x[lane] : rest;
    return vec_load(buffer);
}
VEC_INLINE void vec_store_part(float *x, Vec value, int64_t count)
{
    float buffer[LANES];
    vec_store(buffer, value);
    for (int lane = 0; lane < count; lane++)
        x[lane] = buffer[lane];
}
#endif
/* Where mask is all ones: a, else b. Larger and smaller: of a NaN and a number the second argument. */
#if defined(__AVX512F__)
VEC_INLINE Vec vec_select(VecI mask, Vec a, Vec b)
{
    return (Vec)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)mask), (__m512)b, (__m512)a);
}
VEC_INLINE Vec vec_max(Vec a, Vec b)
{
    return (Vec)_mm512_max_ps((__m512)a, (__m512)b);
}
VEC_INLINE Vec vec_min(Vec a, Vec b)
{
    return (Vec)_mm512_min_ps((__m512)a, (__m512)b);
}
#elif defined(__AVX2__)
VEC_INLINE Vec vec_select(VecI mask, Vec a, Vec b)
{
    return (Vec)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
}
VEC_INLINE Vec vec_max(Vec a, Vec b)
{
    return (Vec)_mm256_max_ps((__m256)a, (__m256)b);
}
VEC_INLINE Vec vec_min(Vec a, Vec b)
{
    return (Vec)_mm256_min_ps((__m256)a, (__m256)b);
}
#elif defined(__SSE2__)
VEC_INLINE Vec vec_select(VecI mask, Vec a, Vec b)
{
    return (Vec)((mask & (VecI)a) | (~mask & (VecI)b));
}
VEC_INLINE Vec vec_max(Vec a, Vec b)
{
    return (Vec)_mm_max_ps((__m128)a, (__m128)b);
}
VEC_INLINE Vec vec_min(Vec a, Vec b)
{
    return (Vec)_mm_min_ps((__m128)a, (__m128)b);
}
#else
VEC_INLINE Vec vec_select(VecI mask, Vec a, Vec b)
{
    return (Vec)((mask & (VecI)a) | (~mask & (VecI)b));
}
VEC_INLINE Vec vec_max(Vec a, Vec b)
{
    return vec_select(a > b, a, b);
}
VEC_INLINE Vec vec_min(Vec a, Vec b)
{
    return vec_select(a < b, a, b);
}
#endif

/* The other half, quarter, ... of a register: lane i takes lane i ^ WIDTH. */
#if VEC_BYTES == 64
#define VEC_SWAP(x, W)                                                                                                 \
    __builtin_shuffle(x, (VecI){0 ^ W, 1 ^ W, 2 ^ W, 3 ^ W, 4 ^ W, 5 ^ W, 6 ^ W, 7 ^ W, 8 ^ W, 9 ^ W, 10 ^ W, 11 ^ W,  \
                                12 ^ W, 13 ^ W, 14 ^ W, 15 ^ W})
#elif VEC_BYTES == 32
#define VEC_SWAP(x, W) __builtin_shuffle(x, (VecI){0 ^ W, 1 ^ W, 2 ^ W, 3 ^ W, 4 ^ W, 5 ^ W, 6 ^ W, 7 ^ W})
#else
#define VEC_SWAP(x, W) __builtin_shuffle(x, (VecI){0 ^ W, 1 ^ W, 2 ^ W, 3 ^ W})
#endif

/* {a0, b0, a1, b1, ...} of the lower and of the upper halves. */
#if VEC_BYTES == 64
#define VEC_WEAVE_LOW(a, b) __builtin_shuffle(a, b, (VecI){0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23})
#define VEC_WEAVE_HIGH(a, b)                                                                                           \
    __builtin_shuffle(a, b, (VecI){8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31})
#elif VEC_BYTES == 32
#define VEC_WEAVE_LOW(a, b) __builtin_shuffle(a, b, (VecI){0, 8, 1, 9, 2, 10, 3, 11})
#define VEC_WEAVE_HIGH(a, b) __builtin_shuffle(a, b, (VecI){4, 12, 5, 13, 6, 14, 7, 15})
#else
#define VEC_WEAVE_LOW(a, b) __builtin_shuffle(a, b, (VecI){0, 4, 1, 5})
#define VEC_WEAVE_HIGH(a, b) __builtin_shuffle(a, b, (VecI){2, 6, 3, 7})
#endif
/* {a0, a2, ..., b0, b2, ...} and {a1, a3, ..., b1, b3, ...} */
#if VEC_BYTES == 64
#define VEC_EVEN(a, b) __builtin_shuffle(a, b, (VecI){0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30})
#define VEC_ODD(a, b) __builtin_shuffle(a, b, (VecI){1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31})
#elif VEC_BYTES == 32
#define VEC_EVEN(a, b) __builtin_shuffle(a, b, (VecI){0, 2, 4, 6, 8, 10, 12, 14})
#define VEC_ODD(a, b) __builtin_shuffle(a, b, (VecI){1, 3, 5, 7, 9, 11, 13, 15})
#else
#define VEC_EVEN(a, b) __builtin_shuffle(a, b, (VecI){0, 2, 4, 6})
#define VEC_ODD(a, b) __builtin_shuffle(a, b, (VecI){1, 3, 5, 7})
#endif
/* to (LANES, ld_to) = from (LANES, ld_from) transposed, by log2(LANES) perfect shuffles of the rows. */
VEC_INLINE void vec_transpose(const float *from, int64_t ld_from, float *to, int64_t ld_to)
{
    Vec row[LANES], next[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        row[i] = vec_load(from + i * ld_from);
#pragma GCC unroll 4
    for (int width = 1; width < LANES; width *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = VEC_WEAVE_LOW(row[i], row[i + LANES / 2]);
            next[2 * i + 1] = VEC_WEAVE_HIGH(row[i], row[i + LANES / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            row[i] = next[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        vec_store(to + i * ld_to, row[i]);
}

/* A fixed tree: halves onto each other until one lane is left. */
VEC_INLINE float vec_sum(Vec x)
{
#if VEC_BYTES >= 64
    x += VEC_SWAP(x, 8);
#endif
#if VEC_BYTES >= 32
    x += VEC_SWAP(x, 4);
#endif
    x += VEC_SWAP(x, 2);
    x += VEC_SWAP(x, 1);
    return x[0];
}
VEC_INLINE float vec_largest(Vec x)
{
#if VEC_BYTES >= 64
    x = vec_max(VEC_SWAP(x, 8), x);
#endif
#if VEC_BYTES >= 32
    x = vec_max(VEC_SWAP(x, 4), x);
#endif
    x = vec_max(VEC_SWAP(x, 2), x);
    x = vec_max(VEC_SWAP(x, 1), x);
    return x[0];
}

/* exp(x): 0 below -87.7, infinity above 88.4, NaN for NaN. Multiplying by 2^n (its exponent field taken from the low
 * bits of a float that was rounded to an integer) needs no special cases: n + 127 = 0 is 0 and 255 is infinity. */
VEC_INLINE Vec vec_exp(Vec x)
{
    const Vec magic = vec_set(12582912.0f + 127.0f);
    Vec clamped = vec_min(vec_set(88.5f), vec_max(vec_set(-88.0f), x));
    Vec shifted = clamped * vec_set(1.44269504f) + magic;
    Vec n = shifted - magic;
    Vec r = clamped - n * vec_set(0.693145752f);
    r = r - n * vec_set(1.42860677e-6f);
    Vec p = vec_set(1.392625083e-03f);
    p = p * r + vec_set(8.363232884e-03f);
    p = p * r + vec_set(4.166655421e-02f);
    p = p * r + vec_set(1.666657667e-01f);
    p = p * r + vec_set(0.5f);
    p = p * (r * r) + r + vec_set(1.0f);
    return p * (Vec)((VecI)shifted << 23);
}
#define VEC_LOG2_E 1.44269504f
#define VEC_LN_2 0.693147181f
/* 2^x for x <= 127: 0 below -127, NaN for NaN. For softmax, whose arguments are never above 0 and may as well be made
 * in units of log 2: two thirds of exp's work. */
VEC_INLINE Vec vec_exp2(Vec x)
{
    const Vec magic = vec_set(12582912.0f + 127.0f);
    Vec clamped = vec_max(vec_set(-127.0f), x);
    Vec shifted = clamped + magic;
    Vec r = clamped - (shifted - magic);
    Vec p = vec_set(1.545326241e-04f);
    p = p * r + vec_set(1.339097825e-03f);
    p = p * r + vec_set(9.618082371e-03f);
    p = p * r + vec_set(5.550356899e-02f);
    p = p * r + vec_set(2.402265076e-01f);
    p = p * r + vec_set(6.931471881e-01f);
    p = p * r + vec_set(1.0f);
    return p * (Vec)((VecI)shifted << 23);
}
/* log2(x) for normal x > 0: exponent, and for the mantissa m in [1/sqrt 2, sqrt 2] an odd polynomial in
 * (m - 1) / (m + 1). NaN for NaN. */
VEC_INLINE Vec vec_log2(Vec x)
{
    VecI exponent = ((VecI)x - 0x3f3504f3) >> 23;
    Vec m = (Vec)((VecI)x - (exponent << 23));
    Vec t = (m - vec_set(1.0f)) / (m + vec_set(1.0f)), w = t * t;
    Vec p = vec_set(4.317332945e-01f);
    p = p * w + vec_set(5.767146126e-01f);
    p = p * w + vec_set(9.617988439e-01f);
    p = p * w + vec_set(2.885390080e+00f);
    return vec_select(x == x, __builtin_convertvector(exponent, Vec) + p * t, x);
}
/* to = from; a few floats, for which memcpy is a long way */
VEC_INLINE void vec_copy(float *to, const float *from, int64_t count)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(to + i, vec_load(from + i));
    if (i < count)
        vec_store_part(to + i, vec_load_part(from + i, count - i, 0.0f), count - i);
}
/* to = from times scale */
VEC_INLINE void vec_scale(float *to, const float *from, int64_t count, float scale)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(to + i, vec_load(from + i) * vec_set(scale));
    if (i < count)
        vec_store_part(to + i, vec_load_part(from + i, count - i, 0.0f) * vec_set(scale), count - i);
}
/* to += from * scale */
VEC_INLINE void vec_add_scaled(float *to, const float *from, int64_t count, float scale)
{
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        vec_store(to + i, vec_load(to + i) + vec_load(from + i) * vec_set(scale));
    if (i < count)
        vec_store_part(
            to + i, vec_load_part(to + i, count - i, 0.0f) + vec_load_part(from + i, count - i, 0.0f) * vec_set(scale),
            count - i);
}
/* erfc(z) for z >= 0, given exp(-z^2): exp(-z^2) Q(1 / (1 + z / 2)), Q of degree 9. */
VEC_INLINE Vec vec_erfc(Vec z, Vec exp_minus_square)
{
    Vec t = vec_set(1.0f) / (z * vec_set(0.5f) + vec_set(1.0f));
    Vec q = vec_set(-4.484966299e-02f);
    q = q * t + vec_set(2.107557543e-01f);
    q = q * t + vec_set(-3.222293721e-01f);
    q = q * t + vec_set(7.036994121e-02f);
    q = q * t + vec_set(1.352292557e-01f);
    q = q * t + vec_set(1.219698773e-01f);
    q = q * t + vec_set(2.687898387e-01f);
    q = q * t + vec_set(2.773581023e-01f);
    q = q * t + vec_set(2.826313070e-01f);
    q = q * t + vec_set(-2.505127928e-05f);
    return q * exp_minus_square;
}
/* 1 / (1 + exp(-x)) */
VEC_INLINE Vec vec_sigmoid(Vec x)
{
    return vec_set(1.0f) / (vec_set(1.0f) + vec_exp(-x));
}
/* Dot product of two runs: four registers of partial sums, joined in a fixed tree. */
VEC_INLINE float vec_dot(const float *a, const float *b, int64_t count)
{
    Vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES) {
        s0 += vec_load(a + i) * vec_load(b + i);
        s1 += vec_load(a + i + LANES) * vec_load(b + i + LANES);
        s2 += vec_load(a + i + 2 * LANES) * vec_load(b + i + 2 * LANES);
        s3 += vec_load(a + i + 3 * LANES) * vec_load(b + i + 3 * LANES);
    }
    for (; i + LANES <= count; i += LANES)
        s0 += vec_load(a + i) * vec_load(b + i);
    if (i < count)
        s1 += vec_load_part(a + i, count - i, 0.0f) * vec_load_part(b + i, count - i, 0.0f);
    return vec_sum((s0 + s1) + (s2 + s3));
}

#endif
