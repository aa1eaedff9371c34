/* device_cuda_absent.c -- stands in for the CUDA backend in a program that was built without it. */
#include "kernels/cuda/device_cuda.h"

static Status absent(void)
{
    return status_error(STATUS_USAGE, "this program was built without CUDA (no toolkit was found when it was built)");
}

Status cuda_devices_count(int *count)
{
    *count = 0;
    return absent();
}

size_t cuda_memory_bytes(int index)
{
    (void)index;
    return 0;
}

Status device_open_cuda(Device *device, const CudaOptions *options)
{
    (void)device;
    (void)options;
    return absent();
}

Status device_open_cuda_dry(Device *device, const CudaOptions *options)
{
    (void)device;
    (void)options;
    return absent();
}

const char *device_cuda_identity(const Device *device)
{
    (void)device;
    return "";
}

void device_cuda_plan(Device *device, size_t bytes)
{
    (void)device;
    (void)bytes;
}

size_t device_cuda_unused_bytes(const Device *device)
{
    (void)device;
    return 0;
}

size_t device_cuda_overhead_bytes(void)
{
    return 0;
}
