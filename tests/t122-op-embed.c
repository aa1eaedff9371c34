/* t122 -- looking up rows and adding to them equals a plain loop; a row that is not there aborts with its number. */
#include "tests/support/op_check.h"

enum { VOCAB = 53, PLACES = 19 };

static void check_embed(Device *device)
{
    static const int64_t shapes[][2] = {{0, 8}, {1, 1}, {31, 33}, {257, 64}, {1013, 172}};
    for (int k = 0; k < 5; k++)
        for (int learned = 0; learned < 2; learned++) {
            int64_t tokens = shapes[k][0], width = shapes[k][1];
            int32_t *token = op_below(tokens, 1, VOCAB), *position = op_below(tokens, 2, PLACES);
            float *table = op_normal(VOCAB * width, 3, 1.0), *places = op_normal(PLACES * width, 4, 1.0);
            float *y = op_floats(tokens * width);
            double *expected = op_doubles(tokens * width);
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t j = 0; j < width; j++)
                    expected[t * width + j] =
                        (double)table[token[t] * width + j] + (learned ? (double)places[position[t] * width + j] : 0.0);
            EmbedArgs args = {.token = token,
                              .position = learned ? position : NULL,
                              .table = table,
                              .positions = learned ? places : NULL,
                              .y = y,
                              .tokens = tokens,
                              .width = width,
                              .vocab = VOCAB,
                              .positions_max = PLACES};
            device_run(device, OP_embed_forward, &args);
            assert_near(y, expected, tokens * width, 1e-7, 1e-7);
            op_keep(y, sizeof(float) * (size_t)(tokens * width));

            double *dtable = op_widen(table, VOCAB * width), *dplaces = op_widen(places, PLACES * width);
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t j = 0; j < width; j++) {
                    dtable[token[t] * width + j] += (double)y[t * width + j];
                    if (learned)
                        dplaces[position[t] * width + j] += (double)y[t * width + j];
                }
            device_run(device, OP_embed_backward, &args);
            assert_near(table, dtable, VOCAB * width, 1e-5, 1e-5);
            assert_near(places, dplaces, PLACES * width, 1e-5, 1e-5);
            op_keep(table, sizeof(float) * (size_t)(VOCAB * width));
            if (learned) { /* a frozen table */
                args.table = NULL;
                device_run(device, OP_embed_backward, &args);
                assert_near(table, dtable, VOCAB * width, 1e-5, 1e-5);
            }
        }
}

static void check_rows(Device *device)
{
    static const int64_t shapes[][3] = {{0, 5, 8}, {1, 1, 1}, {31, 40, 33}, {257, 1031, 64}};
    for (int k = 0; k < 4; k++) {
        int64_t rows = shapes[k][0], all = shapes[k][1], width = shapes[k][2];
        float *x = op_normal(all * width, 5, 1.0), *y = op_floats(rows * width);
        int32_t *index = op_ints(rows);
        for (int64_t i = 0; i < rows; i++)
            index[i] = (int32_t)((i * 7 + 3) % all); /* distinct: 7 does not divide the counts above */
        RowsArgs args = {DTYPE_F32, x, index, y, rows, width, all};
        device_run(device, OP_gather_rows, &args);
        double *expected = op_widen(x, all * width);
        for (int64_t i = 0; i < rows; i++) {
            assert_memory_equal(y + i * width, x + index[i] * width, sizeof(float) * (size_t)width);
            for (int64_t j = 0; j < width; j++)
                expected[index[i] * width + j] += (double)y[i * width + j];
        }
        device_run(device, OP_scatter_rows, &args);
        assert_near(x, expected, all * width, 1e-7, 0.0);
        op_keep(x, sizeof(float) * (size_t)(all * width));
    }
}

typedef struct Wrong {
    Device *device;
    int32_t token, position, index;
} Wrong;

static void wrong_embed(void *argument)
{
    Wrong *wrong = argument;
    Device *device = wrong->device;
    EmbedArgs args = {.token = &wrong->token,
                      .position = &wrong->position,
                      .table = op_normal(8, 1, 1.0),
                      .positions = op_normal(8, 1, 1.0),
                      .y = op_normal(4, 1, 1.0),
                      .tokens = 1,
                      .width = 4,
                      .vocab = 2,
                      .positions_max = 2};
    device_run(device, OP_embed_forward, &args);
}
static void wrong_embed_backward(void *argument)
{
    Wrong *wrong = argument;
    Device *device = wrong->device;
    EmbedArgs args = {.token = &wrong->token,
                      .table = op_normal(8, 1, 1.0),
                      .y = op_normal(4, 1, 1.0),
                      .tokens = 1,
                      .width = 4,
                      .vocab = 2};
    device_run(device, OP_embed_backward, &args);
}
static void wrong_rows(void *argument)
{
    Wrong *wrong = argument;
    RowsArgs args = {DTYPE_F32, op_normal(8, 1, 1.0), &wrong->index, op_normal(4, 1, 1.0), 1, 4, 2};
    device_run(wrong->device, OP_gather_rows, &args);
}

static void check_range(Device *device)
{
    Wrong high = {device, 2, 0, 2}, low = {device, -1, 0, -1}, place = {device, 0, 2, 0};
    assert_true(support_aborts(wrong_embed, &high, "token 0 is 2, outside [0, 2)"));
    assert_true(support_aborts(wrong_embed, &low, "token 0 is -1, outside [0, 2)"));
    assert_true(support_aborts(wrong_embed, &place, "position of token 0 is 2, outside [0, 2)"));
    assert_true(support_aborts(wrong_embed_backward, &high, "token 0 is 2, outside [0, 2)"));
    assert_true(support_aborts(wrong_rows, &high, "row index 0 is 2, outside [0, 2)"));
    assert_true(support_aborts(wrong_rows, &low, "row index 0 is -1, outside [0, 2)"));
    op_keep("x", 1);
}

static void test_embed(void **state)
{
    (void)state;
    op_on_devices(check_embed, true);
}
static void test_rows(void **state)
{
    (void)state;
    op_on_devices(check_rows, true);
}
static void test_range(void **state)
{
    (void)state;
    op_on_devices(check_range, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_embed), cmocka_unit_test(test_rows),
                                       cmocka_unit_test(test_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
