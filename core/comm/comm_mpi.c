/* comm_mpi.c -- the transport over MPI: bytes, and one sum; messages longer than an int can count go in parts. */
#include <limits.h>
#include <mpi.h>
#include <string.h>
#if defined(OPEN_MPI) && OPEN_MPI
#include <mpi-ext.h>
#endif

#include "core/base/memory.h"
#include "core/comm/transport.h"

enum { TAG = 1 };

static size_t message_limit = (size_t)1 << 30; /* bytes; below INT_MAX */

void comm_mpi_set_message_limit(size_t bytes)
{
    REQUIRE(bytes >= 1 && bytes <= INT_MAX, "message limit of %zu bytes", bytes);
    message_limit = bytes;
}

static MPI_Comm handle_of(const Comm *comm)
{
    return *(MPI_Comm *)comm->handle;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void mpi_barrier(Comm *comm)
{
    MPI_Barrier(handle_of(comm));
}

static void mpi_broadcast(Comm *comm, int root, void *bytes, size_t size)
{
    for (size_t at = 0; at < size; at += message_limit)
        MPI_Bcast((char *)bytes + at, (int)min_size(size - at, message_limit), MPI_BYTE, root, handle_of(comm));
}

/* Part `at` of each message meets part `at` of its partner's, so ranks whose messages have different lengths never wait for
 * a part that is not sent. */
static void mpi_shift(Comm *comm, int to, const void *send, size_t send_bytes, int from, void *receive,
                      size_t receive_bytes)
{
    if (to == comm->rank) {
        REQUIRE(send_bytes == receive_bytes, "a rank sends itself %zu bytes and expects %zu", send_bytes,
                receive_bytes);
        if (send_bytes)
            memmove(receive, send, send_bytes);
        return;
    }
    for (size_t at = 0; at < send_bytes || at < receive_bytes; at += message_limit) {
        size_t out = at < send_bytes ? min_size(send_bytes - at, message_limit) : 0;
        size_t in = at < receive_bytes ? min_size(receive_bytes - at, message_limit) : 0;
        MPI_Status status;
        MPI_Sendrecv(out ? (const char *)send + at : NULL, (int)out, MPI_BYTE, out ? to : MPI_PROC_NULL, TAG,
                     in ? (char *)receive + at : NULL, (int)in, MPI_BYTE, in ? from : MPI_PROC_NULL, TAG,
                     handle_of(comm), &status);
        if (in) {
            int arrived = 0;
            MPI_Get_count(&status, MPI_BYTE, &arrived);
            REQUIRE((size_t)arrived == in, "%d bytes arrived from rank %d, expected %zu", arrived, from, in);
        }
    }
}

/* A ring: size - 1 shifts to the right, each part seen once by every rank. */
static void ring_allgather(Comm *comm, char *all, const size_t *offsets)
{
    int size = comm->size, right = (comm->rank + 1) % size, left = (comm->rank - 1 + size) % size;
    for (int step = 0; step < size - 1; step++) {
        int out = (comm->rank - step + size) % size, in = (out - 1 + size) % size;
        mpi_shift(comm, right, all + offsets[out], offsets[out + 1] - offsets[out], left, all + offsets[in],
                  offsets[in + 1] - offsets[in]);
    }
}

static void mpi_allgather_parts(Comm *comm, void *all, const size_t *offsets)
{
    int size = comm->size;
    if (offsets[size] > message_limit) {
        ring_allgather(comm, all, offsets);
        return;
    }
    int *counts = memory_borrow(2 * (size_t)size, sizeof *counts), *starts = counts + size;
    for (int rank = 0; rank < size; rank++) {
        counts[rank] = (int)(offsets[rank + 1] - offsets[rank]);
        starts[rank] = (int)offsets[rank];
    }
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, all, counts, starts, MPI_BYTE, handle_of(comm));
    memory_return(&counts);
}

static void mpi_allgather(Comm *comm, const void *mine, size_t bytes_each, void *all)
{
    int size = comm->size;
    if (bytes_each <= message_limit / (size_t)size) {
        MPI_Allgather(mine, (int)bytes_each, MPI_BYTE, all, (int)bytes_each, MPI_BYTE, handle_of(comm));
        return;
    }
    size_t *offsets = memory_borrow((size_t)size + 1, sizeof *offsets);
    for (int rank = 0; rank <= size; rank++)
        offsets[rank] = (size_t)rank * bytes_each;
    memmove((char *)all + offsets[comm->rank], mine, bytes_each);
    ring_allgather(comm, all, offsets);
    memory_return(&offsets);
}

static void mpi_sum(Comm *comm, float *values, size_t count)
{
    const size_t limit = message_limit < sizeof *values ? 1 : message_limit / sizeof *values;
    for (size_t at = 0; at < count; at += limit)
        MPI_Allreduce(MPI_IN_PLACE, values + at, (int)min_size(count - at, limit), MPI_FLOAT, MPI_SUM, handle_of(comm));
}

/* Was this MPI built for, and does it run with, addresses of a GPU? */
static bool mpi_reads_device(void)
{
#if defined(MPIX_CUDA_AWARE_SUPPORT) && MPIX_CUDA_AWARE_SUPPORT
    return MPIX_Query_cuda_support() == 1;
#else
    return false;
#endif
}

static void mpi_close(Comm *comm)
{
    MPI_Comm_free((MPI_Comm *)comm->handle);
    memory_free(&comm->handle);
    memory_free(&comm->codes);
    memory_release(comm);
}

static const CommTransport transport_mpi = {
    .name = "mpi",
    .barrier = mpi_barrier,
    .broadcast = mpi_broadcast,
    .allgather = mpi_allgather,
    .allgather_parts = mpi_allgather_parts,
    .shift = mpi_shift,
    .sum = mpi_sum,
    .close = mpi_close,
};

Status comm_open_mpi(const void *mpi_communicator, Comm **comm)
{
    int initialised = 0;
    MPI_Initialized(&initialised);
    REQUIRE(initialised, "MPI_Init comes before comm_open_mpi");
    *comm = NULL;
    MPI_Comm *handle = memory_new(1, sizeof *handle);
    if (MPI_Comm_dup(*(const MPI_Comm *)mpi_communicator, handle) != MPI_SUCCESS) {
        memory_free(&handle);
        return status_error(STATUS_PEER, "MPI could not duplicate its communicator");
    }
    MPI_Comm_set_errhandler(*handle, MPI_ERRORS_ARE_FATAL);
    Comm *opened = memory_new(1, sizeof *opened);
    opened->transport = &transport_mpi;
    opened->handle = handle;
    opened->reads_device = mpi_reads_device();
    MPI_Comm_rank(*handle, &opened->rank);
    MPI_Comm_size(*handle, &opened->size);
    opened->codes = memory_new((size_t)opened->size, sizeof *opened->codes);
    *comm = opened;
    return status_ok();
}
