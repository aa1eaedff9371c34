/* t272 -- the emulation's tensor core multiplies what a plain loop multiplies, with the fragments that the PTX ISA documents; copies land at their wait;
 * a wrong layout, address or wait is found. */
#include <cmath>
#include <vector>

#include "kernels/cuda/mma.h"
#include "tests/cuda_on_cpu/planted.h"

enum { M = 16, N = 8, K = 16, LD = K + 8 /* rows begin on different banks */ };

/* --- Kernels: one warp, one product of C (16, 8) = A (16, 16) B (16, 8) + C --- */

enum Wrong {
    RIGHT,
    SWAPPED_A,
    SWAPPED_B,
    SWAPPED_C,
    UNTRANSPOSED,
    UNALIGNED,
    OUTSIDE,
    NO_WAIT,
    NO_COMMIT,
    WAIT_TOO_FEW,
    NO_SYNCWARP,
    HALF_SYNCWARP,
    SYNCWARP_TOO_EARLY,
    SHUFFLE_FOR_SYNCWARP,
    HALF_WARP
};

/* Fragments read one element at a time, as the layout says; B is stored by columns (n, k). */
template <int wrong> __global__ void product_by_hand(float *c, const bf16 *a, const bf16 *b)
{
    const int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    union {
        bf16 at[8];
        uint32_t pair[4];
    } fa;
    union {
        bf16 at[4];
        uint32_t pair[2];
    } fb;
    float sum[4];
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++)
            fa.at[2 * i + half] = a[(g + i % 2 * 8) * K + 2 * t + i / 2 * 8 + half];
    for (int i = 0; i < 2; i++)
        for (int half = 0; half < 2; half++)
            fb.at[2 * i + half] = b[g * K + 2 * t + i * 8 + half];
    for (int i = 0; i < 4; i++)
        sum[i] = c[(g + i / 2 * 8) * N + 2 * t + i % 2];
    if (wrong == SWAPPED_A)
        std::swap(fa.pair[1], fa.pair[2]);
    if (wrong == SWAPPED_B)
        std::swap(fb.at[0], fb.at[1]);
    if (wrong == SWAPPED_C)
        std::swap(sum[1], sum[2]);
    if (wrong != HALF_WARP || threadIdx.x < 16)
        mma_m16n8k16_bf16(sum, fa.pair, fb.pair, sum);
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * N + 2 * t + i % 2] = sum[i];
}

/* The same by cp.async and ldmatrix; B is stored by rows (k, n) in shared memory and transposed on the way. */
template <int wrong> __global__ void product_by_ldmatrix(float *c, const bf16 *a, const bf16 *b)
{
    SHARED(bf16, shared_a, [M][LD]);
    SHARED(bf16, shared_b, [K][N]);
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    cp_async_16(&shared_a[lane / 2][lane % 2 * 8], a + lane / 2 * K + lane % 2 * 8, true);
    cp_async_commit();
    cp_async_16(&shared_b[lane % K][0], b + lane % K * N, true);
    if (wrong != NO_COMMIT)
        cp_async_commit();
    if (wrong == SYNCWARP_TOO_EARLY)
        __syncwarp();
    if (wrong == WAIT_TOO_FEW)
        cp_async_wait<1>();
    else if (wrong != NO_WAIT)
        cp_async_wait<0>();
    if (wrong == HALF_SYNCWARP)
        __syncwarp(lane < 16 ? 0x0000ffffu : 0xffff0000u);
    else if (wrong == SHUFFLE_FOR_SYNCWARP)
        __shfl_sync(FULL_WARP, lane, 0);
    else if (wrong != NO_SYNCWARP && wrong != SYNCWARP_TOO_EARLY)
        __syncwarp();
    uint32_t fa[4], fb[2];
    /* Matrices of A: rows 0 and 8 of columns 0, then of columns 8. */
    const bf16 *row = &shared_a[lane % 16][lane / 16 * 8];
    ldmatrix_x4(fa, wrong == UNALIGNED ? row + 1 : wrong == OUTSIDE ? a : row);
    if (wrong == UNTRANSPOSED)
        ldmatrix_x2(fb, &shared_b[lane % 16][0]);
    else
        ldmatrix_x2_trans(fb, &shared_b[lane % 16][0]);
    float sum[4];
    for (int i = 0; i < 4; i++)
        sum[i] = c[(g + i / 2 * 8) * N + 2 * t + i % 2];
    mma_m16n8k16_bf16(sum, fa, fb, sum);
    for (int i = 0; i < 4; i++)
        c[(g + i / 2 * 8) * N + 2 * t + i % 2] = sum[i];
    if (wrong == NO_WAIT || wrong == WAIT_TOO_FEW)
        cp_async_wait<0>();
}

