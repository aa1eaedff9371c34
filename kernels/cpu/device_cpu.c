/* device_cpu.c -- the CPU backend: picks a table of kernels by what the processor has, and gives out host memory. */
#include "kernels/cpu/device_cpu.h"

#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kept.h"

#define ISA_TABLE(isa) static const OpTable table_##isa = {OP_LIST(ISA_SLOT_##isa)};
#define ISA_SLOT_baseline(name, Stem) .name = cpu_##name##_baseline,
#define ISA_SLOT_avx2(name, Stem) .name = cpu_##name##_avx2,
#define ISA_SLOT_avx512(name, Stem) .name = cpu_##name##_avx512,
ISA_LIST(ISA_TABLE)

typedef struct Isa {
    const char *name;
    const OpTable *table;
} Isa;

/* From plain to best. */
static const Isa isas[] = {
#define ISA_ROW(isa) {#isa, &table_##isa},
    ISA_LIST(ISA_ROW)
#undef ISA_ROW
};
enum { ISAS = sizeof isas / sizeof isas[0] };

static bool isa_supported(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#endif
    return !strcmp(name, "baseline");
}

static Status isa_pick(const char *name, const Isa **picked)
{
    for (int i = ISAS - 1; i >= 0; i--) {
        if (name && strcmp(name, isas[i].name))
            continue;
        if (isa_supported(isas[i].name)) {
            *picked = &isas[i];
            return status_ok();
        }
        if (name)
            return status_error(STATUS_USAGE, "instruction set %s: this processor does not have it", name);
    }
    return status_error(STATUS_USAGE, "instruction set %s: expected baseline, avx2 or avx512", name ? name : "?");
}

/* The kernels that take scratch. */
static OpTable scratch_ops_of(const OpTable *table)
{
    return (OpTable){.gemm = table->gemm,
                     .bias_backward = table->bias_backward,
                     .norm_backward = table->norm_backward,
                     .attention_forward = table->attention_forward,
                     .attention_backward = table->attention_backward,
                     .rank_loss = table->rank_loss,
                     .moments = table->moments,
                     .sample = table->sample};
}

typedef struct CpuDevice {
    int threads;
    char description[96];
    const OpTable *ops;
    OpTable scratch_ops;
    Kept *keeping, *spare; /* NULL: none */
} CpuDevice;

static const char *cpu_describe(void *self)
{
    return ((CpuDevice *)self)->description;
}
static ArenaMemory cpu_memory(void *self)
{
    (void)self;
    return arena_memory_host();
}
static void cpu_copy(void *self, DeviceQueue queue, void *to, const void *from, size_t bytes)
{
    (void)queue;
    CpuDevice *cpu = self;
    if (cpu->keeping)
        kept_note_copy(cpu->keeping, to, from, bytes);
    else if (bytes)
        memmove(to, from, bytes);
}
/* The host's bytes have been read when this returns, kept or not. */
static void cpu_copy_in(void *self, DeviceQueue queue, void *device, const void *host, size_t bytes)
{
    CpuDevice *cpu = self;
    if (cpu->keeping)
        kept_note_bytes(cpu->keeping, device, host, bytes);
    else
        cpu_copy(self, queue, device, host, bytes);
}
/* A model's gradient is zeroed in every step: all threads, each a run of pages. */
static void cpu_zero(void *self, DeviceQueue queue, void *device, size_t bytes)
{
    enum { PIECE_BYTES = 1 << 20 };
    (void)queue;
    if (((CpuDevice *)self)->keeping) {
        kept_note_copy(((CpuDevice *)self)->keeping, device, NULL, bytes);
        return;
    }
    int64_t pieces = (int64_t)(bytes / PIECE_BYTES);
    size_t whole = (size_t)pieces * PIECE_BYTES;
    if (pieces < 4)
        whole = 0;
    else
#pragma omp parallel for schedule(static) num_threads(((CpuDevice *)self)->threads)
        for (int64_t i = 0; i < pieces; i++)
            memset((char *)device + i * PIECE_BYTES, 0, PIECE_BYTES);
    if (bytes > whole)
        memset((char *)device + whole, 0, bytes - whole);
}
/* Every call is complete when it returns, so events have nothing to say. */
static DeviceEvent cpu_record(void *self, DeviceQueue queue)
{
    (void)self;
    return (DeviceEvent){(uint64_t)queue};
}
static void cpu_wait(void *self, DeviceQueue queue, DeviceEvent event)
{
    (void)self;
    (void)queue;
    (void)event;
}
static void cpu_finish(void *self)
{
    (void)self;
}
Kept *kept_of(const Device *device)
{
    return ((CpuDevice *)device->self)->keeping;
}
static void cpu_keep_begin(Device *device)
{
    CpuDevice *cpu = device->self;
    cpu->keeping = kept_begin(cpu->spare, device, cpu->ops, &cpu->scratch_ops);
    cpu->spare = NULL;
}
static void *cpu_keep_end(void *self)
{
    CpuDevice *cpu = self;
    Kept *kept = cpu->keeping;
    cpu->keeping = NULL;
    return kept;
}
static void cpu_keep_strand(void *self, bool begins, size_t scratch)
{
    kept_strand(((CpuDevice *)self)->keeping, begins, scratch);
}
static void cpu_replay(void *self, void *kept)
{
    (void)self;
    kept_run(kept);
}
/* One list is enough for who keeps cheaply, and is there when the next is asked for. */
static void cpu_forget(void *self, void *kept)
{
    CpuDevice *cpu = self;
    kept_close(cpu->spare);
    cpu->spare = kept;
}
static void cpu_close(void *self)
{
    kept_close(((CpuDevice *)self)->spare);
    memory_release(self);
}

