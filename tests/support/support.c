/* support.c -- files, skips and comparisons for tests. */
#define _GNU_SOURCE /* nftw */
#include "tests/support/support.h"

#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"

static char *directory;
static pid_t owner;

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info, (void)kind, (void)walk;
    return remove(path);
}

static void remove_directory(void)
{
    if (getpid() != owner) /* a forked child leaves its parent's files alone */
        return;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (getenv("TERCET_KEEP"))
        print_message("kept: %s\n", directory);
    else if (!rank || strcmp(rank, "0") == 0)
        nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    memory_free(&directory);
}

const char *support_directory(void)
{
    if (directory)
        return directory;
    const char *parent = getenv("TMPDIR");
    const char *job = getenv("PMIX_NAMESPACE");
    Text path = {0};
    text_printf(&path, "%s/tercet-test-", parent && *parent ? parent : "/tmp");
    bool made = false;
    if (getenv("OMPI_COMM_WORLD_RANK") && job) { /* the ranks of a job agree on a name without talking */
        text_printf(&path, "%ld-%ld-%s", (long)getuid(), (long)getppid(), job);
        made = !status_failed(text_make_directories(path.bytes));
    } else {
        text_append_string(&path, "XXXXXX");
        made = mkdtemp(path.bytes) != NULL;
    }
    if (!made) {
        print_error("cannot make %s\n", path.bytes);
        exit(1);
    }
    directory = path.bytes;
    owner = getpid();
    atexit(remove_directory);
    return directory;
}

enum { RING_ENTRIES = 32, RING_BYTES = 4096 };

static char *ring_next(void)
{
    static char ring[RING_ENTRIES][RING_BYTES];
    static int next;
    return ring[next++ % RING_ENTRIES];
}

const char *support_path(const char *format, ...)
{
    char *path = ring_next();
    size_t used = (size_t)snprintf(path, RING_BYTES, "%s/", support_directory());
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path + used, RING_BYTES - used, format, arguments);
    va_end(arguments);
    REQUIRE(length >= 0 && used + (size_t)length < RING_BYTES, "path too long: %s", path);
    return path;
}

const char *support_source(const char *name)
{
    char *path = ring_next();
    int length = snprintf(path, RING_BYTES, "%s/%s", TERCET_SOURCE_DIR, name);
    REQUIRE(length >= 0 && length < RING_BYTES, "path too long: %s", path);
    return path;
}

void support_leave_cache(const char *path)
{
    int file = open(path, O_RDONLY);
    assert_true(file >= 0);
    assert_int_equal(fsync(file), 0);
    assert_int_equal(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(close(file), 0);
}

void support_need_data(void)
{
    const char *data = getenv("TERCET_DATA");
    struct stat info;
    if (!data || !*data)
        support_skip("data", "TERCET_DATA is not set: it names the folder with the real models and texts");
    if (stat(data, &info) != 0 || !S_ISDIR(info.st_mode)) {
        print_error("FAIL: TERCET_DATA=%s is not a directory\n", data);
        exit(1);
    }
}

const char *support_data(const char *name)
{
    support_need_data();
    char *path = ring_next();
    int length = snprintf(path, RING_BYTES, "%s/%s", getenv("TERCET_DATA"), name);
    REQUIRE(length >= 0 && length < RING_BYTES, "path too long: %s", path);
    if (access(path, R_OK) != 0) {
        print_error("FAIL: %s cannot be read though TERCET_DATA is set\n", path);
        exit(1);
    }
    return path;
}

static bool is_required(const char *resource)
{
    const char *list = getenv("TERCET_REQUIRE");
    size_t length = strlen(resource);
    while (list && *list) {
        size_t item = strcspn(list, ",");
        if (item == length && strncmp(list, resource, length) == 0)
            return true;
        list += item + (list[item] == ',');
    }
    return false;
}

void support_skip(const char *resource, const char *format, ...)
{
    bool required = is_required(resource);
    Text line = {0};
    char formatted[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(formatted, sizeof formatted, format, arguments);
    va_end(arguments);
    text_printf(&line, "%s: %s: %s\n", required ? "FAIL (TERCET_REQUIRE)" : "SKIP", resource, formatted);
    fputs(line.bytes, stderr);
    text_free(&line);
    exit(required ? 1 : 77);
}

/* --- Comparisons -------------------------------------------------------------------------------------------------- */

bool support_is_close(double a, double b, double relative, double absolute)
{
    return fabs(a - b) <= absolute + relative * fabs(b);
}

void support_assert_close(double a, double b, double relative, double absolute, const char *name, const char *file,
                          int line)
{
    if (support_is_close(a, b, relative, absolute))
        return;
    print_error("%s is %.17g, expected %.17g: off by %.3g, allowed %.3g\n", name, a, b, fabs(a - b),
                absolute + relative * fabs(b));
    _fail(file, line);
}

void support_assert_floats_close(const float *a, const float *b, size_t count, double relative, double absolute,
                                 const char *name, const char *file, int line)
{
    size_t offenders = 0, first = 0, worst = 0;
    double worst_excess = -1.0;
    for (size_t i = 0; i < count; i++) {
        if (support_is_close(a[i], b[i], relative, absolute))
            continue;
        double excess = fabs((double)a[i] - b[i]) / (absolute + relative * fabs((double)b[i]));
        if (offenders++ == 0)
            first = i;
        if (!(excess <= worst_excess)) {
            worst_excess = excess;
            worst = i;
        }
    }
    if (offenders == 0)
        return;
    print_error(
        "%s: %zu of %zu values are off; first [%zu] is %.9g, expected %.9g; worst [%zu] is %.9g, expected %.9g\n", name,
        offenders, count, first, a[first], b[first], worst, a[worst], b[worst]);
    _fail(file, line);
}

double support_relative_l2(const float *a, const float *b, size_t count)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)b[i] * b[i];
    }
    return size == 0.0 ? sqrt(difference) : sqrt(difference / size);
}

void support_assert_relative_l2(const float *a, const float *b, size_t count, double limit, const char *name,
                                const char *file, int line)
{
    double distance = support_relative_l2(a, b, count);
    if (distance <= limit)
        return;
    print_error("%s: relative L2 distance %.4g over %zu values, allowed %.4g\n", name, distance, count, limit);
    _fail(file, line);
}

void support_assert_status(Status status, StatusCode code, const char *part, const char *name, const char *file,
                           int line)
{
    const char *message = status_failed(status) ? status_message() : "";
    if (status.code == code && (!part || strstr(message, part)))
        return;
    print_error("%s: status %s", name, status_name(status.code));
    if (status_failed(status))
        print_error(" (%s)", message);
    print_error(", expected %s%s%s\n", status_name(code), part ? " with: " : "", part ? part : "");
    _fail(file, line);
}

void support_assert_contains(const char *text, const char *part, bool expected, const char *file, int line)
{
    if ((strstr(text, part) != NULL) == expected)
        return;
    print_error("'%s' is %s in:\n%s\n", part, expected ? "missing" : "unwanted", text);
    _fail(file, line);
}
