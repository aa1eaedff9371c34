/* tensor_core.cc -- mma.sync and ldmatrix, as the PTX ISA lays their fragments out over the lanes of a warp. */
#include "tests/cuda_on_cpu/tensor_core.h"

#include "tests/cuda_on_cpu/traffic.h"

namespace cuda_on_cpu
{

enum { M = 16, N = 8, K = 16 };

struct Mma {
    float *d;
    const uint32_t *a, *b;
    const float *c;
    Place place;
};

static void check_line(Place first, Place other, int lane, const char *instruction)
{
    if (first.line != other.line)
        defect("%s: lane 0 is at line %d, lane %d at line %d", instruction, first.line, lane, other.line);
}

static float low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
static float high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

static void mma_apply(void *payload[WARP_LANES], unsigned)
{
    float a[M][K], b[K][N], c[M][N];
    for (int lane = 0; lane < WARP_LANES; lane++) {
        const Mma *mma = (const Mma *)payload[lane];
        check_line(((const Mma *)payload[0])->place, mma->place, lane, "mma");
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
            a[row][column] = low(mma->a[i]);
            a[row][column + 1] = high(mma->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[2 * t + 8 * i][g] = low(mma->b[i]);
            b[2 * t + 8 * i + 1][g] = high(mma->b[i]);
        }
        for (int i = 0; i < 4; i++)
            c[g + i / 2 * 8][2 * t + i % 2] = mma->c[i];
    }
    typedef float Row __attribute__((vector_size(N * sizeof(float)), aligned(4)));
    for (int m = 0; m < M; m++) {
        Row sum = *(const Row *)c[m];
        for (int k = 0; k < K; k++)
            sum += a[m][k] * *(const Row *)b[k];
        *(Row *)c[m] = sum;
    }
    for (int lane = 0; lane < WARP_LANES; lane++) {
        const Mma *mma = (const Mma *)payload[lane];
        for (int i = 0; i < 4; i++)
            mma->d[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    }
}

void mma_m16n8k16_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], const char *file_,
                       int line_)
{
    Mma mma = {d, a, b, c, {file_, line_}};
    warp_meet(mma.place, 0xffffffffu, mma_apply, &mma);
}

/* --- ldmatrix --- */

struct Ldmatrix {
    uint32_t *r;
    const char *row;
    int count;
    bool transposed;
    Place place;
};

static void ldmatrix_apply(void *payload[WARP_LANES], unsigned)
{
    const Ldmatrix *first = (const Ldmatrix *)payload[0];
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < WARP_LANES; lane++) {
        const Ldmatrix *load = (const Ldmatrix *)payload[lane];
        check_line(first->place, load->place, lane, "ldmatrix");
        if (lane >= first->count * 8)
            continue;
        if (!shared_holds(load->row, 16))
            defect("ldmatrix: line %d: lane %d's address %p is not in the block's shared memory", load->place.line,
                   lane, (const void *)load->row);
        if ((uintptr_t)load->row % 16)
            defect("ldmatrix: line %d: lane %d's address is not a multiple of 16", load->place.line, lane);
        async_copies_seen_by_warp(load->row, load->place);
        memcpy(matrix[lane / 8][lane % 8], load->row, 16);
    }
    for (int lane = 0; lane < WARP_LANES; lane++) {
        const Ldmatrix *load = (const Ldmatrix *)payload[lane];
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < first->count; j++) {
            uint32_t even = first->transposed ? matrix[j][2 * t][g] : matrix[j][g][2 * t];
            uint32_t odd = first->transposed ? matrix[j][2 * t + 1][g] : matrix[j][g][2 * t + 1];
            load->r[j] = even | odd << 16;
        }
    }
}

void ldmatrix(uint32_t *r, int count, bool transposed, const void *shared, Place place)
{
    Ldmatrix load = {r, (const char *)shared, count, transposed, place};
    if (lane_id() < count * 8)
        count_shared_at(shared, 16, false, place);
    warp_meet(place, 0xffffffffu, ldmatrix_apply, &load);
}

} // namespace cuda_on_cpu
