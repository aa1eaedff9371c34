/* attention_backward.c -- gradient of causal attention: probabilities are made again from the saved log-sum-exp
 * (FlashAttention-2, Dao 2023), so nothing of size tokens x tokens is ever kept.
 *
 *        P = exp(scale q.k - lse)      dV = P' dO      dP = dO V'      dS = P (dP - rowsum(dO O))
 *        dQ = scale dS K               dK = scale dS' Q
 *
 * Rows are (query, head) pairs as in attention.c. An item is one (sequence, key head): all of dK, dV and dQ that it
 * writes are its own, so nothing is added from two threads. When there are fewer items than threads can use, threads take
 * tiles of keys instead. dK and dV belong to a tile; dQ gathers over tiles, and there a tile follows the one before it
 * through the rows. So each number is summed in the same order both ways, with the same bits. */
#include <sched.h>
#include <stdatomic.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/narrow.h"

/* One sequence and key head, with everything about it that does not change from tile to tile. */
typedef struct Task {
    const AttentionBackwardArgs *args;
    int64_t start, tokens, kv_head, group, dim, padded, stride;
    TileRows k, v;
} Task;

static Task task_of(const AttentionBackwardArgs *args, int64_t s, int64_t kv_head)
{
    int64_t dim = args->head_dim, stride = (args->heads + 2 * args->kv_heads) * dim;
    Task task = {.args = args,
                 .start = args->start[s],
                 .tokens = args->start[s + 1] - args->start[s],
                 .kv_head = kv_head,
                 .group = args->heads / args->kv_heads,
                 .dim = dim,
                 .padded = tile_padded(dim),
                 .stride = stride};
    const float *first = floats(args->qkv) + task.start * stride + (args->heads + kv_head) * dim;
    task.k = (TileRows){first, stride};
    task.v = (TileRows){first + args->kv_heads * dim, stride};
    return task;
}

/* Few, so that little is computed above the diagonal. */
enum { ROWS = 32 };

typedef struct KeyTile {
    int64_t from, count;
    float k_across[HEAD_DIM_MAX * TILE_KEYS], v_across[HEAD_DIM_MAX * TILE_KEYS]; /* (dim, keys) */
    float buffer[TILE_KEYS * HEAD_DIM_MAX];
    TileRows k;
    float dk_across[HEAD_DIM_MAX * TILE_KEYS], dv_across[HEAD_DIM_MAX * TILE_KEYS]; /* (dim, keys) */
} KeyTile;

typedef struct RowTile {
    int64_t from, count, seen; /* seen: keys of the tile at hand that the last row may see */
    RowAt first;
    float query[ROWS * HEAD_DIM_MAX], dout[ROWS * HEAD_DIM_MAX]; /* (rows, padded); query times scale / ln 2 */
    float lse[ROWS], delta[ROWS];                                /* lse / ln 2 */
    float dquery[ROWS * HEAD_DIM_MAX];                           /* (rows, padded), without scale */
} RowTile;

/* What a thread works in. */
typedef struct Workspace {
    KeyTile keys;
    RowTile rows;
    float p[ROWS * TILE_KEYS], ds[ROWS * TILE_KEYS];
} Workspace;

static void keys_load(const Task *task, KeyTile *tile, int64_t from)
{
    tile->from = from;
    tile->count = min_i64(TILE_KEYS, task->tokens - from);
    TileRows k = {task->k.at + from * task->k.ld, task->k.ld}, v = {task->v.at + from * task->v.ld, task->v.ld};
    tile_transpose(k, tile->count, task->dim, tile->k_across);
    tile_transpose(v, tile->count, task->dim, tile->v_across);
    tile->k = tile_rows_padded(k, tile->count, task->dim, tile->buffer);
}

