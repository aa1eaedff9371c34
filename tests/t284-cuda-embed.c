/* t284 -- rows looked up, gathered, scattered on CUDA; gradients of embeddings are, bit for bit, the sums in order of t that the CPU makes. */
#include <string.h>

#include "core/base/memory.h"
#include "tests/support/twin.h"

static const DType dtypes[] = {DTYPE_F32, DTYPE_BF16};
static const int64_t widths[] = {1, 8, 31, 33, 64, 257, 2056};
enum { WIDTHS = sizeof widths / sizeof *widths };

typedef struct Batch {
    TwinArray token, position;
    int64_t tokens, vocab, positions;
} Batch;

/* Few ids, so that rows are met often; the last of them occur. */
static Batch batch_new(Twin *twin, int64_t tokens, int64_t vocab, int64_t positions)
{
    Batch batch = {.tokens = tokens, .vocab = vocab, .positions = positions};
    int32_t *token = memory_new((size_t)tokens + 1, sizeof *token),
            *position = memory_new((size_t)tokens + 1, sizeof *position);
    batch.token = twin_ints_below(twin, tokens, 1, vocab);
    memcpy(token, batch.token.cpu, sizeof *token * (size_t)tokens);
    for (int64_t t = 0; t < tokens; t++)
        position[t] = (int32_t)((t * 7 + t / 3) % positions);
    if (tokens) {
        token[tokens / 2] = (int32_t)vocab - 1;
        token[tokens - 1] = 0;
        position[tokens - 1] = (int32_t)positions - 1;
    }
    batch.token = twin_ints(twin, token, tokens);
    batch.position = twin_ints(twin, position, tokens);
    memory_free(&token);
    memory_free(&position);
    return batch;
}

static void check_forward(Twin *twin, int64_t tokens, int64_t width, int64_t first, bool positions)
{
    Batch batch = batch_new(twin, tokens, 13, 9);
    TwinArray table = twin_from(twin_normal(twin, 13 * width + first, 2, 1.0), first),
              learned = twin_normal(twin, 9 * width, 3, 1.0), y = twin_empty(twin, tokens * width);
#define ARGS(side, type)                                                                                               \
    ((EmbedArgs){.dtype = type,                                                                                        \
                 .token = batch.token.side,                                                                            \
                 .position = positions ? batch.position.side : NULL,                                                   \
                 .table = table.side,                                                                                  \
                 .positions = positions ? learned.side : NULL,                                                         \
                 .y = y.side,                                                                                          \
                 .tokens = tokens,                                                                                     \
                 .width = width,                                                                                       \
                 .vocab = 13,                                                                                          \
                 .positions_max = 9})
    twin_run(twin, OP_embed_forward, ARGS);
#undef ARGS
    twin_expect(twin, y, "y");
}

static void test_forward(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (int k = 0; k < WIDTHS; k++)
            for (int positions = 0; positions < 2; positions++)
                check_forward(&twin, 5, widths[k], 0, positions);
        for (int k = 0; k < TWIN_SIZES; k++)
            check_forward(&twin, twin_sizes[k], 8, 0, true);
        check_forward(&twin, 5, 64, 1, true);
        check_forward(&twin, 0, 64, 0, true);
        twin_close(&twin);
    }
}

enum { TABLE = 1, LEARNED = 2 }; /* which are trained */

static void check_backward(Twin *twin, int64_t tokens, int64_t width, int64_t vocab, int64_t first, int trained)
{
    Batch batch = batch_new(twin, tokens, vocab, 9);
    TwinArray table = twin_floats(twin, vocab * width, 2, 1.0), learned = twin_floats(twin, 9 * width, 3, 1.0),
              dy = twin_from(twin_normal(twin, tokens * width + first, 4, 1.0), first);
#define ARGS(side, type)                                                                                               \
    ((EmbedArgs){.dtype = type,                                                                                        \
                 .token = batch.token.side,                                                                            \
                 .position = batch.position.side,                                                                      \
                 .table = trained & TABLE ? table.side : NULL,                                                         \
                 .positions = trained & LEARNED ? learned.side : NULL,                                                 \
                 .y = dy.side,                                                                                         \
                 .tokens = tokens,                                                                                     \
                 .width = width,                                                                                       \
                 .vocab = vocab,                                                                                       \
                 .positions_max = 9})
    twin_run(twin, OP_embed_backward, ARGS);
#undef ARGS
    twin_expect_bits(twin, table, "dtable");
    twin_expect_bits(twin, learned, "dpositions");
}

