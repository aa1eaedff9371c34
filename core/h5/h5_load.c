/* h5_load.c -- from an open HDF5 file to lists of datasets and attributes, with every size checked against the file
 * before anybody allocates by it; and the elements of foreign datasets, which only HDF5 can find. */
#include "core/h5/h5_parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/text.h"

enum {
    STRING_BYTES_MAX = 64 << 20, /* of one attribute */
    INFLATION_MAX = 2048         /* elements' bytes per byte of a foreign file: above what deflate can do */
};

typedef struct Loader {
    H5File *file;
    const char *object; /* whose attributes are being read */
    int datasets_capacity, attributes_capacity, places_capacity;
    int places_count;
    char *operational;
    Status status;
} Loader;

/* --- Attributes ---------------------------------------------------------------------------------------------------- */

/* A string of fixed or variable length as a fresh C string; NULL: unreadable. */
static char *take_string(hid_t attribute, hid_t type)
{
    if (H5Tis_variable_str(type) > 0) {
        hid_t memory = H5Tcopy(H5T_C_S1);
        H5Tset_size(memory, H5T_VARIABLE);
        H5Tset_cset(memory, H5Tget_cset(type));
        char *shared = NULL, *string = NULL;
        if (H5Aread(attribute, memory, &shared) >= 0) {
            string = memory_strdup(shared ? shared : "");
            if (shared)
                H5free_memory(shared);
        }
        H5Tclose(memory);
        return string;
    }
    size_t size = H5Tget_size(type);
    if (size > STRING_BYTES_MAX)
        return NULL;
    char *string = memory_new(size + 1, 1);
    if (H5Aread(attribute, type, string) < 0)
        memory_free(&string);
    return string;
}

static bool take_value(hid_t attribute, H5Attribute *taken)
{
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    bool good = false;
    if (type >= 0 && space >= 0 && H5Sget_simple_extent_npoints(space) == 1) {
        switch (H5Tget_class(type)) {
        case H5T_INTEGER:
            taken->type = H5_INT;
            good = H5Aread(attribute, H5T_NATIVE_INT64, &taken->integer) >= 0;
            break;
        case H5T_FLOAT:
            taken->type = H5_REAL;
            good = H5Aread(attribute, H5T_NATIVE_DOUBLE, &taken->real) >= 0;
            break;
        case H5T_STRING:
            taken->type = H5_STRING;
            taken->string = take_string(attribute, type);
            good = taken->string != NULL;
            break;
        default:
            break;
        }
    }
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return good;
}

static herr_t load_attribute(hid_t object, const char *name, const H5A_info_t *info, void *client)
{
    (void)info;
    Loader *loader = client;
    H5File *file = loader->file;
    hid_t id = H5Aopen(object, name, H5P_DEFAULT);
    H5Attribute attribute = {0};
    bool good = id >= 0 && take_value(id, &attribute);
    if (id >= 0)
        H5Aclose(id);
    /* Attributes of other kinds (arrays, references) are no business of ours; in our own file there are none. */
    if (!good && file->sealed) {
        loader->status =
            h5_library_error(STATUS_INPUT, "%s: %s@%s: cannot read attribute", file->path, loader->object, name);
        return -1;
    }
    if (!good)
        return 0;
    bool root = strcmp(loader->object, "/") == 0;
    if (root && strcmp(name, "operational") == 0 && attribute.type == H5_STRING) {
        memory_free(&loader->operational);
        loader->operational = (char *)attribute.string;
        return 0;
    }
    attribute.object = memory_strdup(loader->object);
    attribute.name = memory_strdup(name);
    memory_reserve(&file->attributes, file->attributes_count, &loader->attributes_capacity);
    file->attributes[file->attributes_count++] = attribute;
    return 0;
}

/* Take an attribute of `object` out of the list again: digest and dtype belong to the format, not to the contents. */
static bool withdraw(H5File *file, const char *object, const char *name, H5Attribute *taken)
{
    for (int i = file->attributes_count - 1; i >= 0; i--) {
        H5Attribute *attribute = &file->attributes[i];
        if (strcmp(attribute->object, object) != 0)
            return false;
        if (strcmp(attribute->name, name) == 0) {
            *taken = *attribute;
            memmove(attribute, attribute + 1, (size_t)(file->attributes_count - 1 - i) * sizeof *attribute);
            file->attributes_count--;
            return true;
        }
    }
    return false;
}

