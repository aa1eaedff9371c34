/* json_writer.h -- JSON lines out: to standard output as they come, or into a file that is whole or absent.
 *
 * Why:   a tool that stops in the middle must leave either what it has said so far (a pipe) or nothing (a file), never half a file
 *        that looks whole. */
#ifndef CORE_DATA_JSON_WRITER_H
#define CORE_DATA_JSON_WRITER_H

#include "core/data/json.h"

typedef struct JsonWriter JsonWriter;

/* `path` "-" is standard output; else the file appears, under a temporary name until json_writer_close. [local] */
Status json_writer_open(JsonWriter **writer, const char *path);
/* One value, one line. */
Status json_writer_line(JsonWriter *writer, const json_t *value);
/* What was written so far goes out: a reader of the pipe sees it. */
Status json_writer_flush(JsonWriter *writer);
/* keep: make the file appear (flushed, synced, renamed); else remove what there is of it. Frees the writer; NULL is ignored. */
Status json_writer_close(JsonWriter **writer, bool keep);

#endif
