/* cublas.cc -- products of matrices by cuBLAS's signatures, done by the CPU backend's library.
 *
 * What:  column-major; fp32, and bf16 inputs with fp32 sums and fp32 or bf16 results, rounded once. Work is queued on the handle's stream and reads
 *        device memory, and scalars that live there, when its turn comes. Under TF32 the inputs of fp32 products are rounded as the hardware does.
 * Finds: a leading dimension that is too small (refused, as by cuBLAS); matrices that are not inside one allocation, or not aligned; a handle
 *        whose stream nobody set; types that do not go together. */
#include <cublas_v2.h>
#include <omp.h>

#include <cstdint>
#include <cstring>
#include <vector>

extern "C" {
#include "kernels/cpu/isa.h"
}
#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/stream.h"

using namespace cuda_on_cpu;

struct cublasContext {
    cudaStream_t stream;
    bool stream_set;
    cublasMath_t math;
    cublasPointerMode_t pointers;
};

/* --- Handles --- */

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    int count;
    if (cudaGetDeviceCount(&count) != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasContext{NULL, false, CUBLAS_DEFAULT_MATH, CUBLAS_POINTER_MODE_HOST};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    handle->stream_set = true;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t *stream)
{
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode)
{
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode)
{
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}

/* Not used; but where it would be, it must be memory of the device. */
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *workspace, size_t bytes)
{
    if (bytes && !device_memory_holds(workspace, bytes))
        defect("cublasSetWorkspace: %zu bytes at %p are not inside one allocation of the device", bytes, workspace);
    return (uintptr_t)workspace % 256 ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion(cublasHandle_t, int *version)
{
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    switch (status) {
#define TEXT(name)                                                                                                     \
    case name:                                                                                                         \
        return #name;
        TEXT(CUBLAS_STATUS_SUCCESS)
        TEXT(CUBLAS_STATUS_NOT_INITIALIZED)
        TEXT(CUBLAS_STATUS_ALLOC_FAILED)
        TEXT(CUBLAS_STATUS_INVALID_VALUE)
        TEXT(CUBLAS_STATUS_ARCH_MISMATCH)
        TEXT(CUBLAS_STATUS_MAPPING_ERROR)
        TEXT(CUBLAS_STATUS_EXECUTION_FAILED)
        TEXT(CUBLAS_STATUS_INTERNAL_ERROR)
        TEXT(CUBLAS_STATUS_NOT_SUPPORTED)
        TEXT(CUBLAS_STATUS_LICENSE_ERROR)
#undef TEXT
    }
    return "a status that cuBLAS does not have";
}

/* --- Products --- */

/* A matrix in column-major storage: `columns` of `rows` elements, `ld` apart; one of a batch every `stride` elements. */
struct Matrix {
    const char *name;
    char *at;
    cudaDataType type;
    int64_t rows, columns, ld, stride;
};

struct Product {
    cublasOperation_t transpose_a, transpose_b;
    int64_t m, n, k, batch;
    const void *alpha, *beta; /* on the device, or NULL: the values beside */
    float alpha_value, beta_value;
    Matrix a, b, c;
    bool tf32;
};

static int64_t element_bytes(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static int64_t matrix_elements(const Matrix &matrix)
{
    return (matrix.columns - 1) * matrix.ld + matrix.rows;
}

static void matrix_check(const Matrix &matrix, int64_t batch)
{
    if (!matrix.rows || !matrix.columns)
        return;
    if ((uintptr_t)matrix.at % (uintptr_t)element_bytes(matrix.type))
        defect("cuBLAS: %s at %p is not aligned", matrix.name, (void *)matrix.at);
    size_t bytes = (size_t)(((batch - 1) * matrix.stride + matrix_elements(matrix)) * element_bytes(matrix.type));
    if (!device_memory_holds(matrix.at, bytes))
        defect("cuBLAS: %s, %zu bytes at %p, is not inside one allocation of the device", matrix.name, bytes,
               (void *)matrix.at);
}

/* 10 bits of mantissa, to nearest, ties away from zero. */
static float tf32_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7f800000u) != 0x7f800000u)
        bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* One matrix of a batch as floats, with its own leading dimension: itself if it can be, else a copy in `room`. */
static float *matrix_floats(const Matrix &matrix, int64_t index, bool tf32, std::vector<float> &room)
{
    char *at = matrix.at + index * matrix.stride * element_bytes(matrix.type);
    if (matrix.type == CUDA_R_32F && !tf32)
        return (float *)at;
    room.resize((size_t)(matrix.columns * matrix.ld));
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < matrix.columns; column++) {
        float *to = room.data() + column * matrix.ld;
        if (matrix.type == CUDA_R_16BF)
            dtype_to_f32(DTYPE_BF16, (const uint16_t *)at + column * matrix.ld, to, (size_t)matrix.rows);
        else
            for (int64_t row = 0; row < matrix.rows; row++)
                to[row] = tf32_of(((const float *)at)[column * matrix.ld + row]);
    }
    return room.data();
}

static void floats_store(const Matrix &matrix, int64_t index, const float *from)
{
    if (matrix.type == CUDA_R_32F)
        return; /* they were written in place */
    uint16_t *to = (uint16_t *)(matrix.at + index * matrix.stride * element_bytes(matrix.type));
#pragma omp parallel for schedule(static)
    for (int64_t column = 0; column < matrix.columns; column++)
        for (int64_t row = 0; row < matrix.rows; row++)
            to[column * matrix.ld + row] = bf16_of(from[column * matrix.ld + row]);
}

