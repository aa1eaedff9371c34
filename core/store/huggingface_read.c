/* huggingface_read.c -- a weights file into a model's memory: front to back in pieces, by all threads, hashed on the way.
 *
 * Why:   a disk gives more than one thread can take when it also has to touch new memory, turn GPT-2's matrices and make the digest. So
 *        whoever takes a piece reads it, puts it where it belongs and turns it; only the digest goes in the file's order. */
#include "core/base/memory.h"
#include "core/base/work.h"
#include "core/store/huggingface_parts.h"

enum { PIECE_BYTES = 256 << 10 }; /* stays in the second cache while it is hashed and turned */

/* A run of bytes of the file: whole rows of one tensor, or what no view gets and only the digest needs. */
typedef struct Piece {
    uint64_t offset;
    size_t bytes;
    int tensor;           /* -1: none */
    int64_t first, count; /* elements of the tensor */
} Piece;

/* A thread's own. */
typedef struct Reader {
    char *raw;           // (raw_bytes) as it is in the file
    float *wide;         // (wide_count) as floats, where it is not in the file
    float *turned;       // (wide_count) for a device whose memory is not the host's
    const void *bytes;   /* of the piece at hand, as they are in the file */
    const float *values; /* of the piece at hand, for such a device */
} Reader;

typedef struct Reading {
    const Safetensors *file;
    const Fate *fate;
    const ModelShape *shape;
    const Params *params;
    Device *device;
    Piece *pieces;
    int64_t pieces_count, pieces_capacity;
    Reader *readers; // (threads)
    size_t raw_bytes;
    int64_t wide_count;
    H5Digester *digester; /* NULL: nobody asks */
} Reading;

/* --- Pieces -------------------------------------------------------------------------------------------------------- */

static void add_piece(Reading *reading, Piece piece)
{
    memory_reserve(&reading->pieces, reading->pieces_count, &reading->pieces_capacity);
    reading->pieces[reading->pieces_count++] = piece;
    if (piece.bytes > reading->raw_bytes)
        reading->raw_bytes = piece.bytes;
    if (piece.count > reading->wide_count)
        reading->wide_count = piece.count;
}

static void add_range(Reading *reading, uint64_t from, uint64_t to)
{
    for (; from < to; from += PIECE_BYTES)
        add_piece(reading, (Piece){from, to - from < PIECE_BYTES ? (size_t)(to - from) : PIECE_BYTES, -1, 0, 0});
}

/* The view's rows that a tensor is. */
static Tensor target_of(const Reading *reading, int tensor, int64_t *rows, int64_t *columns)
{
    const Fate *fate = &reading->fate[tensor];
    const ParamView *view = &reading->params->view[fate->view];
    int64_t from;
    *columns = view->shape[1];
    huggingface_part(reading->shape, view, fate->row->part, &from, rows);
    return tensor_range(reading->params->value, view->offset + from * *columns, *rows * *columns);
}

static Status add_tensor(Reading *reading, int tensor)
{
    const SafetensorsEntry *entry = safetensors_entry(reading->file, tensor);
    TRY(safetensors_check_float(reading->file, tensor));
    int64_t rows, columns, width = (int64_t)dtype_size(entry->dtype);
    Tensor target = target_of(reading, tensor, &rows, &columns);
    bool transposed = reading->fate[tensor].row->transposed;
    int64_t least = transposed ? rows * HUGGINGFACE_TURN_ROWS : columns; /* whole rows of the file */
    int64_t step = PIECE_BYTES / width / least * least;
    if (step < least)
        step = least;
    if (!tensor_host(reading->device, target)) /* it is written to the device as a whole */
        step = entry->elements;
    for (int64_t at = 0; at < entry->elements; at += step) {
        int64_t count = entry->elements - at < step ? entry->elements - at : step;
        add_piece(reading, (Piece){entry->offset + (uint64_t)(at * width), (size_t)(count * width), tensor, at, count});
    }
    return status_ok();
}

