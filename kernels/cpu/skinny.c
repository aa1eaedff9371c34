/* skinny.c -- C (m, n) = X (m, k) W (n, k) transposed for few rows of X: a decode step, or the head of a few answers.
 *
 * Why:   each weight is used m times only, so the matrix must come from memory once and at memory's speed. Libraries
 *        copy it into their own order first, which costs as much as the product.
 * Along: up to ALONG_ROWS rows. Registers run along k of a block of rows of X and of W; their sums are folded at the end.
 * Across: more rows. X is laid out as (k, m) once, registers run across its rows, and each weight is spread over a
 *        register; the result appears transposed in blocks of LANES x LANES.
 * Both ask for W before it is needed. Along for the next rows while it works on these; across line by line in the order
 *        of memory, evenly spread over the arithmetic, once far ahead (into the second cache) and once near: a core waits
 *        for few lines at a time, and asked for a row's lines at once it has none left for X. In a model W's rows lie
 *        back to back; where they do not, what is asked for is not what is needed, and only time is lost.
 * Order: along k in LANES partial sums and a fixed tree; across one sum in order of k. Neither depends on threads. */
#include "kernels/cpu/skinny.h"
#include "kernels/cpu/vec.h"

/* How many rows of X (along), or registers of them (across), make sums that fit the registers. Nothing else is faster
 * up to ROWS_MAX rows, and up to ROWS_MORE where all of X stays in the second cache. */
#if VEC_BYTES == 64
enum { BLOCK_ROWS = 8, ACROSS_VECS = 3, ROWS_MORE = 192 };
#else
enum { BLOCK_ROWS = 4, ACROSS_VECS = 2, ROWS_MORE = 64 };
#endif
enum {
    ALONG_ROWS = 8,
    ROWS_MAX = 64,
    X_MAX = 196608,     /* floats of X that stay in the second cache */
    DEPTH_MIN = 256,    /* below, folding costs more than it saves unless a row is folded once or twice, or never */
    FOLDED_FEW = 2,     /* rows */
    LINE = 16,          /* floats that memory gives at once */
    NEAR_BYTES = 4096,  /* how far ahead of its use W is asked into the first cache, */
    FAR_BYTES = 36864,  /* and into the second: a core does in this time several times what memory takes to answer */
    STRETCH = 24,       /* rows of W that a depth block of X serves before the next comes into the first cache */
    X_FLOATS = 8192,    /* of that cache */
    LONE_WORK = 262144, /* below, waking other threads costs more than it brings */
};

bool KERNEL(skinny_suits)(const GemmArgs *args)
{
    bool x_rows = !args->transpose_a || (args->m == 1 && args->lda == 1);
    int64_t rows_max = args->m * args->k <= X_MAX ? ROWS_MORE : ROWS_MAX;
    bool deep = args->k >= DEPTH_MIN || (args->k >= LANES && (args->m <= FOLDED_FEW || args->m >= LANES));
    return x_rows && args->transpose_b && args->m <= rows_max && args->n >= LANES && deep;
}

VEC_INLINE void element_store(const GemmArgs *args, int64_t i, int64_t j, float sum, float beta, bool last)
{
    float *out = floats(args->c) + i * args->ldc + j, value = args->alpha * sum;
    if (beta != 0.0f)
        value += beta * *out;
    *out = last && args->bias ? value + args->bias[j] : value;
}

/* ---- Along ---- */

/* out[i] = sum of x[i]; count is a power of two, at most LANES. Pairs of registers are woven and added until one is left,
 * whose lanes are then the sums in order. */
