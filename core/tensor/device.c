/* device.c -- the one place where work is asked of a backend, and therefore where it is counted. */
#include "core/tensor/device.h"

#include <string.h>

#include "core/base/memory.h"
#include "core/tensor/op_finite.h"

Status device_init(Device *device, const DeviceBackend *backend, void *self, const OpTable *ops, int threads)
{
    *device = (Device){.backend = backend, .self = self, .ops = ops, .threads = threads, .burst = backend->burst};
#define OP_FILLED(op, Stem) REQUIRE(ops->op, "backend %s has no %s", backend->name, #op);
    OP_LIST(OP_FILLED)
#undef OP_FILLED
    return device_arena(device, &device->scratch, "scratch", 0);
}

void device_close(Device *device)
{
    if (!device->backend)
        return;
    op_profile_close(device);
    memory_free(&device->spare);
    arena_close(&device->scratch);
    device->backend->close(device->self);
    *device = (Device){0};
}

Status device_set_flow(Device *device, DType flow)
{
    REQUIRE(flow == DTYPE_F32 || flow == DTYPE_BF16, "activations of %s", dtype_name(flow));
    if (flow == DTYPE_BF16 && !device->backend->bf16)
        return status_error(STATUS_USAGE, "precision: bf16 needs a GPU; the %s backend computes in fp32",
                            device->backend->name);
    device->flow = flow;
    return status_ok();
}

const char *device_describe(const Device *device)
{
    return device->backend->describe(device->self);
}

Status device_arena(Device *device, Arena *arena, const char *name, size_t limit_bytes)
{
    /* A plan may well be larger than the machine it is made on. */
    if (!device->backend->computes)
        limit_bytes = (size_t)1 << 44;
    return arena_open(arena, name, device->backend->memory(device->self), limit_bytes);
}

struct DeviceKept {
    void *work;
    const OpTable *ops;          /* the device's own, while others stand in their place */
    OpCounter counter[OP_COUNT]; /* what it stands for */
    OpCounter per_key[OP_COUNT]; /* what each key more, or less, for every query adds to that */
};

