/* attention.c -- varlen causal attention with grouped queries, forward, with or without a key-value cache.
 *
 * Memory is linear in tokens: scores exist only for a strip of rows and a tile of keys, and softmax is kept as a running
 * maximum and sum (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022).
 * A "row" here is one (query, head) pair: the query heads that share a key head are interleaved, row = query * group +
 * head in group, so a tile of keys is fetched once for all of them, and a decode step of one query still has `group`
 * rows. An item of work is up to TILE_ROWS rows of one sequence and key head; items write disjoint places and are
 * independent, so who computes them changes nothing.
 * Few rows of wide heads (decode) read keys as they lie, by dot products; else a tile of keys is transposed first. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/tile.h"

enum { STRIP = 16, ROWS_BY_DOT = 8, DIM_BY_DOT = 32 };

typedef struct Item {
    int64_t sequence, kv_head, first_row, rows;
} Item;

/* Where a sequence's keys and values are. */
typedef struct Sequence {
    int64_t start, queries, past;
    TileRows k, v;
} Sequence;

static Sequence sequence_of(const AttentionForwardArgs *args, int64_t s, int64_t kv_head)
{
    int64_t dim = args->head_dim, stride = (args->heads + 2 * args->kv_heads) * dim;
    Sequence sequence = {.start = args->start[s], .queries = args->start[s + 1] - args->start[s]};
    if (args->kv.k) {
        int64_t at = (args->kv.slot[s] * args->kv_heads + kv_head) * args->kv.capacity * dim;
        sequence.past = args->kv.past[s];
        sequence.k = (TileRows){args->kv.k + at, dim};
        sequence.v = (TileRows){args->kv.v + at, dim};
    } else {
        const float *first = args->qkv + sequence.start * stride + (args->heads + kv_head) * dim;
        sequence.k = (TileRows){first, stride};
        sequence.v = (TileRows){first + args->kv_heads * dim, stride};
    }
    return sequence;
}

static void cache_append(Device *device, const AttentionForwardArgs *args)
{
    int64_t dim = args->head_dim, stride = (args->heads + 2 * args->kv_heads) * dim;
    const KvArgs *kv = &args->kv;
    for (int64_t s = 0; s < args->sequences; s++) {
        int64_t count = args->start[s + 1] - args->start[s];
        REQUIRE(kv->slot[s] >= 0 && kv->slot[s] < kv->slots && kv->past[s] >= 0 && kv->past[s] + count <= kv->capacity,
                "sequence %lld: slot %d of %lld, %d + %lld tokens of %lld", (long long)s, kv->slot[s],
                (long long)kv->slots, kv->past[s], (long long)count, (long long)kv->capacity);
    }
    PARALLEL_FOR_UNEVEN(device, 2.0 * (double)args->tokens * (double)(args->kv_heads * dim))
    for (int64_t s = 0; s < args->sequences; s++)
        for (int64_t t = args->start[s]; t < args->start[s + 1]; t++)
            for (int64_t h = 0; h < args->kv_heads; h++) {
                int64_t place = kv->past[s] + (t - args->start[s]);
                int64_t to = ((kv->slot[s] * args->kv_heads + h) * kv->capacity + place) * dim;
                const float *k = args->qkv + t * stride + (args->heads + h) * dim;
                memcpy(kv->k + to, k, sizeof(float) * (size_t)dim);
                memcpy(kv->v + to, k + args->kv_heads * dim, sizeof(float) * (size_t)dim);
            }
}

/* scores[j] = query . keys[j] for one row. */
static void scores_by_dot(const float *query, TileRows keys, int64_t count, int64_t dim, float *scores)
{
    for (int64_t j = 0; j < count; j++)
        scores[j] = vec_dot(query, keys.at + j * keys.ld, dim);
}

typedef struct RowState {
    float largest[TILE_ROWS], sum[TILE_ROWS];
} RowState;

/* Turns the scores of one row (in units of log 2) into probabilities about a running maximum; `valid` > 0 keys count, the rest of `width`
 * (whole registers) become 0. Scales what the row has gathered so far. */
static void softmax_row(float *scores, int64_t valid, int64_t width, RowState *state, int64_t row, float *gathered,
                        int64_t padded)
{
    for (int64_t j = valid; j < width; j++)
        scores[j] = -INFINITY;
    Vec most = vec_set(state->largest[row]);
    for (int64_t j = 0; j < width; j += LANES)
        most = vec_max(vec_load(scores + j), most);
    float largest = vec_largest(most);
    Vec shift = vec_set(largest), sum = {0};
    for (int64_t j = 0; j < width; j += LANES) {
        Vec p = vec_exp2(vec_load(scores + j) - shift);
        vec_store(scores + j, p);
        sum += p;
    }
    if (largest != state->largest[row]) {
        float factor = vec_exp2(vec_set(state->largest[row] - largest))[0];
        state->sum[row] *= factor;
        for (int64_t d = 0; d < padded; d += LANES)
            vec_store(gathered + d, vec_load(gathered + d) * vec_set(factor));
        state->largest[row] = largest;
    }
    state->sum[row] += vec_sum(sum);
}

