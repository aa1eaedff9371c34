/* t281 -- the CUDA device moves what it is given: copies of all sizes in and out, between, zeroing, growing arenas, queues in order. */
#include <string.h>

#include "core/base/memory.h"
#include "kernels/cuda/device_cuda.h"
#include "tests/support/twin.h"

static void test_copies(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    static const int64_t counts[] = {1, 63, 64, 65, 4096, 1048576 + 3, 3 * 1048576 + 17};
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        int64_t n = counts[k];
        size_t mark = arena_mark(&twin.cuda_arena);
        int32_t *sent = memory_new((size_t)n, sizeof *sent), *back = memory_new((size_t)n, sizeof *back);
        for (int64_t i = 0; i < n; i++)
            sent[i] = (int32_t)(i * 2654435761u);
        Tensor first = tensor_new1(&twin.cuda_arena, DTYPE_I32, n),
               second = tensor_new1(&twin.cuda_arena, DTYPE_I32, n);
        tensor_write(&twin.cuda, first, sent);
        memset(sent, 0, sizeof *sent); /* it has been read */
        sent[0] = 0;
        tensor_copy(&twin.cuda, second, first);
        tensor_zero(&twin.cuda, first);
        tensor_read(&twin.cuda, second, back);
        for (int64_t i = 0; i < n; i++)
            assert_int_equal(back[i], (int32_t)(i * 2654435761u));
        tensor_read(&twin.cuda, first, back);
        for (int64_t i = 0; i < n; i++)
            assert_int_equal(back[i], 0);
        memory_free(&sent);
        memory_free(&back);
        arena_rewind(&twin.cuda_arena, mark);
    }
    twin_close(&twin);
}

/* What one queue does behind an event of another sees what was done before it. */
static void test_events(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    const DeviceBackend *backend = twin.cuda.backend;
    Tensor x = tensor_new1(&twin.cuda_arena, DTYPE_I32, 1000), y = tensor_new1(&twin.cuda_arena, DTYPE_I32, 1000);
    int32_t ones[1000], back[1000];
    for (int i = 0; i < 1000; i++)
        ones[i] = i + 1;
    for (int round = 0; round < 100; round++) {
        tensor_zero(&twin.cuda, x);
        tensor_write(&twin.cuda, x, ones);
        device_wait(&twin.cuda, QUEUE_COPY, device_record(&twin.cuda, QUEUE_COMPUTE));
        backend->copy(twin.cuda.self, QUEUE_COPY, y.data, x.data, sizeof ones);
        device_wait(&twin.cuda, QUEUE_COMPUTE, device_record(&twin.cuda, QUEUE_COPY));
        tensor_read(&twin.cuda, y, back);
        assert_memory_equal(back, ones, sizeof ones);
    }
    twin_close(&twin);
}

/* An event stands for its own queue's work however many were recorded since, on whichever queue. */
static void test_old_events(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    const DeviceBackend *backend = twin.cuda.backend;
    enum { N = 1000 };
    Tensor x = tensor_new1(&twin.cuda_arena, DTYPE_I32, N), y = tensor_new1(&twin.cuda_arena, DTYPE_I32, N);
    int32_t sent[N], back[N];
    for (int i = 0; i < N; i++)
        sent[i] = i + 1;
    tensor_zero(&twin.cuda, x);
    device_finish(&twin.cuda);
    tensor_write(&twin.cuda, x, sent);
    DeviceEvent written = device_record(&twin.cuda, QUEUE_COMPUTE);
    for (int i = 0; i < 300; i++)
        device_record(&twin.cuda, i % 2 ? QUEUE_COPY : QUEUE_COMMUNICATION);
    device_wait(&twin.cuda, QUEUE_COPY, written);
    backend->copy(twin.cuda.self, QUEUE_COPY, y.data, x.data, sizeof sent);
    backend->copy_out(twin.cuda.self, QUEUE_COPY, back, y.data, sizeof back);
    assert_memory_equal(back, sent, sizeof sent);
    twin_close(&twin);
}

/* Queues that share the way in do not overwrite what another has yet to read. */
static void test_copies_on_two_queues(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    const DeviceBackend *backend = twin.cuda.backend;
    enum { SMALL = 1000, LARGE = 4 << 20 };
    Tensor x = tensor_new1(&twin.cuda_arena, DTYPE_I32, SMALL), y = tensor_new1(&twin.cuda_arena, DTYPE_I32, LARGE);
    int32_t *sent = memory_new(LARGE, sizeof *sent), back[SMALL];
    for (int i = 0; i < SMALL; i++)
        sent[i] = i + 1;
    backend->copy_in(twin.cuda.self, QUEUE_COPY, x.data, sent, sizeof *sent * SMALL);
    memset(sent, 0, sizeof *sent * SMALL);
    tensor_write(&twin.cuda, y, sent); /* 16 MiB: more than waits on the way */
    backend->copy_out(twin.cuda.self, QUEUE_COPY, back, x.data, sizeof back);
    for (int i = 0; i < SMALL; i++)
        assert_int_equal(back[i], i + 1);
    memory_free(&sent);
    twin_close(&twin);
}

