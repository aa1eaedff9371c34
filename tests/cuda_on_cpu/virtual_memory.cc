/* virtual_memory.cc -- the driver's virtual memory functions: addresses first, memory behind them as it is needed.
 *
 * Why:   an arena reserves addresses once and grows in place. These functions belong to the driver, whose library a program does not link against:
 *        it asks the runtime for them by name (cudaGetDriverEntryPoint...), and so they are found here.
 * Limits: memory is mapped whole, at one place; a program that maps it twice or in parts is refused. */
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/stream.h"

using namespace cuda_on_cpu;

static const size_t GRANULARITY = (size_t)2 << 20;

/* Physical memory: freed once it is neither held by a handle nor mapped. */
struct Physical {
    size_t bytes;
    bool held, mapped;
};
struct Mapping {
    size_t bytes;
    CUmemGenericAllocationHandle physical;
    bool accessible;
};

static std::recursive_mutex mutex;
static std::map<CUmemGenericAllocationHandle, Physical> physicals;
static std::map<CUdeviceptr, size_t> reservations;
static std::map<CUdeviceptr, Mapping> mappings;
static CUmemGenericAllocationHandle handles_count;

#define LOCK std::lock_guard<std::recursive_mutex> lock_(mutex)

static bool whole(size_t bytes)
{
    return bytes && bytes % GRANULARITY == 0;
}

static bool here(const CUmemLocation &location)
{
    int count;
    return location.type == CU_MEM_LOCATION_TYPE_DEVICE && cudaGetDeviceCount(&count) == cudaSuccess &&
           location.id >= 0 && location.id < count;
}

static CUresult get_granularity(size_t *granularity, const CUmemAllocationProp *what, CUmemAllocationGranularity_flags)
{
    if (what->type != CU_MEM_ALLOCATION_TYPE_PINNED || !here(what->location))
        return CUDA_ERROR_INVALID_VALUE;
    *granularity = GRANULARITY;
    return CUDA_SUCCESS;
}

static CUresult address_reserve(CUdeviceptr *at, size_t bytes, size_t align, CUdeviceptr, unsigned long long flags)
{
    LOCK;
    if (!whole(bytes) || flags || (align & (align - 1)))
        return CUDA_ERROR_INVALID_VALUE;
    *at = (CUdeviceptr)device_addresses_take(bytes, align > GRANULARITY ? align : GRANULARITY);
    reservations[*at] = bytes;
    return CUDA_SUCCESS;
}

/* The mappings in [at, at + bytes), all of them whole and without holes between them? */
static bool covered(CUdeviceptr at, size_t bytes)
{
    CUdeviceptr end = at + bytes;
    while (at < end) {
        auto found = mappings.find(at);
        if (found == mappings.end())
            return false;
        at += found->second.bytes;
    }
    return at == end;
}

static bool touches_mapping(CUdeviceptr at, size_t bytes)
{
    auto next = mappings.lower_bound(at + bytes);
    return next != mappings.begin() && (--next)->first + next->second.bytes > at;
}

