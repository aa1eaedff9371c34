/* gemm_onednn.c -- matrix products by oneDNN, whose sgemm is row-major and makes its code for the processor it meets. */
#include <oneapi/dnnl/dnnl.h>

#include <stdio.h>

#include "kernels/cpu/isa.h"

void gemm_library(int threads, const GemmArgs *args)
{
    const int others = omp_get_max_threads(); /* what loops that are not ours to count may use */
    omp_set_num_threads(threads);
    dnnl_status_t status =
        dnnl_sgemm(args->transpose_a ? 'T' : 'N', args->transpose_b ? 'T' : 'N', args->m, args->n, args->k, args->alpha,
                   args->a, args->lda, args->b, args->ldb, args->beta, args->c, args->ldc);
    omp_set_num_threads(others);
    REQUIRE(status == dnnl_success, "dnnl_sgemm(%d %d, %lld x %lld x %lld, ld %lld %lld %lld) returned %d",
            args->transpose_a, args->transpose_b, (long long)args->m, (long long)args->n, (long long)args->k,
            (long long)args->lda, (long long)args->ldb, (long long)args->ldc, (int)status);
}

const char *gemm_library_name(void)
{
    static char name[32];
    const dnnl_version_t *version = dnnl_version();
    snprintf(name, sizeof name, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return name;
}
