/* t274 -- cuRAND's own device code, run by the emulation, draws the words that core/base/rng draws, bit for bit. */
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/device.h"

#include <curand_kernel.h>

extern "C" {
#include "core/base/rng.h"
}

struct Place4 {
    uint64_t seed, subsequence, block;
};

static const Place4 places[] = {
    {0, 0, 0},
    {1, 0, 0},
    {42, 0, 1},
    {42, 1, 0},
    {42, (uint64_t)RNG_ROLLOUT << 56 | (uint64_t)1234 << 32 | 99999, 511},
    {0x123456789abcdef0u, (uint64_t)RNG_TEST << 56 | 0xffffffffffffffu, 0xffffffffu},
    {UINT64_MAX, UINT64_MAX, (uint64_t)1 << 32},
    {7, (uint64_t)1 << 32, ((uint64_t)1 << 40) + 12345},
    {7, 3, ((uint64_t)1 << 62) - 1},
};
enum { COUNT = sizeof places / sizeof *places, RUN = 3 };

/* RUN blocks of four words from each place on. */
__global__ void draw(uint4 *words, const Place4 *place, int count)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= count)
        return;
    curandStatePhilox4_32_10_t state;
    curand_init(place[i].seed, place[i].subsequence, 4 * place[i].block, &state);
    for (int run = 0; run < RUN; run++)
        words[i * RUN + run] = curand4(&state);
}

int main(void)
{
    void *words, *device_places;
    uint4 drawn[COUNT * RUN];
    if (cudaMalloc(&words, sizeof drawn) != cudaSuccess || cudaMalloc(&device_places, sizeof places) != cudaSuccess)
        return 1;
    cudaMemcpy(device_places, places, sizeof places, cudaMemcpyHostToDevice);
    LAUNCH(draw, 2, 32, 0, 0, (uint4 *)words, (const Place4 *)device_places, (int)COUNT);
    cudaMemcpy(drawn, words, sizeof drawn, cudaMemcpyDeviceToHost);
    int failed = 0;
    for (int i = 0; i < COUNT; i++)
        for (int run = 0; run < RUN; run++) {
            uint32_t own[4];
            rng_philox(places[i].seed, places[i].subsequence, places[i].block + (uint64_t)run, own);
            const uint4 &theirs = drawn[i * RUN + run];
            bool same = own[0] == theirs.x && own[1] == theirs.y && own[2] == theirs.z && own[3] == theirs.w;
            rng_philox(places[i].seed, places[i].subsequence, places[i].block + (uint64_t)run + 1, own);
            if (same && own[0] != theirs.x) /* and the next block is another */
                continue;
            printf(
                "FAILED seed %llx subsequence %llx block %llx + %d: %08x %08x %08x %08x, cuRAND %08x %08x %08x %08x\n",
                (unsigned long long)places[i].seed, (unsigned long long)places[i].subsequence,
                (unsigned long long)places[i].block, run, own[0], own[1], own[2], own[3], theirs.x, theirs.y, theirs.z,
                theirs.w);
            failed++;
        }
    printf("%d drawn, %d failed\n", COUNT * RUN, failed);
    return failed != 0;
}
