/* stream.h -- queues of work, the events between them, and graphs: when asynchronous things happen.
 *
 * Why:   on a GPU work is done some time between being asked for and being waited for. A program that forgets to wait is right most of the
 *        time. So there are two modes: at once, for speed; and latest, in which nothing is done before it must be: at a synchronisation, at
 *        an event somebody waits for, at a blocking copy. What is missing then shows every time.
 * Mode:  CUDA_ON_CPU_STREAMS=now | latest. */
#ifndef CUDA_ON_CPU_STREAM_H
#define CUDA_ON_CPU_STREAM_H

#include <functional>

#include <driver_types.h>

namespace cuda_on_cpu
{

/* Add work to a stream (0: the legacy stream), or to the graph that the stream is being captured into. `name` must live for ever. */
void stream_add(cudaStream_t stream, const char *name, std::function<void()> work);
/* Work that others have a part in. When the stream comes to it, begin() starts it and returns what tells, asked again and again, whether it is done.
 * Nothing behind it in its stream happens before; the host goes on. Who waits for longer than CUDA_ON_CPU_PATIENCE seconds (60) is told so. */
typedef std::function<bool()> StreamPoll;
void stream_add_polled(cudaStream_t stream, const char *name, std::function<StreamPoll()> begin);
/* Do everything that was added to one stream, or to all of them. */
void stream_finish(cudaStream_t stream);
void streams_finish(void);
bool stream_is_capturing(cudaStream_t stream);
/* The names of the last work done and of the first that is not, for tests. */
const char *stream_last_done(void);

/* After `count` more pieces of work the device fails with this sticky error: what a fault on real hardware looks like. */
void fail_after(int count, cudaError_t error);

} // namespace cuda_on_cpu

/* The same for tests in C, with an illegal access. */
extern "C" void cuda_on_cpu_fail_after(int count);

#endif
