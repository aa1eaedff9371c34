//TEST ranks=1,2,4 timeout=60
/* t220 -- every move of comm.h, whole and in parts, and agreement: one rank's failure or difference is told on all ranks. */
#include "tests/support/support.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/comm/comm.h"
#include "core/comm/transport.h"

static Comm *comm;

/* What rank `from` sends to rank `to` at byte `i`. */
static char byte_of(int from, int to, size_t i)
{
    return (char)(1 + 31 * from + 7 * to + (int)(i % 101));
}

/* Runs once with messages that go whole, and once cut into parts of 13 bytes. */
static int cut_messages(void **state)
{
    (void)state;
    comm_mpi_set_message_limit(13);
    return 0;
}

static int whole_messages(void **state)
{
    (void)state;
    comm_mpi_set_message_limit((size_t)1 << 30);
    return 0;
}

static void test_broadcast(void **state)
{
    (void)state;
    for (int root = 0; root < comm_size(comm); root++) {
        char bytes[100];
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = comm_rank(comm) == root ? byte_of(root, 0, i) : 0;
        comm_broadcast(comm, root, bytes, sizeof bytes);
        for (size_t i = 0; i < sizeof bytes; i++)
            assert_int_equal(bytes[i], byte_of(root, 0, i));
        comm_broadcast(comm, root, NULL, 0);
    }
}

static void test_allgather(void **state)
{
    (void)state;
    enum { EACH = 29 };
    char mine[EACH], all[64 * EACH];
    for (size_t i = 0; i < EACH; i++)
        mine[i] = byte_of(comm_rank(comm), 0, i);
    comm_allgather(comm, mine, EACH, all);
    for (int rank = 0; rank < comm_size(comm); rank++)
        for (size_t i = 0; i < EACH; i++)
            assert_int_equal(all[(size_t)rank * EACH + i], byte_of(rank, 0, i));
}

/* Rank r brings 17 r bytes: none from rank 0, and more than a part from others. */
static void test_ragged(void **state)
{
    (void)state;
    int rank = comm_rank(comm), size = comm_size(comm);
    size_t bytes = 17 * (size_t)rank, offsets[65];
    char *mine = memory_new(bytes, 1), *all = NULL;
    for (size_t i = 0; i < bytes; i++)
        mine[i] = byte_of(rank, 0, i);
    comm_allgather_ragged(comm, bytes ? mine : NULL, bytes, &all, offsets);
    size_t at = 0;
    for (int peer = 0; peer < size; peer++) {
        assert_int_equal(offsets[peer], at);
        for (size_t i = 0; i < 17 * (size_t)peer; i++)
            assert_int_equal(all[at + i], byte_of(peer, 0, i));
        at += 17 * (size_t)peer;
    }
    assert_int_equal(offsets[size], at);
    memory_free(&mine);
    memory_free(&all);
}

/* Rank `from` sends (5 from + 11 to) mod 40 bytes to rank `to`, which may be none. */
static void test_exchange(void **state)
{
    (void)state;
    int rank = comm_rank(comm), size = comm_size(comm);
    size_t out[65] = {0}, in[65] = {0};
    for (int peer = 0; peer < size; peer++) {
        out[peer + 1] = out[peer] + (size_t)(5 * rank + 11 * peer) % 40;
        in[peer + 1] = in[peer] + (size_t)(5 * peer + 11 * rank) % 40;
    }
    char *send = memory_new(out[size], 1), *receive = memory_new(in[size], 1);
    for (int peer = 0; peer < size; peer++)
        for (size_t i = out[peer]; i < out[peer + 1]; i++)
            send[i] = byte_of(rank, peer, i - out[peer]);
    comm_exchange(comm, send, out, receive, in);
    for (int peer = 0; peer < size; peer++)
        for (size_t i = in[peer]; i < in[peer + 1]; i++)
            assert_int_equal(receive[i], byte_of(peer, rank, i - in[peer]));
    memory_free(&send);
    memory_free(&receive);
}

static void test_shift_wraps_round(void **state)
{
    (void)state;
    int rank = comm_rank(comm), size = comm_size(comm);
    for (int distance = -1; distance <= 1; distance++) {
        int sent = rank, received = -1;
        comm_shift(comm, distance, &sent, sizeof sent, &received, sizeof received);
        assert_int_equal(received, (rank - distance + size) % size);
    }
}

