/* t283 -- norms on CUDA, forward and backward, give what they give on the CPU: rows held by warps and by blocks, packed or not, in place too; and the
 * same bits twice. */
#include "core/base/memory.h"
#include "tests/support/twin.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
/* Every way in which a row is held: by a warp in up to 4 and up to 8 pieces, by a block; element by element and in packs of either type. */
static const int64_t widths[] = {1, 31, 33, 64, 193, 257, 520, 768, 1009, 1032, 2056};
enum { WIDTHS = sizeof widths / sizeof *widths };

typedef struct Arrays {
    TwinArray x, residual, sum, gain, bias, y, mean, rstd;
} Arrays;

static Arrays arrays_new(Twin *twin, int64_t rows, int64_t width, int64_t first)
{
    int64_t count = rows * width + first;
    Arrays a = {.x = twin_from(twin_normal(twin, count, 1, 1.0), first),
                .residual = twin_from(twin_normal(twin, count, 2, 2.0), first),
                .sum = twin_from(twin_empty(twin, count), first),
                .gain = twin_floats(twin, width, 3, 1.0),
                .bias = twin_floats(twin, width, 4, 1.0),
                .y = twin_from(twin_empty(twin, count), first),
                .mean = twin_floats_empty(twin, rows),
                .rstd = twin_floats_empty(twin, rows)};
    return a;
}

/* Of local names: kind, layer, added, rows, width. */
#define FORWARD(side, type)                                                                                            \
    ((NormForwardArgs){.kind = kind,                                                                                   \
                       .dtype = type,                                                                                  \
                       .x = a.x.side,                                                                                  \
                       .residual = added ? a.residual.side : NULL,                                                     \
                       .sum = added ? a.sum.side : NULL,                                                               \
                       .gain = a.gain.side,                                                                            \
                       .bias = layer ? a.bias.side : NULL,                                                             \
                       .y = a.y.side,                                                                                  \
                       .mean = layer ? a.mean.side : NULL,                                                             \
                       .rstd = a.rstd.side,                                                                            \
                       .rows = rows,                                                                                   \
                       .width = width,                                                                                 \
                       .epsilon = 1e-3f})

enum { ON_ITSELF, ON_X, ON_RESIDUAL, NO_RESIDUAL, PLACES };

static void check_forward(Twin *twin, NormKind kind, int64_t rows, int64_t width, int64_t first, int place)
{
    Arrays a = arrays_new(twin, rows, width, first);
    if (place == ON_X)
        a.sum = a.x;
    if (place == ON_RESIDUAL)
        a.sum = a.residual;
    bool layer = kind == NORM_LAYER, added = place != NO_RESIDUAL;
    twin_run(twin, OP_norm_forward, FORWARD);
    if (added) {
        twin_expect(twin, a.sum, "sum");
        /* What follows is made of the sum as it was stored: so is the twin's. */
        double *stored = twin_read(twin, a.sum);
        for (int64_t i = 0; i < rows * width; i++)
            ((float *)a.sum.cpu)[i] = (float)stored[i];
        memory_free(&stored);
        a.x = a.sum;
        added = false;
        device_run(&twin->cpu, OP_norm_forward, &FORWARD(cpu, DTYPE_F32));
    }
    twin_expect(twin, a.y, "y");
    twin_expect(twin, a.mean, "mean");
    twin_expect(twin, a.rstd, "rstd");
}

static void test_forward(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++)
        for (NormKind kind = NORM_RMS; kind <= NORM_LAYER; kind++) {
            Twin twin;
            twin_open(&twin, dtypes[d]);
            for (int k = 0; k < WIDTHS; k++)
                for (int place = 0; place < PLACES; place++)
                    check_forward(&twin, kind, place == ON_ITSELF ? 5 : 3, widths[k], 0, place);
            check_forward(&twin, kind, 1, 64, 1, ON_ITSELF); /* wide enough for packs, but not so placed */
            check_forward(&twin, kind, 3, 4112, 0, ON_X);
            check_forward(&twin, kind, 1009, 16, 0, ON_ITSELF); /* several rows to a block, the last block short */
            check_forward(&twin, kind, 514, 7, 0, NO_RESIDUAL);
            check_forward(&twin, kind, 0, 64, 0, ON_ITSELF);
            twin_close(&twin);
        }
}

enum { DX_NEW, DX_ON_DY, DX_ON_DSUM, DX_ALONE, DX_PLACES };
enum { GAIN = 1, BIAS = 2 }; /* which gradients are wanted */

