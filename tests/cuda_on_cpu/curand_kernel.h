/* curand_kernel.h -- the toolkit's header of the same name, made ready for g++.
 *
 * For compilers other than nvcc it declares threadIdx and blockDim itself, as constants for its Mersenne twister. Here they exist, and differ in every
 * thread, so its own get other names; nothing that we use reads them. */
#ifndef CUDA_ON_CPU_CURAND_KERNEL_H
#define CUDA_ON_CPU_CURAND_KERNEL_H

#define threadIdx curand_threadIdx
#define blockDim curand_blockDim
#include_next <curand_kernel.h>
#undef threadIdx
#undef blockDim

#endif
