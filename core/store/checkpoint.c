/* checkpoint.c -- a walk over the views of each model, and the few numbers beside them. */
#include "core/store/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <revision.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"

enum { CHECKPOINT_VERSION = 1 };
static const char format_name[] = "tercet-checkpoint";

/* "/parameters/NAME", or "/critic/parameters/NAME". */
static const char *checkpoint_name(char path[160], const char *role, const char *kind, const char *name)
{
    snprintf(path, 160, "%s%s/%s%s%s", role[0] ? "/" : "", role, kind, name[0] ? "/" : "", name);
    return path;
}

static int64_t view_elements(const ParamView *view)
{
    return view->shape[0] * (view->ndim == 2 ? view->shape[1] : 1);
}

/* The part of a flat range that lies in a view's logical elements, counted from the view's start. */
static Span view_part(const ParamView *view, Span flat)
{
    int64_t from = flat.from - view->offset, to = flat.to - view->offset, end = view_elements(view);
    Span part = {from < 0 ? 0 : from, to > end ? end : to};
    if (part.from > part.to)
        part.from = part.to = 0;
    return part;
}

/* --- Writing --- */

/* What lies in the host's memory and is written together, when all datasets have been made. */
typedef struct Writes {
    H5Writer *writer;
    H5Write *items;
    int64_t count, capacity;
} Writes;

/* Part of a tensor as elements from `first` on. */
static void write_part(Writes *writes, const char *path, Device *device, Tensor part, int64_t first)
{
    int64_t count = tensor_count(part);
    const float *values = tensor_host(device, part);
    if (!values) {
        float *copy = memory_new((size_t)count, sizeof *copy);
        tensor_read(device, part, copy);
        h5_write_elements(writes->writer, path, first, count, copy);
        memory_free(&copy);
        return;
    }
    H5Write *last = writes->count ? &writes->items[writes->count - 1] : NULL;
    if (last && strcmp(last->path, path) == 0 && last->first + last->count == first &&
        (const float *)last->elements + last->count == values) {
        last->count += count; /* whole blocks can be hashed on their way */
        return;
    }
    memory_reserve(&writes->items, writes->count, &writes->capacity);
    writes->items[writes->count++] = (H5Write){memory_strdup(path), first, count, values};
}

static void writes_end(Writes *writes)
{
    h5_write_many(writes->writer, writes->items, writes->count);
    for (int64_t i = 0; i < writes->count; i++)
        memory_release((void *)writes->items[i].path);
    memory_free(&writes->items);
}

static void write_parameters(Comm *comm, Writes *writes, const CheckpointModel *entry)
{
    const Params *params = &entry->model->params;
    char path[160];
    for (int v = 0; v < params->views; v++) {
        const ParamView *view = &params->view[v];
        checkpoint_name(path, entry->role, "parameters", view->name);
        h5_write_dataset(writes->writer, H5_SEMANTIC, path, DTYPE_F32, view->ndim, view->shape);
        if (v % comm_size(comm) == comm_rank(comm))
            write_part(writes, path, entry->model->device,
                       tensor_range(params->value, view->offset, view_elements(view)), 0);
    }
}

static void write_moments(Comm *comm, Writes *writes, const CheckpointModel *entry, const char *kind, Tensor moments)
{
    const Params *params = &entry->model->params;
    char path[160];
    for (int v = 0; v < params->views; v++) {
        const ParamView *view = &params->view[v];
        int64_t at = 0; /* where the slice begins among this rank's moments */
        checkpoint_name(path, entry->role, kind, view->name);
        h5_write_dataset(writes->writer, H5_SEMANTIC, path, DTYPE_F32, view->ndim, view->shape);
        for (int64_t stripe = 0; stripe < shard_stripes(params->count); stripe++) {
            Span slice = shard_slice(params->count, comm_size(comm), comm_rank(comm), stripe);
            Span part = view_part(view, slice);
            if (part.to > part.from)
                write_part(writes, path, entry->model->device,
                           tensor_range(moments, at + view->offset + part.from - slice.from, part.to - part.from),
                           part.from);
            at += slice.to - slice.from;
        }
    }
}

static void write_model(Comm *comm, Writes *writes, const CheckpointModel *entry)
{
    H5Writer *writer = writes->writer;
    char path[160];
    char *shape = model_shape_to_text(&entry->model->shape);
    checkpoint_name(path, entry->role, "model", "");
    h5_write_string(writer, H5_SEMANTIC, path, "shape", shape);
    h5_write_string(writer, H5_SEMANTIC, path, "head",
                    entry->model->head == HEAD_SCALAR ? "scalar"
                    : entry->model->head == HEAD_LM   ? "lm"
                                                      : "none");
    memory_free(&shape);
    write_parameters(comm, writes, entry);
    if (!tensor_present(entry->exp_avg) && !entry->optimizer_steps)
        return;
    write_moments(comm, writes, entry, "optimizer/exp_avg", entry->exp_avg);
    write_moments(comm, writes, entry, "optimizer/exp_avg_sq", entry->exp_avg_sq);
    checkpoint_name(path, entry->role, "optimizer", "");
    h5_write_int(writer, H5_SEMANTIC, path, "steps", *entry->optimizer_steps);
}

