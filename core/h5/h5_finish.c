/* h5_finish.c -- from a grown file to an artifact: every rank syncs what it wrote, the digests of all blocks come together,
 * and rank 0 adds them and the attributes, seals the file and gives it its name.
 *
 * Why:   a block that one rank wrote in one piece was hashed on its way; only one that was written in several, by whichever
 *        ranks, is read back, so that its digest is of what the file holds. */
#include "core/h5/h5_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/text.h"

Status h5_writer_status(const H5Writer *writer)
{
    return writer->failed == STATUS_OK ? status_ok() : status_error(writer->failed, "%s", writer->failure);
}

/* [local] */
static Status close_files(H5Writer *writer)
{
    Status status = status_ok();
    if (writer->file >= 0 && H5Fclose(writer->file) < 0)
        status = h5_library_error(STATUS_IO, "%s: cannot close", writer->temporary);
    writer->file = -1;
    if (writer->fd >= 0 && close(writer->fd) != 0 && !status_failed(status))
        status = status_error(STATUS_IO, "%s: cannot close: %s", writer->temporary, strerror(errno));
    writer->fd = -1;
    if (writer->direct >= 0)
        close(writer->direct);
    writer->direct = -1;
    return status;
}

static void writer_free(H5Writer *writer)
{
    for (int i = 0; i < writer->datasets_count; i++) {
        memory_free(&writer->datasets[i].path);
        memory_free(&writer->datasets[i].block);
        memory_free(&writer->datasets[i].hashed);
    }
    for (int i = 0; i < writer->attributes_count; i++) {
        memory_release((void *)writer->attributes[i].object);
        memory_release((void *)writer->attributes[i].name);
        memory_release((void *)writer->attributes[i].string);
    }
    for (int i = 0; i < writer->groups_count; i++)
        memory_free(&writer->groups[i]);
    h5_rooms_close(&writer->rooms);
    memory_free(&writer->datasets);
    memory_free(&writer->attributes);
    memory_free(&writer->groups);
    memory_free(&writer->failure);
    memory_free(&writer->path);
    memory_free(&writer->temporary);
    memory_release(writer);
}

Status h5_writer_abandon(H5Writer *writer, Status why)
{
    char *message = memory_strdup(status_message()); /* closing may fail too, which says less */
    h5_writer_fail(writer, close_files(writer));
    if (writer->size > 1)
        comm_barrier(writer->comm);
    if (writer->rank == 0)
        unlink(writer->temporary);
    if (writer->size > 1)
        comm_barrier(writer->comm); /* on return it is gone for every rank */
    writer_free(writer);
    why = status_error(why.code, "%s", message);
    memory_free(&message);
    return why;
}

/* [collective] Was every element written, by whichever rank? */
static Status check_complete(H5Writer *writer)
{
    size_t count = (size_t)writer->datasets_count;
    int64_t *mine = memory_new(count, sizeof *mine);
    int64_t *all = memory_new(count * (size_t)writer->size, sizeof *all);
    for (size_t i = 0; i < count; i++)
        mine[i] = writer->datasets[i].written;
    if (writer->size > 1)
        comm_allgather(writer->comm, mine, count * sizeof *mine, all);
    else
        memcpy(all, mine, count * sizeof *mine);
    Status status = status_ok();
    for (size_t i = 0; i < count && !status_failed(status); i++) {
        int64_t written = 0;
        for (int r = 0; r < writer->size; r++)
            written += all[(size_t)r * count + i];
        if (written != writer->datasets[i].elements)
            status = status_error(STATUS_INTERNAL, "%s: %s: %" PRId64 " of %" PRId64 " elements were written",
                                  writer->path, writer->datasets[i].path, written, writer->datasets[i].elements);
    }
    memory_free(&mine);
    memory_free(&all);
    return status;
}

static int compare_growing(const void *a, const void *b)
{
    return strcmp(((const H5Growing *)a)->path, ((const H5Growing *)b)->path);
}

static H5Span *make_spans(const H5Writer *writer, int64_t *blocks_count)
{
    H5Span *spans = memory_new((size_t)writer->datasets_count, sizeof *spans);
    *blocks_count = 0;
    for (int i = 0; i < writer->datasets_count; i++) {
        const H5Growing *dataset = &writer->datasets[i];
        spans[i] = (H5Span){dataset->path, dataset->offset, dataset->bytes, *blocks_count};
        *blocks_count += h5_blocks_count(dataset->bytes);
    }
    return spans;
}

/* --- Digests of all blocks ----------------------------------------------------------------------------------------- */

typedef struct Numbered {
    int64_t block; /* index among all blocks */
    H5Digest digest;
} Numbered;

typedef struct BlockTable {
    H5Digest *digest; // (count)
    uint8_t *known;   // (count)
    int64_t count;
} BlockTable;