VEC_INLINE void vec_sums(const int count, Vec *x, float *out)
{
#pragma GCC unroll 4
    for (int half = count / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            x[i] = VEC_WEAVE_LOW(x[i], x[i + half]) + VEC_WEAVE_HIGH(x[i], x[i + half]);
    Vec sum = x[0];
#if VEC_BYTES >= 64
    if (count < 16)
        sum += VEC_SWAP(sum, 8);
#endif
#if VEC_BYTES >= 32
    if (count < 8)
        sum += VEC_SWAP(sum, 4);
#endif
    if (count < 4)
        sum += VEC_SWAP(sum, 2);
    if (count < 2)
        sum += VEC_SWAP(sum, 1);
    vec_store(out, sum);
}

/* Of one product: rows i.. of X, rows j.. of W, depth [from, to). */
typedef struct Along {
    const GemmArgs *args;
    int64_t from, to;
} Along;

VEC_INLINE void along_block(const int left, const int right, const Along *along, int64_t i, int64_t j)
{
    enum { SUMS_MAX = 32 };
    const GemmArgs *args = along->args;
    const float *x = floats(args->a) + i * args->lda, *w = floats(args->b) + j * args->ldb;
    int64_t ahead = right * args->ldb;
    const int count = left * right;
    Vec sum[SUMS_MAX];
#pragma GCC unroll 32
    for (int q = 0; q < SUMS_MAX; q++)
        sum[q] = (Vec){0};
    int64_t p = along->from;
    for (; p + LANES <= along->to; p += LANES) {
        Vec weight[8];
#pragma GCC unroll 8
        for (int c = 0; c < right; c++) {
            weight[c] = vec_load(w + c * args->ldb + p);
            __builtin_prefetch(w + c * args->ldb + p + ahead);
        }
#pragma GCC unroll 8
        for (int r = 0; r < left; r++) {
            Vec value = vec_load(x + r * args->lda + p);
            VEC_KEEP(value);
#pragma GCC unroll 8
            for (int c = 0; c < right; c++)
                sum[r * right + c] += value * weight[c];
        }
    }
    if (p < along->to) {
        int64_t rest = along->to - p;
        Vec weight[8];
#pragma GCC unroll 8
        for (int c = 0; c < right; c++)
            weight[c] = vec_load_part(w + c * args->ldb + p, rest, 0.0f);
#pragma GCC unroll 8
        for (int r = 0; r < left; r++) {
            Vec value = vec_load_part(x + r * args->lda + p, rest, 0.0f);
#pragma GCC unroll 8
            for (int c = 0; c < right; c++)
                sum[r * right + c] += value * weight[c];
        }
    }
    float total[SUMS_MAX + LANES];
#pragma GCC unroll 32
    for (int q = 0; q < count;) {
        int left_over = count - q, many = left_over > LANES / 2 ? LANES
                                          : left_over > 4       ? 8
                                          : left_over > 2       ? 4
                                                                : left_over;
        if (many > LANES)
            many = LANES;
        vec_sums(many, sum + q, total + q);
        q += many;
    }
    float beta = along->from == 0 ? args->beta : 1.0f;
    bool last = along->to == args->k;
#pragma GCC unroll 8
    for (int r = 0; r < left; r++)
#pragma GCC unroll 8
        for (int c = 0; c < right; c++)
            element_store(args, i + r, j + c, total[r * right + c], beta, last);
}

/* Rows [from, to) of W against `left` rows of X. */
VEC_INLINE void along_rows(const int left, const int right, const Along *along, int64_t i, Share share)
{
    int64_t j = share.from;
    for (; j + right <= share.to; j += right)
        along_block(left, right, along, i, j);
    for (; j < share.to; j++)
        along_block(left, 1, along, i, j);
}

static void along_stretch(const Along *along, Share share)
{
    for (int64_t i = 0; i < along->args->m;) {
        int64_t left = min_i64(BLOCK_ROWS, along->args->m - i);
#define ALONG_CASE(left, right)                                                                                        \
    case left:                                                                                                         \
        along_rows(left, right, along, i, share);                                                                      \
        break;
        switch (left) {
#if VEC_BYTES == 64
            ALONG_CASE(1, 8)
            ALONG_CASE(2, 8)
            ALONG_CASE(3, 6)
            ALONG_CASE(4, 6)
            ALONG_CASE(5, 4)
            ALONG_CASE(6, 4)
            ALONG_CASE(7, 3)
            ALONG_CASE(8, 3)
#else
            ALONG_CASE(1, 8)
            ALONG_CASE(2, 4)
            ALONG_CASE(3, 3)
            ALONG_CASE(4, 2)
#endif
#undef ALONG_CASE
        default:
            break;
        }
        i += left;
    }
}

static void along_share(const GemmArgs *args, Share share)
{
    int64_t depth = max_i64(X_FLOATS / args->m / 64 * 64, 64);
    for (int64_t j = share.from; j < share.to; j += STRETCH)
        for (int64_t from = 0; from < args->k; from += depth)
            along_stretch(&(Along){args, from, min_i64(from + depth, args->k)},
                          (Share){j, min_i64(j + STRETCH, share.to)});
}

/* Threads worth waking. */
static int product_threads(const Device *device, const GemmArgs *args)
{
    return 2.0 * (double)args->m * (double)args->n * (double)args->k < LONE_WORK ? 1 : device->threads;
}

static void product_along(Device *device, const GemmArgs *args)
{
    ON_THREADS(product_threads(device, args), along_share(args, cpu_share(args->n, STRETCH / 3)));
}

/* ---- Across ---- */

enum { SUMS_LD = ACROSS_VECS * LANES };

/* sum[r][v] += W's row r times register v of X's rows, of depth p. */
VEC_INLINE void across_add(const int rows, const int vecs, const float *w, int64_t ldb, const float *x, int64_t p,
                           Vec sum[16][3])
{
    Vec value[3];
#pragma GCC unroll 3
    for (int v = 0; v < vecs; v++)
        value[v] = vec_load(x + v * LANES);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        Vec weight = vec_set(w[r * ldb + p]);
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++)
            sum[r][v] += weight * value[v];
    }
}

