/* comm_nccl.c -- device memory between GPUs by NCCL: the moves of transport.h on a device's communication queue.
 *
 * Not blocking: with a dead peer any call may wait for ever. The communicator is opened so that calls return at once, and what they began is asked
 *        after (settle) against a clock; what is under way is watched by whoever waits for the device.
 * Order: a communicator is used by one queue, in one order on all ranks. A sum is NCCL's only where that was asked for: its order of adding depends on
 *        ranks and topology. */
#include "core/comm/comm_nccl.h"

#include <nccl.h>
#include <stdio.h>
#include <time.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/comm/transport.h"

enum {
    MEET_SECONDS = 300,
    /* What others report of NCCL 2.2x on eight H100s, channels and their buffers: about a quarter of a GiB, and some MiB for each peer. */
    OVERHEAD_MIB = 256,
    OVERHEAD_PEER_MIB = 32,
};

typedef struct Nccl {
    CommMoves moves;
    Device *device;
    ncclComm_t comm;
    cudaStream_t stream;
    int rank, size;
    double patience_seconds;
    char name[32], message[400];
} Nccl;

/* What is wrong, in words; NULL: nothing. */
static const char *nccl_words(Nccl *nccl, ncclResult_t result)
{
    if (result == ncclSuccess || result == ncclInProgress)
        return NULL;
    const char *last = ncclGetLastError(nccl->comm);
    snprintf(nccl->message, sizeof nccl->message, "NCCL: %s%s%s", ncclGetErrorString(result), last && *last ? ": " : "",
             last && *last ? last : "");
    return nccl->message;
}

static const char *nccl_fault(void *self)
{
    Nccl *nccl = self;
    ncclResult_t now = ncclSuccess;
    ncclResult_t asked = ncclCommGetAsyncError(nccl->comm, &now);
    return nccl_words(nccl, asked == ncclSuccess ? now : asked);
}

static void nccl_abort(void *self)
{
    ncclCommAbort(((Nccl *)self)->comm);
}

/* Until what a call began has been handed to the stream, or has failed. */
static ncclResult_t settle(Nccl *nccl, ncclResult_t result, bool *late)
{
    const double since = profile_seconds();
    const struct timespec pause = {0, 20000};
    *late = false;
    for (int looks = 0; result == ncclInProgress && !*late; looks++) {
        ncclResult_t asked = ncclCommGetAsyncError(nccl->comm, &result);
        if (asked != ncclSuccess)
            return asked;
        *late = profile_seconds() - since > nccl->patience_seconds;
        if (looks > 1000)
            nanosleep(&pause, NULL);
    }
    return result;
}

/* A step cannot go on without its peers: no status, but the end. Nothing is under way yet that would have to be given up first. */
static void nccl_check(Nccl *nccl, ncclResult_t result)
{
    bool late;
    const char *words = nccl_words(nccl, settle(nccl, result, &late));
    REQUIRE(!words, "%s", words);
    REQUIRE(!late, "NCCL: for %.0f s peers keep a collective from beginning", nccl->patience_seconds);
}

static void nccl_exchange(void *self, const CommPiece *send, const CommPiece *receive)
{
    Nccl *nccl = self;
    nccl_check(nccl, ncclGroupStart());
    for (int distance = 1; distance < nccl->size; distance++) {
        const int to = (nccl->rank + distance) % nccl->size, from = (nccl->rank - distance + nccl->size) % nccl->size;
        if (send[to].bytes)
            nccl_check(nccl, ncclSend(send[to].at, send[to].bytes, ncclInt8, to, nccl->comm, nccl->stream));
        if (receive[from].bytes)
            nccl_check(nccl, ncclRecv(receive[from].at, receive[from].bytes, ncclInt8, from, nccl->comm, nccl->stream));
    }
    nccl_check(nccl, ncclGroupEnd());
}

/* The length of all parts, (size + 1) offsets; or 0: they differ. */
static size_t equal_parts(const Nccl *nccl, const size_t *offsets)
{
    const size_t each = offsets[1] - offsets[0];
    for (int rank = 1; rank < nccl->size; rank++)
        if (offsets[rank + 1] - offsets[rank] != each)
            return 0;
    return each;
}

