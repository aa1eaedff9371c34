/* comm_nccl.h -- NCCL behind a Comm: moves of device memory without the host. Called by launch/ and tests alone.
 *
 * Built from comm_nccl.c where NCCL is found, else from comm_nccl_absent.c, which attaches nothing. */
#ifndef CORE_COMM_COMM_NCCL_H
#define CORE_COMM_COMM_NCCL_H

#include "core/comm/comm.h"

/* From here on sums and gatherings of this device's memory (reduce.h) go through NCCL on its communication queue, and whoever waits for the device
 * asks NCCL whether all is well. Statistics and agreements stay where they are. Nothing for one rank, for a device that is no GPU, or without NCCL.
 * timeout_seconds: the longest that ranks may take to meet; 0: five minutes. STATUS_PEER. [collective] */
Status comm_attach_nccl(Comm *comm, Device *device, double timeout_seconds);
/* Bytes of device memory that NCCL takes for so many ranks; an estimate for plans, 0 where it is not built in. */
size_t comm_nccl_overhead_bytes(int ranks);

#endif
