/* attention.c -- varlen causal attention with grouped queries, forward, with or without a key-value cache.
 *
 * Memory is linear in tokens: scores exist only for a strip of rows and a tile of keys, and softmax is kept as a running
 * maximum and sum (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022).
 * A "row" here is one (query, head) pair: the query heads that share a key head are interleaved, row = query * group +
 * head in group, so a tile of keys is fetched once for all of them, and a decode step of one query still has `group`
 * rows. An item of work is up to TILE_ROWS rows of one sequence and key head; items write disjoint places and are
 * independent, so who computes them changes nothing.
 * Many rows stand across, one lane each (narrow heads: attention_narrow.c). Few rows (decode) run over keys: by dot products where heads are wide, and where
 * heads are narrower than a register, over a cache whose registers hold several keys each. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/narrow.h"

enum { FEW_ROWS = 4, DIM_BY_DOT = 32 };

static Sequence sequence_of(const AttentionForwardArgs *args, int64_t s, int64_t kv_head)
{
    int64_t dim = args->head_dim, stride = (args->heads + 2 * args->kv_heads) * dim;
    Sequence sequence = {.start = args->start[s], .queries = args->start[s + 1] - args->start[s]};
    if (args->kv.k) {
        int64_t at = (args->kv.slot[s] * args->kv_heads + kv_head) * args->kv.capacity * dim;
        sequence.past = args->kv.past[s];
        sequence.k = (TileRows){floats(args->kv.k) + at, dim};
        sequence.v = (TileRows){floats(args->kv.v) + at, dim};
    } else {
        const float *first = floats(args->qkv) + sequence.start * stride + (args->heads + kv_head) * dim;
        sequence.k = (TileRows){first, stride};
        sequence.v = (TileRows){first + args->kv_heads * dim, stride};
    }
    return sequence;
}

static void cache_check(const AttentionForwardArgs *args)
{
    const KvArgs *kv = &args->kv;
    for (int64_t s = 0; s < args->sequences; s++) {
        int64_t count = args->start[s + 1] - args->start[s];
        REQUIRE(kv->slot[s] >= 0 && kv->slot[s] < kv->slots && kv->past[s] >= 0 && kv->past[s] + count <= kv->capacity,
                "sequence %lld: slot %d of %lld, %d + %lld tokens of %lld", (long long)s, kv->slot[s],
                (long long)kv->slots, kv->past[s], (long long)count, (long long)kv->capacity);
    }
}

/* The new keys and values of one sequence and key head. */
static void cache_append(const AttentionForwardArgs *args, int64_t s, int64_t kv_head)
{
    int64_t dim = args->head_dim, stride = (args->heads + 2 * args->kv_heads) * dim;
    const KvArgs *kv = &args->kv;
    float *keys = kv->k, *values = kv->v;
    int64_t to = ((kv->slot[s] * args->kv_heads + kv_head) * kv->capacity + kv->past[s]) * dim;
    for (int64_t t = args->start[s]; t < args->start[s + 1]; t++, to += dim) {
        const float *k = floats(args->qkv) + t * stride + (args->heads + kv_head) * dim, *v = k + args->kv_heads * dim;
        vec_copy(keys + to, k, dim);
        vec_copy(values + to, v, dim);
    }
}

VEC_INLINE void prefetch_row(const float *row, int64_t dim)
{
    for (int64_t d = 0; d < dim; d += 16)
        __builtin_prefetch(row + d);
}

/* scores[j] = query . keys[j] for one row. Row j of `next` is asked of memory meanwhile. */
static void scores_by_dot(const float *query, TileRows keys, int64_t count, int64_t dim, float *scores, TileRows next)
{
    for (int64_t j = 0; j < count; j++) {
        prefetch_row(next.at + j * next.ld, dim);
        scores[j] = vec_dot(query, keys.at + j * keys.ld, dim);
    }
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

/* Where an item's rows begin, and the scaled query of each in units of log 2. */
static void queries_load(const AttentionForwardArgs *args, const Sequence *sequence, Item item, float *query)
{
    int64_t dim = args->head_dim, group = args->heads / args->kv_heads;
    int64_t stride = (args->heads + 2 * args->kv_heads) * dim;
    float scale = args->scale * VEC_LOG2_E;
    RowAt at = row_at(item.first_row, group);
    for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
        const float *q =
            floats(args->qkv) + (sequence->start + at.query) * stride + (item.kv_head * group + at.head) * dim;
        vec_scale(query + r * dim, q, dim, scale);
    }
}