static void gather_stripe(Nccl *nccl, char *all, const size_t *offsets)
{
    const size_t each = equal_parts(nccl, offsets);
    if (each) {
        nccl_check(
            nccl, ncclAllGather(all + offsets[nccl->rank], all + offsets[0], each, ncclInt8, nccl->comm, nccl->stream));
        return;
    }
    for (int rank = 0; rank < nccl->size; rank++) {
        char *part = all + offsets[rank];
        if (offsets[rank + 1] > offsets[rank])
            nccl_check(nccl, ncclBroadcast(part, part, offsets[rank + 1] - offsets[rank], ncclInt8, rank, nccl->comm,
                                           nccl->stream));
    }
}

static void nccl_allgather_parts(void *self, void *all, const size_t *offsets, int64_t stripes)
{
    Nccl *nccl = self;
    nccl_check(nccl, ncclGroupStart());
    for (int64_t stripe = 0; stripe < stripes; stripe++)
        gather_stripe(nccl, all, offsets + stripe * nccl->size);
    nccl_check(nccl, ncclGroupEnd());
}

/* Half of what all ranks get by ncclAllReduce is nobody's to use, so parts of one length are scattered. */
static void nccl_sum_parts(void *self, float *all, const size_t *offsets)
{
    Nccl *nccl = self;
    const size_t each = equal_parts(nccl, offsets);
    float *first = all + offsets[0];
    if (each)
        nccl_check(nccl, ncclReduceScatter(first, first + (size_t)nccl->rank * each, each, ncclFloat32, ncclSum,
                                           nccl->comm, nccl->stream));
    else
        nccl_check(nccl, ncclAllReduce(first, first, offsets[nccl->size] - offsets[0], ncclFloat32, ncclSum, nccl->comm,
                                       nccl->stream));
}

static void nccl_close(void *self)
{
    Nccl *nccl = self;
    bool late;
    device_finish(nccl->device);
    device_watch(nccl->device, (DeviceWatch){0});
    if (nccl->comm && settle(nccl, ncclCommFinalize(nccl->comm), &late) == ncclSuccess && !late)
        ncclCommDestroy(nccl->comm);
    memory_release(nccl);
}

static Status open_communicator(Nccl *nccl, ncclUniqueId id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    bool late;
    ncclResult_t begun = ncclCommInitRankConfig(&nccl->comm, nccl->size, id, nccl->rank, &config);
    const char *words = nccl_words(nccl, settle(nccl, begun, &late));
    if (words)
        return status_error(STATUS_PEER, "%s", words);
    if (late)
        return status_error(STATUS_PEER, "NCCL: the ranks did not meet within %.0f s", nccl->patience_seconds);
    return status_ok();
}

Status comm_attach_nccl(Comm *comm, Device *device, double timeout_seconds)
{
    cudaStream_t stream = device_stream(device, QUEUE_COMMUNICATION);
    if (comm->size == 1 || !stream)
        return status_ok();
    Nccl *nccl = memory_new(1, sizeof *nccl);
    nccl->device = device;
    nccl->stream = stream;
    nccl->rank = comm->rank;
    nccl->size = comm->size;
    nccl->patience_seconds = timeout_seconds > 0 ? timeout_seconds : MEET_SECONDS;
    int version = 0;
    ncclUniqueId id = {{0}};
    Status status = status_ok();
    ncclGetVersion(&version);
    snprintf(nccl->name, sizeof nccl->name, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    if (comm->rank == 0) {
        const char *words = nccl_words(nccl, ncclGetUniqueId(&id));
        if (words)
            status = status_error(STATUS_PEER, "%s", words);
    }
    status = comm_agree(comm, status);
    if (!status_failed(status)) {
        comm_broadcast(comm, 0, &id, sizeof id);
        status = comm_agree(comm, open_communicator(nccl, id));
    }
    if (status_failed(status)) {
        memory_release(nccl);
        return status;
    }
    nccl->moves = (CommMoves){nccl->name, nccl, nccl_exchange, nccl_allgather_parts, nccl_sum_parts, nccl_close};
    comm->moves = &nccl->moves;
    device_watch(device, (DeviceWatch){nccl, nccl_fault, nccl_abort});
    return status_ok();
}

size_t comm_nccl_overhead_bytes(int ranks)
{
    return ranks == 1 ? 0 : ((size_t)OVERHEAD_MIB + (size_t)(ranks - 1) * OVERHEAD_PEER_MIB) << 20;
}