static void scale_only(const Matrix &matrix, float *c, float beta)
{
    for (int64_t column = 0; column < matrix.columns; column++)
        for (int64_t row = 0; row < matrix.rows; row++)
            c[column * matrix.ld + row] = beta == 0.0f ? 0.0f : beta * c[column * matrix.ld + row];
}

/* Column-major C = A B is row-major C' = B' A'. */
static void product_run(const Product &product)
{
    DeviceMemoryOpen open;
    static std::vector<float> room_a, room_b, room_c;
    GemmArgs args = {};
    args.transpose_a = product.transpose_b != CUBLAS_OP_N;
    args.transpose_b = product.transpose_a != CUBLAS_OP_N;
    args.m = product.n;
    args.n = product.m;
    args.k = product.k;
    args.alpha = product.alpha ? *(const float *)product.alpha : product.alpha_value;
    args.beta = product.beta ? *(const float *)product.beta : product.beta_value;
    args.lda = product.b.ld;
    args.ldb = product.a.ld;
    args.ldc = product.c.ld;
    for (int64_t i = 0; i < product.batch; i++) {
        float *c;
        if (product.c.type == CUDA_R_32F || args.beta != 0.0f) {
            c = matrix_floats(product.c, i, false, room_c);
        } else {
            room_c.resize((size_t)(product.c.columns * product.c.ld));
            c = room_c.data();
        }
        if (product.k == 0) {
            scale_only(product.c, c, args.beta);
        } else {
            args.a = matrix_floats(product.b, i, product.tf32, room_b);
            args.b = matrix_floats(product.a, i, product.tf32, room_a);
            args.c = c;
            gemm_library(omp_get_max_threads(), &args);
        }
        floats_store(product.c, i, c);
    }
}

static bool types_fit(const Matrix &a, const Matrix &b, const Matrix &c, cublasComputeType_t compute)
{
    bool known = compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                 compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    bool floats = a.type == CUDA_R_32F && c.type == CUDA_R_32F;
    bool halves = a.type == CUDA_R_16BF && (c.type == CUDA_R_16BF || c.type == CUDA_R_32F) &&
                  compute != CUBLAS_COMPUTE_32F_FAST_TF32;
    return known && a.type == b.type && (floats || halves);
}

static bool operation_known(cublasOperation_t operation)
{
    return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T || operation == CUBLAS_OP_C;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                          int m, int n, int k, const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long stride_a, const void *b, cudaDataType b_type, int ldb,
                                          long long stride_b, const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long stride_c, int batch, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!handle->stream_set)
        defect("cuBLAS: a product is asked for before cublasSetStream(): it would run on the legacy stream");
    if (error_is_sticky(error_now()))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    bool n_a = transa == CUBLAS_OP_N, n_b = transb == CUBLAS_OP_N;
    Product product = {transa, transb, m, n, k, batch, NULL, NULL, 0.0f, 0.0f, {}, {}, {}, false};
    product.a = {"A", (char *)const_cast<void *>(a), a_type, n_a ? m : k, n_a ? k : m, lda, stride_a};
    product.b = {"B", (char *)const_cast<void *>(b), b_type, n_b ? k : n, n_b ? n : k, ldb, stride_b};
    product.c = {"C", (char *)c, c_type, m, n, ldc, stride_c};
    if (m < 0 || n < 0 || k < 0 || batch < 0 || !operation_known(transa) || !operation_known(transb) || !alpha || !beta)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (const Matrix *matrix : {&product.a, &product.b, &product.c})
        if (matrix->ld < std::max<int64_t>(1, matrix->rows))
            return CUBLAS_STATUS_INVALID_VALUE;
    if (!types_fit(product.a, product.b, product.c, compute))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!m || !n || !batch)
        return CUBLAS_STATUS_SUCCESS;
    for (const Matrix *matrix : {&product.a, &product.b, &product.c})
        matrix_check(*matrix, batch);
    if (batch > 1 && product.c.stride < matrix_elements(product.c))
        defect("cuBLAS: products of a batch write over each other: C takes %lld elements, the next begins after %lld",
               (long long)matrix_elements(product.c), stride_c);
    if (handle->pointers == CUBLAS_POINTER_MODE_DEVICE) {
        if (!device_memory_holds(alpha, sizeof(float)) || !device_memory_holds(beta, sizeof(float)))
            defect("cuBLAS: alpha and beta are not on the device, and the pointer mode says so");
        product.alpha = alpha;
        product.beta = beta;
    } else {
        if (device_memory_has(alpha) || device_memory_has(beta))
            defect("cuBLAS: alpha or beta is on the device, and the pointer mode says host");
        product.alpha_value = *(const float *)alpha;
        product.beta_value = *(const float *)beta;
    }
    product.tf32 =
        a_type == CUDA_R_32F && (compute == CUBLAS_COMPUTE_32F_FAST_TF32 ||
                                 (compute == CUBLAS_COMPUTE_32F && (handle->math & 0xf) == CUBLAS_TF32_TENSOR_OP_MATH));
    stream_add(handle->stream, "cuBLAS", [product] { product_run(product); });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0,
                                      beta, c, c_type, ldc, 0, 1, compute, algorithm);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb,
                                         int m, int n, int k, const float *alpha, const float *a, int lda,
                                         long long stride_a, const float *b, int ldb, long long stride_b,
                                         const float *beta, float *c, int ldc, long long stride_c, int batch)
{
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, a, CUDA_R_32F, lda, stride_a, b,
                                      CUDA_R_32F, ldb, stride_b, beta, c, CUDA_R_32F, ldc, stride_c, batch,
                                      CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                           int k, const float *alpha, const float *a, int lda, const float *b, int ldb,
                           const float *beta, float *c, int ldc)
{
    return cublasSgemmStridedBatched(handle, transa, transb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1);
}