/* Gradients of gain and bias begin with something; `again`: the same call once more, for its bits. */
static void check_backward(Twin *twin, NormKind kind, int64_t rows, int64_t width, int64_t first, int place, int wanted)
{
    Arrays a = arrays_new(twin, rows, width, first);
    bool layer = kind == NORM_LAYER, added = false;
    TwinArray dy = twin_from(twin_normal(twin, rows * width + first, 5, 1.0), first),
              dsum = twin_from(twin_normal(twin, rows * width + first, 6, 1.0), first),
              dx = place == DX_ON_DY     ? dy
                   : place == DX_ON_DSUM ? dsum
                                         : twin_from(twin_empty(twin, rows * width + first), first),
              dgain = twin_floats(twin, width, 7, 1.0), dbias = twin_floats(twin, width, 8, 1.0);
#define BACKWARD(side, type)                                                                                           \
    ((NormBackwardArgs){.kind = kind,                                                                                  \
                        .dtype = type,                                                                                 \
                        .dy = dy.side,                                                                                 \
                        .dsum = place == DX_ALONE ? NULL : dsum.side,                                                  \
                        .sum = a.x.side,                                                                               \
                        .mean = layer ? a.mean.side : NULL,                                                            \
                        .rstd = a.rstd.side,                                                                           \
                        .gain = a.gain.side,                                                                           \
                        .dx = dx.side,                                                                                 \
                        .dgain = wanted & GAIN ? dgain.side : NULL,                                                    \
                        .dbias = layer && wanted & BIAS ? dbias.side : NULL,                                           \
                        .rows = rows,                                                                                  \
                        .width = width})
    twin_run(twin, OP_norm_forward, FORWARD);
    twin_run(twin, OP_norm_backward, BACKWARD);
    if (!(layer && width == 1))
        twin_expect(twin, dx, "dx");
    twin_expect(twin, dgain, "dgain"); /* unchanged where it is not wanted */
    twin_expect(twin, dbias, "dbias");
    if (place == DX_NEW) {
        double *dx_first = twin_read(twin, dx), *dgain_first = twin_read(twin, dgain),
               *dbias_first = twin_read(twin, dbias);
        dgain = twin_floats(twin, width, 7, 1.0);
        dbias = twin_floats(twin, width, 8, 1.0);
        device_run(&twin->cuda, OP_norm_backward, &BACKWARD(cuda, twin->dtype));
        double *dx_again = twin_read(twin, dx), *dgain_again = twin_read(twin, dgain),
               *dbias_again = twin_read(twin, dbias);
        assert_memory_equal(dx_first, dx_again, sizeof(double) * (size_t)(rows * width));
        assert_memory_equal(dgain_first, dgain_again, sizeof(double) * (size_t)width);
        assert_memory_equal(dbias_first, dbias_again, sizeof(double) * (size_t)width);
        double *all[] = {dx_first, dgain_first, dbias_first, dx_again, dgain_again, dbias_again};
        for (int i = 0; i < 6; i++)
            memory_free(&all[i]);
    }
#undef BACKWARD
}

static void test_backward(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++)
        for (NormKind kind = NORM_RMS; kind <= NORM_LAYER; kind++) {
            Twin twin;
            twin_open(&twin, dtypes[d]);
            for (int k = 0; k < WIDTHS; k++)
                for (int place = 0; place < DX_PLACES; place++)
                    check_backward(&twin, kind, place == DX_NEW ? 33 : 3, widths[k], 0, place, GAIN | BIAS);
            for (int k = 0; k < TWIN_SIZES; k++)
                check_backward(&twin, kind, twin_sizes[k], 24, 0, DX_NEW, GAIN | BIAS);
            for (int wanted = 0; wanted < 4; wanted++)
                check_backward(&twin, kind, 19, 40, 0, DX_ON_DSUM, wanted);
            check_backward(&twin, kind, 18, 64, 1, DX_NEW, GAIN | BIAS); /* wide enough for packs, but not so placed */
            check_backward(&twin, kind, 17, 4112, 0, DX_ON_DY, GAIN | BIAS);
            check_backward(&twin, kind, 8200, 8, 0, DX_NEW, GAIN | BIAS); /* more rows than blocks of the least size */
            check_backward(&twin, kind, 0, 64, 0, DX_NEW, GAIN | BIAS);
            twin_close(&twin);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward), cmocka_unit_test(test_backward)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