/* gathered (rows, ld) over sum -> out, and lse. state holds whole registers of rows. */
static void rows_store(const AttentionForwardArgs *args, const Sequence *sequence, Item item, const float *gathered,
                       int64_t ld, const RowState *state)
{
    int64_t dim = args->head_dim, group = args->heads / args->kv_heads;
    float lse[TILE_ROWS];
    for (int64_t r = 0; r < item.rows && args->lse; r += LANES)
        vec_store(lse + r, (vec_load(state->largest + r) + vec_log2(vec_load(state->sum + r))) * vec_set(VEC_LN_2));
    RowAt at = row_at(item.first_row, group);
    for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
        int64_t place = (sequence->start + at.query) * args->heads + item.kv_head * group + at.head;
        vec_scale(floats(args->out) + place * dim, gathered + r * ld, dim, 1.0f / state->sum[r]);
        if (args->lse)
            args->lse[place] = lse[r];
    }
}

/* One row's share of a tile of values: gathered += sum of p[j] values[j]. Four sums of every fourth key hide the latency
 * of adding. */
static void gather_row(const float *p, TileRows values, int64_t count, int64_t padded, float *gathered)
{
    for (int64_t d = 0; d < padded; d += LANES) {
        const float *v = values.at + d;
        Vec sum[4] = {{0}, {0}, {0}, {0}};
        int64_t j = 0;
        for (; j + 4 <= count; j += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                sum[i] += vec_set(p[j + i]) * vec_load(v + (j + i) * values.ld);
        for (; j < count; j++)
            sum[0] += vec_set(p[j]) * vec_load(v + j * values.ld);
        vec_store(gathered + d, vec_load(gathered + d) + ((sum[0] + sum[1]) + (sum[2] + sum[3])));
    }
}

/* Up to FEW_ROWS rows, one after the other: registers run over keys, then over head_dim. */
static void attend_few(const AttentionForwardArgs *args, const Sequence *sequence, Item item)
{
    float query[FEW_ROWS * HEAD_DIM_MAX], gathered[FEW_ROWS * HEAD_DIM_MAX];
    float keys[HEAD_DIM_MAX * TILE_KEYS], values[TILE_KEYS * HEAD_DIM_MAX], scores[FEW_ROWS * TILE_KEYS];
    RowState state;
    int64_t dim = args->head_dim, padded = tile_padded(dim), group = args->heads / args->kv_heads;
    queries_load(args, sequence, item, query);
    memset(gathered, 0, sizeof(float) * (size_t)(item.rows * padded));
    for (int64_t r = 0; r < tile_padded(item.rows); r++) {
        state.largest[r] = -INFINITY;
        state.sum[r] = 0.0f;
    }
    int64_t last_query = (item.first_row + item.rows - 1) / group, keys_end = sequence->past + last_query + 1;
    for (int64_t from = 0; from < keys_end; from += TILE_KEYS) {
        int64_t count = min_i64(TILE_KEYS, keys_end - from), width = tile_padded(count);
        TileRows k = {sequence->k.at + from * sequence->k.ld, sequence->k.ld};
        TileRows v = {sequence->v.at + from * sequence->v.ld, sequence->v.ld};
        v = tile_rows_padded(v, count, dim, values);
        if (dim >= DIM_BY_DOT) {
            for (int64_t r = 0; r < item.rows; r++)
                scores_by_dot(query + r * dim, k, count, dim, scores + r * TILE_KEYS, v);
        } else {
            tile_transpose(k, count, dim, keys);
            tile_product(item.rows, width, dim, (TileA){query, dim, 1}, keys, TILE_KEYS, scores, TILE_KEYS, false);
        }
        RowAt at = row_at(item.first_row, group);
        for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
            int64_t valid = min_i64(count, sequence->past + at.query + 1 - from);
            if (valid <= 0)
                continue;
            softmax_row(scores + r * TILE_KEYS, valid, width, &state, r, gathered + r * padded, padded);
            gather_row(scores + r * TILE_KEYS, v, valid, padded, gathered + r * padded);
        }
    }
    rows_store(args, sequence, item, gathered, padded, &state);
}

/* ---- Narrow heads: a register of a cache holds LANES / dim keys or values ---- */

enum { NARROW_KEYS = 256 }; /* of a tile: their scores stay in the first cache */

/* LANES rows from `at`, of which `count` exist, as they lie; zeros behind. */
VEC_INLINE void rows_load(const int dim, const float *at, int64_t count, Vec *row)
{
    if (count >= LANES) {
#pragma GCC unroll 16
        for (int i = 0; i < dim; i++)
            row[i] = vec_load(at + i * LANES);
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < dim; i++) {
        int64_t floats_left = count * dim - i * LANES;
        row[i] = floats_left >= LANES ? vec_load(at + i * LANES)
                 : floats_left > 0    ? vec_load_part(at + i * LANES, floats_left, 0.0f)
                                      : (Vec){0};
    }
}