static void write_state(H5Writer *writer, const StateItem *item)
{
    H5Kind kind = item->operational ? H5_OPERATIONAL : H5_SEMANTIC;
    switch (item->kind) {
    case STATE_INT:
        h5_write_int(writer, kind, "/state", item->name, *(int64_t *)item->value);
        break;
    case STATE_DOUBLE:
        h5_write_real(writer, kind, "/state", item->name, *(double *)item->value);
        break;
    case STATE_TEXT:
        h5_write_string(writer, kind, "/state", item->name, *(char **)item->value);
        break;
    }
}

Status checkpoint_write(Comm *comm, const char *path, const CheckpointHeader *header, const CheckpointModel *models,
                        int models_count, const StateItem *state, int state_count)
{
    H5Writer *writer = NULL;
    TRY(h5_writer_open(comm, path, format_name, CHECKPOINT_VERSION, &writer));
    h5_write_string(writer, H5_SEMANTIC, "/", "stage", header->stage);
    h5_write_int(writer, H5_SEMANTIC, "/", "step", header->step);
    h5_write_int(writer, H5_SEMANTIC, "/", "seed", (int64_t)header->seed);
    h5_write_string(writer, H5_SEMANTIC, "/", "config_digest", header->config_digest);
    h5_write_string(writer, H5_OPERATIONAL, "/", "config", header->config);
    h5_write_string(writer, H5_OPERATIONAL, "/", "code_version", TERCET_REVISION);
    h5_write_int(writer, H5_OPERATIONAL, "/", "ranks", comm_size(comm));
    for (int i = 0; i < header->parents; i++)
        h5_write_string(writer, H5_SEMANTIC, "/parents", header->parent_names[i], header->parent_digests[i]);
    if (header->tokenizer) {
        size_t size = 0;
        const char *bytes = tokenizer_bytes(header->tokenizer, &size);
        int64_t shape = (int64_t)size;
        h5_write_whole(writer, H5_SEMANTIC, "/tokenizer", DTYPE_U8, 1, &shape, bytes);
    }
    bool resumed_from = false; /* a result, which the next stage reads at once, has no optimizer */
    for (int i = 0; i < models_count; i++)
        resumed_from = resumed_from || models[i].optimizer_steps;
    if (resumed_from)
        h5_write_past_cache(writer);
    Writes writes = {.writer = writer};
    for (int i = 0; i < models_count; i++)
        write_model(comm, &writes, &models[i]);
    writes_end(&writes);
    for (int i = 0; i < state_count; i++)
        write_state(writer, &state[i]);
    return h5_writer_close(&writer);
}

/* --- Reading --- */

static Status read_shape(const H5File *file, const char *role, ModelShape *shape, HeadKind *head)
{
    char path[160];
    const char *text = NULL, *head_name = NULL;
    checkpoint_name(path, role, "model", "");
    TRY(h5_read_string(file, path, "shape", &text));
    TRY(h5_read_string(file, path, "head", &head_name));
    TRY(model_shape_from_text(text, h5_path(file), shape));
    if (strcmp(head_name, "scalar") == 0)
        *head = HEAD_SCALAR;
    else if (strcmp(head_name, "lm") == 0)
        *head = HEAD_LM;
    else if (strcmp(head_name, "none") == 0)
        *head = HEAD_NONE;
    else
        return status_error(STATUS_INPUT, "%s: %s has head '%s'; expected lm, scalar or none", h5_path(file), path,
                            head_name);
    return status_ok();
}

/* What is to be read into the host's memory, together. */
typedef struct Reads {
    H5File *file;
    H5Read *items;
    int64_t count, capacity;
} Reads;

static Status read_view(Reads *reads, const char *path, const ParamView *view, Device *device, Tensor flat,
                        int64_t flat_first, Span part)
{
    const H5Dataset *dataset = NULL;
    TRY(h5_find(reads->file, path, DTYPE_F32, view->ndim, view->shape, &dataset));
    int64_t count = part.to - part.from;
    if (count == 0 || !device->backend->computes)
        return status_ok();
    Tensor target = tensor_range(flat, view->offset + part.from - flat_first, count);
    void *values = tensor_host(device, target);
    if (values) {
        memory_reserve(&reads->items, reads->count, &reads->capacity);
        reads->items[reads->count++] = (H5Read){dataset, part.from, count, values};
        return status_ok();
    }
    values = memory_new((size_t)count, sizeof(float));
    Status status = h5_read_elements(reads->file, dataset, part.from, count, values);
    if (!status_failed(status))
        tensor_write(device, target, values);
    memory_free(&values);
    return status;
}

