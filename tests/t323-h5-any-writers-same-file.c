//TEST ranks=1,2,4 timeout=120
/* t323 -- who writes an artifact does not show in it: many ranks in pieces, past the system's cache, make the digests, and the bytes, that one
 * process makes alone, at once or through the cache; and one rank's failure, a full disk say, fails all of them and leaves nothing. */
#include "tests/support/support.h"

#include <dirent.h>
#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/comm/comm.h"
#include "core/h5/h5.h"

static Comm *comm;

enum { FLAT = 5000011, ROWS = 1237, WIDTH = 11 }; /* 20 MB: five blocks, and no boundary of ranks is one of blocks */

static float value_of(int64_t element)
{
    return (float)(element % 100003) * 0.5f;
}

/* Elements [first, first + count) in pieces of at most `piece`. */
static void write_range(H5Writer *writer, const char *path, int64_t first, int64_t count, int64_t piece)
{
    float *values = memory_new((size_t)piece, sizeof *values);
    for (int64_t at = first; at < first + count; at += piece) {
        int64_t size = first + count - at < piece ? first + count - at : piece;
        for (int64_t i = 0; i < size; i++)
            values[i] = value_of(at + i);
        h5_write_elements(writer, path, at, size, values);
    }
    memory_free(&values);
}

static void describe(H5Writer *writer)
{
    h5_write_int(writer, H5_SEMANTIC, "/", "step", 7);
    h5_write_string(writer, H5_SEMANTIC, "/parents", "policy", "abc");
    h5_write_string(writer, H5_OPERATIONAL, "/", "code_version", "v1");
    h5_write_dataset(writer, H5_SEMANTIC, "/parameters/flat", DTYPE_F32, 1, (int64_t[]){FLAT});
    h5_write_dataset(writer, H5_SEMANTIC, "/parameters/deep/rows", DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH});
    h5_write_dataset(writer, H5_SEMANTIC, "/none", DTYPE_F32, 2, (int64_t[]){0, WIDTH});
    h5_write_whole(writer, H5_SEMANTIC, "/tokenizer", DTYPE_U8, 1, (int64_t[]){5}, "abcde");
}

/* Which share of a file is in the system's cache. */
static double share_cached(const char *path)
{
    struct stat info;
    int file = open(path, O_RDONLY);
    assert_true(file >= 0 && fstat(file, &info) == 0);
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = ((size_t)info.st_size + page - 1) / page, found = 0;
    unsigned char *resident = memory_new(pages, 1);
    void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, file, 0);
    assert_true(map != MAP_FAILED && mincore(map, (size_t)info.st_size, resident) == 0);
    for (size_t i = 0; i < pages; i++)
        found += resident[i] & 1;
    munmap(map, (size_t)info.st_size);
    close(file);
    memory_free(&resident);
    return (double)found / (double)pages;
}

/* Whole blocks leave nothing in the cache where the file system is one that h5_direct.c knows. */
static void test_past_the_cache(void **state)
{
    (void)state;
    if (comm_rank(comm) == 0) {
        const char *path = support_path("past.h5");
        H5Writer *writer;
        assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
        describe(writer);
        h5_write_past_cache(writer);
        write_range(writer, "/parameters/deep/rows", 0, ROWS * WIDTH, ROWS * WIDTH);
        write_range(writer, "/parameters/flat", 0, FLAT, FLAT);
        assert_ok(h5_writer_close(&writer));
        struct statfs system;
        assert_int_equal(statfs(path, &system), 0);
        if ((system.f_type != 0xEF53 && system.f_type != 0x58465342) || sysconf(_SC_PAGESIZE) != 4096)
            print_message("SKIPPED: this folder's file system (%lx) is not written to past the cache\n",
                          (long)system.f_type);
        else
            assert_true(share_cached(path) < 0.1);
    }
    comm_barrier(comm);
}

