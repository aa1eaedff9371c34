/* launches.cc -- which kernels were launched, with how many threads and how much shared memory: what occupancy is computed from (kernels/cuda/BUDGET).
 *
 * CUDA_ON_CPU_LAUNCHES=FILE asks for a table when the process ends. A kernel is named by where its code lies in the program, since LAUNCH knows a
 * template only as it is written; `nm` knows the rest. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "tests/cuda_on_cpu/block.h"

extern "C" const char __executable_start; /* the linker's */

namespace cuda_on_cpu
{

struct Launched {
    std::string name;
    unsigned threads;
    size_t dynamic_bytes;
    unsigned long long count;
};

static const char *path;
static std::mutex mutex;
/* Never destroyed: the table is written when the process ends. */
static std::map<const char *, Launched> &all(void)
{
    static auto *launched = new std::map<const char *, Launched>();
    return *launched;
}

void launch_note(const char *name, const void *kernel, unsigned threads, size_t dynamic_bytes)
{
    if (!path)
        return;
    std::lock_guard<std::mutex> lock(mutex);
    Launched &it = all()[(const char *)kernel];
    it.name = name;
    it.threads = std::max(it.threads, threads);
    it.dynamic_bytes = std::max(it.dynamic_bytes, dynamic_bytes);
    it.count++;
}

static void table_write(void)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        perror("cuda_on_cpu: CUDA_ON_CPU_LAUNCHES");
        return;
    }
    fprintf(file, "offset\tthreads\tdynamic_bytes\tlaunches\tname\n");
    for (const auto &entry : all())
        fprintf(file, "%llx\t%u\t%zu\t%llu\t%s\n", (unsigned long long)(entry.first - &__executable_start),
                entry.second.threads, entry.second.dynamic_bytes, entry.second.count, entry.second.name.c_str());
    fclose(file);
}

__attribute__((constructor)) static void table_ask(void)
{
    path = getenv("CUDA_ON_CPU_LAUNCHES");
    if (path)
        atexit(table_write);
}

} // namespace cuda_on_cpu
