/* h5_write.c -- the writer: a file grows under a temporary name while every rank adds what it holds. How it becomes an
 * artifact is in h5_finish.c. */
#include "core/h5/h5_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"

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

static Status create_empty(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return status_error(STATUS_IO, "%s: cannot create: %s", path, strerror(errno));
    close(fd);
    return status_ok();
}

static hid_t create_hdf5(H5Writer *writer)
{
    hid_t access = h5_library_access();
    if (writer->size > 1) {
        const MPI_Comm *mpi = comm_mpi_handle(writer->comm);
        REQUIRE(mpi != NULL, "a Comm of %d ranks has no MPI communicator", writer->size);
        REQUIRE(H5Pset_fapl_mpio(access, *mpi, MPI_INFO_NULL) >= 0, "HDF5 refuses MPI");
    }
    hid_t creation = object_properties(H5P_FILE_CREATE);
    REQUIRE(H5Pset_userblock(creation, H5_SEAL_BYTES) >= 0, "HDF5 refuses a user block");
    hid_t file = H5Fcreate(writer->temporary, H5F_ACC_TRUNC, creation, access);
    if (file < 0)
        h5_writer_fail(writer, h5_library_error(STATUS_IO, "%s: cannot create", writer->temporary));
    H5Pclose(creation);
    H5Pclose(access);
    return file;
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
    writer->file = -1;
    long pid = (long)getpid();
    if (writer->size > 1)
        comm_broadcast(comm, 0, &pid, sizeof pid);
    writer->temporary = h5_temporary_name(path, pid);
    /* First by the plain system calls: their errors say more, and no rank enters MPI-IO where another cannot. */
    Status status = status_ok();
    if (writer->rank == 0)
        status = create_empty(writer->temporary);
    TRY_GOTO(h5_team_agree(comm, status), failed);
    if (writer->rank != 0)
        status = create_empty(writer->temporary);
    TRY_GOTO(h5_team_agree(comm, status), failed);
    writer->file = create_hdf5(writer);
    TRY_GOTO(h5_team_agree(comm, h5_writer_status(writer)), failed);
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

Status h5_writer_create(H5Writer *writer, H5Growing *dataset)
{
    TRY(h5_writer_groups(writer, dataset->path));
    hsize_t extents[H5_DIMS_MAX];
    for (int i = 0; i < dataset->ndim; i++)
        extents[i] = (hsize_t)dataset->shape[i];
    hid_t creation = object_properties(H5P_DATASET_CREATE);
    /* Space at once and no fill: every element gets written, and all ranks see the same place. */
    REQUIRE(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY) >= 0 &&
                H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER) >= 0,
            "HDF5 refuses dataset properties");
    hid_t type = h5_library_type(dataset->dtype);
    hid_t space = H5Screate_simple(dataset->ndim, extents, NULL);
    dataset->id = H5Dcreate2(writer->file, dataset->path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    Status status = status_ok();
    if (dataset->id < 0)
        status = h5_library_error(STATUS_IO, "%s: cannot make dataset %s", writer->temporary, dataset->path);
    else if (dataset->bytes > 0)
        dataset->offset = H5Dget_offset(dataset->id);
    H5Sclose(space);
    H5Tclose(type);
    H5Pclose(creation);
    return status;
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
    H5Growing dataset = {.kind = kind, .dtype = dtype, .ndim = ndim, .elements = 1, .id = -1};
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
    /* Even after a failure on this rank: the others are inside the same collective call. */
    Status status = h5_writer_create(writer, added);
    h5_writer_fail(writer, status);
}

typedef struct BoxWrite {
    H5Writer *writer;
    H5Growing *dataset;
    hid_t type;
    const char *elements;
} BoxWrite;

static Status write_box(void *self, const hsize_t *start, const hsize_t *count, int64_t elements)
{
    BoxWrite *box = self;
    hsize_t flat = (hsize_t)elements;
    hid_t memory = H5Screate_simple(1, &flat, NULL);
    hid_t space = H5Dget_space(box->dataset->id);
    Status status = status_ok();
    if (memory < 0 || space < 0 || H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Dwrite(box->dataset->id, box->type, memory, space, H5P_DEFAULT, box->elements) < 0)
        status = h5_library_error(STATUS_IO, "%s: cannot write %s", box->writer->temporary, box->dataset->path);
    H5Sclose(space);
    H5Sclose(memory);
    box->elements += (size_t)elements * dtype_size(box->dataset->dtype);
    return status;
}

void h5_write_elements(H5Writer *writer, const char *path, int64_t first, int64_t count, const void *elements)
{
    H5Growing *dataset = find_growing(writer, path);
    REQUIRE(dataset != NULL, "%s: no h5_write_dataset before its elements", path);
    REQUIRE(first >= 0 && count >= 0 && first <= dataset->elements && count <= dataset->elements - first,
            "%s: elements [%" PRId64 ", +%" PRId64 ") of %" PRId64, path, first, count, dataset->elements);
    if (writer->failed != STATUS_OK || count == 0)
        return;
    BoxWrite box = {writer, dataset, h5_library_type(dataset->dtype), elements};
    h5_writer_fail(writer, h5_library_boxes(dataset->ndim, dataset->shape, first, count, write_box, &box));
    H5Tclose(box.type);
    dataset->written += count;
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
