/* huggingface.c -- reading a directory: find the weight files, match every tensor with a row of the names' table, and see
 * that nothing is missing or left over. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "core/store/huggingface_parts.h"
#include "core/store/safetensors.h"

enum { INDEX_BYTES_MAX = 64 << 20, NAME_BYTES_MAX = 256 };

bool huggingface_is_directory(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return false;
    char *config = text_join_path(path, "config.json");
    bool found = stat(config, &info) == 0 && S_ISREG(info.st_mode);
    memory_free(&config);
    return found;
}

Status huggingface_read_shape(const char *directory, ModelShape *shape)
{
    char *path = text_join_path(directory, "config.json");
    Status status = huggingface_config_read(path, shape);
    memory_free(&path);
    return status;
}

/* --- Weight files ------------------------------------------------------------------------------------------------- */

typedef struct Shards {
    const char *directory;
    Safetensors **file; /* in order of name */
    Fate **fate;        /* per file and tensor */
    int count, capacity;
} Shards;

static void shards_close(Shards *shards)
{
    for (int i = 0; i < shards->count; i++) {
        safetensors_close(&shards->file[i]);
        memory_free(&shards->fate[i]);
    }
    memory_free(&shards->file);
    memory_free(&shards->fate);
}

static Status shards_add(Shards *shards, const char *name)
{
    int capacity = shards->capacity;
    memory_reserve(&shards->file, shards->count, &shards->capacity);
    if (capacity != shards->capacity)
        shards->fate = memory_resize(shards->fate, (size_t)shards->capacity, sizeof *shards->fate);
    char *path = text_join_path(shards->directory, name);
    Safetensors *file;
    Status status = safetensors_open(path, &file);
    memory_free(&path);
    TRY(status);
    shards->file[shards->count] = file;
    shards->fate[shards->count] = memory_new((size_t)safetensors_count(file), sizeof **shards->fate);
    shards->count++;
    return status_ok();
}

static int string_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The files that model.safetensors.index.json names, each once. */
static Status shards_open_index(Shards *shards, const char *path)
{
    json_t *root;
    TRY(json_read_file(path, INDEX_BYTES_MAX, &root));
    const json_t *map = NULL;
    JsonPlace place = {path, 0};
    Status status = json_check_object(place, root);
    if (!status_failed(status))
        status = json_get_object(place, root, "weight_map", JSON_REQUIRED, &map);
    const char **names = memory_new(map ? json_object_size(map) : 0, sizeof *names);
    size_t count = 0;
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)map, tensor, value)
    {
        const char *name = json_string_value(value);
        /* A name with a slash could point anywhere. */
        if (!name || strchr(name, '/') || !text_ends_with(name, ".safetensors")) {
            status = json_error(place, "\"weight_map\" has no name of a .safetensors file for tensor %s", tensor);
            break;
        }
        names[count++] = name;
    }
    qsort(names, count, sizeof *names, string_order);
    for (size_t i = 0; i < count && !status_failed(status); i++)
        if (i == 0 || strcmp(names[i], names[i - 1]) != 0)
            status = shards_add(shards, names[i]);
    memory_free(&names);
    json_decref(root);
    return status;
}

static bool file_exists(const char *directory, const char *name)
{
    struct stat info;
    char *path = text_join_path(directory, name);
    bool found = stat(path, &info) == 0;
    memory_free(&path);
    return found;
}

static Status shards_open(Shards *shards, const char *directory)
{
    *shards = (Shards){.directory = directory};
    static const char index[] = "model.safetensors.index.json";
    if (file_exists(directory, "model.safetensors"))
        return shards_add(shards, "model.safetensors");
    if (file_exists(directory, index)) {
        char *path = text_join_path(directory, index);
        Status status = shards_open_index(shards, path);
        memory_free(&path);
        return status;
    }
    if (file_exists(directory, "pytorch_model.bin") || file_exists(directory, "pytorch_model.bin.index.json"))
        return status_error(STATUS_INPUT,
                            "%s: the weights are pickled (pytorch_model.bin), which can run code: convert them to "
                            "model.safetensors",
                            directory);
    return status_error(STATUS_INPUT, "%s: neither model.safetensors nor %s is there", directory, index);
}

/* --- Tensors by name ---------------------------------------------------------------------------------------------- */

typedef struct Import {
    Shards shards;
    const ModelShape *shape;
    const Params *params; /* the layout; without memory while names and shapes are checked */
    Device *device;       /* NULL in that time */
    const NameTable *table;
    const char *prefix; /* the table's, or "" where a base model was saved alone */
    bool has_head;
} Import;

static bool shards_find(const Shards *shards, const char *name, int *file, int *tensor)
{
    for (*file = 0; *file < shards->count; ++*file) {
        *tensor = safetensors_find(shards->file[*file], name);
        if (*tensor >= 0)
            return true;
    }
    return false;
}

static Status shape_expect(const Safetensors *file, const SafetensorsEntry *entry, int ndim, const int64_t *shape)
{
    bool same = entry->ndim == ndim;
    for (int i = 0; i < ndim && same; i++)
        same = entry->shape[i] == shape[i];
    if (same)
        return status_ok();
    Text found = {0}, expected = {0};
    for (int i = 0; i < entry->ndim; i++)
        text_printf(&found, "%s%lld", i ? ", " : "", (long long)entry->shape[i]);
    for (int i = 0; i < ndim; i++)
        text_printf(&expected, "%s%lld", i ? ", " : "", (long long)shape[i]);
    Status status = status_error(STATUS_INPUT, "%s: tensor %s has shape (%s), expected (%s) by config.json",
                                 safetensors_path(file), entry->name, text_string(&found), text_string(&expected));
    text_free(&found);
    text_free(&expected);
    return status;
}

