/* h5.h -- artifacts: self-describing HDF5 files that are whole or absent, and that know when they were damaged.
 *
 * Why:   a checkpoint that is half there, or that lost a bit on the way, is worse than none. So a file is written under
 *        a temporary name, flushed, renamed only when every rank succeeded, and sealed: what was written is known by
 *        digests before HDF5 looks at a single byte (its 1.10 series crashes on many malformed files).
 * How:   bytes of a sealed file (all integers little-endian):
 *            0     seal, 4096 bytes (HDF5 calls this a user block; h5py and the HDF5 tools skip it)
 *                      0  "TERCET SEALED H5"     16  u32 version 1     20  u32 reserved 0
 *                     24  u64 bytes of the file  32  u64 where the HDF5 part ends  40  u64 extents in the trailer
 *                     48  digest of the trailer  64  digest of the HDF5 part without the datasets' data
 *                     80  zeros, up to 4080: digest of the 4080 bytes before it
 *            4096  HDF5, datasets contiguous and uncompressed
 *            end   trailer: one (u64 offset, u64 bytes) per dataset, in order of offset
 *        Opening checks the seal and everything but the data; data are checked when read, block by block. A digest is
 *        XXH3-128, printed as 32 hexadecimal digits, most significant first, as xxhsum -H128 prints it. A digest finds
 *        damage, not malice: who can write the file can also write its digests.
 *        Inside:
 *            /digests           u8 (blocks, 16): the digest of every 4 MiB block of every dataset. A block is 4 MiB of the
 *                               dataset's elements in row-major order, the last one shorter; datasets follow each other
 *                               in the order of their paths (bytewise). No dataset of zero elements has blocks.
 *            DATASET@digest     hexadecimal digest of "DTYPE N0xN1x...\n" followed by the digests of its blocks
 *            DATASET@dtype      "f32" ... : HDF5 has no bf16, so those are u16 with this attribute saying so
 *            /@format, /@format_version
 *            /@operational      the names, one a line, of what does not count for the semantic digest: "/timings",
 *                               "/@code_version"
 *        Attributes are int64, double or UTF-8 strings (fixed length, null-padded).
 * Rules: a path starts with '/'. Groups come into being with what they hold. Element ranges are in row-major order.
 *        [collective] functions are called by every rank of the Comm, in the same order, with equal arguments except
 *        where it says otherwise. A NULL Comm is one process, where MPI is never touched. */
#ifndef CORE_H5_H5_H
#define CORE_H5_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/tensor/dtype.h"

typedef struct Comm Comm;

/* [local] Start the HDF5 library. A program that will call MPI_Init calls this before: a library that finds MPI running closes itself inside
 * MPI_Finalize, and crashes there on a file that a full disk kept it from closing. */
void h5_library_start(void);

enum { H5_DIMS_MAX = 4, H5_BLOCK_BYTES = 4 << 20, H5_DIGEST_TEXT = 33 };

/* --- Digests ------------------------------------------------------------------------------------------------------ */

typedef struct H5Digest {
    uint8_t bytes[16]; /* most significant first */
} H5Digest;

H5Digest h5_digest_bytes(const void *bytes, size_t size);
/* The same of bytes that come in pieces. */
typedef struct H5Digester H5Digester;
H5Digester *h5_digester_open(void);
void h5_digester_add(H5Digester *digester, const void *bytes, size_t size);
/* Frees it and sets it to NULL. */
H5Digest h5_digester_close(H5Digester **digester);
/* Of a whole file's raw bytes (a tokenizer.json, a safetensors file: what is no artifact of ours). A process reads a file once for this:
 * while its device, inode, size and time of change are the same, so is its digest. [local] */
Status h5_digest_file(const char *path, H5Digest *digest);
/* Tell what somebody found who read all of an open file anyway. [local] */
void h5_digest_remember(int fd, H5Digest digest);
bool h5_digest_equal(H5Digest a, H5Digest b);
/* 32 hexadecimal digits and a zero byte. Returns `text`. */
const char *h5_digest_text(H5Digest digest, char text[H5_DIGEST_TEXT]);
bool h5_digest_parse(const char *text, H5Digest *digest);

