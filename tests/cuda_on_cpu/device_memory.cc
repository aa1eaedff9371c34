/* device_memory.cc -- a reserved range of addresses, its allocations, and who may touch them when. */
#include "tests/cuda_on_cpu/device_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "tests/cuda_on_cpu/block.h"

namespace cuda_on_cpu
{

static const size_t RANGE_BYTES = (size_t)1 << 42, ALIGN = 256;
/* Opening and closing takes time by the page, so pages are large where they can be. */
static const size_t HUGE_PAGE = (size_t)2 << 20;
static const unsigned char POISON = 0xff, CANARY = 0xfe;

struct Allocation {
    char *pages; /* first page of its own */
    size_t pages_bytes, bytes;
};

static std::mutex mutex;
static char *range, *range_next;
static std::map<const char *, Allocation> allocations; /* by address */
static std::multimap<size_t, char *> free_pages;       /* pages given back, by size */
static std::map<const char *, size_t> pinned;
static size_t used;
static int opened;

static size_t &limit(void)
{
    static size_t bytes = [] {
        const char *text = getenv("CUDA_ON_CPU_MEMORY");
        return text ? (size_t)strtoull(text, NULL, 10) : (size_t)8 << 30;
    }();
    return bytes;
}

static size_t page_bytes(void)
{
    static const size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

/* A touch of closed memory ends here: whose it was is plain from whether a thread of a block runs. */
static void fault(int signal_number, siginfo_t *info, void *)
{
    if (device_memory_has(info->si_addr)) {
        if (block_is_running())
            defect("touches device memory outside every allocation, at %p", info->si_addr);
        defect("the host touches device memory, at %p", info->si_addr);
    }
    signal(signal_number, SIG_DFL); /* somebody else's fault: happens again, and ends the process */
}

static void protect(const Allocation &allocation, int how)
{
    if (mprotect(allocation.pages, allocation.pages_bytes, how) != 0) {
        perror("cuda_on_cpu: mprotect");
        abort();
    }
}

DeviceMemoryOpen::DeviceMemoryOpen()
{
    std::lock_guard<std::mutex> lock(mutex);
    if (opened++ == 0)
        for (const auto &entry : allocations)
            protect(entry.second, PROT_READ | PROT_WRITE);
}

DeviceMemoryOpen::~DeviceMemoryOpen()
{
    std::lock_guard<std::mutex> lock(mutex);
    if (--opened == 0)
        for (const auto &entry : allocations)
            protect(entry.second, PROT_NONE);
}

static char *pages_take(size_t bytes, size_t align)
{
    for (auto found = free_pages.find(bytes); found != free_pages.end() && found->first == bytes; ++found) {
        char *pages = found->second;
        if ((uintptr_t)pages % align)
            continue;
        free_pages.erase(found);
        return pages;
    }
    if (!range) {
        void *reserved = mmap(NULL, RANGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (reserved == MAP_FAILED) {
            perror("cuda_on_cpu: the range of device memory");
            abort();
        }
        range = (char *)reserved;
        range_next = range + ((size_t)1 << 20); /* closed too, for what runs off the front */
        struct sigaction action = {};
        action.sa_sigaction = fault;
        action.sa_flags = SA_SIGINFO;
        sigaction(SIGSEGV, &action, NULL);
    }
    char *pages = (char *)(((uintptr_t)range_next + align - 1) / align * align);
    range_next = pages + bytes + page_bytes(); /* one page behind stays closed for ever */
    if (range_next > range + RANGE_BYTES)
        defect("device addresses are used up");
    return pages;
}

void *device_memory_new(size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    size_t rounded = (bytes + ALIGN - 1) / ALIGN * ALIGN, page = page_bytes();
    if (rounded > limit() - used)
        return NULL;
    size_t whole = (rounded + page - 1) / page * page;
    Allocation allocation = {pages_take(whole, whole < HUGE_PAGE ? page : HUGE_PAGE), whole, bytes};
    char *at = allocation.pages + whole - rounded;
    protect(allocation, PROT_READ | PROT_WRITE);
    madvise(allocation.pages, whole, MADV_HUGEPAGE);
    memset(at, POISON, bytes);
    memset(at + bytes, CANARY, rounded - bytes);
    if (!opened)
        protect(allocation, PROT_NONE);
    allocations[at] = allocation;
    used += rounded;
    return at;
}

bool device_memory_delete(void *at)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto found = allocations.find((const char *)at);
    if (found == allocations.end())
        return false;
    Allocation allocation = found->second;
    size_t rounded = (allocation.bytes + ALIGN - 1) / ALIGN * ALIGN;
    protect(allocation, PROT_READ | PROT_WRITE);
    for (size_t i = allocation.bytes; i < rounded; i++)
        if (((unsigned char *)at)[i] != CANARY)
            defect("something was written %zu bytes behind an allocation of %zu", i - allocation.bytes + 1,
                   allocation.bytes);
    /* Give the memory back and leave the addresses closed. */
    madvise(allocation.pages, allocation.pages_bytes, MADV_DONTNEED);
    protect(allocation, PROT_NONE);
    free_pages.emplace(allocation.pages_bytes, allocation.pages);
    allocations.erase(found);
    used -= rounded;
    return true;
}

/* --- Addresses first, memory later --- */

char *device_addresses_take(size_t bytes, size_t align)
{
    std::lock_guard<std::mutex> lock(mutex);
    return pages_take(bytes, align);
}

void device_addresses_give_back(char *at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    free_pages.emplace(bytes, at);
}

/* What touches the range in front becomes one with it: an array may cross from one into the other. */
void device_range_open(char *at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    Allocation allocation = {at, bytes, bytes};
    protect(allocation, PROT_READ | PROT_WRITE);
    madvise(at, bytes, MADV_HUGEPAGE);
    memset(at, POISON, bytes);
    auto before = allocations.lower_bound(at);
    if (before != allocations.begin() && (--before)->second.pages + before->second.pages_bytes == at) {
        allocation = {before->second.pages, before->second.pages_bytes + bytes, before->second.bytes + bytes};
        allocations.erase(before);
    }
    allocations[allocation.pages] = allocation;
    if (!opened)
        protect(allocation, PROT_NONE);
}

void device_range_close(char *at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto found = --allocations.upper_bound(at);
    Allocation all = found->second;
    allocations.erase(found);
    size_t front = (size_t)(at - all.pages), behind = all.pages_bytes - front - bytes;
    if (front)
        allocations[all.pages] = {all.pages, front, front};
    if (behind)
        allocations[at + bytes] = {at + bytes, behind, behind};
    madvise(at, bytes, MADV_DONTNEED);
    protect({at, bytes, bytes}, PROT_NONE);
}

bool device_memory_charge(size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (bytes > limit() - used)
        return false;
    used += bytes;
    return true;
}

void device_memory_discharge(size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    used -= bytes;
}

/* --- Questions --- */

bool device_memory_has(const void *at)
{
    return range && (const char *)at >= range && (const char *)at < range + RANGE_BYTES;
}

bool device_memory_holds(const void *at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto next = allocations.upper_bound((const char *)at);
    if (next == allocations.begin())
        return false;
    --next;
    size_t offset = (size_t)((const char *)at - next->first);
    return offset <= next->second.bytes && bytes <= next->second.bytes - offset;
}

void device_memory_limit(size_t bytes)
{
    limit() = bytes;
}

size_t device_memory_total(void)
{
    return limit();
}

size_t device_memory_used(void)
{
    return used;
}

void *pinned_new(size_t bytes)
{
    void *at = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096 + 4096);
    if (!at)
        return NULL;
    memset(at, POISON, bytes);
    std::lock_guard<std::mutex> lock(mutex);
    pinned[(const char *)at] = bytes;
    return at;
}

bool pinned_delete(void *at)
{
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (!pinned.erase((const char *)at))
            return false;
    }
    free(at);
    return true;
}

bool pinned_has(const void *at)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto next = pinned.upper_bound((const char *)at);
    if (next == pinned.begin())
        return false;
    --next;
    return (size_t)((const char *)at - next->first) < next->second;
}

} // namespace cuda_on_cpu
