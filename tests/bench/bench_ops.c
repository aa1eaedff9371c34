/* bench_ops.c -- how fast the ops are on this machine, at the shapes of GPT-2 124M and of a 260K-parameter LLaMA.
 *
 *        build/tests/bench_ops [threads [isa [part of a line to measure alone]]]
 *
 * Prints the best of several runs: microseconds, GFLOP/s and GB/s by the ops' own cost model. First comes what memory
 * gives for AdamW's own stream (4 reads, 3 writes), so that its line can be read as a share of the machine. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/profile.h"
#include "kernels/cpu/device_cpu.h"

static Device device;
static const char *only = "";
static Arena arena;

static float *floats(int64_t count)
{
    float *x = arena_alloc(&arena, sizeof(float) * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((i * 2654435761u >> 8) % 1000) * 0.002f - 1.0f;
    return x;
}
static int32_t *ints(int64_t count, int32_t from, int32_t step, int32_t bound)
{
    int32_t *x = arena_alloc(&arena, sizeof(int32_t) * (size_t)count);
    for (int64_t i = 0; i < count; i++)
        x[i] = (int32_t)((from + i * step) % bound);
    return x;
}

/* With one thread, the processor's time, which a loaded machine does not stretch. */
static double now(void)
{
    if (device.threads > 1)
        return profile_seconds();
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void measure(const char *label, OpKind op, const void *args)
{
    double flops, bytes, best = INFINITY, total = 0.0;
    char line[128];
    snprintf(line, sizeof line, "%s %s", op_name(op), label);
    if (!strstr(line, only))
        return;
    op_cost(op, args, &flops, &bytes);
    for (int run = 0; run < 3 || (total < 0.4 && run < 2000); run++) {
        double since = now();
        device_run(&device, op, args);
        double seconds = now() - since;
        total += seconds;
        best = seconds < best ? seconds : best;
    }
    printf("%-18s %-34s %10.1f us %8.1f GFLOP/s %7.1f GB/s\n", op_name(op), label, best * 1e6, flops / best * 1e-9,
           bytes / best * 1e-9);
}

static void gemm(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float beta)
{
    size_t mark = arena_mark(&arena);
    GemmArgs args = {.transpose_a = ta,
                     .transpose_b = tb,
                     .m = m,
                     .n = n,
                     .k = k,
                     .alpha = 1.0f,
                     .beta = beta,
                     .a = floats(m * k),
                     .lda = ta ? m : k,
                     .b = floats(k * n),
                     .ldb = tb ? k : n,
                     .c = floats(m * n),
                     .ldc = n};
    char label[64];
    snprintf(label, sizeof label, "%s%s %lldx%lldx%lld", ta ? "T" : "N", tb ? "T" : "N", (long long)m, (long long)n,
             (long long)k);
    measure(label, OP_gemm, &args);
    arena_rewind(&arena, mark);
}

static void attention(int64_t sequences, int64_t length, int64_t heads, int64_t kv_heads, int64_t dim, int64_t past)
{
    size_t mark = arena_mark(&arena);
    int64_t tokens = sequences * length, stride = (heads + 2 * kv_heads) * dim, capacity = past + length;
    AttentionForwardArgs f = {.qkv = floats(tokens * stride),
                              .start = ints(sequences + 1, 0, (int32_t)length, 1 << 30),
                              .out = floats(tokens * heads * dim),
                              .lse = floats(tokens * heads),
                              .tokens = tokens,
                              .sequences = sequences,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .head_dim = dim,
                              .longest = length,
                              .scale = 0.2f,
                              .pairs = (double)sequences *
                                       (0.5 * (double)length * ((double)length + 1.0) + (double)(past * length))};
    if (past)
        f.kv = (KvArgs){floats(sequences * capacity * kv_heads * dim),
                        floats(sequences * capacity * kv_heads * dim),
                        ints(sequences, 0, 1, 1 << 30),
                        ints(sequences, (int32_t)past, 0, 1 << 30),
                        sequences,
                        capacity};
    char label[64];
    snprintf(label, sizeof label, "%lldx%lld heads %lld/%lld dim %lld past %lld", (long long)sequences,
             (long long)length, (long long)heads, (long long)kv_heads, (long long)dim, (long long)past);
    measure(label, OP_attention_forward, &f);
    if (!past) {
        AttentionBackwardArgs b = {.qkv = f.qkv,
                                   .out = f.out,
                                   .dout = floats(tokens * heads * dim),
                                   .lse = f.lse,
                                   .start = f.start,
                                   .dqkv = floats(tokens * stride),
                                   .tokens = tokens,
                                   .sequences = sequences,
                                   .heads = heads,
                                   .kv_heads = kv_heads,
                                   .head_dim = dim,
                                   .longest = length,
                                   .scale = 0.2f,
                                   .pairs = f.pairs};
        measure(label, OP_attention_backward, &b);
    }
    arena_rewind(&arena, mark);
}

static void rows(int64_t count, int64_t width, int64_t ffn)
{
    size_t mark = arena_mark(&arena);
    char label[64];
    snprintf(label, sizeof label, "%lldx%lld", (long long)count, (long long)width);
    NormForwardArgs nf = {.kind = NORM_RMS,
                          .x = floats(count * width),
                          .residual = floats(count * width),
                          .sum = floats(count * width),
                          .gain = floats(width),
                          .y = floats(count * width),
                          .mean = floats(count),
                          .rstd = floats(count),
                          .rows = count,
                          .width = width,
                          .epsilon = 1e-5f};
    measure(label, OP_norm_forward, &nf);
    NormBackwardArgs nb = {.kind = NORM_RMS,
                           .dy = floats(count * width),
                           .dsum = floats(count * width),
                           .sum = nf.sum,
                           .mean = nf.mean,
                           .rstd = nf.rstd,
                           .gain = nf.gain,
                           .dx = floats(count * width),
                           .dgain = floats(width),
                           .rows = count,
                           .width = width};
    measure(label, OP_norm_backward, &nb);
    BiasBackwardArgs bias = {.dy = nf.x, .dbias = floats(width), .rows = count, .width = width};
    measure(label, OP_bias_backward, &bias);
    RopeArgs rope = {.qkv = floats(count * width),
                     .position = ints(count, 0, 1, 128),
                     .table = floats(128 * 64),
                     .tokens = count,
                     .stride = width,
                     .heads = width / 64,
                     .head_dim = 64,
                     .positions_max = 128};
    measure(label, OP_rope, &rope);
    EmbedArgs embed = {.token = ints(count, 0, 7, 512),
                       .table = floats(512 * width),
                       .y = floats(count * width),
                       .tokens = count,
                       .width = width,
                       .vocab = 512};
    measure(label, OP_embed_forward, &embed);
    measure(label, OP_embed_backward, &embed);
    snprintf(label, sizeof label, "%lldx%lld", (long long)count, (long long)ffn);
    for (int kind = ACT_GELU; kind <= ACT_SWIGLU; kind++) {
        ActForwardArgs af = {
            .kind = kind, .x = floats(2 * count * ffn), .y = floats(count * ffn), .rows = count, .width = ffn};
        measure(label, OP_act_forward, &af);
        ActBackwardArgs ab = {
            .kind = kind, .x = af.x, .dy = af.y, .dx = floats(2 * count * ffn), .rows = count, .width = ffn};
        measure(label, OP_act_backward, &ab);
    }
    arena_rewind(&arena, mark);
}

static void vocabulary(int64_t count, int64_t vocab)
{
    size_t mark = arena_mark(&arena);
    char label[64];
    snprintf(label, sizeof label, "%lldx%lld", (long long)count, (long long)vocab);
    LogitsStatsArgs s = {.logits = floats(count * vocab),
                         .target = ints(count, 3, 11, (int32_t)vocab),
                         .lse = floats(count),
                         .logprob = floats(count),
                         .rows = count,
                         .vocab = vocab,
                         .ld = vocab,
                         .temperature = 1.0f};
    measure(label, OP_logits_stats, &s);
    s.entropy = floats(count);
    measure(label, OP_logits_stats, &s);
    SampleArgs sample = {.logits = s.logits,
                         .rows = count,
                         .vocab = vocab,
                         .ld = vocab,
                         .temperature = 1.0f,
                         .top_p = 1.0f,
                         .subsequence = arena_alloc(&arena, 8 * (size_t)count),
                         .position = ints(count, 0, 1, 1000),
                         .token = ints(count, 0, 1, 10),
                         .logprob = floats(count)};
    memset((void *)sample.subsequence, 1, 8 * (size_t)count);
    measure(label, OP_sample, &sample);
    sample.top_k = 50;
    measure("  top-k 50", OP_sample, &sample);
    sample.top_k = 0;
    sample.top_p = 0.9f;
    measure("  top-p 0.9", OP_sample, &sample);
    LogitsBackwardArgs b = {.logits = s.logits,
                            .dlogits = (float *)s.logits,
                            .target = s.target,
                            .lse = s.lse,
                            .dlogprob = floats(count),
                            .rows = count,
                            .vocab = vocab,
                            .ld = vocab,
                            .temperature = 1.0f};
    measure(label, OP_logits_backward, &b);
    arena_rewind(&arena, mark);
}

static void flat(int64_t count)
{
    size_t mark = arena_mark(&arena);
    float *p = floats(count), *m = floats(count), *v = floats(count), *g = floats(count), one = 1.0f;
    for (int64_t i = 0; i < count; i++)
        v[i] = fabsf(v[i]);
    double best = INFINITY;
    for (int run = 0; run < 20; run++) {
        double since = now();
#pragma omp parallel for schedule(static) num_threads(device.threads)
        for (int64_t i = 0; i < count; i++) {
            p[i] += g[i];
            m[i] += g[i];
            v[i] += g[i];
        }
        double seconds = now() - since;
        best = seconds < best ? seconds : best;
    }
    printf("%-18s %-34s %10.1f us %8s         %7.1f GB/s\n", "(memory alone)", "4 reads, 3 writes", best * 1e6, "",
           28.0 * (double)count / best * 1e-9);
    char label[64];
    snprintf(label, sizeof label, "%lld", (long long)count);
    AdamWArgs adam = {.form = ADAM_TORCH,
                      .parameter = p,
                      .exp_avg = m,
                      .exp_avg_sq = v,
                      .gradient = g,
                      .scale = &one,
                      .count = count,
                      .step = 10,
                      .lr = 1e-4,
                      .beta1 = 0.9,
                      .beta2 = 0.999,
                      .epsilon = 1e-8,
                      .decay = 0.1};
    measure(label, OP_adamw, &adam);
    SumSquaresArgs s = {g, count, arena_alloc(&arena, 8 * (size_t)(count / SUM_BLOCK + 1))};
    measure(label, OP_sum_squares, &s);
    AddArgs add = {.out = p, .a = m, .b = g, .scale = 1.0f, .count = count};
    measure(label, OP_add, &add);
    arena_rewind(&arena, mark);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 2;
    if (status_failed(device_open_cpu(&device, threads > 0 ? threads : 1, argc > 2 && argv[2][0] ? argv[2] : NULL)) ||
        status_failed(device_arena(&device, &arena, "bench", 0))) {
        fprintf(stderr, "%s\n", status_message());
        return 2;
    }
    only = argc > 3 ? argv[3] : "";
    printf("%s\n", device_describe(&device));
    gemm(false, true, 1024, 3072, 768, 0.0f);
    gemm(false, false, 1024, 768, 3072, 0.0f);
    gemm(true, false, 3072, 768, 1024, 1.0f);
    gemm(false, true, 4096, 192, 64, 0.0f);
    gemm(false, false, 4096, 64, 344, 0.0f);
    gemm(true, false, 344, 64, 4096, 1.0f);
    gemm(true, false, 128, 64, 4096, 1.0f);
    gemm(false, true, 64, 128, 64, 0.0f);
    gemm(false, true, 32, 768, 768, 0.0f);
    gemm(false, true, 8, 3072, 768, 0.0f);
    gemm(false, true, 8, 128, 64, 0.0f);
    gemm(false, true, 4, 3072, 768, 0.0f);
    gemm(false, true, 1, 3072, 768, 0.0f);
    gemm(false, true, 1, 50304, 768, 0.0f);
    gemm(false, true, 4096, 1, 64, 0.0f);
    gemm(true, false, 1, 64, 4096, 1.0f);
    attention(4, 256, 12, 12, 64, 0);
    attention(1, 1024, 12, 12, 64, 0);
    attention(1, 4096, 9, 3, 64, 0);
    attention(32, 128, 8, 4, 8, 0);
    attention(64, 80, 8, 4, 8, 0);
    attention(16, 26, 8, 4, 8, 0);
    attention(64, 1, 8, 4, 8, 80);
    attention(1, 1, 8, 4, 8, 80);
    attention(8, 1, 12, 12, 64, 96);
    attention(1, 1, 9, 3, 64, 1000);
    rows(4096, 64, 172);
    rows(1024, 768, 3072);
    vocabulary(4096, 512);
    vocabulary(64, 512);
    vocabulary(256, 50304);
    if (only[0])
        return 0;
    flat(260000);
    flat(33000000);
    arena_close(&arena);
    device_close(&device);
    return 0;
}
