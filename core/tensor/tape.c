/* tape.c -- entries, nodes and gradient buffers; what each op does backward stands beside its front door. */
#include "core/tensor/tape_record.h"

#include <string.h>

#include "core/base/memory.h"

typedef struct Node {
    int64_t count; /* elements of the recorded tensor */
    DType dtype;
    int gradient; /* buffer, or 0 */
} Node;

typedef struct Buffer {
    void *data;
    size_t bytes;
    int references; /* 0: free */
    bool borrowed;  /* a seed's memory: never written, never reused */
} Buffer;

/* Lists grow in the first steps and are kept by tape_reset(). Index 0 of nodes and buffers is never used. */
struct Tape {
    TapeEntry *entry;
    Node *node;
    Buffer *buffer;
    int entries, nodes, buffers;
    int entry_capacity, node_capacity, buffer_capacity;
    TapeWatch watch;
};

Tape *tape_open(void)
{
    Tape *tape = memory_new(1, sizeof *tape);
    tape_reset(tape);
    return tape;
}

void tape_close(Tape *tape)
{
    if (!tape)
        return;
    memory_free(&tape->entry);
    memory_free(&tape->node);
    memory_free(&tape->buffer);
    memory_free(&tape);
}

void tape_reset(Tape *tape)
{
    tape->entries = 0;
    tape->nodes = tape->buffers = 1;
}

bool tape_wants(const Exec *exec, Tensor x, const Parameter *first, const Parameter *second)
{
    return exec->tape && (x.node || (first && tensor_present(first->grad)) || (second && tensor_present(second->grad)));
}

Tensor tape_node(Tape *tape, Tensor y)
{
    memory_reserve(&tape->node, tape->nodes, &tape->node_capacity);
    y.node = tape->nodes++;
    tape->node[y.node] = (Node){.count = tensor_count(y), .dtype = y.dtype};
    return y;
}

TapeEntry *tape_push(Tape *tape, TapeBackward backward)
{
    memory_reserve(&tape->entry, tape->entries, &tape->entry_capacity);
    TapeEntry *entry = &tape->entry[tape->entries++];
    *entry = (TapeEntry){.backward = backward};
    return entry;
}

/* ---- Buffers ---- */

static int buffer_append(Tape *tape, Buffer buffer)
{
    memory_reserve(&tape->buffer, tape->buffers, &tape->buffer_capacity);
    tape->buffer[tape->buffers] = buffer;
    return tape->buffers++;
}

int tape_buffer_new(Exec *exec, size_t bytes)
{
    Tape *tape = exec->tape;
    for (int i = 1; i < tape->buffers; i++) {
        Buffer *buffer = &tape->buffer[i];
        if (buffer->references == 0 && !buffer->borrowed && buffer->bytes == bytes) {
            buffer->references = 1;
            return i;
        }
    }
    return buffer_append(tape, (Buffer){.data = arena_alloc(exec->step, bytes), .bytes = bytes, .references = 1});
}

static Buffer *buffer_held(const Tape *tape, int buffer)
{
    REQUIRE(buffer > 0 && buffer < tape->buffers && tape->buffer[buffer].references > 0,
            "gradient buffer %d is held by nobody", buffer);
    return &tape->buffer[buffer];
}

void *tape_buffer_data(const Tape *tape, int buffer)
{
    return buffer_held(tape, buffer)->data;
}

bool tape_buffer_exclusive(const Tape *tape, int buffer)
{
    const Buffer *held = buffer_held(tape, buffer);
    return held->references == 1 && !held->borrowed;
}

int tape_buffer_share(Tape *tape, int buffer)
{
    buffer_held(tape, buffer)->references++;
    return buffer;
}

void tape_buffer_drop(Tape *tape, int buffer)
{
    buffer_held(tape, buffer)->references--;
}

int tape_buffer_own(Exec *exec, int buffer)
{
    Tape *tape = exec->tape;
    if (tape_buffer_exclusive(tape, buffer))
        return buffer;
    size_t bytes = tape->buffer[buffer].bytes;
    int own = tape_buffer_new(exec, bytes);
    int64_t count = (int64_t)bytes;
    tensor_copy(exec->device, tensor_at(tape->buffer[own].data, DTYPE_U8, 1, &count),
                tensor_at(tape->buffer[buffer].data, DTYPE_U8, 1, &count));
    tape_buffer_drop(tape, buffer);
    return own;
}

/* ---- Gradients ---- */

static Node *node_of(const Tape *tape, Tensor x)
{
    REQUIRE(x.node > 0 && x.node < tape->nodes, "node %d is not on this tape of %d (was it reset?)", x.node,
            tape->nodes - 1);
    Node *node = &tape->node[x.node];
    REQUIRE(node->count == tensor_count(x), "node %d was recorded with %lld elements, not %lld", x.node,
            (long long)node->count, (long long)tensor_count(x));
    return node;
}

int tape_gradient_take(Tape *tape, Tensor y)
{
    if (!y.node)
        return 0;
    Node *node = node_of(tape, y);
    int buffer = node->gradient;
    node->gradient = 0;
    return buffer;
}

