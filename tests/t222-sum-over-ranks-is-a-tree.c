//TEST ranks=1,2,3,4 timeout=60 devices=cuda
/* t222 -- the exact sum over ranks: every element has the bits of the binary tree over ranks, also where a slice takes several windows,
 * where there are several stripes, where slices are ragged or empty, and where memory is the device's own; and gathering gives all ranks the same buffer. A
 * fast sum is near that, and the same when it is done again. */
#include "tests/support/support.h"
#include "tests/support/support_device.h"

#include <math.h>
#include <mpi.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/comm/comm_nccl.h"
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

/* `flat` is given this rank's elements, and summed; stripe by stripe, as far as backward might have come. */
static void sum(Exec *exec, ReduceKind kind, Tensor flat, float *host)
{
    int64_t count = tensor_count(flat);
    for (int64_t i = 0; i < count; i++)
        host[i] = element(comm_rank(comm), i);
    tensor_write(exec->device, flat, host);
    Reduction reduction;
    reduce_open(&reduction, kind, comm);
    size_t mark = arena_mark(exec->step);
    reduce_begin(&reduction, exec, flat);
    for (int64_t at = count; at > 0; at -= 2 * SUM_BLOCK + 1000)
        reduce_from(&reduction, at);
    reduce_end(&reduction);
    reduce_close(&reduction);
    assert_int_equal(arena_mark(exec->step), mark);
    tensor_read(exec->device, flat, host);
}

static void check_exact(Exec *exec, Tensor flat, float *host)
{
    int ranks = comm_size(comm);
    int64_t count = tensor_count(flat);
    sum(exec, REDUCE_EXACT, flat, host);
    for (int64_t stripe = 0; stripe < shard_stripes(count); stripe++) {
        Span own = shard_slice(count, ranks, comm_rank(comm), stripe);
        for (int64_t i = own.from; i < own.to; i++) {
            float expected = tree_sum(0, ranks, i);
            if (memcmp(&host[i], &expected, sizeof expected) != 0)
                fail_msg("%lld floats, element %lld: %a, expected %a", (long long)count, (long long)i, (double)host[i],
                         (double)expected);
        }
    }
    gather_slices(comm, exec, flat, count, 1);
    tensor_read(exec->device, flat, host);
    for (int64_t i = 0; i < count; i += 1 + count / 5000) {
        float expected = tree_sum(0, ranks, i);
        assert_memory_equal(&host[i], &expected, sizeof expected);
    }
}

static void check_fast(Exec *exec, Tensor flat, float *host)
{
    int64_t count = tensor_count(flat);
    float *again = memory_new((size_t)count, sizeof *again);
    sum(exec, REDUCE_FAST, flat, host);
    sum(exec, REDUCE_FAST, flat, again);
    for (int64_t stripe = 0; stripe < shard_stripes(count); stripe++) {
        Span own = shard_slice(count, comm_size(comm), comm_rank(comm), stripe);
        assert_memory_equal(host + own.from, again + own.from, (size_t)(own.to - own.from) * sizeof *host);
        for (int64_t i = own.from; i < own.to; i++) {
            double expected = 0, size = 0;
            for (int rank = 0; rank < comm_size(comm); rank++) {
                expected += (double)element(rank, i);
                size += fabs((double)element(rank, i));
            }
            if (!(fabs((double)host[i] - expected) <= 4e-7 * size))
                fail_msg("%lld floats, element %lld: %.9g, expected about %.9g", (long long)count, (long long)i,
                         (double)host[i], expected);
        }
    }
    memory_free(&again);
}

/* One double for each block, of this rank's slices; all have all. */
static void check_blocks(Exec *exec, Arena *model, int64_t count)
{
    int64_t blocks = (count + SUM_BLOCK - 1) / SUM_BLOCK;
    Tensor block = tensor_new1(model, DTYPE_F64, blocks);
    double *host = memory_new((size_t)blocks, sizeof *host);
    for (int64_t stripe = 0; stripe < shard_stripes(count); stripe++) {
        Span own = shard_slice(count, comm_size(comm), comm_rank(comm), stripe);
        for (int64_t at = own.from; at < own.to; at += SUM_BLOCK)
            host[at / SUM_BLOCK] = (double)(at / SUM_BLOCK) + 0.5;
    }
    tensor_write(exec->device, block, host);
    gather_slices(comm, exec, block, count, SUM_BLOCK);
    tensor_read(exec->device, block, host);
    for (int64_t i = 0; i < blocks; i++)
        assert_true(host[i] == (double)i + 0.5);
    memory_free(&host);
}

static void check_count(Device *device, int64_t count)
{
    int ranks = comm_size(comm);
    Arena model, step;
    assert_ok(device_arena(device, &model, "model", 256 << 20));
    assert_ok(device_arena(device, &step, "step", 256 << 20));
    Exec exec = {.device = device, .step = &step};
    Tensor flat = tensor_new1(&model, DTYPE_F32, count);
    float *host = memory_new((size_t)count, sizeof *host);
    check_fast(&exec, flat, host);
    assert_int_equal(step.high_water, 0);
    if ((ranks & (ranks - 1)) == 0) {
        check_exact(&exec, flat, host);
        size_t red_zones = 4096; /* of a checked build */
        assert_true(step.high_water <= reduce_bytes(REDUCE_EXACT, count, ranks) + red_zones);
    }
    check_blocks(&exec, &model, count);
    memory_free(&host);
    arena_close(&step);
    arena_close(&model);
}

static void check_device(bool host_visible, bool nccl)
{
    Device device;
    support_device_open(&device);
    DeviceBackend hidden = *device.backend;
    hidden.host_visible = false;
    if (!host_visible)
        device.backend = &hidden;
    if (nccl)
        assert_ok(comm_attach_nccl(comm, &device, 0));
    /* Less than a block: three of four slices are empty. Ragged slices. Several stripes. */
    const int64_t counts[] = {64, SUM_BLOCK + 64, 7 * SUM_BLOCK + 128, 31 * SUM_BLOCK - 64};
    for (int64_t blocks = 4; blocks <= 2048; blocks *= 512) {
        shard_set_stripe(blocks);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            check_count(&device, counts[i]);
    }
    check_count(&device,
                9000064); /* several windows of a slice, the last a part; and a second stripe, of some blocks */
    comm_detach_device(comm);
    device_close(&device);
}

static void test_sum_has_the_bits_of_the_tree(void **state)
{
    (void)state;
    check_device(true, false);
}

static void test_staging_through_the_host(void **state)
{
    (void)state;
    check_device(false, false);
}

/* Where there is no such thing, the transport once more. */
static void test_by_nccl(void **state)
{
    (void)state;
    check_device(true, true);
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
        cmocka_unit_test(test_by_nccl),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    comm_close(comm);
    MPI_Finalize();
    return failures != 0;
}
