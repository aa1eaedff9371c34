/* h5_write.c -- the writer: a file grows under a temporary name while every rank adds what it holds. How it becomes an
 * artifact is in h5_finish.c.
 *
 * How:   rank 0 alone has the file open in HDF5, which lays out names and shapes; it tells the others where a dataset's
 *        elements lie, and every rank's threads write its own there with plain system calls, a block each, hashing them on the way.
 * Why:   nothing inside HDF5 is collective, so a rank that meets a full disk cannot leave the others waiting in it;
 *        and no byte is read back to be hashed. */
#define _GNU_SOURCE /* fallocate, sync_file_range */
#include "core/h5/h5_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/base/work.h"

int h5_team_rank(Comm *comm)
{
    return comm == NULL ? 0 : comm_rank(comm);
}

int h5_team_size(Comm *comm)
{
    return comm == NULL ? 1 : comm_size(comm);
}

Status h5_team_agree(Comm *comm, Status local)
{
    return comm == NULL ? local : comm_agree(comm, local);
}

void h5_writer_fail(H5Writer *writer, Status status)
{
    if (!status_failed(status) || writer->failed != STATUS_OK)
        return;
    writer->failed = status.code;
    writer->failure = memory_strdup(status_message());
}

/* Properties of an object that says nothing of when it was made. */
static hid_t object_properties(hid_t class)
{
    hid_t properties = H5Pcreate(class);
    REQUIRE(properties >= 0 && H5Pset_obj_track_times(properties, false) >= 0, "HDF5 refuses object properties");
    return properties;
}

static Status create_hdf5(H5Writer *writer)
{
    hid_t access = h5_library_access(), creation = object_properties(H5P_FILE_CREATE);
    REQUIRE(H5Pset_userblock(creation, H5_SEAL_BYTES) >= 0, "HDF5 refuses a user block");
    writer->file = H5Fcreate(writer->temporary, H5F_ACC_TRUNC, creation, access);
    H5Pclose(creation);
    H5Pclose(access);
    return writer->file >= 0 ? status_ok() : h5_library_error(STATUS_IO, "%s: cannot create", writer->temporary);
}

/* Rank 0 first, then the others, which do not create: where they find nothing, they do not see the same directory. */
static Status open_temporary(H5Writer *writer)
{
    writer->fd = open(writer->temporary, O_RDWR | O_CLOEXEC | (writer->rank == 0 ? O_CREAT : 0), 0666);
    if (writer->fd < 0)
        return status_error(STATUS_IO, "%s: cannot %s: %s", writer->temporary, writer->rank == 0 ? "create" : "open",
                            strerror(errno));
    return writer->rank == 0 ? create_hdf5(writer) : status_ok();
}

Status h5_writer_open(Comm *comm, const char *path, const char *format, int64_t format_version, H5Writer **result)
{
    *result = NULL;
    h5_library_start();
    H5Writer *writer = memory_new(1, sizeof *writer);
    writer->comm = comm;
    writer->rank = h5_team_rank(comm);
    writer->size = h5_team_size(comm);
    writer->path = memory_strdup(path);
    writer->fd = writer->direct = -1;
    writer->file = -1;
    long pid = (long)getpid();
    if (writer->size > 1)
        comm_broadcast(comm, 0, &pid, sizeof pid);
    writer->temporary = h5_temporary_name(path, pid);
    Status status = status_ok();
    if (writer->rank == 0)
        status = open_temporary(writer);
    TRY_GOTO(h5_team_agree(comm, status), failed);
    if (writer->rank != 0)
        status = open_temporary(writer);
    TRY_GOTO(h5_team_agree(comm, status), failed);
    h5_write_string(writer, H5_SEMANTIC, "/", "format", format);
    h5_write_int(writer, H5_SEMANTIC, "/", "format_version", format_version);
    *result = writer;
    return status;
failed:
    return h5_writer_abandon(writer, status);
}

/* --- Attributes: kept until the end, written by rank 0 ------------------------------------------------------------- */

