/* device_memory.h -- memory that only kernels and copies may touch.
 *
 * Why:   on a GPU a host pointer into device memory faults, and a read behind the end of an allocation reads somebody else's numbers; here both
 *        would quietly work. So device memory is a range of its own, closed to the host (PROT_NONE) except while a kernel or a copy runs, each
 *        allocation ends at a closed page, and fresh memory is all NaN.
 * Limits: an allocation is a multiple of 256 bytes, as CUDA aligns it; up to 255 bytes behind an odd size are checked when it is freed. */
#ifndef CUDA_ON_CPU_DEVICE_MEMORY_H
#define CUDA_ON_CPU_DEVICE_MEMORY_H

#include <cstddef>

#include <driver_types.h>

namespace cuda_on_cpu
{

/* Device memory is open while one of these lives; they nest. */
struct DeviceMemoryOpen {
    DeviceMemoryOpen();
    ~DeviceMemoryOpen();
};

/* NULL: out of memory (device_memory_limit). */
void *device_memory_new(size_t bytes);
/* False: no such allocation. */
bool device_memory_delete(void *at);
bool device_memory_has(const void *at);
/* Do all bytes lie in one allocation? */
bool device_memory_holds(const void *at, size_t bytes);
/* Closed addresses without memory, for ever theirs who asked; and memory behind some of them, all NaN, open to kernels (virtual_memory.cc). */
char *device_addresses_take(size_t bytes, size_t align);
void device_addresses_give_back(char *at, size_t bytes);
void device_range_open(char *at, size_t bytes);
void device_range_close(char *at, size_t bytes);
/* Count bytes as taken. False: out of memory. */
bool device_memory_charge(size_t bytes);
void device_memory_discharge(size_t bytes);
/* How much this device has (CUDA_ON_CPU_MEMORY, else 8 GiB), and how much of it is taken. */
void device_memory_limit(size_t bytes);
size_t device_memory_total(void);
size_t device_memory_used(void);

/* Page-locked host memory: copies from it happen later, so its contents must stay. */
void *pinned_new(size_t bytes);
bool pinned_delete(void *at);
bool pinned_has(const void *at);

/* What the next cudaGetLastError() tells. A sticky error stays, and every later call fails with it. */
void error_set(cudaError_t error);
cudaError_t error_now(void);
bool error_is_sticky(cudaError_t error);

/* Was cudaFuncSetAttribute asked for so much dynamic shared memory? */
bool dynamic_bytes_allowed(const void *kernel, size_t bytes);

} // namespace cuda_on_cpu
#endif
