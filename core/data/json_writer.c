/* json_writer.c -- see json_writer.h. */
#include "core/data/json_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"

struct JsonWriter {
    char *path, *temporary; /* temporary NULL: standard output */
    FILE *file;
    Text line;
};

static Status writer_error(const JsonWriter *writer, const char *what)
{
    return status_error(STATUS_IO, "%s: cannot %s: %s", writer->path, what, strerror(errno));
}

Status json_writer_open(JsonWriter **writer, const char *path)
{
    *writer = NULL;
    JsonWriter *self = memory_new(1, sizeof *self);
    bool standard_output = strcmp(path, "-") == 0;
    self->path = memory_strdup(standard_output ? "standard output" : path);
    self->temporary = standard_output ? NULL : h5_temporary_name(path, (long)getpid());
    self->file = standard_output ? stdout : fopen(self->temporary, "we");
    if (!self->file) {
        Status status = writer_error(self, "write");
        memory_free(&self->temporary);
        memory_free(&self->path);
        memory_free(&self);
        return status;
    }
    *writer = self;
    return status_ok();
}

Status json_writer_line(JsonWriter *writer, const json_t *value)
{
    text_clear(&writer->line);
    json_append(&writer->line, value);
    text_append(&writer->line, "\n", 1);
    if (fwrite(writer->line.bytes, 1, writer->line.size, writer->file) != writer->line.size)
        return writer_error(writer, "write");
    return status_ok();
}

Status json_writer_flush(JsonWriter *writer)
{
    return fflush(writer->file) == 0 ? status_ok() : writer_error(writer, "write");
}

/* The rename itself must survive a crash too. */
static Status sync_directory(const JsonWriter *writer)
{
    char *directory = memory_strdup(writer->path);
    char *slash = strrchr(directory, '/');
    if (slash)
        slash[slash == directory] = 0;
    int handle = open(slash ? directory : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    Status status = handle < 0 || fsync(handle) != 0 ? writer_error(writer, "sync") : status_ok();
    if (handle >= 0)
        close(handle);
    memory_free(&directory);
    return status;
}

Status json_writer_close(JsonWriter **writer, bool keep)
{
    JsonWriter *self = *writer;
    if (!self)
        return status_ok();
    Status status = keep ? json_writer_flush(self) : status_ok();
    if (self->temporary) {
        if (keep && !status_failed(status) && fsync(fileno(self->file)) != 0)
            status = writer_error(self, "sync");
        if (fclose(self->file) != 0 && keep && !status_failed(status))
            status = writer_error(self, "write");
        if (keep && !status_failed(status) && rename(self->temporary, self->path) != 0)
            status = writer_error(self, "rename into place");
        else if (keep && !status_failed(status))
            status = sync_directory(self);
        if (!keep || status_failed(status))
            unlink(self->temporary);
    }
    text_free(&self->line);
    memory_free(&self->temporary);
    memory_free(&self->path);
    memory_free(writer);
    return status;
}
