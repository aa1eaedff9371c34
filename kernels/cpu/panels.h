/* panels.h -- products of many rows with a matrix (out, in), whose rows are turned panel by panel. */
#ifndef KERNELS_CPU_PANELS_H
#define KERNELS_CPU_PANELS_H

#include "kernels/cpu/isa.h"

/* Whether panels() is the faster for this product: a function of the shape. */
bool KERNEL(panels_suit)(const GemmArgs *args);
/* The product with its bias. Takes scratch; on a device that computes nothing, that is all it does. */
void KERNEL(panels)(Device *device, const GemmArgs *args);

#endif
