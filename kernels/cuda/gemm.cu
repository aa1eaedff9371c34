/* gemm.cu -- matrix products by cuBLAS, in F32 sums; what it does not do: bias, products over nothing, gradients of biases.
 *
 * cuBLAS reads columns where we write rows: a row-major matrix is the transpose of a column-major one, and C = A B is C' = B' A'. A BF16
 * result is rounded before its bias is added, and once more after: keeping it in F32 between would cost more than it brings. */
#include "kernels/cuda/device.h"

#include "kernels/cuda/span.h"
#include "kernels/cuda/sums.h"

/* c = beta c + bias; one row per blockIdx.x. beta 0 does not read c. */
template <class T, int EACH> __global__ void finish_row(T *c, const float *bias, float beta, int64_t width, int64_t ldc)
{
    int64_t j = row_column<EACH>();
    if (j >= width)
        return;
    T *at = c + (int64_t)blockIdx.x * ldc + j;
    Span<float, EACH> value;
#pragma unroll
    for (int k = 0; k < EACH; k++)
        value.at[k] = 0.0f;
    if (bias)
        value = load_span<EACH>(bias + j);
    Span<T, EACH> span;
    if (beta != 0.0f) {
        span = load_span<EACH>(at);
#pragma unroll
        for (int k = 0; k < EACH; k++)
            value.at[k] += beta * widen(span.at[k]);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++)
        span.at[k] = narrow<T>(value.at[k]);
    store_span<EACH>(at, span);
}

template <class T, bool PACKED> static void launch_finish(Cuda *cuda, const GemmArgs *args, float beta)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    RowLaunch launch = row_launch(args->m, args->n / EACH);
    CUDA_LAUNCH(cuda, (finish_row<T, EACH>), launch.grid, launch.block, 0, (T *)args->c, args->bias, beta, args->n,
                args->ldc);
}

static void finish(Cuda *cuda, const GemmArgs *args, float beta)
{
#define FINISH(T)                                                                                                      \
    (packs_fit((const T *)args->c, args->n) && packs_fit((const T *)args->c, args->ldc) && packs_fit(args->bias, 0)    \
         ? launch_finish<T, true>                                                                                      \
         : launch_finish<T, false>)(cuda, args, beta)
    BY_DTYPE(args->c_dtype, FINISH);
#undef FINISH
}

static cudaDataType blas_type(DType dtype)
{
    return dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasComputeType_t blas_compute(const Cuda *cuda, DType dtype)
{
    return dtype == DTYPE_F32 && cuda_tf32(cuda) ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

static cublasOperation_t blas_op(bool transpose)
{
    return transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
}

void cuda_gemm(Device *device, const GemmArgs *args)
{
    REQUIRE(args->dtype == DTYPE_F32 || args->dtype == DTYPE_BF16, "a product of %s", dtype_name(args->dtype));
    REQUIRE(args->c_dtype == DTYPE_F32 || args->c_dtype == args->dtype, "a product of %s in %s",
            dtype_name(args->dtype), dtype_name(args->c_dtype));
    const int64_t sizes[] = {args->m, args->n, args->k, args->lda, args->ldb, args->ldc};
    for (int64_t size : sizes)
        REQUIRE(size >= 0 && size <= INT32_MAX,
                "a product of (%lld, %lld) and (%lld, %lld), in rows of %lld, %lld, %lld", (long long)args->m,
                (long long)args->k, (long long)args->k, (long long)args->n, (long long)args->lda, (long long)args->ldb,
                (long long)args->ldc);
    if (!device->backend->computes || !args->m || !args->n)
        return;
    Cuda *cuda = cuda_of(device);
    if (!args->k) {
        finish(cuda, args, args->beta);
        return;
    }
    BLAS(cublasGemmEx(cuda_blas(cuda), blas_op(args->transpose_b), blas_op(args->transpose_a), (int)args->n,
                      (int)args->m, (int)args->k, &args->alpha, args->b, blas_type(args->dtype), (int)args->ldb,
                      args->a, blas_type(args->dtype), (int)args->lda, &args->beta, args->c, blas_type(args->c_dtype),
                      (int)args->ldc, blas_compute(cuda, args->dtype), CUBLAS_GEMM_DEFAULT));
    if (args->bias)
        finish(cuda, args, 1.0f);
}

/* --- bias_backward --- */

/* A block has a row block of a warp's width of spans; its warps take turns at the rows. */
enum { BIAS_WARPS = 8, BIAS_BLOCKS = 1024 /* of all column parts together, enough for any GPU */ };

template <class T, int EACH>
__global__ void bias_partial(const T *dy, float *partial, int64_t rows, int64_t width, int64_t block_rows)
{
    SHARED(float, part, [BIAS_WARPS][EACH][WARP]);
    int lane = (int)threadIdx.x, warp = (int)threadIdx.y;
    int64_t j = ((int64_t)blockIdx.x * WARP + lane) * EACH;
    int64_t from = blockIdx.y * block_rows, end = min(from + block_rows, rows);
    float sum[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++)
        sum[k] = 0.0f;
    if (j < width) {
#pragma unroll 4
        for (int64_t i = from + warp; i < end; i += BIAS_WARPS) {
            Span<T, EACH> span = load_span<EACH>(dy + i * width + j);
#pragma unroll
            for (int k = 0; k < EACH; k++)
                sum[k] += widen(span.at[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < EACH; k++)
        part[warp][k][lane] = sum[k];
    __syncthreads();
    if (j >= width)
        return;
    for (int k = warp; k < EACH; k += BIAS_WARPS) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < BIAS_WARPS; i++)
            total += part[i][k][lane];
        store_one(partial + blockIdx.y * width + j + k, total);
    }
}

template <class T, bool PACKED>
static void launch_bias(Cuda *cuda, const BiasBackwardArgs *args, RowBlocks blocks, float *partial)
{
    constexpr int EACH = SpanCount<T, PACKED>::EACH;
    dim3 grid((unsigned)ceil_div(args->width, WARP * EACH), (unsigned)blocks.count);
    CUDA_LAUNCH(cuda, (bias_partial<T, EACH>), grid, dim3(WARP, BIAS_WARPS), 0, (const T *)args->dy, partial,
                args->rows, args->width, blocks.rows);
}

void cuda_bias_backward(Device *device, const BiasBackwardArgs *args)
{
    int64_t parts = ceil_div(args->width, WARP * SpanCount<bf16, true>::EACH);
    RowBlocks blocks = row_blocks(args->rows, 32, ceil_div(BIAS_BLOCKS, parts ? parts : 1));
    float *partial = (float *)arena_alloc(&device->scratch, sizeof(float) * (size_t)(blocks.count * args->width));
    if (!device->backend->computes || !args->rows || !args->width)
        return;
    Cuda *cuda = cuda_of(device);
#define BIAS(T)                                                                                                        \
    (packs_fit((const T *)args->dy, args->width) ? launch_bias<T, true> : launch_bias<T, false>)(cuda, args, blocks,   \
                                                                                                 partial)
    BY_DTYPE(args->dtype, BIAS);
#undef BIAS
    cuda_join_blocks(cuda, partial, blocks.count, args->width, args->width, args->dbias);
}
