/* comm.h -- how ranks talk: one table, three transports (self: one process, no MPI at all; mpi; dry: pretends, for plans).
 *
 * Rules: a function marked [collective] must be called by every rank in the same order; [local] never communicates. No float
 *        is summed by the transport, but by comm_sum: ranks exchange bytes, and add in a fixed order themselves (reduce.h). A transport
 *        error ends the job: with a dead peer nothing collective can be saved, and the last checkpoint stands. */
#ifndef CORE_COMM_COMM_H
#define CORE_COMM_COMM_H

#include "core/base/status.h"
#include "core/tensor/device.h"

typedef struct Comm Comm;

/* The one-process transport. Needs no closing. */
Comm *comm_self(void);
/* Over an MPI communicator (pointer to MPI_Comm; duplicated). Called by launch/bootstrap and tests alone. [collective] */
Status comm_open_mpi(const void *mpi_communicator, Comm **comm);
/* Rank `rank` of `size` that are not there, for a dry run of a collective program: peers hold what this rank holds, and all agree. [local] */
Comm *comm_open_dry(int rank, int size);
void comm_close(Comm *comm); /* [collective] */
/* How device memory that the host cannot see moves between ranks: "NCCL 2.28.3", "MPI", "MPI by way of the host". [local] */
const char *comm_device_name(const Comm *comm);
/* No more collectives on a device that was attached (comm_nccl.h): before it is closed. Nothing if none was. [collective] */
void comm_detach_device(Comm *comm);

int comm_rank(const Comm *comm); /* [local] */
int comm_size(const Comm *comm); /* [local] */
/* Pointer to the MPI_Comm, or NULL where no MPI is behind it: how a test tells which it got. [local] */
const void *comm_mpi_handle(const Comm *comm);

void comm_barrier(Comm *comm);                                       /* [collective] */
void comm_broadcast(Comm *comm, int root, void *bytes, size_t size); /* [collective] */
/* all: size * bytes_each, in rank order */
void comm_allgather(Comm *comm, const void *mine, size_t bytes_each, void *all); /* [collective] */
/* Different sizes: *all is fresh (memory_free), rank r's part begins at offsets[r]; offsets has size + 1 entries. [collective] */
void comm_allgather_ragged(Comm *comm, const void *mine, size_t bytes, char **all, size_t *offsets);
/* In place: rank r brings all[offsets[r], offsets[r + 1]), and has all parts on return; offsets in bytes, size + 1 of them, equal on all ranks.
 * [collective] */
void comm_allgather_parts(Comm *comm, void *all, const size_t *offsets);
/* Every rank sends to the rank `distance` above it and receives from the one `distance` below (both modulo size). [collective] */
void comm_shift(Comm *comm, int distance, const void *send, size_t send_bytes, void *receive, size_t receive_bytes);
/* Rank r's piece p of `send` goes to rank p, which finds it as piece r of `receive`; pieces by offsets in bytes (size + 1 each). [collective] */
void comm_exchange(Comm *comm, const void *send, const size_t *send_offsets, void *receive,
                   const size_t *receive_offsets);
/* values (count): the sum over ranks, in place, in the transport's own order: not the bits of another number of ranks. [collective] */
void comm_sum(Comm *comm, float *values, size_t count);

/* One rank's failure is every rank's: returns `local` where it failed, STATUS_OK if nobody failed, else the first failing rank's
 * code with the message "rank R: ...". Put after every step that can fail on one rank alone. [collective] */
Status comm_agree(Comm *comm, Status local);
/* The rank that the last comm_agree() blamed, the same on every rank; -1 when nobody had failed. [local] */
int comm_failed_rank(const Comm *comm);
/* Has any rank been asked to stop? [collective] */
bool comm_agree_stop(Comm *comm, bool local);
/* Fails on every rank, naming `what` and both values, unless all ranks hold the same bytes (texts are shown). [collective] */
Status comm_agree_same(Comm *comm, const char *what, const char *text);

#endif
