/* embed.c -- rows looked up by index: token embeddings, learned positions, and picking rows of a batch.
 *
 * Backward of a lookup adds to the same row from many tokens, so it is cut over columns, not tokens: each thread walks
 * all tokens in order for the columns that are its own. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/vec.h"

static void check_indices(const int32_t *index, int64_t count, int64_t limit, const char *what)
{
    for (int64_t t = 0; t < count; t++)
        REQUIRE(index[t] >= 0 && index[t] < limit, "%s %lld is %d, outside [0, %lld)", what, (long long)t, index[t],
                (long long)limit);
}

static void check_embed(const EmbedArgs *args)
{
    check_indices(args->token, args->tokens, args->vocab, "token");
    if (args->positions)
        check_indices(args->position, args->tokens, args->positions_max, "position of token");
}

static void embed_forward_tokens(const EmbedArgs *args, Share tokens)
{
    int64_t width = args->width;
    for (int64_t t = tokens.from; t < tokens.to; t++) {
        const float *row = floats(args->table) + args->token[t] * width;
        float *y = floats(args->y) + t * width;
        if (args->positions) {
            const float *position = floats(args->positions) + args->position[t] * width;
            for (int64_t j = 0; j < width; j++)
                y[j] = row[j] + position[j];
        } else {
            memcpy(y, row, sizeof(float) * (size_t)width);
        }
    }
}

void KERNEL(embed_forward)(Device *device, const EmbedArgs *args)
{
    check_embed(args);
    ON_THREADS(cpu_threads(device, (double)args->tokens * (double)args->width),
               embed_forward_tokens(args, cpu_share(args->tokens, 1)));
}

void KERNEL(embed_backward)(Device *device, const EmbedArgs *args)
{
    check_embed(args);
    int64_t width = args->width;
    enum { COLUMNS = 32 };
    int64_t parts = (width + COLUMNS - 1) / COLUMNS;
    PARALLEL_FOR(device, (double)args->tokens * (double)width)
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = part * COLUMNS, to = min_i64(from + COLUMNS, width);
        for (int64_t t = 0; t < args->tokens; t++) {
            const float *dy = floats(args->y) + t * width;
            if (args->table) {
                float *row = floats(args->table) + args->token[t] * width;
                for (int64_t j = from; j < to; j++)
                    row[j] += dy[j];
            }
            if (args->positions) {
                float *row = floats(args->positions) + args->position[t] * width;
                for (int64_t j = from; j < to; j++)
                    row[j] += dy[j];
            }
        }
    }
}

void KERNEL(gather_rows)(Device *device, const RowsArgs *args)
{
    check_indices(args->index, args->rows, args->x_rows, "row index");
    int64_t width = args->width;
    PARALLEL_FOR(device, (double)args->rows * (double)width)
    for (int64_t i = 0; i < args->rows; i++)
        memcpy(floats(args->y) + i * width, floats(args->x) + args->index[i] * width, sizeof(float) * (size_t)width);
}

void KERNEL(scatter_rows)(Device *device, const RowsArgs *args)
{
    check_indices(args->index, args->rows, args->x_rows, "row index");
    int64_t width = args->width;
    PARALLEL_FOR(device, (double)args->rows * (double)width)
    for (int64_t i = 0; i < args->rows; i++) {
        float *x = floats(args->x) + args->index[i] * width;
        const float *y = floats(args->y) + i * width;
        for (int64_t j = 0; j < width; j++)
            x[j] += y[j];
    }
}
