/* sample.c -- the next token of each row of logits.
 *
 * Temperature alone needs no sorting: the inverse transform walks the ids in order. Blocks of BLOCK ids are totalled
 * first (four at a time, to hide the latency of adding), then only the block that is hit is walked. Top-k and top-p need
 * no sorting either, only the last id in order of probability that is kept: candidates above a logit that certainly lets
 * enough pass, narrowed by partition (Hoare's "find", 1961). What comes after that id weighs nothing, and the draw goes on
 * as before.
 * Of equal logits the lower id comes first. top-k acts before top-p, which then keeps the smallest set whose share of
 * what top-k left reaches top_p. */
#include <stdlib.h>

#include "core/base/rng.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

enum { BLOCK = 128 };

static int64_t blocks_of(int64_t vocab)
{
    return (vocab + BLOCK - 1) / BLOCK;
}

typedef struct SampleRow {
    const float *logits;
    int64_t vocab, best;
    float largest;
    float *weight; /* (vocab): exp((logit - largest) / temperature) */
    int32_t *id;   /* (vocab): candidates; NULL unless truncating */
    float *most;   /* (blocks): the largest logit of each; NULL unless truncating */
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
    int64_t b = 0, blocks = blocks_of(row->vocab);
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

static void row_block_maxima(const SampleRow *row)
{
    for (int64_t b = 0; b < blocks_of(row->vocab); b++) {
        const float *x = row->logits + b * BLOCK;
        int64_t count = min_i64(BLOCK, row->vocab - b * BLOCK), j = 0;
        Vec most = vec_set(x[0]);
        for (; j + LANES <= count; j += LANES)
            most = vec_max(vec_load(x + j), most);
        if (j < count)
            most = vec_max(vec_load_part(x + j, count - j, x[0]), most);
        row->most[b] = vec_largest(most);
    }
}

/* The candidates: ids whose logit is at least `least`. */
static int64_t row_candidates(const SampleRow *row, float least)
{
    int64_t count = 0;
    for (int64_t b = 0; b < blocks_of(row->vocab); b++) {
        if (row->most[b] < least)
            continue;
        for (int64_t j = b * BLOCK; j < min_i64((b + 1) * BLOCK, row->vocab); j++) {
            row->id[count] = (int32_t)j;
            count += row->logits[j] >= least;
        }
    }
    return count;
}

/* Puts those of id[from, to) that do not come after one of them first; returns where they end, and what they weigh. */
static int64_t partition(const SampleRow *row, int64_t from, int64_t to, double *weight)
{
    int32_t *id = row->id, a = id[from], b = id[from + (to - from) / 2], c = id[to - 1];
    if (comes_first(row->logits, b, a)) {
        int32_t swap = a;
        a = b;
        b = swap;
    }
    /* The middle one; of two the first, so that both parts have something. */
    int32_t pivot = comes_first(row->logits, b, c) ? b : b != c && comes_first(row->logits, a, c) ? c : a;
    float limit = row->logits[pivot];
    int64_t end = from;
    *weight = 0.0;
    for (int64_t k = from; k < to; k++) {
        int32_t candidate = id[k];
        float x = row->logits[candidate];
        bool first = x > limit || (x == limit && candidate <= pivot);
        id[k] = id[end];
        id[end] = candidate;
        end += first;
        *weight += first ? (double)row->weight[candidate] : 0.0;
    }
    return end;
}

/* Of id[0, count) in order of probability: where the first run ends that has `wanted` ids or weighs `goal`, whichever
 * comes first, at least one and all of them at most. They stand before that end, the last of them right before it. */
static int64_t candidates_cut(const SampleRow *row, int64_t count, int64_t wanted, double goal, double *kept)
{
    int64_t from = 0, to = count;
    *kept = 0.0;
    while (to - from > 1) {
        double part;
        int64_t middle = partition(row, from, to, &part);
        if (middle >= wanted || *kept + part >= goal) {
            to = middle;
        } else {
            from = middle;
            *kept += part;
        }
    }
    *kept += (double)row->weight[row->id[from]];
    return from + 1;
}

/* A logit that no more than what top_p leaves out is below: all of `vocab` ids at the weight it stands for would not be
 * more. A little lower, so that rounding does not matter. */
static float least_of_share(const SampleRow *row, double top_p, double total, float inverse)
{
    double weight = (1.0 - top_p) * total / (double)row->vocab;
    double least = (double)row->largest + (log(weight) - 1e-3) / (double)inverse;
    return weight > 0.0 ? (float)(least - 1e-6 * fabs(least)) : -INFINITY;
}

/* A logit that at least `top_k` ids reach: as many blocks do. */
static float least_of_count(const SampleRow *row, int64_t top_k)
{
    int64_t blocks = blocks_of(row->vocab);
    if (top_k > blocks)
        return -INFINITY;
    for (int64_t b = 0; b < blocks; b++)
        row->id[b] = (int32_t)b;
    SampleRow maxima = {.logits = row->most, .weight = row->most, .id = row->id};
    double kept;
    return row->most[row->id[candidates_cut(&maxima, blocks, top_k, INFINITY, &kept) - 1]];
}

/* Zeroes the weights that top-k and top-p drop. */
static void row_truncate(SampleRow *row, int64_t top_k, double top_p, double total, float inverse)
{
    bool nucleus = top_p < 1.0;
    double kept, goal = nucleus ? top_p * total : INFINITY;
    int64_t cut;
    row_block_maxima(row);
    if (top_k > 0) {
        top_k = min_i64(top_k, row->vocab);
        cut = candidates_cut(row, row_candidates(row, least_of_count(row, top_k)), top_k, INFINITY, &kept);
        if (nucleus)
            cut = candidates_cut(row, cut, cut, top_p * kept, &kept);
    } else {
        cut = candidates_cut(row, row_candidates(row, least_of_share(row, top_p, total, inverse)), row->vocab, goal,
                             &kept);
    }
    int32_t last = row->id[cut - 1];
    float limit = row->logits[last];
    for (int64_t j = 0; j < row->vocab; j++)
        row->weight[j] = row->logits[j] > limit || (row->logits[j] == limit && j <= last) ? row->weight[j] : 0.0f;
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
        if (row->id) {
            row_truncate(row, args->top_k, (double)args->top_p, total, inverse);
            total = row_totals(row->weight, row->vocab, block);
        }
        RngStream stream = {args->seed, (uint64_t)args->subsequence[i]};
        id = draw(row, block, total, rng_uniform(stream, (uint64_t)args->position[i]));
    }
    args->token[i] = (int32_t)id;
    args->logprob[i] = (float)((double)((row->logits[id] - row->largest) * inverse) - log_total);
}

