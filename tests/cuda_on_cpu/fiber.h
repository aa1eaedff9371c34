/* fiber.h -- several stacks on one operating-system thread, and a switch between them.
 *
 * Why:   a CUDA thread block is hundreds of threads that meet at barriers. As fibers they cost 10 to 20 ns a switch, where an operating-system
 *        thread costs microseconds and swapcontext 300 ns (two system calls).
 * How:   on x86-64 and aarch64 the switch saves what the calling convention says a callee must keep; elsewhere ucontext does it.
 *        Stacks are fiber-local mappings below a guard page. Each begins at an odd offset of cache lines: stacks at equal addresses modulo
 *        4096 would crowd the same sets of the first cache (1.4 to 1.7 times slower).
 * Rule:  a fiber is started and resumed by one operating-system thread only, so that addresses of thread-local variables stay right. */
#ifndef CUDA_ON_CPU_FIBER_H
#define CUDA_ON_CPU_FIBER_H

#include <cstddef>

namespace cuda_on_cpu
{

struct Fiber;

/* A fiber that will run entry(argument) when it is first resumed. `entry` must not return: it ends by fiber_suspend(). */
Fiber *fiber_new(void (*entry)(void *argument), void *argument);
/* One that is suspended, and will not be resumed. */
void fiber_delete(Fiber *fiber);
/* From the thread's own stack into the fiber; returns when a fiber suspends. */
void fiber_resume(Fiber *fiber);
/* From the running fiber back to the thread's own stack. */
void fiber_suspend(Fiber *fiber);
/* From the running fiber into another. */
void fiber_switch(Fiber *from, Fiber *to);

} // namespace cuda_on_cpu
#endif