/* --- Writing -------------------------------------------------------------------------------------------------------
 *
 * A writer remembers its first failure and turns the calls after it into empty ones that still take part in every
 * collective, so callers write straight on and ask once, at h5_writer_close. */

/* Does it change results (enters h5_digest_semantic), or is it about how they were made (timings, ranks, versions)? */
typedef enum H5Kind { H5_SEMANTIC, H5_OPERATIONAL } H5Kind;

typedef struct H5Writer H5Writer;

/* [collective] Begin `path` under its temporary name, with /@format and /@format_version. On failure *writer is NULL on
 * every rank. */
Status h5_writer_open(Comm *comm, const char *path, const char *format, int64_t format_version, H5Writer **writer);
/* [local] An attribute of a group or dataset ("/" is the file's root). Rank 0's attributes are the file's; other ranks
 * may make the same calls or none. Setting a name again replaces its value. */
void h5_write_int(H5Writer *writer, H5Kind kind, const char *object, const char *name, int64_t value);
void h5_write_real(H5Writer *writer, H5Kind kind, const char *object, const char *name, double value);
void h5_write_string(H5Writer *writer, H5Kind kind, const char *object, const char *name, const char *value);
/* [collective] A dataset to be filled by h5_write_elements; ndim in 1..H5_DIMS_MAX, extents >= 0. */
void h5_write_dataset(H5Writer *writer, H5Kind kind, const char *path, DType dtype, int ndim, const int64_t *shape);
/* [local] Elements [first, first + count) of the dataset, as stored in memory (little-endian; bf16 and f16 as they are).
 * Ranks write what they hold, when they hold it; together every element exactly once. */
void h5_write_elements(H5Writer *writer, const char *path, int64_t first, int64_t count, const void *elements);
/* [local] The same in rows of the first dimension. */
void h5_write_rows(H5Writer *writer, const char *path, int64_t first, int64_t rows, const void *elements);
typedef struct H5Write {
    const char *path;
    int64_t first, count;
    const void *elements;
} H5Write;

/* [local] h5_write_elements of each, by all threads (base/work.h). They may meet in a block of the file. */
void h5_write_many(H5Writer *writer, const H5Write *writes, int64_t count);
/* [local] What is written from now on will not be read soon by anybody on this machine: their blocks may go past the system's cache. */
void h5_write_past_cache(H5Writer *writer);
/* [collective] A whole dataset that every rank holds; rank 0 writes it. */
void h5_write_whole(H5Writer *writer, H5Kind kind, const char *path, DType dtype, int ndim, const int64_t *shape,
                    const void *elements);
/* [local] Make this writer fail with the caller's failure (its message is kept); nothing if `status` is none. */
void h5_writer_fail(H5Writer *writer, Status status);
/* [collective] Complete, digest, seal, sync and rename; or, where any rank failed, remove the temporary and return the
 * failure on every rank. Frees the writer and sets *writer to NULL. */
Status h5_writer_close(H5Writer **writer);

/* --- Temporary names ----------------------------------------------------------------------------------------------- */

/* "NAME.PID.tmp" for the process `pid`: the one rule, shared with text_write_file. Fresh string, memory_free it. */
char *h5_temporary_name(const char *path, long pid);
/* Is this file name (with or without directories) a temporary one by that rule? */
bool h5_is_temporary(const char *name);
/* [local] Delete the temporary files in a directory (not below it); for who holds the directory's lock. `removed_count`
 * may be NULL. A directory that does not exist has none. */
Status h5_remove_temporaries(const char *directory, int *removed_count);

/* --- Reading ------------------------------------------------------------------------------------------------------- */

typedef struct H5Dataset {
    const char *path;
    DType dtype;
    int ndim;
    int64_t shape[H5_DIMS_MAX];
    int64_t elements;
    size_t bytes;
    H5Kind kind;
    H5Digest digest; /* of its contents, type and shape; zeros in a foreign file until h5_digest_* was asked */
} H5Dataset;

