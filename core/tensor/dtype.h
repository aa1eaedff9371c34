/* dtype.h -- element types. Everything computes in F32 with F64 for long sums; the 16-bit types exist in files. */
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

#endif
