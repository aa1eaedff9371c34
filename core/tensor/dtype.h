/* dtype.h -- element types. The CPU computes in F32 with F64 for long sums; BF16 is for what flows between layers on a device
 * that multiplies it faster; F16 exists in files. */
#ifndef CORE_TENSOR_DTYPE_H
#define CORE_TENSOR_DTYPE_H

#include <stddef.h>
#include <stdint.h>

typedef enum DType { DTYPE_F32, DTYPE_F64, DTYPE_I32, DTYPE_I64, DTYPE_U8, DTYPE_BF16, DTYPE_F16 } DType;

/* Bytes of one element. */
size_t dtype_size(DType dtype);
/* "f32", ... */
const char *dtype_name(DType dtype);
/* Widen `count` elements of BF16 or F16 (as stored, little-endian) to float; exact. */
void dtype_to_f32(DType dtype, const void *from, float *to, size_t count);
/* To the nearest BF16, ties to even; NaN stays NaN. */
static inline uint16_t bf16_of(float value)
{
    union {
        float value;
        uint32_t bits;
    } as = {.value = value};
    if (value != value)
        return (uint16_t)(as.bits >> 16 | 0x40);
    return (uint16_t)((as.bits + 0x7fff + (as.bits >> 16 & 1)) >> 16);
}

#endif
