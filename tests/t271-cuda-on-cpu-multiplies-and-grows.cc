/* t271 -- the emulation's cuBLAS multiplies what a plain loop multiplies, memory grows behind reserved addresses, and misuse of either is found. */
#include <cublas_v2.h>
#include <cuda.h>

#include <cmath>
#include <vector>

#include "tests/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/planted.h"

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != 0) {                                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #call);                                                 \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

/* --- cuBLAS --- */

struct Blas {
    cudaStream_t stream;
    cublasHandle_t handle;
};

static bool blas_open(Blas *blas)
{
    OK(cudaStreamCreateWithFlags(&blas->stream, cudaStreamNonBlocking));
    OK(cublasCreate(&blas->handle));
    OK(cublasSetStream(blas->handle, blas->stream));
    void *workspace;
    OK(cudaMalloc(&workspace, 4096));
    OK(cublasSetWorkspace(blas->handle, workspace, 4096));
    return true;
}

/* Small whole numbers and quarters: exact in every type here. */
static float value_at(int64_t i, int salt)
{
    return (float)((i * 7 + salt) % 11 - 5) * 0.25f;
}

template <class T> static T *device_values(int64_t count, int salt)
{
    std::vector<T> host((size_t)count);
    for (int64_t i = 0; i < count; i++)
        host[(size_t)i] = (T)value_at(i, salt);
    void *at;
    if (cudaMalloc(&at, host.size() * sizeof(T)) != cudaSuccess)
        abort();
    cudaMemcpy(at, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return (T *)at;
}

/* C = alpha op(A) op(B) + beta C, three of a batch, leading dimensions larger than need be, against the definition. */
template <class In, class Out>
static bool product_is_right(cudaDataType in, cudaDataType out, bool transpose_a, bool transpose_b, int m, int n, int k,
                             float beta)
{
    Blas blas;
    if (!blas_open(&blas))
        return false;
    enum { BATCH = 3 };
    const int lda = (transpose_a ? k : m) + 2, ldb = (transpose_b ? n : k) + 3, ldc = m + 5;
    const int64_t stride_a = (int64_t)lda * (transpose_a ? m : k), stride_b = (int64_t)ldb * (transpose_b ? k : n),
                  stride_c = (int64_t)ldc * n;
    In *a = device_values<In>(BATCH * stride_a, 1), *b = device_values<In>(BATCH * stride_b, 2);
    Out *c = device_values<Out>(BATCH * stride_c, 3);
    const float alpha = 0.5f;
    OK(cublasGemmStridedBatchedEx(blas.handle, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                  transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k, &alpha, a, in, lda, stride_a, b, in,
                                  ldb, stride_b, &beta, c, out, ldc, stride_c, BATCH, CUBLAS_COMPUTE_32F,
                                  CUBLAS_GEMM_DEFAULT));
    OK(cudaStreamSynchronize(blas.stream));
    std::vector<Out> got((size_t)(BATCH * stride_c));
    OK(cudaMemcpy(got.data(), c, got.size() * sizeof(Out), cudaMemcpyDeviceToHost));
    for (int64_t i = 0; i < BATCH; i++)
        for (int64_t column = 0; column < n; column++)
            for (int64_t row = 0; row < ldc; row++) {
                int64_t at = i * stride_c + column * ldc + row;
                float wanted = value_at(at, 3);
                if (row < m) {
                    float sum = 0.0f;
                    for (int64_t l = 0; l < k; l++)
                        sum += value_at(i * stride_a + (transpose_a ? row * lda + l : l * lda + row), 1) *
                               value_at(i * stride_b + (transpose_b ? l * ldb + column : column * ldb + l), 2);
                    wanted = alpha * sum + (beta == 0.0f ? 0.0f : beta * wanted);
                }
                if (!((float)got[(size_t)at] == (float)(Out)wanted))
                    return false;
            }
    return true;
}

static bool products(void)
{
    bool right = true;
    for (int transposes = 0; transposes < 4; transposes++)
        for (float beta : {0.0f, 1.0f}) {
            bool ta = transposes & 1, tb = transposes & 2;
            right = right && product_is_right<float, float>(CUDA_R_32F, CUDA_R_32F, ta, tb, 7, 5, 33, beta);
            right = right && product_is_right<__nv_bfloat16, float>(CUDA_R_16BF, CUDA_R_32F, ta, tb, 31, 9, 17, beta);
            right = right &&
                    product_is_right<__nv_bfloat16, __nv_bfloat16>(CUDA_R_16BF, CUDA_R_16BF, ta, tb, 8, 33, 65, beta);
        }
    return right && product_is_right<float, float>(CUDA_R_32F, CUDA_R_32F, false, false, 3, 4, 0, 0.0f);
}

static cublasStatus_t small_product(const Blas &blas, const float *a, int lda, float *c,
                                    cublasComputeType_t compute = CUBLAS_COMPUTE_32F)
{
    const float one = 1.0f, zero = 0.0f;
    return cublasGemmEx(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, &one, a, CUDA_R_32F, lda, a, CUDA_R_32F, 4,
                        &zero, c, CUDA_R_32F, 4, compute, CUBLAS_GEMM_DEFAULT);
}

/* 10 bits behind the leading one, to nearest: 1 + 2^-12 is 1, its neighbours above 1 + 2^-11 are not. */
static float tf32_of(float value)
{
    int exponent;
    const float fraction = frexpf(value, &exponent); /* in [1/2, 1) */
    return ldexpf(roundf(fraction * 2048.0f) / 2048.0f, exponent);
}

/* By compute type and by mode, TF32 multiplies rounded inputs; without either it does not. */
static bool tf32_rounds(void)
{
    Blas blas;
    float *x = device_values<float>(16, 0), *c = device_values<float>(16, 0), host[16], got[16];
    if (!blas_open(&blas))
        return false;
    for (int i = 0; i < 16; i++)
        host[i] = (i % 2 ? -1.0f : 1.0f) * (1.0f + (float)(i * i * 911 % 4096) / 8192.0f + (float)i / 65536.0f);
    host[0] = 1.0f + 1.0f / 4096;
    OK(cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice));
    bool right = true;
    for (int way = 0; way < 3; way++) {
        OK(cublasSetMathMode(blas.handle, way == 1 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH));
        OK(small_product(blas, x, 4, c, way == 2 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F));
        OK(cudaStreamSynchronize(blas.stream));
        OK(cudaMemcpy(got, c, sizeof got, cudaMemcpyDeviceToHost));
        for (int i = 0; i < 16; i++) {
            double rounded = 0.0, whole = 0.0;
            for (int k = 0; k < 4; k++) {
                whole += (double)host[4 * k + i % 4] * host[i / 4 * 4 + k];
                rounded += (double)tf32_of(host[4 * k + i % 4]) * tf32_of(host[i / 4 * 4 + k]);
            }
            right = right && fabs(got[i] - (way ? rounded : whole)) < 2e-6;
        }
    }
    return right && tf32_of(host[0]) == 1.0f;
}

static bool leading_dimension(void)
{
    Blas blas;
    float *x = device_values<float>(64, 0);
    return blas_open(&blas) && small_product(blas, x, 3, x + 32) == CUBLAS_STATUS_SUCCESS;
}
static bool compute_type(void)
{
    Blas blas;
    float *x = device_values<float>(64, 0);
    return blas_open(&blas) && small_product(blas, x, 4, x + 32, CUBLAS_COMPUTE_16F) == CUBLAS_STATUS_SUCCESS;
}
static bool beyond_end(void)
{
    Blas blas;
    float *x = device_values<float>(64, 0);
    return blas_open(&blas) && small_product(blas, x, 4, x + 49) == CUBLAS_STATUS_SUCCESS;
}
static bool host_matrix(void)
{
    Blas blas;
    static float host[16];
    return blas_open(&blas) && small_product(blas, host, 4, device_values<float>(16, 0)) == CUBLAS_STATUS_SUCCESS;
}
static bool no_stream(void)
{
    Blas blas;
    float *x = device_values<float>(64, 0);
    return cublasCreate(&blas.handle) == 0 && small_product(blas, x, 4, x + 32) == CUBLAS_STATUS_SUCCESS;
}
static bool device_scalar(void)
{
    Blas blas;
    float *x = device_values<float>(64, 0);
    if (!blas_open(&blas))
        return false;
    return cublasSgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, 4, 4, 4, x, x, 4, x, 4, x, x + 32, 4) == 0;
}
/* Queued like everything else: the result is not there before its stream was waited for. */
static bool unwaited_product(void)
{
    Blas blas;
    float *x = device_values<float>(64, 0), got[16];
    if (!blas_open(&blas))
        return false;
    OK(cudaMemset(x, 0, 64 * sizeof *x));
    OK(cudaMemset(x + 32, 0xff, 16 * sizeof *x));
    OK(small_product(blas, x, 4, x + 32));
    cudaStream_t other;
    OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    void *pinned;
    OK(cudaMallocHost(&pinned, sizeof got));
    OK(cudaMemcpyAsync(pinned, x + 32, sizeof got, cudaMemcpyDeviceToHost, other));
    OK(cudaStreamSynchronize(other));
    return ((float *)pinned)[5] == 0.0f;
}

