/* stream.cc -- streams, events and graphs of CUDA's runtime, by the toolkit's own signatures. */
#include "tests/cuda_on_cpu/stream.h"

#include <cuda_runtime_api.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "tests/cuda_on_cpu/block.h"
#include "tests/cuda_on_cpu/device_memory.h"

using cuda_on_cpu::StreamPoll;

/* The toolkit leaves these types open. */
struct CUstream_st {
    struct Work {
        const char *name;
        std::function<void()> run;
        std::function<StreamPoll()> begin;            /* or this, */
        std::shared_ptr<struct Mark> records, awaits; /* or one of these */
        StreamPoll poll;                              /* what begin() returned */
    };
    std::deque<Work> queue;
    CUgraph_st *capture;
    bool running;
};
/* One recording of an event: done once the stream has come to it. */
struct Mark {
    CUstream_st *stream;
    bool done;
};
struct CUevent_st {
    std::shared_ptr<Mark> mark; /* of the newest recording; none: as if done */
};
struct CUgraph_st {
    std::vector<CUstream_st::Work> work;
};
struct CUgraphExec_st {
    std::vector<CUstream_st::Work> work;
};

namespace cuda_on_cpu
{

typedef CUstream_st Stream;

static std::recursive_mutex mutex;
static Stream legacy;
static std::vector<Stream *> streams = {&legacy};
static const char *last_done = "nothing";
static int failing_in = -1;
static cudaError_t failing_with;

static bool latest(void)
{
    static const bool value = [] {
        const char *text = getenv("CUDA_ON_CPU_STREAMS");
        if (text && strcmp(text, "now") != 0 && strcmp(text, "latest") != 0)
            defect("CUDA_ON_CPU_STREAMS=%s: expected now or latest", text);
        return text && !strcmp(text, "latest");
    }();
    return value;
}

const char *stream_last_done(void)
{
    return last_done;
}

void fail_after(int count, cudaError_t error)
{
    failing_in = count;
    failing_with = error;
}

/* DONE: go on with the next. LATER: it is not in this process's hands. */
enum Outcome { DONE, LATER };
enum Patience { AT_ONCE, AS_LONG_AS_IT_TAKES };

static Outcome advance(Stream *stream, const Mark *until, Patience patience);

/* A device that is to fail does so before the piece of work whose turn it is. */
static bool fails_now(void)
{
    if (failing_in == 0)
        error_set(failing_with);
    else
        failing_in -= failing_in > 0;
    return error_is_sticky(error_now());
}

static Outcome run(Stream::Work &work, Patience patience)
{
    if (error_is_sticky(error_now()))
        return DONE; /* a device that has failed does nothing more */
    if (work.awaits) {
        if (!work.awaits->done && advance(work.awaits->stream, work.awaits.get(), patience) == LATER)
            return LATER;
        if (!work.awaits->done)
            defect("a stream waits for an event that can never come: two streams wait for each other");
        return DONE;
    }
    if (work.records) {
        work.records->done = true;
        return DONE;
    }
    if (work.begin) {
        if (!work.poll) {
            if (fails_now())
                return DONE;
            work.poll = work.begin();
        }
        if (!work.poll())
            return LATER;
    } else {
        if (fails_now())
            return DONE;
        work.run();
    }
    last_done = work.name;
    return DONE;
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Called again and again while others keep the first piece of `stream` waiting. They may themselves wait for what another of our streams has not begun:
 * on a device all streams go on, so after a while they do here. */
static void wait_a_little(const Stream *stream, double since)
{
    static const double patience = [] {
        const char *text = getenv("CUDA_ON_CPU_PATIENCE");
        return text ? atof(text) : 60.0;
    }();
    double waited = seconds_now() - since;
    if (waited > patience)
        defect("%s has been waited for for %.0f s: its peers do not come", stream->queue.front().name, waited);
    if (waited > 0.2)
        for (Stream *other : streams)
            advance(other, NULL, AT_ONCE);
    usleep(waited < 0.001 ? 0 : 50);
}

/* Work of a stream in order, all of it or up to a recording. LATER: not there yet. */
static Outcome advance(Stream *stream, const Mark *until, Patience patience)
{
    if (stream->running)
        return patience == AT_ONCE ? LATER : DONE;
    stream->running = true;
    std::optional<DeviceMemoryOpen> open; /* once for all of it: opening is a system call */
    Outcome outcome = DONE;
    for (double since = 0.0; !stream->queue.empty() && !(until && until->done);) {
        Stream::Work &work = stream->queue.front();
        if (!open && !work.awaits && !work.records)
            open.emplace();
        outcome = run(work, patience);
        if (outcome == DONE) {
            stream->queue.pop_front();
            since = 0.0;
            continue;
        }
        if (patience == AT_ONCE)
            break;
        since = since ? since : seconds_now();
        wait_a_little(stream, since);
    }
    stream->running = false;
    return outcome;
}

static Stream *stream_of(cudaStream_t stream)
{
    if (!stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread)
        return &legacy;
    for (Stream *known : streams)
        if (known == stream)
            return stream;
    defect("a stream that does not exist is used");
}

static void add(cudaStream_t handle, Stream::Work work)
{
    std::lock_guard<std::recursive_mutex> lock(mutex);
    Stream *stream = stream_of(handle);
    if (stream->capture) {
        stream->capture->work.push_back(std::move(work));
        return;
    }
    /* The legacy stream waits for all others, and they for it. */
    if (stream == &legacy)
        streams_finish();
    else
        advance(&legacy, NULL, AS_LONG_AS_IT_TAKES);
    stream->queue.push_back(std::move(work));
    if (!latest())
        advance(stream, NULL, AT_ONCE);
}

void stream_add(cudaStream_t stream, const char *name, std::function<void()> work)
{
    add(stream, {name, std::move(work), nullptr, nullptr, nullptr, nullptr});
}

void stream_add_polled(cudaStream_t stream, const char *name, std::function<StreamPoll()> begin)
{
    add(stream, {name, nullptr, std::move(begin), nullptr, nullptr, nullptr});
}

void stream_finish(cudaStream_t handle)
{
    std::lock_guard<std::recursive_mutex> lock(mutex);
    Stream *stream = stream_of(handle);
    if (stream->capture)
        defect("a stream is waited for while it is being captured");
    advance(stream, NULL, AS_LONG_AS_IT_TAKES);
}

void streams_finish(void)
{
    std::lock_guard<std::recursive_mutex> lock(mutex);
    for (Stream *stream : streams)
        advance(stream, NULL, AS_LONG_AS_IT_TAKES);
}

bool stream_is_capturing(cudaStream_t stream)
{
    return stream_of(stream)->capture != NULL;
}

} // namespace cuda_on_cpu

using namespace cuda_on_cpu;

void cuda_on_cpu_fail_after(int count)
{
    fail_after(count, cudaErrorIllegalAddress);
}

#define LOCK std::lock_guard<std::recursive_mutex> lock_(cuda_on_cpu::mutex)
#define UNLESS_FAILED                                                                                                  \
    if (error_is_sticky(error_now()))                                                                                  \
    return error_now()

static cudaError_t refuse(cudaError_t error)
{
    error_set(error);
    return error;
}

/* --- Streams --- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    LOCK;
    UNLESS_FAILED;
    /* Streams that wait for the legacy stream are what a program gets by mistake: ours are made free of it. */
    if (flags != cudaStreamNonBlocking && flags != cudaStreamDefault)
        return refuse(cudaErrorInvalidValue);
    *stream = new CUstream_st();
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

/* All work here has one priority. */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    (void)priority;
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = *greatest = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    LOCK;
    UNLESS_FAILED;
    *status = stream_of(stream)->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    LOCK;
    stream_finish(stream);
    for (size_t i = 1; i < streams.size(); i++)
        if (streams[i] == stream)
            streams.erase(streams.begin() + (long)i);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    stream_finish(stream);
    return error_now();
}

