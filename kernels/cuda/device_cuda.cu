/* device_cuda.cu -- one GPU as a Device: streams, memory that grows in place, copies, and the table of ops.
 *
 * Memory: an arena reserves addresses and commits as it grows, as on the CPU; CUDA's virtual memory functions do just that. They belong to the
 *        driver, whose library a login node lacks, so they are asked for by name at run time and nothing links against it.
 * Errors: behind every op the device says how far it has come (progress.h); when it fails, that is how the first suspect gets its name. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/progress.h"

#include <cuda.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

extern "C" {
#include "core/base/profile.h"
}

enum {
    WORKSPACE_BYTES =
        32 << 20,           /* what cuBLAS recommends for Hopper; fixed, so that it always picks the same algorithms */
    EVENTS = 64,            /* of each queue */
    PIECE_BYTES = 32 << 20, /* memory asked of the driver at once: three calls of many microseconds each time */
    BURST =
        16, /* decode steps between reads: a read costs some tens of microseconds, a wasted row a 16th of a step at most */
    RANGES_MAX = 64,
    OLDEST_COMPUTE = 80, /* sm_80: bf16 mma.sync, cp.async */
    KERNELS_MAX = 4096,
    SPINS = 2000,          /* looks at the device, of about a microsecond, before the host sleeps between them */
    TIMEOUT_SECONDS = 600, /* no op runs so long */
    LEAVE_SECONDS = 20,    /* from finding the device lost to the end of the process, whatever blocks */
};

static const size_t STAGING_BYTES = 4 << 20; /* each half */

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

/* The device of this process, for messages about calls that no Device is at hand for. */
static Cuda *current;

/* --- Errors --- */

static void report_progress(FILE *out)
{
    if (current)
        progress_report(&current->progress, out);
}

