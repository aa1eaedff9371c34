/* fiber.cc -- stacks, and the switch between them. */
#include "tests/cuda_on_cpu/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(STACKS_ARE_WATCHED) /* AddressSanitizer's build (tests/CMakeLists.txt) */
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define FIBER_BY_UCONTEXT
#endif

namespace cuda_on_cpu
{

static const size_t STACK_BYTES = (size_t)128 << 10; // a kernel's own arrays are small; AddressSanitizer widens them

struct Fiber {
    char *mapping;
    size_t mapping_bytes;
    char *bottom; /* of the usable stack */
    size_t usable_bytes;
    void (*entry)(void *argument);
    void *argument;
    bool started;
#ifdef FIBER_BY_UCONTEXT
    ucontext_t own;
#else
    void *own; /* stack pointer while not running */
#endif
    void *fake; /* AddressSanitizer's shadow of the stack */
};

/* The operating-system thread's own stack. */
struct Root {
#ifdef FIBER_BY_UCONTEXT
    ucontext_t own;
#else
    void *own;
#endif
    void *fake;
    const void *bottom;
    size_t bytes;
    bool left; /* just now: who arrives learns the root's stack */
};
static thread_local Root root;

#ifndef FIBER_BY_UCONTEXT
extern "C" void cuda_on_cpu_switch(void **save, void *to);
extern "C" void cuda_on_cpu_start(void);
#endif

#if defined(__x86_64__)
__asm__(".text\n"
        ".globl cuda_on_cpu_switch\n"
        ".type cuda_on_cpu_switch, @function\n"
        "cuda_on_cpu_switch:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size cuda_on_cpu_switch, .-cuda_on_cpu_switch\n"
        ".globl cuda_on_cpu_start\n"
        ".type cuda_on_cpu_start, @function\n"
        "cuda_on_cpu_start:\n" /* r12: the function, r13: its argument */
        "    movq %r13, %rdi\n"
        "    call *%r12\n"
        "    ud2\n"
        ".size cuda_on_cpu_start, .-cuda_on_cpu_start\n");

static void *stack_prepare(char *top, void (*function)(void *), void *argument)
{
    void **at = (void **)((uintptr_t)top & ~(uintptr_t)15);
    *--at = NULL; /* keeps the stack aligned at the call in cuda_on_cpu_start */
    *--at = NULL;
    *--at = (void *)cuda_on_cpu_start;
    *--at = NULL;             /* rbp */
    *--at = NULL;             /* rbx */
    *--at = (void *)function; /* r12 */
    *--at = argument;         /* r13 */
    *--at = NULL;             /* r14 */
    *--at = NULL;             /* r15 */
    return at;
}
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl cuda_on_cpu_switch\n"
        ".type cuda_on_cpu_switch, %function\n"
        "cuda_on_cpu_switch:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp, #0]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n    stp d12, d13, [sp, #128]\n    stp d14, d15, [sp, "
        "#144]\n"
        "    mov x9, sp\n    str x9, [x0]\n    mov sp, x1\n"
        "    ldp x19, x20, [sp, #0]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n    ldp d12, d13, [sp, #128]\n    ldp d14, d15, [sp, "
        "#144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".globl cuda_on_cpu_start\n"
        ".type cuda_on_cpu_start, %function\n"
        "cuda_on_cpu_start:\n" /* x19: the function, x20: its argument */
        "    mov x0, x20\n"
        "    blr x19\n"
        "    brk #1\n");

static void *stack_prepare(char *top, void (*function)(void *), void *argument)
{
    void **at = (void **)((uintptr_t)top & ~(uintptr_t)15) - 20;
    memset(at, 0, 160);
    at[0] = (void *)function;
    at[1] = argument;
    at[11] = (void *)cuda_on_cpu_start; /* x30 */
    return at;
}
#endif

static void switch_begin(void **fake, const void *bottom, size_t bytes)
{
#if defined(STACKS_ARE_WATCHED)
    __sanitizer_start_switch_fiber(fake, bottom, bytes);
#else
    (void)fake;
    (void)bottom;
    (void)bytes;
#endif
}

static void switch_end(void *fake, const void **bottom, size_t *bytes)
{
#if defined(STACKS_ARE_WATCHED)
    __sanitizer_finish_switch_fiber(fake, bottom, bytes);
#else
    (void)fake;
    (void)bottom;
    (void)bytes;
#endif
}

static void arrive(Fiber *fiber)
{
    const void *bottom = NULL;
    size_t bytes = 0;
    switch_end(fiber->fake, &bottom, &bytes);
    if (root.left) {
        root.bottom = bottom;
        root.bytes = bytes;
        root.left = false;
    }
}

static void first_steps(void *self)
{
    Fiber *fiber = (Fiber *)self;
    arrive(fiber);
    fiber->entry(fiber->argument);
    fprintf(stderr, "cuda_on_cpu: a fiber's entry returned\n");
    abort();
}

#ifdef FIBER_BY_UCONTEXT

static void ucontext_entry(unsigned high, unsigned low)
{
    first_steps((void *)((uintptr_t)high << 32 | (uintptr_t)low));
}

static void prepare(Fiber *fiber)
{
    getcontext(&fiber->own);
    fiber->own.uc_stack.ss_sp = fiber->bottom;
    fiber->own.uc_stack.ss_size = fiber->usable_bytes;
    makecontext(&fiber->own, (void (*)(void))ucontext_entry, 2, (unsigned)((uintptr_t)fiber >> 32),
                (unsigned)(uintptr_t)fiber);
}

#define SWITCH(from, to) swapcontext(&(from)->own, &(to)->own)

#else

static void prepare(Fiber *fiber)
{
    fiber->own = stack_prepare(fiber->bottom + fiber->usable_bytes, first_steps, fiber);
}

#define SWITCH(from, to) cuda_on_cpu_switch(&(from)->own, (to)->own)

#endif

Fiber *fiber_new(void (*entry)(void *), void *argument)
{
    static int count; /* only spreads the offsets, so a race does no harm */
    Fiber *fiber = (Fiber *)calloc(1, sizeof *fiber);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    fiber->mapping_bytes = STACK_BYTES + 2 * page;
    void *mapping = mmap(NULL, fiber->mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!fiber || mapping == MAP_FAILED || mprotect(mapping, page, PROT_NONE) != 0) {
        perror("cuda_on_cpu: a fiber's stack");
        abort();
    }
    fiber->mapping = (char *)mapping;
    fiber->bottom = fiber->mapping + page;
    size_t offset = (size_t)(__atomic_fetch_add(&count, 1, __ATOMIC_RELAXED) % 61) * 13 % 61 * 64;
    fiber->usable_bytes = STACK_BYTES + page - offset;
    fiber->entry = entry;
    fiber->argument = argument;
    prepare(fiber);
    return fiber;
}

void fiber_delete(Fiber *fiber)
{
    munmap(fiber->mapping, fiber->mapping_bytes);
    free(fiber);
}

void fiber_resume(Fiber *fiber)
{
    root.left = true;
    switch_begin(&root.fake, fiber->bottom, fiber->usable_bytes);
    SWITCH(&root, fiber);
    switch_end(root.fake, NULL, NULL);
}

void fiber_suspend(Fiber *fiber)
{
    switch_begin(&fiber->fake, root.bottom, root.bytes);
    SWITCH(fiber, &root);
    arrive(fiber);
}

void fiber_switch(Fiber *from, Fiber *to)
{
    switch_begin(&from->fake, to->bottom, to->usable_bytes);
    SWITCH(from, to);
    arrive(from);
}

} // namespace cuda_on_cpu
