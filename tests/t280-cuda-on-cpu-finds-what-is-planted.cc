/* t280 -- the emulation of CUDA finds what is planted: each defect here is one that a GPU would let pass most of the time.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/cuda_on_cpu/planted.h"
#include "tests/cuda_on_cpu/stream.h"

enum { THREADS = 96, COUNT = 1000 };

/* --- Kernels, right and wrong --- */

/* Sums rows: warps by shuffles, their sums through shared memory. */
template <bool with_barrier> __global__ void row_sums(float *sums, const float *x, int width)
{
    SHARED(float, part, [32]);
    float sum = 0.0f;
    for (int j = (int)threadIdx.x; j < width; j += (int)blockDim.x)
        sum += x[(int)blockIdx.x * width + j];
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    if (with_barrier)
        __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++)
            total += part[warp];
        sums[blockIdx.x] = total;
    }
}

__global__ void barrier_for_some(int *out)
{
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __syncwarp();
    out[threadIdx.x] = 1;
}

__global__ void leaves_before_barrier(int *out, int count)
{
    if ((int)threadIdx.x >= count)
        return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void wrong_mask(int *out)
{
    int value = (int)threadIdx.x;
    if (threadIdx.x < 16)
        value = __shfl_sync(0xffffffffu, value, 3);
    out[threadIdx.x] = value;
}

__global__ void reads_absent_lane(int *out)
{
    int value = (int)threadIdx.x;
    if (threadIdx.x < 16)
        value = __shfl_sync(0x0000ffffu, value, 20);
    out[threadIdx.x] = value;
}

__global__ void write_at(float *x, int64_t at)
{
    if (threadIdx.x == 0)
        x[at] = 1.0f;
}

__global__ void shared_unwritten(float *out)
{
    SHARED(float, part, [64]);
    if (threadIdx.x < 63)
        part[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = part[threadIdx.x % 64];
}

__global__ void shared_overrun(float *out, int behind)
{
    SHARED(float, first, [8]);
    SHARED(float, second, [8]);
    if (threadIdx.x < 8)
        second[threadIdx.x] = 2.0f;
    __syncthreads();
    /* Behind the first is not the second, as it might be by chance. By a pointer: the compiler's own checks see an array's end. */
    const float *at = first;
    out[threadIdx.x] = at[behind + (int)threadIdx.x % 8];
}

__global__ void fill(float *x, float value)
{
    x[threadIdx.x] = value;
}

__global__ void fill_from(float *x, const float *value)
{
    x[threadIdx.x] = *value;
}

/* --- Cases: each returns whether its result is right --- */

static float *device_floats(size_t count)
{
    void *at = NULL;
    if (cudaMalloc(&at, count * sizeof(float)) != cudaSuccess)
        abort();
    return (float *)at;
}

template <bool with_barrier> static bool sums_are_right(void)
{
    enum { ROWS = 5, WIDTH = 257 };
    float x[ROWS * WIDTH], sums[ROWS];
    for (int i = 0; i < ROWS * WIDTH; i++)
        x[i] = (float)(i % 11);
    float *dx = device_floats(ROWS * WIDTH), *dsums = device_floats(ROWS);
    cudaMemcpy(dx, x, sizeof x, cudaMemcpyHostToDevice);
    LAUNCH(row_sums<with_barrier>, ROWS, THREADS, 0, 0, dsums, dx, (int)WIDTH);
    cudaMemcpy(sums, dsums, sizeof sums, cudaMemcpyDeviceToHost);
    bool right = true;
    for (int row = 0; row < ROWS; row++) {
        float sum = 0.0f;
        for (int j = 0; j < WIDTH; j++)
            sum += x[row * WIDTH + j];
        right = right && sum == sums[row];
    }
    return right;
}

static bool right_kernel(void)
{
    return sums_are_right<true>();
}
static bool missing_barrier(void)
{
    return sums_are_right<false>();
}

template <class... Types, class... Values> static bool ones(void (*kernel)(Types...), Values... values)
{
    int *out = (int *)device_floats(THREADS), host[THREADS];
    LAUNCH(kernel, 1, THREADS, 0, 0, out, values...);
    return cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost) == cudaSuccess;
}
static bool divergent_barrier(void)
{
    return ones(barrier_for_some);
}
static bool early_leave(void)
{
    return ones(leaves_before_barrier, 50);
}
static bool mask_of_others(void)
{
    return ones(wrong_mask);
}
static bool lane_outside_mask(void)
{
    return ones(reads_absent_lane);
}

static bool out_of_bounds(void)
{
    float *x = device_floats(COUNT);
    LAUNCH(write_at, 1, 32, 0, 0, x, (int64_t)COUNT + 100);
    cudaDeviceSynchronize();
    return true;
}
static bool just_out_of_bounds(void)
{
    float *x = device_floats(COUNT);
    LAUNCH(write_at, 1, 32, 0, 0, x, (int64_t)COUNT);
    cudaFree(x);
    return true;
}
static bool before_bounds(void)
{
    float *x = device_floats(1024);
    LAUNCH(write_at, 1, 32, 0, 0, x, (int64_t)-5000);
    cudaDeviceSynchronize();
    return true;
}
static bool host_dereference(void)
{
    return device_floats(COUNT)[3] == 0.0f;
}
static bool freed_memory(void)
{
    float *x = device_floats(COUNT);
    cudaFree(x);
    LAUNCH(write_at, 1, 32, 0, 0, x, (int64_t)0);
    cudaDeviceSynchronize();
    return true;
}
static bool copy_beyond_allocation(void)
{
    static float host[2 * COUNT];
    return cudaMemcpy(device_floats(COUNT), host, sizeof host, cudaMemcpyHostToDevice) == cudaSuccess;
}

template <class... Types, class... Values>
static bool all_are(float wanted, void (*kernel)(float *, Types...), Values... values)
{
    float *out = device_floats(64), host[64];
    LAUNCH(kernel, 1, 64, 0, 0, out, values...);
    cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost);
    for (int i = 0; i < 64; i++)
        if (!(host[i] == wanted))
            return false;
    return true;
}
static bool stale_shared(void)
{
    return all_are(1.0f, shared_unwritten);
}
static bool overrun_shared(void)
{
    return all_are(2.0f, shared_overrun, 8);
}