static void drop_attribute(H5Attribute *attribute)
{
    memory_release((void *)attribute->object);
    memory_release((void *)attribute->name);
    memory_release((void *)attribute->string);
    *attribute = (H5Attribute){0};
}

/* --- Datasets ------------------------------------------------------------------------------------------------------ */

/* Shape of a dataset, with its size checked against the file's. */
static bool take_shape(const H5File *file, hid_t id, H5Dataset *dataset)
{
    hid_t space = H5Dget_space(id);
    hsize_t extents[H5_DIMS_MAX];
    int ndim = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    bool good = ndim >= 1 && ndim <= H5_DIMS_MAX && H5Sget_simple_extent_dims(space, extents, NULL) == ndim;
    if (space >= 0)
        H5Sclose(space);
    if (!good)
        return false;
    dataset->ndim = ndim;
    dataset->elements = 1;
    for (int i = 0; i < ndim; i++) {
        if (extents[i] > INT64_MAX)
            return false;
        dataset->shape[i] = (int64_t)extents[i];
        if (__builtin_mul_overflow(dataset->elements, dataset->shape[i], &dataset->elements))
            return false;
    }
    if (__builtin_mul_overflow((size_t)dataset->elements, dtype_size(dataset->dtype), &dataset->bytes))
        return false;
    uint64_t limit = file->sealed ? file->bytes : file->bytes * INFLATION_MAX;
    return dataset->bytes <= limit;
}

/* A compact dataset lies in its object's header, and HDF5 1.10 copies by the shape however little is there. */
static bool compact_is_whole(hid_t id, hid_t type, int64_t elements)
{
    hid_t creation = H5Dget_create_plist(id);
    bool compact = creation < 0 || H5Pget_layout(creation) == H5D_COMPACT;
    if (creation >= 0)
        H5Pclose(creation);
    return !compact || H5Dget_storage_size(id) == (hsize_t)elements * H5Tget_size(type);
}

static Status load_digests(H5File *file, hid_t id, const H5Dataset *dataset)
{
    if (dataset->dtype != DTYPE_U8 || dataset->ndim != 2 || dataset->shape[1] != (int64_t)sizeof(H5Digest))
        return status_error(STATUS_INPUT, "%s: /digests: expected u8 (blocks, 16), found %s", file->path,
                            h5_shape_text(dataset->dtype, dataset->ndim, dataset->shape));
    file->blocks_count = dataset->shape[0];
    file->blocks = memory_new((size_t)file->blocks_count, sizeof *file->blocks);
    if (file->blocks_count > 0 && H5Dread(id, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, file->blocks) < 0)
        return h5_library_error(STATUS_INPUT, "%s: cannot read /digests", file->path);
    return status_ok();
}

static Status load_open_dataset(Loader *loader, hid_t id, const char *path)
{
    H5File *file = loader->file;
    H5Dataset dataset = {0};
    H5Place place = {0};
    H5Attribute attribute = {0};
    char dtype_named[16] = "";
    if (withdraw(file, path, "dtype", &attribute) && attribute.type == H5_STRING)
        memccpy(dtype_named, attribute.string, 0, sizeof dtype_named - 1);
    drop_attribute(&attribute);
    bool digested = withdraw(file, path, "digest", &attribute) && attribute.type == H5_STRING &&
                    h5_digest_parse(attribute.string, &place.stored);
    drop_attribute(&attribute);

    hid_t type = H5Dget_type(id);
    bool exact = false;
    bool good = type >= 0 && h5_library_dtype(type, dtype_named, &dataset.dtype, &exact) &&
                take_shape(file, id, &dataset) && (file->sealed || compact_is_whole(id, type, dataset.elements));
    if (type >= 0)
        H5Tclose(type);
    if (good && file->sealed && strcmp(path, "/digests") == 0)
        return load_digests(file, id, &dataset);
    if (good && file->sealed) {
        if (dataset.bytes > 0)
            place.offset = H5Dget_offset(id);
        good =
            exact && digested &&
            (dataset.bytes == 0 || (place.offset != HADDR_UNDEF && place.offset >= H5_SEAL_BYTES &&
                                    place.offset <= file->hdf5_end && dataset.bytes <= file->hdf5_end - place.offset));
    }
    if (!good && file->sealed)
        return status_error(STATUS_INPUT, "%s: %s: not a dataset of this format", file->path, path);
    if (!good)
        return status_ok(); /* strings, compounds and the like, or a size that cannot be: not there for us */
    dataset.path = memory_strdup(path);
    memory_reserve(&file->places, loader->places_count, &loader->places_capacity);
    file->places[loader->places_count++] = place;
    memory_reserve(&file->datasets, file->datasets_count, &loader->datasets_capacity);
    file->datasets[file->datasets_count++] = dataset;
    return status_ok();
}