void cuda_check(cudaError_t error, const char *call, const char *file, int line)
{
    if (error == cudaSuccess)
        return;
    report_progress(stderr);
    status_abort(file, line, call, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
}

void cuda_check_blas(cublasStatus_t error, const char *call, const char *file, int line)
{
    if (error == CUBLAS_STATUS_SUCCESS)
        return;
    report_progress(stderr);
    status_abort(file, line, call, "%s", cublasGetStatusString(error));
}

static Status failed(cudaError_t error, const char *what)
{
    return status_error(error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_USAGE, "%s: %s: %s", what,
                        cudaGetErrorName(error), cudaGetErrorString(error));
}

#define TRY_CUDA(call)                                                                                                 \
    do {                                                                                                               \
        cudaError_t error_ = (call);                                                                                   \
        if (error_ != cudaSuccess)                                                                                     \
            return failed(error_, #call);                                                                              \
    } while (0)

/* --- Waiting --- */

static void *leave_in_time(void *)
{
    sleep(LEAVE_SECONDS);
    _exit(STATUS_PEER);
}

static void *abort_watched(void *watch)
{
    const DeviceWatch *watched = (const DeviceWatch *)watch;
    watched->abort(watched->context);
    return NULL;
}

/* Nothing more is asked of the device: giving up a collective can itself block (NVIDIA/nccl issue 829), so it has a thread of its own, and another one
 * ends the process whatever happens. */
[[noreturn]] static void device_lost(Cuda *cuda, const char *fault)
{
    pthread_t helper, guard;
    static DeviceWatch watch;
    pthread_create(&guard, NULL, leave_in_time, NULL);
    watch = cuda->watch;
    const bool helped = watch.abort && pthread_create(&helper, NULL, abort_watched, &watch) == 0;
    fprintf(stderr, "tercet: rank %d: the device is lost: %s\n", status_rank(), fault);
    report_progress(stderr);
    fflush(stderr);
    if (helped)
        pthread_join(helper, NULL);
    _exit(STATUS_PEER);
}

/* The one place where the host stands still for the device: until `event`, or with NULL all work of `stream`, is done. */
static void await(Cuda *cuda, cudaStream_t stream, cudaEvent_t event)
{
    double since = 0;
    uint64_t complete = 0;
    for (int looks = 0;; looks++) {
        cudaError_t error = event ? cudaEventQuery(event) : cudaStreamQuery(stream);
        if (error != cudaErrorNotReady) {
            cuda_check(error, "waiting for the device", __FILE__, __LINE__);
            return;
        }
        (void)cudaGetLastError(); /* not ready is no error */
        if (looks < SPINS)
            continue;
        const char *fault = cuda->watch.fault ? cuda->watch.fault(cuda->watch.context) : NULL;
        if (fault)
            device_lost(cuda, fault);
        const uint64_t now_complete = progress_complete(&cuda->progress);
        if (since == 0 || now_complete != complete) {
            since = profile_seconds();
            complete = now_complete;
        }
        if (profile_seconds() - since > cuda->options.timeout_seconds)
            device_lost(cuda, "for too long nothing on it has ended");
        const struct timespec pause = {0, 20000};
        nanosleep(&pause, NULL);
    }
}

/* --- What ops ask --- */

cudaStream_t cuda_stream(Cuda *cuda)
{
    return cuda->stream[QUEUE_COMPUTE];
}

cublasHandle_t cuda_blas(Cuda *cuda)
{
    return cuda->blas;
}

bool cuda_tf32(const Cuda *cuda)
{
    return cuda->options.tf32;
}

#define CUDA_RUN(name, Stem)                                                                                           \
    static void run_##name(Device *device, const Stem##Args *args)                                                     \
    {                                                                                                                  \
        Cuda *cuda = device->backend->computes && !cuda_of(device)->keeping ? cuda_of(device) : NULL;                  \
        if (cuda)                                                                                                      \
            progress_begin(&cuda->progress, OP_##name);                                                                \
        cuda_##name(device, args);                                                                                     \
        if (cuda)                                                                                                      \
            progress_end(&cuda->progress, cuda->stream[QUEUE_COMPUTE]);                                                \
    }
OP_LIST(CUDA_RUN)
#undef CUDA_RUN

static const OpTable ops = {
#define CUDA_SLOT(name, Stem) .name = run_##name,
    OP_LIST(CUDA_SLOT)
#undef CUDA_SLOT
};

/* --- Memory --- */

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
        await(cuda, stream, NULL);
    /* As it was mapped: what else the driver unmaps at once, its documentation does not say. */
    for (size_t at = 0; at < range->committed; at += PIECE_BYTES)
        cuda->driver.unmap(reinterpret_cast<CUdeviceptr>(base) + at, PIECE_BYTES);
    cuda->driver.address_free(reinterpret_cast<CUdeviceptr>(base), range->reserved);
    *range = {};
}

static ArenaMemory cuda_memory(void *self)
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

static bool driver_find(Driver *driver)
{
    return driver_function("cuMemAddressReserve", 10020, &driver->address_reserve) &&
           driver_function("cuMemAddressFree", 10020, &driver->address_free) &&
           driver_function("cuMemCreate", 10020, &driver->create) &&
           driver_function("cuMemRelease", 10020, &driver->release) &&
           driver_function("cuMemMap", 10020, &driver->map) && driver_function("cuMemUnmap", 10020, &driver->unmap) &&
           driver_function("cuMemSetAccess", 10020, &driver->set_access);
}

/* --- Copies, events --- */

/* The other half, once all queues that read it have done so. */
static void staging_turn(Cuda *cuda)
{
    for (int queue = 0; queue < QUEUE_COUNT; queue++) {
        if (cuda->staged_queue[queue])
            CUDA(cudaEventRecord(cuda->staging_read[cuda->half][queue], cuda->stream[queue]));
        cuda->staged_queue[queue] = false;
    }
    cuda->half ^= 1;
    cuda->staged = 0;
    for (cudaEvent_t event : cuda->staging_read[cuda->half])
        await(cuda, NULL, event);
}

/* Through pinned memory, a piece at a time; the host goes on as soon as its bytes are read. */
static void cuda_copy_in(void *self, DeviceQueue queue, void *device, const void *host, size_t bytes)
{
    Cuda *cuda = (Cuda *)self;
    for (size_t done = 0; done < bytes;) {
        if (cuda->staged == STAGING_BYTES)
            staging_turn(cuda);
        size_t piece = bytes - done < STAGING_BYTES - cuda->staged ? bytes - done : STAGING_BYTES - cuda->staged;
        char *at = cuda->staging + (size_t)cuda->half * STAGING_BYTES + cuda->staged;
        memcpy(at, (const char *)host + done, piece);
        CUDA(cudaMemcpyAsync((char *)device + done, at, piece, cudaMemcpyHostToDevice, cuda->stream[queue]));
        size_t taken = (piece + 255) / 256 * 256;
        cuda->staged += taken; /* STAGING_BYTES is a multiple of 256 */
        cuda->staged_queue[queue] = true;
        done += piece;
    }
}

static void cuda_copy_out(void *self, DeviceQueue queue, void *host, const void *device, size_t bytes)
{
    Cuda *cuda = (Cuda *)self;
    size_t asked = 0, done = 0;
    for (uint64_t next = 0, got = 0; done < bytes;) {
        if (asked < bytes && next < got + 2) {
            size_t piece = std::min(bytes - asked, STAGING_BYTES);
            CUDA(cudaMemcpyAsync(cuda->arrivals + next % 2 * STAGING_BYTES, (const char *)device + asked, piece,
                                 cudaMemcpyDeviceToHost, cuda->stream[queue]));
            CUDA(cudaEventRecord(cuda->arrived[next++ % 2], cuda->stream[queue]));
            asked += piece;
            continue;
        }
        size_t piece = std::min(bytes - done, STAGING_BYTES);
        await(cuda, NULL, cuda->arrived[got % 2]);
        memcpy((char *)host + done, cuda->arrivals + got++ % 2 * STAGING_BYTES, piece);
        done += piece;
    }
}

static void cuda_copy(void *self, DeviceQueue queue, void *to, const void *from, size_t bytes)
{
    CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ((Cuda *)self)->stream[queue]));
}

