/* blas.cu -- cuBLAS, fetched when the first GPU is opened, not when the program starts.
 *
 * Why:   linked as usual, its 700 MB of libraries cost every start, on every machine, a tenth of a second and 150 MB of relocated pages, and a machine
 *        without them could not start the program at all. So the few functions that this folder calls are defined here, by the header's own signatures, and go on to
 *        the library; one that cannot be found answers as a library that was not initialised. Under the emulation cuBLAS is the emulation's. */
#ifdef __CUDACC__
#include <cublas_v2.h>

#include <dlfcn.h>

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

static void *library(void)
{
    static void *handle = dlopen("libcublas.so." TEXT(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    return handle;
}

template <class F> static F find(const char *name, F)
{
    return library() ? reinterpret_cast<F>(dlsym(library(), name)) : nullptr;
}

/* The library's own function of this name, once found kept. */
#define GO_ON(name, ...)                                                                                               \
    static auto function = find(#name, &name);                                                                         \
    return function ? function(__VA_ARGS__) : CUBLAS_STATUS_NOT_INITIALIZED

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    GO_ON(cublasCreate_v2, handle);
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    GO_ON(cublasDestroy_v2, handle);
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int *version)
{
    GO_ON(cublasGetVersion_v2, handle, version);
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    GO_ON(cublasSetStream_v2, handle, stream);
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes)
{
    GO_ON(cublasSetWorkspace_v2, handle, workspace, bytes);
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode)
{
    GO_ON(cublasSetMathMode, handle, mode);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                            int k, const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    typedef cublasStatus_t (*Function)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                                       const void *, const void *, cudaDataType, int, const void *, cudaDataType, int,
                                       const void *, void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
    static Function function = find("cublasGemmEx", (Function)NULL); /* C++ knows two of this name */
    return function ? function(handle, transa, transb, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type,
                               ldc, compute, algorithm)
                    : CUBLAS_STATUS_NOT_INITIALIZED;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    static auto function = find("cublasGetStatusString", &cublasGetStatusString);
    return function ? function(status) : "libcublas.so." TEXT(CUBLAS_VER_MAJOR) " was not found";
}
}
#endif