static void test_agree(void **state)
{
    (void)state;
    int rank = comm_rank(comm), size = comm_size(comm);
    assert_ok(comm_agree(comm, status_ok()));
    for (int bad = 0; bad < size; bad++) {
        /* Two fail: each keeps its own reason, the others hear of the first. */
        int second = bad + 2;
        Status local = status_ok();
        if (rank == bad)
            local = status_error(STATUS_INPUT, "bad.jsonl: line 3");
        if (rank == second)
            local = status_error(STATUS_IO, "disk full");
        Status agreed = comm_agree(comm, local);
        assert_int_equal(comm_failed_rank(comm), bad);
        char expected[64];
        snprintf(expected, sizeof expected, "rank %d: bad.jsonl: line 3", bad);
        if (rank == second) {
            assert_fails(agreed, STATUS_IO, "disk full");
        } else {
            assert_fails(agreed, STATUS_INPUT, rank == bad ? "bad.jsonl: line 3" : expected);
            if (rank != bad)
                assert_string_equal(status_message(), expected);
        }
    }
    assert_ok(comm_agree(comm, status_ok())); /* nothing is left behind */
    assert_int_equal(comm_failed_rank(comm), -1);
}

static void test_agree_stop(void **state)
{
    (void)state;
    assert_false(comm_agree_stop(comm, false));
    for (int rank = 0; rank < comm_size(comm); rank++)
        assert_true(comm_agree_stop(comm, rank == comm_rank(comm)));
}

static void test_agree_same(void **state)
{
    (void)state;
    int rank = comm_rank(comm), last = comm_size(comm) - 1;
    assert_ok(comm_agree_same(comm, "threads", "2"));
    Status status = comm_agree_same(comm, "threads", rank == last ? "16" : "2");
    Text a = {0}, b = {0};
    for (int i = 0; i < 200; i++)
        text_printf(&a, "key%d=1\n", i), text_printf(&b, "key%d=%d\n", i, i == 150 ? 7 : 1);
    if (last == 0) {
        assert_ok(status);
    } else {
        assert_fails(status, STATUS_USAGE, "threads");
        assert_contains(status_message(), "rank 0 has \"2\"");
        char expected[64];
        snprintf(expected, sizeof expected, "rank %d has \"16\"", last);
        assert_contains(status_message(), expected);
        assert_fails(comm_agree_same(comm, "config", text_string(rank == 1 ? &b : &a)), STATUS_USAGE, "key150=7");
        assert_contains(status_message(), "key150=1");
    }
    text_free(&a);
    text_free(&b);
}

static void test_self_and_dry(void **state)
{
    (void)state;
    assert_int_equal(comm_size(comm_self()), 1);
    assert_null(comm_mpi_handle(comm_self()));
    assert_ok(comm_agree_same(comm_self(), "x", "y"));
    assert_fails(comm_agree(comm_self(), status_error(STATUS_IO, "alone")), STATUS_IO, "alone");
    Comm *dry = comm_open_dry(2, 4);
    assert_int_equal(comm_rank(dry), 2);
    assert_int_equal(comm_size(dry), 4);
    int mine = 5, all[4] = {0}, got = 0;
    comm_allgather(dry, &mine, sizeof mine, all);
    assert_int_equal(all[0] + all[1] + all[2] + all[3], 20);
    comm_shift(dry, 1, &mine, sizeof mine, &got, sizeof got);
    assert_int_equal(got, 5);
    assert_ok(comm_agree_same(dry, "x", "y"));
    assert_fails(comm_agree(dry, status_error(STATUS_IO, "alone")), STATUS_IO, "alone");
    comm_close(dry);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm world = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&world, &comm)))
        return 1;
    int size = 0;
    MPI_Comm_size(world, &size);
    if (comm_size(comm) != size || size > 64 || !comm_mpi_handle(comm))
        return 1;
    status_set_rank(comm_rank(comm));
#define MOVES                                                                                                          \
    cmocka_unit_test(test_broadcast), cmocka_unit_test(test_allgather), cmocka_unit_test(test_ragged),                 \
        cmocka_unit_test(test_exchange), cmocka_unit_test(test_shift_wraps_round), cmocka_unit_test(test_agree),       \
        cmocka_unit_test(test_agree_same)
    const struct CMUnitTest tests[] = {MOVES, cmocka_unit_test(test_agree_stop), cmocka_unit_test(test_self_and_dry)};
    const struct CMUnitTest parts[] = {MOVES};
    int failures = cmocka_run_group_tests(tests, whole_messages, NULL);
    failures += cmocka_run_group_tests(parts, cut_messages, NULL);
    comm_barrier(comm);
    comm_close(comm);
    MPI_Finalize();
    return failures != 0;
}
