/* h5_parts.h -- what the files of this room share and nobody outside it needs: handles of the HDF5 library, the seal,
 * raw input, block digests. */
#ifndef CORE_H5_H5_PARTS_H
#define CORE_H5_H5_PARTS_H

/* The 1.10 names mean the same in every later library. */
#define H5_USE_110_API
#include <hdf5.h>
#include <xxhash.h>

#include "core/base/arena.h"
#include "core/h5/h5.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Artifacts are little-endian and written as they lie in memory."
#endif

/* From H5_LARGE_BYTES on a dataset's elements are aligned and read by themselves; smaller ones come with what lies around them. */
enum { H5_SEAL_BYTES = 4096, H5_LARGE_BYTES = 64 << 10 };

/* --- h5_library.c: the HDF5 library as this program wants it ------------------------------------------------------- */

/* A failure with the formatted message and HDF5's innermost reason. */
Status h5_library_error(StatusCode code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* File access properties without a driver: fixed format version, aligned data, no locks (network file systems refuse
 * them, and a file under its final name is never written again). */
hid_t h5_library_access(void);
/* The type of `dtype` in a file, to be closed by H5Tclose. */
hid_t h5_library_type(DType dtype);
/* `dtype` of an HDF5 type; *exact: memory and file agree bit by bit. False: nothing this program reads. */
bool h5_library_dtype(hid_t type, const char *dtype_attribute, DType *dtype, bool *exact);

/* A range of elements in row-major order is a few boxes of the index space: visit them in order. */
typedef Status (*H5BoxVisit)(void *self, const hsize_t *start, const hsize_t *count, int64_t elements);
Status h5_library_boxes(int ndim, const int64_t *shape, int64_t first, int64_t count, H5BoxVisit visit, void *self);

/* --- h5_seal.c: the frame around the HDF5 part --------------------------------------------------------------------- */

typedef struct H5Extent {
    uint64_t offset, bytes; /* of one dataset's data in the file */
} H5Extent;

typedef enum H5SealFound { H5_SEAL_GOOD, H5_SEAL_NONE } H5SealFound;

/* Append the trailer and fill in the seal of a finished HDF5 file. `extents` gets sorted. */
Status h5_seal_write(const char *path, H5Extent *extents, size_t count);
/* Check everything but the data. H5_SEAL_NONE: an HDF5 file, but not ours. *hdf5_end: where its part ends. */
Status h5_seal_check(int fd, const char *path, H5SealFound *found, uint64_t *hdf5_end);
/* Exactly `size` bytes at `offset`. */
Status h5_raw_read(int fd, const char *path, uint64_t offset, void *bytes, size_t size);
Status h5_raw_write(int fd, const char *path, uint64_t offset, const void *bytes, size_t size);
/* rename and fsync of the directory. */
Status h5_raw_rename(const char *from, const char *to);

/* Where the block ends in which byte `at` of a dataset lies, or `end` if that comes first. */
static inline size_t h5_block_end(size_t at, size_t end)
{
    size_t block_end = (at / H5_BLOCK_BYTES + 1) * H5_BLOCK_BYTES;
    return block_end < end ? block_end : end;
}

/* --- h5_digest.c --------------------------------------------------------------------------------------------------- */

/* Where a dataset's blocks are in the file and in the list of all blocks. */
typedef struct H5Span {
    const char *path;
    uint64_t offset;
    size_t bytes;
    int64_t first_block;
} H5Span;

int64_t h5_blocks_count(size_t bytes);
H5Digest h5_hash_dataset(DType dtype, int ndim, const int64_t *shape, const H5Digest *blocks, int64_t blocks_count);
/* "f32 (3, 4)" for messages and, as "f32 3x4\n", for digests. Fresh entry of a small ring per thread. */
const char *h5_shape_text(DType dtype, int ndim, const int64_t *shape);

/* --- h5_read.c / h5_load.c ----------------------------------------------------------------------------------------- */

typedef struct H5Place {
    uint64_t offset;
    int64_t first_block, blocks;
    uint8_t *checked; /* one per block */
    H5Digest stored;  /* the file's own digest of this dataset */
    bool digest_known;
    void *copy; /* what h5_map gave where the data are off their alignment (HDF5 aligns large datasets only) */
} H5Place;

/* Memory for one block per thread of work_run_waiting. */
typedef struct H5Rooms {
    Arena arena;
    char *base; /* NULL: not open */
    int workers;
} H5Rooms;

struct H5File {
    char *path;
    int fd;
    bool sealed;
    uint64_t bytes, hdf5_end;
    hid_t hdf5; /* open in a foreign file only */
    H5Dataset *datasets;
    H5Place *places; /* one per dataset */
    int datasets_count;
    H5Attribute *attributes;
    int attributes_count;
    H5Digest *blocks; /* sealed only */
    int64_t blocks_count;
    H5Rooms rooms;
    int direct; /* the file again, for h5_direct_read; -1: none */
    char *map;  /* the whole file, once h5_map was asked */
};

/* Read names, shapes and attributes into `file` (fd, path, sealed set). */
Status h5_load(H5File *file);
/* Elements of a foreign dataset through HDF5. */
Status h5_load_elements(const H5File *file, const H5Dataset *dataset, int64_t first, int64_t count, void *elements);

/* --- h5_direct.c --------------------------------------------------------------------------------------------------- */

/* Up to a block of bytes past the system's cache: where in `room` they are, or NULL where they must be read with h5_raw_read. */
const char *h5_direct_read(const H5File *file, uint64_t offset, size_t size, char *room);
/* A thread's own room for a block and what a direct read brings with it. The first call, which opens them all, is one thread's. */
char *h5_room(H5Rooms *rooms, int worker);
void h5_rooms_close(H5Rooms *rooms);

#endif