/* Tensors lie back to back up to the end of the file, as safetensors_open has checked. */
static Status plan(Reading *reading)
{
    uint64_t done = 0;
    for (int t = 0; t < safetensors_count(reading->file); t++) {
        const SafetensorsEntry *entry = safetensors_entry(reading->file, t);
        if (!reading->fate[t].row)
            continue;
        if (reading->digester)
            add_range(reading, done, entry->offset);
        TRY(add_tensor(reading, t));
        done = entry->offset + entry->bytes;
    }
    if (reading->digester)
        add_range(reading, done, safetensors_bytes(reading->file));
    return status_ok();
}

/* --- Reading ------------------------------------------------------------------------------------------------------- */

static Status read_piece(void *context, int64_t index, int worker)
{
    const Reading *reading = context;
    const Piece *piece = &reading->pieces[index];
    Reader *reader = &reading->readers[worker];
    reader->bytes = reader->raw;
    if (piece->tensor < 0)
        return safetensors_read_bytes(reading->file, piece->offset, reader->raw, piece->bytes);
    int64_t rows, columns;
    float *place = tensor_host(reading->device, target_of(reading, piece->tensor, &rows, &columns));
    DType dtype = safetensors_entry(reading->file, piece->tensor)->dtype;
    bool transposed = reading->fate[piece->tensor].row->transposed;
    if (place && !transposed && dtype == DTYPE_F32) {
        reader->bytes = place + piece->first;
        return safetensors_read_bytes(reading->file, piece->offset, place + piece->first, piece->bytes);
    }
    TRY(safetensors_read_bytes(reading->file, piece->offset, reader->raw, piece->bytes));
    float *values = dtype == DTYPE_F32     ? (float *)reader->raw
                    : place && !transposed ? place + piece->first
                                           : reader->wide;
    if (dtype != DTYPE_F32)
        dtype_to_f32(dtype, reader->raw, values, (size_t)piece->count);
    reader->values = transposed ? reader->turned : values;
    if (transposed) /* whole rows of a (columns, rows) matrix become columns */
        huggingface_turn(values, piece->count / rows, rows, (place ? place : reader->turned) + piece->first / rows,
                         columns);
    return status_ok();
}

static Status finish_piece(void *context, int64_t index, int worker)
{
    Reading *reading = context;
    const Piece *piece = &reading->pieces[index];
    Reader *reader = &reading->readers[worker];
    if (reading->digester)
        h5_digester_add(reading->digester, reader->bytes, piece->bytes);
    if (piece->tensor >= 0) {
        int64_t rows, columns;
        Tensor target = target_of(reading, piece->tensor, &rows, &columns);
        if (!tensor_host(reading->device, target))
            tensor_write(reading->device, target, reader->values);
    }
    return status_ok();
}

Status huggingface_shard_load(const Safetensors *file, const Fate *fate, const ModelShape *shape, const Params *params,
                              Device *device, H5Digest *digest)
{
    Reading reading = {.file = file, .fate = fate, .shape = shape, .params = params, .device = device};
    if (digest)
        reading.digester = h5_digester_open();
    Status status = plan(&reading);
    int threads = work_threads();
    reading.readers = memory_new((size_t)threads, sizeof *reading.readers);
    for (int i = 0; i < threads && !status_failed(status); i++) {
        Reader *reader = &reading.readers[i];
        reader->raw = memory_new(reading.raw_bytes, 1);
        reader->wide = memory_new((size_t)reading.wide_count, sizeof(float));
        if (!device->backend->host_visible)
            reader->turned = memory_new((size_t)reading.wide_count, sizeof(float));
    }
    if (!status_failed(status))
        status = work_run(reading.pieces_count, read_piece, finish_piece, &reading);
    if (digest) {
        *digest = h5_digester_close(&reading.digester);
        if (!status_failed(status))
            safetensors_remember(file, *digest);
    }
    for (int i = 0; i < threads; i++) {
        memory_free(&reading.readers[i].raw);
        memory_free(&reading.readers[i].wide);
        memory_free(&reading.readers[i].turned);
    }
    memory_free(&reading.readers);
    memory_free(&reading.pieces);
    return status;
}
