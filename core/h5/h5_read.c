/* h5_read.c -- the reader: opening and looking up. Its elements are in h5_elements.c. */
#include "core/h5/h5_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/memory.h"

static Status read_through(H5File *file)
{
    TRY(h5_load(file));
    void *piece = memory_new(1, H5_BLOCK_BYTES);
    Status status = status_ok();
    for (int i = 0; i < file->datasets_count && !status_failed(status); i++) {
        const H5Dataset *dataset = &file->datasets[i];
        int64_t step = (int64_t)(H5_BLOCK_BYTES / dtype_size(dataset->dtype));
        for (int64_t at = 0; at < dataset->elements && !status_failed(status); at += step)
            status = h5_load_elements(file, dataset, at, dataset->elements - at < step ? dataset->elements - at : step,
                                      piece);
    }
    memory_free(&piece);
    return status;
}

/* Read an unsealed file in a child process: HDF5 may crash or hang on it, and then only the child is lost. An orderly
 * failure there will come again here, with its message. */
static Status rehearse(H5File *file)
{
    /* No code that the C library or a sanitizer would end a process with. */
    enum { CHILD_FINE = 40, CHILD_REFUSED = 41, SECONDS = 120, BYTES_PER_SECOND = 1 << 24 };
    h5_library_start();
    pid_t child = fork();
    if (child < 0)
        return status_error(STATUS_IO, "%s: cannot start a process to look at the file: %s", file->path,
                            strerror(errno));
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        int null = open("/dev/null", O_WRONLY);
        if (null >= 0)
            dup2(null, STDERR_FILENO);
        alarm(SECONDS + (unsigned)(file->bytes / BYTES_PER_SECOND));
        _exit(status_failed(read_through(file)) ? CHILD_REFUSED : CHILD_FINE);
    }
    int how = 0;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR)
            return status_error(STATUS_IO, "%s: lost the process that looked at the file: %s", file->path,
                                strerror(errno));
    if (WIFEXITED(how) && (WEXITSTATUS(how) == CHILD_FINE || WEXITSTATUS(how) == CHILD_REFUSED))
        return status_ok();
    return status_error(STATUS_INPUT, "%s: damaged: the HDF5 library %s on it", file->path,
                        WIFSIGNALED(how) && WTERMSIG(how) == SIGALRM ? "hangs" : "crashes");
}

static Status check_format(const H5File *file, const char *format)
{
    if (format == NULL)
        return status_ok();
    const H5Attribute *found = h5_attribute(file, "/", "format");
    if (found == NULL && !file->sealed)
        return status_ok(); /* a stranger's file is judged by its datasets */
    if (found == NULL || found->type != H5_STRING || strcmp(found->string, format) != 0)
        return status_error(STATUS_INPUT, "%s: expected format %s, found %s", file->path, format,
                            found != NULL && found->type == H5_STRING ? found->string : "none");
    return status_ok();
}

static Status open_any(const char *path, const char *format, bool foreign, H5File **result)
{
    *result = NULL;
    H5File *file = memory_new(1, sizeof *file);
    file->path = memory_strdup(path);
    file->hdf5 = -1;
    file->direct = -1;
    Status status = status_ok();
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0) {
        status = status_error(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
        goto failed;
    }
    posix_fadvise(file->fd, 0, 0, POSIX_FADV_SEQUENTIAL); /* datasets are mostly read one after the other */
    H5SealFound found = H5_SEAL_NONE;
    TRY_GOTO(h5_seal_check(file->fd, path, &found, &file->hdf5_end), failed);
    struct stat info;
    if (fstat(file->fd, &info) != 0) {
        status = status_error(STATUS_IO, "%s: cannot stat: %s", path, strerror(errno));
        goto failed;
    }
    file->bytes = (uint64_t)info.st_size;
    file->sealed = found == H5_SEAL_GOOD;
    if (!file->sealed && !foreign) {
        status = status_error(STATUS_INPUT,
                              "%s: expected an artifact of this program, found an HDF5 file without its seal", path);
        goto failed;
    }
    if (!file->sealed)
        TRY_GOTO(rehearse(file), failed);
    TRY_GOTO(h5_load(file), failed);
    TRY_GOTO(check_format(file, format), failed);
    *result = file;
    return status;
failed:
    h5_close(&file);
    return status;
}

Status h5_open(const char *path, const char *format, H5File **file)
{
    return open_any(path, format, false, file);
}

Status h5_open_foreign(const char *path, const char *format, H5File **file)
{
    return open_any(path, format, true, file);
}

