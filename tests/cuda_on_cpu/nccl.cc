/* nccl.cc -- collectives of GPUs by NCCL's signatures, done between processes by MPI.
 *
 * How:   a call, or a group of calls, is one piece of work of its stream: when the stream comes to it the sources are read and messages begin; it is done
 *        when all have come (collective.cc). A send and a receive outside a group wait for each other for ever.
 * Strict: two ranks on one device are refused; buffers lie inside one allocation of the device and overlap only in place; a communicator is used by one
 *        stream at a time, and not given back while work of it is under way. Work is matched by messages on a communicator of MPI's own, made when
 *        the ranks of an id meet. MPI is called by the thread that moves the stream on. */
#include "tests/cuda_on_cpu/nccl_fault.h"

#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/collective.h"
#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/stream.h"

using namespace cuda_on_cpu;

struct ncclComm {
    Ranks ranks;
    int device;
    cudaStream_t stream;
    int issued;
    std::atomic<int> completed;
    std::atomic<bool> aborted;
    std::atomic<ncclResult_t> error;
    std::shared_ptr<ncclComm> self; /* until it is given back; work under way holds another */
};

/* --- Faults --- */

static int failing_in = -1;
static ncclResult_t failing_with;
static bool abort_sticks;

namespace cuda_on_cpu
{
void nccl_fail_after(int count, ncclResult_t error)
{
    failing_in = count;
    failing_with = error;
}
} // namespace cuda_on_cpu

static void faults_read(int rank)
{
    const char *text = getenv("CUDA_ON_CPU_NCCL_FAULT");
    std::string list = text ? text : "";
    for (size_t at = 0; at < list.size();) {
        size_t end = std::min(list.find(',', at), list.size());
        std::string fault = list.substr(at, end - at);
        int of, after;
        if (fault == "stuck")
            abort_sticks = true;
        else if (sscanf(fault.c_str(), "silent:%d:%d", &of, &after) == 2)
            of == rank ? nccl_fail_after(after, ncclSuccess) : (void)0;
        else if (sscanf(fault.c_str(), "error:%d:%d", &of, &after) == 2)
            of == rank ? nccl_fail_after(after, ncclRemoteError) : (void)0;
        else
            defect("CUDA_ON_CPU_NCCL_FAULT=%s: expected silent:RANK:N, error:RANK:N or stuck, by commas", text);
        at = end + 1;
    }
}

/* --- Communicators --- */

static thread_local std::string last_error;

static ncclResult_t refuse(ncclResult_t result, const char *why)
{
    last_error = why;
    return result;
}

/* An id names the process that made it, which all others tell who they are. */
struct Id {
    int maker, number;
};
struct Card {
    int world, rank, size;
    char device[16]; /* its UUID */
};
enum { MEETING_TAG = 29517 };

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int made;
    Id own = {0, made++};
    MPI_Comm_rank(MPI_COMM_WORLD, &own.maker);
    memset(id, 0, sizeof *id);
    memcpy(id, &own, sizeof own);
    return ncclSuccess;
}