static void call(Device *device, OpKind op, const void *args)
{
    switch (op) {
#define OP_CALL(name, Stem)                                                                                            \
    case OP_##name:                                                                                                    \
        device->ops->name(device, (const Stem##Args *)args);                                                           \
        break;
        OP_LIST(OP_CALL)
#undef OP_CALL
    case OP_COUNT:
        break;
    }
}

static void kept_count(DeviceKept *kept, OpKind op, const void *args)
{
    double flops, bytes;
    op_cost_per_key(op, args, &flops, &bytes);
    kept->per_key[op].flops += flops;
    kept->per_key[op].bytes += bytes;
}

void device_run(Device *device, OpKind op, const void *args)
{
    REQUIRE((unsigned)op < OP_COUNT, "op %d does not exist", (int)op);
    OpCounter *counter = &device->counter[op];
    double flops, bytes;
    op_cost(op, args, &flops, &bytes);
    counter->calls++;
    counter->flops += flops;
    counter->bytes += bytes;
    if (device->keeping)
        kept_count(device->keeping, op, args);

    size_t mark = arena_mark(&device->scratch);
    if (device->profile) {
        device_finish(device); /* so that no earlier op's time is counted here */
        double since = profile_seconds();
        call(device, op, args);
        device_finish(device);
        op_profile_add(device->profile, (int)op, args, since, flops, bytes);
    } else {
        call(device, op, args);
    }
    arena_rewind(&device->scratch, mark);
#ifdef TERCET_CHECKED
    if (device->backend->computes && device->backend->host_visible && !device->keeping)
        op_require_finite(op, args);
#endif
}

/* Before and after a transfer of so many bytes; nothing unless profiling. */
static double transfer_begin(Device *device)
{
    if (!device->profile)
        return 0;
    device_finish(device);
    return profile_seconds();
}

static void transfer_end(Device *device, double since, size_t bytes)
{
    if (!device->profile)
        return;
    device_finish(device);
    op_profile_add(device->profile, PROFILE_TRANSFER, NULL, since, 0, (double)bytes);
}

void tensor_read(Device *device, Tensor tensor, void *host)
{
    size_t bytes = tensor_bytes(tensor);
    device->reads++;
    device->read_bytes += (double)bytes;
    if (!bytes)
        return;
    double since = transfer_begin(device);
    device->backend->copy_out(device->self, QUEUE_COMPUTE, host, tensor.data, bytes);
    transfer_end(device, since, 2 * bytes);
}

void tensor_write(Device *device, Tensor tensor, const void *host)
{
    size_t bytes = tensor_bytes(tensor);
    device->writes++;
    device->write_bytes += (double)bytes;
    if (!bytes)
        return;
    double since = transfer_begin(device);
    device->backend->copy_in(device->self, QUEUE_COMPUTE, tensor.data, host, bytes);
    transfer_end(device, since, 2 * bytes);
}

void *tensor_host(const Device *device, Tensor tensor)
{
    return device->backend->computes && device->backend->host_visible ? tensor.data : NULL;
}

void tensor_copy(Device *device, Tensor to, Tensor from)
{
    REQUIRE(to.dtype == from.dtype && tensor_count(to) == tensor_count(from),
            "copy of %lld elements of %s into %lld of %s", (long long)tensor_count(from), dtype_name(from.dtype),
            (long long)tensor_count(to), dtype_name(to.dtype));
    if (!tensor_count(to))
        return;
    double since = transfer_begin(device);
    device->backend->copy(device->self, QUEUE_COMPUTE, to.data, from.data, tensor_bytes(to));
    transfer_end(device, since, 2 * tensor_bytes(to));
}

void tensor_zero(Device *device, Tensor tensor)
{
    if (!tensor_count(tensor))
        return;
    double since = transfer_begin(device);
    device->backend->zero(device->self, QUEUE_COMPUTE, tensor.data, tensor_bytes(tensor));
    transfer_end(device, since, tensor_bytes(tensor));
}

DeviceEvent device_record(Device *device, DeviceQueue queue)
{
    return device->backend->record(device->self, queue);
}

void device_wait(Device *device, DeviceQueue queue, DeviceEvent event)
{
    device->backend->wait(device->self, queue, event);
}

void device_finish(Device *device)
{
    device->backend->finish(device->self);
}

bool device_keeps(const Device *device)
{
    return device->backend->keep_begin && !device->profile;
}

void device_keep_begin(Device *device)
{
    REQUIRE(!device->keeping, "work is being kept already");
    DeviceKept *kept = device->spare ? device->spare : memory_new(1, sizeof *kept);
    device->spare = NULL;
    kept->ops = device->ops;
    memcpy(kept->counter, device->counter, sizeof device->counter);
    memset(kept->per_key, 0, sizeof kept->per_key);
    device->keeping = kept;
    device->backend->keep_begin(device);
    if (device->backend->keep_ops)
        device->ops = device->backend->keep_ops;
}

DeviceKept *device_keep_end(Device *device)
{
    DeviceKept *kept = device->keeping;
    REQUIRE(kept, "no work is being kept");
    device->ops = kept->ops;
    kept->work = device->backend->keep_end(device->self);
    for (int op = 0; op < OP_COUNT; op++) {
        OpCounter before = kept->counter[op], *now = &device->counter[op];
        kept->counter[op] =
            (OpCounter){now->calls - before.calls, now->flops - before.flops, now->bytes - before.bytes};
        *now = before; /* asked for, not done */
    }
    device->keeping = NULL;
    return kept;
}

void device_replay(Device *device, const DeviceKept *kept, double longer)
{
    device->backend->replay(device->self, kept->work);
    for (int op = 0; op < OP_COUNT; op++) {
        device->counter[op].calls += kept->counter[op].calls;
        device->counter[op].flops += kept->counter[op].flops + longer * kept->per_key[op].flops;
        device->counter[op].bytes += kept->counter[op].bytes + longer * kept->per_key[op].bytes;
    }
}

void device_forget(Device *device, DeviceKept **kept)
{
    if (!*kept)
        return;
    device->backend->forget(device->self, (*kept)->work);
    memory_free(&device->spare);
    device->spare = *kept;
    *kept = NULL;
}

void device_strands(Device *device, Arena *step, int64_t count, DeviceStrand strand, void *context)
{
    int threads = device->threads;
    size_t mark = arena_mark(&device->scratch), step_mark = arena_mark(step);
    device->threads = 1;
    bool kept = device->keeping && device->backend->keep_strand;
    for (int64_t i = 0; i < count; i++) {
        size_t before = arena_peak_begin(&device->scratch), step_before = arena_peak_begin(step);
        if (kept)
            device->backend->keep_strand(device->self, true, 0);
        strand(context, i);
        size_t scratch = arena_peak_end(&device->scratch, before);
        if (kept)
            device->backend->keep_strand(device->self, false, scratch);
        /* The next strand has its own. */
        arena_alloc(&device->scratch, scratch);
        arena_alloc(step, arena_peak_end(step, step_before));
    }
    arena_rewind(step, step_mark);
    arena_rewind(&device->scratch, mark);
    device->threads = threads;
}

void *device_stream(const Device *device, DeviceQueue queue)
{
    return device->backend->stream ? device->backend->stream(device->self, queue) : NULL;
}

void device_watch(Device *device, DeviceWatch watch)
{
    if (device->backend->watch)
        device->backend->watch(device->self, watch);
}

OpCounter device_total(const Device *device)
{
    OpCounter total = {0};
    for (int op = 0; op < OP_COUNT; op++) {
        total.calls += device->counter[op].calls;
        total.flops += device->counter[op].flops;
        total.bytes += device->counter[op].bytes;
    }
    return total;
}

void device_counters_reset(Device *device)
{
    memset(device->counter, 0, sizeof device->counter);
    device->reads = device->writes = 0;
    device->read_bytes = device->write_bytes = 0;
}
