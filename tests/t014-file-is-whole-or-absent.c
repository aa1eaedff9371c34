/* t014 -- text files: written whole or not at all, even when killed or when the disk is full; read with clear errors. */
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

static int entries_count(const char *folder)
{
    DIR *handle = opendir(folder);
    assert_non_null(handle);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(handle));)
        count += entry->d_name[0] != '.';
    closedir(handle);
    return count;
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = support_path("round");
    assert_ok(text_write_file(path, "a\0b\n", 4));
    Text text = {0};
    text_append_string(&text, "what was there before");
    assert_ok(text_read_file(path, 4, &text));
    assert_int_equal(text.size, 4);
    assert_memory_equal(text.bytes, "a\0b\n", 5);
    assert_ok(text_write_file(path, NULL, 0));
    assert_ok(text_read_file(path, 0, &text));
    assert_int_equal(text.size, 0);
    assert_string_equal(text_string(&text), "");
    size_t size = 3 << 20;
    char *large = memory_new(size, 1);
    for (size_t i = 0; i < size; i++)
        large[i] = (char)(i * 7 + i / 255);
    assert_ok(text_write_file(path, large, size));
    assert_ok(text_read_file(path, SIZE_MAX / 4, &text));
    assert_int_equal(text.size, size);
    assert_memory_equal(text.bytes, large, size);
    memory_free(&large);
    text_free(&text);
    assert_ok(text_read_file("/proc/self/status", 1 << 20, &text)); /* says it has no bytes, and has some */
    assert_contains(text.bytes, "Name:");
    text_free(&text);
}

static void test_read_errors(void **state)
{
    (void)state;
    Text text = {0};
    assert_fails(text_read_file(support_path("none"), 10, &text), STATUS_IO, "none: cannot open: No such file");
    assert_fails(text_read_file(support_directory(), 10, &text), STATUS_INPUT, "found a directory");
    const char *path = support_path("big");
    assert_ok(text_write_file(path, "12345678901", 11));
    assert_fails(text_read_file(path, 10, &text), STATUS_INPUT, "big: 11 bytes, more than the 10");
    assert_fails(text_read_file("/proc/self/status", 10, &text), STATUS_INPUT, "more than the 10 bytes");
    assert_int_equal(text.size, 0);
    assert_int_equal(mkfifo(support_path("pipe"), 0666), 0);
    assert_fails(text_read_file(support_path("pipe"), 10, &text), STATUS_INPUT, "pipe: expected a regular file");
    assert_fails(text_read_file("/dev/zero", 10, &text), STATUS_INPUT, "expected a regular file");
    text_free(&text);
}

static void test_write_errors_leave_nothing(void **state)
{
    (void)state;
    const char *folder = support_path("errors");
    assert_ok(text_make_directories(folder));
    assert_fails(text_write_file(support_path("errors/no/file"), "x", 1), STATUS_IO, "errors/no/file");
    assert_int_equal(mkdir(support_path("errors/taken"), 0777), 0);
    assert_fails(text_write_file(support_path("errors/taken"), "x", 1), STATUS_IO, "errors/taken: cannot rename");
    assert_int_equal(entries_count(folder), 1);
}

/* A file-size limit is what a full disk looks like. The old contents must stay, and no temporary file. */
static void test_full_disk_keeps_the_old_file(void **state)
{
    (void)state;
    const char *folder = support_path("full");
    const char *path = support_path("full/file");
    assert_ok(text_make_directories(folder));
    assert_ok(text_write_file(path, "old", 3));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        struct rlimit limit = {1 << 16, 1 << 16};
        setrlimit(RLIMIT_FSIZE, &limit);
        char *large = memory_new(1 << 20, 1);
        Status status = text_write_file(path, large, 1 << 20);
        bool good = status.code == STATUS_IO && strstr(status_message(), "full/file: cannot write 1048576 bytes");
        memory_free(&large);
        _exit(good ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    Text text = {0};
    assert_ok(text_read_file(path, 100, &text));
    assert_string_equal(text.bytes, "old");
    assert_int_equal(entries_count(folder), 1);
    text_free(&text);
}

/* A writer that is killed at any moment leaves one of the versions, never a mixture. */
static void test_killed_writer(void **state)
{
    (void)state;
    enum { SIZE = 200000, ROUNDS = 25 };
    const char *path = support_path("killed");
    char *contents = memory_new(SIZE, 1);
    assert_ok(text_write_file(path, contents, SIZE));
    Text text = {0};
    for (int round = 0; round < ROUNDS; round++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            for (int version = 1;; version++) {
                memset(contents, version, SIZE);
                if (status_failed(text_write_file(path, contents, SIZE)))
                    _exit(1);
            }
        }
        usleep(2000 + 700u * (unsigned)round);
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        assert_ok(text_read_file(path, SIZE, &text));
        assert_int_equal(text.size, SIZE);
        for (size_t i = 1; i < SIZE; i++)
            if (text.bytes[i] != text.bytes[0])
                fail_msg("round %d: byte %zu is of another version", round, i);
    }
    text_free(&text);
    memory_free(&contents);
}

static void test_make_directories(void **state)
{
    (void)state;
    assert_ok(text_make_directories(support_path("a/b//c/")));
    assert_ok(text_make_directories(support_path("a/b/c")));
    struct stat info;
    assert_int_equal(stat(support_path("a/b/c"), &info), 0);
    assert_true(S_ISDIR(info.st_mode));
    assert_ok(text_make_directories("/"));
    assert_ok(text_write_file(support_path("a/file"), "", 0));
    assert_fails(text_make_directories(support_path("a/file")), STATUS_IO, "a/file: cannot make the directory");
    assert_fails(text_make_directories(support_path("a/file/d")), STATUS_IO, "a/file: cannot make the directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_read_errors),
        cmocka_unit_test(test_write_errors_leave_nothing),
        cmocka_unit_test(test_full_disk_keeps_the_old_file),
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_make_directories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
