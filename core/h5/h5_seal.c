/* h5_seal.c -- the frame around the HDF5 part of an artifact: how damage is found before HDF5 reads the file. The layout
 * is documented in h5.h. */
#include "core/h5/h5_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/text.h"

static const char seal_magic[] = "TERCET SEALED H5";
static const uint8_t hdf5_signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};

enum { SEAL_VERSION = 1, SEALED_BYTES = H5_SEAL_BYTES - (int)sizeof(H5Digest), PIECE_BYTES = 1 << 20 };

/* The first bytes of the file, as they lie there. */
typedef struct Seal {
    char magic[16];
    uint32_t version, reserved;
    uint64_t bytes, hdf5_end, extents;
    H5Digest trailer, outside;
    char zeros[SEALED_BYTES - 80];
    H5Digest self;
} Seal;
_Static_assert(sizeof(Seal) == H5_SEAL_BYTES, "the seal is one user block");

Status h5_raw_read(int fd, const char *path, uint64_t offset, void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(fd, (char *)bytes + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return status_error(STATUS_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got == 0)
            return status_error(STATUS_INPUT, "%s: ends at byte %" PRIu64 " where %zu more were expected", path,
                                offset + done, size - done);
        done += (size_t)got;
    }
    return status_ok();
}

Status h5_raw_write(int fd, const char *path, uint64_t offset, const void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t put = pwrite(fd, (const char *)bytes + done, size - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return status_error(STATUS_IO, "%s: cannot write: %s", path, put < 0 ? strerror(errno) : "no space");
        done += (size_t)put;
    }
    return status_ok();
}

Status h5_raw_rename(const char *from, const char *to)
{
    if (rename(from, to) != 0)
        return status_error(STATUS_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    char *copy = memory_strdup(to);
    const char *directory = dirname(copy);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Status status = status_ok();
    /* A file system that cannot sync a directory (EINVAL) orders its renames by itself. */
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        status = status_error(STATUS_IO, "%s: cannot sync directory: %s", directory, strerror(errno));
    if (fd >= 0)
        close(fd);
    memory_free(&copy);
    return status;
}

static int compare_extents(const void *a, const void *b)
{
    uint64_t left = ((const H5Extent *)a)->offset, right = ((const H5Extent *)b)->offset;
    return left < right ? -1 : left > right;
}

/* Has the disk bring what lies between large extents, all at once: names, attributes and small datasets, which are read next, piece by piece. */
static void read_ahead(int fd, const H5Extent *extents, size_t count, uint64_t end)
{
    uint64_t from = 0;
    for (size_t i = 0; i < count; i++)
        if (extents[i].bytes >= H5_LARGE_BYTES) {
            posix_fadvise(fd, (off_t)from, (off_t)(extents[i].offset - from), POSIX_FADV_WILLNEED);
            from = extents[i].offset + extents[i].bytes;
        }
    posix_fadvise(fd, (off_t)from, (off_t)(end - from), POSIX_FADV_WILLNEED);
}

/* Digest of the HDF5 part without `extents`, which are sorted and apart. */
static Status digest_outside(int fd, const char *path, const H5Extent *extents, size_t count, uint64_t end,
                             H5Digest *digest)
{
    H5Digester *digester = h5_digester_open();
    char *piece = memory_new(1, PIECE_BYTES);
    Status status = status_ok();
    uint64_t at = H5_SEAL_BYTES;
    for (size_t i = 0; i <= count; i++) {
        uint64_t gap_end = i < count ? extents[i].offset : end;
        while (at < gap_end) {
            size_t size = gap_end - at < PIECE_BYTES ? (size_t)(gap_end - at) : PIECE_BYTES;
            TRY_GOTO(h5_raw_read(fd, path, at, piece, size), done);
            h5_digester_add(digester, piece, size);
            at += size;
        }
        if (i < count)
            at += extents[i].bytes;
    }
done:
    *digest = h5_digester_close(&digester);
    memory_free(&piece);
    return status;
}

/* Sorted, apart, and inside [H5_SEAL_BYTES, end). */
static bool extents_valid(const H5Extent *extents, size_t count, uint64_t end)
{
    uint64_t at = H5_SEAL_BYTES;
    for (size_t i = 0; i < count; i++) {
        if (extents[i].offset < at || extents[i].offset > end || extents[i].bytes > end - extents[i].offset)
            return false;
        at = extents[i].offset + extents[i].bytes;
    }
    return true;
}

Status h5_seal_write(const char *path, H5Extent *extents, size_t count)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return status_error(STATUS_IO, "%s: cannot open: %s", path, strerror(errno));
    Status status = status_ok();
    Seal *seal = memory_new(1, sizeof *seal);
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = status_error(STATUS_IO, "%s: cannot stat: %s", path, strerror(errno));
        goto done;
    }
    qsort(extents, count, sizeof *extents, compare_extents);
    seal->hdf5_end = (uint64_t)info.st_size;
    REQUIRE(extents_valid(extents, count, seal->hdf5_end), "%s: datasets overlap in the file", path);
    size_t trailer_bytes = count * sizeof *extents;
    memcpy(seal->magic, seal_magic, sizeof seal->magic);
    seal->version = SEAL_VERSION;
    seal->bytes = seal->hdf5_end + trailer_bytes;
    seal->extents = count;
    seal->trailer = h5_digest_bytes(extents, trailer_bytes);
    TRY_GOTO(digest_outside(fd, path, extents, count, seal->hdf5_end, &seal->outside), done);
    seal->self = h5_digest_bytes(seal, SEALED_BYTES);
    TRY_GOTO(h5_raw_write(fd, path, seal->hdf5_end, extents, trailer_bytes), done);
    TRY_GOTO(h5_raw_write(fd, path, 0, seal, sizeof *seal), done);
    if (fsync(fd) != 0)
        status = status_error(STATUS_IO, "%s: cannot sync: %s", path, strerror(errno));
