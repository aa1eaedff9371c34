/* t273 -- the emulation counts sectors of device memory and passes over the banks of shared memory as they are by arithmetic. */
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/mma.h"

using namespace cuda_on_cpu;

enum { LANES = 64, COUNT = LANES * 64 };

/* --- Kernels: each lane of two warps reads one element, `stride` apart, and writes one, neighbours together --- */

template <class T> __global__ void strided(T *out, const T *in, int stride)
{
    const int lane = (int)threadIdx.x;
    store_one(out + lane, load_one(in + lane * stride));
}
__global__ void packed(float *out, const float *in)
{
    store_pack(out + 4 * threadIdx.x, load_pack(in + 4 * threadIdx.x));
}
/* Half of the lanes, and one more turn for the first warp. */
__global__ void uneven(float *out, const float *in)
{
    for (int turn = 0; turn < (threadIdx.x < 32 ? 3 : 2); turn++)
        if (threadIdx.x % 2 == 0)
            store_one(out + threadIdx.x, load_one(in + threadIdx.x + turn * LANES));
}
template <class T> __global__ void banks(int stride)
{
    SHARED(T, tile, [COUNT / sizeof(T)]);
    T *at = tile + (int)threadIdx.x % 32 * stride;
    COUNT_SHARED(at, (int)sizeof(T), true);
    *at = T();
}
/* Eight rows of 16 bytes are a pass where they fall on different banks: rows 16 elements wide do not. */
template <int ld> __global__ void matrices(void)
{
    SHARED(bf16, tile, [32][ld]);
    for (int i = 0; i < 8; i++)
        tile[threadIdx.x][i] = narrow<bf16>(0.0f);
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, tile[threadIdx.x]);
}
__global__ void copied(float *out, const float *in)
{
    SHARED(float, tile, [32][4]);
    cp_async_16(tile[threadIdx.x], in + 4 * threadIdx.x, threadIdx.x < 16);
    cp_async_commit();
    cp_async_wait<0>();
    store_one(out + threadIdx.x, tile[threadIdx.x][0]);
}

/* --- Expectations --- */

static int failed;

static void expect(const char *what, uint64_t got, uint64_t wanted)
{
    if (got == wanted)
        return;
    printf("FAILED %s: %llu, expected %llu\n", what, (unsigned long long)got, (unsigned long long)wanted);
    failed++;
}

static void expect_global(const char *kernel, GlobalTraffic got, uint64_t requests, uint64_t sectors, uint64_t needed)
{
    expect(kernel, got.requests, requests);
    expect(kernel, got.sectors, sectors);
    expect(kernel, got.sectors_needed, needed);
}

static void expect_shared(const char *kernel, SharedTraffic got, uint64_t requests, uint64_t passes, uint64_t needed)
{
    expect(kernel, got.requests, requests);
    expect(kernel, got.passes, passes);
    expect(kernel, got.passes_needed, needed);
}

template <class T> static T *device_array(void)
{
    void *at;
    if (cudaMalloc(&at, COUNT * sizeof(T)) != cudaSuccess)
        abort();
    return (T *)at;
}

/* A kernel's counts since the last time. */
#define COUNTED(kernel, threads, ...)                                                                                  \
    (                                                                                                                  \
        traffic_clear(), [&] { LAUNCH(kernel, 1, threads, 0, 0, ##__VA_ARGS__); }(), cudaDeviceSynchronize(),          \
        traffic_of(#kernel))

static void test_global(void)
{
    float *out = device_array<float>(), *in = device_array<float>();
    bf16 *out_half = device_array<bf16>(), *in_half = device_array<bf16>();
    Traffic got = COUNTED((strided<float>), LANES, out, (const float *)in, 1);
    expect_global("neighbours", got.load, 2, 8, 8);
    expect_global("neighbours", got.store, 2, 8, 8);
    expect("bytes", got.load.bytes, LANES * 4);
    got = COUNTED((strided<float>), LANES, out, (const float *)in, 2);
    expect_global("every second", got.load, 2, 16, 8);
    got = COUNTED((strided<float>), LANES, out, (const float *)in, 64);
    expect_global("columns", got.load, 2, 64, 8);
    got = COUNTED((strided<float>), LANES, out, (const float *)in, 0);
    expect_global("all the same", got.load, 2, 2, 2);
    got = COUNTED((strided<float>), LANES, out, (const float *)(in + 1), 1);
    expect_global("off by one", got.load, 2, 10, 8);
    got = COUNTED((strided<bf16>), LANES, out_half, (const bf16 *)in_half, 1);
    expect_global("halves", got.load, 2, 4, 4);
    got = COUNTED(packed, LANES, out, (const float *)in);
    expect_global("packs", got.load, 2, 32, 32);
    expect_global("packs", got.store, 2, 32, 32);
    got = COUNTED(uneven, LANES, out, (const float *)in);
    expect_global("every second lane, five turns", got.load, 5, 20, 10);
    got = COUNTED(copied, 32, out, (const float *)in);
    expect_global("copies, half of them of zeros", got.load, 1, 8, 8);
    expect_shared("copies", got.shared_store, 1, 4, 4);
}

static void test_shared(void)
{
    expect_shared("neighbours", COUNTED((banks<float>), LANES, 1).shared_store, 2, 2, 2);
    expect_shared("one word", COUNTED((banks<float>), LANES, 0).shared_store, 2, 2, 2);
    expect_shared("every second", COUNTED((banks<float>), LANES, 2).shared_store, 2, 4, 2);
    expect_shared("one bank", COUNTED((banks<float>), LANES, 32).shared_store, 2, 64, 2);
    expect_shared("one bank, and a pad", COUNTED((banks<float>), LANES, 33).shared_store, 2, 2, 2);
    expect_shared("pairs", COUNTED((banks<float2>), LANES, 1).shared_store, 2, 4, 4);
    expect_shared("fours", COUNTED((banks<float4>), LANES, 1).shared_store, 2, 8, 8);
    expect_shared("fours, two apart", COUNTED((banks<float4>), LANES, 2).shared_store, 2, 16, 8);
    expect_shared("two halves in a word", COUNTED((banks<bf16>), LANES, 1).shared_store, 2, 2, 2);
    expect_shared("padded rows", COUNTED((matrices<24>), 32).shared_load, 1, 4, 4);
    expect_shared("rows on the same banks", COUNTED((matrices<64>), 32).shared_load, 1, 32, 4);
}

int main(void)
{
    float *out = device_array<float>(), *in = device_array<float>();
    expect_global("off", COUNTED(packed, LANES, out, (const float *)in).load, 0, 0, 0);
    traffic_count(true);
    test_global();
    test_shared();
    printf("%d failed\n", failed);
    return failed != 0;
}