/* Two streams: the second reads what the first writes. */
static bool two_streams(bool wait)
{
    cudaStream_t first, second;
    cudaEvent_t written;
    cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&written, cudaEventDisableTiming);
    float *value = device_floats(32), *out = device_floats(32), host[32];
    LAUNCH(fill, 1, 32, 0, first, value, 4.0f);
    cudaEventRecord(written, first);
    if (wait)
        cudaStreamWaitEvent(second, written, 0);
    LAUNCH(fill_from, 1, 32, 0, second, out, (const float *)value);
    cudaStreamSynchronize(second);
    cudaStreamSynchronize(first);
    cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost);
    return host[7] == 4.0f;
}
static bool with_stream_wait(void)
{
    return two_streams(true);
}
static bool missing_stream_wait(void)
{
    return two_streams(false);
}

/* A page-locked buffer is written again before the copy from it was waited for. */
static bool reused_pinned(void)
{
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    void *pinned;
    cudaMallocHost(&pinned, sizeof(float));
    float *value = device_floats(1), back;
    *(float *)pinned = 1.0f;
    cudaMemcpyAsync(value, pinned, sizeof(float), cudaMemcpyHostToDevice, stream);
    *(float *)pinned = 2.0f;
    cudaStreamSynchronize(stream);
    cudaMemcpy(&back, value, sizeof back, cudaMemcpyDeviceToHost);
    return back == 1.0f;
}

/* A graph that is to write a new value each time it runs: from device memory, or (wrong) as an argument. */
static bool graph(bool baked)
{
    cudaStream_t stream;
    cudaGraph_t captured;
    cudaGraphExec_t exec;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    float *value = device_floats(32), *out = device_floats(32), position = 1.0f, back;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    if (baked)
        LAUNCH(fill, 1, 32, 0, stream, out, position);
    else
        LAUNCH(fill_from, 1, 32, 0, stream, out, (const float *)value);
    cudaStreamEndCapture(stream, &captured);
    cudaGraphInstantiate(&exec, captured, 0);
    bool right = true;
    for (; position < 4.0f; position += 1.0f) {
        LAUNCH(fill, 1, 32, 0, stream, value, position);
        cudaGraphLaunch(exec, stream);
        cudaMemcpyAsync(&back, out, sizeof back, cudaMemcpyDeviceToHost, stream);
        right = right && back == position;
    }
    return right;
}
static bool graph_by_memory(void)
{
    return graph(false);
}
static bool baked_position(void)
{
    return graph(true);
}

/* The device fails some time after the launch that is to blame; all later calls say so. */
static bool late_error(void)
{
    float *x = device_floats(32);
    cuda_on_cpu::fail_after(1, cudaErrorIllegalAddress);
    LAUNCH(fill, 1, 32, 0, 0, x, 1.0f);
    LAUNCH(fill, 1, 32, 0, 0, x, 2.0f);
    return cudaDeviceSynchronize() == cudaSuccess && cudaGetLastError() == cudaSuccess;
}

/* --- The list --- */

static const Case cases[] = {
    {"a right kernel", right_kernel, NULL},
    {"streams with an event", with_stream_wait, NULL},
    {"a graph that reads its position from memory", graph_by_memory, NULL},
    {"a missing barrier", missing_barrier, ""},
    {"a divergent barrier", divergent_barrier, "divergent barrier"},
    {"threads that leave before a barrier", early_leave, "have ended"},
    {"a mask that names lanes which do not come", mask_of_others, "wrong mask"},
    {"a lane outside the mask is read", lane_outside_mask, "not in mask"},
    {"an access out of bounds", out_of_bounds, "outside every allocation"},
    {"an access just out of bounds", just_out_of_bounds, "behind an allocation"},
    {"an access before the bounds", before_bounds, "outside every allocation"},
    {"memory used after it was freed", freed_memory, "outside every allocation"},
    {"a copy beyond an allocation", copy_beyond_allocation, ""},
    {"a host dereference of a device pointer", host_dereference, "the host touches device memory"},
    {"shared memory that nobody wrote", stale_shared, ""},
    {"shared memory overrun", overrun_shared, ""},
    {"a missing stream wait", missing_stream_wait, ""},
    {"a pinned buffer reused too early", reused_pinned, ""},
    {"a position baked into a captured graph", baked_position, ""},
    {"a late error of the device", late_error, ""},
};

int main(void)
{
    return planted_run(cases, sizeof cases / sizeof *cases);
}