static void test_same_contents_same_file(void **state)
{
    (void)state;
    int rank = comm_rank(comm), size = comm_size(comm);
    H5Writer *writer;
    enum { FILES = 3 };
    static const char *const names[FILES] = {"together.h5", "alone.h5", "at-once.h5"};
    char path[FILES][512];
    for (int i = 0; i < FILES; i++)
        snprintf(path[i], sizeof path[i], "%s", support_path("%s", names[i]));
    assert_ok(h5_writer_open(comm, path[0], "tercet-test", 1, &writer));
    describe(writer);
    h5_write_past_cache(writer);
    int64_t from = (int64_t)FLAT * rank / size, to = (int64_t)FLAT * (rank + 1) / size;
    write_range(writer, "/parameters/flat", from, to - from, 700001);
    from = (int64_t)ROWS * WIDTH * rank / size, to = (int64_t)ROWS * WIDTH * (rank + 1) / size; /* cuts rows */
    write_range(writer, "/parameters/deep/rows", from, to - from, 313);
    assert_ok(h5_writer_close(&writer));

    if (rank == 0) {
        assert_ok(h5_writer_open(NULL, path[1], "tercet-test", 1, &writer));
        describe(writer);
        write_range(writer, "/parameters/deep/rows", 0, ROWS * WIDTH, ROWS * WIDTH);
        write_range(writer, "/parameters/flat", 0, FLAT, FLAT);
        assert_ok(h5_writer_close(&writer));

        assert_ok(h5_writer_open(NULL, path[2], "tercet-test", 1, &writer));
        describe(writer);
        h5_write_past_cache(writer);
        float *values = memory_new(FLAT, sizeof *values);
        for (int64_t i = 0; i < FLAT; i++)
            values[i] = value_of(i);
        const int64_t cut = H5_BLOCK_BYTES / 4 + 1001; /* two parts of one block, at an address that no disk takes */
        h5_write_many(writer,
                      (H5Write[]){{"/parameters/flat", cut, FLAT - cut, values + cut},
                                  {"/parameters/deep/rows", 0, ROWS * WIDTH, values},
                                  {"/parameters/flat", 0, cut, values},
                                  {"/none", 0, 0, values}},
                      4);
        memory_free(&values);
        assert_ok(h5_writer_close(&writer));
    }
    comm_barrier(comm);
    /* Every rank reads what all wrote, and a share of the digests. */
    H5File *files[FILES];
    H5Digest semantic[FILES], parameters[FILES], raw[FILES];
    for (int i = 0; i < FILES; i++) {
        assert_ok(h5_open(path[i], "tercet-test", &files[i]));
        assert_ok(comm_agree(comm, h5_verify(files[i], rank, size)));
        assert_ok(h5_digest_semantic(files[i], &semantic[i]));
        assert_ok(h5_digest_parameters(files[i], &parameters[i]));
        assert_ok(h5_digest_file(path[i], &raw[i]));
        assert_true(h5_digest_equal(semantic[0], semantic[i]));
        assert_true(h5_digest_equal(parameters[0], parameters[i]));
        assert_true(h5_digest_equal(raw[0], raw[i]));
    }
    /* The digest is part of the format: this value must not change. */
    char text[H5_DIGEST_TEXT];
    assert_string_equal(h5_digest_text(semantic[0], text), "e251806c722e351bdb1855c17af9a602");

    const H5Dataset *flat = h5_dataset(files[0], "/parameters/flat");
    assert_non_null(flat);
    float *values = memory_new(FLAT, sizeof *values);
    assert_ok(h5_read_whole(files[0], flat, values));
    for (int64_t i = 0; i < FLAT; i++)
        if (values[i] != value_of(i))
            fail_msg("element %ld is %g", (long)i, (double)values[i]);
    memory_free(&values);
    for (int i = 0; i < FILES; i++)
        h5_close(&files[i]);
    comm_barrier(comm);
}

static int files_in(const char *directory)
{
    DIR *stream = opendir(directory);
    assert_non_null(stream);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(stream);
    return count;
}

