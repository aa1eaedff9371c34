/* async_copy.cc -- cp.async: copies into shared memory that land when their group is waited for, and no sooner. */
#include <vector>

#include "tests/cuda_on_cpu/device_memory.h"
#include "tests/cuda_on_cpu/tensor_core.h"
#include "tests/cuda_on_cpu/traffic.h"

namespace cuda_on_cpu
{

struct Copy {
    char *shared;
    const char *global;
    bool valid;
    int group; /* commits of its thread before it */
    int line;
};
/* What one thread of the block has under way. */
struct Copies {
    std::vector<Copy> pending; /* in the order they began */
    int commits;
};
static thread_local std::vector<Copies> copies; /* by thread; empty until the block's first copy */

static void block_ended(void)
{
    for (size_t thread = 0; thread < copies.size(); thread++)
        if (!copies[thread].pending.empty())
            defect("thread %zu ended without waiting for the copy that it began at line %d", thread,
                   copies[thread].pending[0].line);
    copies.clear();
}

static Copies *copies_of_thread(void)
{
    if (copies.empty()) {
        copies.resize(blockDim.x * blockDim.y * blockDim.z);
        block_at_end(block_ended);
    }
    return &copies[thread_linear()];
}

void cp_async_16(void *shared, const void *global, bool valid, const char *file_, int line_)
{
    if (!shared_holds(shared, 16))
        defect("cp.async: line %d: the destination %p is not in the block's shared memory", line_, shared);
    if ((uintptr_t)shared % 16 || (valid && (uintptr_t)global % 16))
        defect("cp.async: line %d: an address is not a multiple of 16", line_);
    if (valid && !device_memory_has(global))
        defect("cp.async: line %d: the source %p is not device memory", line_, global);
    if (valid)
        count_global_at(global, 16, false, {file_, line_});
    count_shared_at(shared, 16, true, {file_, line_});
    memset(shared, 0xff, 16);
    Copies *own = copies_of_thread();
    own->pending.push_back({(char *)shared, (const char *)global, valid, own->commits, line_});
}

void cp_async_commit(void)
{
    copies_of_thread()->commits++;
}

void async_copies_wait(int newest)
{
    Copies *own = copies_of_thread();
    size_t landed = 0;
    for (; landed < own->pending.size() && own->pending[landed].group < own->commits - newest; landed++) {
        const Copy &copy = own->pending[landed];
        if (copy.valid)
            memcpy(copy.shared, copy.global, 16);
        else
            memset(copy.shared, 0, 16);
    }
    own->pending.erase(own->pending.begin(), own->pending.begin() + (long)landed);
}

} // namespace cuda_on_cpu
