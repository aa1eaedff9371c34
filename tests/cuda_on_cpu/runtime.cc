/* runtime.cc -- memory, copies, errors and the device itself, by the signatures of CUDA's runtime.
 *
 * The device is one that does not exist: compute capability 8.0, 8 GiB, and what else the environment says of it (README). What our own code does
 * not call is not here, so that a new call fails to link and is thought about. */
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/stream.h"

using namespace cuda_on_cpu;

/* --- Errors --- */

static cudaError_t last_error = cudaSuccess;

namespace cuda_on_cpu
{

bool error_is_sticky(cudaError_t error)
{
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
        return true;
    default:
        return false;
    }
}

void error_set(cudaError_t error)
{
    if (!error_is_sticky(last_error))
        last_error = error;
}

cudaError_t error_now(void)
{
    return last_error;
}

} // namespace cuda_on_cpu

static cudaError_t refuse(cudaError_t error)
{
    error_set(error);
    return error;
}

#define UNLESS_FAILED                                                                                                  \
    if (error_is_sticky(last_error))                                                                                   \
    return last_error

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    if (!error_is_sticky(error))
        last_error = cudaSuccess;
    return error;
}

#define ERROR_NAMES(X)                                                                                                 \
    X(cudaSuccess, "no error")                                                                                         \
    X(cudaErrorInvalidValue, "invalid argument")                                                                       \
    X(cudaErrorMemoryAllocation, "out of memory")                                                                      \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                                 \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                                \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                         \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                     \
    X(cudaErrorNotReady, "device not ready")                                                                           \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                             \
    X(cudaErrorMisalignedAddress, "misaligned address")                                                                \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                                                       \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                           \
    X(cudaErrorIllegalState, "the operation cannot be performed in the present state")                                 \
    X(cudaErrorSymbolNotFound, "named symbol not found")                                                               \
    X(cudaErrorUnknown, "unknown error")                                                                               \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                                            \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define NAME(code, text)                                                                                               \
    case code:                                                                                                         \
        return #code;
        ERROR_NAMES(NAME)
#undef NAME
    default:
        return "an error";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define TEXT(code, text)                                                                                               \
    case code:                                                                                                         \
        return text;
        ERROR_NAMES(TEXT)
#undef TEXT
    default:
        return "an error that cuda_on_cpu has no words for";
    }
}

/* --- The device --- */

static int device_at_hand;
static const int MULTIPROCESSORS = 4, MULTIPROCESSOR_THREADS = 2048, MULTIPROCESSOR_BLOCKS = 32, SHARED_RESERVED = 1024;

static int number_from(const char *variable, int otherwise)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : otherwise;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    int driver;
    cudaDriverGetVersion(&driver);
    *count = 0;
    if (driver < CUDART_VERSION / 1000 * 1000)
        return refuse(cudaErrorInsufficientDriver);
    *count = number_from("CUDA_ON_CPU_DEVICES", 1);
    return *count > 0 ? cudaSuccess : refuse(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    int count;
    if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count)
        return refuse(cudaErrorInvalidDevice);
    device_at_hand = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = device_at_hand;
    return cudaSuccess;
}

static bool device_exists(int device)
{
    int count;
    return cudaGetDeviceCount(&count) == cudaSuccess && device >= 0 && device < count;
}

/* Which of the machine's devices is this one? */
static int device_number(int device)
{
    return number_from("CUDA_ON_CPU_FIRST", 0) + device;
}

static int compute_capability(void)
{
    return number_from("CUDA_ON_CPU_ARCHITECTURE", 80);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    memset(properties, 0, sizeof *properties);
    if (!device_exists(device))
        return refuse(cudaErrorInvalidDevice);
    snprintf(properties->name, sizeof properties->name, "emulated device");
    memcpy(properties->uuid.bytes, "cuda on the cpu", 15);
    properties->uuid.bytes[15] = (char)device_number(device);
    properties->pciBusID = 1 + device_number(device);
    properties->major = compute_capability() / 10;
    properties->minor = compute_capability() % 10;
    properties->warpSize = WARP_LANES;
    properties->multiProcessorCount = MULTIPROCESSORS;
    properties->maxThreadsPerBlock = BLOCK_THREADS_MAX;
    properties->maxThreadsPerMultiProcessor = MULTIPROCESSOR_THREADS;
    properties->sharedMemPerBlock = SHARED_STATIC_BYTES_MAX;
    properties->sharedMemPerBlockOptin = SHARED_BYTES_MAX;
    properties->sharedMemPerMultiprocessor = SHARED_BYTES_MAX + SHARED_RESERVED;
    properties->reservedSharedMemPerBlock = SHARED_RESERVED;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->l2CacheSize = 40 << 20;
    properties->memoryBusWidth = 5120;
    properties->asyncEngineCount = 1;
    properties->concurrentKernels = 1;
    properties->unifiedAddressing = 1;
    properties->totalGlobalMem = device_memory_total();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess)
        return error;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = properties.warpSize;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
        *value = properties.maxThreadsPerBlock;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)properties.sharedMemPerBlock;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)properties.sharedMemPerBlockOptin;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)properties.sharedMemPerMultiprocessor;
        return cudaSuccess;
    case cudaDevAttrPciBusId:
        *value = properties.pciBusID;
        return cudaSuccess;
    default:
        return refuse(cudaErrorInvalidValue);
    }
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device)
{
    if (!device_exists(device) || bytes < 13)
        return refuse(cudaErrorInvalidValue);
    snprintf(text, (size_t)bytes, "0000:%02X:00.0", (1 + device_number(device)) & 0xff);
    return cudaSuccess;
}

