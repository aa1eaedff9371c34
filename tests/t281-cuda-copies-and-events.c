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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copies), cmocka_unit_test(test_events),
                                       cmocka_unit_test(test_identity)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
