/* sample.cu -- the next token of each row of logits, the same that the CPU draws.
 *
 * Exactness: a weight, exp((logit - largest) / temperature), is made by the CPU's own polynomial (kernels/cpu/vec.h), fused where its compiler
 *        fuses, so both hold the same floats. Sums of weights are whole numbers, in units of 2^-46 or so: they have no rounding and no order, so any
 *        number of blocks may add them by atomics, and the comparisons of the inverse transform are exact. What is lost below the unit shifts a
 *        boundary between two tokens by less than 1e-11 of the total.
 * How:   a row is cut into segments, a block each, so that one row of a large vocabulary keeps many processors busy: the largest logit, then
 *        the sums, then one block per row draws, opening the one segment that is hit. top-k and top-p search the smallest key that is
 *        kept by DIGITS passes over four bits of it each: a pass adds up counts and weights by digit, the next descends. Nothing is sorted.
 * Ties:  of equal logits the lower id comes first. top-k acts before top-p, which then keeps the smallest set whose share of what top-k left
 *        reaches top_p.
 * Graphs: seed and kinds are arguments; what changes from step to step, position and subsequence, is read from device memory. */
#include "kernels/cuda/cuda.h"

#include <curand_kernel.h>

enum {
    THREADS = 256,
    WARPS = THREADS / WARP,
    EACH = 16,                /* columns of a thread */
    SEGMENT = THREADS * EACH, /* columns of a block */
    SEGMENTS_MAX = THREADS,
    SEARCH_THREADS = 128,
    DIGIT_BITS = 4,
    DIGITS = 32 / DIGIT_BITS, /* passes of one search */
    BINS = 1 << DIGIT_BITS,
    COLUMNS = 4, /* taken together, by one access of 16 bytes */
};

typedef unsigned long long Sum; /* of weights, in units of 1 / Sampling.unit */

/* A row whose logits are not all finite. */
static const Sum NOT_FINITE = ~0ull;

typedef struct alignas(16) Bin {
    Sum count, weight;
} Bin;

/* The keys that may be the last to be kept share the decided bits of `key`; greater keys are all kept. */
typedef struct Search {
    Sum goal;          /* how many, or how much weight, shall be kept at least */
    Sum count, weight; /* of greater keys */
    Sum ties;          /* keys in the open range; once all bits are decided, keys equal to `key` */
    unsigned key;
} Search;

typedef struct Sampling {
    SampleArgs args;
    unsigned segments;
    float inverse, unit;
    int searches; /* 0, 1 or 2: by count, by weight, or both in this order */
    bool first_counts;
    Sum *best;      /* (rows, segments) key and id of the largest logit, in one number; or NOT_FINITE */
    Sum *row_best;  /* (rows) */
    Sum *total;     /* (rows, segments) */
    Sum *row_total; /* (rows) */
    Bin *bin;       /* (rows, searches * DIGITS, BINS) */
    Search *search; /* (rows, searches * DIGITS) before each pass */
} Sampling;

/* --- Keys and weights --- */