static CUresult address_free(CUdeviceptr at, size_t bytes)
{
    LOCK;
    auto found = reservations.find(at);
    if (found == reservations.end() || found->second != bytes || touches_mapping(at, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    reservations.erase(found);
    device_addresses_give_back((char *)at, bytes);
    return CUDA_SUCCESS;
}

/* CUDA_ON_CPU_REFUSE=DEVICE:BYTES: that device gives no more, whatever else is said to be unused. */
static bool refused(int device, size_t bytes)
{
    static int of = -1;
    static size_t left;
    static const bool read = [] {
        const char *text = getenv("CUDA_ON_CPU_REFUSE");
        if (text && sscanf(text, "%d:%zu", &of, &left) != 2)
            defect("CUDA_ON_CPU_REFUSE=%s: expected DEVICE:BYTES", text);
        return true;
    }();
    (void)read;
    if (device != of)
        return false;
    const bool over = bytes > left;
    left -= over ? 0 : bytes;
    return over;
}

static CUresult create(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *what,
                       unsigned long long flags)
{
    LOCK;
    if (!whole(bytes) || flags || what->type != CU_MEM_ALLOCATION_TYPE_PINNED || !here(what->location))
        return CUDA_ERROR_INVALID_VALUE;
    if (refused(what->location.id, bytes) || !device_memory_charge(bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = ++handles_count;
    physicals[*handle] = {bytes, true, false};
    return CUDA_SUCCESS;
}

static void physical_drop(CUmemGenericAllocationHandle handle)
{
    auto found = physicals.find(handle);
    if (found->second.held || found->second.mapped)
        return;
    device_memory_discharge(found->second.bytes);
    physicals.erase(found);
}

static CUresult release(CUmemGenericAllocationHandle handle)
{
    LOCK;
    auto found = physicals.find(handle);
    if (found == physicals.end() || !found->second.held)
        return CUDA_ERROR_INVALID_VALUE;
    found->second.held = false;
    physical_drop(handle);
    return CUDA_SUCCESS;
}

static CUresult map(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                    unsigned long long flags)
{
    LOCK;
    auto physical = physicals.find(handle);
    auto reserved = reservations.upper_bound(at);
    if (offset || flags || physical == physicals.end() || physical->second.bytes != bytes || physical->second.mapped ||
        reserved == reservations.begin() || at % GRANULARITY)
        return CUDA_ERROR_INVALID_VALUE;
    --reserved;
    if (at + bytes > reserved->first + reserved->second || touches_mapping(at, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    physical->second.mapped = true;
    mappings[at] = {bytes, handle, false};
    return CUDA_SUCCESS;
}

static CUresult set_access(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
    LOCK;
    if (!covered(at, bytes) || count != 1 || !here(access->location) ||
        access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return CUDA_ERROR_INVALID_VALUE;
    for (auto found = mappings.find(at); found != mappings.end() && found->first < at + bytes; ++found) {
        if (!found->second.accessible)
            device_range_open((char *)found->first, found->second.bytes);
        found->second.accessible = true;
    }
    return CUDA_SUCCESS;
}

/* Work that still uses the memory would fault on a GPU: what was asked for before must be done by now. */
static CUresult unmap(CUdeviceptr at, size_t bytes)
{
    LOCK;
    if (!bytes || !covered(at, bytes))
        return CUDA_ERROR_INVALID_VALUE;
    for (auto found = mappings.find(at); found != mappings.end() && found->first < at + bytes;) {
        if (found->second.accessible)
            device_range_close((char *)found->first, found->second.bytes);
        CUmemGenericAllocationHandle handle = found->second.physical;
        physicals[handle].mapped = false;
        found = mappings.erase(found);
        physical_drop(handle);
    }
    return CUDA_SUCCESS;
}

/* Not of memory, but asked for by name likewise: a word that the device writes when its stream comes to it. */
static CUresult stream_write(CUstream stream, CUdeviceptr at, cuuint32_t value, unsigned flags)
{
    if (flags != CU_STREAM_WRITE_VALUE_DEFAULT || at % sizeof value)
        return CUDA_ERROR_INVALID_VALUE;
    stream_add(stream, "cuStreamWriteValue32", [=] { *(volatile cuuint32_t *)at = value; });
    return CUDA_SUCCESS;
}

static CUresult device_get(CUdevice *device, int ordinal)
{
    int count;
    if (cudaGetDeviceCount(&count) != cudaSuccess || ordinal < 0 || ordinal >= count)
        return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

/* Held to the toolkit's own signatures, which a program asks for by name alone. */
static const struct {
    const char *name;
    void *function;
} functions[] = {
#define FUNCTION(name, own)                                                                                            \
    {                                                                                                                  \
#name, (void *)static_cast < decltype(&name)>(own)                                                             \
    }
    FUNCTION(cuDeviceGet, device_get),
    FUNCTION(cuMemAddressFree, address_free),
    FUNCTION(cuMemAddressReserve, address_reserve),
    FUNCTION(cuMemCreate, create),
    FUNCTION(cuMemGetAllocationGranularity, get_granularity),
    FUNCTION(cuMemMap, map),
    FUNCTION(cuMemRelease, release),
    FUNCTION(cuMemSetAccess, set_access),
    FUNCTION(cuMemUnmap, unmap),
    FUNCTION(cuStreamWriteValue32, stream_write),
#undef FUNCTION
};

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version, unsigned long long,
                                             cudaDriverEntryPointQueryResult *result)
{
    *function = NULL;
    for (const auto &known : functions)
        if (!strcmp(known.name, symbol))
            *function = known.function;
    cudaDriverEntryPointQueryResult found = !*function        ? cudaDriverEntryPointSymbolNotFound
                                            : version < 10020 ? cudaDriverEntryPointVersionNotSufficent
                                                              : cudaDriverEntryPointSuccess;
    if (result)
        *result = found;
    return found == cudaDriverEntryPointSuccess || result ? cudaSuccess : cudaErrorSymbolNotFound;
}

cudaError_t cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags,
                                    cudaDriverEntryPointQueryResult *result)
{
    return cudaGetDriverEntryPointByVersion(symbol, function, CUDART_VERSION, flags, result);
}