/* The cards of all ranks, by rank; empty where they do not make a communicator. */
static std::vector<Card> meet(const Id &id, const Card &own)
{
    std::vector<Card> cards((size_t)own.size);
    const int tag = MEETING_TAG + id.number % 1000 * 2, bytes = own.size * (int)sizeof own;
    if (own.world != id.maker) {
        MPI_Send(&own, sizeof own, MPI_BYTE, id.maker, tag, MPI_COMM_WORLD);
        MPI_Recv(cards.data(), bytes, MPI_BYTE, id.maker, tag + 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    } else {
        for (Card &card : cards)
            card.rank = -1;
        std::vector<Card> come = {own};
        for (int i = 1; i < own.size; i++) {
            Card card;
            MPI_Recv(&card, sizeof card, MPI_BYTE, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            come.push_back(card);
        }
        for (const Card &card : come)
            if (card.size == own.size && card.rank >= 0 && card.rank < own.size)
                cards[(size_t)card.rank] = card;
        for (const Card &card : come)
            if (card.world != own.world)
                MPI_Send(cards.data(), bytes, MPI_BYTE, card.world, tag + 1, MPI_COMM_WORLD);
    }
    for (const Card &card : cards)
        if (card.rank < 0)
            return {};
    return cards;
}

static ncclResult_t comm_make(ncclComm_t *comm, int size, const ncclUniqueId &name, int rank)
{
    *comm = NULL;
    int started, device;
    cudaDeviceProp properties;
    MPI_Initialized(&started);
    if (!started)
        defect("NCCL: MPI must be initialised: the emulation talks through it");
    if (size < 1 || rank < 0 || rank >= size)
        return refuse(ncclInvalidArgument, "a rank outside the communicator");
    if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess)
        return refuse(ncclUnhandledCudaError, "no device");
    Id id;
    Card own = {0, rank, size, {}};
    memcpy(&id, &name, sizeof id);
    memcpy(own.device, properties.uuid.bytes, sizeof own.device);
    MPI_Comm_rank(MPI_COMM_WORLD, &own.world);
    std::vector<Card> cards = meet(id, own);
    if (cards.empty())
        return refuse(ncclInvalidUsage, "ranks do not agree on who they are");
    std::vector<int> world;
    for (const Card &a : cards) {
        world.push_back(a.world);
        for (const Card &b : cards)
            if (&a != &b && !memcmp(a.device, b.device, sizeof a.device))
                return refuse(ncclInvalidUsage, "Duplicate GPU detected: two ranks are on one device");
    }
    std::shared_ptr<ncclComm> made = std::make_shared<ncclComm>();
    MPI_Group all, members;
    MPI_Comm_group(MPI_COMM_WORLD, &all);
    MPI_Group_incl(all, size, world.data(), &members);
    MPI_Comm_create_group(MPI_COMM_WORLD, members, MEETING_TAG + 1 + id.number % 1000 * 2, &made->ranks.mpi);
    MPI_Group_free(&members);
    MPI_Group_free(&all);
    made->ranks.rank = rank;
    made->ranks.size = size;
    made->device = device;
    made->ranks.sent.resize((size_t)size);
    made->ranks.received.resize((size_t)size);
    made->error = ncclSuccess;
    made->self = made;
    faults_read(rank);
    *comm = made.get();
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank)
{
    return comm_make(comm, size, id, rank);
}

/* Not blocking: the caller is told that it is under way, and asks ncclCommGetAsyncError() until it is not. */
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    if (config && config->magic != 0xcafebeef)
        return refuse(ncclInvalidArgument, "a config without its initializer");
    ncclResult_t result = comm_make(comm, size, id, rank);
    return result == ncclSuccess && config && config->blocking == 0 ? ncclInProgress : result;
}

ncclResult_t ncclCommFinalize(ncclComm_t)
{
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (comm->completed != comm->issued && !comm->aborted && comm->error == ncclSuccess &&
        !error_is_sticky(error_now()))
        defect("NCCL: a communicator is given back while work of it is under way");
    comm->self.reset();
    return ncclSuccess;
}

/* May be called by any thread: what is under way ends where it is asked next. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->aborted = true;
    while (abort_sticks)
        sleep(1);
    comm->self.reset();
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    *error = comm->error;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count)
{
    *count = comm->ranks.size;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    *rank = comm->ranks.rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device)
{
    *device = comm->device;
    return ncclSuccess;
}

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return result >= 0 && result < ncclNumResults ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t)
{
    return last_error.c_str();
}

/* --- Calls, and groups of them --- */

struct Pending {
    ncclComm_t comm;
    cudaStream_t stream;
    std::vector<Operation> operations;
};
static thread_local int group_depth;
static thread_local std::vector<Pending> group;

/* A fault takes effect where an operation begins: its rank does nothing any more. */
static bool takes_part(ncclComm *comm)
{
    if (failing_in == 0) {
        comm->error = failing_with;
        return false;
    }
    failing_in -= failing_in > 0;
    return true;
}

/* A piece of work. MPI uses its buffers until all messages are done, whatever becomes of the stream: they stay here. */
typedef std::vector<UnderWay> Batch;
static std::vector<std::shared_ptr<Batch>> &batches(void)
{
    static auto *all = new std::vector<std::shared_ptr<Batch>>();
    return *all;
}

static bool batch_there(const Ranks &ranks, const std::shared_ptr<Batch> &batch)
{
    bool there = true;
    for (UnderWay &way : *batch)
        there = operation_there(ranks, &way) && there;
    if (!there)
        return false;
    DeviceMemoryOpen open;
    for (UnderWay &way : *batch)
        operation_end(ranks, &way);
    batches().erase(std::find(batches().begin(), batches().end(), batch));
    return true;
}

