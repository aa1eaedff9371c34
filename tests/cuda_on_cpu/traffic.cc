/* traffic.cc -- accesses of a block, gathered by warp, place and visit, and summed by kernel. */
#include "tests/cuda_on_cpu/traffic.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace cuda_on_cpu
{

struct Access {
    uint64_t request; /* site << 48 | warp << 40 | visit << 8 | lane: sorting brings a request's lanes together */
    uintptr_t at;
    int bytes;
    bool store, shared;
};
/* One block's. Compilers make several instructions of one line where it is inlined, so an access's site is where its hook returns to. */
struct Recorder {
    std::unordered_map<uintptr_t, uint64_t> sites;
    std::vector<std::vector<uint32_t>> visits; /* (sites)(threads) */
    std::vector<Access> accesses;
};

bool traffic_on;
static std::mutex mutex;
/* Never destroyed: the table is written when the process ends. */
static std::map<std::string, Traffic> &totals(void)
{
    static auto *all = new std::map<std::string, Traffic>();
    return *all;
}
static thread_local Recorder recorder;

static std::string plain_name(const char *kernel)
{
    std::string name;
    for (const char *at = kernel; *at; at++)
        if (*at != ' ' && *at != '(' && *at != ')')
            name += *at;
    return name;
}

static void add_global(GlobalTraffic *traffic, const Access *access, size_t count)
{
    std::vector<uintptr_t> sectors, units; /* units of 2 bytes: the smallest element */
    for (size_t i = 0; i < count; i++) {
        for (uintptr_t at = access[i].at; at < access[i].at + (uintptr_t)access[i].bytes; at += 2)
            units.push_back(at / 2);
        sectors.push_back(access[i].at / 32);
        sectors.push_back((access[i].at + (uintptr_t)access[i].bytes - 1) / 32);
    }
    auto distinct = [](std::vector<uintptr_t> &list) {
        std::sort(list.begin(), list.end());
        return (uint64_t)(std::unique(list.begin(), list.end()) - list.begin());
    };
    uint64_t bytes = 2 * distinct(units);
    traffic->requests++;
    traffic->sectors += distinct(sectors);
    traffic->sectors_needed += (bytes + 31) / 32;
    traffic->bytes += bytes;
}

/* Lanes of one part of a warp, and the words they touch. */
static uint64_t passes_of(const Access *access, size_t count)
{
    std::vector<uintptr_t> words;
    for (size_t i = 0; i < count; i++)
        for (uintptr_t word = access[i].at / 4; word <= (access[i].at + (uintptr_t)access[i].bytes - 1) / 4; word++)
            words.push_back(word);
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    uint64_t on_bank[32] = {0}, most = 0;
    for (uintptr_t word : words)
        most = std::max(most, ++on_bank[word % 32]);
    return most;
}

static void add_shared(SharedTraffic *traffic, const Access *access, size_t count)
{
    int widest = 0;
    for (size_t i = 0; i < count; i++)
        widest = std::max(widest, access[i].bytes);
    const uint64_t lanes_together = widest > 8 ? 8 : widest > 4 ? 16 : 32;
    traffic->requests++;
    for (size_t from = 0; from < count;) {
        size_t to = from;
        while (to < count &&
               (access[to].request & 0xff) / lanes_together == (access[from].request & 0xff) / lanes_together)
            to++;
        traffic->passes += passes_of(access + from, to - from);
        traffic->passes_needed++;
        from = to;
    }
}

static void add(Traffic *traffic, const Access *access, size_t count)
{
    if (access->shared)
        add_shared(access->store ? &traffic->shared_store : &traffic->shared_load, access, count);
    else
        add_global(access->store ? &traffic->store : &traffic->load, access, count);
}

static void block_ended(void)
{
    std::vector<Access> &accesses = recorder.accesses;
    std::sort(accesses.begin(), accesses.end(), [](const Access &a, const Access &b) { return a.request < b.request; });
    Traffic sum = {};
    for (size_t from = 0; from < accesses.size();) {
        size_t to = from;
        while (to < accesses.size() && accesses[to].request >> 8 == accesses[from].request >> 8)
            to++;
        add(&sum, &accesses[from], to - from);
        from = to;
    }
    recorder.accesses.clear();
    recorder.visits.clear();
    recorder.sites.clear();
    std::lock_guard<std::mutex> lock(mutex);
    Traffic &total = totals()[plain_name(kernel_name())];
    const uint64_t *more = (const uint64_t *)&sum;
    for (size_t i = 0; i < sizeof sum / sizeof *more; i++)
        ((uint64_t *)&total)[i] += more[i];
}

static void record(const void *at, int bytes, bool store, bool shared, uintptr_t site)
{
    const unsigned thread = thread_linear();
    if (recorder.sites.empty())
        block_at_end(block_ended);
    auto known = recorder.sites.emplace(site, recorder.sites.size());
    if (known.second)
        recorder.visits.emplace_back(blockDim.x * blockDim.y * blockDim.z, 0u);
    const uint64_t index = known.first->second, visit = recorder.visits[index][thread]++;
    recorder.accesses.push_back({index << 48 | (uint64_t)(thread / WARP_LANES) << 40 | visit << 8 | thread % WARP_LANES,
                                 (uintptr_t)at, bytes, store, shared});
}

void traffic_global(const void *at, int bytes, bool store)
{
    record(at, bytes, store, false, (uintptr_t)__builtin_return_address(0));
}

void traffic_shared(const void *at, int bytes, bool store)
{
    if (!shared_holds(at, (size_t)bytes))
        defect("an access of %d bytes at %p was said to be of shared memory, and is not", bytes, at);
    record(at, bytes, store, true, (uintptr_t)__builtin_return_address(0));
}

void traffic_at(const void *at, int bytes, bool store, bool shared, Place place)
{
    record(at, bytes, store, shared, ((uintptr_t)place.file + (uintptr_t)place.line) * 2 + shared);
}

void traffic_count(bool on)
{
    traffic_on = on;
}

void traffic_clear(void)
{
    std::lock_guard<std::mutex> lock(mutex);
    totals().clear();
}

Traffic traffic_of(const char *kernel)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto found = totals().find(plain_name(kernel));
    return found == totals().end() ? Traffic() : found->second;
}

