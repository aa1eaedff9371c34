/* h5_digest.c -- XXH3-128 of bytes, files, blocks and datasets. The numbers are part of the file format. */
#include "core/h5/h5_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"

static H5Digest digest_from(XXH128_hash_t hash)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    H5Digest digest;
    memcpy(digest.bytes, canonical.digest, sizeof digest.bytes);
    return digest;
}

H5Digest h5_digest_bytes(const void *bytes, size_t size)
{
    return digest_from(XXH3_128bits(bytes, size));
}

struct H5Digester {
    XXH3_state_t *state;
};

H5Digester *h5_digester_open(void)
{
    H5Digester *digester = memory_new(1, sizeof *digester);
    digester->state = XXH3_createState();
    REQUIRE(digester->state != NULL && XXH3_128bits_reset(digester->state) == XXH_OK, "out of memory for a digest");
    return digester;
}

void h5_digester_add(H5Digester *digester, const void *bytes, size_t size)
{
    XXH3_128bits_update(digester->state, bytes, size);
}

H5Digest h5_digester_close(H5Digester **digester)
{
    H5Digest digest = digest_from(XXH3_128bits_digest((*digester)->state));
    XXH3_freeState((*digester)->state);
    memory_free(digester);
    return digest;
}

/* --- Files --------------------------------------------------------------------------------------------------------- */

static struct {
    struct Remembered {
        struct stat info;
        H5Digest digest;
    } * items;
    int count, capacity;
} remembered;

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static bool recall(int fd, H5Digest *digest)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return false;
    for (int i = 0; i < remembered.count; i++)
        if (same_file(&remembered.items[i].info, &info)) {
            *digest = remembered.items[i].digest;
            return true;
        }
    return false;
}

