/* collective.cc -- messages, and what becomes of them.
 *
 * Every message is preceded by one that says what its sender takes the operation to be, so ranks that disagree are told. A send is done when its receiver
 * has come, as it may be on a GPU. Sums are made in rank order, bf16 rounded once; NCCL's own order depends on topology, size and version, so
 * nothing may rely on it. */
#include "tests/cuda_on_cpu/collective.h"

#include <nccl.h>

#include <cstring>

extern "C" {
#include "core/tensor/dtype.h"
}
#include "tests/cuda_on_cpu/block.h"

namespace cuda_on_cpu
{

const char *const kind_names[] = {"AllReduce", "ReduceScatter", "AllGather", "Broadcast", "Send", "Recv"};

/* --- Elements --- */

size_t element_bytes(int type)
{
    switch (type) {
    case ncclInt8:
    case ncclUint8:
        return 1;
    case ncclFloat16:
    case ncclBfloat16:
        return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
        return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
        return 8;
    }
    defect("NCCL: an element type, %d, that the emulation does not know", type);
}

template <class T> static T joined(T a, T b, int op)
{
    return op == ncclSum ? (T)(a + b) : op == ncclMax ? (a < b ? b : a) : op == ncclMin ? (b < a ? b : a) : (T)(a * b);
}

template <class T> static void join(char *to, const std::vector<const char *> &parts, uint64_t count, int op)
{
    for (uint64_t i = 0; i < count; i++) {
        T sum = ((const T *)parts[0])[i];
        for (size_t rank = 1; rank < parts.size(); rank++)
            sum = joined(sum, ((const T *)parts[rank])[i], op);
        ((T *)to)[i] = sum;
    }
}

static void join_halves(char *to, const std::vector<const char *> &parts, uint64_t count, int op)
{
    for (uint64_t i = 0; i < count; i++) {
        float sum = 0.0f;
        for (size_t rank = 0; rank < parts.size(); rank++) {
            float value;
            dtype_to_f32(DTYPE_BF16, parts[rank] + 2 * i, &value, 1);
            sum = rank ? joined(sum, value, op) : value;
        }
        ((uint16_t *)to)[i] = bf16_of(sum);
    }
}

/* Parts of all ranks, in rank order. */
static void reduce(char *to, const std::vector<const char *> &parts, const Belief &what)
{
    switch (what.type) {
    case ncclFloat32:
        return join<float>(to, parts, what.count, what.op);
    case ncclFloat64:
        return join<double>(to, parts, what.count, what.op);
    case ncclInt32:
        return join<int32_t>(to, parts, what.count, what.op);
    case ncclInt64:
        return join<int64_t>(to, parts, what.count, what.op);
    case ncclUint64:
        return join<uint64_t>(to, parts, what.count, what.op);
    case ncclBfloat16:
        return join_halves(to, parts, what.count, what.op);
    }
    defect("NCCL: the emulation has no sums of element type %d", what.type);
}

/* --- Messages --- */

enum { TAGS = 16384 };

struct Outgoing {
    Belief belief;
    std::vector<char> bytes;
    MPI_Request requests[2];
};
struct Incoming {
    int peer, tag;
    Belief belief, expected;
    std::vector<char> bytes;
    MPI_Request request;
    enum { BELIEF, BYTES, THERE } state;
};

static void outgoing_begin(Ranks *ranks, Outgoing *out, int peer)
{
    const int tag = (int)(ranks->sent[(size_t)peer]++ % TAGS) * 2;
    MPI_Issend(&out->belief, sizeof out->belief, MPI_BYTE, peer, tag, ranks->mpi, &out->requests[0]);
    MPI_Issend(out->bytes.data(), (int)out->bytes.size(), MPI_BYTE, peer, tag + 1, ranks->mpi, &out->requests[1]);
}

static void incoming_begin(Ranks *ranks, Incoming *in)
{
    in->tag = (int)(ranks->received[(size_t)in->peer]++ % TAGS) * 2;
    in->state = Incoming::BELIEF;
    MPI_Irecv(&in->belief, sizeof in->belief, MPI_BYTE, in->peer, in->tag, ranks->mpi, &in->request);
}

static void beliefs_compare(const Ranks &ranks, const Incoming *in)
{
    const Belief &a = in->expected, &b = in->belief;
    int theirs = b.kind == SEND ? (int)RECEIVE : b.kind;
    if (a.kind == theirs && a.type == b.type && a.op == b.op && a.root == b.root && a.count == b.count)
        return;
    defect("NCCL: ranks disagree: rank %d asks for %s of %llu elements of type %d (op %d, root %d), rank %d for %s of "
           "%llu of "
           "type %d (op %d, root %d)",
           ranks.rank, kind_names[a.kind], (unsigned long long)a.count, a.type, a.op, a.root, in->peer,
           kind_names[b.kind], (unsigned long long)b.count, b.type, b.op, b.root);
}

static bool incoming_there(const Ranks &ranks, Incoming *in)
{
    int done = 1;
    while (in->state != Incoming::THERE) {
        MPI_Test(&in->request, &done, MPI_STATUS_IGNORE);
        if (!done)
            return false;
        if (in->state == Incoming::BYTES) {
            in->state = Incoming::THERE;
            break;
        }
        beliefs_compare(ranks, in);
        in->state = Incoming::BYTES;
        MPI_Irecv(in->bytes.data(), (int)in->bytes.size(), MPI_BYTE, in->peer, in->tag + 1, ranks.mpi, &in->request);
    }
    return true;
}

/* --- One operation under way --- */

UnderWay::UnderWay() = default;
UnderWay::~UnderWay() = default;

size_t source_count(const Operation &operation, const Ranks &ranks)
{
    const Belief &what = operation.belief;
    if (what.kind == RECEIVE || (what.kind == BROADCAST && what.root != ranks.rank))
        return 0;
    return what.kind == REDUCE_SCATTER ? what.count * (size_t)ranks.size : what.count;
}

size_t target_count(const Operation &operation, const Ranks &ranks)
{
    const Belief &what = operation.belief;
    return what.kind == SEND ? 0 : what.kind == ALL_GATHER ? what.count * (size_t)ranks.size : what.count;
}

static bool sends_to(const Operation &operation, const Ranks &ranks, int peer)
{
    const Belief &what = operation.belief;
    if (what.kind == SEND)
        return peer == operation.peer;
    return peer != ranks.rank && what.kind != RECEIVE && (what.kind != BROADCAST || what.root == ranks.rank);
}

static bool receives_from(const Operation &operation, const Ranks &ranks, int peer)
{
    const Belief &what = operation.belief;
    if (what.kind == RECEIVE)
        return peer == operation.peer;
    return peer != ranks.rank && what.kind != SEND && (what.kind != BROADCAST || what.root == peer);
}

void operation_begin(Ranks *ranks, const Operation &operation, UnderWay *way)
{
    const Belief &what = operation.belief;
    const size_t piece = what.count * element_bytes(what.type);
    way->operation = operation;
    way->own.assign(operation.from, operation.from + source_count(operation, *ranks) * element_bytes(what.type));
    for (int peer = 0; peer < ranks->size; peer++) {
        if (sends_to(operation, *ranks, peer)) {
            const char *from = way->own.data() + (what.kind == REDUCE_SCATTER ? (size_t)peer * piece : 0);
            way->outgoing.emplace_back(new Outgoing{what, std::vector<char>(from, from + piece), {}});
            outgoing_begin(ranks, way->outgoing.back().get(), peer);
        }
        if (receives_from(operation, *ranks, peer)) {
            way->incoming.emplace_back(new Incoming{peer, 0, {}, what, std::vector<char>(piece), {}, Incoming::BELIEF});
            incoming_begin(ranks, way->incoming.back().get());
        }
    }
}

bool operation_there(const Ranks &ranks, UnderWay *way)
{
    bool there = true;
    for (auto &in : way->incoming)
        there = incoming_there(ranks, in.get()) && there;
    for (auto &out : way->outgoing) {
        int done;
        MPI_Testall(2, out->requests, &done, MPI_STATUSES_IGNORE);
        there = there && done;
    }
    return there;
}

void operation_end(const Ranks &ranks, UnderWay *way)
{
    const Operation &operation = way->operation;
    const Belief &what = operation.belief;
    const size_t piece = what.count * element_bytes(what.type);
    if (what.kind == SEND)
        return;
    std::vector<const char *> parts((size_t)ranks.size, NULL); /* by rank */
    if (!way->own.empty())
        parts[(size_t)ranks.rank] = way->own.data() + (what.kind == REDUCE_SCATTER ? (size_t)ranks.rank * piece : 0);
    for (auto &in : way->incoming)
        parts[(size_t)in->peer] = in->bytes.data();
    if (what.kind == ALL_GATHER)
        for (size_t rank = 0; rank < parts.size() && piece; rank++)
            memcpy(operation.to + rank * piece, parts[rank], piece);
    else if (what.kind == ALL_REDUCE || what.kind == REDUCE_SCATTER)
        reduce(operation.to, parts, what);
    else if (piece)
        memcpy(operation.to, parts[(size_t)(what.kind == BROADCAST ? what.root : operation.peer)], piece);
}

} // namespace cuda_on_cpu