static void rows_load(const Task *task, RowTile *tile, int64_t from)
{
    const AttentionBackwardArgs *args = task->args;
    int64_t dim = task->dim, padded = task->padded;
    float scale = args->scale * VEC_LOG2_E;
    tile->from = from;
    tile->count = min_i64(ROWS, task->tokens * task->group - from);
    RowAt row = tile->first = row_at(from, task->group);
    for (int64_t r = 0; r < tile->count; r++, row_step(&row, task->group)) {
        int64_t token = task->start + row.query, head = task->kv_head * task->group + row.head;
        const float *q = floats(args->qkv) + token * task->stride + head * dim;
        int64_t at = (token * args->heads + head) * dim;
        vec_scale(tile->query + r * padded, q, dim, scale);
        vec_scale(tile->dout + r * padded, floats(args->dout) + at, dim, 1.0f);
        for (int64_t d = dim; d < padded; d++)
            tile->query[r * padded + d] = tile->dout[r * padded + d] = 0.0f;
        tile->lse[r] = args->lse[token * args->heads + head] * VEC_LOG2_E;
        tile->delta[r] = vec_dot(floats(args->dout) + at, floats(args->out) + at, dim);
    }
}

/* p and ds of this tile of rows and keys; keys that a row may not see get 0. */
static void scores(const Task *task, Workspace *work)
{
    const KeyTile *keys = &work->keys;
    RowTile *rows = &work->rows;
    int64_t last = (rows->from + rows->count - 1) / task->group;
    rows->seen = min_i64(keys->count, last + 1 - keys->from);
    int64_t width = tile_padded(rows->seen), padded = task->padded;
    tile_product(rows->count, width, task->dim, (TileA){rows->query, padded, 1}, keys->k_across, TILE_KEYS, work->p,
                 TILE_KEYS, false);
    tile_product(rows->count, width, task->dim, (TileA){rows->dout, padded, 1}, keys->v_across, TILE_KEYS, work->ds,
                 TILE_KEYS, false);
    RowAt row = rows->first;
    for (int64_t r = 0; r < rows->count; r++, row_step(&row, task->group)) {
        float *p = work->p + r * TILE_KEYS, *ds = work->ds + r * TILE_KEYS;
        int64_t valid = min_i64(rows->seen, row.query + 1 - keys->from);
        Vec lse = vec_set(rows->lse[r]), delta = vec_set(rows->delta[r]);
        for (int64_t j = 0; j < width; j += LANES) {
            Vec probability = vec_exp2(vec_load(p + j) - lse);
            vec_store(p + j, probability);
            vec_store(ds + j, probability * (vec_load(ds + j) - delta));
        }
        for (int64_t j = max_i64(valid, 0); j < width; j++)
            p[j] = ds[j] = 0.0f;
    }
}

/* Across like the keys themselves: head_dim need not fill registers. */
static void add_keys_gradient(const Task *task, Workspace *work)
{
    KeyTile *keys = &work->keys;
    const RowTile *rows = &work->rows;
    int64_t width = tile_padded(rows->seen);
    tile_product(task->dim, width, rows->count, (TileA){rows->dout, 1, task->padded}, work->p, TILE_KEYS,
                 keys->dv_across, TILE_KEYS, true);
    tile_product(task->dim, width, rows->count, (TileA){rows->query, 1, task->padded}, work->ds, TILE_KEYS,
                 keys->dk_across, TILE_KEYS, true);
}

static void rows_gradient(const Task *task, Workspace *work)
{
    RowTile *rows = &work->rows;
    const KeyTile *keys = &work->keys;
    tile_product(rows->count, task->padded, rows->seen, (TileA){work->ds, TILE_KEYS, 1}, keys->k.at, keys->k.ld,
                 rows->dquery, task->padded, false);
}

static void keys_store(const Task *task, const KeyTile *keys)
{
    float *dk = floats(task->args->dqkv) + (task->start + keys->from) * task->stride +
                (task->args->heads + task->kv_head) * task->dim;
    tile_transpose_back(keys->dk_across, keys->count, task->dim, VEC_LN_2, dk, task->stride);
    tile_transpose_back(keys->dv_across, keys->count, task->dim, 1.0f, dk + task->args->kv_heads * task->dim,
                        task->stride);
}

/* ---- Narrow heads (narrow.h): a block is the rows of a tile against one register of keys ---- */

