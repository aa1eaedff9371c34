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
#include "kernels/cpu/tile.h"

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

/* dqkv's q part gathers, over tiles of keys in order, scale dS K. */
static void add_rows_gradient(const Task *task, Workspace *work)
{
    RowTile *rows = &work->rows;
    const KeyTile *keys = &work->keys;
    tile_product(rows->count, task->padded, rows->seen, (TileA){work->ds, TILE_KEYS, 1}, keys->k.at, keys->k.ld,
                 rows->dquery, task->padded, false);
    RowAt row = rows->first;
    for (int64_t r = 0; r < rows->count; r++, row_step(&row, task->group)) {
        float *to = floats(task->args->dqkv) + (task->start + row.query) * task->stride +
                    (task->kv_head * task->group + row.head) * task->dim;
        const float *from = rows->dquery + r * task->padded;
        if (keys->from == 0)
            vec_scale(to, from, task->dim, task->args->scale);
        else
            vec_add_scaled(to, from, task->dim, task->args->scale);
    }
}

static void keys_store(const Task *task, const KeyTile *keys)
{
    float *dk = floats(task->args->dqkv) + (task->start + keys->from) * task->stride +
                (task->args->heads + task->kv_head) * task->dim;
    tile_transpose_back(keys->dk_across, keys->count, task->dim, VEC_LN_2, dk, task->stride);
    tile_transpose_back(keys->dv_across, keys->count, task->dim, 1.0f, dk + task->args->kv_heads * task->dim,
                        task->stride);
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

/* One tile of keys against all rows that see it. progress: the tile's, behind that of the tile before it. */
static void keys_backward(const Task *task, Workspace *work, int64_t from, Progress *progress)
{
    keys_load(task, &work->keys, from);
    size_t bytes = sizeof(float) * (size_t)(task->dim * TILE_KEYS);
    memset(work->keys.dk_across, 0, bytes);
    memset(work->keys.dv_across, 0, bytes);
    int64_t rows = task->tokens * task->group;
    /* The first tile may begin before the first row that sees the keys: such rows are masked. */
    for (int64_t row = from * task->group / ROWS * ROWS; row < rows; row += ROWS) {
        rows_load(task, &work->rows, row);
        scores(task, work);
        add_keys_gradient(task, work);
        if (from > 0)
            progress_wait(progress - 1, row + ROWS);
        add_rows_gradient(task, work);
        atomic_store_explicit(progress, row + ROWS, memory_order_release);
    }
    keys_store(task, &work->keys);
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
