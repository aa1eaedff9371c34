/* work_machine.c -- what the machine gives: the figures that limits are made of, measured in the same run as what is judged by them.
 *
 * gemm_flops:      the best of several large single-precision products, by the same library that the program calls.
 * read_bytes:      one pass over an array far larger than the caches, summed.
 * stream_bytes:    four arrays read and three written back, with next to no arithmetic: what AdamW does to memory. */
#include <string.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "tests/bench/work.h"

typedef float Line __attribute__((vector_size(64), may_alias));

enum { LINE_FLOATS = 16, LINES = 8 };

typedef struct Machine {
    int64_t count;    /* floats of each array */
    Tensor array[4];  /* (count) */
    Tensor a, b, out; /* operands of the largest product */
    int threads;
} Machine;

enum { GEMM_LARGEST = 1024 * 50304 };

static Status machine_open(Bench *bench, void **self)
{
    Machine *own = memory_new(1, sizeof *own);
    *self = own;
    own->count = bench_int(bench, "floats", 124 * 1000 * 1000) / (LINE_FLOATS * LINES) * (LINE_FLOATS * LINES);
    own->threads = bench->device.threads;
    for (int i = 0; i < 4; i++) {
        own->array[i] = tensor_new1(&bench->model, DTYPE_F32, own->count);
        fill(&bench->exec, own->array[i], 1.0f);
    }
    own->a = own->array[0];
    own->b = own->array[1];
    own->out = tensor_new1(&bench->model, DTYPE_F32, GEMM_LARGEST);
    fill(&bench->exec, own->out, 0.0f);
    return status_ok();
}

/* FLOP/s of x (rows, in) times weight (out, in) transposed. */
static double product_flops(Bench *bench, const Machine *own, int64_t rows, int64_t out, int64_t in)
{
    GemmArgs args = {
        .transpose_b = true,
        .m = rows,
        .n = out,
        .k = in,
        .alpha = 1,
        .a = own->a.data,
        .lda = in,
        .b = own->b.data,
        .ldb = in,
        .c = own->out.data,
        .ldc = out,
    };
    double best = 0;
    for (int run = 0; run < 4; run++) {
        double since = profile_seconds();
        device_run(&bench->device, OP_gemm, &args);
        double flops = 2.0 * (double)rows * (double)out * (double)in / (profile_seconds() - since);
        best = flops > best ? flops : best;
    }
    return best;
}

/* Bytes per second of reading one array. */
static double read_speed(const Machine *own)
{
    const Line *line = own->array[2].data;
    int64_t blocks = own->count / (LINE_FLOATS * LINES);
    volatile float sink = 0;
    double since = profile_seconds();
#pragma omp parallel num_threads(own->threads)
    {
        Line sum[LINES] = {0};
#pragma omp for schedule(static) nowait
        for (int64_t block = 0; block < blocks; block++)
            for (int i = 0; i < LINES; i++)
                sum[i] += line[block * LINES + i];
        for (int i = 1; i < LINES; i++)
            sum[0] += sum[i];
        if (sum[0][0] < 0)
            sink = sum[0][0];
    }
    (void)sink;
    return 4.0 * (double)own->count / (profile_seconds() - since);
}

/* Bytes per second of four reads and three writes. */
static double stream_speed(const Machine *own)
{
    float *restrict p = own->array[0].data, *restrict m = own->array[1].data, *restrict v = own->array[2].data;
    const float *restrict g = own->array[3].data;
    int64_t count = own->count;
    double since = profile_seconds();
#pragma omp parallel for schedule(static) num_threads(own->threads)
    for (int64_t i = 0; i < count; i++) {
        m[i] = 0.5f * (m[i] + g[i]);
        v[i] = 0.5f * (v[i] + g[i]);
        p[i] = 0.5f * (p[i] + m[i]);
    }
    return 28.0 * (double)count / (profile_seconds() - since);
}

static Status machine_once(Bench *bench, void *self, Figures *figures)
{
    static const int64_t products[][3] = {
        {1024, 3072, 768}, {1024, 768, 3072}, {1024, 50304, 768}, {2048, 2048, 2048}, {4096, 2304, 768}};
    const Machine *own = self;
    double since = profile_seconds(), flops = 0, read = 0, stream = 0;
    for (size_t i = 0; i < sizeof products / sizeof *products; i++) {
        double one = product_flops(bench, own, products[i][0], products[i][1], products[i][2]);
        flops = one > flops ? one : flops;
    }
    for (int run = 0; run < 5; run++) {
        double one = read_speed(own);
        read = one > read ? one : read;
        one = stream_speed(own);
        stream = one > stream ? one : stream;
    }
    figures_add(figures, "seconds", profile_seconds() - since);
    figures_add(figures, "gemm_flops", flops);
    figures_add(figures, "read_bytes", read);
    figures_add(figures, "stream_bytes", stream);
    return status_ok();
}

static void machine_close(Bench *bench, void *self)
{
    (void)bench;
    memory_release(self);
}

const Work work_machine = {
    .name = "machine",
    .help = "peak product, read bandwidth, stream of four reads and three writes: floats=124000000",
    .open = machine_open,
    .once = machine_once,
    .close = machine_close,
};