/* Rows j.. of W against `vecs` registers of X's rows -> sums (rows, vecs * LANES), the next row `ld` on; `first`: W comes
 * from memory, not from the cache where the last registers of X's rows left it. */
VEC_INLINE void across_block(const int rows, const int vecs, const bool first, const GemmArgs *args, const float *x,
                             int64_t ldx, int64_t j, float *sums, int64_t ld)
{
    const float *w = floats(args->b) + j * args->ldb;
    const char *ahead = (const char *)w;
    const int step = LINE / rows; /* of depth, in which as much of W is used as memory gives at once */
    Vec sum[16][3];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++)
            sum[r][v] = (Vec){0};
    int64_t p = 0;
    for (; p + step <= args->k; p += step) {
        if (first) {
            __builtin_prefetch(ahead + NEAR_BYTES, 0, 3);
            __builtin_prefetch(ahead + FAR_BYTES, 0, 2);
            ahead += LINE * sizeof(float);
        }
#pragma GCC unroll 4
        for (int64_t q = p; q < p + step; q++)
            across_add(rows, vecs, w, args->ldb, x + q * ldx, q, sum);
    }
    for (; p < args->k; p++)
        across_add(rows, vecs, w, args->ldb, x + p * ldx, p, sum);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vecs; v++)
            vec_store(sums + r * ld + v * LANES, sum[r][v]);
}

/* sums (count of W's rows, lanes of X's rows) -> C. */
static void across_store(const GemmArgs *args, float *sums, int64_t ld, int64_t i0, int64_t rows, int64_t j,
                         int64_t count)
{
    for (int64_t from = 0; from < rows; from += LANES) {
        int64_t lanes = min_i64(LANES, rows - from);
        if (count == LANES) {
            float block[LANES * LANES];
            vec_transpose(sums + from, ld, block, LANES);
            Vec bias = args->bias ? vec_load(args->bias + j) : (Vec){0};
            for (int64_t i = 0; i < lanes; i++) {
                float *out = floats(args->c) + (i0 + from + i) * args->ldc + j;
                Vec value = vec_set(args->alpha) * vec_load(block + i * LANES);
                if (args->beta != 0.0f)
                    value += vec_set(args->beta) * vec_load(out);
                vec_store(out, value + bias);
            }
        } else {
            for (int64_t i = 0; i < lanes; i++)
                for (int64_t r = 0; r < count; r++)
                    element_store(args, i0 + from + i, j + r, sums[r * ld + from + i], args->beta, true);
        }
    }
}

