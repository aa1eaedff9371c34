//TEST ranks=1,2,4 timeout=60 devices=cuda
/* t222 -- the exact sum over ranks: every element has the bits of the binary tree over ranks, also where a slice takes several windows,
 * where slices are ragged or empty, and where memory is the device's own; and gathering gives all ranks the same buffer. */
#include "tests/support/support.h"
#include "tests/support/support_device.h"

#include <mpi.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/comm/reduce.h"

static Comm *comm;

/* Rank `rank`'s element: magnitudes from 2^-20 to 2^20, so that the order of a sum shows in its bits; some are -0. */
static float element(int rank, int64_t i)
{
    uint64_t x = ((uint64_t)i * 8 + (uint64_t)rank + 1) * 0x9e3779b97f4a7c15u;
    x ^= x >> 31;
    if (i % 97 == 0)
        return -0.0f;
    float value = (float)(int32_t)(x >> 32) * 0x1p-31f;
    return value * (float)(1u << (x % 21)) / (float)(1u << (x / 21 % 21));
}

static float tree_sum(int from, int to, int64_t i)
{
    if (to - from == 1)
        return element(from, i);
    int middle = (from + to) / 2;
    float left = tree_sum(from, middle, i), right = tree_sum(middle, to, i);
    return left + right;
}

static void check_count(Device *device, int64_t count)
{
    int ranks = comm_size(comm), rank = comm_rank(comm);
    Arena model, step;
    assert_ok(device_arena(device, &model, "model", 256 << 20));
    assert_ok(device_arena(device, &step, "step", 256 << 20));
    Exec exec = {.device = device, .step = &step};
    Tensor flat = tensor_new1(&model, DTYPE_F32, count);
    float *host = memory_new((size_t)count, sizeof *host);
    for (int64_t i = 0; i < count; i++)
        host[i] = element(rank, i);
    tensor_write(device, flat, host);
    reduce_slices(comm, &exec, flat);
    size_t red_zones = 4096; /* of a checked build */
    assert_true(step.high_water <= reduce_bytes(count, ranks) + red_zones);
    tensor_read(device, flat, host);
    Span own = shard_slice(count, ranks, rank);
    for (int64_t i = own.from; i < own.to; i++) {
        float expected = tree_sum(0, ranks, i);
        if (memcmp(&host[i], &expected, sizeof expected) != 0)
            fail_msg("%lld floats, element %lld: %a, expected %a", (long long)count, (long long)i, (double)host[i],
                     (double)expected);
    }
    gather_slices(comm, &exec, flat);
    tensor_read(device, flat, host);
    for (int64_t i = 0; i < count; i += 1 + count / 5000) {
        float expected = tree_sum(0, ranks, i);
        assert_memory_equal(&host[i], &expected, sizeof expected);
    }
    memory_free(&host);
    arena_close(&step);
    arena_close(&model);
}

static void check_device(bool host_visible)
{
    Device device;
    support_device_open(&device);
    DeviceBackend hidden = *device.backend;
    hidden.host_visible = false;
    if (!host_visible)
        device.backend = &hidden;
    /* Less than a block: three of four slices are empty. Ragged slices. Three windows of a slice, the last a part. */
    const int64_t counts[] = {64, SUM_BLOCK + 64, 7 * SUM_BLOCK + 128, 9000064};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        check_count(&device, counts[i]);
    device_close(&device);
}

static void test_sum_has_the_bits_of_the_tree(void **state)
{
    (void)state;
    check_device(true);
}

static void test_staging_through_the_host(void **state)
{
    (void)state;
    check_device(false);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm handle = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&handle, &comm)))
        return 1;
    status_set_rank(comm_rank(comm));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sum_has_the_bits_of_the_tree),
        cmocka_unit_test(test_staging_through_the_host),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    comm_close(comm);
    MPI_Finalize();
    return failures != 0;
}
