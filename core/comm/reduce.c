/* reduce.c -- the exact sum over ranks, a window of each slice at a time, so that its memory does not grow with the model. */
#include "core/comm/reduce.h"

#include "core/base/memory.h"

enum { WINDOW = 256 * SUM_BLOCK }; /* floats received from each peer at once: 4 MiB */

static int64_t min_count(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Floats of the window: no more than the longest slice. */
static int64_t window_of(int64_t count, int ranks)
{
    int64_t blocks = (count + SUM_BLOCK - 1) / SUM_BLOCK;
    return min_count(WINDOW, (blocks + ranks - 1) / ranks * SUM_BLOCK);
}

size_t reduce_bytes(int64_t count, int ranks)
{
    size_t each = ((size_t)window_of(count, ranks) * sizeof(float) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return (size_t)(ranks - 1) * each;
}

/* `length` floats of the slice from its element `at` on, cut off at its end. */
static Span window_at(Span slice, int64_t at, int64_t length)
{
    Span span = {min_count(slice.from + at, slice.to), min_count(slice.from + at + length, slice.to)};
    return span;
}

static Tensor flat_part(Tensor flat, Span part)
{
    return tensor_range(flat, part.from, part.to - part.from);
}

static size_t span_bytes(Span span)
{
    return (size_t)(span.to - span.from) * sizeof(float);
}

/* One shift of floats between devices; `staging` (2 windows of host memory) where MPI may not touch device memory. */
static void shift_part(Comm *comm, Device *device, int distance, Tensor send, Tensor receive, float *staging,
                       int64_t window)
{
    if (!device->backend->computes)
        return;
    if (!staging) {
        comm_shift(comm, distance, send.data, tensor_bytes(send), receive.data, tensor_bytes(receive));
        return;
    }
    if (tensor_count(send))
        tensor_read(device, send, staging);
    comm_shift(comm, distance, staging, tensor_bytes(send), staging + window, tensor_bytes(receive));
    if (tensor_count(receive))
        tensor_write(device, receive, staging + window);
}

void reduce_slices(Comm *comm, Exec *exec, Tensor flat)
{
    int ranks = comm_size(comm), rank = comm_rank(comm);
    int64_t count = tensor_count(flat), window = window_of(count, ranks);
    REQUIRE((ranks & (ranks - 1)) == 0, "an exact sum over %d ranks: not a power of two", ranks);
    if (ranks == 1 || count == 0)
        return;
    Device *device = exec->device;
    size_t mark = arena_mark(exec->step);
    Tensor *received = memory_borrow(2 * (size_t)ranks, sizeof *received), *node = received + ranks;
    for (int peer = 0; peer < ranks; peer++)
        if (peer != rank)
            received[peer] = tensor_new1(exec->step, DTYPE_F32, window);
    float *staging = NULL;
    if (!device->backend->host_visible && device->backend->computes)
        staging = memory_borrow(2 * (size_t)window, sizeof *staging);
    device_finish(device);

    int64_t longest = 0;
    for (int peer = 0; peer < ranks; peer++) {
        Span slice = shard_slice(count, ranks, peer);
        longest = slice.to - slice.from > longest ? slice.to - slice.from : longest;
    }
    Span own = shard_slice(count, ranks, rank);
    for (int64_t at = 0; at < longest; at += window) {
        Span part = window_at(own, at, window);
        int64_t length = part.to - part.from;
        for (int distance = 1; distance < ranks; distance++) {
            int to = (rank + distance) % ranks, from = (rank - distance + ranks) % ranks;
            Tensor send = flat_part(flat, window_at(shard_slice(count, ranks, to), at, window));
            shift_part(comm, device, distance, send, tensor_range(received[from], 0, length), staging, window);
        }
        if (length == 0)
            continue;
        for (int peer = 0; peer < ranks; peer++)
            node[peer] = peer == rank ? flat_part(flat, part) : tensor_range(received[peer], 0, length);
        /* The upper part of the tree over lanes. Where one side is this rank's, the sum is kept there: it ends in place. */
        for (int step = 1; step < ranks; step *= 2) {
            for (int left = 0; left < ranks; left += 2 * step) {
                bool own_is_right = rank >= left + step && rank < left + 2 * step;
                Tensor out = own_is_right ? node[left + step] : node[left];
                add(exec, out, node[left], node[left + step], 1.0f);
                node[left] = out;
            }
        }
        device_finish(device); /* before the next window overwrites what was received */
    }
    memory_return(&staging);
    memory_return(&received);
    arena_rewind(exec->step, mark);
}

void gather_slices(Comm *comm, Exec *exec, Tensor flat)
{
    int ranks = comm_size(comm), rank = comm_rank(comm);
    int64_t count = tensor_count(flat);
    Device *device = exec->device;
    if (ranks == 1 || count == 0 || !device->backend->computes)
        return;
    size_t *offsets = memory_borrow((size_t)ranks + 1, sizeof *offsets);
    for (int peer = 0; peer < ranks; peer++)
        offsets[peer + 1] = offsets[peer] + span_bytes(shard_slice(count, ranks, peer));
    device_finish(device);
    if (device->backend->host_visible) {
        comm_allgather_parts(comm, flat.data, offsets);
    } else {
        Span own = shard_slice(count, ranks, rank);
        float *host = memory_borrow((size_t)count, sizeof *host);
        if (own.to > own.from)
            tensor_read(device, flat_part(flat, own), host + own.from);
        comm_allgather_parts(comm, host, offsets);
        tensor_write(device, flat, host);
        memory_return(&host);
    }
    memory_return(&offsets);
}