static StreamPoll batch_begin(const std::shared_ptr<ncclComm> &comm, const std::vector<Operation> &operations)
{
    if (comm->aborted || !takes_part(comm.get()))
        return [comm] { return (bool)comm->aborted; };
    auto batch = std::make_shared<Batch>(operations.size());
    batches().push_back(batch);
    DeviceMemoryOpen open;
    for (size_t i = 0; i < operations.size(); i++)
        operation_begin(&comm->ranks, operations[i], &(*batch)[i]);
    return [comm, batch] {
        if (comm->aborted)
            return true;
        bool there = batch_there(comm->ranks, batch);
        comm->completed += there;
        return there;
    };
}

/* What is captured into a graph begins, and counts, each time the graph runs. */
static void pending_issue(const Pending &pending)
{
    ncclComm *comm = pending.comm;
    const bool captured = stream_is_capturing(pending.stream);
    if (!captured) {
        if (comm->completed != comm->issued && comm->stream != pending.stream)
            defect("NCCL: a communicator is used by a second stream while its work on the first is under way");
        comm->stream = pending.stream;
        comm->issued++;
    }
    stream_add_polled(pending.stream, kind_names[pending.operations[0].belief.kind],
                      [held = comm->self, operations = pending.operations, captured] {
                          held->issued += captured;
                          return batch_begin(held, operations);
                      });
}

ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (group_depth == 0)
        return refuse(ncclInvalidUsage, "a group ends that did not start");
    if (--group_depth > 0)
        return ncclSuccess;
    std::vector<Pending> all = std::move(group);
    group.clear();
    for (const Pending &pending : all)
        pending_issue(pending);
    return ncclSuccess;
}

static void check_buffer(const char *name, Kind kind, const void *at, size_t bytes)
{
    if (bytes && !device_memory_holds(at, bytes))
        defect("NCCL: %s: %s, %zu bytes at %p, is not inside one allocation of the device", kind_names[kind], name,
               bytes, at);
}

static ncclResult_t ask(ncclComm_t comm, Kind kind, const void *from, void *to, size_t count, ncclDataType_t type,
                        int op, int root, int peer, cudaStream_t stream)
{
    if (!comm)
        return refuse(ncclInvalidArgument, "no communicator");
    if (comm->error != ncclSuccess)
        return comm->error;
    if (root < 0 || root >= comm->ranks.size || peer < 0 || peer >= comm->ranks.size)
        return refuse(ncclInvalidArgument, "a root or peer outside the communicator");
    Operation operation = {{kind, type, op, root, count}, (const char *)from, (char *)to, peer};
    const size_t each = element_bytes(type), bytes_from = source_count(operation, comm->ranks) * each,
                 bytes_to = target_count(operation, comm->ranks) * each;
    check_buffer("the source", kind, from, bytes_from);
    check_buffer("the target", kind, to, bytes_to);
    const char *in_place = kind == ALL_GATHER       ? (char *)to + (size_t)comm->ranks.rank * count * each
                           : kind == REDUCE_SCATTER ? (char *)to - (size_t)comm->ranks.rank * count * each
                                                    : (char *)to;
    if (bytes_from && bytes_to && from != in_place && operation.from < operation.to + bytes_to &&
        operation.to < operation.from + bytes_from)
        defect("NCCL: %s: source and target overlap, and not as in place", kind_names[kind]);
    ncclGroupStart();
    for (Pending &pending : group)
        if (pending.comm == comm) {
            if (pending.stream != stream)
                defect("NCCL: a group names two streams for one communicator");
            pending.operations.push_back(operation);
            return ncclGroupEnd();
        }
    group.push_back({comm, stream, {operation}});
    return ncclGroupEnd();
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream)
{
    return ask(comm, ALL_REDUCE, from, to, count, type, op, 0, 0, stream);
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream)
{
    return ask(comm, REDUCE_SCATTER, from, to, count, type, op, 0, 0, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream)
{
    return ask(comm, ALL_GATHER, from, to, count, type, 0, 0, 0, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream)
{
    return ask(comm, BROADCAST, from, to, count, type, 0, root, 0, stream);
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream)
{
    return ask(comm, SEND, from, NULL, count, type, 0, 0, peer, stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return ask(comm, RECEIVE, NULL, to, count, type, 0, 0, peer, stream);
}
