/* h5_writer.h -- what h5_write.c (growing) and h5_finish.c (completing) share of a writer. */
#ifndef CORE_H5_H5_WRITER_H
#define CORE_H5_H5_WRITER_H

#include "core/comm/comm.h"
#include "core/h5/h5_parts.h"

typedef struct H5Growing {
    char *path;
    H5Kind kind;
    DType dtype;
    int ndim;
    int64_t shape[H5_DIMS_MAX];
    int64_t elements, written; /* written: by this rank */
    size_t bytes;
    uint64_t offset; /* in the file; 0 where there are no bytes, or where it could not be made */
    H5Digest *block; // (blocks) of those that this rank wrote in one piece
    uint8_t *hashed; // (blocks) 1: block[] is known
} H5Growing;

struct H5Writer {
    Comm *comm; /* NULL: one process */
    int rank, size;
    char *path, *temporary;
    int fd;        /* every rank's own: elements go through it */
    int direct;    /* the file again, for whole blocks past the cache; -1: none */
    H5Rooms rooms; /* for them */
    hid_t file;    /* rank 0's: names, shapes and attributes go through it; -1 on the others */
    H5Growing *datasets;
    int datasets_count, datasets_capacity, recent;
    H5Attribute *attributes; /* strings are the writer's own */
    int attributes_count, attributes_capacity;
    char **groups; /* made so far */
    int groups_count, groups_capacity;
    StatusCode failed; /* first failure of this rank */
    char *failure;
};

int h5_team_rank(Comm *comm);
int h5_team_size(Comm *comm);
/* [collective] */
Status h5_team_agree(Comm *comm, Status local);
/* Rank 0: make the groups above `path`. [local] */
Status h5_writer_groups(H5Writer *writer, const char *path);
/* Rank 0: make a dataset and the groups above it, with these elements unless `elements` is NULL; sets the offset. [local] */
Status h5_writer_create(H5Writer *writer, H5Growing *dataset, const void *elements);
/* With writer->direct: how many of up to a block of bytes went past the system's cache; the rest is for h5_raw_write. `room`: h5_room. */
size_t h5_direct_write(const H5Writer *writer, uint64_t offset, const void *bytes, size_t size, char *room);
/* This rank's first failure as a Status. */
Status h5_writer_status(const H5Writer *writer);
/* [collective] Close and remove the temporary, free the writer. Returns `why`, its message still the current one. */
Status h5_writer_abandon(H5Writer *writer, Status why);

#endif
