/* bench.c -- our side of the side-by-side benchmark: sets up one piece of work, then does it as often as it is told to.
 *
 *        build/tests/bench WORK key=value ... [threads=N] [isa=NAME] [dir=/tmp] [profile=1] [repeat=N] [rounds=N]
 *        build/tests/bench_gpu WORK key=value ... [device=cuda [precision=fp32|bf16] [matmul=fp32|tf32]]
 *
 * Protocol (the peers' workers speak it too): one JSON line {"ready": true, "setup_seconds": s}; for each line "go" on standard input the work is
 * done once, and one line {"seconds": s, ...} tells; "end", or the end of input, brings {"peak_bytes": n} and the end. With rounds=N nothing is
 * read: N rounds are done after one to warm up, for a person. profile=1 then prints where the time of the rounds went, op by op. repeat=N makes one round of
 * N times the work, with the mean of each figure: work of a few milliseconds says nothing by itself.
 * Under mpirun rank 0 listens and tells; all ranks do the work. */
#define _GNU_SOURCE
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/log.h"
#include "core/base/profile.h"
#include "core/base/text.h"
#include "core/train/profile_report.h"
#include "kernels/cpu/device_cpu.h"
#include "launch/devices.h"
#include "tests/bench/work.h"

static const Work *const works[] = {
    &work_machine, &work_train, &work_adamw, &work_decode,  &work_prefill,  &work_score, &work_lengths,
    &work_ppo,     &work_load,  &work_save,  &work_restore, &work_tokenise, &work_start, &work_ops,
};
enum { WORKS = sizeof works / sizeof *works };

static Status options_read(Bench *bench, char **words)
{
    for (; *words; words++) {
        char *equals = strchr(*words, '=');
        if (!equals || bench->options == BENCH_OPTIONS_MAX)
            return status_error(STATUS_USAGE, "'%s': expected key=value", *words);
        *equals = 0;
        bench->option[bench->options].key = *words;
        bench->option[bench->options++].value = equals + 1;
    }
    return status_ok();
}

static Status options_all_used(const Bench *bench)
{
    for (int i = 0; i < bench->options; i++)
        if (!bench->option[i].used)
            return status_error(STATUS_USAGE, "no option '%s' here", bench->option[i].key);
    return status_ok();
}

/* The most memory that was ever resident, in bytes. */
static double peak_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lf kB", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return 1024 * kib;
}

static void figures_print(const Figures *figures)
{
    for (int i = 0; i < figures->count; i++)
        printf("%s\"%s\": %.9g", i ? ", " : "{", figures->figure[i].name, figures->figure[i].value);
    puts("}");
    fflush(stdout);
}

/* One round: the work `repeat` times, and the mean of each figure; what its ops come to beside (core/tensor/cost.c), of this rank. [collective] */
static Status round_run(Bench *bench, const Work *work, void *self, int64_t repeat, Figures *mean)
{
    *mean = (Figures){0};
    for (int64_t i = 0; i < repeat; i++) {
        Figures figures = {0};
        device_counters_reset(&bench->device);
        TRY(work->once(bench, self, &figures));
        device_finish(&bench->device);
        const OpCounter asked = device_total(&bench->device);
        figures_add(&figures, "flops", asked.flops);
        figures_add(&figures, "op_bytes", asked.bytes);
        for (int f = 0; f < figures.count; f++) {
            if (i == 0)
                figures_add(mean, figures.figure[f].name, 0);
            mean->figure[f].value += figures.figure[f].value / (double)repeat;
        }
    }
    return status_ok();
}

/* For a person: `rounds` rounds after one that warms up, and on request where their time went. */
static Status rounds_run(Bench *bench, const Work *work, void *self, int64_t rounds, int64_t repeat, bool tell,
                         bool profile)
{
    for (int64_t round = -1; round < rounds; round++) {
        if (round == 0 && profile) {
            TRY(op_profile_open(&bench->device));
            op_profile_phase(bench->device.profile, "rounds");
        }
        Figures figures;
        TRY(round_run(bench, work, self, repeat, &figures));
        if (tell)
            figures_print(&figures);
    }
    if (profile) {
        Text table = {0};
        profile_report(bench->comm, bench->device.profile, &table);
        if (tell)
            puts(text_string(&table));
        text_free(&table);
        op_profile_close(&bench->device);
    }
    return status_ok();
}

/* The next word from the driver: go on? Every rank gets rank 0's answer. While rank 0 sleeps on its pipe, the others look every millisecond and
 * sleep in between: in a collective they would poll, on the cores of the side whose turn it is. All start together. [collective] */
