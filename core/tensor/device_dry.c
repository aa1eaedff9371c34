/* device_dry.c -- the device that computes nothing: the same stage code run on it leaves the arenas' high-water marks.
 *
 * Addresses come from a range that no user process can map (above bit 50), so a host dereference traps at once and a
 * plan costs no memory, however large the model. Scratch is not modelled: what an op needs inside is its backend's
 * business. */
#include "core/tensor/device.h"

#include <stdatomic.h>
#include <string.h>

#define OP_NOTHING(name, Stem)                                                                                         \
    static void dry_##name(Device *device, const Stem##Args *args)                                                     \
    {                                                                                                                  \
        (void)device;                                                                                                  \
        (void)args;                                                                                                    \
    }
OP_LIST(OP_NOTHING)
#undef OP_NOTHING

static const OpTable dry_ops = {
#define OP_ENTRY(name, Stem) .name = dry_##name,
    OP_LIST(OP_ENTRY)
#undef OP_ENTRY
};

static void *dry_reserve(void *self, size_t bytes)
{
    /* Each arena begins elsewhere, so that distinct tensors keep distinct addresses; after a thousand they repeat. */
    static atomic_uint next;
    (void)self;
    (void)bytes;
    return (void *)(((uintptr_t)1 << 50) + (uintptr_t)(atomic_fetch_add(&next, 1) % 1000) * ((uintptr_t)1 << 44));
}

static Status dry_commit(void *self, void *base, size_t from, size_t to)
{
    (void)self;
    (void)base;
    (void)from;
    (void)to;
    return status_ok();
}

static void dry_release(void *self, void *base, size_t bytes)
{
    (void)self;
    (void)base;
    (void)bytes;
}

static ArenaMemory dry_memory(void *self)
{
    return (ArenaMemory){self, dry_reserve, dry_commit, dry_release, false, 0};
}

static const char *dry_describe(void *self)
{
    (void)self;
    return "dry: counts memory, computes nothing";
}

static void dry_copy(void *self, DeviceQueue queue, void *to, const void *from, size_t bytes)
{
    (void)self;
    (void)queue;
    (void)to;
    (void)from;
    (void)bytes;
}

static void dry_copy_out(void *self, DeviceQueue queue, void *host, const void *device, size_t bytes)
{
    (void)self;
    (void)queue;
    (void)device;
    memset(host, 0, bytes);
}

static void dry_zero(void *self, DeviceQueue queue, void *device, size_t bytes)
{
    (void)self;
    (void)queue;
    (void)device;
    (void)bytes;
}

static DeviceEvent dry_record(void *self, DeviceQueue queue)
{
    (void)self;
    (void)queue;
    return (DeviceEvent){0};
}

static void dry_wait(void *self, DeviceQueue queue, DeviceEvent event)
{
    (void)self;
    (void)queue;
    (void)event;
}

static void dry_finish(void *self)
{
    (void)self;
}

static const DeviceBackend dry_backend = {
    .name = "dry",
    .describe = dry_describe,
    .memory = dry_memory,
    .copy_in = dry_copy,
    .copy_out = dry_copy_out,
    .copy = dry_copy,
    .zero = dry_zero,
    .record = dry_record,
    .wait = dry_wait,
    .finish = dry_finish,
    .close = dry_finish,
    .burst = 1,
    .computes = false,
    .bf16 = true,
    .host_visible = false,
};

Status device_open_dry(Device *device)
{
    return device_init(device, &dry_backend, NULL, &dry_ops, 1);
}
