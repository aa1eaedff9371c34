/* safetensors.h -- named tensors in a file that carries no code: a length, a JSON header, raw little-endian data.
 *
 * Format: u64 header size, header {"NAME": {"dtype": "F32", "shape": [..], "data_offsets": [from, to]}, ..., optional
 *        "__metadata__": {..}}, then the data that the offsets count from, without holes or overlaps.
 * Rules: everything in the header is checked when the file is opened (sizes against shapes, offsets against the file), so
 *        that later reads can only fail by I/O. Errors name path and tensor. [local] throughout. */
#ifndef CORE_STORE_SAFETENSORS_H
#define CORE_STORE_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"
#include "core/h5/h5.h"
#include "core/tensor/dtype.h"

enum { SAFETENSORS_DIMS_MAX = 8 };

typedef struct SafetensorsEntry {
    const char *name;
    const char *dtype_text; /* as the file says: "F32", "BF16", "F8_E4M3" */
    bool known;             /* `dtype` is that type; false: a type that core/tensor has not */
    DType dtype;
    int ndim;
    int64_t shape[SAFETENSORS_DIMS_MAX];
    int64_t elements;
    size_t bytes;
    uint64_t offset; /* from the start of the file */
} SafetensorsEntry;

/* --- Reading ------------------------------------------------------------------------------------------------------ */

typedef struct Safetensors Safetensors;

/* STATUS_INPUT for anything wrong in the file. *file is NULL after a failure. */
Status safetensors_open(const char *path, Safetensors **file);
/* NULL is ignored; *file becomes NULL. */
void safetensors_close(Safetensors **file);
const char *safetensors_path(const Safetensors *file);
/* Entries in order of offset. */
int safetensors_count(const Safetensors *file);
const SafetensorsEntry *safetensors_entry(const Safetensors *file, int index);
/* Index by name, or -1. */
int safetensors_find(const Safetensors *file, const char *name);
/* The data as stored (entry->bytes). */
Status safetensors_read(const Safetensors *file, int index, void *bytes);
/* F32, BF16 or F16 widened to float (entry->elements); F64, integers and others are an error that says the type. */
Status safetensors_read_f32(const Safetensors *file, int index, float *values);
/* STATUS_INPUT unless it is F32, BF16 or F16. */
Status safetensors_check_float(const Safetensors *file, int index);
/* Any bytes of the file, [from, from + size). */
Status safetensors_read_bytes(const Safetensors *file, uint64_t from, void *bytes, size_t size);
uint64_t safetensors_bytes(const Safetensors *file);
/* Tells h5.h the digest of the whole file, which somebody made who read all of it. */
void safetensors_remember(const Safetensors *file, H5Digest digest);

/* --- Writing: F32 tensors, one after another, whole or absent ------------------------------------------------------ */

typedef struct SafetensorsPlan {
    char *name;
    int ndim;
    int64_t shape[SAFETENSORS_DIMS_MAX];
} SafetensorsPlan;

typedef struct SafetensorsWriter SafetensorsWriter;

/* Begins `path` under its temporary name with the header for these tensors. */
Status safetensors_writer_open(const char *path, const SafetensorsPlan *tensors, int count, SafetensorsWriter **writer);
/* The next `count` floats, in order of the plan and row-major; tensors may be cut anywhere. */
Status safetensors_write(SafetensorsWriter *writer, const float *values, int64_t count);
/* With `status` fine: all floats must have come; sync and rename. Otherwise the temporary is removed and `status` is
 * returned. Frees the writer and sets *writer to NULL; a NULL writer just returns `status`. */
Status safetensors_writer_close(SafetensorsWriter **writer, Status status);

#endif