/* --- The table --- */

static void table_write(void)
{
    FILE *file = fopen(getenv("CUDA_ON_CPU_TRAFFIC"), "w");
    if (!file) {
        perror("cuda_on_cpu: CUDA_ON_CPU_TRAFFIC");
        return;
    }
    fprintf(file, "kernel\tload_requests\tload_sectors\tload_sectors_needed\tstore_requests\tstore_sectors\t"
                  "store_sectors_needed\tshared_requests\tshared_passes\tshared_passes_needed\n");
    for (const auto &entry : totals()) {
        const Traffic &t = entry.second;
        const unsigned long long figures[] = {t.load.requests,
                                              t.load.sectors,
                                              t.load.sectors_needed,
                                              t.store.requests,
                                              t.store.sectors,
                                              t.store.sectors_needed,
                                              t.shared_load.requests + t.shared_store.requests,
                                              t.shared_load.passes + t.shared_store.passes,
                                              t.shared_load.passes_needed + t.shared_store.passes_needed};
        fprintf(file, "%s", entry.first.c_str());
        for (unsigned long long figure : figures)
            fprintf(file, "\t%llu", figure);
        fprintf(file, "\n");
    }
    fclose(file);
}

__attribute__((constructor)) static void table_ask(void)
{
    if (!getenv("CUDA_ON_CPU_TRAFFIC"))
        return;
    traffic_on = true;
    atexit(table_write);
}

} // namespace cuda_on_cpu