/* Packed, and across: the keys times scale / ln 2, so that queries go as they are. */
VEC_INLINE void narrow_keys_load(const int dim, const Task *task, KeyTile *tile, int64_t from)
{
    tile->from = from;
    tile->count = min_i64(TILE_KEYS, task->tokens - from);
    Vec scale = vec_set(task->args->scale * VEC_LOG2_E), across[NARROW_MAX];
    float v[TILE_KEYS * NARROW_MAX]; /* (keys, dim) */
    rows_pack(dim, (TileRows){task->k.at + from * task->k.ld, task->k.ld}, tile->count, tile->buffer);
    rows_pack(dim, (TileRows){task->v.at + from * task->v.ld, task->v.ld}, tile->count, v);
    for (int64_t j = 0; j < tile->count; j += LANES) {
        rows_across(dim, tile->buffer + j * dim, across);
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            vec_store(tile->k_across + d * TILE_KEYS + j, across[d] * scale);
        rows_across(dim, v + j * dim, across);
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            vec_store(tile->v_across + d * TILE_KEYS + j, across[d]);
    }
}

/* query and dout (rows, dim) as they are; lse and delta are what scores and slopes begin with, so less than nothing. */
VEC_INLINE void narrow_rows_load(const int dim, const Task *task, RowTile *tile, int64_t from)
{
    const AttentionBackwardArgs *args = task->args;
    const float *first = floats(args->qkv) + task->start * task->stride + task->kv_head * task->group * dim;
    float *out = tile->dquery; /* (rows, dim) */
    tile->from = from;
    tile->count = min_i64(ROWS, task->tokens * task->group - from);
    RowAt row = tile->first = row_at(from, task->group);
    for (int64_t r = 0; r < tile->count; r++, row_step(&row, task->group)) {
        int64_t place = (task->start + row.query) * args->heads + task->kv_head * task->group + row.head;
        memcpy(tile->query + r * dim, first + row.query * task->stride + row.head * dim, sizeof(float) * (size_t)dim);
        memcpy(tile->dout + r * dim, floats(args->dout) + place * dim, sizeof(float) * (size_t)dim);
        memcpy(out + r * dim, floats(args->out) + place * dim, sizeof(float) * (size_t)dim);
        tile->lse[r] = args->lse[place] * -VEC_LOG2_E;
    }
    int64_t whole = tile_padded(tile->count);
    size_t behind = sizeof(float) * (size_t)((whole - tile->count) * dim);
    memset(tile->dout + tile->count * dim, 0, behind);
    memset(out + tile->count * dim, 0, behind);
    for (int64_t r = 0; r < whole; r += LANES) {
        Vec x[NARROW_MAX];
#pragma GCC unroll 16
        for (int i = 0; i < dim; i++)
            x[i] = vec_load(out + r * dim + i * LANES) * vec_load(tile->dout + r * dim + i * LANES);
        vec_store(tile->delta + r, -rows_sum(dim, x));
    }
}

/* p and ds (rows, LANES) of the block whose keys begin at j of the tile, from the first row that sees one of them. */
VEC_INLINE void narrow_scores(const int dim, const Task *task, Workspace *work, int64_t j, int64_t first)
{
    const KeyTile *keys = &work->keys;
    const RowTile *rows = &work->rows;
    Vec k[NARROW_MAX], v[NARROW_MAX];
#pragma GCC unroll 16
    for (int d = 0; d < dim; d++) {
        k[d] = vec_load(keys->k_across + d * TILE_KEYS + j);
        v[d] = vec_load(keys->v_across + d * TILE_KEYS + j);
    }
    VecI lane;
    for (int i = 0; i < LANES; i++)
        lane[i] = i;
    RowAt row = row_at(rows->from + first, task->group);
    for (int64_t r = first; r < rows->count; r++, row_step(&row, task->group)) {
        Vec p = vec_exp2(narrow_dot(dim, k, rows->query + r * dim, vec_set(rows->lse[r])));
        Vec ds = p * narrow_dot(dim, v, rows->dout + r * dim, vec_set(rows->delta[r]));
        int64_t last = row.query - keys->from - j; /* key of the block that the row sees */
        if (last < LANES - 1) {
            VecI hidden = lane > (VecI){0} + (int32_t)last;
            p = vec_select(hidden, (Vec){0}, p);
            ds = vec_select(hidden, (Vec){0}, ds);
        }
        vec_store(work->p + r * LANES, p);
        vec_store(work->ds + r * LANES, ds);
    }
}

