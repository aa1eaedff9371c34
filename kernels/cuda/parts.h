/* parts.h -- what a GPU that is open as a Device consists of. Internal to device_cuda.cu (opening, ops), memory.cu (arenas) and queues.cu (copies, events,
 * waiting, work that is kept). */
#ifndef KERNELS_CUDA_PARTS_H
#define KERNELS_CUDA_PARTS_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/progress.h"

#include <cuda.h>

enum {
    EVENTS = 64, /* of each queue */
    RANGES_MAX = 64,
};

static const size_t STAGING_BYTES = 4 << 20; /* each half */

/* What memory needs of the driver. */
typedef struct Driver {
    CUresult (*address_reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*address_free)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long);
    CUresult (*release)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*set_access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
} Driver;

/* Addresses of one arena; memory is mapped in whole pieces, from the front. */
typedef struct Range {
    char *base;
    size_t reserved, committed;
} Range;

struct Cuda {
    CudaOptions options;
    char description[320], identity[48];
    Driver driver;
    cudaStream_t stream[QUEUE_COUNT];
    cublasHandle_t blas;
    void *workspace;
    char *staging, *arrivals; /* pinned, two halves each: to the device, and from it */
    cudaEvent_t arrived[2];
    cudaEvent_t staging_read[2][QUEUE_COUNT];
    int half;
    size_t staged;                  /* bytes of the half at hand that are taken */
    bool staged_queue[QUEUE_COUNT]; /* which queues read it */
    cudaEvent_t event[QUEUE_COUNT][EVENTS];
    uint64_t events[QUEUE_COUNT];
    Progress progress;
    DeviceWatch watch;
    Range range[RANGES_MAX];
    size_t planned; /* bytes; 0: nobody has said */
    bool keeping;   /* what is asked for becomes a graph */
};

/* --- memory.cu --- */

/* The driver has what arenas need. */
bool driver_find(Driver *driver);
/* A DeviceBackend's memory. */
ArenaMemory cuda_memory(void *self);

/* --- queues.cu --- */

/* The one place where the host stands still for the device: until `event`, or with NULL all work of `stream`, is done. */
void cuda_await(Cuda *cuda, cudaStream_t stream, cudaEvent_t event);
/* What a DeviceBackend asks of its queues. */
void cuda_copy_in(void *self, DeviceQueue queue, void *device, const void *host, size_t bytes);
void cuda_copy_out(void *self, DeviceQueue queue, void *host, const void *device, size_t bytes);
void cuda_copy(void *self, DeviceQueue queue, void *to, const void *from, size_t bytes);
void cuda_zero(void *self, DeviceQueue queue, void *device, size_t bytes);
DeviceEvent cuda_record(void *self, DeviceQueue queue);
void cuda_wait(void *self, DeviceQueue queue, DeviceEvent event);
void cuda_finish(void *self);
void cuda_keep_begin(Device *device);
void *cuda_keep_end(void *self);
void cuda_replay(void *self, void *kept);
void cuda_forget(void *self, void *kept);
void *cuda_native_stream(void *self, DeviceQueue queue);
void cuda_watch(void *self, DeviceWatch watch);

#endif
