/* dtype.c -- sizes and names of element types, and exact widening of the 16-bit ones that exist in files. */
#include "core/tensor/dtype.h"

#include <string.h>

#include "core/base/status.h"

static const struct {
    const char *name;
    size_t size;
} types[] = {
    [DTYPE_F32] = {"f32", 4}, [DTYPE_F64] = {"f64", 8},   [DTYPE_I32] = {"i32", 4}, [DTYPE_I64] = {"i64", 8},
    [DTYPE_U8] = {"u8", 1},   [DTYPE_BF16] = {"bf16", 2}, [DTYPE_F16] = {"f16", 2},
};

size_t dtype_size(DType dtype)
{
    REQUIRE((size_t)dtype < sizeof types / sizeof *types, "dtype %d does not exist", (int)dtype);
    return types[dtype].size;
}

const char *dtype_name(DType dtype)
{
    return (size_t)dtype < sizeof types / sizeof *types ? types[dtype].name : "?";
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 1 sign, 5 exponent, 10 fraction bits; a subnormal is fraction * 2^-24, which float holds exactly. */
static float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
    if (exponent == 0) {
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    uint32_t wide = exponent == 31 ? 255 : exponent + (127 - 15);
    return float_of_bits(sign | wide << 23 | fraction << 13);
}

void dtype_to_f32(DType dtype, const void *from, float *to, size_t count)
{
    REQUIRE(dtype == DTYPE_BF16 || dtype == DTYPE_F16, "only bf16 and f16 are widened, not %s", dtype_name(dtype));
    const unsigned char *bytes = from;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
        to[i] = dtype == DTYPE_BF16 ? float_of_bits((uint32_t)bits << 16) : float_of_half(bits);
    }
}
