/* queues.cu -- the streams of a GPU that is open as a Device: waiting for them, copies through pinned memory, events, and work that is kept as a graph. */
#include "kernels/cuda/parts.h"

#include <algorithm>
#include <cstring>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

extern "C" {
#include "core/base/profile.h"
}

enum {
    SPINS = 2000,       /* looks at the device, of about a microsecond, before the host sleeps between them */
    LEAVE_SECONDS = 20, /* from finding the device lost to the end of the process, whatever blocks */
};

/* --- Waiting --- */

static void *leave_in_time(void *)
{
    sleep(LEAVE_SECONDS);
    _exit(STATUS_PEER);
}

static void *abort_watched(void *watch)
{
    const DeviceWatch *watched = (const DeviceWatch *)watch;
    watched->abort(watched->context);
    return NULL;
}

/* Nothing more is asked of the device: giving up a collective can itself block (NVIDIA/nccl issue 829), so it has a thread of its own, and another one
 * ends the process whatever happens. */
[[noreturn]] static void device_lost(Cuda *cuda, const char *fault)
{
    pthread_t helper, guard;
    static DeviceWatch watch;
    pthread_create(&guard, NULL, leave_in_time, NULL);
    watch = cuda->watch;
    const bool helped = watch.abort && pthread_create(&helper, NULL, abort_watched, &watch) == 0;
    fprintf(stderr, "tercet: rank %d: the device is lost: %s\n", status_rank(), fault);
    progress_report(&cuda->progress, stderr);
    fflush(stderr);
    if (helped)
        pthread_join(helper, NULL);
    _exit(STATUS_PEER);
}

void cuda_await(Cuda *cuda, cudaStream_t stream, cudaEvent_t event)
{
    double since = 0;
    uint64_t complete = 0;
    for (int looks = 0;; looks++) {
        cudaError_t error = event ? cudaEventQuery(event) : cudaStreamQuery(stream);
        if (error != cudaErrorNotReady) {
            cuda_check(error, "waiting for the device", __FILE__, __LINE__);
            return;
        }
        (void)cudaGetLastError(); /* not ready is no error */
        if (looks < SPINS)
            continue;
        const char *fault = cuda->watch.fault ? cuda->watch.fault(cuda->watch.context) : NULL;
        if (fault)
            device_lost(cuda, fault);
        const uint64_t now_complete = progress_complete(&cuda->progress);
        if (since == 0 || now_complete != complete) {
            since = profile_seconds();
            complete = now_complete;
        }
        if (profile_seconds() - since > cuda->options.timeout_seconds)
            device_lost(cuda, "for too long nothing on it has ended");
        const struct timespec pause = {0, 20000};
        nanosleep(&pause, NULL);
    }
}

/* --- Copies, events --- */

/* The other half, once all queues that read it have done so. */
static void staging_turn(Cuda *cuda)
{
    for (int queue = 0; queue < QUEUE_COUNT; queue++) {
        if (cuda->staged_queue[queue])
            CUDA(cudaEventRecord(cuda->staging_read[cuda->half][queue], cuda->stream[queue]));
        cuda->staged_queue[queue] = false;
    }
    cuda->half ^= 1;
    cuda->staged = 0;
    for (cudaEvent_t event : cuda->staging_read[cuda->half])
        cuda_await(cuda, NULL, event);
}

/* Through pinned memory, a piece at a time; the host goes on as soon as its bytes are read. */
void cuda_copy_in(void *self, DeviceQueue queue, void *device, const void *host, size_t bytes)
{
    Cuda *cuda = (Cuda *)self;
    for (size_t done = 0; done < bytes;) {
        if (cuda->staged == STAGING_BYTES)
            staging_turn(cuda);
        size_t piece = bytes - done < STAGING_BYTES - cuda->staged ? bytes - done : STAGING_BYTES - cuda->staged;
        char *at = cuda->staging + (size_t)cuda->half * STAGING_BYTES + cuda->staged;
        memcpy(at, (const char *)host + done, piece);
        CUDA(cudaMemcpyAsync((char *)device + done, at, piece, cudaMemcpyHostToDevice, cuda->stream[queue]));
        size_t taken = (piece + 255) / 256 * 256;
        cuda->staged += taken; /* STAGING_BYTES is a multiple of 256 */
        cuda->staged_queue[queue] = true;
        done += piece;
    }
}