static H5Attribute *attribute_slot(H5Writer *writer, H5Kind kind, const char *object, const char *name)
{
    REQUIRE(object[0] == '/' && (object[1] == 0 || object[strlen(object) - 1] != '/'), "bad path \"%s\"", object);
    REQUIRE(strcmp(name, "digest") != 0 && strcmp(name, "dtype") != 0 && strcmp(name, "operational") != 0 && *name != 0,
            "the attribute name \"%s\" is reserved", name);
    for (int i = 0; i < writer->attributes_count; i++) {
        H5Attribute *attribute = &writer->attributes[i];
        if (strcmp(attribute->object, object) == 0 && strcmp(attribute->name, name) == 0) {
            memory_release((void *)attribute->string);
            attribute->string = NULL;
            attribute->kind = kind;
            return attribute;
        }
    }
    memory_reserve(&writer->attributes, writer->attributes_count, &writer->attributes_capacity);
    H5Attribute *attribute = &writer->attributes[writer->attributes_count++];
    *attribute = (H5Attribute){.object = memory_strdup(object), .name = memory_strdup(name), .kind = kind};
    return attribute;
}

void h5_write_int(H5Writer *writer, H5Kind kind, const char *object, const char *name, int64_t value)
{
    H5Attribute *attribute = attribute_slot(writer, kind, object, name);
    attribute->type = H5_INT;
    attribute->integer = value;
}

void h5_write_real(H5Writer *writer, H5Kind kind, const char *object, const char *name, double value)
{
    H5Attribute *attribute = attribute_slot(writer, kind, object, name);
    attribute->type = H5_REAL;
    attribute->real = value;
}

void h5_write_string(H5Writer *writer, H5Kind kind, const char *object, const char *name, const char *value)
{
    char *copy = memory_strdup(value); /* before the slot frees the old one, which `value` may be */
    H5Attribute *attribute = attribute_slot(writer, kind, object, name);
    attribute->type = H5_STRING;
    attribute->string = copy;
}

/* --- Datasets ------------------------------------------------------------------------------------------------------ */

Status h5_writer_groups(H5Writer *writer, const char *path)
{
    Status status = status_ok();
    char *prefix = memory_strdup(path);
    for (char *slash = strchr(prefix + 1, '/'); !status_failed(status) && slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        bool known = false;
        for (int i = 0; i < writer->groups_count && !known; i++)
            known = strcmp(writer->groups[i], prefix) == 0;
        if (!known) {
            hid_t creation = object_properties(H5P_GROUP_CREATE);
            hid_t group = H5Gcreate2(writer->file, prefix, H5P_DEFAULT, creation, H5P_DEFAULT);
            if (group < 0)
                status = h5_library_error(STATUS_IO, "%s: cannot make group %s", writer->temporary, prefix);
            else
                H5Gclose(group);
            H5Pclose(creation);
            memory_reserve(&writer->groups, writer->groups_count, &writer->groups_capacity);
            writer->groups[writer->groups_count++] = memory_strdup(prefix);
        }
        *slash = '/';
    }
    memory_free(&prefix);
    return status;
}