void tape_gradient_give(Exec *exec, Tensor x, int buffer)
{
    Tape *tape = exec->tape;
    if (!x.node) {
        tape_buffer_drop(tape, buffer);
        return;
    }
    Node *node = node_of(tape, x);
    REQUIRE(buffer_held(tape, buffer)->bytes == (size_t)node->count * dtype_size(node->dtype),
            "node %d of %lld elements is given a gradient of %zu bytes", x.node, (long long)node->count,
            tape->buffer[buffer].bytes);
    if (!node->gradient) {
        node->gradient = buffer;
        return;
    }
    int there = node->gradient;
    int sum = tape_buffer_exclusive(tape, there)    ? there
              : tape_buffer_exclusive(tape, buffer) ? buffer
                                                    : tape_buffer_new(exec, tape->buffer[buffer].bytes);
    AddArgs args = {.dtype = node->dtype,
                    .out = tape_buffer_data(tape, sum),
                    .a = tape_buffer_data(tape, there),
                    .b = tape_buffer_data(tape, buffer),
                    .scale = 1.0f,
                    .count = node->count};
    device_run(exec->device, OP_add, &args);
    if (sum != there)
        tape_buffer_drop(tape, there);
    if (sum != buffer)
        tape_buffer_drop(tape, buffer);
    node->gradient = sum;
}

void *tape_gradient_at(Exec *exec, Tensor x, bool *first)
{
    *first = false;
    if (!exec->tape || !x.node)
        return NULL;
    int buffer = tape_gradient_take(exec->tape, x);
    *first = buffer == 0;
    buffer = buffer ? tape_buffer_own(exec, buffer) : tape_buffer_new(exec, tensor_bytes(x));
    node_of(exec->tape, x)->gradient = buffer;
    return tape_buffer_data(exec->tape, buffer);
}

void tape_seed(Exec *exec, Tensor x, Tensor gradient)
{
    REQUIRE(exec->tape, "a gradient is seeded without a tape");
    REQUIRE(gradient.dtype == x.dtype, "the gradient of a tensor of %s is not of %s", dtype_name(x.dtype),
            dtype_name(gradient.dtype));
    if (!x.node)
        return;
    Buffer seed = {.data = gradient.data, .bytes = tensor_bytes(gradient), .references = 1, .borrowed = true};
    tape_gradient_give(exec, x, buffer_append(exec->tape, seed));
}

void tape_watch(Tape *tape, TapeWatch watch)
{
    tape->watch = watch;
}

/* No address that a processor or a GPU has. */
#define LATER ((char *)((uintptr_t)1 << 60))

Tensor tape_gradients_later(int64_t count)
{
    return tensor_at(LATER, DTYPE_F32, 1, &count);
}

static void redirect(Parameter *parameter, Tensor gradients)
{
    if (!tensor_present(parameter->grad))
        return;
    size_t offset = (size_t)((char *)parameter->grad.data - LATER);
    REQUIRE(offset + tensor_bytes(parameter->grad) <= tensor_bytes(gradients), "a gradient was not to come later");
    parameter->grad.data = (char *)gradients.data + offset;
}

void tape_take(Tape *tape, Tape *kept, Tensor gradients)
{
    REQUIRE(tape->entries == 0 && tape->nodes == 1, "a tape with something recorded cannot take another's place");
    REQUIRE(kept->buffers == 1, "a tape is taken after it has begun to go backward");
    /* Copied, so that each tape keeps the lists that it has grown. */
    while (tape->entry_capacity < kept->entries)
        memory_reserve(&tape->entry, tape->entry_capacity, &tape->entry_capacity);
    while (tape->node_capacity < kept->nodes)
        memory_reserve(&tape->node, tape->node_capacity, &tape->node_capacity);
    memcpy(tape->entry, kept->entry, (size_t)kept->entries * sizeof *tape->entry);
    memcpy(tape->node, kept->node, (size_t)kept->nodes * sizeof *tape->node);
    tape->entries = kept->entries;
    tape->nodes = kept->nodes;
    tape_reset(kept);
    for (int i = 0; i < tape->entries; i++) {
        redirect(&tape->entry[i].weight, gradients);
        redirect(&tape->entry[i].bias, gradients);
    }
}

static uintptr_t gradient_end(Parameter parameter)
{
    return tensor_present(parameter.grad) ? (uintptr_t)parameter.grad.data + tensor_bytes(parameter.grad) : 0;
}

/* Parameters lie in the order of their use, or nearly, so what a tape has still to visit is what lies below an address. */
static void find_below(Tape *tape)
{
    uintptr_t below = 0;
    for (int i = 0; i < tape->entries; i++) {
        TapeEntry *entry = &tape->entry[i];
        uintptr_t weight = gradient_end(entry->weight), bias = gradient_end(entry->bias);
        entry->below = below;
        below = weight > below ? weight : below;
        below = bias > below ? bias : below;
    }
}

void tape_backward(Exec *exec)
{
    Tape *tape = exec->tape;
    REQUIRE(tape, "backward without a tape");
    if (tape->watch.complete)
        find_below(tape);
    for (int i = tape->entries - 1; i >= 0; i--) {
        TapeEntry entry = tape->entry[i];
        entry.backward(exec, &entry);
        if (tape->watch.complete)
            tape->watch.complete(tape->watch.context, (const void *)entry.below);
    }
    tape_reset(tape);
}