/* Asking moves work on by one piece, or a program that polls would never end. */
static void advance_one(Stream *stream)
{
    if (stream->running || stream->queue.empty())
        return;
    stream->running = true;
    if (run(stream->queue.front(), AT_ONCE) == DONE)
        stream->queue.pop_front();
    stream->running = false;
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    LOCK;
    UNLESS_FAILED;
    Stream *stream = stream_of(handle);
    if (stream->queue.empty())
        return cudaSuccess;
    advance_one(stream);
    UNLESS_FAILED;
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    streams_finish();
    return error_now();
}

/* --- Events --- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    UNLESS_FAILED;
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    LOCK;
    UNLESS_FAILED;
    std::shared_ptr<Mark> mark = std::make_shared<Mark>(Mark{stream_of(stream), false});
    event->mark = mark;
    add(stream, {"event", nullptr, nullptr, mark, nullptr, nullptr});
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    LOCK;
    (void)flags;
    UNLESS_FAILED;
    if (event->mark) /* the recording there is now, whatever is recorded later */
        add(stream, {"wait", nullptr, nullptr, nullptr, event->mark, nullptr});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    LOCK;
    if (event->mark && !event->mark->done)
        advance(event->mark->stream, event->mark.get(), AS_LONG_AS_IT_TAKES);
    return error_now();
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    LOCK;
    UNLESS_FAILED;
    if (!event->mark || event->mark->done)
        return cudaSuccess;
    advance_one(event->mark->stream);
    UNLESS_FAILED;
    return cudaErrorNotReady;
}

/* No clock: nothing here takes the time that it takes on a GPU. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t, cudaEvent_t)
{
    *milliseconds = 0.0f;
    return error_now();
}

/* --- Graphs: work with its arguments as they were when it was captured --- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    LOCK;
    (void)mode;
    UNLESS_FAILED;
    if (stream_of(stream) == &legacy || stream->capture)
        return refuse(cudaErrorStreamCaptureUnsupported);
    stream->capture = new CUgraph_st();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    LOCK;
    UNLESS_FAILED;
    if (!stream_of(stream)->capture)
        return refuse(cudaErrorIllegalState);
    *graph = stream->capture;
    stream->capture = NULL;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    UNLESS_FAILED;
    *exec = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    LOCK;
    UNLESS_FAILED;
    for (const CUstream_st::Work &work : exec->work)
        add(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}
