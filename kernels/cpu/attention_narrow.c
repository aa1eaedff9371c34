/* attention_narrow.c -- attention's forward pass for many rows of narrow heads: attend_many() of attention.c, with all that it does to a row kept
 * in registers (narrow.h). One lane per row, softmax over tiles of keys as there. */
#include "kernels/cpu/attention.h"
#include "kernels/cpu/narrow.h"

/* A register of rows lies across, block by block: (rows / LANES, dim, LANES). */
typedef struct Narrow {
    float rows[TILE_ROWS * NARROW_MAX]; /* (rows, dim), on the way in and out */
    float query[TILE_ROWS * NARROW_MAX], gathered[TILE_ROWS * NARROW_MAX];
    float k[TILE_KEYS * NARROW_MAX], v[TILE_KEYS * NARROW_MAX]; /* (keys, dim) */
    float scores[TILE_KEYS * LANES];                            /* (keys, LANES) */
    float largest[TILE_ROWS], sum[TILE_ROWS];
    int32_t limit[TILE_ROWS]; /* the last key that each row may see */
} Narrow;

/* Lanes past the last row repeat its limit and ask for nothing. */
VEC_INLINE void rows_begin(const int dim, const AttentionForwardArgs *args, const Sequence *sequence, Item item,
                           Narrow *work)
{
    int64_t group = args->heads / args->kv_heads, stride = (args->heads + 2 * args->kv_heads) * dim;
    const float *first = floats(args->qkv) + sequence->start * stride + item.kv_head * group * dim;
    Vec scale = vec_set(args->scale * VEC_LOG2_E);
    RowAt at = row_at(item.first_row, group);
    int32_t limit = 0;
    for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
        memcpy(work->rows + r * dim, first + at.query * stride + at.head * dim, sizeof(float) * (size_t)dim);
        work->limit[r] = limit = (int32_t)(sequence->past + at.query);
    }
    for (int64_t r = item.rows; r < tile_padded(item.rows); r++) {
        memset(work->rows + r * dim, 0, sizeof(float) * (size_t)dim);
        work->limit[r] = limit;
    }
    for (int64_t lane = 0; lane < item.rows; lane += LANES) {
        Vec query[NARROW_MAX];
        rows_across(dim, work->rows + lane * dim, query);
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++) {
            vec_store(work->query + lane * dim + d * LANES, query[d] * scale);
            vec_store(work->gathered + lane * dim + d * LANES, (Vec){0});
        }
        vec_store(work->largest + lane, vec_set(-INFINITY));
        vec_store(work->sum + lane, (Vec){0});
    }
}

/* One register of rows against `count` keys of the tile that begins at key `from`. */
VEC_INLINE void lanes_attend(const int dim, Narrow *work, int64_t lane, const float *k, const float *v, int64_t from,
                             int64_t count)
{
    Vec query[NARROW_MAX];
#pragma GCC unroll 16
    for (int d = 0; d < dim; d++)
        query[d] = vec_load(work->query + lane * dim + d * LANES);
    VecI limit;
    memcpy(&limit, work->limit + lane, sizeof limit);
    Vec before = vec_load(work->largest + lane), most = before;
    /* Rows stand in order, so keys up to the first row's limit are seen by all. */
    int64_t open = max_i64(min_i64(count, work->limit[lane] + 1 - from), 0), j = 0;
    for (; j < open; j++) {
        Vec s = narrow_dot(dim, query, k + j * dim, (Vec){0});
        vec_store(work->scores + j * LANES, s);
        most = vec_max(s, most);
    }
    for (; j < count; j++) {
        VecI key = (VecI){0} + (int32_t)(from + j);
        Vec s = vec_select(key > limit, vec_set(-INFINITY), narrow_dot(dim, query, k + j * dim, (Vec){0}));
        vec_store(work->scores + j * LANES, s);
        most = vec_max(s, most);
    }
    Vec sum = {0};
    for (j = 0; j < count; j++) {
        Vec p = vec_exp2(vec_load(work->scores + j * LANES) - most);
        vec_store(work->scores + j * LANES, p);
        sum += p;
    }
    float *gathered = work->gathered + lane * dim;
    if (from > 0) {
        Vec factor = vec_exp2(before - most);
        sum += vec_load(work->sum + lane) * factor;
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            vec_store(gathered + d * LANES, vec_load(gathered + d * LANES) * factor);
    }
    vec_store(work->sum + lane, sum);
    vec_store(work->largest + lane, most);
    narrow_add(dim, count, work->scores, v, gathered, LANES);
}

/* gathered over sum -> out, and lse. */
VEC_INLINE void rows_end(const int dim, const AttentionForwardArgs *args, const Sequence *sequence, Item item,
                         Narrow *work)
{
    int64_t group = args->heads / args->kv_heads;
    for (int64_t lane = 0; lane < item.rows; lane += LANES) {
        Vec out[NARROW_MAX], sum = vec_load(work->sum + lane), share = vec_set(1.0f) / sum;
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            out[d] = vec_load(work->gathered + lane * dim + d * LANES) * share;
        rows_along(dim, out, work->rows + lane * dim);
        vec_store(work->sum + lane, (vec_load(work->largest + lane) + vec_log2(sum)) * vec_set(VEC_LN_2));
    }
    RowAt at = row_at(item.first_row, group);
    for (int64_t r = 0; r < item.rows; r++, row_step(&at, group)) {
        int64_t place = (sequence->start + at.query) * args->heads + item.kv_head * group + at.head;
        memcpy(floats(args->out) + place * dim, work->rows + r * dim, sizeof(float) * (size_t)dim);
        if (args->lse)
            args->lse[place] = work->sum[r];
    }
}

VEC_INLINE void attend(const int dim, const AttentionForwardArgs *args, const Sequence *sequence, Item item)
{
    Narrow work;
    rows_begin(dim, args, sequence, item, &work);
    int64_t keys_end = sequence->past + (item.first_row + item.rows - 1) / (args->heads / args->kv_heads) + 1;
    for (int64_t from = 0; from < keys_end; from += TILE_KEYS) {
        int64_t tile = min_i64(TILE_KEYS, keys_end - from);
        rows_pack(dim, (TileRows){sequence->k.at + from * sequence->k.ld, sequence->k.ld}, tile, work.k);
        rows_pack(dim, (TileRows){sequence->v.at + from * sequence->v.ld, sequence->v.ld}, tile, work.v);
        for (int64_t lane = 0; lane < item.rows; lane += LANES) {
            int64_t count = min_i64(tile, work.limit[lane + LANES - 1] + 1 - from);
            if (count > 0)
                lanes_attend(dim, &work, lane, work.k, work.v, from, count);
        }
    }
    rows_end(dim, args, sequence, item, &work);
}

void KERNEL(attend_many_narrow)(const AttentionForwardArgs *args, const Sequence *sequence, Item item)
{
    if (args->head_dim == 8)
        attend(8, args, sequence, item);
    else
        attend(NARROW_MAX, args, sequence, item);
}
