/* safetensors.c -- reading: the header is a stranger's, so every number in it is checked before it is used. */
#include "core/store/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/data/json.h"

enum { HEADER_BYTES_MAX = 100 << 20, PREFIX_BYTES = 8, CHUNK_ELEMENTS = 1 << 16 };

struct Safetensors {
    char *path;
    int descriptor;
    uint64_t bytes; /* of the file */
    json_t *header; /* keeps the names */
    SafetensorsEntry *entry;
    int count, capacity;
};

static const struct {
    const char *text;
    size_t size;
    bool known;
    DType dtype;
} types[] = {
    {"F32", 4, true, DTYPE_F32}, {"BF16", 2, true, DTYPE_BF16},   {"F16", 2, true, DTYPE_F16},
    {"F64", 8, true, DTYPE_F64}, {"I32", 4, true, DTYPE_I32},     {"I64", 8, true, DTYPE_I64},
    {"U8", 1, true, DTYPE_U8},   {"BOOL", 1, false, DTYPE_U8},    {"I8", 1, false, DTYPE_U8},
    {"I16", 2, false, DTYPE_U8}, {"U16", 2, false, DTYPE_U8},     {"U32", 4, false, DTYPE_U8},
    {"U64", 8, false, DTYPE_U8}, {"F8_E4M3", 1, false, DTYPE_U8}, {"F8_E5M2", 1, false, DTYPE_U8},
};
enum { TYPES = sizeof types / sizeof types[0] };

/* --- Header ------------------------------------------------------------------------------------------------------- */

