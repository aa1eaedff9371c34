/* rng.h -- randomness as a function: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
 *
 * Why:   no generator state means nothing to save, nothing to lose, and the same bits for any number of ranks, any
 *        batching, and on a GPU, where cuRAND's Philox takes the same (seed, subsequence, offset).
 * Rule:  key = seed; subsequence = purpose:8 | step:24 | sample:32; offset = 4 * position. `step` is the training step
 *        or PPO iteration, `sample` a global id, `position` a token's index or an element's. */
#ifndef CORE_BASE_RNG_H
#define CORE_BASE_RNG_H

#include <stdint.h>

/* What a number is for. Values are part of the format of an experiment: never reuse one. */
typedef enum RngPurpose {
    RNG_INIT = 1,      /* parameter initialisation; sample = parameter index, position = element / 4 */
    RNG_SHUFFLE = 2,   /* order of a data set; step = epoch */
    RNG_ROLLOUT = 3,   /* PPO sampling; step = iteration, sample = global sample id, position = token */
    RNG_GENERATE = 4,  /* generation for people */
    RNG_UPDATE = 5,    /* order of PPO units; step = iteration, sample = epoch */
    RNG_DEMO = 6,      /* demo data */
    RNG_PAIRS = 7,     /* pairs drawn from rated texts; step = epoch */
    RNG_BOOTSTRAP = 8, /* confidence intervals */
    RNG_MIX = 9,       /* which file of a weighted mix */
    RNG_TEST = 255,
} RngPurpose;

/* The raw block function: 4 words for (seed, subsequence, block). Equal to cuRAND's curand4() at offset 4 * block. */
void rng_philox(uint64_t seed, uint64_t subsequence, uint64_t block, uint32_t words[4]);

typedef struct RngStream {
    uint64_t seed, subsequence;
} RngStream;

/* step < 2^24 and sample < 2^32, checked. */
RngStream rng_stream(uint64_t seed, RngPurpose purpose, uint64_t step, uint64_t sample);
/* Uniform in (0, 1): (word + 0.5) / 2^32 in double, first word of the block. */
double rng_uniform(RngStream stream, uint64_t position);
/* Uniform integer in [0, bound), bound >= 1, without modulo bias (64-bit multiply of a 64-bit word pair). */
uint64_t rng_below(RngStream stream, uint64_t position, uint64_t bound);
/* Four standard normals (Box-Muller in double). */
void rng_normal4(RngStream stream, uint64_t position, double normal[4]);
/* The image of `index` under a permutation of [0, count): an 8-round Feistel network with cycle walking, so an epoch's
 * order needs no memory however large the data set. count >= 1. */
uint64_t rng_permute(RngStream stream, uint64_t count, uint64_t index);

#endif