static bool kind_is_head(ViewKind kind)
{
    return kind == VIEW_HEAD || kind == VIEW_SCORE_WEIGHT || kind == VIEW_SCORE_BIAS;
}

/* Finds a row's tensor and says what will become of it. */
static Status row_plan(Import *import, const NameRow *row, int64_t layer)
{
    char name[NAME_BYTES_MAX];
    huggingface_row_name(row, import->prefix, layer, name, sizeof name);
    int file, tensor;
    bool found = shards_find(&import->shards, name, &file, &tensor);
    int index = params_index(import->params, row->kind, layer);
    Fate *fate = found ? &import->shards.fate[file][tensor] : NULL;
    if (found)
        fate->used = true;
    if (index < 0 || (!found && row->optional))
        return status_ok();
    if (!found && kind_is_head(row->kind)) {
        import->has_head = false;
        return status_ok();
    }
    if (!found)
        return status_error(STATUS_INPUT, "%s: tensor %s is missing", import->shards.directory, name);
    const ParamView *view = &import->params->view[index];
    int64_t from, rows, columns = view->shape[1];
    huggingface_part(import->shape, view, row->part, &from, &rows);
    int64_t expected[2] = {row->transposed ? columns : rows, row->transposed ? rows : columns};
    fate->row = row;
    fate->view = index;
    return shape_expect(import->shards.file[file], safetensors_entry(import->shards.file[file], tensor), view->ndim,
                        expected);
}

static bool is_ignored(const NameTable *table, const char *name)
{
    for (const char *const *ending = table->ignored; *ending; ending++)
        if (text_ends_with(name, *ending))
            return true;
    return false;
}

static Status tensors_plan(Import *import)
{
    char name[NAME_BYTES_MAX];
    int file, tensor;
    import->prefix = import->table->prefix;
    huggingface_row_name(&import->table->rows[0], import->prefix, 0, name, sizeof name);
    if (!shards_find(&import->shards, name, &file, &tensor)) {
        huggingface_row_name(&import->table->rows[0], "", 0, name, sizeof name);
        if (shards_find(&import->shards, name, &file, &tensor))
            import->prefix = "";
    }
    for (const NameRow *row = import->table->rows; row->name; row++) {
        int64_t layers = strstr(row->name, "%d") ? import->shape->layers : 1;
        for (int64_t layer = 0; layer < layers; layer++)
            TRY(row_plan(import, row, layer));
    }
    for (int f = 0; f < import->shards.count; f++)
        for (int t = 0; t < safetensors_count(import->shards.file[f]); t++) {
            const char *left = safetensors_entry(import->shards.file[f], t)->name;
            if (!import->shards.fate[f][t].used && !is_ignored(import->table, left))
                return status_error(STATUS_INPUT, "%s: tensor %s does not belong to a %s model of %lld layers",
                                    safetensors_path(import->shards.file[f]), left, import->shape->arch->name,
                                    (long long)import->shape->layers);
        }
    return status_ok();
}

/* --- The whole directory ------------------------------------------------------------------------------------------ */

/* `digest` NULL: nobody asks. */
static Status directory_load(Import *import, H5Digest *digest)
{
    const Shards *shards = &import->shards;
    size_t count = (size_t)shards->count + 1;
    H5Digest *all = memory_new(count, sizeof *all);
    char *config = text_join_path(shards->directory, "config.json");
    Status status = h5_digest_file(config, &all[0]);
    for (int i = 0; i < shards->count && !status_failed(status); i++)
        status = huggingface_shard_load(shards->file[i], shards->fate[i], import->shape, import->params, import->device,
                                        digest ? &all[i + 1] : NULL);
    if (digest && !status_failed(status))
        *digest = h5_digest_bytes(all, count * sizeof *all);
    memory_free(&config);
    memory_free(&all);
    return status;
}

/* Every tensor is found and has its shape, before memory is asked for on the word of a config.json. */
static Status import_check(Import *import, HeadKind head)
{
    Params layout;
    params_layout(&layout, import->shape, head);
    import->params = &layout;
    Status status = tensors_plan(import);
    params_free(&layout);
    return status;
}

Status huggingface_load(const char *directory, Device *device, HeadKind head, Model *model, bool *has_head,
                        H5Digest *digest)
{
    *model = (Model){0};
    ModelShape shape;
    TRY(huggingface_read_shape(directory, &shape));
    Import import = {.shape = &shape, .table = huggingface_names(shape.arch), .has_head = head != HEAD_NONE};
    Status status;
    TRY_GOTO(shards_open(&import.shards, directory), out);
    TRY_GOTO(import_check(&import, head), out);
    TRY_GOTO(model_open(model, device, &shape, head), out);
    import.params = &model->params;
    import.device = device;
    if (digest)
        *digest = (H5Digest){0};
    if (device->backend->computes)
        TRY_GOTO(directory_load(&import, digest), out);
    params_narrow(device, &model->params);
    if (has_head)
        *has_head = import.has_head;
out:
    shards_close(&import.shards);
    if (status_failed(status))
        model_close(model);
    return status;
}