/* Whole numbers in the order of the floats; -0 is 0. */
__device__ static inline unsigned key_of(float logit)
{
    unsigned bits = __float_as_uint(logit + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ static inline float logit_of(unsigned key)
{
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}
__device__ static inline unsigned best_key(Sum best)
{
    return (unsigned)(best >> 32);
}
__device__ static inline int best_id(Sum best)
{
    return (int)(0xffffffffu - (unsigned)best);
}
__device__ static inline bool is_finite(float x)
{
    return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u;
}

/* vec_exp of kernels/cpu/vec.h for x <= 0. */
__device__ static inline float weight_exp(float x)
{
    const float magic = 12582912.0f + 127.0f;
    const float clamped = fmaxf(-88.0f, x), shifted = fmaf(clamped, 1.44269504f, magic), n = shifted - magic;
    const float r = fmaf(-n, 1.42860677e-6f, fmaf(-n, 0.693145752f, clamped));
    float p = 1.392625083e-03f;
    p = fmaf(p, r, 8.363232884e-03f);
    p = fmaf(p, r, 4.166655421e-02f);
    p = fmaf(p, r, 1.666657667e-01f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r * r, r) + 1.0f;
    return p * __uint_as_float(__float_as_uint(shifted) << 23);
}

__device__ static inline Sum weight_of(float logit, float largest, const Sampling *s)
{
    return (Sum)llrintf(weight_exp((logit - largest) * s->inverse) * s->unit);
}

/* --- Walking --- */

/* each(id, logit) for up to COLUMNS ids from j on. */
template <bool PACKS, class Each>
__device__ static inline void columns_each(const float *row, int64_t j, int64_t vocab, Each each)
{
    if (PACKS && j < vocab) {
        const Pack<float> pack = load_pack(row + j);
#pragma unroll
        for (int k = 0; k < COLUMNS; k++)
            if (j + k < vocab)
                each(j + k, pack.at[k]);
    } else {
#pragma unroll
        for (int k = 0; k < COLUMNS; k++)
            if (j + k < vocab)
                each(j + k, load_one(row + j + k));
    }
}

/* The ids of a segment that fall to this thread, in no order that matters. */
template <bool PACKS, class Each>
__device__ static inline void segment_each(const Sampling *s, int64_t row, int64_t segment, Each each)
{
    const float *logits = s->args.logits + row * s->args.ld;
    for (int64_t j = segment * SEGMENT + COLUMNS * threadIdx.x; j < (segment + 1) * SEGMENT; j += COLUMNS * blockDim.x)
        columns_each<PACKS>(logits, j, s->args.vocab, each);
}

__device__ static inline Sum warp_add(Sum value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(FULL_WARP, value, distance);
    return value;
}

/* Of a block of THREADS; every thread gets the result. `part` is [WARPS], free again after the call. */
__device__ static inline Sum block_largest(Sum value, Sum *part)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Sum other = __shfl_xor_sync(FULL_WARP, value, distance);
        value = other > value ? other : value;
    }
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int warp = 0; warp < WARPS; warp++)
        value = part[warp] > value ? part[warp] : value;
    __syncthreads();
    return value;
}

/* What stands before this thread; *total is of the whole block. */
__device__ static inline Sum block_before(Sum value, Sum *part, Sum *total)
{
    const int lane = (int)threadIdx.x % WARP, mine = (int)threadIdx.x / WARP;
    Sum with = value;
    for (int distance = 1; distance < WARP; distance *= 2) {
        Sum earlier = __shfl_up_sync(FULL_WARP, with, distance);
        with += lane >= distance ? earlier : 0;
    }
    if (lane == WARP - 1)
        part[mine] = with;
    __syncthreads();
    Sum before = with - value;
    *total = 0;
    for (int warp = 0; warp < WARPS; warp++) {
        before += warp < mine ? part[warp] : 0;
        *total += part[warp];
    }
    __syncthreads();
    return before;
}

/* --- The largest logit, and all weights --- */

template <bool PACKS> __global__ void __launch_bounds__(THREADS) sample_best(Sampling s)
{
    SHARED(Sum, part, [WARPS]);
    const int64_t row = blockIdx.x / s.segments, segment = blockIdx.x % s.segments;
    Sum best = 0;
    segment_each<PACKS>(&s, row, segment, [&](int64_t id, float logit) {
        Sum own = is_finite(logit) ? (Sum)key_of(logit) << 32 | (0xffffffffu - (unsigned)id) : NOT_FINITE;
        best = own > best ? own : best;
    });
    best = block_largest(best, part);
    if (threadIdx.x == 0)
        s.best[blockIdx.x] = best;
    if (segment > 0)
        return;
    if (threadIdx.x == 0)
        s.row_total[row] = 0;
    const int bins = s.searches * DIGITS * BINS;
    for (int i = (int)threadIdx.x; i < bins; i += THREADS)
        s.bin[row * bins + i] = {0, 0};
}

template <bool PACKS> __global__ void __launch_bounds__(THREADS) sample_weigh(Sampling s)
{
    SHARED(Sum, part, [WARPS]);
    SHARED(Sum, sums, [WARPS]);
    const int64_t row = blockIdx.x / s.segments, segment = blockIdx.x % s.segments;
    const Sum best = block_largest(threadIdx.x < s.segments ? s.best[row * s.segments + threadIdx.x] : (Sum)0, part);
    Sum sum = 0;
    if (best != NOT_FINITE) {
        const float largest = logit_of(best_key(best));
        segment_each<PACKS>(&s, row, segment, [&](int64_t, float logit) { sum += weight_of(logit, largest, &s); });
    }
    sum = warp_add(sum);
    if (threadIdx.x % WARP == 0)
        sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    sum = 0;
    for (int warp = 0; warp < WARPS; warp++)
        sum += sums[warp];
    s.total[blockIdx.x] = sum;
    atomicAdd(&s.row_total[row], sum);
    if (segment == 0)
        s.row_best[row] = best;
}

