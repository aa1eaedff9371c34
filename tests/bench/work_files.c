/* work_files.c -- reading a Hugging Face model, and saving and reading a checkpoint with moments, each beside the file speed of the same minute.
 *
 * The raw side ("raw_seconds" of a round) moves the same bytes through one buffer and does nothing with them, in the faster of two ways: past the
 * system's cache (O_DIRECT, 4 MiB), or through it, told that reads go front to back and in 1 MiB, and with writes of 4 MiB sent on their way at once.
 * The room of what is written is reserved before; every write ends with fsync. Plain read() of 8 MiB took up to twice as long, plain write() up to
 * four times.
 * Neither side pays for what the other left behind: before every pass, ours and the raw ones, what was written or deleted is brought to the disk, the
 * file's pages are dropped from the cache, and as much free memory as the pass may take is touched. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/store/checkpoint.h"
#include "core/store/huggingface.h"
#include "tests/bench/work_scratch.h"

enum { READ_BYTES = 1 << 20, PIECE_BYTES = 4 << 20 };

/* --- Raw files --- */

static Status file_error(const char *path)
{
    return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
}

/* A virtual machine gives memory that lies free back to its host, and its pages come again at a tenth of a disk's speed. */
static Status free_memory_touch(double bytes)
{
    size_t size = (size_t)bytes;
    pid_t child = fork(); /* so that it does not count as this process's memory */
    if (child == 0) {
        char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            _exit(1);
        madvise(memory, size, MADV_HUGEPAGE);
        memset(memory, 1, size);
        _exit(0);
    }
    int how = 1;
    if (child < 0 || waitpid(child, &how, 0) != child || how != 0)
        return status_error(STATUS_MEMORY, "%.3g bytes of memory could not be touched", bytes);
    return status_ok();
}

/* Before a pass over a file that takes so many bytes of memory, the cache's included. */
static Status settle(const char *path, double memory)
{
    sync();
    int file = open(path, O_RDONLY);
    int failed = file < 0 ? 0 : posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    if (file >= 0)
        close(file);
    if (failed)
        return status_error(STATUS_IO, "%s: %s", path, strerror(failed));
    return memory > 0 ? free_memory_touch(memory) : status_ok();
}

/* One pass through `piece`, which has PIECE_BYTES and begins a page. */
static Status pass_raw(const char *path, bool writes, bool direct, double bytes, unsigned char *piece, double *seconds)
{
    TRY(settle(path, direct ? 0 : bytes));
    double since = profile_seconds(), done = 0;
    int file = open(path, (writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY) | (direct ? O_DIRECT : 0), 0600);
    bool good = file >= 0 && (!writes || fallocate(file, 0, 0, (off_t)bytes) == 0);
    if (good && !writes && !direct)
        posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL);
    size_t step = writes || direct ? PIECE_BYTES : READ_BYTES;
    for (ssize_t size = 1; good && size > 0 && done < bytes; done += (double)size) {
        size = writes ? write(file, piece, step) : read(file, piece, step);
        good = size >= 0;
        if (writes && !direct)
            sync_file_range(file, (off_t)done, (off_t)size, SYNC_FILE_RANGE_WRITE);
    }
    good = good && (!writes || (ftruncate(file, (off_t)bytes) == 0 && fsync(file) == 0));
    *seconds = profile_seconds() - since;
    Status status = good ? status_ok() : file_error(path);
    if (file >= 0)
        close(file);
    return status;
}

/* Lowers *seconds to the faster way's. A file system may know no direct access; the other way it must know. */
static Status file_raw(const char *path, bool writes, double bytes, double *seconds)
{
    unsigned char *room = memory_new(2, PIECE_BYTES), *piece = room + (PIECE_BYTES - (uintptr_t)room % PIECE_BYTES);
    for (int64_t i = 0; i < PIECE_BYTES; i++)
        piece[i] = (unsigned char)(i * 2654435761u >> 11);
    double direct, cached;
    if (status_failed(pass_raw(path, writes, true, bytes, piece, &direct)))
        direct = INFINITY;
    Status status = pass_raw(path, writes, false, bytes, piece, &cached);
    if (!status_failed(status))
        *seconds = fmin(*seconds, fmin(direct, cached));
    memory_free(&room);
    return status;
}

static Status file_bytes(const char *path, double *bytes)
{
    struct stat about;
    if (stat(path, &about) != 0)
        return file_error(path);
    *bytes = (double)about.st_size;
    return status_ok();
}

/* --- A model --- */

typedef struct Load {
    Scratch scratch;
    Tokenizer *tokenizer;
    char *directory, *weights;
} Load;

static Status load_open(Bench *bench, void **self)
{
    Load *own = memory_new(1, sizeof *own);
    *self = own;
    const char *shape = bench_text(bench, "shape", "gpt2-124m");
    TRY(scratch_open(bench, &own->scratch));
    own->directory = scratch_path(&own->scratch, "model");
    own->weights = scratch_path(&own->scratch, "model/model.safetensors");
    Model model = {0};
    TRY(model_random(bench, shape, HEAD_LM, &model));
    Status status = tokenizer_of_bytes(model.shape.vocab, &own->tokenizer);
    if (!status_failed(status))
        status = huggingface_export(own->directory, &model, own->tokenizer);
    model_close(&model);
    return status;
}

