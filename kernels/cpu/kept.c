/* kept.c -- lists of ops, noted and done: see kept.h. */
#include "kernels/cpu/kept.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/tensor/op_finite.h"
#include "kernels/cpu/isa.h"

enum { NOTE_COPY = OP_COUNT, NOTE_BYTES, NOTE_ALIGN = 16 };

/* In front of what the op was given. */
typedef struct Note {
    _Alignas(NOTE_ALIGN) int32_t kind; /* an OpKind, NOTE_COPY or NOTE_BYTES */
    uint32_t bytes;                    /* to the next note, this one included */
} Note;

typedef struct CopyArgs {
    void *to;
    const void *from; /* NULL: zeros */
    size_t bytes;
} CopyArgs;

/* Notes that follow each other. */
typedef struct Stretch {
    size_t from, to;    /* bytes of the list */
    bool strand;        /* one thread's; else the caller's, with all threads */
    size_t scratch;     /* bytes that a strand needs */
    void *scratch_base; /* while it runs */
} Stretch;

struct Kept {
    Device *device;
    const OpTable *ops, *scratch_ops;
    char *note;
    size_t used, capacity;
    Stretch *stretch;
    size_t stretches, stretches_capacity;
    bool going_on; /* the last stretch: what is noted belongs to it */
};

__thread bool cpu_alone;

/* --- Noting ------------------------------------------------------------------------------------------------------- */

Kept *kept_begin(Kept *spare, Device *device, const OpTable *ops, const OpTable *scratch_ops)
{
    Kept *kept = spare ? spare : memory_new(1, sizeof *kept);
    kept->device = device;
    kept->ops = ops;
    kept->scratch_ops = scratch_ops;
    kept->used = 0;
    kept->stretches = 0;
    kept->going_on = false;
    return kept;
}

void kept_close(Kept *kept)
{
    if (!kept)
        return;
    memory_free(&kept->stretch);
    memory_free(&kept->note);
    memory_release(kept);
}

static void stretch_begin(Kept *kept, bool strand)
{
    memory_reserve(&kept->stretch, kept->stretches, &kept->stretches_capacity);
    kept->stretch[kept->stretches++] = (Stretch){.from = kept->used, .to = kept->used, .strand = strand};
    kept->going_on = true;
}

/* `more` bytes stand behind `args`. */
static void note(Kept *kept, int kind, const void *args, size_t bytes, const void *more, size_t more_bytes)
{
    size_t whole = sizeof(Note) + (bytes + more_bytes + NOTE_ALIGN - 1) / NOTE_ALIGN * NOTE_ALIGN;
    REQUIRE(whole <= UINT32_MAX, "a note of %zu bytes", whole);
    if (kept->used + whole > kept->capacity) {
        kept->capacity = 2 * kept->capacity + whole + 4096;
        kept->note = memory_resize(kept->note, kept->capacity, 1);
    }
    if (!kept->going_on)
        stretch_begin(kept, false);
    *(Note *)(void *)(kept->note + kept->used) = (Note){.kind = kind, .bytes = (uint32_t)whole};
    memcpy(kept->note + kept->used + sizeof(Note), args, bytes);
    if (more_bytes)
        memcpy(kept->note + kept->used + sizeof(Note) + bytes, more, more_bytes);
    kept->used += whole;
    kept->stretch[kept->stretches - 1].to = kept->used;
}

void kept_note_copy(Kept *kept, void *to, const void *from, size_t bytes)
{
    note(kept, NOTE_COPY, &(CopyArgs){to, from, bytes}, sizeof(CopyArgs), NULL, 0);
}

void kept_note_bytes(Kept *kept, void *to, const void *from, size_t bytes)
{
    note(kept, NOTE_BYTES, &(CopyArgs){to, NULL, bytes}, sizeof(CopyArgs), from, bytes);
}

void kept_strand(Kept *kept, bool begins, size_t scratch)
{
    if (begins) {
        stretch_begin(kept, true);
    } else {
        kept->stretch[kept->stretches - 1].scratch = scratch;
        kept->going_on = false;
    }
}

/* A backend that computes nothing: an op under it asks for its scratch and returns. */
static const DeviceBackend silent = {.name = "silent"};