/* Reads what is left to read, unless `status` is a failure already. */
static Status reads_end(Reads *reads, Status status)
{
    if (!status_failed(status))
        status = h5_read_many(reads->file, reads->items, reads->count);
    memory_free(&reads->items);
    return status;
}

/* Fill parameters by name. `missing` NULL: every view must be there; else views of a scalar head that the file has not stay, and are counted. */
static Status read_parameters(H5File *file, const char *role, Model *model, int *missing)
{
    char path[160];
    Reads reads = {.file = file};
    Status status = status_ok();
    for (int v = 0; v < model->params.views && !status_failed(status); v++) {
        const ParamView *view = &model->params.view[v];
        checkpoint_name(path, role, "parameters", view->name);
        if (missing && strncmp(view->name, "score.", 6) == 0 && !h5_dataset(file, path))
            ++*missing;
        else
            status =
                read_view(&reads, path, view, model->device, model->params.value, 0, (Span){0, view_elements(view)});
    }
    TRY(reads_end(&reads, status));
    params_narrow(model->device, &model->params);
    return status_ok();
}

static Status read_moments(const Comm *comm, H5File *file, const CheckpointModel *entry, const char *kind,
                           Tensor moments)
{
    const Params *params = &entry->model->params;
    char path[160];
    Reads reads = {.file = file};
    Status status = status_ok();
    for (int v = 0; v < params->views && !status_failed(status); v++) {
        const ParamView *view = &params->view[v];
        int64_t at = 0; /* where the slice begins among this rank's moments */
        checkpoint_name(path, entry->role, kind, view->name);
        for (int64_t stripe = 0; stripe < shard_stripes(params->count) && !status_failed(status); stripe++) {
            Span slice = shard_slice(params->count, comm_size(comm), comm_rank(comm), stripe);
            status =
                read_view(&reads, path, view, entry->model->device, moments, slice.from - at, view_part(view, slice));
            at += slice.to - slice.from;
        }
    }
    return reads_end(&reads, status);
}

static Status read_model(const Comm *comm, H5File *file, const CheckpointModel *entry)
{
    ModelShape shape;
    HeadKind head;
    TRY(read_shape(file, entry->role, &shape, &head));
    if (!model_shape_equal(&shape, &entry->model->shape) || head != entry->model->head) {
        char *found = model_shape_to_text(&shape), *expected = model_shape_to_text(&entry->model->shape);
        Status status = status_error(STATUS_INPUT, "%s: model '%s' has shape %s; expected %s with the same head",
                                     h5_path(file), entry->role, found, expected);
        memory_free(&found);
        memory_free(&expected);
        return status;
    }
    TRY(read_parameters(file, entry->role, entry->model, NULL));
    if (!entry->optimizer_steps)
        return status_ok();
    char path[160];
    checkpoint_name(path, entry->role, "optimizer", "");
    TRY(h5_read_int(file, path, "steps", entry->optimizer_steps));
    TRY(read_moments(comm, file, entry, "optimizer/exp_avg", entry->exp_avg));
    return read_moments(comm, file, entry, "optimizer/exp_avg_sq", entry->exp_avg_sq);
}

static Status read_state(const H5File *file, const StateItem *item)
{
    const char *text = NULL;
    switch (item->kind) {
    case STATE_INT:
        return h5_read_int(file, "/state", item->name, item->value);
    case STATE_DOUBLE:
        return h5_read_real(file, "/state", item->name, item->value);
    case STATE_TEXT:
        TRY(h5_read_string(file, "/state", item->name, &text));
        *(char **)item->value = memory_strdup(text);
        return status_ok();
    }
    return status_ok();
}

static Status check_stage(const H5File *file, const char *stage)
{
    const char *found = NULL;
    TRY(h5_read_string(file, "/", "stage", &found));
    if (stage && strcmp(found, stage) != 0)
        return status_error(STATUS_INPUT, "%s is a checkpoint of stage '%s'; expected one of '%s'", h5_path(file),
                            found, stage);
    return status_ok();
}

Status checkpoint_read(Comm *comm, const char *path, const char *stage, const CheckpointModel *models, int models_count,
                       const StateItem *state, int state_count)
{
    H5File *file = NULL;
    Status status = h5_open(path, format_name, &file);
    if (!status_failed(status))
        status = check_stage(file, stage);
    if (file && comm_size(comm) == 1) /* of several ranks one brings into the cache what the others read */
        h5_read_once(file);
    for (int i = 0; i < models_count && !status_failed(status); i++)
        status = read_model(comm, file, &models[i]);
    for (int i = 0; i < state_count && !status_failed(status); i++)
        status = read_state(file, &state[i]);
    h5_close(&file);
    return comm_agree(comm, status);
}