done:
    if (close(fd) != 0 && !status_failed(status))
        status = status_error(STATUS_IO, "%s: cannot close: %s", path, strerror(errno));
    memory_free(&seal);
    return status;
}

/* HDF5 looks for its signature at 0, 512, 1024, 2048, ... */
static bool signature_found(int fd, const char *path, uint64_t bytes)
{
    for (uint64_t at = 0; at + sizeof hdf5_signature <= bytes; at = at ? 2 * at : 512) {
        uint8_t found[sizeof hdf5_signature];
        if (!status_failed(h5_raw_read(fd, path, at, found, sizeof found)) &&
            memcmp(found, hdf5_signature, sizeof found) == 0)
            return true;
    }
    return false;
}

static Status check_trailer(int fd, const char *path, const Seal *seal)
{
    Status status = status_ok();
    H5Extent *extents = memory_new(seal->extents, sizeof *extents);
    size_t trailer_bytes = seal->extents * sizeof *extents;
    TRY_GOTO(h5_raw_read(fd, path, seal->hdf5_end, extents, trailer_bytes), done);
    if (!h5_digest_equal(h5_digest_bytes(extents, trailer_bytes), seal->trailer) ||
        !extents_valid(extents, seal->extents, seal->hdf5_end)) {
        status = status_error(STATUS_INPUT, "%s: damaged: its trailer does not match its digest", path);
        goto done;
    }
    read_ahead(fd, extents, seal->extents, seal->hdf5_end);
    H5Digest outside;
    TRY_GOTO(digest_outside(fd, path, extents, seal->extents, seal->hdf5_end, &outside), done);
    if (!h5_digest_equal(outside, seal->outside))
        status = status_error(STATUS_INPUT,
                              "%s: damaged: its names and attributes do not match their digest (something changed the "
                              "file after it was written)",
                              path);
done:
    memory_free(&extents);
    return status;
}