/* --- The smallest key that is kept --- */

/* From what a pass over `digit` has found. */
__device__ static inline Search search_descend(Search search, const Bin *bin, int digit, bool counts)
{
    for (int value = BINS - 1; value >= 0; value--) {
        const Bin here = bin[value];
        const Sum reached = counts ? search.count + here.count : search.weight + here.weight;
        if (reached >= search.goal || value == 0) {
            search.key |= (unsigned)value << digit * DIGIT_BITS;
            search.ties = here.count;
            return search;
        }
        search.count += here.count;
        search.weight += here.weight;
    }
    return search;
}

/* What is kept: all keys greater than `key`, and of those equal to it the first `ties` in order of id, of weight `each`. */
typedef struct Cut {
    Sum ties, each, weight; /* weight: of all that is kept */
    unsigned key;
} Cut;

__device__ static inline Cut search_end(const Search *search, float largest, bool counts, const Sampling *s)
{
    Cut cut = {search->ties, weight_of(logit_of(search->key), largest, s), 0, search->key};
    Sum wanted = counts         ? search->goal - search->count
                 : cut.each > 0 ? (search->goal - search->weight + cut.each - 1) / cut.each
                                : 1;
    cut.ties = wanted < cut.ties ? wanted : cut.ties;
    cut.weight = search->weight + cut.ties * cut.each;
    return cut;
}

/* At least one unit: the largest is always kept. */
__device__ static inline Sum share_of(Sum total, float top_p)
{
    const double share = ceil((double)top_p * (double)total);
    return share < 1.0 ? 1 : (Sum)share;
}

__device__ static inline bool search_counts(const Sampling *s, int pass)
{
    return s->first_counts && pass < DIGITS;
}

__device__ static inline Search search_after(const Sampling *s, int64_t row, int pass)
{
    const int64_t at = row * s->searches * DIGITS + pass;
    return search_descend(s->search[at], s->bin + at * BINS, DIGITS - 1 - pass % DIGITS, search_counts(s, pass));
}

__device__ static inline Search search_before(const Sampling *s, int64_t row, int pass, float largest)
{
    if (pass % DIGITS > 0)
        return search_after(s, row, pass - 1);
    Search search = {0, 0, 0, 0, 0};
    if (search_counts(s, pass)) {
        search.goal = (Sum)s->args.top_k;
    } else if (pass == 0) {
        search.goal = share_of(s->row_total[row], s->args.top_p);
    } else {
        const Search last = search_after(s, row, pass - 1);
        search.goal = share_of(search_end(&last, largest, true, s).weight, s->args.top_p);
    }
    return search;
}

/* Counts and weights by the digit of `pass` of the keys whose greater digits are those found so far. A thread has bins of its own, which are joined by
 * LANES lanes each; columns are turned by the bin, so that lanes meet different banks. */
template <bool PACKS> __global__ void __launch_bounds__(SEARCH_THREADS) sample_search(Sampling s, int pass)
{
    SHARED(Sum, weight, [BINS][SEARCH_THREADS]);
    SHARED(unsigned, count, [BINS][SEARCH_THREADS]);
    SHARED(unsigned, prefix, [1]);
    const int64_t row = blockIdx.x / s.segments, segment = blockIdx.x % s.segments;
    const Sum best = s.row_best[row];
    if (best != NOT_FINITE) { /* the whole block, or nobody in it */
        const float largest = logit_of(best_key(best));
        const int digit = DIGITS - 1 - pass % DIGITS, me = (int)threadIdx.x;
        if (me == 0) {
            const Search search = search_before(&s, row, pass, largest);
            prefix[0] = search.key;
            if (segment == 0)
                s.search[row * s.searches * DIGITS + pass] = search;
        }
        for (int value = 0; value < BINS; value++) {
            weight[value][me] = 0;
            count[value][me] = 0;
        }
        __syncthreads();
        const unsigned decided = prefix[0], mask = digit == DIGITS - 1 ? 0 : ~0u << (digit + 1) * DIGIT_BITS;
        segment_each<PACKS>(&s, row, segment, [&](int64_t, float logit) {
            const unsigned key = key_of(logit), value = key >> digit * DIGIT_BITS & (BINS - 1);
            if ((key & mask) != decided)
                return;
            weight[value][me] += weight_of(logit, largest, &s);
            count[value][me]++;
        });
        __syncthreads();
        constexpr int LANES = (int)SEARCH_THREADS / BINS, EVERY = (int)SEARCH_THREADS / LANES;
        const int value = me / LANES, lane = me % LANES;
        Sum weights = 0, counts = 0;
        for (int i = 0; i < EVERY; i++) {
            const int column = (i + value) % EVERY * LANES + lane;
            weights += weight[value][column];
            counts += count[value][column];
        }
        for (int distance = LANES / 2; distance > 0; distance /= 2) {
            weights += __shfl_xor_sync(FULL_WARP, weights, distance);
            counts += __shfl_xor_sync(FULL_WARP, counts, distance);
        }
        if (lane == 0 && counts > 0) {
            Bin *bin = &s.bin[(row * s.searches * DIGITS + pass) * BINS + value];
            atomicAdd(&bin->count, counts);
            atomicAdd(&bin->weight, weights);
        }
    }
}

