//TEST labels=mpi processors=2
/* t276 -- the emulation's NCCL finds what is planted: ranks that disagree, buffers that are none, waits that are missing or never end.
 * Each case runs on two ranks of its own, in one mode of streams or both; it is found by a report, or by a wrong result. */
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels/cuda/device.h"

#include <mpi.h>

#include "tests/cuda_on_cpu/nccl_fault.h"

enum { COUNT = 256 };

struct Ranks {
    int rank;
    ncclComm_t comm;
    cudaStream_t stream, other;
    float *x, *y; /* (2, COUNT): ones; NaN */
};

__global__ void ones(float *at)
{
    for (int i = (int)threadIdx.x; i < 2 * COUNT; i += (int)blockDim.x)
        at[i] = 1.0f;
}

static Ranks ranks_open(void)
{
    Ranks ranks = {};
    ncclUniqueId id;
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks.rank);
    cudaSetDevice(ranks.rank);
    if (ranks.rank == 0)
        ncclGetUniqueId(&id);
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    if (ncclCommInitRank(&ranks.comm, 2, id, ranks.rank) != ncclSuccess)
        abort();
    cudaStreamCreateWithFlags(&ranks.stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&ranks.other, cudaStreamNonBlocking);
    cudaMalloc((void **)&ranks.x, 2 * COUNT * sizeof(float));
    cudaMalloc((void **)&ranks.y, 2 * COUNT * sizeof(float));
    LAUNCH(ones, 1, 64, 0, ranks.stream, ranks.x);
    cudaStreamSynchronize(ranks.stream);
    return ranks;
}

static bool holds(const Ranks &ranks, cudaStream_t stream, float wanted)
{
    float got;
    cudaMemcpyAsync(&got, ranks.y + COUNT - 1, sizeof got, cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    return got == wanted;
}

/* --- Cases: is the result right? --- */

static bool right(const Ranks &ranks)
{
    ncclAllReduce(ranks.x, ranks.y, COUNT, ncclFloat, ncclSum, ranks.comm, ranks.stream);
    bool good = holds(ranks, ranks.stream, 2.0f);
    return good && ncclCommDestroy(ranks.comm) == ncclSuccess;
}
static bool another_operation(const Ranks &ranks)
{
    if (ranks.rank == 0)
        ncclAllGather(ranks.x, ranks.y, COUNT, ncclFloat, ranks.comm, ranks.stream);
    else
        ncclAllReduce(ranks.x, ranks.y, COUNT, ncclFloat, ncclSum, ranks.comm, ranks.stream);
    return holds(ranks, ranks.stream, 1.0f);
}
static bool another_count(const Ranks &ranks)
{
    ncclBroadcast(ranks.x, ranks.y, (size_t)(COUNT - ranks.rank), ncclFloat, 0, ranks.comm, ranks.stream);
    return holds(ranks, ranks.stream, 1.0f);
}
static bool another_type(const Ranks &ranks)
{
    ncclBroadcast(ranks.x, ranks.y, COUNT, ranks.rank ? ncclInt32 : ncclFloat, 0, ranks.comm, ranks.stream);
    return holds(ranks, ranks.stream, 1.0f);
}
static bool host_buffer(const Ranks &ranks)
{
    static float host[COUNT];
    ncclAllReduce(host, ranks.y, COUNT, ncclFloat, ncclSum, ranks.comm, ranks.stream);
    return holds(ranks, ranks.stream, 0.0f);
}
static bool too_small(const Ranks &ranks)
{
    ncclAllGather(ranks.x, ranks.y + 1, COUNT, ncclFloat, ranks.comm, ranks.stream);
    return holds(ranks, ranks.stream, 1.0f);
}
static bool overlap(const Ranks &ranks)
{
    ncclAllReduce(ranks.x, ranks.x + 1, COUNT, ncclFloat, ncclSum, ranks.comm, ranks.stream);
    return true;
}
static bool ungrouped(const Ranks &ranks)
{
    ncclSend(ranks.x, COUNT, ncclFloat, 1 - ranks.rank, ranks.comm, ranks.stream);
    ncclRecv(ranks.y, COUNT, ncclFloat, 1 - ranks.rank, ranks.comm, ranks.stream);
    return holds(ranks, ranks.stream, 1.0f);
}
static bool two_streams(const Ranks &ranks)
{
    ncclRecv(ranks.y, COUNT, ncclFloat, 1 - ranks.rank, ranks.comm, ranks.stream);
    ncclSend(ranks.x, COUNT, ncclFloat, 1 - ranks.rank, ranks.comm, ranks.other);
    return holds(ranks, ranks.stream, 1.0f);
}
static bool unwaited(const Ranks &ranks)
{
    ncclAllReduce(ranks.x, ranks.y, COUNT, ncclFloat, ncclSum, ranks.comm, ranks.stream);
    return holds(ranks, ranks.other, 2.0f);
}
static bool given_back_early(const Ranks &ranks)
{
    ncclAllReduce(ranks.x, ranks.y, COUNT, ncclFloat, ncclSum, ranks.comm, ranks.stream);
    return ncclCommDestroy(ranks.comm) == ncclSuccess;
}

static const struct {
    const char *name;
    bool (*run)(const Ranks &ranks);
    const char *report; /* NULL: nothing is planted; "": the result is wrong */
} cases[] = {
    {"a sum of two ranks", right, NULL},
    {"ranks that ask for different operations", another_operation, "ranks disagree"},
    {"ranks that ask for different counts", another_count, "ranks disagree"},
    {"ranks that ask for different types", another_type, "ranks disagree"},
    {"a buffer of the host", host_buffer, "is not inside one allocation"},
    {"a buffer too small", too_small, "is not inside one allocation"},
    {"buffers that overlap", overlap, "overlap"},
    {"a send and a receive outside a group", ungrouped, "its peers do not come"},
    {"a communicator on two streams", two_streams, "by a second stream"},
    {"a collective that was not waited for", unwaited, ""},
    {"a communicator given back early", given_back_early, "is given back while"},
};

static bool check(const char *self, size_t index)
{
    bool wrong = false, told = false;
    std::string said;
    for (const char *streams : {"latest", "now"}) {
        setenv("CUDA_ON_CPU_STREAMS", streams, 1);
        std::string command = std::string(TERCET_MPIRUN) + " 2 " + self + " " + std::to_string(index) + " 2>&1";
        FILE *pipe = popen(command.c_str(), "r");
        std::string output;
        char buffer[4096];
        for (size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
            output.append(buffer, got);
        wrong = pclose(pipe) != 0 || wrong;
        const char *report = cases[index].report;
        told = told || (report && output.find(report) != std::string::npos);
        said += output;
        if (wrong && told)
            break;
    }
    bool good = !cases[index].report ? !wrong : wrong && told;
    printf("%s %s%s\n", good ? "ok    " : "FAILED", cases[index].name, cases[index].report ? ": found" : "");
    if (!good)
        printf("%s", said.c_str());
    return good;
}

int main(int argc, char **argv)
{
    if (argc == 2) {
        MPI_Init(&argc, &argv);
        bool good = cases[atoi(argv[1])].run(ranks_open());
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_Finalize();
        _exit(!good); /* what it did not give back is not the question */
    }
    setenv("CUDA_ON_CPU_DEVICES", "2", 1);
    setenv("CUDA_ON_CPU_PATIENCE", "1", 1);
    setenv("OMPI_MCA_odls_base_sigkill_timeout", "0", 1); /* nobody has to be given time to end in order */
    int failed = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        failed += !check(argv[0], i);
    return failed != 0;
}