Status h5_seal_check(int fd, const char *path, H5SealFound *found, uint64_t *hdf5_end)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return status_error(STATUS_IO, "%s: cannot stat: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return status_error(STATUS_INPUT, "%s: expected a file, found a directory or device", path);
    uint64_t bytes = (uint64_t)info.st_size;
    if (bytes == 0)
        return status_error(STATUS_INPUT, "%s: the file is empty", path);
    Seal *seal = memory_new(1, sizeof *seal);
    Status status = status_ok();
    size_t head = bytes < sizeof *seal ? (size_t)bytes : sizeof *seal;
    TRY_GOTO(h5_raw_read(fd, path, 0, seal, head), done);
    if (memcmp(seal->magic, seal_magic, sizeof seal->magic) != 0) {
        *found = H5_SEAL_NONE;
        if (!signature_found(fd, path, bytes))
            status = status_error(STATUS_INPUT, "%s: expected an HDF5 file, found something else", path);
        goto done;
    }
    *found = H5_SEAL_GOOD;
    if (head < sizeof *seal) {
        status = status_error(STATUS_INPUT, "%s: truncated: %" PRIu64 " bytes, less than a seal", path, bytes);
        goto done;
    }
    if (!h5_digest_equal(h5_digest_bytes(seal, SEALED_BYTES), seal->self))
        status = status_error(STATUS_INPUT, "%s: damaged: its seal does not match its digest", path);
    else if (seal->version != SEAL_VERSION)
        status = status_error(STATUS_INPUT, "%s: expected seal version %d, found %" PRIu32, path, SEAL_VERSION,
                              seal->version);
    else if (bytes < seal->bytes)
        status =
            status_error(STATUS_INPUT, "%s: truncated: %" PRIu64 " of %" PRIu64 " bytes", path, bytes, seal->bytes);
    else if (bytes > seal->bytes)
        status = status_error(STATUS_INPUT, "%s: expected %" PRIu64 " bytes, found %" PRIu64, path, seal->bytes, bytes);
    else if (seal->hdf5_end < H5_SEAL_BYTES || seal->hdf5_end > bytes ||
             (bytes - seal->hdf5_end) % sizeof(H5Extent) != 0 ||
             (bytes - seal->hdf5_end) / sizeof(H5Extent) != seal->extents)
        status = status_error(STATUS_INPUT, "%s: damaged: the figures in its seal contradict each other", path);
    else
        status = check_trailer(fd, path, seal);
    *hdf5_end = seal->hdf5_end;
done:
    memory_free(&seal);
    return status;
}

/* --- Temporary names ----------------------------------------------------------------------------------------------- */

char *h5_temporary_name(const char *path, long pid)
{
    Text text = {0};
    text_printf(&text, "%s.%ld.tmp", path, pid);
    return text.bytes;
}

bool h5_is_temporary(const char *name)
{
    if (!text_ends_with(name, ".tmp"))
        return false;
    const char *end = name + strlen(name) - strlen(".tmp"), *digits = end;
    while (digits > name && digits[-1] >= '0' && digits[-1] <= '9')
        digits--;
    return digits < end && digits > name + 1 && digits[-1] == '.' && digits[-2] != '/';
}

Status h5_remove_temporaries(const char *directory, int *removed_count)
{
    if (removed_count != NULL)
        *removed_count = 0;
    DIR *stream = opendir(directory);
    if (stream == NULL)
        return errno == ENOENT ? status_ok()
                               : status_error(STATUS_IO, "%s: cannot list: %s", directory, strerror(errno));
    Status status = status_ok();
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        if (!h5_is_temporary(entry->d_name))
            continue;
        if (unlinkat(dirfd(stream), entry->d_name, 0) == 0) {
            if (removed_count != NULL)
                ++*removed_count;
        } else if (errno != ENOENT) {
            status = status_error(STATUS_IO, "%s/%s: cannot remove: %s", directory, entry->d_name, strerror(errno));
        }
    }
    closedir(stream);
    return status;
}