/* --- Drawing --- */

/* The first word of the block, as rng_uniform() takes it. */
__device__ static inline unsigned random_word(uint64_t seed, int64_t subsequence, int32_t position)
{
    curandStatePhilox4_32_10_t state;
    curand_init((unsigned long long)seed, (unsigned long long)subsequence, 4ull * (unsigned long long)(int64_t)position,
                &state);
    return curand4(&state).x;
}

/* u times total, u = (word + 1/2) / 2^32, rounded down: a sum of whole numbers passes it exactly when it passes the product. total < 2^63. */
__device__ static inline Sum goal_of(Sum total, unsigned word)
{
    const Sum low = 0xffffffffull, half = total >> 1;
    return (total >> 32) * word + (half >> 32) + (((total & low) * word + (half & low)) >> 32);
}

/* The first id at which the cumulative sum of what is kept passes `goal`. Blocks of THREADS; every thread gets it. */
template <bool PACKS>
__device__ static inline int draw_id(const Sampling *s, int64_t row, float largest, Cut cut, Sum goal, Sum *part,
                                     int *chosen)
{
    const float *logits = s->args.logits + row * s->args.ld;
    int64_t segment = 0;
    Sum before = 0, ties = 0; /* what stands before the segment: weight of greater keys, number of equal ones */
    if (s->searches == 0) {
        Sum total;
        const Sum own = threadIdx.x < s->segments ? s->total[row * s->segments + threadIdx.x] : 0;
        const Sum behind = block_before(own, part, &total);
        if (behind <= goal && goal < behind + own) {
            part[0] = threadIdx.x;
            part[1] = behind;
        }
        __syncthreads();
        segment = (int64_t)part[0];
        before = part[1];
        __syncthreads();
    }
    for (bool found = false; !found; segment++) {
        KERNEL_REQUIRE(segment < s->segments);
        const int64_t from = segment * SEGMENT + EACH * (int64_t)threadIdx.x;
        Sum weight = 0, equal = 0, weights, equals;
        for (int k = 0; k < EACH; k += COLUMNS)
            columns_each<PACKS>(logits, from + k, s->args.vocab, [&](int64_t, float logit) {
                const unsigned key = key_of(logit);
                weight += key > cut.key ? weight_of(logit, largest, s) : 0;
                equal += key == cut.key ? 1 : 0;
            });
        Sum greater = before + block_before(weight, part, &weights), place = ties + block_before(equal, part, &equals);
        Sum sum = greater + (place < cut.ties ? place : cut.ties) * cut.each;
        const Sum after = greater + weight + (place + equal < cut.ties ? place + equal : cut.ties) * cut.each;
        if (sum <= goal && goal < after) { /* one thread */
            bool open = true;
            for (int k = 0; k < EACH; k += COLUMNS)
                columns_each<PACKS>(logits, from + k, s->args.vocab, [&](int64_t id, float logit) {
                    const unsigned key = key_of(logit);
                    sum += key > cut.key ? weight_of(logit, largest, s) : 0;
                    if (key == cut.key)
                        sum += place++ < cut.ties ? cut.each : 0;
                    if (open && sum > goal)
                        *chosen = (int)id;
                    open = open && !(sum > goal);
                });
        }
        before += weights;
        ties += equals;
        found = before + (ties < cut.ties ? ties : cut.ties) * cut.each > goal;
    }
    __syncthreads();
    return *chosen;
}

