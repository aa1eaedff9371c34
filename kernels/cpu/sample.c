/* sample.c -- the next token of each row of logits.
 *
 * Temperature alone needs no sorting: the inverse transform walks the ids in order. Blocks of BLOCK ids are totalled
 * first (four at a time, to hide the latency of adding), then only the block that is hit is walked. With top-k or top-p
 * a heap gives ids in order of probability until enough are taken, and the draw walks those taken in order of id.
 * Of equal logits the lower id comes first. top-k acts before top-p, which then keeps the smallest set whose share of
 * what top-k left reaches top_p. */
#include <stdlib.h>

#include "core/base/rng.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

enum { BLOCK = 128 };

typedef struct SampleRow {
    const float *logits;
    int64_t vocab, best;
    float largest;
    float *weight;  /* (vocab): exp((logit - largest) / temperature) */
    int32_t *order; /* (vocab): heap of ids; NULL unless truncating */
} SampleRow;

/* The largest logit and its first id; false if any logit is not finite. */
static bool row_scan(SampleRow *row)
{
    Vec largest = vec_set(-INFINITY), zero = {0};
    VecI bad = {0};
    int64_t j = 0;
    for (; j + LANES <= row->vocab; j += LANES) {
        Vec x = vec_load(row->logits + j);
        largest = vec_max(x, largest);
        bad |= (x - x) != zero;
    }
    if (j < row->vocab) {
        Vec x = vec_load_part(row->logits + j, row->vocab - j, row->logits[0]);
        largest = vec_max(x, largest);
        bad |= (x - x) != zero;
    }
    for (int lane = 0; lane < LANES; lane++)
        if (bad[lane])
            return false;
    row->largest = vec_largest(largest);
    row->best = 0;
    while (row->logits[row->best] != row->largest)
        row->best++;
    return true;
}

static void row_weigh(SampleRow *row, float inverse)
{
    Vec shift = vec_set(row->largest), scale = vec_set(inverse);
    int64_t j = 0;
    for (; j + LANES <= row->vocab; j += LANES)
        vec_store(row->weight + j, vec_exp((vec_load(row->logits + j) - shift) * scale));
    if (j < row->vocab) {
        int64_t rest = row->vocab - j;
        vec_store_part(row->weight + j, vec_exp((vec_load_part(row->logits + j, rest, 0.0f) - shift) * scale), rest);
    }
}

static double block_total(const float *weight, int64_t count)
{
    double sum = 0.0;
    for (int64_t j = 0; j < count; j++)
        sum += (double)weight[j];
    return sum;
}

/* Totals of blocks in order of id; returns the total of all, the blocks added in order. */
static double row_totals(const float *weight, int64_t vocab, double *block)
{
    int64_t whole = vocab / BLOCK, b = 0;
    for (; b + 4 <= whole; b += 4) {
        const float *w = weight + b * BLOCK;
        double s[4] = {0};
        for (int64_t j = 0; j < BLOCK; j++)
            for (int k = 0; k < 4; k++)
                s[k] += (double)w[k * BLOCK + j];
        for (int k = 0; k < 4; k++)
            block[b + k] = s[k];
    }
    for (; b * BLOCK < vocab; b++)
        block[b] = block_total(weight + b * BLOCK, min_i64(BLOCK, vocab - b * BLOCK));
    double total = 0.0;
    for (int64_t k = 0; k < b; k++)
        total += block[k];
    return total;
}

/* The first id at which the cumulative sum passes u times the total. */
static int64_t draw(const SampleRow *row, const double *block, double total, double u)
{
    double goal = u * total, before = 0.0;
    int64_t b = 0, blocks = (row->vocab + BLOCK - 1) / BLOCK;
    while (b + 1 < blocks && !(before + block[b] > goal)) {
        before += block[b];
        b++;
    }
    double sum = 0.0;
    int64_t chosen = -1;
    for (int64_t j = b * BLOCK; j < row->vocab; j++) {
        if (row->weight[j] <= 0.0f)
            continue;
        chosen = j;
        sum += (double)row->weight[j];
        if (before + sum > goal)
            return j;
    }
    /* Only rounding, or a tail of zeros, leads here: the last id that has any weight. */
    for (int64_t j = b * BLOCK - 1; chosen < 0 && j >= 0; j--)
        if (row->weight[j] > 0.0f)
            chosen = j;
    return chosen;
}

