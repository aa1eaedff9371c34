/* transport.h -- the table behind a Comm: what a way of moving bytes must provide. For the files of this room alone.
 *
 * Why:   everything that decides (who failed first, whose text differs, what is added to what) is written once, in comm.c and
 *        reduce.c, over these six moves; a transport only moves bytes. */
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
    void (*close)(Comm *comm);
} CommTransport;

struct Comm {
    const CommTransport *transport;
    int rank, size;
    void *handle;   /* the MPI transport's MPI_Comm *; NULL elsewhere */
    int32_t *codes; /* (size) for agreements, so that a step allocates nothing */
    int failed;     /* 1 + the rank that the last agreement blamed; 0: none */
};

/* The MPI transport splits messages above this many bytes (its counts are ints). Tests set it low to walk that path. */
void comm_mpi_set_message_limit(size_t bytes);

#endif