Status h5_writer_create(H5Writer *writer, H5Growing *dataset, const void *elements)
{
    TRY(h5_writer_groups(writer, dataset->path));
    hsize_t extents[H5_DIMS_MAX];
    for (int i = 0; i < dataset->ndim; i++)
        extents[i] = (hsize_t)dataset->shape[i];
    hid_t creation = object_properties(H5P_DATASET_CREATE);
    /* Space at once and no fill: every element gets written, and its place must be known before. */
    REQUIRE(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
                H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0,
            "HDF5 refuses dataset properties");
    hid_t type = h5_library_type(dataset->dtype);
    hid_t space = H5Screate_simple(dataset->ndim, extents, NULL);
    hid_t id = H5Dcreate2(writer->file, dataset->path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    Status status = status_ok();
    if (id < 0)
        status = h5_library_error(STATUS_IO, "%s: cannot make dataset %s", writer->temporary, dataset->path);
    else if (dataset->bytes > 0)
        dataset->offset = H5Dget_offset(id);
    if (id >= 0 && elements != NULL && H5Dwrite(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, elements) < 0)
        status = h5_library_error(STATUS_IO, "%s: cannot write %s", writer->temporary, dataset->path);
    if (id >= 0)
        H5Dclose(id);
    H5Sclose(space);
    H5Tclose(type);
    H5Pclose(creation);
    return status;
}

/* The disk's space for a dataset, before anybody writes to it: a full disk then shows here, on rank 0, and threads that write past the cache do not
 * wait for each other to make the file longer. A file system that cannot reserve shows it when it is written. */
static Status reserve_space(const H5Writer *writer, const H5Growing *dataset)
{
    if (dataset->bytes < H5_LARGE_BYTES || fallocate(writer->fd, 0, (off_t)dataset->offset, (off_t)dataset->bytes) == 0)
        return status_ok();
    if (errno != ENOSPC && errno != EFBIG && errno != EDQUOT)
        return status_ok();
    return status_error(STATUS_IO, "%s: no room for %s of %s: %s", writer->temporary,
                        text_bytes((double)dataset->bytes), dataset->path, strerror(errno));
}

static H5Growing *find_growing(H5Writer *writer, const char *path)
{
    /* Calls for one dataset come together, so the last one found is mostly the one. */
    if (writer->recent < writer->datasets_count && strcmp(writer->datasets[writer->recent].path, path) == 0)
        return &writer->datasets[writer->recent];
    for (int i = 0; i < writer->datasets_count; i++)
        if (strcmp(writer->datasets[i].path, path) == 0) {
            writer->recent = i;
            return &writer->datasets[i];
        }
    return NULL;
}

void h5_write_dataset(H5Writer *writer, H5Kind kind, const char *path, DType dtype, int ndim, const int64_t *shape)
{
    REQUIRE(path[0] == '/' && path[1] != 0 && path[strlen(path) - 1] != '/' && strcmp(path, "/digests") != 0,
            "bad dataset path \"%s\"", path);
    REQUIRE(ndim >= 1 && ndim <= H5_DIMS_MAX, "%s: %d dimensions", path, ndim);
    REQUIRE(find_growing(writer, path) == NULL, "%s is written twice", path);
    H5Growing dataset = {.kind = kind, .dtype = dtype, .ndim = ndim, .elements = 1};
    for (int i = 0; i < ndim; i++) {
        REQUIRE(shape[i] >= 0, "%s: extent %" PRId64, path, shape[i]);
        dataset.shape[i] = shape[i];
        REQUIRE(!__builtin_mul_overflow(dataset.elements, shape[i], &dataset.elements), "%s: too large", path);
    }
    REQUIRE(!__builtin_mul_overflow((size_t)dataset.elements, dtype_size(dtype), &dataset.bytes), "%s: too large",
            path);
    dataset.path = memory_strdup(path);
    memory_reserve(&writer->datasets, writer->datasets_count, &writer->datasets_capacity);
    H5Growing *added = &writer->datasets[writer->datasets_count++];
    *added = dataset;
    added->block = memory_new((size_t)h5_blocks_count(added->bytes), sizeof *added->block);
    added->hashed = memory_new((size_t)h5_blocks_count(added->bytes), 1);
    if (writer->rank == 0 && writer->failed == STATUS_OK) {
        Status status = h5_writer_create(writer, added, NULL);
        h5_writer_fail(writer, status_failed(status) ? status : reserve_space(writer, added));
    }
    if (writer->size > 1)
        comm_broadcast(writer->comm, 0, &added->offset, sizeof added->offset);
}

/* --- Elements ------------------------------------------------------------------------------------------------------ */

/* What of a write lies in one block. */
typedef struct Part {
    H5Growing *dataset;
    size_t at, end; /* bytes of the dataset */
    bool whole;     /* the block is here as a whole */
    const char *bytes;
} Part;

typedef struct Parts {
    H5Writer *writer;
    Part *items;
    int64_t count, capacity;
    size_t bytes;
} Parts;

static void add_parts(Parts *parts, const H5Write *write)
{
    H5Growing *dataset = find_growing(parts->writer, write->path);
    REQUIRE(dataset != NULL, "%s: no h5_write_dataset before its elements", write->path);
    REQUIRE(write->first >= 0 && write->count >= 0 && write->first <= dataset->elements &&
                write->count <= dataset->elements - write->first,
            "%s: elements [%" PRId64 ", +%" PRId64 ") of %" PRId64, write->path, write->first, write->count,
            dataset->elements);
    if (parts->writer->failed != STATUS_OK || dataset->offset == 0)
        return;
    size_t width = dtype_size(dataset->dtype);
    size_t from = (size_t)write->first * width, end = from + (size_t)write->count * width;
    for (size_t at = from, next; at < end; at = next) {
        next = h5_block_end(at, end);
        bool whole = at % H5_BLOCK_BYTES == 0 && next == h5_block_end(at, dataset->bytes);
        dataset->hashed[at / H5_BLOCK_BYTES] = whole;
        memory_reserve(&parts->items, parts->count, &parts->capacity);
        parts->items[parts->count++] = (Part){dataset, at, next, whole, (const char *)write->elements + (at - from)};
    }
    parts->bytes += end - from;
    dataset->written += write->count;
}

/* A block that is here as a whole is hashed, and goes to the disk or begins its way there: the disk works while the next one is copied, and the
 * sync at the end finds little left. One in parts will be read back to be hashed, and stays in the cache. */
static Status write_one(void *context, int64_t index, int worker)
{
    const Parts *parts = context;
    const Part *part = &parts->items[index];
    H5Writer *writer = parts->writer;
    H5Growing *dataset = part->dataset;
    uint64_t offset = dataset->offset + part->at;
    size_t size = part->end - part->at, done = 0;
    if (part->whole)
        dataset->block[part->at / H5_BLOCK_BYTES] = h5_digest_bytes(part->bytes, size);
    if (part->whole && writer->direct >= 0)
        done = h5_direct_write(writer, offset, part->bytes, size, h5_room(&writer->rooms, worker));
    TRY(h5_raw_write(writer->fd, writer->temporary, offset + done, part->bytes + done, size - done));
    if (done == 0 && size == H5_BLOCK_BYTES)
        sync_file_range(writer->fd, (off_t)offset, H5_BLOCK_BYTES, SYNC_FILE_RANGE_WRITE);
    return status_ok();
}

void h5_write_many(H5Writer *writer, const H5Write *writes, int64_t count)
{
    Parts parts = {.writer = writer};
    for (int64_t i = 0; i < count; i++)
        add_parts(&parts, &writes[i]);
    Status status = status_ok();
    if (parts.bytes > H5_BLOCK_BYTES)
        status = work_run_waiting(parts.count, write_one, &parts);
    else /* too little to wake threads for */
        for (int64_t i = 0; i < parts.count && !status_failed(status); i++)
            status = write_one(&parts, i, 0);
    h5_writer_fail(writer, status);
    memory_free(&parts.items);
}

void h5_write_elements(H5Writer *writer, const char *path, int64_t first, int64_t count, const void *elements)
{
    h5_write_many(writer, &(H5Write){path, first, count, elements}, 1);
}

void h5_write_rows(H5Writer *writer, const char *path, int64_t first, int64_t rows, const void *elements)
{
    H5Growing *dataset = find_growing(writer, path);
    REQUIRE(dataset != NULL, "%s: no h5_write_dataset before its rows", path);
    REQUIRE(first >= 0 && rows >= 0 && first <= dataset->shape[0] && rows <= dataset->shape[0] - first,
            "%s: rows [%" PRId64 ", +%" PRId64 ") of %" PRId64, path, first, rows, dataset->shape[0]);
    int64_t width = dataset->shape[0] > 0 ? dataset->elements / dataset->shape[0] : 0;
    h5_write_elements(writer, path, first * width, rows * width, elements);
}

void h5_write_whole(H5Writer *writer, H5Kind kind, const char *path, DType dtype, int ndim, const int64_t *shape,
                    const void *elements)
{
    h5_write_dataset(writer, kind, path, dtype, ndim, shape);
    if (writer->rank == 0)
        h5_write_elements(writer, path, 0, find_growing(writer, path)->elements, elements);
}