static void cuda_zero(void *self, DeviceQueue queue, void *device, size_t bytes)
{
    CUDA(cudaMemsetAsync(device, 0, bytes, ((Cuda *)self)->stream[queue]));
}

/* An event's number says which queue it is of, and the how-manieth there. */
static DeviceEvent cuda_record(void *self, DeviceQueue queue)
{
    Cuda *cuda = (Cuda *)self;
    uint64_t number = cuda->events[queue]++;
    CUDA(cudaEventRecord(cuda->event[queue][number % EVENTS], cuda->stream[queue]));
    return {number * QUEUE_COUNT + queue};
}

/* An event whose place was taken by a later one of its queue is waited for by waiting for that. */
static void cuda_wait(void *self, DeviceQueue queue, DeviceEvent event)
{
    Cuda *cuda = (Cuda *)self;
    CUDA(cudaStreamWaitEvent(cuda->stream[queue], cuda->event[event.id % QUEUE_COUNT][event.id / QUEUE_COUNT % EVENTS],
                             0));
}

static void cuda_finish(void *self)
{
    Cuda *cuda = (Cuda *)self;
    for (cudaStream_t stream : cuda->stream)
        await(cuda, stream, NULL);
}

static void *cuda_native_stream(void *self, DeviceQueue queue)
{
    return ((Cuda *)self)->stream[queue];
}

static void cuda_watch(void *self, DeviceWatch watch)
{
    ((Cuda *)self)->watch = watch;
}

/* --- Work that is kept: a graph of what the compute queue was asked for --- */

static void cuda_keep_begin(void *self)
{
    Cuda *cuda = (Cuda *)self;
    cuda->keeping = true;
    CUDA(cudaStreamBeginCapture(cuda->stream[QUEUE_COMPUTE], cudaStreamCaptureModeThreadLocal));
}

