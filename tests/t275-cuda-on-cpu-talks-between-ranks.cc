//TEST labels=mpi ranks=2,4
/* t275 -- the emulation's NCCL moves and adds what it should, in the order of its streams; a silent peer and an error are seen, and an abort ends them.
 * With 2 ranks work is done at once, with 4 at the latest moment that is allowed. */
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "kernels/cuda/device.h"

#include <mpi.h>

#include "tests/cuda_on_cpu/nccl_fault.h"

static int rank, size, failed;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("FAILED rank %d, %s:%d: %s\n", rank, __FILE__, __LINE__, #condition);                               \
            failed++;                                                                                                  \
        }                                                                                                              \
    } while (0)
#define OK(call) CHECK((call) == 0)

/* --- Ranks, and what they hold --- */

static ncclResult_t comm_open(ncclComm_t *comm, ncclConfig_t *config = NULL)
{
    ncclUniqueId id;
    if (rank == 0)
        OK(ncclGetUniqueId(&id));
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    return ncclCommInitRankConfig(comm, size, id, rank, config);
}

static cudaStream_t stream_open(void)
{
    cudaStream_t stream;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

/* What rank `of` has at i: whole, and small enough for sums of them to be exact in bf16. */
static float value_at(int of, int64_t i)
{
    return (float)((i * 3 + of * 5) % 17 - 8);
}

template <class T> __global__ void fill(T *at, int64_t count, int of)
{
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
        at[i] = (T)(float)((i * 3 + of * 5) % 17 - 8);
}

template <class T> static T *device_new(int64_t count)
{
    void *at;
    OK(cudaMalloc(&at, (size_t)(count ? count : 1) * sizeof(T)));
    return (T *)at;
}

template <class T> static std::vector<T> read_back(const T *at, int64_t count, cudaStream_t stream)
{
    std::vector<T> host((size_t)count);
    OK(cudaMemcpyAsync(host.data(), at, host.size() * sizeof(T), cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    return host;
}

/* --- Collectives; sources are written by kernels on the same stream, right before --- */

template <class T>
static void test_collectives(ncclComm_t comm, cudaStream_t stream, ncclDataType_t type, int64_t count)
{
    T *from = device_new<T>(count * size), *to = device_new<T>(count * size);
    LAUNCH(fill<T>, 1, 64, 0, stream, from, count * size, rank);
    OK(ncclAllGather(from, to, (size_t)count, type, comm, stream));
    std::vector<T> got = read_back(to, count * size, stream);
    for (int of = 0; of < size; of++)
        for (int64_t i = 0; i < count; i++)
            CHECK((float)got[(size_t)(of * count + i)] == value_at(of, i));

    /* In place, as an exchange of slices ends. */
    LAUNCH(fill<T>, 1, 64, 0, stream, to + rank * count, count, rank + 1);
    OK(ncclAllGather(to + rank * count, to, (size_t)count, type, comm, stream));
    got = read_back(to, count * size, stream);
    for (int of = 0; of < size; of++)
        for (int64_t i = 0; i < count; i++)
            CHECK((float)got[(size_t)(of * count + i)] == value_at(of + 1, i));

    OK(ncclAllReduce(from, to, (size_t)count, type, ncclSum, comm, stream));
    got = read_back(to, count, stream);
    OK(ncclReduceScatter(from, to, (size_t)count, type, ncclMax, comm, stream));
    std::vector<T> most = read_back(to, count, stream);
    for (int64_t i = 0; i < count; i++) {
        float sum = 0.0f, largest = -100.0f;
        for (int of = 0; of < size; of++) {
            sum += value_at(of, i);
            largest = fmaxf(largest, value_at(of, rank * count + i));
        }
        CHECK((float)got[(size_t)i] == sum);
        CHECK((float)most[(size_t)i] == largest);
    }
    for (int root = 0; root < size; root++) {
        OK(ncclBroadcast(from, to, (size_t)count, type, root, comm, stream));
        got = read_back(to, count, stream);
        for (int64_t i = 0; i < count; i++)
            CHECK((float)got[(size_t)i] == value_at(root, i));
    }

    /* All to all, with itself too. */
    OK(ncclGroupStart());
    for (int peer = 0; peer < size; peer++) {
        OK(ncclSend(from + peer * count, (size_t)count, type, peer, comm, stream));
        OK(ncclRecv(to + peer * count, (size_t)count, type, peer, comm, stream));
    }
    OK(ncclGroupEnd());
    got = read_back(to, count * size, stream);
    for (int of = 0; of < size; of++)
        for (int64_t i = 0; i < count; i++)
            CHECK((float)got[(size_t)(of * count + i)] == value_at(of, rank * count + i));
    OK(cudaFree(from));
    OK(cudaFree(to));
}

/* Two communicators on two streams, an event between them; and a graph that is run again. */
static void test_streams(ncclComm_t comm, cudaStream_t stream)
{
    enum { COUNT = 100 };
    ncclComm_t other_comm;
    OK(comm_open(&other_comm));
    cudaStream_t other = stream_open();
    cudaEvent_t gathered;
    OK(cudaEventCreateWithFlags(&gathered, cudaEventDisableTiming));
    float *mine = device_new<float>(COUNT), *all = device_new<float>(COUNT * size), *sum = device_new<float>(COUNT);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    OK(ncclAllGather(mine, all, COUNT, ncclFloat, comm, stream));
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 3; round++) {
        LAUNCH(fill<float>, 1, 64, 0, stream, mine, (int64_t)COUNT, rank + round);
        OK(cudaGraphLaunch(exec, stream));
        OK(cudaEventRecord(gathered, stream));
        OK(cudaStreamWaitEvent(other, gathered, 0));
        OK(ncclAllReduce(all + (int64_t)rank * COUNT, sum, COUNT, ncclFloat, ncclSum, other_comm, other));
        std::vector<float> got = read_back(sum, COUNT, other);
        for (int i = 0; i < COUNT; i++) {
            float wanted = 0.0f;
            for (int of = 0; of < size; of++)
                wanted += value_at(of + round, i);
            CHECK(got[(size_t)i] == wanted);
        }
        OK(cudaStreamSynchronize(stream));
    }
    OK(ncclCommDestroy(other_comm));
}

/* --- What goes wrong --- */

static void test_duplicate_device(void)
{
    ncclComm_t comm;
    OK(cudaSetDevice(0));
    CHECK(comm_open(&comm) == ncclInvalidUsage);
    OK(cudaSetDevice(rank));
}

static void test_not_blocking(void)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm;
    ncclResult_t state;
    int value;
    CHECK(comm_open(&comm, &config) == ncclInProgress);
    do
        OK(ncclCommGetAsyncError(comm, &state));
    while (state == ncclInProgress);
    OK(state);
    CHECK(ncclCommCount(comm, &value) == ncclSuccess && value == size);
    CHECK(ncclCommUserRank(comm, &value) == ncclSuccess && value == rank);
    CHECK(ncclCommCuDevice(comm, &value) == ncclSuccess && value == rank);
    OK(ncclCommDestroy(comm));
}

/* The last rank stops after two operations: the third never ends, until it is aborted, by another thread. */
static void test_silence(ncclResult_t error)
{
    ncclComm_t comm;
    OK(comm_open(&comm));
    cudaStream_t stream = stream_open();
    float *x = device_new<float>(100);
    OK(cudaMemsetAsync(x, 0, 100 * sizeof *x, stream));
    cuda_on_cpu::nccl_fail_after(rank == size - 1 ? 2 : -1, error);
    for (int i = 0; i < 3; i++)
        OK(ncclAllReduce(x, x, 100, ncclFloat, ncclSum, comm, stream));
    ncclResult_t seen = ncclSuccess;
    for (int polls = 0; polls < 300; polls++) {
        CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
        OK(ncclCommGetAsyncError(comm, &seen));
        usleep(1000);
    }
    CHECK(seen == (rank == size - 1 ? error : ncclSuccess));
    cuda_on_cpu::nccl_fail_after(-1, ncclSuccess);
    MPI_Barrier(MPI_COMM_WORLD);
    std::thread helper([comm] { ncclCommAbort(comm); });
    helper.join();
    OK(cudaStreamSynchronize(stream));
    CHECK(cudaStreamQuery(stream) == cudaSuccess);
}

int main(int argc, char **argv)
{
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    setenv("CUDA_ON_CPU_DEVICES", "4", 1);
    setenv("CUDA_ON_CPU_STREAMS", size == 2 ? "now" : "latest", 0);
    OK(cudaSetDevice(rank));
    ncclComm_t comm;
    OK(comm_open(&comm));
    cudaStream_t stream = stream_open();
    for (int64_t count : {0, 1, 33, 1000}) {
        test_collectives<float>(comm, stream, ncclFloat, count);
        test_collectives<bf16>(comm, stream, ncclBfloat16, count);
        test_collectives<double>(comm, stream, ncclDouble, count);
    }
    test_streams(comm, stream);
    OK(ncclCommDestroy(comm));
    test_duplicate_device();
    test_not_blocking();
    test_silence(ncclSuccess);
    test_silence(ncclRemoteError);
    MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        printf("%d failed\n", failed);
    MPI_Finalize();
    fflush(stdout);
    _exit(failed != 0); /* an aborted communicator's messages are never given back */
}
