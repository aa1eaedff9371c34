/* comm.c -- what ranks agree on, over the table of transport.h; and the two transports that need no peers.
 *
 * `self` is a process alone. `dry` pretends to be one of many whose peers hold what this rank holds: a dry run then takes the
 * same path, with the same sizes, as a real run on that many ranks. */
#include "core/comm/comm.h"

#include <string.h>

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/comm/transport.h"

/* --- Transports without peers ------------------------------------------------------------------------------------- */

static void alone_barrier(Comm *comm)
{
    (void)comm;
}

static void alone_broadcast(Comm *comm, int root, void *bytes, size_t size)
{
    (void)comm, (void)root, (void)bytes, (void)size;
}

static void alone_allgather(Comm *comm, const void *mine, size_t bytes_each, void *all)
{
    for (int rank = 0; rank < comm->size && bytes_each; rank++)
        memmove((char *)all + (size_t)rank * bytes_each, mine, bytes_each);
}

static void alone_allgather_parts(Comm *comm, void *all, const size_t *offsets)
{
    const char *mine = (char *)all + offsets[comm->rank];
    size_t bytes = offsets[comm->rank + 1] - offsets[comm->rank];
    for (int rank = 0; rank < comm->size; rank++) {
        size_t part = offsets[rank + 1] - offsets[rank];
        size_t same = part < bytes ? part : bytes;
        if (rank == comm->rank || !part)
            continue;
        memset((char *)all + offsets[rank], 0, part);
        memmove((char *)all + offsets[rank], mine, same);
    }
}

static void alone_shift(Comm *comm, int to, const void *send, size_t send_bytes, int from, void *receive,
                        size_t receive_bytes)
{
    (void)comm, (void)to, (void)from;
    size_t same = send_bytes < receive_bytes ? send_bytes : receive_bytes;
    if (same)
        memmove(receive, send, same);
    if (receive_bytes > same)
        memset((char *)receive + same, 0, receive_bytes - same);
}

static void alone_sum(Comm *comm, float *values, size_t count)
{
    (void)comm, (void)values, (void)count;
}

static void alone_close(Comm *comm)
{
    (void)comm;
}

static const CommTransport transport_self = {
    .name = "self",
    .barrier = alone_barrier,
    .broadcast = alone_broadcast,
    .allgather = alone_allgather,
    .allgather_parts = alone_allgather_parts,
    .shift = alone_shift,
    .sum = alone_sum,
    .close = alone_close,
};

Comm *comm_self(void)
{
    static int32_t code;
    static Comm self = {.transport = &transport_self, .rank = 0, .size = 1, .codes = &code};
    return &self;
}

static void dry_close(Comm *comm)
{
    memory_free(&comm->codes);
    memory_release(comm);
}

static const CommTransport transport_dry = {
    .name = "dry",
    .barrier = alone_barrier,
    .broadcast = alone_broadcast,
    .allgather = alone_allgather,
    .allgather_parts = alone_allgather_parts,
    .shift = alone_shift,
    .sum = alone_sum,
    .close = dry_close,
};

Comm *comm_open_dry(int rank, int size)
{
    REQUIRE(size >= 1 && rank >= 0 && rank < size, "rank %d of %d", rank, size);
    Comm *comm = memory_new(1, sizeof *comm);
    *comm = (Comm){.transport = &transport_dry, .rank = rank, .size = size};
    comm->codes = memory_new((size_t)size, sizeof *comm->codes);
    return comm;
}

/* --- The table ---------------------------------------------------------------------------------------------------- */

void comm_close(Comm *comm)
{
    if (comm)
        comm->transport->close(comm);
}

const char *comm_device_name(const Comm *comm)
{
    return comm->moves ? comm->moves->name : comm->reads_device ? "MPI" : "MPI by way of the host";
}

void comm_detach_device(Comm *comm)
{
    if (comm->moves)
        comm->moves->close(comm->moves->self);
    comm->moves = NULL;
}

int comm_rank(const Comm *comm)
{
    return comm->rank;
}

int comm_size(const Comm *comm)
{
    return comm->size;
}

const void *comm_mpi_handle(const Comm *comm)
{
    return comm->handle;
}

void comm_barrier(Comm *comm)
{
    comm->transport->barrier(comm);
}

void comm_broadcast(Comm *comm, int root, void *bytes, size_t size)
{
    REQUIRE(root >= 0 && root < comm->size, "root %d of %d ranks", root, comm->size);
    comm->transport->broadcast(comm, root, bytes, size);
}