/* One tile of rows against the tile of keys: dK and dV, and the tile's share of dQ, without scale, in dquery (rows, dim). */
VEC_INLINE void narrow_rows(const int dim, const Task *task, Workspace *work)
{
    KeyTile *keys = &work->keys;
    RowTile *rows = &work->rows;
    int64_t whole = tile_padded(rows->count), seen = (rows->from + rows->count - 1) / task->group + 1 - keys->from;
    memset(rows->dquery, 0, sizeof(float) * (size_t)(whole * dim));
    for (int64_t j = 0; j < min_i64(keys->count, seen); j += LANES) {
        int64_t first = max_i64(0, (keys->from + j) * task->group - rows->from);
        narrow_scores(dim, task, work, j, first);
        narrow_add(dim, rows->count - first, work->p + first * LANES, rows->dout + first * dim, keys->dv_across + j,
                   TILE_KEYS);
        narrow_add(dim, rows->count - first, work->ds + first * LANES, rows->query + first * dim, keys->dk_across + j,
                   TILE_KEYS);
        int64_t from = first / LANES * LANES;
        memset(work->ds + from * LANES, 0, sizeof(float) * (size_t)((first - from) * LANES));
        memset(work->ds + rows->count * LANES, 0, sizeof(float) * (size_t)((whole - rows->count) * LANES));
        for (int64_t r = from; r < whole; r += LANES) { /* dquery lies across, block by block */
            float turned[LANES * LANES];                /* (keys, rows) */
            vec_transpose(work->ds + r * LANES, LANES, turned, LANES);
            narrow_add(dim, LANES, turned, keys->buffer + j * dim, rows->dquery + r * dim, LANES);
        }
    }
    for (int64_t r = 0; r < whole; r += LANES) {
        Vec across[NARROW_MAX];
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            across[d] = vec_load(rows->dquery + r * dim + d * LANES);
        rows_along(dim, across, rows->dquery + r * dim);
    }
}

VEC_INLINE void narrow_keys_store(const int dim, const Task *task, KeyTile *keys)
{
    float dv[TILE_KEYS * NARROW_MAX], *dk = keys->buffer; /* (keys, dim) */
    Vec scale = vec_set(task->args->scale), across[NARROW_MAX];
    for (int64_t j = 0; j < keys->count; j += LANES) {
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            across[d] = vec_load(keys->dk_across + d * TILE_KEYS + j) * scale;
        rows_along(dim, across, dk + j * dim);
#pragma GCC unroll 16
        for (int d = 0; d < dim; d++)
            across[d] = vec_load(keys->dv_across + d * TILE_KEYS + j);
        rows_along(dim, across, dv + j * dim);
    }
    float *to = floats(task->args->dqkv) + (task->start + keys->from) * task->stride +
                (task->args->heads + task->kv_head) * dim;
    for (int64_t j = 0; j < keys->count; j++, to += task->stride) {
        memcpy(to, dk + j * dim, sizeof(float) * (size_t)dim);
        memcpy(to + task->args->kv_heads * dim, dv + j * dim, sizeof(float) * (size_t)dim);
    }
}

/* ---- The walk over tiles ---- */

/* dqkv's q part gathers, over tiles of keys in order, scale dS K, of which dquery (rows, ld) is one tile's. */
VEC_INLINE void dquery_store(const Task *task, const Workspace *work, int64_t dim, int64_t ld)
{
    const RowTile *rows = &work->rows;
    RowAt row = rows->first;
    for (int64_t r = 0; r < rows->count; r++, row_step(&row, task->group)) {
        float *to = floats(task->args->dqkv) + (task->start + row.query) * task->stride +
                    (task->kv_head * task->group + row.head) * dim;
        const float *from = rows->dquery + r * ld;
        if (work->keys.from == 0)
            vec_scale(to, from, dim, task->args->scale);
        else
            vec_add_scaled(to, from, dim, task->args->scale);
    }
}

/* Rows of an item whose dQ has what a tile of keys adds. */
typedef _Atomic int64_t Progress;

