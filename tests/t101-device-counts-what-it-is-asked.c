/* t101 -- ops, arithmetic and transfers are counted from arguments alone; the dry device touches nothing. */
#include "tests/support/support.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/ragged.h"

static void test_every_op_has_a_name(void **state)
{
    (void)state;
    for (int op = 0; op < OP_COUNT; op++) {
        assert_true(op_name((OpKind)op)[0] != 0 && strcmp(op_name((OpKind)op), "?") != 0);
        for (int other = 0; other < op; other++)
            assert_string_not_equal(op_name((OpKind)op), op_name((OpKind)other));
    }
    assert_string_equal(op_name(OP_gemm), "gemm");
    assert_string_equal(op_name(OP_sample), "sample");
    assert_string_equal(op_name(OP_COUNT), "?");
}

static void test_cost_of_products_and_attention(void **state)
{
    (void)state;
    double flops, bytes;
    float dummy;
    GemmArgs gemm = {.m = 3, .n = 5, .k = 7, .alpha = 1};
    op_cost(OP_gemm, &gemm, &flops, &bytes);
    assert_true(flops == 2 * 3 * 5 * 7 && bytes == 4 * (21 + 35 + 15));
    gemm.beta = 1;
    gemm.bias = &dummy;
    op_cost(OP_gemm, &gemm, &flops, &bytes);
    assert_true(flops == 2 * 3 * 5 * 7 + 15 && bytes == 4 * (21 + 35 + 30 + 5));

    /* Twice the pairs, twice the arithmetic, whatever the number of tokens. */
    AttentionForwardArgs attention = {
        .tokens = 8, .sequences = 1, .heads = 4, .kv_heads = 2, .head_dim = 16, .pairs = 36};
    double twice;
    op_cost(OP_attention_forward, &attention, &flops, &bytes);
    attention.pairs = 72;
    op_cost(OP_attention_forward, &attention, &twice, &bytes);
    assert_true(flops >= 36.0 * 4 * 4 * 16 && twice == 2 * flops);
    double longer, key_flops, key_bytes, longer_bytes;
    attention.kv.k = &dummy;
    op_cost(OP_attention_forward, &attention, &flops, &bytes);
    op_cost_per_key(OP_attention_forward, &attention, &key_flops, &key_bytes);
    attention.pairs += 3.0 * 8;
    op_cost(OP_attention_forward, &attention, &longer, &longer_bytes);
    assert_true(key_flops > 0 && longer == flops + 3 * key_flops);
    assert_true(key_bytes == 4 * 2 * 2 * 16 && longer_bytes == bytes + 3 * key_bytes);
    op_cost_per_key(OP_gemm, &gemm, &key_flops, &key_bytes);
    assert_true(key_flops == 0 && key_bytes == 0);
    attention.pairs = 36;
    attention.kv.k = NULL;
    op_cost(OP_attention_forward, &attention, &flops, &bytes);
    AttentionBackwardArgs backward = {
        .tokens = 8, .sequences = 1, .heads = 4, .kv_heads = 2, .head_dim = 16, .pairs = 36};
    op_cost(OP_attention_backward, &backward, &twice, &bytes);
    assert_true(twice > 2 * flops);
}

static void test_device_counts(void **state)
{
    (void)state;
    Device device;
    assert_ok(device_open_dry(&device));
    assert_string_equal(device.backend->name, "dry");
    Arena arena;
    assert_ok(device_arena(&device, &arena, "step", 0));

    /* 16 GiB: a plan may be larger than the machine. */
    Tensor large = tensor_new2(&arena, DTYPE_F32, (int64_t)1 << 17, (int64_t)1 << 15);
    assert_true(arena.high_water >= (size_t)16 << 30);
    FillArgs fill = {large.data, tensor_count(large), 1.0f};
    device_run(&device, OP_fill, &fill);
    device_run(&device, OP_fill, &fill);
    assert_int_equal(device.counter[OP_fill].calls, 2);
    assert_true(device.counter[OP_fill].bytes == 2.0 * 4 * (double)tensor_count(large));

    Tensor small = tensor_new1(&arena, DTYPE_F32, 3);
    float host[3] = {1, 2, 3};
    tensor_write(&device, small, host);
    tensor_read(&device, small, host);
    assert_true(host[0] == 0 && host[1] == 0 && host[2] == 0);
    assert_int_equal(device.reads, 1);
    assert_int_equal(device.writes, 1);
    assert_true(device.read_bytes == 12 && device.write_bytes == 12);
    tensor_zero(&device, large);
    tensor_copy(&device, large, large);
    device_wait(&device, QUEUE_COMPUTE, device_record(&device, QUEUE_COPY));

    GemmArgs gemm = {.m = 2, .n = 2, .k = 2};
    device_run(&device, OP_gemm, &gemm);
    OpCounter total = device_total(&device);
    assert_int_equal(total.calls, 3);
    assert_true(total.flops == 16);
    device_counters_reset(&device);
    assert_int_equal(device_total(&device).calls, 0);
    assert_int_equal(device.reads, 0);
    arena_close(&arena);
    device_close(&device);
}

static void trapped(int number)
{
    (void)number;
    abort();
}

static void read_dry_memory(void *argument)
{
    signal(SIGSEGV, trapped); /* cmocka would catch these */
    signal(SIGBUS, trapped);
    volatile float *x = ((Tensor *)argument)->data;
    REQUIRE(x[0] == 0 || x[0] != 0, "unreachable");
}

static void test_dry_memory_traps(void **state)
{
    (void)state;
    Device device;
    assert_ok(device_open_dry(&device));
    Arena arena, other;
    assert_ok(device_arena(&device, &arena, "a", 0));
    assert_ok(device_arena(&device, &other, "b", 0));
    Tensor x = tensor_new1(&arena, DTYPE_F32, 4), y = tensor_new1(&other, DTYPE_F32, 4);
    assert_ptr_not_equal(x.data, y.data);
    assert_true(support_aborts(read_dry_memory, &x, ""));
    arena_close(&other);
    arena_close(&arena);
    device_close(&device);
}

static void backwards(void *argument)
{
    Device *device = argument;
    Arena arena;
    REQUIRE(!status_failed(device_arena(device, &arena, "step", 0)), "arena");
    ragged_make(device, &arena, (int32_t[]){0, 4, 3}, 2);
}

static void test_ragged_rows(void **state)
{
    (void)state;
    Device device;
    assert_ok(device_open_dry(&device));
    Arena arena;
    assert_ok(device_arena(&device, &arena, "step", 0));
    int32_t start[] = {0, 4, 5, 5, 8}, tokens[8] = {0};
    TokenBatch batch = token_batch_make(&device, &arena, tokens, start, 4, NULL);
    assert_int_equal(batch.rows.tokens, 8);
    assert_int_equal(batch.rows.longest, 4);
    assert_true(batch.rows.pairs == 10 + 1 + 0 + 6);
    assert_int_equal(batch.rows.start.shape[0], 5);
    assert_int_equal(batch.position.shape[0], 8);
    assert_int_equal(device.writes, 3);
    assert_true(support_aborts(backwards, &device, "length -1"));
    arena_close(&arena);
    device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op_has_a_name), cmocka_unit_test(test_cost_of_products_and_attention),
        cmocka_unit_test(test_device_counts),       cmocka_unit_test(test_dry_memory_traps),
        cmocka_unit_test(test_ragged_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
