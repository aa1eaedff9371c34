/* device_cuda.h -- the CUDA backend: one GPU as a Device. The only header of this folder that others include. */
#ifndef KERNELS_CUDA_DEVICE_CUDA_H
#define KERNELS_CUDA_DEVICE_CUDA_H

#include "core/tensor/device.h"

typedef struct CudaOptions {
    int index;              /* among the devices that this process sees */
    bool tf32;              /* F32 products on tensor cores, inputs rounded to 10 bits of mantissa */
    int threads;            /* of the host, for what it does beside */
    double timeout_seconds; /* the host gives the device up when no op has ended for so long; 0: ten minutes */
} CudaOptions;

/* How many devices this process sees. STATUS_USAGE, with the reason in words: built without CUDA, no driver, a driver older than the toolkit,
 * no device. */
Status cuda_devices_count(int *count);
/* Bytes of memory of a visible device. */
size_t cuda_memory_bytes(int index);
/* Opens device options->index: three streams, cuBLAS with a workspace of its own, every kernel loaded. STATUS_USAGE: an architecture below sm_80;
 * STATUS_MEMORY: no room. */
Status device_open_cuda(Device *device, const CudaOptions *options);
/* The same without a GPU: computes nothing, asks for the scratch that the kernels would. */
Status device_open_cuda_dry(Device *device, const CudaOptions *options);
/* Which physical device: "GPU-8f3a...", the same for two ranks that were given the same one. "" for other backends. */
const char *device_cuda_identity(const Device *device);
/* What all arenas will take by their plan: said where the device refuses memory all the same. Nothing for other backends. */
void device_cuda_plan(Device *device, size_t bytes);
/* Bytes that nobody has taken yet; 0 for other backends. */
size_t device_cuda_unused_bytes(const Device *device);
/* Bytes beside the arenas: context, library workspace, loaded kernels, kept graphs; an estimate for plans, stated as such. */
size_t device_cuda_overhead_bytes(void);

#endif
