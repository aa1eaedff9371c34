/* reduce.c -- sums over ranks by stripes: a window of each slice at a time, so that the memory does not grow with the model. */
#include "core/comm/reduce.h"

#include "core/base/memory.h"
#include "core/comm/transport.h"

enum { WINDOW = 256 * SUM_BLOCK }; /* floats received from each peer at once, at most: 4 MiB */

static int64_t min_count(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t longest_slice(int64_t count, int ranks, int64_t stripe)
{
    int64_t longest = 0;
    for (int rank = 0; rank < ranks; rank++) {
        Span slice = shard_slice(count, ranks, rank, stripe);
        longest = slice.to - slice.from > longest ? slice.to - slice.from : longest;
    }
    return longest;
}

/* Floats of the window: no more than the longest slice, which is one of the first stripe's. */
static int64_t window_of(int64_t count, int ranks)
{
    return min_count(WINDOW, longest_slice(count, ranks, 0));
}

size_t reduce_bytes(ReduceKind kind, int64_t count, int ranks)
{
    size_t each = ((size_t)window_of(count, ranks) * sizeof(float) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return kind == REDUCE_EXACT ? (size_t)(ranks - 1) * REDUCE_WINDOWS * each : 0;
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

/* May the transport be handed this device's addresses? */
static bool transport_reads(const Comm *comm, const Device *device)
{
    return device->backend->host_visible || comm->reads_device;
}

/* One queue goes on when the other has done what it was asked for so far. */
static void follow_compute(Device *device)
{
    device_wait(device, QUEUE_COMMUNICATION, device_record(device, QUEUE_COMPUTE));
}

static void follow_communication(Device *device)
{
    device_wait(device, QUEUE_COMPUTE, device_record(device, QUEUE_COMMUNICATION));
}

/* --- Exact --- */

/* One window of every peer's part to its owner. */
static void exchange_by_device(Comm *comm, Device *device, const Tensor *send, const Tensor *receive)
{
    CommPiece *pieces = memory_borrow(2 * (size_t)comm->size, sizeof *pieces), *back = pieces + comm->size;
    for (int peer = 0; peer < comm->size; peer++) {
        if (peer == comm->rank)
            continue;
        pieces[peer] = (CommPiece){send[peer].data, tensor_bytes(send[peer])};
        back[peer] = (CommPiece){receive[peer].data, tensor_bytes(receive[peer])};
    }
    follow_compute(device);
    comm->moves->exchange(comm->moves->self, pieces, back);
    memory_return(&pieces);
}

/* The same by the transport, peer by peer; through host memory where it may not touch the device's. */
static void exchange_by_host(Comm *comm, Device *device, const Tensor *send, const Tensor *receive, int64_t window)
{
    float *staging = NULL; // (2, window)
    if (!transport_reads(comm, device))
        staging = memory_borrow(2 * (size_t)window, sizeof *staging);
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
    memory_return(&staging);
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

/* What a window holds is added, once it is there; and what it sent has been read. */
static void window_add(Reduction *reduction, ReduceWindow *window)
{
    Comm *comm = reduction->comm;
    Tensor *node = reduction->tensors;
    if (!window->under_way)
        return;
    window->under_way = false;
    if (comm->moves)
        device_wait(reduction->exec->device, QUEUE_COMPUTE, window->there);
    int64_t length = window->part.to - window->part.from;
    if (length == 0)
        return;
    for (int peer = 0; peer < comm->size; peer++)
        node[peer] = peer == comm->rank ? flat_part(reduction->flat, window->part)
                                        : tensor_range(window->received[peer], 0, length);
    add_tree(reduction->exec, node, comm->size, comm->rank);
}

static void ask_window(Reduction *reduction, int64_t stripe, int64_t at)
{
    Comm *comm = reduction->comm;
    Device *device = reduction->exec->device;
    int64_t count = tensor_count(reduction->flat), length = reduction->length;
    ReduceWindow *window = &reduction->window[reduction->turn];
    Tensor *send = reduction->tensors, *receive = send + comm->size;
    window_add(reduction, window); /* what has been in it since the turn before */
    window->part = window_at(shard_slice(count, comm->size, comm->rank, stripe), at, length);
    for (int peer = 0; peer < comm->size; peer++) {
        if (peer == comm->rank)
            continue;
        send[peer] = flat_part(reduction->flat, window_at(shard_slice(count, comm->size, peer, stripe), at, length));
        receive[peer] = tensor_range(window->received[peer], 0, window->part.to - window->part.from);
    }
    window->under_way = true;
    if (comm->moves) {
        exchange_by_device(comm, device, send, receive);
        window->there = device_record(device, QUEUE_COMMUNICATION);
        reduction->turn = (reduction->turn + 1) % REDUCE_WINDOWS;
        return;
    }
    if (device->backend->computes)
        exchange_by_host(comm, device, send, receive, length);
    window_add(reduction, window); /* while it is in the cache */
}

/* --- Fast --- */

static void ask_sum(Reduction *reduction, int64_t stripe)
{
    Comm *comm = reduction->comm;
    Device *device = reduction->exec->device;
    int64_t count = tensor_count(reduction->flat);
    Span whole = shard_stripe(count, stripe);
    Tensor part = flat_part(reduction->flat, whole);
    if (comm->moves) {
        size_t *offsets = memory_borrow((size_t)comm->size + 1, sizeof *offsets);
        for (int peer = 0; peer < comm->size; peer++)
            offsets[peer + 1] = (size_t)(shard_slice(count, comm->size, peer, stripe).to - whole.from);
        follow_compute(device);
        comm->moves->sum_parts(comm->moves->self, part.data, offsets);
        memory_return(&offsets);
        return;
    }
    if (!device->backend->computes)
        return;
    device_finish(device);
    if (transport_reads(comm, device)) {
        comm_sum(comm, part.data, (size_t)tensor_count(part));
        return;
    }
    float *host = memory_borrow((size_t)tensor_count(part), sizeof *host);
    tensor_read(device, part, host);
    comm_sum(comm, host, (size_t)tensor_count(part));
    tensor_write(device, part, host);
    memory_return(&host);
}

/* --- Both --- */

void reduce_open(Reduction *reduction, ReduceKind kind, Comm *comm)
{
    size_t ranks = (size_t)comm_size(comm);
    REQUIRE(kind == REDUCE_FAST || (ranks & (ranks - 1)) == 0, "an exact sum over %zu ranks: not a power of two",
            ranks);
    *reduction = (Reduction){.kind = kind, .comm = comm};
    reduction->tensors = memory_new((2 + REDUCE_WINDOWS) * ranks, sizeof *reduction->tensors);
    for (int i = 0; i < REDUCE_WINDOWS; i++)
        reduction->window[i].received = reduction->tensors + (size_t)(2 + i) * ranks;
}

void reduce_close(Reduction *reduction)
{
    memory_free(&reduction->tensors);
    *reduction = (Reduction){0};
}

bool reduce_overlaps(const Reduction *reduction)
{
    return reduction->comm->moves != NULL;
}

void reduce_begin(Reduction *reduction, Exec *exec, Tensor flat)
{
    int ranks = comm_size(reduction->comm), rank = comm_rank(reduction->comm);
    int64_t count = tensor_count(flat);
    reduction->exec = exec;
    reduction->flat = flat;
    reduction->mark = arena_mark(exec->step);
    reduction->left = ranks == 1 ? 0 : shard_stripes(count);
    reduction->turn = 0;
    if (reduction->kind != REDUCE_EXACT || reduction->left == 0)
        return;
    reduction->length = window_of(count, ranks);
    for (int i = 0; i < REDUCE_WINDOWS; i++)
        for (int peer = 0; peer < ranks; peer++)
            if (peer != rank)
                reduction->window[i].received[peer] = tensor_new1(exec->step, DTYPE_F32, reduction->length);
}

void reduce_from(Reduction *reduction, int64_t at)
{
    int64_t count = tensor_count(reduction->flat);
    while (reduction->left > 0 && shard_stripe(count, reduction->left - 1).from >= at) {
        int64_t stripe = --reduction->left;
        if (reduction->kind == REDUCE_FAST) {
            ask_sum(reduction, stripe);
            continue;
        }
        int64_t longest = longest_slice(count, comm_size(reduction->comm), stripe);
        for (int64_t from = 0; from < longest; from += reduction->length)
            ask_window(reduction, stripe, from);
    }
}

void reduce_end(Reduction *reduction)
{
    Device *device = reduction->exec->device;
    reduce_from(reduction, 0);
    for (int i = 0; i < REDUCE_WINDOWS; i++)
        window_add(reduction, &reduction->window[(reduction->turn + i) % REDUCE_WINDOWS]);
    if (reduction->kind == REDUCE_FAST && reduction->comm->moves)
        follow_communication(device);
    arena_rewind(reduction->exec->step, reduction->mark);
}

/* --- Gathering --- */

/* Where each rank's part of each stripe of `all` begins, in bytes: (stripes * ranks + 1). */
static void gather_offsets(size_t *offsets, int64_t count, int64_t each, size_t element, int ranks)
{
    int64_t stripes = shard_stripes(count);
    for (int64_t stripe = 0; stripe < stripes; stripe++)
        for (int rank = 0; rank < ranks; rank++) {
            int64_t to = shard_slice(count, ranks, rank, stripe).to;
            offsets[stripe * ranks + rank + 1] = (size_t)((to + each - 1) / each) * element;
        }
}

/* One stripe, whose parts begin at offsets (ranks + 1), by the transport; through host memory where it may not touch the device's. */
static void gather_by_host(Comm *comm, Device *device, Tensor all, const size_t *offsets)
{
    size_t first = offsets[0], bytes = offsets[comm->size] - first, element = dtype_size(all.dtype);
    size_t own = offsets[comm->rank], own_bytes = offsets[comm->rank + 1] - own;
    size_t *at = memory_borrow((size_t)comm->size + 1, sizeof *at);
    for (int rank = 0; rank <= comm->size; rank++)
        at[rank] = offsets[rank] - first;
    if (transport_reads(comm, device)) {
        comm_allgather_parts(comm, (char *)all.data + first, at);
        memory_return(&at);
        return;
    }
    char *host = memory_borrow(bytes, 1);
    if (own_bytes)
        tensor_read(device, tensor_range(all, (int64_t)(own / element), (int64_t)(own_bytes / element)),
                    host + at[comm->rank]);
    comm_allgather_parts(comm, host, at);
    tensor_write(device, tensor_range(all, (int64_t)(first / element), (int64_t)(bytes / element)), host);
    memory_return(&host);
    memory_return(&at);
}

void gather_slices(Comm *comm, Exec *exec, Tensor all, int64_t count, int64_t each)
{
    int64_t stripes = shard_stripes(count), ranks = comm->size;
    Device *device = exec->device;
    if (ranks == 1 || count == 0 || !device->backend->computes)
        return;
    size_t *offsets = memory_borrow((size_t)(stripes * ranks) + 1, sizeof *offsets);
    gather_offsets(offsets, count, each, dtype_size(all.dtype), comm->size);
    REQUIRE(offsets[stripes * ranks] == tensor_bytes(all), "%zu bytes for slices of %zu", tensor_bytes(all),
            offsets[stripes * ranks]);
    if (comm->moves) {
        follow_compute(device);
        comm->moves->allgather_parts(comm->moves->self, all.data, offsets, stripes);
        follow_communication(device);
        memory_return(&offsets);
        return;
    }
    device_finish(device);
    for (int64_t stripe = 0; stripe < stripes; stripe++)
        gather_by_host(comm, device, all, offsets + stripe * ranks);
    memory_return(&offsets);
}