/* [collective] Enter what each rank knows. */
static void table_gather(H5Writer *writer, BlockTable *table, const Numbered *mine, int64_t mine_count)
{
    const Numbered *all = mine;
    char *gathered = NULL;
    if (writer->size > 1) {
        size_t *offsets = memory_new((size_t)writer->size + 1, sizeof *offsets);
        comm_allgather_ragged(writer->comm, mine, (size_t)mine_count * sizeof *mine, &gathered, offsets);
        all = (const Numbered *)gathered;
        mine_count = (int64_t)(offsets[writer->size] / sizeof *mine);
        memory_free(&offsets);
    }
    for (int64_t i = 0; i < mine_count; i++) {
        table->digest[all[i].block] = all[i].digest;
        table->known[all[i].block] = 1;
    }
    memory_free(&gathered);
}

static int64_t list_hashed(const H5Writer *writer, const H5Span *spans, Numbered *list)
{
    int64_t listed = 0;
    for (int i = 0; i < writer->datasets_count; i++)
        for (int64_t b = 0; b < h5_blocks_count(spans[i].bytes); b++)
            if (writer->datasets[i].hashed[b])
                list[listed++] = (Numbered){spans[i].first_block + b, writer->datasets[i].block[b]};
    return listed;
}

/* [local] Read back and hash this rank's share of the unknown blocks. Opened anew: what other machines wrote must be seen. */
static Status hash_unknown(const H5Writer *writer, const H5Span *spans, const BlockTable *table, Numbered *list,
                           int64_t *listed)
{
    int fd = open(writer->temporary, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return status_error(STATUS_IO, "%s: cannot open: %s", writer->temporary, strerror(errno));
    void *block = memory_new(1, H5_BLOCK_BYTES);
    int64_t unknown = 0;
    Status status = status_ok();
    for (int i = 0; i < writer->datasets_count; i++)
        for (int64_t b = 0; b < h5_blocks_count(spans[i].bytes); b++) {
            int64_t index = spans[i].first_block + b;
            if (table->known[index] || unknown++ % writer->size != writer->rank)
                continue;
            size_t from = (size_t)b * H5_BLOCK_BYTES, left = spans[i].bytes - from;
            size_t size = left < H5_BLOCK_BYTES ? left : H5_BLOCK_BYTES;
            TRY_GOTO(h5_raw_read(fd, writer->temporary, spans[i].offset + from, block, size), done);
            list[(*listed)++] = (Numbered){index, h5_digest_bytes(block, size)};
        }
done:
    memory_free(&block);
    close(fd);
    return status;
}

/* [collective] Every rank's part on the disk, and the digests of all blocks on every rank. */
static Status hash_all(H5Writer *writer, const H5Span *spans, BlockTable *table)
{
    Status status = status_ok();
    if (fsync(writer->fd) != 0)
        status = status_error(STATUS_IO, "%s: cannot sync: %s", writer->temporary, strerror(errno));
    TRY(h5_team_agree(writer->comm, status));
    Numbered *list = memory_new((size_t)table->count, sizeof *list);
    table_gather(writer, table, list, list_hashed(writer, spans, list));
    int64_t listed = 0;
    status = h5_team_agree(writer->comm, hash_unknown(writer, spans, table, list, &listed));
    if (!status_failed(status))
        table_gather(writer, table, list, listed);
    memory_free(&list);
    return status;
}

/* --- Rank 0: digests and attributes -------------------------------------------------------------------------------- */

static Status put_attribute(hid_t object, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    Status status = status_ok();
    if (attribute < 0 || H5Awrite(attribute, type, value) < 0)
        status = h5_library_error(STATUS_IO, "cannot write attribute %s", name);
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

static Status put_string(hid_t object, const char *name, const char *value)
{
    size_t length = strlen(value);
    hid_t type = H5Tcopy(H5T_C_S1);
    /* HDF5 knows no string of zero bytes; one of one zero byte reads as empty. */
    REQUIRE(H5Tset_size(type, length > 0 ? length : 1) >= 0 && H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 &&
                H5Tset_cset(type, H5T_CSET_UTF8) >= 0,
            "HDF5 refuses a string type");
    Status status = put_attribute(object, name, type, value);
    H5Tclose(type);
    return status;
}

static Status put_one(H5Writer *writer, const H5Attribute *attribute)
{
    if (strcmp(attribute->object, "/") != 0 && H5Lexists(writer->file, attribute->object, H5P_DEFAULT) <= 0) {
        Text below = {0}; /* "GROUP/" makes GROUP itself one of the groups above it */
        text_printf(&below, "%s/", attribute->object);
        Status made = h5_writer_groups(writer, below.bytes);
        text_free(&below);
        TRY(made);
    }
    hid_t object = H5Oopen(writer->file, attribute->object, H5P_DEFAULT);
    if (object < 0)
        return h5_library_error(STATUS_IO, "cannot open %s", attribute->object);
    Status status = status_ok();
    switch (attribute->type) {
    case H5_INT:
        status = put_attribute(object, attribute->name, H5T_STD_I64LE, &attribute->integer);
        break;
    case H5_REAL:
        status = put_attribute(object, attribute->name, H5T_IEEE_F64LE, &attribute->real);
        break;
    case H5_STRING:
        status = put_string(object, attribute->name, attribute->string);
        break;
    }
    H5Oclose(object);
    return status;
}

static int compare_attributes(const void *a, const void *b)
{
    const H5Attribute *left = a, *right = b;
    int order = strcmp(left->object, right->object);
    return order != 0 ? order : strcmp(left->name, right->name);
}

static Status put_digests(H5Writer *writer, const H5Span *spans, int64_t blocks_count, const H5Digest *blocks)
{
    for (int i = 0; i < writer->datasets_count; i++) {
        H5Growing *dataset = &writer->datasets[i];
        H5Digest digest = h5_hash_dataset(dataset->dtype, dataset->ndim, dataset->shape, blocks + spans[i].first_block,
                                          h5_blocks_count(dataset->bytes));
        char text[H5_DIGEST_TEXT];
        hid_t object = H5Dopen2(writer->file, dataset->path, H5P_DEFAULT);
        if (object < 0)
            return h5_library_error(STATUS_IO, "cannot open %s", dataset->path);
        Status status = put_string(object, "digest", h5_digest_text(digest, text));
        if (!status_failed(status))
            status = put_string(object, "dtype", dtype_name(dataset->dtype));
        H5Dclose(object);
        TRY(status);
    }
    H5Growing table = {.path = (char *)"/digests",
                       .dtype = DTYPE_U8,
                       .ndim = 2,
                       .shape = {blocks_count, (int64_t)sizeof *blocks},
                       .bytes = (size_t)blocks_count * sizeof *blocks};
    return h5_writer_create(writer, &table, blocks_count > 0 ? blocks : NULL);
}

static void list_operational(const H5Writer *writer, Text *lines)
{
    for (int i = 0; i < writer->attributes_count; i++) {
        const H5Attribute *attribute = &writer->attributes[i];
        if (attribute->kind == H5_OPERATIONAL)
            text_printf(lines, "%s@%s\n", attribute->object, attribute->name);
    }
    for (int i = 0; i < writer->datasets_count; i++)
        if (writer->datasets[i].kind == H5_OPERATIONAL)
            text_printf(lines, "%s\n", writer->datasets[i].path);
}

static Status describe(H5Writer *writer, const H5Span *spans, int64_t blocks_count, const H5Digest *blocks)
{
    TRY(put_digests(writer, spans, blocks_count, blocks));
    qsort(writer->attributes, (size_t)writer->attributes_count, sizeof *writer->attributes, compare_attributes);
    for (int i = 0; i < writer->attributes_count; i++)
        TRY(put_one(writer, &writer->attributes[i]));
    Text lines = {0};
    list_operational(writer, &lines);
    Status status = put_string(writer->file, "operational", text_string(&lines));
    text_free(&lines);
    return status;
}

static Status seal_and_name(H5Writer *writer)
{
    H5Extent *extents = memory_new((size_t)writer->datasets_count, sizeof *extents);
    size_t count = 0;
    for (int i = 0; i < writer->datasets_count; i++)
        if (writer->datasets[i].bytes > 0)
            extents[count++] = (H5Extent){writer->datasets[i].offset, writer->datasets[i].bytes};
    Status status = h5_seal_write(writer->temporary, extents, count);
    memory_free(&extents);
    TRY(status);
    return h5_raw_rename(writer->temporary, writer->path);
}

/* [collective] */
static Status finish(H5Writer *writer)
{
    TRY(h5_team_agree(writer->comm, h5_writer_status(writer)));
    TRY(check_complete(writer));
    qsort(writer->datasets, (size_t)writer->datasets_count, sizeof *writer->datasets, compare_growing);
    BlockTable table = {0};
    H5Span *spans = make_spans(writer, &table.count);
    table.digest = memory_new((size_t)table.count, sizeof *table.digest);
    table.known = memory_new((size_t)table.count, 1);
    Status status = hash_all(writer, spans, &table);
    if (!status_failed(status)) {
        if (writer->rank == 0)
            h5_writer_fail(writer,
                           status_prefix(describe(writer, spans, table.count, table.digest), "%s", writer->path));
        h5_writer_fail(writer, close_files(writer));
        status = h5_team_agree(writer->comm, h5_writer_status(writer));
    }
    if (!status_failed(status))
        status = h5_team_agree(writer->comm, writer->rank == 0 ? seal_and_name(writer) : status_ok());
    memory_free(&table.known);
    memory_free(&table.digest);
    memory_free(&spans);
    return status;
}

Status h5_writer_close(H5Writer **writer_address)
{
    H5Writer *writer = *writer_address;
    *writer_address = NULL;
    Status status = finish(writer);
    if (status_failed(status))
        return h5_writer_abandon(writer, status);
    writer_free(writer);
    return status;
}