/* --- Virtual memory --- */

static const size_t STEP = (size_t)2 << 20;

struct Vmm {
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) free;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) access;
};

template <class F> static bool entry(const char *name, F *function)
{
    void *found = NULL;
    cudaDriverEntryPointQueryResult result;
    OK(cudaGetDriverEntryPointByVersion(name, &found, 10020, cudaEnableDefault, &result));
    *function = (F)found;
    return result == cudaDriverEntryPointSuccess;
}

static bool vmm_open(Vmm *vmm)
{
    void *none;
    cudaDriverEntryPointQueryResult result;
    return entry("cuMemAddressReserve", &vmm->reserve) && entry("cuMemAddressFree", &vmm->free) &&
           entry("cuMemCreate", &vmm->create) && entry("cuMemRelease", &vmm->release) && entry("cuMemMap", &vmm->map) &&
           entry("cuMemUnmap", &vmm->unmap) && entry("cuMemSetAccess", &vmm->access) &&
           cudaGetDriverEntryPointByVersion("cuNoSuchThing", &none, 10020, 0, &result) == cudaSuccess &&
           result == cudaDriverEntryPointSymbolNotFound;
}

static CUresult vmm_grow(const Vmm &vmm, CUdeviceptr at, size_t bytes)
{
    CUmemAllocationProp what = {};
    what.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    what.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CUmemAccessDesc access = {what.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;
    CUresult result = vmm.create(&handle, bytes, &what, 0);
    if (result != CUDA_SUCCESS)
        return result;
    result = vmm.map(at, bytes, 0, handle, 0);
    vmm.release(handle);
    return result != CUDA_SUCCESS ? result : vmm.access(at, bytes, &access, 1);
}

__global__ void touch(float *x, int64_t at)
{
    x[at] = 1.0f;
}

/* Grows twice; what crosses the seam is one array; new memory is NaN; all comes back. */
static bool grows(void)
{
    Vmm vmm;
    CUdeviceptr base;
    if (!vmm_open(&vmm))
        return false;
    for (int round = 0; round < 2; round++) {
        OK(vmm.reserve(&base, 8 * STEP, 0, 0, 0));
        OK(vmm_grow(vmm, base, STEP));
        OK(vmm_grow(vmm, base + STEP, 2 * STEP));
        float *x = (float *)base, seam[2];
        const int64_t edge = (int64_t)(STEP / sizeof *x);
        LAUNCH(touch, 1, 1, 0, 0, x, edge);
        OK(cudaMemcpy(seam, x + edge - 1, sizeof seam, cudaMemcpyDeviceToHost));
        if (!std::isnan(seam[0]) || seam[1] != 1.0f)
            return false;
        if (vmm.free(base, 8 * STEP) == CUDA_SUCCESS || vmm.unmap(base, STEP / 2) == CUDA_SUCCESS ||
            vmm_grow(vmm, base + STEP, STEP) == CUDA_SUCCESS ||
            vmm_grow(vmm, base + 7 * STEP, 2 * STEP) == CUDA_SUCCESS)
            return false;
        OK(vmm.unmap(base, 3 * STEP));
        OK(vmm.free(base, 8 * STEP));
    }
    return cuda_on_cpu::device_memory_used() == 0;
}

static bool touch_after_growth(int64_t steps)
{
    Vmm vmm;
    CUdeviceptr base;
    OK(!vmm_open(&vmm));
    OK(vmm.reserve(&base, 8 * STEP, 0, 0, 0));
    OK(vmm_grow(vmm, base, STEP));
    if (steps < 0)
        OK(vmm.unmap(base, STEP));
    LAUNCH(touch, 1, 1, 0, 0, (float *)base, std::max<int64_t>(0, steps) * (int64_t)(STEP / sizeof(float)));
    return cudaDeviceSynchronize() == cudaSuccess;
}
static bool not_yet_grown(void)
{
    return touch_after_growth(1);
}
static bool after_unmap(void)
{
    return touch_after_growth(-1);
}
static bool host_touches(void)
{
    Vmm vmm;
    CUdeviceptr base;
    OK(!vmm_open(&vmm));
    OK(vmm.reserve(&base, STEP, 0, 0, 0));
    OK(vmm_grow(vmm, base, STEP));
    return *(float *)base == 1.0f;
}
static bool out_of_memory(void)
{
    Vmm vmm;
    CUdeviceptr base;
    void *at;
    OK(!vmm_open(&vmm));
    cuda_on_cpu::device_memory_limit(3 * STEP);
    OK(vmm.reserve(&base, 8 * STEP, 0, 0, 0));
    OK(vmm_grow(vmm, base, 2 * STEP));
    return vmm_grow(vmm, base + 2 * STEP, 2 * STEP) == CUDA_ERROR_OUT_OF_MEMORY &&
           cudaMalloc(&at, 2 * STEP) == cudaErrorMemoryAllocation &&
           vmm_grow(vmm, base + 2 * STEP, STEP) == CUDA_SUCCESS;
}

static const Case cases[] = {
    {"products of all types and transposes", products, NULL},
    {"TF32 rounds its inputs, by compute type and by mode", tf32_rounds, NULL},
    {"memory that grows", grows, NULL},
    {"memory that is used up", out_of_memory, NULL},
    {"a leading dimension too small", leading_dimension, ""},
    {"a compute type that does not fit", compute_type, ""},
    {"a matrix beyond its allocation", beyond_end, "C, 64 bytes"},
    {"a matrix of the host", host_matrix, "A, 64 bytes"},
    {"a product without a stream", no_stream, "before cublasSetStream"},
    {"a scalar on the device", device_scalar, "pointer mode says host"},
    {"a product that was not waited for", unwaited_product, ""},
    {"memory that was not committed", not_yet_grown, "outside every allocation"},
    {"memory that was unmapped", after_unmap, "outside every allocation"},
    {"a host dereference of mapped memory", host_touches, "the host touches device memory"},
};

int main(void)
{
    return planted_run(cases, sizeof cases / sizeof *cases);
}