/* attend_few() for keys and values that stand close: whole tiles of scores first, then weights and values in one visit. */
VEC_INLINE void attend_narrow(const int dim, const int rows, const AttentionForwardArgs *args, const Sequence *sequence,
                              Item item)
{
    float query[FEW_ROWS * LANES], scores[FEW_ROWS * NARROW_KEYS];
    Vec sum[FEW_ROWS], gathered[FEW_ROWS];
    float largest[FEW_ROWS];
    int64_t end[FEW_ROWS], group = args->heads / args->kv_heads; /* keys that a row sees */
    queries_load(args, sequence, item, query);
    VecI lanes, place; /* which of a register's keys each lane belongs to */
    for (int lane = 0; lane < LANES; lane++) {
        lanes[lane] = lane;
        place[lane] = lane / dim;
    }
    RowAt at = row_at(item.first_row, group);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++, row_step(&at, group)) {
        sum[r] = gathered[r] = (Vec){0};
        largest[r] = -INFINITY;
        end[r] = sequence->past + at.query + 1;
    }
    for (int64_t from = 0; from < end[rows - 1]; from += NARROW_KEYS) {
        int64_t count = min_i64(NARROW_KEYS, end[rows - 1] - from);
        Vec shift[FEW_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            shift[r] = vec_set(largest[r]);
        for (int64_t j = 0; j < count; j += LANES) {
            Vec across[LANES];
            rows_load(dim, sequence->k.at + (from + j) * dim, count - j, across);
            rows_turn(dim, across);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                Vec part[2] = {{0}, {0}};
#pragma GCC unroll 16
                for (int d = 0; d < dim; d++)
                    part[d % 2] += vec_set(query[r * dim + d]) * across[d];
                VecI last = (VecI){0} + (int32_t)(end[r] - 1 - from - j);
                Vec score = vec_select(lanes > last, vec_set(-INFINITY), part[0] + part[1]);
                vec_store(scores + r * NARROW_KEYS + j, score);
                shift[r] = vec_max(score, shift[r]);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            float before = largest[r];
            largest[r] = vec_largest(shift[r]);
            shift[r] = vec_set(largest[r]);
            if (from > 0) {
                Vec factor = vec_exp2(vec_set(before) - shift[r]);
                sum[r] *= factor;
                gathered[r] *= factor;
            }
        }
        for (int64_t j = 0; j < count; j += LANES) {
            Vec value[LANES];
            rows_load(dim, sequence->v.at + (from + j) * dim, count - j, value);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                Vec p = vec_exp2(vec_load(scores + r * NARROW_KEYS + j) - shift[r]), part[2] = {gathered[r], {0}};
                sum[r] += p;
#pragma GCC unroll 16
                for (int i = 0; i < dim; i++)
                    part[i % 2] += __builtin_shuffle(p, place + i * (LANES / dim)) * value[i];
                gathered[r] = part[0] + part[1];
            }
        }
    }
    RowState state;
    float folded[FEW_ROWS * LANES]; /* (rows, LANES), dim of them */
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        state.largest[r] = largest[r];
        state.sum[r] = vec_sum(sum[r]);
#if VEC_BYTES >= 64
        if (dim <= 8)
            gathered[r] += VEC_SWAP(gathered[r], 8);
#endif
#if VEC_BYTES >= 32
        if (dim <= 4)
            gathered[r] += VEC_SWAP(gathered[r], 4);
#endif
        vec_store(folded + r * LANES, gathered[r]);
    }
    for (int64_t r = rows; r < tile_padded(rows); r++) {
        state.largest[r] = 0.0f;
        state.sum[r] = 1.0f;
    }
    rows_store(args, sequence, item, folded, LANES, &state);
}

/* False: not of a width that this does. */
static bool attend_narrow_heads(const AttentionForwardArgs *args, const Sequence *sequence, Item item)
{
#define NARROW_CASE(dim, rows)                                                                                         \
    case 8 * (dim) + (rows):                                                                                           \
        attend_narrow(dim, rows, args, sequence, item);                                                                \
        return true;
#define NARROW_CASES(dim) NARROW_CASE(dim, 1) NARROW_CASE(dim, 2) NARROW_CASE(dim, 3) NARROW_CASE(dim, 4)
    switch (8 * args->head_dim + item.rows) {
        NARROW_CASES(4)
#if VEC_BYTES >= 32
        NARROW_CASES(8)
#endif
    default:
        return false;
    }
#undef NARROW_CASES
#undef NARROW_CASE
}

