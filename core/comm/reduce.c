/* reduce.c -- the exact sum over ranks, a window of each slice at a time, so that its memory does not grow with the model. */
#include "core/comm/reduce.h"

#include "core/base/memory.h"
#include "core/comm/transport.h"

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

/* One window of every peer's part to its owner. The communication queue waits for what the compute queue was asked for, and that for the window. */
static void exchange_by_device(Comm *comm, Device *device, const Tensor *send, const Tensor *receive)
{
    CommPiece *pieces = memory_borrow(2 * (size_t)comm->size, sizeof *pieces), *back = pieces + comm->size;
    for (int peer = 0; peer < comm->size; peer++) {
        if (peer == comm->rank)
            continue;
        pieces[peer] = (CommPiece){send[peer].data, tensor_bytes(send[peer])};
        back[peer] = (CommPiece){receive[peer].data, tensor_bytes(receive[peer])};
    }
    device_wait(device, QUEUE_COMMUNICATION, device_record(device, QUEUE_COMPUTE));
    comm->moves->exchange(comm->moves->self, pieces, back);
    device_wait(device, QUEUE_COMPUTE, device_record(device, QUEUE_COMMUNICATION));
    memory_return(&pieces);
}

/* The same by the transport, peer by peer; `staging` (2 windows of host memory) where it may not touch device memory. */
static void exchange_by_host(Comm *comm, Device *device, const Tensor *send, const Tensor *receive, float *staging,
                             int64_t window)
{
    device_finish(device); /* nothing that was received before is still read */
    for (int distance = 1; distance < comm->size; distance++) {
        Tensor out = send[(comm->rank + distance) % comm->size];
        Tensor in = receive[(comm->rank - distance + comm->size) % comm->size];
        if (!staging) {
            comm_shift(comm, distance, out.data, tensor_bytes(out), in.data, tensor_bytes(in));
            continue;
        }
        if (tensor_count(out))
            tensor_read(device, out, staging);
        comm_shift(comm, distance, staging, tensor_bytes(out), staging + window, tensor_bytes(in));
        if (tensor_count(in))
            tensor_write(device, in, staging + window);
    }
}

/* The upper part of the tree over lanes; node (ranks). Where one side is this rank's, the sum is kept there: it ends in place. */
static void add_tree(Exec *exec, Tensor *node, int ranks, int rank)
{
    for (int step = 1; step < ranks; step *= 2) {
        for (int left = 0; left < ranks; left += 2 * step) {
            bool own_is_right = rank >= left + step && rank < left + 2 * step;
            Tensor out = own_is_right ? node[left + step] : node[left];
            add(exec, out, node[left], node[left + step], 1.0f);
            node[left] = out;
        }
    }
}

/* May the transport be handed this device's addresses? */
static bool transport_reads(const Comm *comm, const Device *device)
{
    return device->backend->host_visible || comm->reads_device;
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
    Tensor *received = memory_borrow(4 * (size_t)ranks, sizeof *received), *node = received + ranks;
    Tensor *send = node + ranks, *receive = send + ranks; /* of the window at hand */
    for (int peer = 0; peer < ranks; peer++)
        if (peer != rank)
            received[peer] = tensor_new1(exec->step, DTYPE_F32, window);
    float *staging = NULL;
    if (device->backend->computes && !comm->moves && !transport_reads(comm, device))
        staging = memory_borrow(2 * (size_t)window, sizeof *staging);

    int64_t longest = 0;
    for (int peer = 0; peer < ranks; peer++) {
        Span slice = shard_slice(count, ranks, peer);
        longest = slice.to - slice.from > longest ? slice.to - slice.from : longest;
    }
    Span own = shard_slice(count, ranks, rank);
    for (int64_t at = 0; at < longest; at += window) {
        Span part = window_at(own, at, window);
        int64_t length = part.to - part.from;
        for (int peer = 0; peer < ranks; peer++) {
            if (peer == rank)
                continue;
            send[peer] = flat_part(flat, window_at(shard_slice(count, ranks, peer), at, window));
            receive[peer] = tensor_range(received[peer], 0, length);
        }
        if (comm->moves)
            exchange_by_device(comm, device, send, receive);
        else if (device->backend->computes)
            exchange_by_host(comm, device, send, receive, staging, window);
        if (length == 0)
            continue;
        for (int peer = 0; peer < ranks; peer++)
            node[peer] = peer == rank ? flat_part(flat, part) : receive[peer];
        add_tree(exec, node, ranks, rank);
    }
    memory_return(&staging);
    memory_return(&received);
    arena_rewind(exec->step, mark);
}

void gather_parts(Comm *comm, Exec *exec, Tensor all, const size_t *offsets)
{
    int ranks = comm->size, rank = comm->rank;
    Device *device = exec->device;
    REQUIRE(offsets[0] == 0 && offsets[ranks] == tensor_bytes(all), "parts from %zu to %zu of %zu bytes", offsets[0],
            offsets[ranks], tensor_bytes(all));
    if (ranks == 1 || tensor_count(all) == 0 || !device->backend->computes)
        return;
    if (comm->moves) {
        device_wait(device, QUEUE_COMMUNICATION, device_record(device, QUEUE_COMPUTE));
        comm->moves->allgather_parts(comm->moves->self, all.data, offsets);
        device_wait(device, QUEUE_COMPUTE, device_record(device, QUEUE_COMMUNICATION));
        return;
    }
    device_finish(device);
    if (transport_reads(comm, device)) {
        comm_allgather_parts(comm, all.data, offsets);
        return;
    }
    size_t each = dtype_size(all.dtype), own = offsets[rank + 1] - offsets[rank];
    char *host = memory_borrow(tensor_bytes(all), 1);
    if (own)
        tensor_read(device, tensor_range(all, (int64_t)(offsets[rank] / each), (int64_t)(own / each)),
                    host + offsets[rank]);
    comm_allgather_parts(comm, host, offsets);
    tensor_write(device, all, host);
    memory_return(&host);
}

void gather_slices(Comm *comm, Exec *exec, Tensor flat)
{
    size_t *offsets = memory_borrow((size_t)comm->size + 1, sizeof *offsets);
    for (int peer = 0; peer < comm->size; peer++)
        offsets[peer + 1] = offsets[peer] + span_bytes(shard_slice(tensor_count(flat), comm->size, peer));
    gather_parts(comm, exec, flat, offsets);
    memory_return(&offsets);
}
