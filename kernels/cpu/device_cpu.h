/* device_cpu.h -- the CPU backend: OpenMP loops compiled per instruction set and picked at run time, products by oneDNN
 * or CBLAS. */
#ifndef KERNELS_CPU_DEVICE_CPU_H
#define KERNELS_CPU_DEVICE_CPU_H

#include "core/tensor/device.h"

/* `threads` >= 1 OpenMP threads, for every op or for a strand each (device_strands). `isa`: "baseline", "avx2", "avx512", or NULL for the best this processor
 * has; one that it has not is a STATUS_USAGE error. */
Status device_open_cpu(Device *device, int threads, const char *isa);
/* The device that computes nothing (device_open_dry), but whose scratch comes to what it would on this one: ops that use scratch are
 * called, ask for it, and return. */
Status device_open_cpu_dry(Device *device, int threads, const char *isa);

#endif