void comm_allgather(Comm *comm, const void *mine, size_t bytes_each, void *all)
{
    comm->transport->allgather(comm, mine, bytes_each, all);
}

void comm_allgather_parts(Comm *comm, void *all, const size_t *offsets)
{
    for (int rank = 0; rank < comm->size; rank++)
        REQUIRE(offsets[rank] <= offsets[rank + 1], "part %d begins at %zu and ends at %zu", rank, offsets[rank],
                offsets[rank + 1]);
    comm->transport->allgather_parts(comm, all, offsets);
}

void comm_allgather_ragged(Comm *comm, const void *mine, size_t bytes, char **all, size_t *offsets)
{
    offsets[0] = 0;
    comm_allgather(comm, &bytes, sizeof bytes, offsets + 1);
    for (int rank = 0; rank < comm->size; rank++)
        offsets[rank + 1] += offsets[rank];
    *all = memory_new(offsets[comm->size], 1);
    if (bytes)
        memcpy(*all + offsets[comm->rank], mine, bytes);
    comm_allgather_parts(comm, *all, offsets);
}

void comm_shift(Comm *comm, int distance, const void *send, size_t send_bytes, void *receive, size_t receive_bytes)
{
    int size = comm->size, step = (distance % size + size) % size;
    comm->transport->shift(comm, (comm->rank + step) % size, send, send_bytes, (comm->rank - step + size) % size,
                           receive, receive_bytes);
}

void comm_exchange(Comm *comm, const void *send, const size_t *send_offsets, void *receive,
                   const size_t *receive_offsets)
{
    int size = comm->size;
    for (int distance = 0; distance < size; distance++) {
        int to = (comm->rank + distance) % size, from = (comm->rank - distance + size) % size;
        comm_shift(comm, distance, (const char *)send + send_offsets[to], send_offsets[to + 1] - send_offsets[to],
                   (char *)receive + receive_offsets[from], receive_offsets[from + 1] - receive_offsets[from]);
    }
}

void comm_sum(Comm *comm, float *values, size_t count)
{
    comm->transport->sum(comm, values, count);
}

/* --- Agreement ---------------------------------------------------------------------------------------------------- */

Status comm_agree(Comm *comm, Status local)
{
    int32_t code = (int32_t)local.code;
    comm_allgather(comm, &code, sizeof code, comm->codes);
    int first = 0;
    while (first < comm->size && comm->codes[first] == STATUS_OK)
        first++;
    comm->failed = first < comm->size ? first + 1 : 0;
    if (first == comm->size)
        return status_ok();
    StatusCode failure = (StatusCode)comm->codes[first];
    /* The length goes first: messages are as long as they are. */
    const char *mine = status_message();
    size_t length = strlen(mine);
    comm_broadcast(comm, first, &length, sizeof length);
    char *message = memory_borrow(length + 1, 1);
    if (comm->rank == first)
        memcpy(message, mine, length);
    comm_broadcast(comm, first, message, length);
    Status agreed = local;
    if (!status_failed(local))
        agreed = status_error(failure, "rank %d: %s", first, message);
    memory_return(&message);
    return agreed;
}

int comm_failed_rank(const Comm *comm)
{
    return comm->failed - 1;
}

bool comm_agree_stop(Comm *comm, bool local)
{
    int32_t stop = local;
    comm_allgather(comm, &stop, sizeof stop, comm->codes);
    for (int rank = 0; rank < comm->size; rank++)
        if (comm->codes[rank])
            return true;
    return false;
}

Status comm_agree_same(Comm *comm, const char *what, const char *text)
{
    size_t *offsets = memory_new((size_t)comm->size + 1, sizeof *offsets);
    char *all = NULL;
    comm_allgather_ragged(comm, text, strlen(text) + 1, &all, offsets);
    Status status = status_ok();
    for (int rank = 1; rank < comm->size && !status_failed(status); rank++) {
        const char *first = all, *other = all + offsets[rank];
        if (strcmp(first, other) == 0)
            continue;
        size_t at = 0;
        while (first[at] == other[at])
            at++;
        size_t shown = at > 100 ? at - 40 : 0; /* of a long text, the part that differs */
        const char *cut = shown ? "..." : "";
        status = status_error(STATUS_USAGE,
                              "%s must be the same on all ranks: rank 0 has \"%s%.200s\", rank %d has \"%s%.200s\"",
                              what, cut, first + shown, rank, cut, other + shown);
    }
    memory_free(&all);
    memory_free(&offsets);
    return status;
}
