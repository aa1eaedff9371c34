/* h5_map.c -- a sealed file's datasets where they lie: mapped, not read. For data sets larger than memory. */
#include "core/h5/h5_parts.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/memory.h"

Status h5_map(H5File *file, const H5Dataset *dataset, const void **elements)
{
    static const max_align_t nothing;
    *elements = &nothing;
    if (!file->sealed)
        return status_error(STATUS_INPUT, "%s: only a sealed file can be mapped", file->path);
    if (dataset->elements == 0)
        return status_ok();
    H5Place *place = &file->places[dataset - file->datasets];
    if (place->offset > file->bytes || dataset->bytes > file->bytes - place->offset)
        return status_error(STATUS_INPUT, "%s: %s lies outside the file", file->path, dataset->path);
    if (place->offset % dtype_size(dataset->dtype) != 0) {
        if (!place->copy) {
            place->copy = memory_new(1, dataset->bytes);
            TRY(h5_read_whole(file, dataset, place->copy));
        }
        *elements = place->copy;
        return status_ok();
    }
    if (!file->map) {
        void *map = mmap(NULL, file->bytes, PROT_READ, MAP_SHARED, file->fd, 0);
        if (map == MAP_FAILED)
            return status_error(STATUS_IO, "%s: cannot map: %s", file->path, strerror(errno));
        file->map = map;
    }
    *elements = file->map + place->offset;
    return status_ok();
}
