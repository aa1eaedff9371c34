/* transport.h -- the table behind a Comm: what a way of moving bytes must provide. For the files of this room alone.
 *
 * Why:   everything that decides (who failed first, whose text differs, what is added to what) is written once, in comm.c and
 *        reduce.c, over these moves; a transport only moves bytes. */
#ifndef CORE_COMM_TRANSPORT_H
#define CORE_COMM_TRANSPORT_H

#include <stdint.h>

#include "core/comm/comm.h"

typedef struct CommTransport {
    const char *name;
    void (*barrier)(Comm *comm);
    void (*broadcast)(Comm *comm, int root, void *bytes, size_t size);
    /* mine (bytes_each) -> all (size * bytes_each) */
    void (*allgather)(Comm *comm, const void *mine, size_t bytes_each, void *all);
    /* In place: rank r's part is all[offsets[r], offsets[r + 1]). */
    void (*allgather_parts)(Comm *comm, void *all, const size_t *offsets);
    /* To rank `to`, and at the same time from rank `from`; both may be this rank. */
    void (*shift)(Comm *comm, int to, const void *send, size_t send_bytes, int from, void *receive,
                  size_t receive_bytes);
    /* Over ranks, in place, in whatever order: the one move that adds. */
    void (*sum)(Comm *comm, float *values, size_t count);
    void (*close)(Comm *comm);
} CommTransport;

/* `bytes` at a device's address. */
typedef struct CommPiece {
    void *at;
    size_t bytes;
} CommPiece;

/* Moves of a device's memory, by a library that knows it (comm_nccl.c). They are asked for on the device's communication queue, behind what that queue
 * has been told to wait for, and return at once. */
typedef struct CommMoves {
    const char *name; /* "NCCL 2.28.3" */
    void *self;
    /* send[p] goes to rank p and receive[p] comes from it; (size) each, this rank's own are not looked at. */
    void (*exchange)(void *self, const CommPiece *send, const CommPiece *receive);
    /* As the transport's, in place, of one stripe after another: rank r's part of stripe s begins at offsets[s * size + r]; stripes * size + 1 of them. */
    void (*allgather_parts)(void *self, void *all, const size_t *offsets, int64_t stripes);
    /* In place, in an order of its own: rank r then has the sum of its floats [offsets[r], offsets[r + 1]), and perhaps more. */
    void (*sum_parts)(void *self, float *all, const size_t *offsets);
    void (*close)(void *self);
} CommMoves;

struct Comm {
    const CommTransport *transport;
    int rank, size;
    void *handle;   /* the MPI transport's MPI_Comm *; NULL elsewhere */
    int32_t *codes; /* (size) for agreements, so that a step allocates nothing */
    const CommMoves
        *moves;        /* NULL: device memory goes through the transport, by way of the host unless that reads it */
    bool reads_device; /* the transport takes a GPU's addresses */
    int failed;        /* 1 + the rank that the last agreement blamed; 0: none */
};

/* The MPI transport splits messages above this many bytes (its counts are ints). Tests set it low to walk that path. */
void comm_mpi_set_message_limit(size_t bytes);

#endif