/* `count` rows of W against `vecs` registers of X's rows. */
VEC_INLINE void across_part(const int vecs, const bool first, const GemmArgs *args, const float *x, int64_t ldx,
                            int64_t j, int64_t count, float *sums)
{
    const int rows = vecs > 1 ? BLOCK_ROWS : LANES;
    int64_t r = 0;
    for (; r + rows <= count; r += rows)
        across_block(rows, vecs, first, args, x, ldx, j + r, sums + r * SUMS_LD, SUMS_LD);
    for (; r < count; r++)
        across_block(1, vecs, first, args, x, ldx, j + r, sums + r * SUMS_LD, SUMS_LD);
}

/* LANES rows of W (or the last few) against all of X. */
static void across_rows(const GemmArgs *args, const float *packed, int64_t ldx, int64_t j, int64_t count)
{
    float sums[LANES * SUMS_LD];
    for (int64_t i = 0; i < args->m;) {
        /* Two and two registers rather than three and a lone one. */
        int64_t left = (args->m - i + LANES - 1) / LANES, vecs = left == 4 ? 2 : min_i64(left, ACROSS_VECS);
#define ACROSS_CASE(vecs, first)                                                                                       \
    case 2 * (vecs) + (first):                                                                                         \
        across_part(vecs, first, args, packed + i, ldx, j, count, sums);                                               \
        break;
        switch (2 * vecs + (i == 0)) {
            ACROSS_CASE(1, false)
            ACROSS_CASE(1, true)
            ACROSS_CASE(2, false)
            ACROSS_CASE(2, true)
#if VEC_BYTES == 64
            ACROSS_CASE(3, false)
            ACROSS_CASE(3, true)
#endif
#undef ACROSS_CASE
        default:
            break;
        }
        int64_t rows = min_i64(vecs * LANES, args->m - i);
        across_store(args, sums, SUMS_LD, i, rows, j, count);
        i += rows;
    }
}

/* packed (k, padded m) = X transposed, rows past m zero; columns [from, to) of X. */
static void pack_columns(const GemmArgs *args, int64_t from, int64_t to, float *packed, int64_t ldx)
{
    for (int64_t i = 0; i < ldx; i += LANES) {
        int64_t rows = min_i64(LANES, args->m - i), p = from;
        if (rows == LANES)
            for (; p + LANES <= to; p += LANES)
                vec_transpose(floats(args->a) + i * args->lda + p, args->lda, packed + p * ldx + i, ldx);
        for (; p < to; p++)
            for (int64_t r = 0; r < LANES; r++)
                packed[p * ldx + i + r] = r < rows ? floats(args->a)[(i + r) * args->lda + p] : 0.0f;
    }
}

static void across_team(const GemmArgs *args, float *packed, int64_t ldx)
{
    Share columns = cpu_share(args->k, LANES), share = cpu_share(args->n, LANES);
    pack_columns(args, columns.from, columns.to, packed, ldx);
    if (cpu_team_size() > 1) {
#pragma omp barrier
    }
    for (int64_t j = share.from; j < share.to; j += LANES)
        across_rows(args, packed, ldx, j, min_i64(LANES, share.to - j));
}

static void product_across(Device *device, const GemmArgs *args)
{
    int64_t ldx = (args->m + LANES - 1) / LANES * LANES;
    float *packed = arena_alloc(&device->scratch, sizeof(float) * (size_t)(args->k * ldx)); /* (k, ldx) */
    if (!device->backend->computes)
        return;
    ON_THREADS(product_threads(device, args), across_team(args, packed, ldx));
}

void KERNEL(skinny)(Device *device, const GemmArgs *args)
{
    if (args->m > ALONG_ROWS)
        product_across(device, args);
    else if (device->backend->computes)
        product_along(device, args);
}
