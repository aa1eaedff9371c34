/* t321 -- an artifact is whole or absent: whatever goes wrong while it is written, its name holds either nothing or what
 * it held before, and temporaries can be told and removed. */
#include "tests/support/support.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"

static int entries(const char *directory, bool temporary_only)
{
    DIR *stream = opendir(directory);
    assert_non_null(stream);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        count += entry->d_name[0] != '.' && (!temporary_only || h5_is_temporary(entry->d_name));
    closedir(stream);
    return count;
}

static const char *fresh_directory(const char *name)
{
    const char *directory = support_path("%s", name);
    assert_ok(text_make_directories(directory));
    return directory;
}

enum { ROWS = 3000, WIDTH = 1000 };

static H5Writer *begin(const char *path, int64_t step)
{
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    h5_write_int(writer, H5_SEMANTIC, "/", "step", step);
    h5_write_dataset(writer, H5_SEMANTIC, "/parameters/x", DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH});
    return writer;
}

static void fill(H5Writer *writer, int64_t rows)
{
    float *row = memory_new(WIDTH, sizeof *row);
    for (int64_t r = 0; r < rows; r++) {
        row[0] = (float)r;
        h5_write_rows(writer, "/parameters/x", r, 1, row);
    }
    memory_free(&row);
}

static void check_holds(const char *path, int64_t expected)
{
    H5File *file;
    int64_t step;
    assert_ok(h5_open(path, "tercet-test", &file));
    assert_ok(h5_read_int(file, "/", "step", &step));
    assert_int_equal(step, expected);
    assert_ok(h5_verify(file, 0, 1));
    h5_close(&file);
}

static void test_failures_leave_what_was_there(void **state)
{
    (void)state;
    const char *directory = fresh_directory("failures");
    char path[512];
    snprintf(path, sizeof path, "%s/a.h5", directory);
    H5Writer *writer = begin(path, 1);
    fill(writer, ROWS);
    assert_int_equal(entries(directory, false), 1);
    assert_int_equal(entries(directory, true), 1);
    assert_ok(h5_writer_close(&writer));
    assert_int_equal(entries(directory, true), 0);
    check_holds(path, 1);

    /* The caller fails; its message is the one that is reported. */
    writer = begin(path, 2);
    fill(writer, 10);
    h5_writer_fail(writer, status_ok());
    h5_writer_fail(writer, status_error(STATUS_NUMERIC, "loss is NaN"));
    h5_writer_fail(writer, status_error(STATUS_IO, "a later one"));
    fill(writer, 10);
    assert_fails(h5_writer_close(&writer), STATUS_NUMERIC, "loss is NaN");
    assert_int_equal(entries(directory, false), 1);
    check_holds(path, 1);

    writer = begin(path, 3);
    fill(writer, ROWS - 1);
    assert_fails(h5_writer_close(&writer), STATUS_INTERNAL, "/parameters/x: 2999000 of 3000000 elements were written");
    assert_int_equal(entries(directory, false), 1);
    check_holds(path, 1);

    /* The place of the file has become a directory: the very last step fails. */
    char other[512];
    snprintf(other, sizeof other, "%s/b.h5", directory);
    writer = begin(other, 4);
    fill(writer, ROWS);
    assert_int_equal(mkdir(other, 0777), 0);
    assert_fails(h5_writer_close(&writer), STATUS_IO, "cannot rename");
    assert_int_equal(entries(directory, true), 0);

    assert_fails(h5_writer_open(NULL, support_path("nowhere/a.h5"), "tercet-test", 1, &writer), STATUS_IO,
                 "nowhere/a.h5");
    assert_null(writer);
}

/* In a child process, whose file size is limited: what a full disk does, at every stage of writing. */
static void test_full_disk(void **state)
{
    (void)state;
    const char *directory = fresh_directory("full");
    char path[512];
    snprintf(path, sizeof path, "%s/a.h5", directory);
    H5Writer *writer = begin(path, 1);
    fill(writer, ROWS);
    assert_ok(h5_writer_close(&writer));
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    const rlim_t limits[] = {
        0, 100, 5000, 9000, 1 << 20, 11 << 20, (rlim_t)info.st_size - 5000, (rlim_t)info.st_size - 1};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGXFSZ, SIG_IGN);
            struct rlimit limit = {limits[i], limits[i]};
            if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
                _exit(90);
            H5Writer *attempt;
            if (status_failed(h5_writer_open(NULL, path, "tercet-test", 1, &attempt)))
                _exit(status_message()[0] ? 1 : 91);
            h5_write_int(attempt, H5_SEMANTIC, "/", "step", 2);
            h5_write_dataset(attempt, H5_SEMANTIC, "/parameters/x", DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH});
            fill(attempt, ROWS);
            _exit(status_failed(h5_writer_close(&attempt)) && status_message()[0] ? 1 : 92);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        if (!WIFEXITED(how) || WEXITSTATUS(how) != 1)
            fail_msg("limit %ld: the writer ended with wait status %d", (long)limits[i], how);
        assert_int_equal(entries(directory, false), 1);
    }
    check_holds(path, 1);
}

static void test_killed_writer(void **state)
{
    (void)state;
    const char *directory = fresh_directory("killed");
    char path[512];
    snprintf(path, sizeof path, "%s/a.h5", directory);
    H5Writer *writer = begin(path, 1);
    fill(writer, ROWS);
    assert_ok(h5_writer_close(&writer));
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            H5Writer *attempt = begin(path, 2);
            fill(attempt, i * ROWS / 2);
            raise(SIGKILL);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    }
    check_holds(path, 1);
    assert_int_equal(entries(directory, true), 3);
    int removed;
    assert_ok(h5_remove_temporaries(directory, &removed));
    assert_int_equal(removed, 3);
    assert_int_equal(entries(directory, false), 1);
    assert_ok(h5_remove_temporaries(support_path("nowhere"), &removed));
    assert_int_equal(removed, 0);
}

static void test_temporary_names(void **state)
{
    (void)state;
    char *name = h5_temporary_name("/x/final.h5", 123);
    assert_string_equal(name, "/x/final.h5.123.tmp");
    assert_true(h5_is_temporary(name));
    memory_free(&name);
    const char *const others[] = {
        "final.h5", "final.h5.tmp", "final.h5.12a.tmp", ".12.tmp", "/x/.12.tmp", "12.tmp", "tmp", ""};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(h5_is_temporary(others[i]));
}

static void write_twice(void *path)
{
    H5Writer *writer = begin(path, 1);
    h5_write_dataset(writer, H5_SEMANTIC, "/parameters/x", DTYPE_F32, 1, (int64_t[]){1});
}

static void write_outside(void *path)
{
    H5Writer *writer = begin(path, 1);
    h5_write_rows(writer, "/parameters/x", ROWS, 1, "");
}

static void test_misuse_aborts(void **state)
{
    (void)state;
    char *path = memory_strdup(support_path("misuse.h5"));
    assert_true(support_aborts(write_twice, path, "written twice"));
    assert_true(support_aborts(write_outside, path, "rows [3000, +1) of 3000"));
    memory_free(&path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures_leave_what_was_there),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_temporary_names),
        cmocka_unit_test(test_misuse_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