static bool driver_says_go(const Bench *bench)
{
    char line[64], go = 0;
    if (comm_rank(bench->comm) == 0)
        go = fgets(line, sizeof line, stdin) && strncmp(line, "go", 2) == 0;
    if (comm_mpi_handle(bench->comm)) {
        MPI_Request told;
        int done = 0;
        MPI_Ibcast(&go, 1, MPI_CHAR, 0, *(const MPI_Comm *)comm_mpi_handle(bench->comm), &told);
        while (MPI_Test(&told, &done, MPI_STATUS_IGNORE), !done)
            nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
        comm_barrier(bench->comm);
    }
    return go;
}

static Status work_run(Bench *bench, const Work *work, double started)
{
    void *self = NULL;
    const bool tell = comm_rank(bench->comm) == 0;
    int64_t rounds = bench_int(bench, "rounds", 0);
    const int64_t repeat = bench_int(bench, "repeat", 1);
    const bool profile = bench_int(bench, "profile", 0) != 0;
    bench_text(bench, "dir", NULL); /* every work may be told where to put files */
    Status status = work->open(bench, &self);
    if (!status_failed(status))
        status = options_all_used(bench);
    if (!status_failed(status) && tell) {
        printf("{\"ready\": true, \"setup_seconds\": %.6f}\n", profile_seconds() - started);
        fflush(stdout);
    }
    if (!status_failed(status) && rounds > 0)
        status = rounds_run(bench, work, self, rounds, repeat, tell, profile);
    while (!status_failed(status) && rounds <= 0 && driver_says_go(bench)) {
        Figures figures;
        status = round_run(bench, work, self, repeat, &figures);
        if (!status_failed(status) && tell)
            figures_print(&figures);
    }
    work->close(bench, self);
    double peak = peak_bytes(), peaks[64];
    REQUIRE(comm_size(bench->comm) <= 64, "%d ranks", comm_size(bench->comm));
    if (!status_failed(status)) {
        comm_allgather(bench->comm, &peak, sizeof peak, peaks);
        for (int rank = 1; rank < comm_size(bench->comm); rank++)
            peaks[0] += peaks[rank];
        if (tell)
            printf("{\"peak_bytes\": %.0f}\n", peaks[0]);
    }
    return status;
}

/* The CPU, or with device=cuda this rank's GPU, and NCCL between ranks, as a stage opens them. */
static Status device_open_asked(Bench *bench, int threads)
{
    const char *isa = bench_text(bench, "isa", NULL), *precision = bench_text(bench, "precision", "fp32"),
               *matmul = bench_text(bench, "matmul", "fp32");
    if (strcmp(bench_text(bench, "device", "cpu"), "cuda") != 0)
        return device_open_cpu(&bench->device, threads, isa);
    const DeviceWish wish = {.device = "cuda",
                             .threads = threads,
                             .tf32 = strcmp(matmul, "tf32") == 0,
                             .flow = strcmp(precision, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32};
    return devices_open(&bench->bootstrap, &wish, &bench->device);
}

static Status bench_run(Bench *bench, const Work *work, char **words, double started)
{
    TRY(options_read(bench, words));
    TRY(bootstrap_open(&bench->bootstrap));
    bench->comm = bench->bootstrap.comm;
    int threads = bootstrap_set_threads(&bench->bootstrap, bench_int(bench, "threads", bench->bootstrap.cores_auto));
    Status status = device_open_asked(bench, threads);
    if (!status_failed(status)) {
        TRY(device_arena(&bench->device, &bench->model, "bench", 0));
        TRY(device_arena(&bench->device, &bench->step, "step", 0));
        bench->exec = (Exec){&bench->device, &bench->step, NULL};
        log_info("%s%s", device_describe(&bench->device), bootstrap_binding(&bench->bootstrap));
        status = work_run(bench, work, started);
        arena_close(&bench->step);
        arena_close(&bench->model);
        devices_close(&bench->bootstrap, &bench->device);
    }
    return status;
}

int main(int argc, char **argv)
{
    double started = profile_seconds();
    bootstrap_calm_threads(argv);
    const Work *work = NULL;
    for (int i = 0; i < WORKS; i++)
        if (argc > 1 && strcmp(works[i]->name, argv[1]) == 0)
            work = works[i];
    if (!work) {
        fprintf(stderr,
                "bench WORK key=value ... [threads=N] [isa=NAME] [dir=/tmp] [profile=1] [repeat=N] [rounds=N]\n");
        for (int i = 0; i < WORKS; i++)
            fprintf(stderr, "  %-8s %s\n", works[i]->name, works[i]->help);
        return (int)STATUS_USAGE;
    }
    Bench bench = {0};
    Status status = bench_run(&bench, work, argv + 2, started);
    if (status_failed(status))
        log_error("%s", status_message());
    if (bench.comm)
        bootstrap_close(&bench.bootstrap);
    return (int)status.code;
}
