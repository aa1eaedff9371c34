/* device_cuda.cu -- one GPU as a Device: opening it, the table of ops, and what is said when it fails.
 *
 * Errors: behind every op the device says how far it has come (progress.h); when it fails, that is how the first suspect gets its name. */
#include "kernels/cuda/parts.h"

#include <cstdio>

enum {
    WORKSPACE_BYTES =
        32 << 20, /* what cuBLAS recommends for Hopper; fixed, so that it always picks the same algorithms */
    BURST =
        16, /* decode steps between reads: a read costs some tens of microseconds, a wasted row a 16th of a step at most */
    OLDEST_COMPUTE = 80, /* sm_80: bf16 mma.sync, cp.async */
    KERNELS_MAX = 4096,
    GRAPHS_MIB = 64,
    TIMEOUT_SECONDS = 600, /* no op runs so long */
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
    cuda_await(cuda, cuda->stream[QUEUE_COMPUTE], NULL);
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
    /* Context and kernels of an H100 under CUDA 12 and 13 as others report them (400 to 600 MB), what open_parts() asks for, and graphs of decode steps
     * (core/model/decode.c keeps eight; some hundred kernels each, for which the driver keeps some KiB: 8 MiB a graph). */
    return ((size_t)600 << 20) + WORKSPACE_BYTES + ((size_t)GRAPHS_MIB << 20);
}