/* Each warp reads the 8 rows of 8 that another one copied. */
template <bool of_block> __global__ void rows_of_another(uint32_t *out, const bf16 *in)
{
    SHARED(bf16, shared, [2][8][8]);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    if (lane < 8)
        cp_async_16(shared[warp][lane], in + ((int64_t)warp * 8 + lane) * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    if (of_block)
        __syncthreads();
    else
        __syncwarp();
    uint32_t r[2];
    ldmatrix_x2(r, shared[1 - warp][lane % 8]);
    out[threadIdx.x] = r[0];
    __syncthreads();
}

/* Rows behind the end are zeros and are not read. */
template <bool committed> __global__ void copy_some(bf16 *out, const bf16 *in, int rows)
{
    SHARED(bf16, shared, [32][8]);
    const int row = (int)threadIdx.x;
    cp_async_16(shared[row], in + (int64_t)row * 8, row < rows);
    if (committed)
        cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    store_pack(out + row * 8, *(const Pack<bf16> *)shared[row]);
}

/* --- What is right --- */

static float value_at(int i, int salt)
{
    return (float)((i * 7 + salt) % 13 - 6) * 0.125f;
}

template <class T> static T *device_values(const std::vector<float> &values)
{
    std::vector<T> host(values.begin(), values.end());
    void *at;
    if (cudaMalloc(&at, host.size() * sizeof(T)) != cudaSuccess)
        abort();
    cudaMemcpy(at, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
    return (T *)at;
}

static bool product(void (*kernel)(float *, const bf16 *, const bf16 *), bool b_by_columns)
{
    std::vector<float> a(M * K), b(K * N), c(M * N), wanted(M * N);
    for (int i = 0; i < M * K; i++)
        a[(size_t)i] = value_at(i, 1);
    for (int i = 0; i < K * N; i++)
        b[(size_t)i] = value_at(i, 5);
    for (int i = 0; i < M * N; i++)
        c[(size_t)i] = value_at(i, 2);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float sum = c[(size_t)(m * N + n)];
            for (int k = 0; k < K; k++)
                sum += a[(size_t)(m * K + k)] * b[(size_t)(b_by_columns ? n * K + k : k * N + n)];
            wanted[(size_t)(m * N + n)] = sum;
        }
    float *dc = device_values<float>(c);
    const bf16 *da = device_values<bf16>(a), *db = device_values<bf16>(b);
    LAUNCH(kernel, 1, 32, 0, 0, dc, da, db);
    cudaMemcpy(c.data(), dc, c.size() * sizeof(float), cudaMemcpyDeviceToHost);
    return c == wanted;
}
template <int wrong> static bool by_hand(void)
{
    return product(product_by_hand<wrong>, true);
}
template <int wrong> static bool by_ldmatrix(void)
{
    return product(product_by_ldmatrix<wrong>, false);
}

template <bool of_block> static bool exchanged(void)
{
    std::vector<float> values(2 * 8 * 8);
    for (size_t i = 0; i < values.size(); i++)
        values[i] = value_at((int)i, 3);
    bf16 *in = device_values<bf16>(values), *out = device_values<bf16>(values), host[2 * 8 * 8];
    LAUNCH(rows_of_another<of_block>, 1, 2 * WARP, 0, 0, (uint32_t *)out, (const bf16 *)in);
    cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 2 * 8 * 8; i++)
        if (!((float)host[i] == value_at((i + 64) % 128, 3)))
            return false;
    return true;
}

template <bool committed = true> static bool copies(int rows, int rows_there)
{
    std::vector<float> values((size_t)rows_there * 8);
    for (size_t i = 0; i < values.size(); i++)
        values[i] = value_at((int)i, 3);
    bf16 *in = device_values<bf16>(values), *out = device_values<bf16>(std::vector<float>(32 * 8)), host[32 * 8];
    LAUNCH(copy_some<committed>, 1, 32, 0, 0, out, (const bf16 *)in, rows);
    cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 32 * 8; i++)
        if (!((float)host[i] == (i < rows * 8 ? value_at(i, 3) : 0.0f)))
            return false;
    return true;
}
static bool zero_filled(void)
{
    return copies(16, 16); /* 256 bytes: a whole allocation */
}
static bool never_committed(void)
{
    return copies<false>(16, 16);
}
static bool read_behind(void)
{
    return copies(17, 16);
}

static const Case cases[] = {
    {"a product of fragments", by_hand<RIGHT>, NULL},
    {"a product through ldmatrix and cp.async", by_ldmatrix<RIGHT>, NULL},
    {"a copy of zeros that reads nothing", zero_filled, NULL},
    {"swapped registers of A", by_hand<SWAPPED_A>, ""},
    {"swapped elements of B", by_hand<SWAPPED_B>, ""},
    {"swapped elements of C", by_hand<SWAPPED_C>, ""},
    {"half a warp at an mma", by_hand<HALF_WARP>, "wrong mask"},
    {"a transposition left out", by_ldmatrix<UNTRANSPOSED>, ""},
    {"an ldmatrix off 16 bytes", by_ldmatrix<UNALIGNED>, "not a multiple of 16"},
    {"an ldmatrix of device memory", by_ldmatrix<OUTSIDE>, "not in the block's shared memory"},
    {"rows copied by another warp, after a barrier", exchanged<true>, NULL},
    {"a missing wait", by_ldmatrix<NO_WAIT>, "has not waited for"},
    {"a wait for too few groups", by_ldmatrix<WAIT_TOO_FEW>, "has not waited for"},
    {"no __syncwarp between wait and ldmatrix", by_ldmatrix<NO_SYNCWARP>, "no __syncwarp behind its wait"},
    {"a __syncwarp of half warps there", by_ldmatrix<HALF_SYNCWARP>, "no __syncwarp behind its wait"},
    {"a __syncwarp before the wait", by_ldmatrix<SYNCWARP_TOO_EARLY>, "no __syncwarp behind its wait"},
    {"a shuffle in its place", by_ldmatrix<SHUFFLE_FOR_SYNCWARP>, "no __syncwarp behind its wait"},
    {"a __syncwarp where warps exchange rows", exchanged<false>, "of another warp"},
    {"a missing commit", by_ldmatrix<NO_COMMIT>, "has not waited for"},
    {"a copy that is never committed", never_committed, "without waiting for the copy"},
    {"a copy that is valid behind the end", read_behind, "outside every allocation"},
};

int main(void)
{
    return planted_run(cases, sizeof cases / sizeof *cases);
}
