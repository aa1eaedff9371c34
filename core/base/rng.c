/* rng.c -- Philox4x32-10 and the few distributions made of it. */
#include "core/base/rng.h"

#include <math.h>

#include "core/base/status.h"

void rng_philox(uint64_t seed, uint64_t subsequence, uint64_t block, uint32_t words[4])
{
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32);
    uint32_t c2 = (uint32_t)subsequence, c3 = (uint32_t)(subsequence >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0;
    words[1] = c1;
    words[2] = c2;
    words[3] = c3;
}

RngStream rng_stream(uint64_t seed, RngPurpose purpose, uint64_t step, uint64_t sample)
{
    REQUIRE(step < (1u << 24) && sample <= UINT32_MAX, "step %llu or sample %llu out of range",
            (unsigned long long)step, (unsigned long long)sample);
    return (RngStream){seed, (uint64_t)purpose << 56 | step << 32 | sample};
}

double rng_uniform(RngStream stream, uint64_t position)
{
    uint32_t words[4];
    rng_philox(stream.seed, stream.subsequence, position, words);
    return (words[0] + 0.5) * (1.0 / 4294967296.0);
}

uint64_t rng_below(RngStream stream, uint64_t position, uint64_t bound)
{
    REQUIRE(bound >= 1, "empty range");
    uint32_t words[4];
    rng_philox(stream.seed, stream.subsequence, position, words);
    uint64_t word = (uint64_t)words[0] << 32 | words[1];
    return (uint64_t)((unsigned __int128)word * bound >> 64);
}

void rng_normal4(RngStream stream, uint64_t position, double normal[4])
{
    uint32_t words[4];
    rng_philox(stream.seed, stream.subsequence, position, words);
    for (int pair = 0; pair < 2; pair++) {
        double u = (words[2 * pair] + 0.5) * (1.0 / 4294967296.0);
        double v = (words[2 * pair + 1] + 0.5) * (1.0 / 4294967296.0);
        double radius = sqrt(-2.0 * log(u));
        normal[2 * pair] = radius * cos(6.283185307179586 * v);
        normal[2 * pair + 1] = radius * sin(6.283185307179586 * v);
    }
}

/* Four rounds, or halves of less than four bits, show in small sets: some places come up a fifth too often (t011). */
enum { FEISTEL_ROUNDS = 8, MIN_HALF_BITS = 4 };

uint64_t rng_permute(RngStream stream, uint64_t count, uint64_t index)
{
    REQUIRE(index < count, "index %llu of %llu", (unsigned long long)index, (unsigned long long)count);
    int half_bits = MIN_HALF_BITS;
    while (half_bits < 32 && ((uint64_t)1 << (2 * half_bits)) < count)
        half_bits++;
    const uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    do { /* the network permutes [0, 4^half_bits); walk its cycle until back inside: 4 turns, or 256 / count */
        uint64_t left = index >> half_bits, right = index & mask;
        for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
            uint32_t words[4];
            rng_philox(stream.seed, stream.subsequence, right << 3 | round, words);
            uint64_t next = left ^ (words[0] & mask);
            left = right;
            right = next;
        }
        index = left << half_bits | right;
    } while (index >= count);
    return index;
}