/* What attend_many() works in: everything lies across, one lane per row. */
typedef struct Across {
    float query[HEAD_DIM_MAX * TILE_ROWS];                          /* (dim, rows) */
    float gathered[HEAD_DIM_MAX * TILE_ROWS];                       /* (dim, rows) */
    float scores[TILE_KEYS * TILE_ROWS];                            /* (keys, lanes of the block) */
    float k[TILE_KEYS * HEAD_DIM_MAX], v[TILE_KEYS * HEAD_DIM_MAX]; /* (keys, dim) */
    int32_t limit[TILE_ROWS];                                       /* the last key that each row may see */
    RowState state;
} Across;

/* One register of rows against one tile of scores, turned into probabilities about a running maximum. */
VEC_INLINE void softmax_lanes(Across *work, int64_t lane, float *scores, int64_t ld, int64_t from, int64_t count,
                              int64_t dim)
{
    VecI limit;
    memcpy(&limit, work->limit + lane, sizeof limit);
    int32_t least = work->limit[lane];
    Vec before = vec_load(work->state.largest + lane), most = before;
    /* Rows stand in order, so keys up to the first row's limit are seen by all. */
    int64_t open = max_i64(min_i64(count, least + 1 - from), 0), j = 0;
    for (; j < open; j++)
        most = vec_max(vec_load(scores + j * ld), most);
    for (; j < count; j++) {
        VecI key = (VecI){0} + (int32_t)(from + j);
        Vec s = vec_select(key > limit, vec_set(-INFINITY), vec_load(scores + j * ld));
        vec_store(scores + j * ld, s);
        most = vec_max(s, most);
    }
    Vec sum = {0};
    for (j = 0; j < count; j++) {
        Vec p = vec_exp2(vec_load(scores + j * ld) - most);
        vec_store(scores + j * ld, p);
        sum += p;
    }
    Vec factor = vec_exp2(before - most);
    vec_store(work->state.sum + lane, vec_load(work->state.sum + lane) * factor + sum);
    vec_store(work->state.largest + lane, most);
    if (from == 0)
        return;
    for (int64_t d = 0; d < dim; d++) {
        float *gathered = work->gathered + d * TILE_ROWS + lane;
        vec_store(gathered, vec_load(gathered) * factor);
    }
}

/* Many rows: one lane per row, so neither softmax nor masks need anything across lanes, and keys and values are read as
 * they lie. */
static void attend_many(const AttentionForwardArgs *args, const Sequence *sequence, Item item)
{
    Across work;
    float rows[TILE_ROWS * HEAD_DIM_MAX]; /* (rows, dim) */
    int64_t dim = args->head_dim, group = args->heads / args->kv_heads;
    queries_load(args, sequence, item, rows);
    tile_transpose((TileRows){rows, dim}, item.rows, dim, work.query);
    RowAt at = row_at(item.first_row, group);
    for (int64_t r = 0; r < tile_padded(item.rows); r++) {
        work.limit[r] = (int32_t)(sequence->past + at.query);
        work.state.largest[r] = -INFINITY;
        work.state.sum[r] = 0.0f;
        if (r + 1 < item.rows) /* lanes past the last row repeat it */
            row_step(&at, group);
    }
    int64_t whole = tile_padded(item.rows), keys_end = work.limit[whole - 1] + 1;
    for (int64_t from = 0; from < keys_end; from += TILE_KEYS) {
        int64_t tile = min_i64(TILE_KEYS, keys_end - from);
        TileRows k =
            tile_rows_close((TileRows){sequence->k.at + from * sequence->k.ld, sequence->k.ld}, tile, dim, work.k);
        TileRows v =
            tile_rows_close((TileRows){sequence->v.at + from * sequence->v.ld, sequence->v.ld}, tile, dim, work.v);
        for (int64_t lane = 0; lane < whole; lane += 2 * LANES) {
            int64_t width = min_i64(whole - lane, 2 * LANES);
            int64_t count = min_i64(tile, work.limit[lane + width - 1] + 1 - from);
            if (count <= 0)
                continue;
            tile_product(count, width, dim, (TileA){k.at, k.ld, 1}, work.query + lane, TILE_ROWS, work.scores, width,
                         false);
            for (int64_t i = 0; i < width; i += LANES)
                softmax_lanes(&work, lane + i, work.scores + i, width, from, count, dim);
            tile_product(dim, width, count, (TileA){v.at, 1, v.ld}, work.scores, width, work.gathered + lane, TILE_ROWS,
                         from > 0);
        }
    }
    for (int64_t lane = 0; lane < item.rows; lane += LANES)
        for (int64_t d = 0; d < dim; d++) {
            if (d % LANES == 0 && d + LANES <= dim && lane + LANES <= item.rows) {
                vec_transpose(work.gathered + d * TILE_ROWS + lane, TILE_ROWS, rows + lane * dim + d, dim);
                d += LANES - 1;
            } else {
                for (int64_t r = lane; r < min_i64(lane + LANES, item.rows); r++)
                    rows[r * dim + d] = work.gathered[d * TILE_ROWS + r];
            }
        }
    rows_store(args, sequence, item, rows, dim, &work.state);
}

