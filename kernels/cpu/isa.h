/* isa.h -- one source, several instruction sets: how the kernels are named, and the helpers that every one of them uses.
 *
 * Why:   a program is built on a login node and runs on a compute node, so every hot file of this folder is compiled
 *        once per instruction set with -DISA=baseline|avx2|avx512 (CMakeLists.txt), and device_cpu.c picks a table at
 *        run time by what the processor says it has.
 * How:   KERNEL(norm_forward) is the symbol cpu_norm_forward_avx2 in the avx2 build of norm.c. Prototypes of all of them
 *        come from OP_LIST here, and device_cpu.c makes the tables from the same list: a missing kernel does not link.
 * Rules: results are a function of shape alone where we can have it, and of shape and thread count at worst. A sum over
 *        many rows is cut into blocks fixed by the shape (SumBlocks), each block is summed in order in double, and the
 *        blocks are joined in order; no OpenMP reduction, no atomics. Whether a loop is run by one thread or several
 *        (cpu_threads) therefore never changes a bit. Scratch is not given back here: device_run() does it. */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include <omp.h>

#include "core/base/status.h"
#include "core/tensor/device.h"

#if defined(TERCET_X86) || defined(__x86_64__)
#define ISA_LIST(X) X(baseline) X(avx2) X(avx512)
#else
#define ISA_LIST(X) X(baseline)
#endif

#define KERNEL_JOIN_(name, isa) cpu_##name##_##isa
#define KERNEL_JOIN(name, isa) KERNEL_JOIN_(name, isa)
#define KERNEL(name) KERNEL_JOIN(name, ISA)

#define KERNEL_PROTOTYPES(isa)                                                                                         \
    void cpu_fill_##isa(Device *device, const FillArgs *args);                                                         \
    void cpu_add_##isa(Device *device, const AddArgs *args);                                                           \
    void cpu_cast_##isa(Device *device, const CastArgs *args);                                                         \
    void cpu_gemm_##isa(Device *device, const GemmArgs *args);                                                         \
    void cpu_bias_backward_##isa(Device *device, const BiasBackwardArgs *args);                                        \
    void cpu_embed_forward_##isa(Device *device, const EmbedArgs *args);                                               \
    void cpu_embed_backward_##isa(Device *device, const EmbedArgs *args);                                              \
    void cpu_norm_forward_##isa(Device *device, const NormForwardArgs *args);                                          \
    void cpu_norm_backward_##isa(Device *device, const NormBackwardArgs *args);                                        \
    void cpu_rope_##isa(Device *device, const RopeArgs *args);                                                         \
    void cpu_act_forward_##isa(Device *device, const ActForwardArgs *args);                                            \
    void cpu_act_backward_##isa(Device *device, const ActBackwardArgs *args);                                          \
    void cpu_attention_forward_##isa(Device *device, const AttentionForwardArgs *args);                                \
    void cpu_attention_backward_##isa(Device *device, const AttentionBackwardArgs *args);                              \
    void cpu_gather_rows_##isa(Device *device, const RowsArgs *args);                                                  \
    void cpu_scatter_rows_##isa(Device *device, const RowsArgs *args);                                                 \
    void cpu_logits_stats_##isa(Device *device, const LogitsStatsArgs *args);                                          \
    void cpu_logits_backward_##isa(Device *device, const LogitsBackwardArgs *args);                                    \
    void cpu_nll_loss_##isa(Device *device, const NllLossArgs *args);                                                  \
    void cpu_policy_loss_##isa(Device *device, const PolicyLossArgs *args);                                            \
    void cpu_value_loss_##isa(Device *device, const ValueLossArgs *args);                                              \
    void cpu_rank_loss_##isa(Device *device, const RankLossArgs *args);                                                \
    void cpu_reward_shape_##isa(Device *device, const RewardShapeArgs *args);                                          \
    void cpu_gae_##isa(Device *device, const GaeArgs *args);                                                           \
    void cpu_moments_##isa(Device *device, const MomentsArgs *args);                                                   \
    void cpu_whiten_##isa(Device *device, const WhitenArgs *args);                                                     \
    void cpu_sum_squares_##isa(Device *device, const SumSquaresArgs *args);                                            \
    void cpu_clip_scale_##isa(Device *device, const ClipScaleArgs *args);                                              \
    void cpu_adamw_##isa(Device *device, const AdamWArgs *args);                                                       \
    void cpu_sample_##isa(Device *device, const SampleArgs *args);                                                     \
    void cpu_decode_next_##isa(Device *device, const DecodeNextArgs *args);
ISA_LIST(KERNEL_PROTOTYPES)
#undef KERNEL_PROTOTYPES

/* gemm_onednn.c or gemm_cblas.c: the product of `args` without its bias, on `threads` threads. */
void gemm_library(int threads, const GemmArgs *args);
/* "oneDNN 2.6.0", for device_describe(). */
const char *gemm_library_name(void);

/* Threads worth waking for `work` elementary operations: a fork and join costs some microseconds. */
static inline int cpu_threads(const Device *device, double work)
{
    return work < 32768 ? 1 : device->threads;
}
#define CPU_PRAGMA(text) _Pragma(#text)
/* The for loop that follows, cut evenly over the threads worth waking. */
#define PARALLEL_FOR(device, work)                                                                                     \
    CPU_PRAGMA(omp parallel for schedule(static) num_threads(cpu_threads(device, (double)(work))))
/* For items of uneven size that write disjoint places: who computes an item never changes it. */
#define PARALLEL_FOR_UNEVEN(device, work)                                                                              \
    CPU_PRAGMA(omp parallel for schedule(dynamic, 1) num_threads(cpu_threads(device, (double)(work))))

/* `call` on so many threads: one of them takes it as a plain call, because even a team of one enters the kernel of the
 * system. Inside, cpu_share() says which part is whose. */
#define ON_THREADS(threads, call)                                                                                      \
    do {                                                                                                               \
        int threads_ = (threads);                                                                                      \
        if (threads_ == 1)                                                                                             \
            call;                                                                                                      \
        else                                                                                                           \
            CPU_PRAGMA(omp parallel num_threads(threads_)) call;                                                       \
    } while (0)

/* A thread that runs a strand (kept.c) is alone with its ops, though OpenMP counts those beside it. */
extern __thread bool cpu_alone;
static inline int cpu_team_size(void)
{
    return cpu_alone ? 1 : omp_get_num_threads();
}
static inline int cpu_team_place(void)
{
    return cpu_alone ? 0 : omp_get_thread_num();
}

/* Items [from, to) of this thread: even shares of whole units of them. */
typedef struct Share {
    int64_t from, to;
} Share;
static inline Share cpu_share(int64_t count, int64_t unit)
{
    int64_t units = (count + unit - 1) / unit, threads = cpu_team_size(), thread = cpu_team_place();
    int64_t from = units * thread / threads * unit, to = units * (thread + 1) / threads * unit;
    return (Share){from < count ? from : count, to < count ? to : count};
}

/* How a sum over rows is cut: by the number of rows alone. */
typedef struct SumBlocks {
    int64_t count, rows;
} SumBlocks;
static inline SumBlocks sum_blocks(int64_t rows)
{
    int64_t each = (rows + 63) / 64;
    if (each < 32)
        each = 32;
    return (SumBlocks){(rows + each - 1) / each, each};
}
/* This backend computes in F32 alone: what ops.h calls `void *` of a dtype. */
static inline float *floats(const void *activations)
{
    return (float *)activations;
}
static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
