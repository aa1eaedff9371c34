/* comm_nccl_absent.c -- stands in for NCCL in a program that was built without it: device memory then moves by MPI (reduce.c). */
#include "core/comm/comm_nccl.h"

Status comm_attach_nccl(Comm *comm, Device *device, double timeout_seconds)
{
    (void)comm;
    (void)device;
    (void)timeout_seconds;
    return status_ok();
}

size_t comm_nccl_overhead_bytes(int ranks)
{
    (void)ranks;
    return 0;
}
