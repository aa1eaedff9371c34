/* memory.cu -- memory of a GPU that grows in place: an arena reserves addresses and commits as it grows, as on the CPU.
 *
 * CUDA's virtual memory functions do just that. They belong to the driver, whose library a login node lacks, so they are asked for by name at run time and
 * nothing links against it. */
#include "kernels/cuda/parts.h"

enum { PIECE_BYTES = 32 << 20 }; /* asked of the driver at once: three calls of many microseconds each time */

static bool granted(CUresult result)
{
    return result == CUDA_SUCCESS;
}

static void *memory_reserve_range(void *self, size_t bytes)
{
    Cuda *cuda = (Cuda *)self;
    CUdeviceptr base;
    for (Range &range : cuda->range) {
        if (range.base)
            continue;
        const size_t whole = (bytes + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
        if (!granted(cuda->driver.address_reserve(&base, whole, 0, 0, 0)))
            return NULL;
        range = {reinterpret_cast<char *>(base), whole, 0};
        return range.base;
    }
    REQUIRE(false, "more than %d arenas on one device", (int)RANGES_MAX);
    return NULL;
}

static Range *range_of(Cuda *cuda, const void *base)
{
    for (Range &range : cuda->range)
        if (range.base == base)
            return &range;
    REQUIRE(false, "%p is no arena of this device", base);
    return NULL;
}

static bool map_piece(Cuda *cuda, Range *range)
{
    CUmemAllocationProp what = {};
    what.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    what.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    what.location.id = cuda->options.index;
    CUmemAccessDesc access = {what.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at = reinterpret_cast<CUdeviceptr>(range->base) + range->committed;
    if (!granted(cuda->driver.create(&handle, PIECE_BYTES, &what, 0)))
        return false;
    bool mapped = granted(cuda->driver.map(at, PIECE_BYTES, 0, handle, 0));
    cuda->driver.release(handle); /* the mapping keeps it */
    if (!mapped)
        return false;
    range->committed += PIECE_BYTES;
    return granted(cuda->driver.set_access(at, PIECE_BYTES, &access, 1));
}

/* Whoever reads it wants to know whether the plan was wrong or the GPU is shared. */
static Status memory_refused(const Cuda *cuda)
{
    size_t unused = 0, all = 0, mapped = 0;
    cudaMemGetInfo(&unused, &all);
    for (const Range &range : cuda->range)
        mapped += range.committed;
    return status_error(STATUS_MEMORY,
                        "cuda device %d gives no more: %zu of its %zu bytes are unused, this program's arenas hold "
                        "%zu, and the plan of all it takes is %zu bytes%s",
                        cuda->options.index, unused, all, mapped, cuda->planned,
                        cuda->planned ? "" : " (not known here)");
}

static Status memory_commit(void *self, void *base, size_t from, size_t to)
{
    (void)from; /* a range knows how far it has come */
    Cuda *cuda = (Cuda *)self;
    Range *range = range_of(cuda, base);
    while (range->committed < to)
        if (!map_piece(cuda, range))
            return memory_refused(cuda);
    return status_ok();
}

static void memory_release_range(void *self, void *base, size_t bytes)
{
    (void)bytes; /* as was asked for; the range was rounded up */
    Cuda *cuda = (Cuda *)self;
    Range *range = range_of(cuda, base);
    for (cudaStream_t stream : cuda->stream) /* nobody may still be at it */
        cuda_await(cuda, stream, NULL);
    /* As it was mapped: what else the driver unmaps at once, its documentation does not say. */
    for (size_t at = 0; at < range->committed; at += PIECE_BYTES)
        cuda->driver.unmap(reinterpret_cast<CUdeviceptr>(base) + at, PIECE_BYTES);
    cuda->driver.address_free(reinterpret_cast<CUdeviceptr>(base), range->reserved);
    *range = {};
}

ArenaMemory cuda_memory(void *self)
{
    return {self,          memory_reserve_range,
            memory_commit, memory_release_range,
            false,         cuda_memory_bytes(((const Cuda *)self)->options.index)};
}

template <class F> static bool driver_function(const char *name, int version, F *function)
{
    void *found = NULL;
    cudaDriverEntryPointQueryResult result;
    cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, (unsigned)version, cudaEnableDefault, &result);
    *function = reinterpret_cast<F>(found);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess && found;
}

bool driver_find(Driver *driver)
{
    return driver_function("cuMemAddressReserve", 10020, &driver->address_reserve) &&
           driver_function("cuMemAddressFree", 10020, &driver->address_free) &&
           driver_function("cuMemCreate", 10020, &driver->create) &&
           driver_function("cuMemRelease", 10020, &driver->release) &&
           driver_function("cuMemMap", 10020, &driver->map) && driver_function("cuMemUnmap", 10020, &driver->unmap) &&
           driver_function("cuMemSetAccess", 10020, &driver->set_access);
}
