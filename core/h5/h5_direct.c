/* h5_direct.c -- a file's blocks past the system's cache: for data that nobody will read soon.
 *
 * Why:   a disk of several GB/s waits for whoever takes pages for the cache; without it a checkpoint of moments, written or restored, costs the
 *        processor a third, and does not push out of memory what will be used again.
 * Rules: a block that is in the cache is read from it. On file systems whose servers are read ahead (NFS, Lustre), that are memory (tmpfs) or
 *        that check what they hold (btrfs), everything goes through it. What a direct access does not do, an ordinary one must: it has the error.
 *        Blocks are copied from and to rooms of our own, since their addresses are not the multiples that a disk asks for. */
#define _GNU_SOURCE /* O_DIRECT */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/base/work.h"
#include "core/h5/h5_writer.h"

enum {
    FILE_SYSTEM_EXT4 = 0xEF53,
    FILE_SYSTEM_XFS = 0x58465342,
    SECTOR_BYTES = 4096, /* offsets, sizes and addresses are multiples of it */
    HUGE_PAGE_BYTES = 2 << 20,
    ROOM_BYTES = H5_BLOCK_BYTES + HUGE_PAGE_BYTES
};

/* The open file `fd`, which is called `path`, once more; -1 where it is of no use. */
static int open_direct(int fd, const char *path, int access)
{
    struct statfs system;
    struct stat here, there;
    if (fstatfs(fd, &system) != 0 || (system.f_type != FILE_SYSTEM_EXT4 && system.f_type != FILE_SYSTEM_XFS))
        return -1;
    /* Beside a direct write others go through the cache, and never may a page or a block of the file system belong to both. */
    if (access != O_RDONLY && (sysconf(_SC_PAGESIZE) != SECTOR_BYTES || system.f_bsize > SECTOR_BYTES))
        return -1;
    int direct = open(path, access | O_CLOEXEC | O_DIRECT);
    if (direct >= 0 && (fstat(fd, &here) != 0 || fstat(direct, &there) != 0 || here.st_dev != there.st_dev ||
                        here.st_ino != there.st_ino)) {
        close(direct);
        direct = -1;
    }
    return direct;
}

void h5_read_once(H5File *file)
{
    if (file->sealed && file->direct < 0)
        file->direct = open_direct(file->fd, file->path, O_RDONLY);
}

void h5_write_past_cache(H5Writer *writer)
{
    if (writer->direct >= 0)
        return;
    writer->direct = open_direct(writer->fd, writer->temporary, O_WRONLY);
    if (writer->direct >= 0)
        h5_room(&writer->rooms, 0); /* opened before several threads ask */
}

/* Is most of [offset, offset + size) in the cache? Also where the system does not tell. */
static bool in_cache(const H5File *file, uint64_t offset, size_t size)
{
    unsigned char resident[ROOM_BYTES / SECTOR_BYTES];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page, found = 0;
    uint64_t from = offset / page * page;
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, file->fd, (off_t)from);
    if (map == MAP_FAILED)
        return true;
    bool known = mincore(map, size, resident) == 0;
    munmap(map, size);
    for (size_t i = 0; known && i < pages; i++)
        found += resident[i] & 1;
    return !known || 2 * found > pages;
}

const char *h5_direct_read(const H5File *file, uint64_t offset, size_t size, char *room)
{
    if (file->direct < 0 || size < H5_LARGE_BYTES || in_cache(file, offset, size))
        return NULL;
    size_t skipped = offset % SECTOR_BYTES, needed = skipped + size;
    size_t asked = (needed + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES; /* may end behind the file */
    ssize_t got = pread(file->direct, room, asked, (off_t)(offset - skipped));
    return got >= (ssize_t)needed ? room + skipped : NULL;
}

size_t h5_direct_write(const H5Writer *writer, uint64_t offset, const void *bytes, size_t size, char *room)
{
    size_t whole = size / SECTOR_BYTES * SECTOR_BYTES;
    if (size < H5_LARGE_BYTES || offset % SECTOR_BYTES != 0)
        return 0;
    memcpy(room, bytes, whole);
    ssize_t put = pwrite(writer->direct, room, whole, (off_t)offset);
    return put < 0 ? 0 : (size_t)put / SECTOR_BYTES * SECTOR_BYTES;
}

/* Untouched rooms take no memory. They are huge pages, so that a disk gets one address for a block and not a thousand. */
char *h5_room(H5Rooms *rooms, int worker)
{
    if (rooms->base == NULL) {
        rooms->workers = work_waiting_threads();
        size_t bytes = (size_t)rooms->workers * ROOM_BYTES + HUGE_PAGE_BYTES;
        REQUIRE(!status_failed(arena_open(&rooms->arena, "blocks of a file", arena_memory_host(), bytes)), "%s",
                status_message());
        char *base = arena_alloc(&rooms->arena, bytes - ARENA_ALIGN);
        rooms->base = base + (HUGE_PAGE_BYTES - (uintptr_t)base % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    }
    REQUIRE(worker < rooms->workers, "room %d of %d", worker, rooms->workers);
    return rooms->base + (size_t)worker * ROOM_BYTES;
}

void h5_rooms_close(H5Rooms *rooms)
{
    if (rooms->base != NULL)
        arena_close(&rooms->arena);
    rooms->base = NULL;
}