#define KEPT_OP(name, Stem)                                                                                            \
    static void note_##name(Device *device, const Stem##Args *args)                                                    \
    {                                                                                                                  \
        Kept *kept = kept_of(device);                                                                                  \
        note(kept, OP_##name, args, sizeof *args, NULL, 0);                                                            \
        if (!kept->scratch_ops->name)                                                                                  \
            return;                                                                                                    \
        const DeviceBackend *backend = device->backend;                                                                \
        device->backend = &silent;                                                                                     \
        kept->scratch_ops->name(device, args);                                                                         \
        device->backend = backend;                                                                                     \
    }
OP_LIST(KEPT_OP)
#undef KEPT_OP

const OpTable kept_ops = {
#define KEPT_SLOT(name, Stem) .name = note_##name,
    OP_LIST(KEPT_SLOT)
#undef KEPT_SLOT
};

/* --- Doing -------------------------------------------------------------------------------------------------------- */

static void note_run(Device *device, const OpTable *ops, int kind, const void *args)
{
    switch (kind) {
#define KEPT_CALL(name, Stem)                                                                                          \
    case OP_##name:                                                                                                    \
        ops->name(device, (const Stem##Args *)args);                                                                   \
        break;
        OP_LIST(KEPT_CALL)
#undef KEPT_CALL
    default: {
        const CopyArgs *copy = args;
        if (kind == NOTE_BYTES)
            memcpy(copy->to, copy + 1, copy->bytes);
        else if (copy->from)
            memmove(copy->to, copy->from, copy->bytes);
        else
            memset(copy->to, 0, copy->bytes);
    }
    }
#ifdef TERCET_CHECKED
    if (kind < OP_COUNT)
        op_require_finite((OpKind)kind, args);
#endif
}

static void stretch_run(const Kept *kept, Device *device, const Stretch *stretch)
{
    for (size_t at = stretch->from; at < stretch->to;) {
        const Note *head = (const void *)(kept->note + at);
        size_t mark = arena_mark(&device->scratch);
        note_run(device, kept->ops, head->kind, head + 1);
        arena_rewind(&device->scratch, mark);
        at += head->bytes;
    }
}

/* On a device of its own: one thread, and scratch that nobody else has. */
static void strand_run(const Kept *kept, const Stretch *stretch)
{
    Device own = *kept->device;
    own.threads = 1;
    own.scratch.base = stretch->scratch_base;
    own.scratch.reserved = own.scratch.committed = stretch->scratch;
    own.scratch.used = 0;
    cpu_alone = true;
    stretch_run(kept, &own, stretch);
    cpu_alone = false;
}

/* Whoever is done looks for the others rather than fall asleep: OpenMP's threads do after some microseconds (bootstrap.c), and are then woken in
 * turn at every decode step, which costs more than the step. On a processor with others to run it lets them; and after some milliseconds, which only a lane of a
 * training step takes, it does fall asleep. */
static void strands_await(const atomic_int *running)
{
    enum { LOOKS = 1 << 20 };
    for (int looks = 1; looks < LOOKS && atomic_load_explicit(running, memory_order_acquire) > 0; looks++)
        if (looks % 1024 == 0)
            sched_yield();
}

static void strands_run(Kept *kept, Stretch *stretch, size_t count)
{
    Arena *scratch = &kept->device->scratch;
    size_t mark = arena_mark(scratch);
    for (size_t i = 0; i < count; i++)
        stretch[i].scratch_base = arena_alloc(scratch, stretch[i].scratch);
    atomic_int running = (int)count;
#pragma omp parallel num_threads((int)min_i64((int64_t)count, kept->device->threads))
    {
#pragma omp for schedule(static, 1) nowait
        for (size_t i = 0; i < count; i++) {
            strand_run(kept, &stretch[i]);
            atomic_fetch_sub_explicit(&running, 1, memory_order_release);
        }
        strands_await(&running);
    }
    arena_rewind(scratch, mark);
}

void kept_run(Kept *kept)
{
    for (size_t i = 0; i < kept->stretches;) {
        Stretch *first = &kept->stretch[i];
        size_t count = 0;
        while (i + count < kept->stretches && first[count].strand)
            count++;
        if (count)
            strands_run(kept, first, count);
        else
            stretch_run(kept, kept->device, first);
        i += count ? count : 1;
    }
}