static void test_backward(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (int k = 0; k < WIDTHS; k++)
            check_backward(&twin, 40, widths[k], 13, 0, TABLE | LEARNED);
        for (int k = 0; k < TWIN_SIZES; k++)
            check_backward(&twin, twin_sizes[k], 8, 200, 0, TABLE | LEARNED);
        /* One tile and its neighbours, several merges with a last run that is short, or has no partner. */
        static const int64_t counts[] = {0, 1023, 1024, 1025, 2049, 4096, 5000};
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            check_backward(&twin, counts[k], 4, 300, 0, TABLE | LEARNED);
        check_backward(&twin, 2500, 3, 1, 0, TABLE); /* one id alone */
        check_backward(&twin, 3000, 1, 1000003, 0, LEARNED | TABLE);
        check_backward(&twin, 40, 64, 13, 1, TABLE | LEARNED);
        for (int trained = 0; trained < 4; trained++)
            check_backward(&twin, 50, 16, 13, 0, trained);
        twin_close(&twin);
    }
}

static void check_rows(Twin *twin, int64_t rows, int64_t width, int64_t first)
{
    int64_t x_rows = rows + 11;
    int32_t *distinct = memory_new((size_t)rows + 1, sizeof *distinct);
    for (int64_t i = 0; i < rows; i++)
        distinct[i] = (int32_t)(x_rows - 1 - i);
    if (rows > 2) {
        distinct[0] = 3;
        distinct[1] = 0;
    }
    TwinArray x = twin_normal(twin, x_rows * width, 1, 1.0),
              y = twin_from(twin_empty(twin, rows * width + first), first), index = twin_ints(twin, distinct, rows);
    memory_free(&distinct);
#define ARGS(side, type)                                                                                               \
    ((RowsArgs){                                                                                                       \
        .dtype = type, .x = x.side, .index = index.side, .y = y.side, .rows = rows, .width = width, .x_rows = x_rows})
    twin_run(twin, OP_gather_rows, ARGS);
    twin_expect_within(twin, y, 0.0, "gathered", __FILE__, __LINE__);
    y = twin_from(twin_normal(twin, rows * width + first, 2, 1.0), first);
    twin_run(twin, OP_scatter_rows, ARGS);
#undef ARGS
    twin_expect(twin, x, "scattered");
}

static void test_rows(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        Twin twin;
        twin_open(&twin, dtypes[d]);
        for (int k = 0; k < WIDTHS; k++)
            check_rows(&twin, 5, widths[k], 0);
        for (int k = 0; k < TWIN_SIZES; k++)
            check_rows(&twin, twin_sizes[k], 24, 0);
        check_rows(&twin, 5, 64, 1);
        check_rows(&twin, 0, 64, 0);
        twin_close(&twin);
    }
}

/* An index behind the last: the device stops. */
typedef struct Wrong {
    OpKind op;
    int32_t token, position;
} Wrong;

static void run_wrong(void *argument)
{
    const Wrong *wrong = argument;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    TwinArray token = twin_ints(&twin, &wrong->token, 1), position = twin_ints(&twin, &wrong->position, 1),
              rows = twin_floats(&twin, 100, 1, 1.0), y = twin_floats(&twin, 8, 2, 1.0);
    EmbedArgs embed = {.token = token.cuda,
                       .position = position.cuda,
                       .table = rows.cuda,
                       .positions = rows.cuda,
                       .y = y.cuda,
                       .tokens = 1,
                       .width = 8,
                       .vocab = 5,
                       .positions_max = 3};
    RowsArgs row = {.x = rows.cuda, .index = token.cuda, .y = y.cuda, .rows = 1, .width = 8, .x_rows = 5};
    device_run(&twin.cuda, wrong->op, wrong->op == OP_gather_rows ? (const void *)&row : (const void *)&embed);
    device_finish(&twin.cuda);
}

static void test_refuses(void **state)
{
    (void)state;
    static const Wrong wrong[] = {{OP_embed_forward, 5, 0},  {OP_embed_forward, 4, 3},  {OP_embed_backward, 5, 0},
                                  {OP_embed_backward, 4, 3}, {OP_embed_forward, -1, 0}, {OP_gather_rows, 5, 0},
                                  {OP_gather_rows, -1, 0}};
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++)
        assert_true(support_aborts(run_wrong, (void *)(uintptr_t)&wrong[k], ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_refuses), cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_backward), cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
