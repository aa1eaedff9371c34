/* collective.h -- one operation between ranks: what it is, and how it comes to be done by messages of MPI. */
#ifndef CUDA_ON_CPU_COLLECTIVE_H
#define CUDA_ON_CPU_COLLECTIVE_H

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace cuda_on_cpu
{

enum Kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, SEND, RECEIVE };
extern const char *const kind_names[];

/* What a rank takes the operation to be; it goes before every message. */
struct Belief {
    int kind, type, op, root; /* type, op: NCCL's */
    uint64_t count;
};

struct Operation {
    Belief belief;
    const char *from;
    char *to;
    int peer; /* of SEND and RECEIVE */
};

/* Who talks to whom. */
struct Ranks {
    MPI_Comm mpi;
    int rank, size;
    std::vector<uint32_t> sent, received; /* (size): messages so far, which make their tags */
};

size_t element_bytes(int type);
/* Elements that an operation reads and writes on this rank. */
size_t source_count(const Operation &operation, const Ranks &ranks);
size_t target_count(const Operation &operation, const Ranks &ranks);

struct Outgoing;
struct Incoming;
/* An operation under way: the source as it was when it began, and messages. */
struct UnderWay {
    UnderWay();
    ~UnderWay();
    Operation operation;
    std::vector<char> own;
    std::vector<std::unique_ptr<Outgoing>> outgoing;
    std::vector<std::unique_ptr<Incoming>> incoming;
};

/* These read and write device memory, which must be open for the first and the last. */
void operation_begin(Ranks *ranks, const Operation &operation, UnderWay *way);
/* Have all messages come and gone? Moves them on. */
bool operation_there(const Ranks &ranks, UnderWay *way);
void operation_end(const Ranks &ranks, UnderWay *way);

} // namespace cuda_on_cpu
#endif