void h5_close(H5File **file_address)
{
    H5File *file = *file_address;
    if (file == NULL)
        return;
    if (file->hdf5 >= 0)
        H5Fclose(file->hdf5);
    if (file->map)
        munmap(file->map, file->bytes);
    if (file->fd >= 0)
        close(file->fd);
    if (file->direct >= 0)
        close(file->direct);
    for (int i = 0; i < file->datasets_count; i++) {
        memory_release((void *)file->datasets[i].path);
        memory_free(&file->places[i].checked);
        memory_free(&file->places[i].copy);
    }
    for (int i = 0; i < file->attributes_count; i++) {
        memory_release((void *)file->attributes[i].object);
        memory_release((void *)file->attributes[i].name);
        memory_release((void *)file->attributes[i].string);
    }
    memory_free(&file->datasets);
    memory_free(&file->places);
    memory_free(&file->attributes);
    memory_free(&file->blocks);
    h5_rooms_close(&file->rooms);
    memory_free(&file->path);
    memory_free(file_address);
}

/* --- Looking up ---------------------------------------------------------------------------------------------------- */

const char *h5_path(const H5File *file)
{
    return file->path;
}

bool h5_sealed(const H5File *file)
{
    return file->sealed;
}

int h5_datasets(const H5File *file, const H5Dataset **list)
{
    *list = file->datasets;
    return file->datasets_count;
}

int h5_attributes(const H5File *file, const H5Attribute **list)
{
    *list = file->attributes;
    return file->attributes_count;
}

const H5Dataset *h5_dataset(const H5File *file, const char *path)
{
    int low = 0, high = file->datasets_count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        int order = strcmp(path, file->datasets[middle].path);
        if (order == 0)
            return &file->datasets[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const H5Attribute *h5_attribute(const H5File *file, const char *object, const char *name)
{
    for (int i = 0; i < file->attributes_count; i++)
        if (strcmp(file->attributes[i].object, object) == 0 && strcmp(file->attributes[i].name, name) == 0)
            return &file->attributes[i];
    return NULL;
}

Status h5_find(const H5File *file, const char *path, DType dtype, int ndim, const int64_t *shape,
               const H5Dataset **dataset)
{
    static const int64_t any[H5_DIMS_MAX] = {-1, -1, -1, -1};
    const H5Dataset *found = h5_dataset(file, path);
    *dataset = NULL;
    if (found == NULL)
        return status_error(STATUS_INPUT, "%s: no dataset %s", file->path, path);
    if (shape == NULL)
        shape = any;
    bool fits = found->dtype == dtype && found->ndim == ndim, free_extent = false;
    for (int i = 0; i < ndim; i++) {
        fits = fits && (shape[i] < 0 || shape[i] == found->shape[i]);
        free_extent = free_extent || shape[i] < 0;
    }
    if (!fits)
        return status_error(STATUS_INPUT, "%s: %s: expected %s, found %s%s", file->path, path,
                            h5_shape_text(dtype, ndim, shape), h5_shape_text(found->dtype, found->ndim, found->shape),
                            free_extent ? " (-1: any)" : "");
    *dataset = found;
    return status_ok();
}

static Status find_attribute(const H5File *file, const char *object, const char *name, H5AttributeType type,
                             const H5Attribute **attribute)
{
    static const char *const names[] = {[H5_INT] = "an integer", [H5_REAL] = "a number", [H5_STRING] = "a string"};
    *attribute = h5_attribute(file, object, name);
    if (*attribute == NULL)
        return status_error(STATUS_INPUT, "%s: no attribute %s@%s", file->path, object, name);
    H5AttributeType found = (*attribute)->type;
    if (found != type && !(type == H5_REAL && found == H5_INT))
        return status_error(STATUS_INPUT, "%s: %s@%s: expected %s, found %s", file->path, object, name, names[type],
                            names[found]);
    return status_ok();
}

Status h5_read_int(const H5File *file, const char *object, const char *name, int64_t *value)
{
    const H5Attribute *attribute;
    TRY(find_attribute(file, object, name, H5_INT, &attribute));
    *value = attribute->integer;
    return status_ok();
}

Status h5_read_real(const H5File *file, const char *object, const char *name, double *value)
{
    const H5Attribute *attribute;
    TRY(find_attribute(file, object, name, H5_REAL, &attribute));
    *value = attribute->type == H5_INT ? (double)attribute->integer : attribute->real;
    return status_ok();
}

Status h5_read_string(const H5File *file, const char *object, const char *name, const char **value)
{
    const H5Attribute *attribute;
    TRY(find_attribute(file, object, name, H5_STRING, &attribute));
    *value = attribute->string;
    return status_ok();
}
