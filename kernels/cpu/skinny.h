/* skinny.h -- products of few rows with a matrix (out, in), by our own loops. */
#ifndef KERNELS_CPU_SKINNY_H
#define KERNELS_CPU_SKINNY_H

#include "kernels/cpu/isa.h"

/* Whether skinny() is the faster for this product: a function of the shape. */
bool KERNEL(skinny_suits)(const GemmArgs *args);
/* The product with its bias. Takes scratch; on a device that computes nothing, that is all it does. */
void KERNEL(skinny)(Device *device, const GemmArgs *args);

#endif
