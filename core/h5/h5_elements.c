/* h5_elements.c -- elements of datasets, block by block, with their digests checked on first touch; many datasets by all threads. */
#include <inttypes.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/work.h"
#include "core/h5/h5_parts.h"

static H5Place *place_of(const H5File *file, const H5Dataset *dataset)
{
    return &file->places[dataset - file->datasets];
}

static size_t block_bytes(const H5Dataset *dataset, int64_t index)
{
    size_t rest = dataset->bytes - (size_t)index * H5_BLOCK_BYTES;
    return rest < H5_BLOCK_BYTES ? rest : H5_BLOCK_BYTES;
}

/* Threads may meet in a block; each then checks what it read itself. */
static bool block_checked(const H5Place *place, int64_t index)
{
    return __atomic_load_n(&place->checked[index], __ATOMIC_RELAXED);
}

/* Read block `index` of a dataset and check it. It then is at *found: `target`, or somewhere in `room`. */
static Status read_block(H5File *file, const H5Dataset *dataset, int64_t index, char *target, char *room,
                         const char **found)
{
    H5Place *place = place_of(file, dataset);
    uint64_t offset = place->offset + (uint64_t)index * H5_BLOCK_BYTES;
    size_t size = block_bytes(dataset, index);
    *found = h5_direct_read(file, offset, size, room);
    if (*found == NULL) {
        TRY(h5_raw_read(file->fd, file->path, offset, target, size));
        *found = target;
    }
    if (!h5_digest_equal(h5_digest_bytes(*found, size), file->blocks[place->first_block + index]))
        return status_error(STATUS_INPUT,
                            "%s: %s: damaged: block %" PRId64 " of %" PRId64 " (bytes %" PRIu64 " to %" PRIu64
                            " of the file) does not match its digest",
                            file->path, dataset->path, index + 1, place->blocks, offset, offset + size - 1);
    __atomic_store_n(&place->checked[index], 1, __ATOMIC_RELAXED);
    return status_ok();
}

/* Bytes [at, end) of a dataset, which lie in one block. */
static Status read_part(H5File *file, const H5Dataset *dataset, size_t at, size_t end, char *into, char *room)
{
    const H5Place *place = place_of(file, dataset);
    int64_t block = (int64_t)(at / H5_BLOCK_BYTES);
    if (block_checked(place, block))
        return h5_raw_read(file->fd, file->path, place->offset + at, into, end - at);
    size_t skipped = at % H5_BLOCK_BYTES;
    bool whole = skipped == 0 && end - at == block_bytes(dataset, block);
    const char *found;
    TRY(read_block(file, dataset, block, whole ? into : room, room, &found));
    if (found != into)
        memcpy(into, found + skipped, end - at);
    return status_ok();
}

static void require_range(const H5File *file, const H5Dataset *dataset, int64_t first, int64_t count)
{
    REQUIRE(dataset >= file->datasets && dataset < file->datasets + file->datasets_count, "%s: not its dataset",
            file->path);
    REQUIRE(first >= 0 && count >= 0 && first <= dataset->elements && count <= dataset->elements - first,
            "%s: %s: elements [%" PRId64 ", +%" PRId64 ") of %" PRId64, file->path, dataset->path, first, count,
            dataset->elements);
}

Status h5_read_elements(H5File *file, const H5Dataset *dataset, int64_t first, int64_t count, void *elements)
{
    require_range(file, dataset, first, count);
    if (count == 0)
        return status_ok();
    if (!file->sealed)
        return h5_load_elements(file, dataset, first, count, elements);
    size_t width = dtype_size(dataset->dtype), from = (size_t)first * width, end = from + (size_t)count * width;
    for (size_t at = from; at < end; at = h5_block_end(at, end))
        TRY(read_part(file, dataset, at, h5_block_end(at, end), (char *)elements + (at - from),
                      h5_room(&file->rooms, 0)));
    return status_ok();
}

Status h5_read_rows(H5File *file, const H5Dataset *dataset, int64_t first, int64_t rows, void *elements)
{
    REQUIRE(first >= 0 && rows >= 0 && first <= dataset->shape[0] && rows <= dataset->shape[0] - first,
            "%s: %s: rows [%" PRId64 ", +%" PRId64 ") of %" PRId64, file->path, dataset->path, first, rows,
            dataset->shape[0]);
    int64_t width = dataset->shape[0] > 0 ? dataset->elements / dataset->shape[0] : 0;
    return h5_read_elements(file, dataset, first * width, rows * width, elements);
}

Status h5_read_whole(H5File *file, const H5Dataset *dataset, void *elements)
{
    return h5_read_elements(file, dataset, 0, dataset->elements, elements);
}

/* --- Many datasets ------------------------------------------------------------------------------------------------- */

/* What of a read lies in one block. */
typedef struct Part {
    const H5Dataset *dataset;
    size_t at, end;
    char *into;
} Part;

typedef struct Parts {
    H5File *file;
    Part *items;
    int64_t count, capacity;
} Parts;

static void add_parts(Parts *parts, const H5Read *read)
{
    size_t width = dtype_size(read->dataset->dtype);
    size_t from = (size_t)read->first * width, end = from + (size_t)read->count * width;
    for (size_t at = from; at < end; at = h5_block_end(at, end)) {
        memory_reserve(&parts->items, parts->count, &parts->capacity);
        parts->items[parts->count++] =
            (Part){read->dataset, at, h5_block_end(at, end), (char *)read->elements + (at - from)};
    }
}

static Status read_one(void *context, int64_t index, int worker)
{
    const Parts *parts = context;
    const Part *part = &parts->items[index];
    return read_part(parts->file, part->dataset, part->at, part->end, part->into, h5_room(&parts->file->rooms, worker));
}

Status h5_read_many(H5File *file, const H5Read *reads, int64_t count)
{
    Parts parts = {.file = file};
    for (int64_t i = 0; i < count; i++) {
        require_range(file, reads[i].dataset, reads[i].first, reads[i].count);
        if (file->sealed)
            add_parts(&parts, &reads[i]);
        else if (reads[i].count > 0)
            TRY(h5_load_elements(file, reads[i].dataset, reads[i].first, reads[i].count, reads[i].elements));
    }
    h5_room(&file->rooms, 0); /* opened before several threads ask */
    Status status = work_run_waiting(parts.count, read_one, &parts);
    memory_free(&parts.items);
    return status;
}

Status h5_verify(H5File *file, int part, int parts)
{
    REQUIRE(part >= 0 && part < parts, "part %d of %d", part, parts);
    if (!file->sealed)
        return status_ok();
    char *room = h5_room(&file->rooms, 0);
    const char *found;
    for (int i = 0; i < file->datasets_count; i++)
        for (int64_t b = 0; b < file->places[i].blocks; b++)
            if ((file->places[i].first_block + b) % parts == part)
                TRY(read_block(file, &file->datasets[i], b, room, room, &found));
    return status_ok();
}
