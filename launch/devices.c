/* devices.c -- see devices.h. */
#include "launch/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/comm/comm_nccl.h"
#include "core/base/text.h"
#include "kernels/cpu/device_cpu.h"
#include "kernels/cuda/device_cuda.h"
#include "launch/environment.h"

enum { IDENTITY_BYTES = 64 };

DeviceWish device_wish_of(const RunConfig *run)
{
    static const char *const names[] = {"auto", "cpu", "cuda"}; /* as the choices of `device` stand */
    return (DeviceWish){.device = names[run->device],
                        .threads = run->threads,
                        .tf32 = run->matmul == MATMUL_TF32,
                        .flow = run->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32,
                        .says = true};
}

static bool wish_is(const DeviceWish *wish, const char *name)
{
    return strcmp(wish->device ? wish->device : "auto", name) == 0;
}

static Status wish_check(const DeviceWish *wish)
{
    if (wish_is(wish, "auto") || wish_is(wish, "cpu") || wish_is(wish, "cuda"))
        return status_ok();
    return status_error(STATUS_USAGE, "device: expected auto, cpu or cuda, found '%s'", wish->device);
}

/* The GPU or not, the same on every rank. */
static Status choose(const Bootstrap *bootstrap, const DeviceWish *wish, int *gpus, bool *cuda)
{
    *cuda = false;
    *gpus = 0;
    if (!wish_is(wish, "cpu")) {
        Status seen = comm_agree(bootstrap->comm, cuda_devices_count(gpus));
        *cuda = !status_failed(seen);
        if (!*cuda && wish_is(wish, "cuda"))
            return status_error(seen.code, "device: cuda: %s", status_message());
        if (wish_is(wish, "auto") && *cuda)
            log_info("device: auto is cuda: each rank sees a GPU");
        else if (wish_is(wish, "auto"))
            (wish->says ? log_info : log_debug)("device: auto is cpu: %s", status_message());
    }
    if (!*cuda && wish->tf32)
        return status_error(STATUS_USAGE, "matmul: tf32 is a GPU's; this would compute on the CPU");
    return status_ok();
}

/* Ranks of one node may have been shown the same GPU, under whatever number. */
static Status refuse_sharing(Comm *comm, const Device *device)
{
    char mine[IDENTITY_BYTES] = {0};
    char *all = memory_new((size_t)comm_size(comm), IDENTITY_BYTES);
    snprintf(mine, sizeof mine, "%s", device_cuda_identity(device));
    comm_allgather(comm, mine, IDENTITY_BYTES, all);
    Status status = status_ok();
    for (int b = 1; b < comm_size(comm) && !status_failed(status); b++)
        for (int a = 0; a < b && !status_failed(status); a++)
            if (strcmp(all + (size_t)a * IDENTITY_BYTES, all + (size_t)b * IDENTITY_BYTES) == 0)
                status = status_error(
                    STATUS_USAGE, "ranks %d and %d are on one GPU, %s: start as many ranks on a node as it has GPUs", a,
                    b, all + (size_t)a * IDENTITY_BYTES);
    memory_free(&all);
    return comm_agree(comm, status);
}

static Status open_gpu(const Bootstrap *bootstrap, const DeviceWish *wish, int gpus, int threads, Device *device)
{
    const char *timeout = environment_get(ENVIRONMENT_TIMEOUT);
    CudaOptions options = {.index = bootstrap->node_rank % gpus,
                           .tf32 = wish->tf32,
                           .threads = threads,
                           .timeout_seconds = timeout ? atof(timeout) : 0};
    TRY(comm_agree(bootstrap->comm, device_open_cuda(device, &options)));
    log_debug("rank %d of this node: cuda device %d of %d, %s", bootstrap->node_rank, options.index, gpus,
              device_cuda_identity(device));
    TRY(refuse_sharing(bootstrap->comm, device));
    TRY(comm_attach_nccl(bootstrap->comm, device, options.timeout_seconds));
    if (comm_size(bootstrap->comm) > 1)
        log_info("between GPUs: %s", comm_device_name(bootstrap->comm));
    return status_ok();
}

Status devices_open(Bootstrap *bootstrap, const DeviceWish *wish, Device *device)
{
    bool cuda;
    int gpus, threads = bootstrap_set_threads(bootstrap, wish->threads);
    TRY(wish_check(wish));
    TRY(choose(bootstrap, wish, &gpus, &cuda));
    Status status =
        cuda ? open_gpu(bootstrap, wish, gpus, threads, device)
             : comm_agree(bootstrap->comm, device_open_cpu(device, threads, environment_get(ENVIRONMENT_ISA)));
    if (!status_failed(status) && wish->flow != DTYPE_F32)
        status = comm_agree(bootstrap->comm, device_set_flow(device, wish->flow));
    if (status_failed(status) && device->backend)
        devices_close(bootstrap, device);
    return status;
}

void devices_close(const Bootstrap *bootstrap, Device *device)
{
    comm_detach_device(bootstrap->comm);
    device_close(device);
}

Status devices_open_dry(void *context, Device *device)
{
    DevicePlan *plan = context;
    const DeviceWish *wish = &plan->wish;
    int gpus = 0;
    TRY(wish_check(wish));
    bool here = !wish_is(wish, "cpu") && !status_failed(cuda_devices_count(&gpus));
    if (here || wish_is(wish, "cuda")) {
        CudaOptions options = {.tf32 = wish->tf32, .threads = plan->threads};
        TRY(device_open_cuda_dry(device, &options));
        plan->beside = device_cuda_overhead_bytes() + comm_nccl_overhead_bytes(plan->ranks);
        plan->memory_bytes = here ? cuda_memory_bytes(0) : 0;
    } else {
        TRY(device_open_cpu_dry(device, plan->threads, environment_get(ENVIRONMENT_ISA)));
        plan->beside = 0;
        plan->memory_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    }
    return device_set_flow(device, wish->flow);
}

/* Rank 0 plans for all: each would tokenise the same data into the same file. The context is there already. */
Status devices_check_memory(const Bootstrap *bootstrap, const DeviceWish *wish, Device *device, const StageRow *row,
                            const Config *config)
{
    Comm *comm = bootstrap->comm;
    size_t unused = device_cuda_unused_bytes(device), wanted = 0;
    if (!device_cuda_identity(device)[0])
        return status_ok();
    StageMemory memory = {0};
    DevicePlan plan = {.wish = *wish, .threads = device->threads, .ranks = comm_size(comm)};
    Status status = status_ok();
    if (comm_rank(comm) == 0) {
        status = stage_plan(row, config, devices_open_dry, &plan, comm_size(comm), &memory);
        wanted = stage_memory_most(&memory, NULL);
    }
    TRY(comm_agree(comm, status));
    comm_broadcast(comm, 0, &wanted, sizeof wanted);
    device_cuda_plan(device, wanted);
    if (wanted > unused)
        status = status_error(STATUS_MEMORY,
                              "%s takes %s of GPU memory by its plan, and %s are unused: see `tercet plan`; smaller "
                              "unit_tokens, slots or batch, or more ranks, take less",
                              row->name, text_bytes((double)wanted), text_bytes((double)unused));
    return comm_agree(comm, status);
}

const char *devices_cuda_line(void)
{
    static char line[256];
    int gpus = 0;
    if (status_failed(cuda_devices_count(&gpus)))
        snprintf(line, sizeof line, "no GPU: %s", status_message());
    else
        snprintf(line, sizeof line, "%d GPU%s", gpus, gpus == 1 ? "" : "s");
    return line;
}
