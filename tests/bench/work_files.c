/* work_files.c -- reading a Hugging Face model, and saving and reading a checkpoint with moments, each beside the file speed of the same minute.
 *
 * Before every read, ours and the raw one, the file's pages are dropped from the system's cache; every write ends with fsync. The raw side moves the
 * same bytes through one buffer and does nothing with them: "raw_seconds" of a round. It does so in the fastest way that we found: the system is told
 * that reads go front to back (which doubles what it reads ahead) and gets them in 1 MiB; the room of what is written is reserved before, and each
 * piece is sent on its way to the disk at once. Plain read() of 8 MiB took up to twice as long, plain write() up to four times. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/store/checkpoint.h"
#include "core/store/huggingface.h"
#include "tests/bench/work_scratch.h"

enum { READ_BYTES = 1 << 20, WRITE_BYTES = 4 << 20 };

/* --- Raw files --- */

static Status file_error(const char *path)
{
    return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
}

/* Drops a file's pages from the cache; what is not yet on the disk goes there first. */
static Status file_forget(const char *path)
{
    int file = open(path, O_RDONLY);
    if (file < 0 || fsync(file) != 0)
        return file_error(path);
    int failed = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    close(file);
    return failed ? status_error(STATUS_IO, "%s: %s", path, strerror(failed)) : status_ok();
}

static Status file_read_raw(const char *path, double *seconds, double *bytes)
{
    void *piece = memory_new(1, READ_BYTES);
    memset(piece, 1, READ_BYTES);
    double since = profile_seconds();
    int file = open(path, O_RDONLY);
    ssize_t size = -1;
    *bytes = 0;
    if (file >= 0 && posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL) == 0)
        while ((size = read(file, piece, READ_BYTES)) > 0)
            *bytes += (double)size;
    *seconds = profile_seconds() - since;
    Status status = size < 0 ? file_error(path) : status_ok();
    if (file >= 0)
        close(file);
    memory_free(&piece);
    return status;
}

/* The same of a file that is in no cache, where it takes less than *seconds: after a pause the first pass may take twice as long. */
static Status file_read_uncached(const char *path, double *seconds, double *bytes)
{
    double once;
    TRY(file_forget(path));
    TRY(file_read_raw(path, &once, bytes));
    *seconds = once < *seconds ? once : *seconds;
    return file_forget(path);
}

static Status file_write_raw(const char *path, double bytes, double *seconds)
{
    unsigned char *piece = memory_new(1, WRITE_BYTES);
    for (int64_t i = 0; i < WRITE_BYTES; i++)
        piece[i] = (unsigned char)(i * 2654435761u >> 11);
    double since = profile_seconds();
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    bool good = file >= 0 && fallocate(file, 0, 0, (off_t)bytes) == 0;
    for (double done = 0; good && done < bytes; done += WRITE_BYTES) {
        size_t size = bytes - done < WRITE_BYTES ? (size_t)(bytes - done) : WRITE_BYTES;
        good = write(file, piece, size) == (ssize_t)size;
        sync_file_range(file, (off_t)done, (off_t)size, SYNC_FILE_RANGE_WRITE);
    }
    good = good && fsync(file) == 0;
    *seconds = profile_seconds() - since;
    Status status = good ? status_ok() : file_error(path);
    if (file >= 0)
        close(file);
    memory_free(&piece);
    return status;
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
    double raw = INFINITY, bytes;
    TRY(file_read_uncached(own->weights, &raw, &bytes));
    double since = profile_seconds();
    TRY(model_load(bench->comm, &bench->device, own->directory, HEAD_LM, &model, &has_head, &tokenizer, digest));
    figures_add(figures, "seconds", profile_seconds() - since);
    TRY(file_read_uncached(own->weights, &raw, &bytes));
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
    double seconds;
    return file_read_raw(own->path, &seconds, &own->bytes);
}

static Status save_once(Bench *bench, void *self, Figures *figures)
{
    Checkpoint *own = self;
    double raw;
    unlink(own->path);
    TRY(file_write_raw(own->raw_path, own->bytes, &raw));
    unlink(own->raw_path);
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
    TRY(file_read_uncached(own->path, &raw, &own->bytes));
    double since = profile_seconds();
    TRY(checkpoint_read(bench->comm, own->path, "sft", &model, 1, NULL, 0));
    figures_add(figures, "seconds", profile_seconds() - since);
    TRY(file_read_uncached(own->path, &raw, &own->bytes));
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