void h5_digest_remember(int fd, H5Digest digest)
{
    struct stat info;
    H5Digest known;
    if (recall(fd, &known) || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return;
    memory_reserve(&remembered.items, remembered.count, &remembered.capacity);
    remembered.items[remembered.count++] = (struct Remembered){info, digest};
}

static Status digest_stream(int fd, const char *path, H5Digest *digest)
{
    enum { PIECE = 1 << 20 };
    H5Digester *digester = h5_digester_open();
    void *piece = memory_new(1, PIECE);
    Status status = status_ok();
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    for (;;) {
        ssize_t got = read(fd, piece, PIECE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = status_error(STATUS_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got <= 0)
            break;
        h5_digester_add(digester, piece, (size_t)got);
    }
    *digest = h5_digester_close(&digester);
    memory_free(&piece);
    return status;
}

Status h5_digest_file(const char *path, H5Digest *digest)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return status_error(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    Status status = status_ok();
    if (!recall(fd, digest)) {
        status = digest_stream(fd, path, digest);
        if (!status_failed(status))
            h5_digest_remember(fd, *digest);
    }
    close(fd);
    return status;
}

/* --- Texts --------------------------------------------------------------------------------------------------------- */

bool h5_digest_equal(H5Digest a, H5Digest b)
{
    return memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0;
}

const char *h5_digest_text(H5Digest digest, char text[H5_DIGEST_TEXT])
{
    for (size_t i = 0; i < sizeof digest.bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", digest.bytes[i]);
    return text;
}

bool h5_digest_parse(const char *text, H5Digest *digest)
{
    if (strspn(text, "0123456789abcdef") != 2 * sizeof digest->bytes || text[2 * sizeof digest->bytes] != 0)
        return false;
    for (size_t i = 0; i < sizeof digest->bytes; i++) {
        unsigned byte;
        if (sscanf(text + 2 * i, "%2x", &byte) != 1)
            return false;
        digest->bytes[i] = (uint8_t)byte;
    }
    return true;
}

int64_t h5_blocks_count(size_t bytes)
{
    return (int64_t)(bytes / H5_BLOCK_BYTES + (bytes % H5_BLOCK_BYTES != 0));
}

static void shape_write(char *text, size_t size, DType dtype, int ndim, const int64_t *shape, const char *between)
{
    size_t used = (size_t)snprintf(text, size, "%s ", dtype_name(dtype));
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? between : "", shape[i]);
}

H5Digest h5_hash_dataset(DType dtype, int ndim, const int64_t *shape, const H5Digest *blocks, int64_t blocks_count)
{
    char text[128];
    shape_write(text, sizeof text - 1, dtype, ndim, shape, "x");
    size_t head = strlen(text);
    text[head++] = '\n';
    size_t size = head + (size_t)blocks_count * sizeof *blocks;
    char *bytes = memory_new(1, size);
    memcpy(bytes, text, head);
    if (blocks_count > 0)
        memcpy(bytes + head, blocks, size - head);
    H5Digest digest = h5_digest_bytes(bytes, size);
    memory_free(&bytes);
    return digest;
}

const char *h5_shape_text(DType dtype, int ndim, const int64_t *shape)
{
    static _Thread_local char ring[4][128];
    static _Thread_local unsigned next;
    char *text = ring[next++ % 4];
    char inner[112];
    shape_write(inner, sizeof inner, dtype, ndim, shape, ", ");
    char *space = strchr(inner, ' ');
    *space = 0;
    snprintf(text, sizeof ring[0], "%s (%s)", inner, space + 1);
    return text;
}

/* A foreign dataset's digest, from its elements in pieces that are blocks. */
static Status digest_foreign(H5File *file, H5Dataset *dataset)
{
    size_t width = dtype_size(dataset->dtype);
    int64_t blocks_count = h5_blocks_count(dataset->bytes);
    H5Digest *blocks = memory_new((size_t)blocks_count, sizeof *blocks);
    void *block = memory_new(1, H5_BLOCK_BYTES);
    int64_t per_block = (int64_t)(H5_BLOCK_BYTES / width);
    Status status = status_ok();
    for (int64_t b = 0; b < blocks_count; b++) {
        int64_t first = b * per_block;
        int64_t count = dataset->elements - first < per_block ? dataset->elements - first : per_block;
        TRY_GOTO(h5_load_elements(file, dataset, first, count, block), done);
        blocks[b] = h5_digest_bytes(block, (size_t)count * width);
    }
    dataset->digest = h5_hash_dataset(dataset->dtype, dataset->ndim, dataset->shape, blocks, blocks_count);
    file->places[dataset - file->datasets].digest_known = true;
done:
    memory_free(&block);
    memory_free(&blocks);
    return status;
}

/* Lines and digests in order: every item is framed by its length, so no two contents make the same stream. */
static void update_framed(H5Digester *state, const void *bytes, size_t size)
{
    uint64_t length = size;
    h5_digester_add(state, &length, sizeof length);
    h5_digester_add(state, bytes, size);
}

static void update_attribute(H5Digester *state, const H5Attribute *attribute)
{
    update_framed(state, "attribute", 9);
    update_framed(state, attribute->object, strlen(attribute->object));
    update_framed(state, attribute->name, strlen(attribute->name));
    switch (attribute->type) {
    case H5_INT:
        update_framed(state, "int", 3);
        update_framed(state, &attribute->integer, sizeof attribute->integer);
        break;
    case H5_REAL:
        update_framed(state, "real", 4);
        update_framed(state, &attribute->real, sizeof attribute->real);
        break;
    case H5_STRING:
        update_framed(state, "string", 6);
        update_framed(state, attribute->string, strlen(attribute->string));
        break;
    }
}

static Status digest_contents(H5File *file, bool parameters_only, H5Digest *digest)
{
    H5Digester *state = h5_digester_open();
    Status status = status_ok();
    for (int i = 0; i < file->attributes_count && !parameters_only; i++)
        if (file->attributes[i].kind == H5_SEMANTIC)
            update_attribute(state, &file->attributes[i]);
    for (int i = 0; i < file->datasets_count; i++) {
        H5Dataset *dataset = &file->datasets[i];
        if (dataset->kind != H5_SEMANTIC || (parameters_only && strncmp(dataset->path, "/parameters/", 12) != 0))
            continue;
        if (!file->places[i].digest_known)
            TRY_GOTO(digest_foreign(file, dataset), done);
        update_framed(state, "dataset", 7);
        update_framed(state, dataset->path, strlen(dataset->path));
        update_framed(state, dataset->digest.bytes, sizeof dataset->digest.bytes);
    }
done:
    *digest = h5_digester_close(&state);
    return status;
}

Status h5_digest_semantic(H5File *file, H5Digest *digest)
{
    return digest_contents(file, false, digest);
}

Status h5_digest_parameters(H5File *file, H5Digest *digest)
{
    return digest_contents(file, true, digest);
}