static Status inspect(H5File *file, CheckpointInfo *info)
{
    const char *text = NULL;
    int64_t seed = 0;
    H5Digest digest;
    TRY(h5_read_string(file, "/", "stage", &text));
    snprintf(info->stage, sizeof info->stage, "%s", text);
    TRY(h5_read_int(file, "/", "step", &info->step));
    TRY(h5_read_int(file, "/", "seed", &seed));
    info->seed = (uint64_t)seed;
    TRY(h5_read_string(file, "/", "config_digest", &text));
    snprintf(info->config_digest, sizeof info->config_digest, "%s", text);
    TRY(read_shape(file, "", &info->shape, &info->head));
    TRY(h5_digest_semantic(file, &digest));
    h5_digest_text(digest, info->digest);
    return status_ok();
}

Status checkpoint_inspect(const char *path, CheckpointInfo *info)
{
    memset(info, 0, sizeof *info);
    H5File *file = NULL;
    TRY(h5_open(path, format_name, &file));
    Status status = inspect(file, info);
    h5_close(&file);
    return status;
}

Status checkpoint_load_model(Comm *comm, Device *device, const char *path, HeadKind head, Model *model, bool *has_head,
                             Tokenizer **tokenizer, char digest[40])
{
    H5File *file = NULL;
    ModelShape shape;
    HeadKind stored;
    H5Digest hash;
    int missing = 0;
    Status status = h5_open(path, format_name, &file);
    if (!status_failed(status))
        status = read_shape(file, "", &shape, &stored);
    if (!status_failed(status) && head == HEAD_LM && stored != HEAD_LM)
        status = status_error(STATUS_INPUT,
                              "%s holds a model without LM head (a reward model?); expected a language model", path);
    if (!status_failed(status))
        status = model_open(model, device, &shape, head);
    if (!status_failed(status))
        status = read_parameters(file, "", model, &missing);
    if (!status_failed(status))
        status = h5_digest_semantic(file, &hash);
    if (!status_failed(status))
        h5_digest_text(hash, digest);
    const H5Dataset *bytes = status_failed(status) ? NULL : h5_dataset(file, "/tokenizer");
    if (tokenizer && bytes && bytes->dtype == DTYPE_U8) {
        char *text = memory_new(bytes->bytes + 1, 1);
        status = h5_read_whole(file, bytes, text);
        if (!status_failed(status))
            status = tokenizer_from_bytes(tokenizer, path, text, bytes->bytes);
        memory_free(&text);
    }
    *has_head = missing == 0;
    h5_close(&file);
    return comm_agree(comm, status);
}

/* --- Files of a directory --- */

char *checkpoint_path(const char *directory, int64_t step)
{
    char name[40];
    snprintf(name, sizeof name, "step-%08lld.h5", (long long)step);
    return text_join_path(directory, name);
}

/* Steps of the checkpoints in a directory, ascending; *steps is fresh. */
static Status list_steps(const char *directory, int64_t **steps, int *count)
{
    *steps = NULL;
    *count = 0;
    int64_t capacity = 0;
    DIR *handle = opendir(directory);
    if (!handle)
        return errno == ENOENT ? status_ok()
                               : status_error(STATUS_IO, "%s: cannot list: %s", directory, strerror(errno));
    for (struct dirent *entry = readdir(handle); entry; entry = readdir(handle)) {
        long long step = 0;
        int end = 0;
        if (sscanf(entry->d_name, "step-%lld.h5%n", &step, &end) != 1 || end == 0 || entry->d_name[end] != 0)
            continue;
        memory_reserve(steps, *count, &capacity);
        int at = (*count)++;
        for (; at > 0 && (*steps)[at - 1] > step; at--)
            (*steps)[at] = (*steps)[at - 1];
        (*steps)[at] = step;
    }
    closedir(handle);
    return status_ok();
}

Status checkpoint_latest(const char *directory, char **path)
{
    int64_t *steps;
    int count;
    *path = NULL;
    TRY(list_steps(directory, &steps, &count));
    if (count > 0)
        *path = checkpoint_path(directory, steps[count - 1]);
    memory_free(&steps);
    return status_ok();
}

Status checkpoint_prune(const char *directory, int keep, const char *except)
{
    int64_t *steps;
    int count;
    Status status = status_ok();
    TRY(list_steps(directory, &steps, &count));
    for (int i = 0; i < count - keep; i++) {
        char *path = checkpoint_path(directory, steps[i]);
        if (!(except && strcmp(path, except) == 0) && unlink(path) != 0 && errno != ENOENT)
            status = status_error(STATUS_IO, "%s: cannot remove: %s", path, strerror(errno));
        memory_free(&path);
    }
    memory_free(&steps);
    return status;
}