template <bool PACKS> __global__ void __launch_bounds__(THREADS) sample_draw(Sampling s)
{
    SHARED(Sum, part, [WARPS]);
    SHARED(Cut, cut, [1]);
    SHARED(int, chosen, [1]);
    const int64_t row = blockIdx.x;
    const Sum best = s.row_best[row], total = s.row_total[row];
    if (best == NOT_FINITE) {
        if (threadIdx.x == 0) {
            s.args.token[row] = -1;
            s.args.logprob[row] = NAN;
        }
    } else {
        const float largest = logit_of(best_key(best));
        int id = best_id(best);
        if (s.args.temperature > 0.0f) {
            if (threadIdx.x == 0) {
                cut[0] = {0, 0, total, 0}; /* no key is 0: all are greater */
                if (s.searches > 0) {
                    const int pass = s.searches * DIGITS - 1;
                    const Search last = search_after(&s, row, pass);
                    cut[0] = search_end(&last, largest, search_counts(&s, pass), &s);
                }
            }
            __syncthreads();
            const unsigned word = random_word(s.args.seed, s.args.subsequence[row], s.args.position[row]);
            id = draw_id<PACKS>(&s, row, largest, cut[0], goal_of(cut[0].weight, word), part, chosen);
        }
        if (threadIdx.x == 0) {
            const float logit = s.args.logits[row * s.args.ld + id];
            s.args.token[row] = id;
            s.args.logprob[row] =
                (float)((double)((logit - largest) * s.inverse) - log((double)total / (double)s.unit));
        }
    }
}

/* --- The op --- */

static Sum *sums_alloc(Device *device, int64_t count)
{
    return (Sum *)arena_alloc(&device->scratch, sizeof(Sum) * (size_t)(count + 1));
}

template <bool PACKS> static void sample_launch(Cuda *cuda, const Sampling *s)
{
    const unsigned rows = (unsigned)s->args.rows, blocks = (unsigned)(s->args.rows * s->segments);
    CUDA_LAUNCH(cuda, sample_best<PACKS>, blocks, THREADS, 0, *s);
    CUDA_LAUNCH(cuda, sample_weigh<PACKS>, blocks, THREADS, 0, *s);
    for (int pass = 0; pass < s->searches * DIGITS; pass++)
        CUDA_LAUNCH(cuda, sample_search<PACKS>, blocks, SEARCH_THREADS, 0, *s, pass);
    CUDA_LAUNCH(cuda, sample_draw<PACKS>, rows, THREADS, 0, *s);
}

void cuda_sample(Device *device, const SampleArgs *args)
{
    const int64_t segments = ceil_div(args->vocab, (int64_t)SEGMENT);
    REQUIRE(args->vocab >= 1 && args->vocab <= args->ld && segments <= SEGMENTS_MAX && args->temperature >= 0.0f,
            "vocab %lld of at most %d, ld %lld, temperature %g", (long long)args->vocab, (int)SEGMENT * SEGMENTS_MAX,
            (long long)args->ld, (double)args->temperature);
    REQUIRE(args->rows * segments < INT32_MAX, "%lld rows of %lld logits", (long long)args->rows, (long long)args->ld);
    const bool draws = args->temperature > 0.0f, counts = draws && args->top_k > 0 && args->top_k < args->vocab;
    Sampling s = {};
    s.args = *args;
    s.segments = (unsigned)segments;
    s.inverse = draws ? 1.0f / args->temperature : 1.0f;
    s.searches = (counts ? 1 : 0) + (draws && args->top_p < 1.0f ? 1 : 0);
    s.first_counts = counts;
    int bits = 62; /* the sum of all weights is at most 2^62 */
    for (int64_t vocab = 1; vocab < args->vocab; vocab *= 2)
        bits--;
    s.unit = (float)(1ull << bits);
    s.best = sums_alloc(device, args->rows * segments);
    s.row_best = sums_alloc(device, args->rows);
    s.total = sums_alloc(device, args->rows * segments);
    s.row_total = sums_alloc(device, args->rows);
    const size_t passes = (size_t)args->rows * (size_t)s.searches * DIGITS;
    s.bin = (Bin *)arena_alloc(&device->scratch, sizeof(Bin) * (passes * BINS + 1));
    s.search = (Search *)arena_alloc(&device->scratch, sizeof(Search) * (passes + 1));
    if (!device->backend->computes || args->rows == 0)
        return;
    if (packs_fit(args->logits, args->ld))
        sample_launch<true>(cuda_of(device), &s);
    else
        sample_launch<false>(cuda_of(device), &s);
}