static void attend(const AttentionForwardArgs *args, Item item)
{
    float query[TILE_ROWS * HEAD_DIM_MAX], gathered[TILE_ROWS * HEAD_DIM_MAX];
    float keys[HEAD_DIM_MAX * TILE_KEYS], values[TILE_KEYS * HEAD_DIM_MAX], scores[STRIP * TILE_KEYS];
    RowState state;
    int64_t dim = args->head_dim, padded = tile_padded(dim), group = args->heads / args->kv_heads;
    int64_t stride = (args->heads + 2 * args->kv_heads) * dim;
    Sequence sequence = sequence_of(args, item.sequence, item.kv_head);
    RowAt at = row_at(item.first_row, group);
    for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
        const float *q = args->qkv + (sequence.start + at.query) * stride + (item.kv_head * group + at.head) * dim;
        for (int64_t d = 0; d < dim; d++)
            query[r * dim + d] = q[d] * (args->scale * VEC_LOG2_E);
        memset(gathered + r * padded, 0, sizeof(float) * (size_t)padded);
        state.largest[r] = -INFINITY;
        state.sum[r] = 0.0f;
    }
    bool by_dot = item.rows <= ROWS_BY_DOT && dim >= DIM_BY_DOT;
    int64_t last_query = (item.first_row + item.rows - 1) / group, keys_end = sequence.past + last_query + 1;
    for (int64_t from = 0; from < keys_end; from += TILE_KEYS) {
        int64_t count = min_i64(TILE_KEYS, keys_end - from);
        TileRows k = {sequence.k.at + from * sequence.k.ld, sequence.k.ld};
        TileRows v = {sequence.v.at + from * sequence.v.ld, sequence.v.ld};
        if (!by_dot)
            tile_transpose(k, count, dim, keys);
        v = tile_rows_padded(v, count, dim, values);
        for (int64_t strip = 0; strip < item.rows; strip += STRIP) {
            int64_t rows = min_i64(STRIP, item.rows - strip);
            int64_t last = sequence.past + (item.first_row + strip + rows - 1) / group;
            int64_t seen = min_i64(count, last + 1 - from), width = tile_padded(seen);
            if (seen <= 0)
                continue;
            if (by_dot)
                for (int64_t r = 0; r < rows; r++)
                    scores_by_dot(query + (strip + r) * dim, k, seen, dim, scores + r * TILE_KEYS);
            else
                tile_product(rows, width, dim, (TileA){query + strip * dim, dim, 1}, keys, TILE_KEYS, scores, TILE_KEYS,
                             false);
            at = row_at(item.first_row + strip, group);
            for (int64_t r = 0; r < rows; r++, row_step(&at, group)) {
                int64_t valid = min_i64(seen, sequence.past + at.query + 1 - from);
                float *row = scores + r * TILE_KEYS;
                if (valid > 0)
                    softmax_row(row, valid, width, &state, strip + r, gathered + (strip + r) * padded, padded);
                else
                    memset(row, 0, sizeof(float) * (size_t)width);
            }
            tile_product(rows, padded, seen, (TileA){scores, TILE_KEYS, 1}, v.at, v.ld, gathered + strip * padded,
                         padded, true);
        }
    }
    at = row_at(item.first_row, group);
    for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
        int64_t token = sequence.start + at.query, head = item.kv_head * group + at.head;
        float inverse = 1.0f / state.sum[r];
        float *out = args->out + (token * args->heads + head) * dim;
        for (int64_t d = 0; d < dim; d++)
            out[d] = gathered[r * padded + d] * inverse;
        if (args->lse)
            args->lse[token * args->heads + head] = (state.largest[r] + log2f(state.sum[r])) * VEC_LN_2;
    }
}

void KERNEL(attention_forward)(Device *device, const AttentionForwardArgs *args)
{
    REQUIRE(args->head_dim <= HEAD_DIM_MAX && args->heads % args->kv_heads == 0,
            "head_dim %lld, heads %lld, kv_heads %lld", (long long)args->head_dim, (long long)args->heads,
            (long long)args->kv_heads);
    if (args->kv.k)
        cache_append(device, args);
    int64_t group = args->heads / args->kv_heads, items = 0;
    /* first[s]: items before sequence s */
    int64_t *first = arena_alloc(&device->scratch, sizeof(int64_t) * (size_t)(args->sequences + 1));
    for (int64_t s = 0; s < args->sequences; s++) {
        first[s] = items;
        items += (((args->start[s + 1] - args->start[s]) * group + TILE_ROWS - 1) / TILE_ROWS) * args->kv_heads;
    }
    first[args->sequences] = items;
    PARALLEL_FOR_UNEVEN(device, 4.0 * args->pairs * (double)(args->heads * args->head_dim))
    for (int64_t i = 0; i < items; i++) {
        int64_t low = 0, high = args->sequences - 1;
        while (low < high) {
            int64_t middle = (low + high + 1) / 2;
            if (first[middle] <= i)
                low = middle;
            else
                high = middle - 1;
        }
        int64_t rows = (args->start[low + 1] - args->start[low]) * group;
        int64_t part = i - first[low], from = part / args->kv_heads * TILE_ROWS;
        attend(args, (Item){low, part % args->kv_heads, from, min_i64(TILE_ROWS, rows - from)});
    }
}