/* What each thread works in; id and most are NULL unless truncating. */
typedef struct SampleScratch {
    float *weight; /* (threads, vocab) */
    double *block; /* (threads, blocks) */
    int32_t *id;   /* (threads, vocab) */
    float *most;   /* (threads, blocks) */
} SampleScratch;

static void sample_rows(const SampleArgs *args, const SampleScratch *all, Share rows)
{
    int64_t thread = cpu_team_place(), vocab = args->vocab, blocks = blocks_of(vocab);
    SampleRow row = {.weight = all->weight + thread * vocab};
    if (all->id) {
        row.id = all->id + thread * vocab;
        row.most = all->most + thread * blocks;
    }
    for (int64_t i = rows.from; i < rows.to; i++)
        sample_row(args, i, &row, all->block + thread * blocks);
}

void KERNEL(sample)(Device *device, const SampleArgs *args)
{
    REQUIRE(args->vocab >= 1 && args->vocab <= args->ld && args->temperature >= 0.0f,
            "vocab %lld, ld %lld, temperature %g", (long long)args->vocab, (long long)args->ld,
            (double)args->temperature);
    bool truncates = args->temperature > 0.0f && (args->top_k > 0 || args->top_p < 1.0f);
    int threads = cpu_threads(device, 30.0 * (double)args->rows * (double)args->vocab);
    size_t ids = (size_t)(threads * args->vocab), blocks = (size_t)(threads * blocks_of(args->vocab));
    SampleScratch all = {.weight = arena_alloc(&device->scratch, sizeof(float) * ids),
                         .block = arena_alloc(&device->scratch, sizeof(double) * blocks)};
    if (truncates) {
        all.id = arena_alloc(&device->scratch, sizeof(int32_t) * ids);
        all.most = arena_alloc(&device->scratch, sizeof(float) * blocks);
    }
    if (!device->backend->computes)
        return;
    ON_THREADS(threads, sample_rows(args, &all, cpu_share(args->rows, 1)));
}