void cuda_copy_out(void *self, DeviceQueue queue, void *host, const void *device, size_t bytes)
{
    Cuda *cuda = (Cuda *)self;
    size_t asked = 0, done = 0;
    for (uint64_t next = 0, got = 0; done < bytes;) {
        if (asked < bytes && next < got + 2) {
            size_t piece = std::min(bytes - asked, STAGING_BYTES);
            CUDA(cudaMemcpyAsync(cuda->arrivals + next % 2 * STAGING_BYTES, (const char *)device + asked, piece,
                                 cudaMemcpyDeviceToHost, cuda->stream[queue]));
            CUDA(cudaEventRecord(cuda->arrived[next++ % 2], cuda->stream[queue]));
            asked += piece;
            continue;
        }
        size_t piece = std::min(bytes - done, STAGING_BYTES);
        cuda_await(cuda, NULL, cuda->arrived[got % 2]);
        memcpy((char *)host + done, cuda->arrivals + got++ % 2 * STAGING_BYTES, piece);
        done += piece;
    }
}

void cuda_copy(void *self, DeviceQueue queue, void *to, const void *from, size_t bytes)
{
    CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, ((Cuda *)self)->stream[queue]));
}

void cuda_zero(void *self, DeviceQueue queue, void *device, size_t bytes)
{
    CUDA(cudaMemsetAsync(device, 0, bytes, ((Cuda *)self)->stream[queue]));
}

/* An event's number says which queue it is of, and the how-manieth there. */
DeviceEvent cuda_record(void *self, DeviceQueue queue)
{
    Cuda *cuda = (Cuda *)self;
    uint64_t number = cuda->events[queue]++;
    CUDA(cudaEventRecord(cuda->event[queue][number % EVENTS], cuda->stream[queue]));
    return {number * QUEUE_COUNT + queue};
}

/* An event whose place was taken by a later one of its queue is waited for by waiting for that. */
void cuda_wait(void *self, DeviceQueue queue, DeviceEvent event)
{
    Cuda *cuda = (Cuda *)self;
    CUDA(cudaStreamWaitEvent(cuda->stream[queue], cuda->event[event.id % QUEUE_COUNT][event.id / QUEUE_COUNT % EVENTS],
                             0));
}

void cuda_finish(void *self)
{
    Cuda *cuda = (Cuda *)self;
    for (cudaStream_t stream : cuda->stream)
        cuda_await(cuda, stream, NULL);
}

void *cuda_native_stream(void *self, DeviceQueue queue)
{
    return ((Cuda *)self)->stream[queue];
}

void cuda_watch(void *self, DeviceWatch watch)
{
    ((Cuda *)self)->watch = watch;
}

/* --- Work that is kept: a graph of what the compute queue was asked for --- */

void cuda_keep_begin(Device *device)
{
    Cuda *cuda = (Cuda *)device->self;
    cuda->keeping = true;
    CUDA(cudaStreamBeginCapture(cuda->stream[QUEUE_COMPUTE], cudaStreamCaptureModeThreadLocal));
}

void *cuda_keep_end(void *self)
{
    Cuda *cuda = (Cuda *)self;
    cudaGraph_t graph;
    cudaGraphExec_t kept;
    CUDA(cudaStreamEndCapture(cuda->stream[QUEUE_COMPUTE], &graph));
    CUDA(cudaGraphInstantiate(&kept, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    cuda->keeping = false;
    return kept;
}

void cuda_replay(void *self, void *kept)
{
    Cuda *cuda = (Cuda *)self;
    progress_begin(&cuda->progress, OP_COUNT);
    CUDA(cudaGraphLaunch((cudaGraphExec_t)kept, cuda->stream[QUEUE_COMPUTE]));
    progress_end(&cuda->progress, cuda->stream[QUEUE_COMPUTE]);
}

void cuda_forget(void *self, void *kept)
{
    cuda_await((Cuda *)self, ((Cuda *)self)->stream[QUEUE_COMPUTE], NULL);
    CUDA(cudaGraphExecDestroy((cudaGraphExec_t)kept));
}