static herr_t load_object(hid_t root, const char *name, const H5O_info_t *info, void *client)
{
    Loader *loader = client;
    if (info->type != H5O_TYPE_GROUP && info->type != H5O_TYPE_DATASET)
        return 0;
    Text path = {0};
    text_printf(&path, "/%s", strcmp(name, ".") == 0 ? "" : name);
    hid_t id = H5Oopen(root, name, H5P_DEFAULT);
    loader->object = path.bytes;
    if (id < 0)
        loader->status = h5_library_error(STATUS_INPUT, "%s: cannot open %s", loader->file->path, path.bytes);
    else if (H5Aiterate2(id, H5_INDEX_NAME, H5_ITER_INC, NULL, load_attribute, loader) < 0 &&
             !status_failed(loader->status))
        loader->status =
            h5_library_error(STATUS_INPUT, "%s: %s: cannot list attributes", loader->file->path, path.bytes);
    if (id >= 0 && !status_failed(loader->status) && info->type == H5O_TYPE_DATASET)
        loader->status = load_open_dataset(loader, id, path.bytes);
    if (id >= 0)
        H5Oclose(id);
    text_free(&path);
    return status_failed(loader->status) ? -1 : 0;
}

/* --- The whole ----------------------------------------------------------------------------------------------------- */

static bool line_of(const char *lines, const char *line)
{
    size_t length = strlen(line);
    for (const char *at = lines; at != NULL && *at; at = strchr(at, '\n'), at = at ? at + 1 : NULL)
        if (strncmp(at, line, length) == 0 && (at[length] == '\n' || at[length] == 0))
            return true;
    return false;
}

static int compare_attributes(const void *a, const void *b)
{
    const H5Attribute *left = a, *right = b;
    int order = strcmp(left->object, right->object);
    return order != 0 ? order : strcmp(left->name, right->name);
}

typedef struct Pair {
    H5Dataset dataset;
    H5Place place;
} Pair;

static int compare_pairs(const void *a, const void *b)
{
    return strcmp(((const Pair *)a)->dataset.path, ((const Pair *)b)->dataset.path);
}

static void sort_datasets(H5File *file)
{
    Pair *pairs = memory_new((size_t)file->datasets_count, sizeof *pairs);
    for (int i = 0; i < file->datasets_count; i++)
        pairs[i] = (Pair){file->datasets[i], file->places[i]};
    qsort(pairs, (size_t)file->datasets_count, sizeof *pairs, compare_pairs);
    for (int i = 0; i < file->datasets_count; i++) {
        file->datasets[i] = pairs[i].dataset;
        file->places[i] = pairs[i].place;
    }
    memory_free(&pairs);
}

static void mark_operational(H5File *file, const char *lines)
{
    for (int i = 0; i < file->datasets_count; i++)
        if (line_of(lines, file->datasets[i].path))
            file->datasets[i].kind = H5_OPERATIONAL;
    for (int i = 0; i < file->attributes_count; i++) {
        Text line = {0};
        text_printf(&line, "%s@%s", file->attributes[i].object, file->attributes[i].name);
        if (line_of(lines, line.bytes))
            file->attributes[i].kind = H5_OPERATIONAL;
        text_free(&line);
    }
}