/* 0: no driver is installed. */
cudaError_t cudaDriverGetVersion(int *version)
{
    *version = number_from("CUDA_ON_CPU_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

static std::map<const void *, size_t> dynamic_allowed;

namespace cuda_on_cpu
{
bool dynamic_bytes_allowed(const void *kernel, size_t bytes)
{
    auto found = dynamic_allowed.find(kernel);
    return found != dynamic_allowed.end() && bytes <= found->second;
}
} // namespace cuda_on_cpu

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > SHARED_BYTES_MAX)
        return refuse(cudaErrorInvalidValue);
    dynamic_allowed[kernel] = (size_t)value;
    return cudaSuccess;
}

/* Registers are nvcc's to know: 0 here. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel)
{
    UNLESS_FAILED;
    if (!kernel)
        return refuse(cudaErrorInvalidDeviceFunction);
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = BLOCK_THREADS_MAX;
    attributes->ptxVersion = attributes->binaryVersion = compute_capability();
    attributes->maxDynamicSharedSizeBytes =
        dynamic_allowed.count(kernel) ? (int)dynamic_allowed[kernel] : (int)SHARED_STATIC_BYTES_MAX;
    return cudaSuccess;
}

/* As far as threads and dynamic shared memory limit it. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads,
                                                          size_t dynamic_bytes)
{
    UNLESS_FAILED;
    if (!kernel || threads < 1 || threads > BLOCK_THREADS_MAX)
        return refuse(cudaErrorInvalidValue);
    int warps = (threads + WARP_LANES - 1) / WARP_LANES;
    int by_threads = MULTIPROCESSOR_THREADS / (warps * WARP_LANES);
    int by_shared = (int)((SHARED_BYTES_MAX + SHARED_RESERVED) / (dynamic_bytes + SHARED_RESERVED));
    *blocks = std::min({by_threads, by_shared, MULTIPROCESSOR_BLOCKS});
    return cudaSuccess;
}

/* --- Memory --- */

cudaError_t cudaMalloc(void **at, size_t bytes)
{
    UNLESS_FAILED;
    *at = bytes ? device_memory_new(bytes) : NULL;
    return *at || !bytes ? cudaSuccess : refuse(cudaErrorMemoryAllocation);
}

/* Waits for everything, as the real one does. */
cudaError_t cudaFree(void *at)
{
    UNLESS_FAILED;
    streams_finish();
    return !at || device_memory_delete(at) ? cudaSuccess : refuse(cudaErrorInvalidValue);
}

cudaError_t cudaMallocHost(void **at, size_t bytes)
{
    UNLESS_FAILED;
    *at = pinned_new(bytes);
    return *at ? cudaSuccess : refuse(cudaErrorMemoryAllocation);
}

cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags)
{
    UNLESS_FAILED;
    if (flags & ~(cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined))
        return refuse(cudaErrorInvalidValue);
    return cudaMallocHost(at, bytes);
}

cudaError_t cudaFreeHost(void *at)
{
    UNLESS_FAILED;
    streams_finish();
    return !at || pinned_delete(at) ? cudaSuccess : refuse(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = device_memory_total();
    *available = *total - device_memory_used();
    return cudaSuccess;
}

/* --- Copies --- */

static unsigned long long copies_out; /* to the host, asked for */

extern "C" uint64_t cuda_on_cpu_copies_out(void);
uint64_t cuda_on_cpu_copies_out(void)
{
    return copies_out;
}

static bool place_fits(const void *at, size_t bytes, bool on_device)
{
    return on_device ? device_memory_holds(at, bytes) : !device_memory_has(at);
}

static void copy_now(void *to, const void *from, size_t bytes)
{
    DeviceMemoryOpen open;
    memmove(to, from, bytes);
}

/* Page-locked memory is read and written when the copy's turn comes; other host memory is read before the call returns, and written before it
 * returns too. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    UNLESS_FAILED;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) {
        to_device = device_memory_has(to);
        from_device = device_memory_has(from);
    }
    if (bytes == 0)
        return cudaSuccess;
    if (!place_fits(to, bytes, to_device) || !place_fits(from, bytes, from_device))
        return refuse(cudaErrorInvalidValue);
    copies_out += from_device && !to_device;
    bool pageable_from = !from_device && !pinned_has(from), pageable_to = !to_device && !pinned_has(to);
    if (stream_is_capturing(stream) && (pageable_from || pageable_to))
        return refuse(cudaErrorStreamCaptureUnsupported);
    if (pageable_from) {
        void *staged = malloc(bytes);
        memcpy(staged, from, bytes);
        stream_add(stream, "copy", [=] {
            copy_now(to, staged, bytes);
            free(staged);
        });
    } else {
        stream_add(stream, "copy", [=] { copy_now(to, from, bytes); });
    }
    if (pageable_to)
        stream_finish(stream);
    return error_now();
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, NULL);
    stream_finish(NULL);
    return error != cudaSuccess ? error : error_now();
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    UNLESS_FAILED;
    if (bytes == 0)
        return cudaSuccess;
    if (!device_memory_holds(at, bytes))
        return refuse(cudaErrorInvalidValue);
    stream_add(stream, "set", [=] {
        DeviceMemoryOpen open;
        memset(at, value, bytes);
    });
    return error_now();
}

cudaError_t cudaMemset(void *at, int value, size_t bytes)
{
    return cudaMemsetAsync(at, value, bytes, NULL);
}
