/* model_load.c -- a model from wherever a model may come: one of our HDF5 files, a Hugging Face directory, or a plan's promise of a file. */
#include <string.h>
#include <sys/stat.h>

#include "core/base/memory.h"
#include "core/base/work.h"
#include "core/store/checkpoint.h"
#include "core/store/huggingface.h"

typedef struct TokenizerJob {
    Tokenizer **tokenizer;
    const char *path;
} TokenizerJob;

static Status tokenizer_job(void *context)
{
    const TokenizerJob *job = context;
    return tokenizer_open(job->tokenizer, job->path);
}

static Status load_directory(Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                             Tokenizer **tokenizer, char digest[40])
{
    H5Digest hash;
    TokenizerJob job = {tokenizer, path};
    WorkAside *aside = tokenizer ? work_aside_begin(tokenizer_job, &job) : NULL; /* while the disk reads */
    Status status = huggingface_load(path, device, head, model, has_head, &hash);
    Status other = aside ? work_aside_end(&aside) : status_ok();
    if (!status_failed(status) && !status_failed(other)) {
        h5_digest_text(hash, digest);
        return status;
    }
    if (!status_failed(status))
        model_close(model);
    if (tokenizer && !status_failed(other))
        tokenizer_close(tokenizer);
    return status_failed(other) ? other : status; /* the last message is this one */
}

/* --- Promises --- */

typedef struct Promise {
    char *path;
    ModelShape shape;
    HeadKind head;
    char *tokenizer; /* canonical bytes; NULL: none */
    size_t tokenizer_size;
} Promise;

static struct {
    Promise *items;
    int64_t count, capacity;
} promises;

static void promise_free(Promise *promise)
{
    memory_free(&promise->path);
    memory_free(&promise->tokenizer);
}

/* The path after `path`'s first component, which becomes *part of *length bytes; "." and empty components are skipped. */
static const char *path_step(const char *path, const char **part, size_t *length)
{
    for (;;) {
        path += strspn(path, "/");
        *part = path;
        *length = strcspn(path, "/");
        path += *length;
        if (*length != 1 || **part != '.')
            return path;
    }
}

/* "out//sft/./final.h5" is "out/sft/final.h5"; the files need not exist. */
static bool path_same(const char *a, const char *b)
{
    if ((a[0] == '/') != (b[0] == '/'))
        return false;
    const char *part_a, *part_b;
    size_t length_a, length_b;
    do {
        a = path_step(a, &part_a, &length_a);
        b = path_step(b, &part_b, &length_b);
        if (length_a != length_b || memcmp(part_a, part_b, length_a) != 0)
            return false;
    } while (length_a > 0);
    return true;
}

static Promise *promise_find(const char *path)
{
    for (int64_t i = 0; i < promises.count; i++)
        if (path_same(promises.items[i].path, path))
            return &promises.items[i];
    return NULL;
}

void model_promise(const char *path, const Model *model, const Tokenizer *tokenizer)
{
    Promise *promise = promise_find(path);
    if (promise) {
        promise_free(promise);
    } else {
        memory_reserve(&promises.items, promises.count, &promises.capacity);
        promise = &promises.items[promises.count++];
    }
    *promise = (Promise){.path = memory_strdup(path), .shape = model->shape, .head = model->head};
    if (tokenizer) {
        const char *bytes = tokenizer_bytes(tokenizer, &promise->tokenizer_size);
        promise->tokenizer = memory_new(promise->tokenizer_size + 1, 1);
        memcpy(promise->tokenizer, bytes, promise->tokenizer_size);
    }
}

void model_promises_clear(void)
{
    for (int64_t i = 0; i < promises.count; i++)
        promise_free(&promises.items[i]);
    memory_free(&promises.items);
    promises.count = promises.capacity = 0;
}

static Status promise_open(const Promise *promise, Device *device, HeadKind head, Model *model, bool *has_head,
                           Tokenizer **tokenizer, char digest[40])
{
    if (head == HEAD_LM && promise->head != HEAD_LM)
        return status_error(STATUS_INPUT,
                            "%s will hold a model without LM head (a reward model?); expected a language model",
                            promise->path);
    TRY(model_open(model, device, &promise->shape, head));
    params_narrow(device, &model->params);
    *has_head = head == promise->head;
    strcpy(digest, "promised");
    return tokenizer && promise->tokenizer
               ? tokenizer_from_bytes(tokenizer, promise->path, promise->tokenizer, promise->tokenizer_size)
               : status_ok();
}

/* --- Any source --- */

Status model_load(Comm *comm, Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                  Tokenizer **tokenizer, char digest[40])
{
    struct stat info;
    if (tokenizer)
        *tokenizer = NULL;
    *has_head = false;
    const Promise *promise = device->backend->computes ? NULL : promise_find(path);
    if (promise)
        return comm_agree(comm, promise_open(promise, device, head, model, has_head, tokenizer, digest));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return comm_agree(comm, load_directory(device, path, head, model, has_head, tokenizer, digest));
    return checkpoint_load_model(comm, device, path, head, model, has_head, tokenizer, digest);
}