static const DeviceBackend backend = {.name = "cpu",
                                      .describe = cpu_describe,
                                      .memory = cpu_memory,
                                      .copy_in = cpu_copy_in,
                                      .copy_out = cpu_copy,
                                      .copy = cpu_copy,
                                      .zero = cpu_zero,
                                      .record = cpu_record,
                                      .wait = cpu_wait,
                                      .finish = cpu_finish,
                                      .keep_begin = cpu_keep_begin,
                                      .keep_end = cpu_keep_end,
                                      .replay = cpu_replay,
                                      .forget = cpu_forget,
                                      .keep_ops = &kept_ops,
                                      .keep_strand = cpu_keep_strand,
                                      .keeps_cheaply = true,
                                      .close = cpu_close,
                                      .burst = 1,
                                      .computes = true,
                                      .host_visible = true};

Status device_open_cpu(Device *device, int threads, const char *isa)
{
    REQUIRE(threads >= 1, "threads %d", threads);
    const Isa *picked = NULL;
    TRY(isa_pick(isa, &picked));
    /* A team smaller than asked for would change how the library cuts its sums. */
    omp_set_dynamic(0);
    CpuDevice *self = memory_new(1, sizeof *self);
    self->threads = threads;
    self->ops = picked->table;
    self->scratch_ops = scratch_ops_of(picked->table);
    snprintf(self->description, sizeof self->description, "%s, %s, %d thread%s", picked->name, gemm_library_name(),
             threads, threads == 1 ? "" : "s");
    Status status = device_init(device, &backend, self, picked->table, threads);
    if (status_failed(status))
        memory_release(self);
    device->strands = threads;
    return status;
}

Status device_open_cpu_dry(Device *device, int threads, const char *isa)
{
    REQUIRE(threads >= 1, "threads %d", threads);
    const Isa *picked = NULL;
    TRY(isa_pick(isa, &picked));
    TRY(device_open_dry(device));
    static OpTable table; /* the same whenever it is filled, but for the instruction set */
    const OpTable scratch_ops = scratch_ops_of(picked->table);
    table = *device->ops;
#define SCRATCH_SLOT(name, Stem)                                                                                       \
    if (scratch_ops.name)                                                                                              \
        table.name = scratch_ops.name;
    OP_LIST(SCRATCH_SLOT)
#undef SCRATCH_SLOT
    device->ops = &table;
    device->threads = device->strands = threads;
    return status_ok();
}