static Status load_once(Bench *bench, void *self, Figures *figures)
{
    Load *own = self;
    Model model = {0};
    Tokenizer *tokenizer = NULL;
    bool has_head;
    char digest[40];
    double raw = INFINITY, bytes = 0;
    TRY(file_bytes(own->weights, &bytes));
    TRY(file_raw(own->weights, false, bytes, &raw));
    TRY(settle(own->weights, 2 * bytes));
    double since = profile_seconds();
    TRY(model_load(bench->comm, &bench->device, own->directory, HEAD_LM, &model, &has_head, &tokenizer, digest));
    figures_add(figures, "seconds", profile_seconds() - since);
    TRY(file_raw(own->weights, false, bytes, &raw));
    figures_add(figures, "raw_seconds", raw);
    figures_add(figures, "bytes", bytes);
    tokenizer_close(&tokenizer);
    model_close(&model);
    return status_ok();
}

static void load_close(Bench *bench, void *self)
{
    Load *own = self;
    if (!own)
        return;
    tokenizer_close(&own->tokenizer);
    memory_free(&own->directory);
    memory_free(&own->weights);
    scratch_close(bench, &own->scratch);
    memory_free(&own);
}

const Work work_load = {
    .name = "load",
    .help = "a Hugging Face model, uncached: shape=gpt2-124m dir=/tmp",
    .open = load_open,
    .once = load_once,
    .close = load_close,
};

/* --- A checkpoint: parameters and both moments --- */

typedef struct Checkpoint {
    Scratch scratch;
    Tokenizer *tokenizer;
    Model model;
    Tensor exp_avg, exp_avg_sq; // (count)
    int64_t steps;
    char *path, *raw_path;
    double bytes;
} Checkpoint;

static CheckpointModel checkpoint_model(Checkpoint *own)
{
    return (CheckpointModel){.role = "",
                             .model = &own->model,
                             .exp_avg = own->exp_avg,
                             .exp_avg_sq = own->exp_avg_sq,
                             .optimizer_steps = &own->steps};
}

static Status checkpoint_save(Bench *bench, Checkpoint *own)
{
    CheckpointModel model = checkpoint_model(own);
    CheckpointHeader header = {.stage = "sft", .config = "", .config_digest = "00", .tokenizer = own->tokenizer};
    return checkpoint_write(bench->comm, own->path, &header, &model, 1, NULL, 0);
}

static Status checkpoint_open(Bench *bench, void **self)
{
    Checkpoint *own = memory_new(1, sizeof *own);
    *self = own;
    const char *shape = bench_text(bench, "shape", "gpt2-124m");
    TRY(scratch_open(bench, &own->scratch));
    own->path = scratch_path(&own->scratch, "step-00000001.h5");
    own->raw_path = scratch_path(&own->scratch, "raw");
    TRY(model_random(bench, shape, HEAD_LM, &own->model));
    TRY(tokenizer_of_bytes(own->model.shape.vocab, &own->tokenizer));
    own->exp_avg = tensor_new1(&bench->model, DTYPE_F32, own->model.params.count);
    own->exp_avg_sq = tensor_new1(&bench->model, DTYPE_F32, own->model.params.count);
    fill(&bench->exec, own->exp_avg, 1e-4f);
    fill(&bench->exec, own->exp_avg_sq, 1e-8f);
    TRY(checkpoint_save(bench, own));
    return file_bytes(own->path, &own->bytes);
}

static Status save_once(Bench *bench, void *self, Figures *figures)
{
    Checkpoint *own = self;
    double raw = INFINITY;
    unlink(own->path);
    TRY(file_raw(own->raw_path, true, own->bytes, &raw));
    unlink(own->raw_path);
    TRY(settle(own->path, 0)); /* it is saved past the cache */
    double since = profile_seconds();
    TRY(checkpoint_save(bench, own));
    figures_add(figures, "seconds", profile_seconds() - since);
    figures_add(figures, "raw_seconds", raw);
    figures_add(figures, "bytes", own->bytes);
    return status_ok();
}

static Status restore_once(Bench *bench, void *self, Figures *figures)
{
    Checkpoint *own = self;
    CheckpointModel model = checkpoint_model(own);
    double raw = INFINITY;
    TRY(file_raw(own->path, false, own->bytes, &raw));
    TRY(settle(own->path, comm_size(bench->comm) > 1 ? own->bytes : 0)); /* one rank restores past the cache */
    double since = profile_seconds();
    TRY(checkpoint_read(bench->comm, own->path, "sft", &model, 1, NULL, 0));
    figures_add(figures, "seconds", profile_seconds() - since);
    TRY(file_raw(own->path, false, own->bytes, &raw));
    figures_add(figures, "raw_seconds", raw);
    figures_add(figures, "bytes", own->bytes);
    return status_ok();
}

static void checkpoint_close(Bench *bench, void *self)
{
    Checkpoint *own = self;
    if (!own)
        return;
    tokenizer_close(&own->tokenizer);
    if (own->model.device)
        model_close(&own->model);
    memory_free(&own->path);
    memory_free(&own->raw_path);
    scratch_close(bench, &own->scratch);
    memory_free(&own);
}

const Work work_save = {
    .name = "save",
    .help = "a checkpoint with moments, to the disk: shape=gpt2-124m dir=/tmp",
    .open = checkpoint_open,
    .once = save_once,
    .close = checkpoint_close,
};

const Work work_restore = {
    .name = "restore",
    .help = "a checkpoint with moments, uncached: shape=gpt2-124m dir=/tmp",
    .open = checkpoint_open,
    .once = restore_once,
    .close = checkpoint_close,
};