/* Hand each dataset its blocks, and check that they make its digest. */
static Status share_blocks(H5File *file)
{
    int64_t used = 0;
    for (int i = 0; i < file->datasets_count; i++) {
        H5Dataset *dataset = &file->datasets[i];
        H5Place *place = &file->places[i];
        place->first_block = used;
        place->blocks = h5_blocks_count(dataset->bytes);
        if (place->blocks > file->blocks_count - used)
            return status_error(STATUS_INPUT, "%s: /digests: too few rows: %" PRId64, file->path, file->blocks_count);
        place->checked = memory_new((size_t)place->blocks, 1);
        dataset->digest =
            h5_hash_dataset(dataset->dtype, dataset->ndim, dataset->shape, file->blocks + used, place->blocks);
        place->digest_known = true;
        if (!h5_digest_equal(dataset->digest, place->stored))
            return status_error(STATUS_INPUT, "%s: %s: damaged: its list of blocks does not match its digest",
                                file->path, dataset->path);
        used += place->blocks;
    }
    if (used != file->blocks_count)
        return status_error(STATUS_INPUT, "%s: /digests: expected %" PRId64 " rows, found %" PRId64, file->path, used,
                            file->blocks_count);
    return status_ok();
}

Status h5_load(H5File *file)
{
    hid_t access = h5_library_access();
    file->hdf5 = H5Fopen(file->path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (file->hdf5 < 0)
        return h5_library_error(STATUS_INPUT, "%s: cannot open", file->path);
    Loader loader = {.file = file, .status = status_ok()};
    if (H5Ovisit2(file->hdf5, H5_INDEX_NAME, H5_ITER_INC, load_object, &loader, H5O_INFO_BASIC) < 0 &&
        !status_failed(loader.status))
        loader.status = h5_library_error(STATUS_INPUT, "%s: cannot list contents", file->path);
    if (!status_failed(loader.status)) {
        qsort(file->attributes, (size_t)file->attributes_count, sizeof *file->attributes, compare_attributes);
        sort_datasets(file);
        mark_operational(file, loader.operational);
    }
    memory_free(&loader.operational);
    TRY(loader.status);
    if (!file->sealed)
        return status_ok();
    H5Fclose(file->hdf5);
    file->hdf5 = -1;
    return share_blocks(file);
}

/* --- Elements of foreign datasets ---------------------------------------------------------------------------------- */

typedef struct BoxRead {
    const H5File *file;
    const H5Dataset *dataset;
    hid_t id, type;
    char *elements;
} BoxRead;

static Status read_box(void *self, const hsize_t *start, const hsize_t *count, int64_t elements)
{
    BoxRead *box = self;
    hsize_t flat = (hsize_t)elements;
    hid_t memory = H5Screate_simple(1, &flat, NULL), space = H5Dget_space(box->id);
    Status status = status_ok();
    if (memory < 0 || space < 0 || H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Dread(box->id, box->type, memory, space, H5P_DEFAULT, box->elements) < 0)
        status = h5_library_error(STATUS_INPUT, "%s: %s: cannot read", box->file->path, box->dataset->path);
    H5Sclose(space);
    H5Sclose(memory);
    box->elements += (size_t)elements * dtype_size(box->dataset->dtype);
    return status;
}

Status h5_load_elements(const H5File *file, const H5Dataset *dataset, int64_t first, int64_t count, void *elements)
{
    BoxRead box = {.file = file, .dataset = dataset, .elements = elements};
    box.id = H5Dopen2(file->hdf5, dataset->path, H5P_DEFAULT);
    if (box.id < 0)
        return h5_library_error(STATUS_INPUT, "%s: cannot open %s", file->path, dataset->path);
    box.type = h5_library_type(dataset->dtype);
    Status status = h5_library_boxes(dataset->ndim, dataset->shape, first, count, read_box, &box);
    H5Tclose(box.type);
    H5Dclose(box.id);
    return status;
}
