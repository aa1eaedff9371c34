/* gemm_cblas.c -- matrix products by whatever CBLAS the system has, where oneDNN is not. Its thread count is its own
 * affair (OPENBLAS_NUM_THREADS and the like) unless it uses OpenMP. */
#include <cblas.h>

#include "kernels/cpu/isa.h"

void gemm_library(int threads, const GemmArgs *args)
{
    const int others = omp_get_max_threads(); /* what loops that are not ours to count may use */
    omp_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, args->transpose_a ? CblasTrans : CblasNoTrans,
                args->transpose_b ? CblasTrans : CblasNoTrans, (int)args->m, (int)args->n, (int)args->k, args->alpha,
                args->a, (int)args->lda, args->b, (int)args->ldb, args->beta, args->c, (int)args->ldc);
    omp_set_num_threads(others);
}

const char *gemm_library_name(void)
{
    return "CBLAS";
}
