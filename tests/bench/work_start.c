/* work_start.c -- from the start of the process to its first training step: `tercet sft` on a model directory and a small data set, one rank, no launcher.
 *
 * The clock runs from before fork to the progress line of step 1, less the seconds that the program itself counted for that step. Then the process is
 * ended. "raw_seconds" is what reading the weights' file takes by itself; both find it in the system's cache. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/base/text.h"
#include "core/store/huggingface.h"
#include "tests/bench/work_scratch.h"

typedef struct Start {
    Scratch scratch;
    Tokenizer *tokenizer;
    char *program, *experiment, *weights;
    int64_t rounds;
    int threads;
} Start;

static Status experiment_write(Start *own)
{
    Text yaml = {0}, data = {0};
    for (int i = 0; i < 64; i++)
        text_printf(&data, "text %d\n", i);
    text_printf(&yaml,
                "output: none\nlog_every: 0\nthreads: %d\nsft:\n  model: %s/model\n  data: [{path: \"%s/data.txt\"}]\n"
                "  batch: 1\n  steps: 1000\n  append_eos: false\n",
                own->threads, own->scratch.path, own->scratch.path);
    char *path = scratch_path(&own->scratch, "data.txt");
    Status status = text_write_file(path, data.bytes, data.size);
    if (!status_failed(status))
        status = text_write_file(own->experiment, yaml.bytes, yaml.size);
    memory_free(&path);
    text_free(&data);
    text_free(&yaml);
    return status;
}

/* build/tercet, beside build/tests/bench. */
static char *program_path(Bench *bench)
{
    char own[1024];
    ssize_t size = readlink("/proc/self/exe", own, sizeof own - 1);
    own[size > 0 ? size : 0] = 0;
    char *slash = strrchr(own, '/');
    if (slash)
        *slash = 0;
    Text path = {0};
    text_printf(&path, "%s/../tercet", own);
    char *result = memory_strdup(bench_text(bench, "program", text_string(&path)));
    text_free(&path);
    return result;
}

static Status start_open(Bench *bench, void **self)
{
    Start *own = memory_new(1, sizeof *own);
    *self = own;
    const char *shape = bench_text(bench, "shape", "260k");
    TRY(scratch_open(bench, &own->scratch));
    own->program = program_path(bench);
    own->experiment = scratch_path(&own->scratch, "start.yaml");
    own->weights = scratch_path(&own->scratch, "model/model.safetensors");
    own->threads = bench->device.threads;
    Model model = {0};
    TRY(model_random(bench, shape, HEAD_LM, &model));
    char *directory = scratch_path(&own->scratch, "model");
    Status status = tokenizer_of_bytes(model.shape.vocab, &own->tokenizer);
    if (!status_failed(status))
        status = huggingface_export(directory, &model, own->tokenizer);
    memory_free(&directory);
    model_close(&model);
    TRY(status);
    return experiment_write(own);
}

/* The child: standard error into the pipe. */
static void start_child(const Start *own, const char *output, int out)
{
    char *words[] = {own->program, (char *)"sft", own->experiment, (char *)output, NULL};
    dup2(out, STDERR_FILENO);
    unsetenv("GOMP_SPINCOUNT"); /* what this process set for itself */
    execv(own->program, words);
    _exit(127);
}

/* Seconds of the step by the program's own count. */
static Status step_seconds(const char *directory, double *seconds)
{
    char *path = text_join_path(directory, "sft/timings.jsonl");
    Text line = {0};
    Status status = text_read_file(path, 1 << 20, &line);
    const char *found = status_failed(status) ? NULL : strstr(text_string(&line), "},\"seconds\":");
    if (!status_failed(status) && !found)
        status = status_error(STATUS_INPUT, "%s: no seconds", path);
    if (found)
        *seconds = strtod(found + strlen("},\"seconds\":"), NULL);
    text_free(&line);
    memory_free(&path);
    return status;
}

/* Starts the program and waits for its first step. */
static Status start_wait(const Start *own, const char *output, double *seconds)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return status_error(STATUS_IO, "pipe: %s", strerror(errno));
    double since = profile_seconds();
    pid_t child = fork();
    if (child == 0)
        start_child(own, output, ends[1]);
    close(ends[1]);
    FILE *said = fdopen(ends[0], "r");
    char line[1024] = "";
    bool stepped = false;
    Text all = {0};
    while (!stepped && fgets(line, sizeof line, said)) {
        stepped = strncmp(line, "sft 1/", 6) == 0;
        text_append_string(&all, line);
    }
    *seconds = profile_seconds() - since;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    fclose(said);
    Status status =
        stepped ? status_ok() : status_error(STATUS_IO, "%s did no step: %s", own->program, text_string(&all));
    text_free(&all);
    return status;
}

/* The file as it lies in the cache, read once before and once for the clock. */
static Status weights_read(const char *path, double *seconds)
{
    enum { PIECE_BYTES = 1 << 20 };
    char *piece = memory_new(1, PIECE_BYTES);
    FILE *file = fopen(path, "rb");
    Status status = file ? status_ok() : status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    for (int pass = 0; pass < 2 && file; pass++) {
        double since = profile_seconds();
        setvbuf(file, NULL, _IONBF, 0);
        rewind(file);
        while (fread(piece, 1, PIECE_BYTES, file) == PIECE_BYTES)
            continue;
        *seconds = profile_seconds() - since;
    }
    if (file)
        fclose(file);
    memory_free(&piece);
    return status;
}

static Status start_once(Bench *bench, void *self, Figures *figures)
{
    (void)bench;
    Start *own = self;
    Text output = {0};
    double raw = 0, until = 0, step = 0;
    text_printf(&output, "output=%s/run-%lld", own->scratch.path, (long long)own->rounds++);
    Status status = weights_read(own->weights, &raw);
    if (!status_failed(status))
        status = start_wait(own, text_string(&output), &until);
    if (!status_failed(status))
        status = step_seconds(text_string(&output) + strlen("output="), &step);
    text_free(&output);
    TRY(status);
    figures_add(figures, "seconds", until - step);
    figures_add(figures, "raw_seconds", raw);
    figures_add(figures, "step_seconds", step);
    return status_ok();
}

static void start_close(Bench *bench, void *self)
{
    Start *own = self;
    if (!own)
        return;
    tokenizer_close(&own->tokenizer);
    memory_free(&own->program);
    memory_free(&own->experiment);
    memory_free(&own->weights);
    scratch_close(bench, &own->scratch);
    memory_free(&own);
}

const Work work_start = {
    .name = "start",
    .help = "process start to first training step: shape=260k program=build/tercet dir=/tmp",
    .open = start_open,
    .once = start_once,
    .close = start_close,
};