static void *cuda_keep_end(void *self)
{
    Cuda *cuda = (Cuda *)self;
    cudaGraph_t graph;
    cudaGraphExec_t kept;
    CUDA(cudaStreamEndCapture(cuda->stream[QUEUE_COMPUTE], &graph));
    CUDA(cudaGraphInstantiate(&kept, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    cuda->keeping = false;
    return kept;
}

static void cuda_replay(void *self, void *kept)
{
    Cuda *cuda = (Cuda *)self;
    progress_begin(&cuda->progress, OP_COUNT);
    CUDA(cudaGraphLaunch((cudaGraphExec_t)kept, cuda->stream[QUEUE_COMPUTE]));
    progress_end(&cuda->progress, cuda->stream[QUEUE_COMPUTE]);
}

static void cuda_forget(void *self, void *kept)
{
    await((Cuda *)self, ((Cuda *)self)->stream[QUEUE_COMPUTE], NULL);
    CUDA(cudaGraphExecDestroy((cudaGraphExec_t)kept));
}

static const char *cuda_describe(void *self)
{
    return ((Cuda *)self)->description;
}

static void cuda_close(void *self)
{
    Cuda *cuda = (Cuda *)self;
    if (cuda->blas)
        cublasDestroy(cuda->blas);
    for (auto &queue : cuda->event)
        for (cudaEvent_t event : queue)
            if (event)
                cudaEventDestroy(event);
    for (auto &half : cuda->staging_read)
        for (cudaEvent_t event : half)
            if (event)
                cudaEventDestroy(event);
    for (cudaEvent_t event : cuda->arrived)
        if (event)
            cudaEventDestroy(event);
    for (cudaStream_t stream : cuda->stream)
        if (stream)
            cudaStreamDestroy(stream);
    cudaFree(cuda->workspace);
    cudaFreeHost(cuda->staging);
    cudaFreeHost(cuda->arrivals);
    progress_close(&cuda->progress);
    if (current == cuda)
        current = NULL;
    memory_release(self);
}

static const DeviceBackend backend = {
    .name = "cuda",
    .describe = cuda_describe,
    .memory = cuda_memory,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .record = cuda_record,
    .wait = cuda_wait,
    .finish = cuda_finish,
    .keep_begin = cuda_keep_begin,
    .keep_end = cuda_keep_end,
    .replay = cuda_replay,
    .forget = cuda_forget,
    .stream = cuda_native_stream,
    .watch = cuda_watch,
    .close = cuda_close,
    .burst = BURST,
    .computes = true,
    .bf16 = true,
    .host_visible = false,
};

/* --- Opening --- */

Status cuda_devices_count(int *count)
{
    *count = 0;
    int driver = 0, runtime = 0;
    cudaError_t error = cudaDriverGetVersion(&driver);
    if (error == cudaSuccess)
        error = cudaRuntimeGetVersion(&runtime);
    if (error != cudaSuccess || driver == 0)
        return status_error(STATUS_USAGE, "no CUDA driver is installed on this machine");
    if (driver / 1000 < runtime / 1000)
        return status_error(STATUS_USAGE, "the driver is for CUDA %d.%d, this program needs one for %d.%d or later",
                            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    error = cudaGetDeviceCount(count);
    if (error != cudaSuccess || *count == 0)
        return status_error(STATUS_USAGE, "no CUDA device: %s", cudaGetErrorString(error));
    return status_ok();
}

static void identify(Cuda *cuda, const cudaDeviceProp *properties)
{
    int at = snprintf(cuda->identity, sizeof cuda->identity, "GPU-");
    for (int i = 0; i < 16; i++)
        at += snprintf(cuda->identity + at, sizeof cuda->identity - (size_t)at, "%02x%s",
                       (unsigned char)properties->uuid.bytes[i], i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
}

/* What bits depend on, and nothing else: a resume compares it. */
static void describe(Cuda *cuda, const cudaDeviceProp *properties)
{
    int version = 0;
    cublasGetVersion(cuda->blas, &version);
    snprintf(cuda->description, sizeof cuda->description, "%s (sm_%d%d), cuBLAS %d%s", properties->name,
             properties->major, properties->minor, version, cuda->options.tf32 ? ", tf32 products" : "");
}

/* --- Kernels --- */

static const void *kernels[KERNELS_MAX];
static int kernels_count;

bool kernel_list(const void *kernel)
{
    REQUIRE(kernels_count < KERNELS_MAX, "more than %d kernels", (int)KERNELS_MAX);
    kernels[kernels_count++] = kernel;
    return true;
}

/* Asking for a kernel's properties loads it. */
static Status load_kernels(void)
{
    for (int i = 0; i < kernels_count; i++) {
        cudaFuncAttributes attributes;
        TRY_CUDA(cudaFuncGetAttributes(&attributes, kernels[i]));
    }
    return status_ok();
}

/* cuBLAS loads its own with the first product of each kind. */
static Status warm_products(Cuda *cuda)
{
    enum { SIDE = 64, EACH = SIDE * SIDE };
    const float one = 1.0f, zero = 0.0f;
    const cublasOperation_t forms[][2] = {
        {CUBLAS_OP_T, CUBLAS_OP_N}, {CUBLAS_OP_N, CUBLAS_OP_N}, {CUBLAS_OP_N, CUBLAS_OP_T}};
    float *a;
    TRY_CUDA(cudaMalloc((void **)&a, 3 * EACH * sizeof *a));
    CUDA(cudaMemsetAsync(a, 0, 3 * EACH * sizeof *a, cuda->stream[QUEUE_COMPUTE]));
    float *b = a + EACH, *c = b + EACH;
    const struct {
        cudaDataType from, to;
        cublasComputeType_t compute;
    } kinds[] = {{CUDA_R_32F, CUDA_R_32F, cuda->options.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F},
                 {CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F},
                 {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F}};
    for (const auto &form : forms)
        for (const auto &kind : kinds)
            BLAS(cublasGemmEx(cuda->blas, form[0], form[1], SIDE, SIDE, SIDE, &one, a, kind.from, SIDE, b, kind.from,
                              SIDE, &zero, c, kind.to, SIDE, kind.compute, CUBLAS_GEMM_DEFAULT));
    await(cuda, cuda->stream[QUEUE_COMPUTE], NULL);
    CUDA(cudaFree(a));
    return status_ok();
}

static Status open_parts(Cuda *cuda)
{
    int count;
    TRY(cuda_devices_count(&count));
    const int index = cuda->options.index;
    if (index < 0 || index >= count)
        return status_error(STATUS_USAGE, "cuda device %d: there are %d, from 0 on", index, count);
    cudaDeviceProp properties;
    TRY_CUDA(cudaGetDeviceProperties(&properties, index));
    if (properties.major * 10 + properties.minor < OLDEST_COMPUTE)
        return status_error(STATUS_USAGE, "cuda device %d, %s, is sm_%d%d; sm_%d or later is needed", index,
                            properties.name, properties.major, properties.minor, (int)OLDEST_COMPUTE);
    identify(cuda, &properties);
    TRY_CUDA(cudaSetDevice(index));
    if (!driver_find(&cuda->driver))
        return status_error(STATUS_USAGE, "cuda device %d: its driver has no virtual memory functions", index);
    for (cudaStream_t &stream : cuda->stream)
        TRY_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    TRY_CUDA(progress_open(&cuda->progress));
    for (auto &queue : cuda->event)
        for (cudaEvent_t &event : queue)
            TRY_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    for (auto &half : cuda->staging_read)
        for (cudaEvent_t &event : half)
            TRY_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    for (cudaEvent_t &event : cuda->arrived)
        TRY_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    TRY_CUDA(cudaMallocHost((void **)&cuda->staging, 2 * (size_t)STAGING_BYTES));
    TRY_CUDA(cudaMallocHost((void **)&cuda->arrivals, 2 * (size_t)STAGING_BYTES));
    TRY_CUDA(cudaMalloc(&cuda->workspace, WORKSPACE_BYTES));
    cublasStatus_t started = cublasCreate(&cuda->blas);
    if (started != CUBLAS_STATUS_SUCCESS)
        return status_error(started == CUBLAS_STATUS_ALLOC_FAILED ? STATUS_MEMORY : STATUS_USAGE,
                            "cuda device %d: cuBLAS could not be started: %s", index, cublasGetStatusString(started));
    describe(cuda, &properties);
    BLAS(cublasSetStream(cuda->blas, cuda->stream[QUEUE_COMPUTE]));
    BLAS(cublasSetWorkspace(cuda->blas, cuda->workspace, WORKSPACE_BYTES));
    /* A BF16 result is summed in F32 and rounded once, however cuBLAS splits the sum. (TF32 is asked for by product: gemm.cu.) */
    BLAS(cublasSetMathMode(cuda->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    TRY(load_kernels());
    return warm_products(cuda);
}

size_t cuda_memory_bytes(int index)
{
    cudaDeviceProp properties;
    return cudaGetDeviceProperties(&properties, index) == cudaSuccess ? properties.totalGlobalMem : 0;
}

Status device_open_cuda(Device *device, const CudaOptions *options)
{
    Cuda *cuda = (Cuda *)memory_new(1, sizeof *cuda);
    cuda->options = *options;
    if (!(cuda->options.timeout_seconds > 0))
        cuda->options.timeout_seconds = TIMEOUT_SECONDS;
    Status status = open_parts(cuda);
    if (!status_failed(status)) {
        current = cuda;
        status = device_init(device, &backend, cuda, &ops, options->threads);
    }
    if (status_failed(status))
        cuda_close(cuda);
    return status;
}

Status device_open_cuda_dry(Device *device, const CudaOptions *options)
{
    TRY(device_open_dry(device));
    device->ops = &ops;
    device->threads = options->threads;
    device->burst = BURST;
    return status_ok();
}

const char *device_cuda_identity(const Device *device)
{
    return device->backend == &backend ? ((const Cuda *)device->self)->identity : "";
}

void device_cuda_plan(Device *device, size_t bytes)
{
    if (device->backend == &backend)
        ((Cuda *)device->self)->planned = bytes;
}

size_t device_cuda_unused_bytes(const Device *device)
{
    size_t unused = 0, all = 0;
    if (device->backend != &backend || cudaMemGetInfo(&unused, &all) != cudaSuccess)
        return 0;
    return unused;
}

size_t device_cuda_overhead_bytes(void)
{
    /* Context and kernels of an H100 under CUDA 12 and 13 as others report them (400 to 600 MB), and what open_parts() asks for. */
    return ((size_t)600 << 20) + WORKSPACE_BYTES;
}