/* Arenas that grow in small and large steps hold what was written when they were smaller. */
static void test_growing(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    enum { BLOCKS = 40 };
    Tensor block[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        int64_t n = i % 13 == 12 ? 5 << 20 : 70000 + 1000 * i;
        block[i] = tensor_new1(&twin.cuda_arena, DTYPE_F32, n);
        device_run(&twin.cuda, OP_fill, &(FillArgs){.x = block[i].data, .count = n, .value = (float)i});
    }
    for (int i = 0; i < BLOCKS; i++) {
        int64_t n = tensor_count(block[i]);
        float *ends[] = {block[i].data, (float *)block[i].data + n - 1};
        for (int k = 0; k < 2; k++) {
            float got;
            tensor_read(&twin.cuda, tensor_at(ends[k], DTYPE_F32, 1, &(int64_t){1}), &got);
            assert_true(got == (float)i);
        }
    }
    twin_close(&twin);
}

/* Only in the emulation: after so many more pieces of work, each a kernel or its mark, the device fails. */
void cuda_on_cpu_fail_after(int count) __attribute__((weak));

static void fail_in_third_op(void *argument)
{
    (void)argument;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    TwinArray x = twin_floats(&twin, 64, 1, 1.0);
    int32_t wrong = cuda_on_cpu_fail_after ? 0 : -1;
    TwinArray index = twin_ints(&twin, &wrong, 1);
    device_finish(&twin.cuda);
    if (cuda_on_cpu_fail_after)
        cuda_on_cpu_fail_after(4);
    device_run(&twin.cuda, OP_fill, &(FillArgs){.x = x.cuda, .count = 64, .value = 1});
    device_run(&twin.cuda, OP_add, &(AddArgs){.out = x.cuda, .a = x.cuda, .b = x.cuda, .scale = 1, .count = 64});
    device_run(&twin.cuda, OP_gather_rows,
               &(RowsArgs){.x = x.cuda, .index = index.cuda, .y = x.cuda, .rows = 1, .width = 8, .x_rows = 8});
    for (int i = 0; i < 5; i++)
        device_run(&twin.cuda, OP_fill, &(FillArgs){.x = x.cuda, .count = 64, .value = 1});
    device_finish(&twin.cuda);
}

/* A device that fails says which op it had done last, and which it was at. */
static void test_failure_is_named(void **state)
{
    (void)state;
    assert_true(support_aborts(fail_in_third_op, NULL,
                               "last op known to be complete: add, number 2\n"
                               "first op that is not: gather_rows, number 3\n"));
}

static void fail_at_once(void *argument)
{
    (void)argument;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    TwinArray x = twin_floats(&twin, 64, 1, 1.0);
    device_finish(&twin.cuda);
    cuda_on_cpu_fail_after(0);
    device_run(&twin.cuda, OP_fill, &(FillArgs){.x = x.cuda, .count = 64, .value = 1});
    device_finish(&twin.cuda);
}

static void test_failure_of_the_first(void **state)
{
    (void)state;
    if (cuda_on_cpu_fail_after)
        assert_true(support_aborts(fail_at_once, NULL, "first op that is not: fill, number 1\n"));
}

static void test_identity(void **state)
{
    (void)state;
    Twin twin;
    twin_open(&twin, DTYPE_F32);
    assert_memory_equal(device_cuda_identity(&twin.cuda), "GPU-", 4);
    assert_string_equal(device_cuda_identity(&twin.cpu), "");
    /* What a resume compares: the kind of device and its library, not which of several it is. */
    assert_non_null(strstr(device_describe(&twin.cuda), "cuBLAS"));
    assert_null(strstr(device_describe(&twin.cuda), "GPU-"));
    Device none;
    assert_true(status_failed(device_open_cuda(&none, &(CudaOptions){.index = 99, .threads = 1})));
    assert_non_null(strstr(status_message(), "cuda device 99"));
    twin_close(&twin);
}

int main(void)
{
    /* Those that fork come first. */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failure_is_named), cmocka_unit_test(test_failure_of_the_first),
        cmocka_unit_test(test_copies),           cmocka_unit_test(test_events),
        cmocka_unit_test(test_old_events),       cmocka_unit_test(test_copies_on_two_queues),
        cmocka_unit_test(test_growing),          cmocka_unit_test(test_identity)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