static bool comes_first(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void heap_sink(const SampleRow *row, int64_t count, int64_t at)
{
    int32_t *heap = row->order, id = heap[at];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && comes_first(row->logits, heap[child + 1], heap[child]))
            child++;
        if (!comes_first(row->logits, heap[child], id))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
}

/* Zeroes the weights that top-k and top-p drop. The ids taken from the heap stand, in order, at its end. */
static void row_truncate(SampleRow *row, int64_t top_k, double top_p, double total)
{
    int64_t vocab = row->vocab, left = vocab, limit = top_k > 0 ? min_i64(top_k, vocab) : vocab, taken = 0;
    for (int64_t j = 0; j < vocab; j++)
        row->order[j] = (int32_t)j;
    for (int64_t at = vocab / 2 - 1; at >= 0; at--)
        heap_sink(row, vocab, at);
    bool nucleus = top_p < 1.0;
    double kept = 0.0;
    while (taken < limit) {
        /* Without top-k the share is of all; with it, of the k, whose total is known only when they are all taken. */
        if (nucleus && top_k <= 0 && taken > 0 && kept >= top_p * total)
            break;
        int32_t id = row->order[0];
        row->order[0] = row->order[--left];
        row->order[left] = id;
        heap_sink(row, left, 0);
        kept += (double)row->weight[id];
        taken++;
    }
    if (nucleus && top_k > 0) {
        double share = 0.0;
        int64_t keep = 0;
        while (keep < taken && (keep == 0 || share < top_p * kept))
            share += (double)row->weight[row->order[vocab - 1 - keep++]];
        taken = keep;
    }
    for (int64_t k = 0; k < vocab - taken; k++)
        row->weight[row->order[k]] = 0.0f;
}

static void sample_row(const SampleArgs *args, int64_t i, SampleRow *row, double *block)
{
    row->logits = args->logits + i * args->ld;
    row->vocab = args->vocab;
    if (!row_scan(row)) {
        args->token[i] = -1;
        args->logprob[i] = NAN;
        return;
    }
    bool greedy = args->temperature == 0.0f;
    float inverse = greedy ? 1.0f : 1.0f / args->temperature;
    row_weigh(row, inverse);
    double total = row_totals(row->weight, row->vocab, block), log_total = log(total);
    int64_t id = row->best;
    if (!greedy) {
        if (row->order) {
            row_truncate(row, args->top_k, (double)args->top_p, total);
            total = row_totals(row->weight, row->vocab, block);
        }
        RngStream stream = {args->seed, (uint64_t)args->subsequence[i]};
        id = draw(row, block, total, rng_uniform(stream, (uint64_t)args->position[i]));
    }
    args->token[i] = (int32_t)id;
    args->logprob[i] = (float)((double)((row->logits[id] - row->largest) * inverse) - log_total);
}

/* weight (threads, vocab), order (threads, vocab) or NULL, block (threads, blocks of the vocabulary) */
static void sample_rows(const SampleArgs *args, float *weight, int32_t *order, double *block, Share rows)
{
    int64_t thread = omp_get_thread_num(), vocab = args->vocab, blocks = (vocab + BLOCK - 1) / BLOCK;
    for (int64_t i = rows.from; i < rows.to; i++) {
        SampleRow row = {.weight = weight + thread * vocab, .order = order ? order + thread * vocab : NULL};
        sample_row(args, i, &row, block + thread * blocks);
    }
}

void KERNEL(sample)(Device *device, const SampleArgs *args)
{
    REQUIRE(args->vocab >= 1 && args->vocab <= args->ld && args->temperature >= 0.0f,
            "vocab %lld, ld %lld, temperature %g", (long long)args->vocab, (long long)args->ld,
            (double)args->temperature);
    bool truncates = args->temperature > 0.0f && (args->top_k > 0 || args->top_p < 1.0f);
    int64_t vocab = args->vocab, blocks = (vocab + BLOCK - 1) / BLOCK;
    int threads = cpu_threads(device, 30.0 * (double)args->rows * (double)vocab);
    float *weight = arena_alloc(&device->scratch, sizeof(float) * (size_t)(threads * vocab));
    double *block = arena_alloc(&device->scratch, sizeof(double) * (size_t)(threads * blocks));
    int32_t *order = truncates ? arena_alloc(&device->scratch, sizeof(int32_t) * (size_t)(threads * vocab)) : NULL;
    if (!device->backend->computes)
        return;
    ON_THREADS(threads, sample_rows(args, weight, order, block, cpu_share(args->rows, 1)));
}