static void attend(const AttentionForwardArgs *args, Item item)
{
    Sequence sequence = sequence_of(args, item.sequence, item.kv_head);
    if (item.rows > FEW_ROWS) {
        if (narrow_suits(args->head_dim))
            KERNEL(attend_many_narrow)(args, &sequence, item);
        else
            attend_many(args, &sequence, item);
        return;
    }
    if (!args->kv.k || !attend_narrow_heads(args, &sequence, item))
        attend_few(args, &sequence, item);
}

/* Item number `part` of sequence s; `append`: it is the one that reads the sequence's new keys and values first. */
static void attend_item(const AttentionForwardArgs *args, int64_t s, int64_t part, bool append)
{
    int64_t rows = (args->start[s + 1] - args->start[s]) * (args->heads / args->kv_heads);
    int64_t from = part / args->kv_heads * TILE_ROWS, kv_head = part % args->kv_heads;
    if (args->kv.k && append)
        cache_append(args, s, kv_head);
    attend(args, (Item){s, kv_head, from, min_i64(TILE_ROWS, rows - from)});
}

void KERNEL(attention_forward)(Device *device, const AttentionForwardArgs *args)
{
    REQUIRE(args->head_dim <= HEAD_DIM_MAX && args->heads % args->kv_heads == 0,
            "head_dim %lld, heads %lld, kv_heads %lld", (long long)args->head_dim, (long long)args->heads,
            (long long)args->kv_heads);
    /* first[s]: items before sequence s */
    int64_t *first = arena_alloc(&device->scratch, sizeof(int64_t) * (size_t)(args->sequences + 1));
    if (!device->backend->computes)
        return;
    int64_t group = args->heads / args->kv_heads, items = 0, parts_most = 0;
    double pairs = 0; /* of now: args->pairs are those of when the work was kept */
    for (int64_t s = 0; s < args->sequences; s++) {
        int64_t tokens = args->start[s + 1] - args->start[s], parts = (tokens * group + TILE_ROWS - 1) / TILE_ROWS;
        pairs += (double)tokens * ((double)(tokens + 1) / 2 + (args->kv.k ? (double)args->kv.past[s] : 0));
        first[s] = items;
        items += parts * args->kv_heads;
        parts_most = max_i64(parts, parts_most);
    }
    first[args->sequences] = items;
    /* In a decode step nobody but the one item of a sequence and key head reads what it appends, and items are even. */
    bool lone = parts_most <= 1;
    if (args->kv.k)
        cache_check(args);
    if (args->kv.k && !lone) {
        PARALLEL_FOR(device, 2.0 * (double)args->tokens * (double)(args->kv_heads * args->head_dim))
        for (int64_t i = 0; i < args->sequences * args->kv_heads; i++)
            cache_append(args, i / args->kv_heads, i % args->kv_heads);
    }
    double work = 4.0 * pairs * (double)(args->heads * args->head_dim);
    int threads = cpu_threads(device, work);
    /* Handing out an item costs as much as some thousand operations. */
    double most = 2e5 * (double)items / work;
    int64_t piece = max_i64(1, min_i64(items / (16 * threads), (int64_t)most));
    if (threads == 1) {
        for (int64_t s = 0; s < args->sequences; s++)
            for (int64_t i = first[s]; i < first[s + 1]; i++)
                attend_item(args, s, i - first[s], lone);
        return;
    }
#pragma omp parallel for schedule(dynamic, piece) num_threads(threads)
    for (int64_t i = 0; i < items; i++) {
        int64_t low = 0, high = args->sequences - 1;
        while (low < high) {
            int64_t middle = (low + high + 1) / 2;
            if (first[middle] <= i)
                low = middle;
            else
                high = middle - 1;
        }
        attend_item(args, low, i - first[low], lone);
    }
}