/* Most waits are short: the tile before is a few rows ahead all the way. */
static void progress_wait(Progress *progress, int64_t rows)
{
    for (int looks = 0; atomic_load_explicit(progress, memory_order_acquire) < rows; looks++)
        if (looks >= 1000)
            sched_yield();
}

/* One tile of keys against all rows that see it. progress: the tile's, behind that of the tile before it. narrow: head_dim, or 0. */
VEC_INLINE void tile_backward(const int narrow, const Task *task, Workspace *work, int64_t from, Progress *progress)
{
    if (narrow)
        narrow_keys_load(narrow, task, &work->keys, from);
    else
        keys_load(task, &work->keys, from);
    size_t bytes = sizeof(float) * (size_t)(task->dim * TILE_KEYS);
    memset(work->keys.dk_across, 0, bytes);
    memset(work->keys.dv_across, 0, bytes);
    int64_t rows = task->tokens * task->group;
    /* The first tile may begin before the first row that sees the keys: such rows are masked. */
    for (int64_t row = from * task->group / ROWS * ROWS; row < rows; row += ROWS) {
        if (narrow) {
            narrow_rows_load(narrow, task, &work->rows, row);
            narrow_rows(narrow, task, work);
        } else {
            rows_load(task, &work->rows, row);
            scores(task, work);
            add_keys_gradient(task, work);
            rows_gradient(task, work);
        }
        if (from > 0)
            progress_wait(progress - 1, row + ROWS);
        dquery_store(task, work, narrow ? narrow : task->dim, narrow ? narrow : task->padded);
        atomic_store_explicit(progress, row + ROWS, memory_order_release);
    }
    if (narrow)
        narrow_keys_store(narrow, task, &work->keys);
    else
        keys_store(task, &work->keys);
}

static void keys_backward(const Task *task, Workspace *work, int64_t from, Progress *progress)
{
    if (task->dim == 8)
        tile_backward(8, task, work, from, progress);
    else if (task->dim == NARROW_MAX)
        tile_backward(NARROW_MAX, task, work, from, progress);
    else
        tile_backward(0, task, work, from, progress);
}

void KERNEL(attention_backward)(Device *device, const AttentionBackwardArgs *args)
{
    REQUIRE(args->head_dim <= HEAD_DIM_MAX && args->heads % args->kv_heads == 0,
            "head_dim %lld, heads %lld, kv_heads %lld", (long long)args->head_dim, (long long)args->heads,
            (long long)args->kv_heads);
    int64_t items = args->sequences * args->kv_heads;
    double work = 10.0 * args->pairs * (double)(args->heads * args->head_dim);
    int threads = cpu_threads(device, work);
    int64_t tiles_most = args->longest / TILE_KEYS + 1;
    Workspace *workspaces = arena_alloc(&device->scratch, sizeof(Workspace) * (size_t)threads);
    Progress *progress = arena_alloc(&device->scratch, sizeof *progress * (size_t)(tiles_most * threads));
    if (!device->backend->computes)
        return;
    if (items >= 2 * threads || threads == 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t i = 0; i < items; i++) {
            Task task = task_of(args, i / args->kv_heads, i % args->kv_heads);
            Progress *own = progress + omp_get_thread_num() * tiles_most;
            for (int64_t tile = 0; tile * TILE_KEYS < task.tokens; tile++)
                keys_backward(&task, &workspaces[omp_get_thread_num()], tile * TILE_KEYS, own + tile);
        }
        return;
    }
    for (int64_t i = 0; i < items; i++) {
        Task task = task_of(args, i / args->kv_heads, i % args->kv_heads);
        int64_t tiles = (task.tokens + TILE_KEYS - 1) / TILE_KEYS;
        for (int64_t tile = 0; tile < tiles; tile++)
            atomic_store_explicit(progress + tile, 0, memory_order_relaxed);
            /* Handed out in order: the tile that another waits for has begun. */
#pragma omp parallel for schedule(monotonic : dynamic, 1) num_threads(threads)
        for (int64_t tile = 0; tile < tiles; tile++)
            keys_backward(&task, &workspaces[omp_get_thread_num()], tile * TILE_KEYS, progress + tile);
    }
}
