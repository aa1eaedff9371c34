/* progress.cu -- the device's own count of the ops it has done. */
#include "kernels/cuda/device.h"

#include "kernels/cuda/progress.h"

extern "C" {
#include "core/tensor/device.h"
}

cudaError_t progress_open(Progress *progress)
{
    cudaDriverEntryPointQueryResult found;
    void *write = NULL;
    if (cudaGetDriverEntryPointByVersion("cuStreamWriteValue32", &write, 11070, cudaEnableDefault, &found) !=
        cudaSuccess)
        write = NULL;
    progress->write = reinterpret_cast<decltype(progress->write)>(write);
    void *word;
    cudaError_t error = cudaMallocHost(&word, sizeof *progress->complete);
    if (error != cudaSuccess)
        return error;
    progress->complete = (volatile uint32_t *)word;
    *progress->complete = 0;
    return cudaSuccess;
}

void progress_close(Progress *progress)
{
    cudaFreeHost((void *)progress->complete);
}

void progress_begin(Progress *progress, OpKind op)
{
    progress->op[progress->asked++ % PROGRESS_NAMES] = op;
}

void progress_end(Progress *progress, cudaStream_t stream)
{
    CUdeviceptr word = reinterpret_cast<CUdeviceptr>(progress->complete);
    /* A failure to write is a failure of something before: it shows at the next call. */
    if (progress->write)
        progress->write(stream, word, (cuuint32_t)progress->asked, CU_STREAM_WRITE_VALUE_DEFAULT);
}

uint64_t progress_complete(const Progress *progress)
{
    return progress->asked - (uint32_t)((uint32_t)progress->asked - *progress->complete);
}

static void say(FILE *out, const char *what, const Progress *progress, uint64_t number)
{
    if (number == 0 || number > progress->asked || number + PROGRESS_NAMES <= progress->asked)
        return;
    OpKind op = progress->op[(number - 1) % PROGRESS_NAMES];
    fprintf(out, "%s: %s, number %llu\n", what, op == OP_COUNT ? "a replay of kept work" : op_name(op),
            (unsigned long long)number);
}

void progress_report(const Progress *progress, FILE *out)
{
    if (!progress->write)
        return;
    uint64_t complete = progress_complete(progress);
    say(out, "last op known to be complete", progress, complete);
    say(out, "first op that is not", progress, complete + 1);
}
