/* safetensors_write.c -- a file of F32 tensors under a temporary name, renamed when it is complete. */
#include "core/store/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "core/base/memory.h"
#include "core/base/text.h"
#include "core/h5/h5.h"

struct SafetensorsWriter {
    char *path, *temporary;
    FILE *stream;
    int64_t floats_left;
};

static Status write_failed(const SafetensorsWriter *writer)
{
    return status_error(STATUS_IO, "%s: %s", writer->temporary, strerror(errno));
}

/* The header, padded with spaces so that the data start on 8 bytes. */
static char *header_text(const SafetensorsPlan *tensors, int count, int64_t *floats)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    *floats = 0;
    for (int i = 0; i < count; i++) {
        json_t *shape = json_array();
        int64_t elements = 1;
        for (int d = 0; d < tensors[i].ndim; d++) {
            json_array_append_new(shape, json_integer(tensors[i].shape[d]));
            elements *= tensors[i].shape[d];
        }
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                                  (json_int_t)(*floats * 4), (json_int_t)((*floats + elements) * 4));
        REQUIRE(entry && !json_object_get(root, tensors[i].name), "tensor %s twice", tensors[i].name);
        json_object_set_new(root, tensors[i].name, entry);
        *floats += elements;
    }
    char *dumped = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    REQUIRE(dumped, "names of tensors that are not UTF-8");
    Text text = {0};
    text_append_string(&text, dumped);
    memory_release(dumped);
    while (text.size % 8 != 0)
        text_append(&text, " ", 1);
    return text.bytes;
}

Status safetensors_writer_open(const char *path, const SafetensorsPlan *tensors, int count, SafetensorsWriter **writer)
{
    SafetensorsWriter *opened = memory_new(1, sizeof *opened);
    *writer = NULL;
    opened->path = memory_strdup(path);
    opened->temporary = h5_temporary_name(path, (long)getpid());
    opened->stream = fopen(opened->temporary, "wb");
    if (!opened->stream) {
        Status status = write_failed(opened);
        memory_free(&opened->temporary);
        memory_free(&opened->path);
        memory_free(&opened);
        return status;
    }
    char *header = header_text(tensors, count, &opened->floats_left);
    uint64_t size = strlen(header);
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (uint8_t)(size >> (8 * i));
    Status status = status_ok();
    if (fwrite(prefix, 1, sizeof prefix, opened->stream) != sizeof prefix ||
        fwrite(header, 1, size, opened->stream) != size)
        status = write_failed(opened);
    memory_free(&header);
    if (status_failed(status))
        return safetensors_writer_close(&opened, status);
    *writer = opened;
    return status;
}

Status safetensors_write(SafetensorsWriter *writer, const float *values, int64_t count)
{
    REQUIRE(count >= 0 && count <= writer->floats_left, "%lld floats where %lld are left", (long long)count,
            (long long)writer->floats_left);
    if (fwrite(values, sizeof *values, (size_t)count, writer->stream) != (size_t)count)
        return write_failed(writer);
    writer->floats_left -= count;
    return status_ok();
}

/* The rename is durable only when the directory is. */
static Status directory_sync(const char *path)
{
    char *directory = memory_strdup(path), *slash = strrchr(directory, '/');
    if (slash)
        slash[slash == directory] = 0;
    int descriptor = open(slash ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Status status = status_ok();
    if (descriptor < 0 || (fsync(descriptor) != 0 && errno != EINVAL))
        status = status_error(STATUS_IO, "%s: %s", slash ? directory : ".", strerror(errno));
    if (descriptor >= 0)
        close(descriptor);
    memory_free(&directory);
    return status;
}

Status safetensors_writer_close(SafetensorsWriter **writer_address, Status status)
{
    SafetensorsWriter *writer = *writer_address;
    if (!writer)
        return status;
    REQUIRE(status_failed(status) || writer->floats_left == 0, "%s: %lld floats never came", writer->path,
            (long long)writer->floats_left);
    if (!status_failed(status) && (fflush(writer->stream) != 0 || fsync(fileno(writer->stream)) != 0))
        status = write_failed(writer);
    if (fclose(writer->stream) != 0 && !status_failed(status))
        status = write_failed(writer);
    if (!status_failed(status) && rename(writer->temporary, writer->path) != 0)
        status = write_failed(writer);
    if (status_failed(status))
        unlink(writer->temporary);
    else
        status = directory_sync(writer->path);
    memory_free(&writer->temporary);
    memory_free(&writer->path);
    memory_free(writer_address);
    return status;
}