static void test_one_failure_is_everybodys(void **state)
{
    (void)state;
    int rank = comm_rank(comm), size = comm_size(comm);
    char directory[512], path[600];
    snprintf(directory, sizeof directory, "%s", support_path("failing"));
    assert_ok(text_make_directories(directory));
    comm_barrier(comm);
    snprintf(path, sizeof path, "%s/a.h5", directory);
    for (int failing = 0; failing < size; failing++) {
        H5Writer *writer;
        assert_ok(h5_writer_open(comm, path, "tercet-test", 1, &writer));
        if (rank == failing)
            h5_writer_fail(writer, status_error(STATUS_NUMERIC, "NaN here"));
        describe(writer);
        int64_t from = (int64_t)FLAT * rank / size, to = (int64_t)FLAT * (rank + 1) / size;
        write_range(writer, "/parameters/flat", from, to - from, FLAT);
        assert_fails(h5_writer_close(&writer), STATUS_NUMERIC, "NaN here");
        assert_null(writer);
        assert_int_equal(files_in(directory), 0);
        comm_barrier(comm);
    }
    /* Somebody forgot a piece: everybody is told which. */
    H5Writer *writer;
    assert_ok(h5_writer_open(comm, path, "tercet-test", 1, &writer));
    h5_write_dataset(writer, H5_SEMANTIC, "/x", DTYPE_F32, 1, (int64_t[]){size + 1});
    h5_write_elements(writer, "/x", rank, 1, &(float){1});
    char expected[80];
    snprintf(expected, sizeof expected, "/x: %d of %d elements", size, size + 1);
    assert_fails(h5_writer_close(&writer), STATUS_INTERNAL, expected);
    assert_int_equal(files_in(directory), 0);
    comm_barrier(comm);

    assert_fails(h5_writer_open(comm, support_path("nowhere/a.h5"), "tercet-test", 1, &writer), STATUS_IO, "nowhere");
    assert_null(writer);
}

/* Writes a whole artifact while no file of the ranks that are `limited` may grow past `limit` bytes, which is what a full
 * disk looks like. */
static Status write_limited(const char *path, bool limited, rlim_t limit, bool past_cache)
{
    struct rlimit before, now;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    now = (struct rlimit){limited ? limit : before.rlim_cur, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
    int rank = comm_rank(comm), size = comm_size(comm);
    H5Writer *writer;
    Status status = h5_writer_open(comm, path, "tercet-test", 1, &writer);
    if (!status_failed(status)) {
        describe(writer);
        if (past_cache)
            h5_write_past_cache(writer);
        int64_t from = (int64_t)FLAT * rank / size, to = (int64_t)FLAT * (rank + 1) / size;
        write_range(writer, "/parameters/flat", from, to - from, past_cache ? to - from : 700001);
        from = (int64_t)ROWS * WIDTH * rank / size, to = (int64_t)ROWS * WIDTH * (rank + 1) / size;
        write_range(writer, "/parameters/deep/rows", from, to - from, 1000);
        status = h5_writer_close(&writer);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    return status;
}

static void test_full_disk_ends_all(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    int rank = comm_rank(comm), size = comm_size(comm);
    char directory[512], path[600];
    snprintf(directory, sizeof directory, "%s", support_path("full"));
    assert_ok(text_make_directories(directory));
    comm_barrier(comm);
    snprintf(path, sizeof path, "%s/a.h5", directory);
    assert_ok(write_limited(path, false, 0, false));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    comm_barrier(comm);
    if (rank == 0)
        assert_int_equal(remove(path), 0);
    comm_barrier(comm);
    const rlim_t limits[] = {0, 100, 5000, 9000, 1 << 20, 11 << 20, 18 << 20, (rlim_t)info.st_size - 1};
    enum { LIMITS = sizeof limits / sizeof *limits };
    for (int i = 0; i < 2 * LIMITS; i++)
        for (int who = -1; who < size; who++) { /* all of them, or one alone */
            rlim_t limit = limits[i / 2];
            bool writes_last = limit < FLAT * sizeof(float) * (size_t)(who + 1) / (size_t)size;
            Status status = write_limited(path, who < 0 || who == rank, limit, i % 2);
            if (who <= 0 || writes_last) {
                assert_int_equal(status.code, STATUS_IO);
                assert_contains(status_message(), "full/a.h5");
                assert_int_equal(files_in(directory), 0);
            } else if (!status_failed(status)) { /* what it had to write lay below its limit */
                comm_barrier(comm);
                if (rank == 0)
                    assert_int_equal(remove(path), 0);
            }
            comm_barrier(comm);
        }
}

int main(int argc, char **argv)
{
    h5_library_start();
    MPI_Init(&argc, &argv);
    MPI_Comm world = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&world, &comm)))
        return 1;
    status_set_rank(comm_rank(comm));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_contents_same_file),
        cmocka_unit_test(test_past_the_cache),
        cmocka_unit_test(test_one_failure_is_everybodys),
        cmocka_unit_test(test_full_disk_ends_all),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    comm_close(comm);
    MPI_Finalize();
    return failures;
}