typedef enum H5AttributeType { H5_INT, H5_REAL, H5_STRING } H5AttributeType;

typedef struct H5Attribute {
    const char *object, *name;
    H5AttributeType type;
    H5Kind kind;
    int64_t integer;
    double real;
    const char *string; /* NULL unless H5_STRING */
} H5Attribute;

typedef struct H5File H5File;

/* [local] Open a sealed file and check all of it but the data. `format`: what /@format must be, NULL for any. Readers do
 * not communicate: each rank opens for itself and reads what it needs, however many ranks wrote the file. */
Status h5_open(const char *path, const char *format, H5File **file);
/* [local] The same, but an HDF5 file without a seal will do too (made by h5py, say): nothing about it is known in
 * advance, so it is first read through in a child process, and whatever crashes or hangs HDF5 there becomes an error
 * here. Its integers and floats of other widths or byte orders read as I64, F32 or F64; chunks and filters are fine. */
Status h5_open_foreign(const char *path, const char *format, H5File **file);
/* [local] NULL is fine. */
void h5_close(H5File **file);

const char *h5_path(const H5File *file);
bool h5_sealed(const H5File *file);
/* Everything the file holds, sorted by path (attributes: by object, then name). Borrowed until h5_close. */
int h5_datasets(const H5File *file, const H5Dataset **list);
int h5_attributes(const H5File *file, const H5Attribute **list);

/* NULL: not there. */
const H5Dataset *h5_dataset(const H5File *file, const char *path);
const H5Attribute *h5_attribute(const H5File *file, const char *object, const char *name);
/* A dataset of this type and shape; -1 in `shape` is any extent, `shape` NULL any shape of `ndim` dimensions. The error
 * names file and dataset, what was expected and what was found. */
Status h5_find(const H5File *file, const char *path, DType dtype, int ndim, const int64_t *shape,
               const H5Dataset **dataset);
/* An attribute of this type. A string is borrowed until h5_close; an int will do where a real is asked for. */
Status h5_read_int(const H5File *file, const char *object, const char *name, int64_t *value);
Status h5_read_real(const H5File *file, const char *object, const char *name, double *value);
Status h5_read_string(const H5File *file, const char *object, const char *name, const char **value);
/* [local] Elements [first, first + count) in the dataset's type. The blocks they touch are checked on first touch; a
 * block that does not match its digest is an error that names dataset and block, and the target is then undefined. */
Status h5_read_elements(H5File *file, const H5Dataset *dataset, int64_t first, int64_t count, void *elements);
Status h5_read_rows(H5File *file, const H5Dataset *dataset, int64_t first, int64_t rows, void *elements);
Status h5_read_whole(H5File *file, const H5Dataset *dataset, void *elements);
typedef struct H5Read {
    const H5Dataset *dataset;
    int64_t first, count;
    void *elements;
} H5Read;

/* [local] h5_read_elements of each, by all threads (base/work.h). Fastest in the order in which the datasets were made. */
Status h5_read_many(H5File *file, const H5Read *reads, int64_t count);
/* [local] What is read from now on will not be read again soon, by anybody on this machine: it may go past the system's cache. */
void h5_read_once(H5File *file);
/* [local] The elements of a sealed file's dataset where they lie in the file, until h5_close. Nothing is checked against the
 * digests: h5_verify first. */
Status h5_map(H5File *file, const H5Dataset *dataset, const void **elements);
/* [local] Check the data of every dataset: this caller's share, blocks with index % parts == part. */
Status h5_verify(H5File *file, int part, int parts);
/* [local] One hash of all semantic contents: attributes and datasets that are not operational, by path. Equal for any
 * number of writers and any order of writing. From the digests in the file: h5_verify checks the data against them. */
Status h5_digest_semantic(H5File *file, H5Digest *digest);
/* [local] The same of the datasets below /parameters alone. */
Status h5_digest_parameters(H5File *file, H5Digest *digest);

#endif