static Status read_at(const Safetensors *file, void *bytes, size_t size, uint64_t offset)
{
    char *to = bytes;
    while (size > 0) {
        ssize_t got = pread(file->descriptor, to, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return status_error(STATUS_IO, "%s: %s", file->path, strerror(errno));
        if (got == 0)
            return status_error(STATUS_INPUT, "%s: the file ends at byte %llu, %zu bytes are missing", file->path,
                                (unsigned long long)offset, size);
        to += got;
        size -= (size_t)got;
        offset += (uint64_t)got;
    }
    return status_ok();
}

static Status entry_shape(const char *path, const json_t *object, SafetensorsEntry *entry)
{
    const json_t *shape = json_object_get(object, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_DIMS_MAX)
        return status_error(STATUS_INPUT, "%s: tensor %s: expected a shape of at most %d dimensions", path, entry->name,
                            SAFETENSORS_DIMS_MAX);
    entry->ndim = (int)json_array_size(shape);
    entry->elements = 1;
    for (int i = 0; i < entry->ndim; i++) {
        const json_t *extent = json_array_get(shape, (size_t)i);
        entry->shape[i] = json_is_integer(extent) ? json_integer_value(extent) : -1;
        if (entry->shape[i] < 0 || __builtin_mul_overflow(entry->elements, entry->shape[i], &entry->elements))
            return status_error(STATUS_INPUT, "%s: tensor %s: its shape is not one a file can hold", path, entry->name);
    }
    return status_ok();
}

static Status entry_read(const char *path, const char *name, const json_t *object, uint64_t data_offset,
                         uint64_t data_bytes, SafetensorsEntry *entry)
{
    *entry = (SafetensorsEntry){.name = name};
    const char *type = json_string_value(json_object_get(object, "dtype"));
    int row = 0;
    while (type && row < TYPES && strcmp(types[row].text, type) != 0)
        row++;
    if (!type || row == TYPES)
        return status_error(STATUS_INPUT, "%s: tensor %s: unknown dtype \"%.40s\"", path, name, type ? type : "");
    entry->dtype_text = types[row].text;
    entry->known = types[row].known;
    entry->dtype = types[row].dtype;
    TRY(entry_shape(path, object, entry));

    const json_t *offsets = json_object_get(object, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return status_error(STATUS_INPUT, "%s: tensor %s: expected two whole numbers in data_offsets", path, name);
    json_int_t first = json_integer_value(from), last = json_integer_value(to);
    if (first < 0 || last < first || (uint64_t)last > data_bytes)
        return status_error(STATUS_INPUT, "%s: tensor %s: its data are bytes %lld to %lld of %llu", path, name,
                            (long long)first, (long long)last, (unsigned long long)data_bytes);
    int64_t bytes;
    if (__builtin_mul_overflow(entry->elements, (int64_t)types[row].size, &bytes) || bytes != last - first)
        return status_error(STATUS_INPUT, "%s: tensor %s: %lld bytes of data for %lld elements of %s", path, name,
                            (long long)(last - first), (long long)entry->elements, type);
    entry->bytes = (size_t)bytes;
    entry->offset = data_offset + (uint64_t)first;
    return status_ok();
}

static int entry_order(const void *a, const void *b)
{
    const SafetensorsEntry *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    /* Empty tensors share an offset with their neighbour. */
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static Status header_read(Safetensors *file)
{
    struct stat info;
    if (fstat(file->descriptor, &info) != 0)
        return status_error(STATUS_IO, "%s: %s", file->path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size < PREFIX_BYTES)
        return status_error(STATUS_INPUT, "%s: not a safetensors file: too short for a header", file->path);
    file->bytes = (uint64_t)info.st_size;
    uint8_t prefix[PREFIX_BYTES];
    TRY(read_at(file, prefix, sizeof prefix, 0));
    uint64_t size = 0, rest = (uint64_t)info.st_size - PREFIX_BYTES;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        size = size << 8 | prefix[i];
    if (size > rest || size > HEADER_BYTES_MAX)
        return status_error(STATUS_INPUT, "%s: not a safetensors file: a header of %llu bytes in a file of %lld",
                            file->path, (unsigned long long)size, (long long)info.st_size);
    char *text = memory_new((size_t)size, 1);
    Status status = read_at(file, text, (size_t)size, PREFIX_BYTES);
    if (!status_failed(status))
        status = json_read_bytes(file->path, text, (size_t)size, &file->header);
    memory_free(&text);
    TRY(status);
    if (!json_is_object(file->header))
        return status_error(STATUS_INPUT, "%s: not a safetensors file: the header is no JSON object", file->path);

    uint64_t data_offset = PREFIX_BYTES + size, data_bytes = rest - size;
    const char *name;
    json_t *value;
    json_object_foreach(file->header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        memory_reserve(&file->entry, file->count, &file->capacity);
        TRY(entry_read(file->path, name, value, data_offset, data_bytes, &file->entry[file->count]));
        file->count++;
    }
    if (file->count)
        qsort(file->entry, (size_t)file->count, sizeof *file->entry, entry_order);
    uint64_t end = data_offset;
    for (int i = 0; i < file->count; i++) {
        if (file->entry[i].offset != end)
            return status_error(STATUS_INPUT,
                                "%s: tensor %s begins at byte %llu, expected %llu: data overlap or leave a "
                                "hole",
                                file->path, file->entry[i].name, (unsigned long long)file->entry[i].offset,
                                (unsigned long long)end);
        end += file->entry[i].bytes;
    }
    if (end != (uint64_t)info.st_size)
        return status_error(STATUS_INPUT, "%s: %llu bytes after the last tensor", file->path,
                            (unsigned long long)info.st_size - (unsigned long long)end);
    return status_ok();
}

Status safetensors_open(const char *path, Safetensors **file)
{
    *file = NULL;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return status_error(STATUS_IO, "%s: %s", path, strerror(errno));
    posix_fadvise(descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
    Safetensors *opened = memory_new(1, sizeof *opened);
    opened->path = memory_strdup(path);
    opened->descriptor = descriptor;
    Status status = header_read(opened);
    if (status_failed(status))
        safetensors_close(&opened);
    *file = opened;
    return status;
}

void safetensors_close(Safetensors **file)
{
    if (!*file)
        return;
    close((*file)->descriptor);
    json_decref((*file)->header);
    memory_free(&(*file)->entry);
    memory_free(&(*file)->path);
    memory_free(file);
}

/* --- Access ------------------------------------------------------------------------------------------------------- */

const char *safetensors_path(const Safetensors *file)
{
    return file->path;
}

int safetensors_count(const Safetensors *file)
{
    return file->count;
}

const SafetensorsEntry *safetensors_entry(const Safetensors *file, int index)
{
    REQUIRE(index >= 0 && index < file->count, "tensor %d of %d", index, file->count);
    return &file->entry[index];
}

int safetensors_find(const Safetensors *file, const char *name)
{
    for (int i = 0; i < file->count; i++)
        if (strcmp(file->entry[i].name, name) == 0)
            return i;
    return -1;
}

Status safetensors_read(const Safetensors *file, int index, void *bytes)
{
    const SafetensorsEntry *entry = safetensors_entry(file, index);
    return read_at(file, bytes, entry->bytes, entry->offset);
}

Status safetensors_check_float(const Safetensors *file, int index)
{
    const SafetensorsEntry *entry = safetensors_entry(file, index);
    bool good = entry->known && (entry->dtype == DTYPE_F32 || entry->dtype == DTYPE_BF16 || entry->dtype == DTYPE_F16);
    return good ? status_ok()
                : status_error(STATUS_INPUT, "%s: tensor %s is %s, expected F32, BF16 or F16", file->path, entry->name,
                               entry->dtype_text);
}

Status safetensors_read_f32(const Safetensors *file, int index, float *values)
{
    const SafetensorsEntry *entry = safetensors_entry(file, index);
    TRY(safetensors_check_float(file, index));
    if (entry->dtype == DTYPE_F32)
        return safetensors_read(file, index, values);
    uint16_t *chunk = memory_new(CHUNK_ELEMENTS, sizeof *chunk);
    Status status = status_ok();
    for (int64_t from = 0; from < entry->elements; from += CHUNK_ELEMENTS) {
        int64_t rest = entry->elements - from;
        size_t count = (size_t)(rest < CHUNK_ELEMENTS ? rest : CHUNK_ELEMENTS);
        status = read_at(file, chunk, count * sizeof *chunk, entry->offset + (uint64_t)from * sizeof *chunk);
        if (status_failed(status))
            break;
        dtype_to_f32(entry->dtype, chunk, values + from, count);
    }
    memory_free(&chunk);
    return status;
}

Status safetensors_read_bytes(const Safetensors *file, uint64_t from, void *bytes, size_t size)
{
    return read_at(file, bytes, size, from);
}

uint64_t safetensors_bytes(const Safetensors *file)
{
    return file->bytes;
}

void safetensors_remember(const Safetensors *file, H5Digest digest)
{
    h5_digest_remember(file->descriptor, digest);
}
