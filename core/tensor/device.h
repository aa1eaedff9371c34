/* device.h -- who computes: one table of ops, memory of its own, and a count of everything it was asked to do.
 *
 * Backends: `cpu` (kernels/cpu) is the reference; `dry` (here) computes nothing and hands out addresses that may not be
 *        touched, so a run of the same code on it gives the arenas' high-water marks: that is `tercet plan`. (All but
 *        scratch, which is the backend's own business: device_open_cpu_dry asks for that too.) Its arenas know no limit, so a
 *        plan may exceed the machine.
 * Rule:  work is asked for by device_run() through the front doors in ops.c, which is where it is counted. */
#ifndef CORE_TENSOR_DEVICE_H
#define CORE_TENSOR_DEVICE_H

#include "core/base/arena.h"
#include "core/tensor/op_profile.h"
#include "core/tensor/ops.h"
#include "core/tensor/tensor.h"

typedef enum DeviceQueue { QUEUE_COMPUTE, QUEUE_COMMUNICATION, QUEUE_COPY, QUEUE_COUNT } DeviceQueue;

/* A point in a queue's work. */
typedef struct DeviceEvent {
    uint64_t id;
} DeviceEvent;

/* Who else has work on a device that the device itself does not see fail: a collective waits for a dead peer for ever. The host asks whenever it waits. */
typedef struct DeviceWatch {
    void *context;
    const char *(*fault)(void *context); /* NULL: all is well; else what is not, in words */
    void (*abort)(void *context); /* gives up what is under way; may block, and is called on a thread of its own */
} DeviceWatch;

/* What a backend provides beside its ops. All copies are in bytes; copy_in has read, and copy_out has filled, the host's
 * memory when it returns (unless the work is kept, see there). */
typedef struct DeviceBackend {
    const char *name;                    /* "cpu", "dry" */
    const char *(*describe)(void *self); /* "avx512, oneDNN 2.6, 2 threads" */
    ArenaMemory (*memory)(void *self);
    void (*copy_in)(void *self, DeviceQueue queue, void *device, const void *host, size_t bytes);
    void (*copy_out)(void *self, DeviceQueue queue, void *host, const void *device, size_t bytes);
    void (*copy)(void *self, DeviceQueue queue, void *to, const void *from, size_t bytes);
    void (*zero)(void *self, DeviceQueue queue, void *device, size_t bytes);
    DeviceEvent (*record)(void *self, DeviceQueue queue);
    void (*wait)(void *self, DeviceQueue queue, DeviceEvent event);
    void (*finish)(void *self); /* until all queues are empty */
    /* Of a backend that can keep work and do it again (CUDA graphs), else NULL. Between begin and end, work on the compute queue is not done. The CPU keeps transfers as
     * well: what is copied in is what the host had when it asked, what is copied out arrives with each replay. */
    void (*keep_begin)(Device *device);
    void *(*keep_end)(void *self);
    void (*replay)(void *self, void *kept);
    void (*forget)(void *self, void *kept);
    const OpTable *keep_ops; /* take the ops' place between begin and end; NULL: the ops themselves are kept */
    /* A strand (device_strands) begins, or ends and took so much scratch; or NULL. */
    void (*keep_strand)(void *self, bool begins, size_t scratch);
    bool keeps_cheaply; /* to keep costs no more than to do, even the first time */
    /* Of a backend with streams of its own, or NULL: what its library calls a queue's stream; and whom to ask while waiting. */
    void *(*stream)(void *self, DeviceQueue queue);
    void (*watch)(void *self, DeviceWatch watch);
    void (*close)(void *self);
    int burst;         /* decode steps between two reads of the host (core/model/decode.h) */
    bool computes;     /* false: dry */
    bool bf16;         /* ops take activations in BF16 */
    bool host_visible; /* device memory may be handed to MPI and to file writers as it is */
} DeviceBackend;

typedef struct OpCounter {
    uint64_t calls;
    double flops, bytes; /* arithmetic asked for, and memory traffic if every operand moves once */
} OpCounter;

typedef struct Device {
    const DeviceBackend *backend;
    void *self;
    const OpTable *ops;
    int threads;
    DType flow;         /* what flows between the layers of models on this device: F32, or BF16 where backend->bf16 */
    int strands;        /* of work that this device does at once (device_strands): the CPU's threads; 0: it has none */
    int burst;          /* as the backend's */
    OpProfile *profile; /* NULL: no clock is read */
    Arena scratch;      /* rewound by every op */
    struct DeviceKept *keeping; /* between device_keep_begin and _end */
    struct DeviceKept *spare;   /* forgotten, to be used again; or NULL */
    OpCounter counter[OP_COUNT];
    uint64_t reads, writes; /* host <-> device transfers, for tests that pin them */
    double read_bytes, write_bytes;
} Device;

/* Shared by backends: fills the table and opens the scratch arena. */
Status device_init(Device *device, const DeviceBackend *backend, void *self, const OpTable *ops, int threads);
/* The device that computes nothing (device_dry.c). */
Status device_open_dry(Device *device);
void device_close(Device *device);
/* What flows between layers on it. STATUS_USAGE where its kernels do not take that. */
Status device_set_flow(Device *device, DType flow);
const char *device_describe(const Device *device);
/* An arena on this device. */
Status device_arena(Device *device, Arena *arena, const char *name, size_t limit_bytes);

/* Run one op now: counts it, then calls the table. The only caller of kernels. */
void device_run(Device *device, OpKind op, const void *args);

/* Explicit, counted transfers; whole tensors. On a dry device a read gives zeros. */
void tensor_read(Device *device, Tensor tensor, void *host);
void tensor_write(Device *device, Tensor tensor, const void *host);
/* Where a reader or writer of files may move a tensor's bytes itself, without a copy between; NULL: this device's memory is not
 * host_visible, and tensor_read and tensor_write are the way. */
void *tensor_host(const Device *device, Tensor tensor);
void tensor_copy(Device *device, Tensor to, Tensor from);
void tensor_zero(Device *device, Tensor tensor);

DeviceEvent device_record(Device *device, DeviceQueue queue);
void device_wait(Device *device, DeviceQueue queue, DeviceEvent event);
void device_finish(Device *device);
/* The backend's own handle of a queue (cudaStream_t), for a library that works on it; NULL: this backend has none. */
void *device_stream(const Device *device, DeviceQueue queue);
void device_watch(Device *device, DeviceWatch watch);

/* Work that is asked for once and done as often as wanted, on the same addresses. Where device_keeps() is false there is no such thing (a backend without it, or
 * profiling, which times op by op). Replays count as the work they stand for: of what was kept, only attention over a cache grows from one to the next, by `longer`
 * keys for each query since it was kept (fewer: negative; on average, where queries differ). */
typedef struct DeviceKept DeviceKept;
bool device_keeps(const Device *device);
void device_keep_begin(Device *device);
DeviceKept *device_keep_end(Device *device);
void device_replay(Device *device, const DeviceKept *kept, double longer);
void device_forget(Device *device, DeviceKept **kept); /* NULL: nothing */

/* Asks for `count` strands of work, strand(context, 0), strand(context, 1), ...: none reads or writes what another writes, scratch included, and each
 * is one thread's. What a strand takes of `step` stays its own until all are asked for, and is then given back. At once where they are kept and replayed,
 * one after the other otherwise; the same bits either way. */
typedef void (*DeviceStrand)(void *context, int64_t number);
void device_strands(Device *device, Arena *step, int64_t count, DeviceStrand strand, void *context);

/* Sums over all ops since device_counters_reset(). */
OpCounter device_total(const Device *device);
void device_counters_reset(Device *device);

#endif
