//TEST timeout=300
/* t322 -- a damaged, cut, foreign or wrong file is one clear error that names the file and the thing, never a crash. */
#define _GNU_SOURCE /* memmem */
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/h5/h5.h"
#include "core/h5/h5_parts.h"

enum { ROWS = 30, WIDTH = 20 };

static void write_small(const char *path)
{
    float x[ROWS * WIDTH];
    int64_t y[ROWS];
    for (int i = 0; i < ROWS * WIDTH; i++)
        x[i] = (float)i;
    for (int i = 0; i < ROWS; i++)
        y[i] = i;
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-checkpoint", 1, &writer));
    h5_write_string(writer, H5_SEMANTIC, "/", "config", "seed: 1\n");
    h5_write_string(writer, H5_SEMANTIC, "/parents", "policy", "0123456789abcdef0123456789abcdef");
    h5_write_whole(writer, H5_SEMANTIC, "/parameters/x", DTYPE_F32, 2, (int64_t[]){ROWS, WIDTH}, x);
    h5_write_whole(writer, H5_SEMANTIC, "/rows/y", DTYPE_I64, 1, (int64_t[]){ROWS}, y);
    assert_ok(h5_writer_close(&writer));
}

/* Open, look at everything, read everything: the first failure. */
static Status read_all(const char *path, bool foreign)
{
    H5File *file;
    TRY(foreign ? h5_open_foreign(path, NULL, &file) : h5_open(path, NULL, &file));
    const H5Dataset *list;
    int count = h5_datasets(file, &list);
    Status status = status_ok();
    for (int i = 0; i < count && !status_failed(status); i++) {
        void *bytes = memory_new(list[i].bytes, 1);
        status = h5_read_whole(file, &list[i], bytes);
        memory_free(&bytes);
    }
    h5_close(&file);
    return status;
}

static void put(const char *path, const Text *bytes, size_t size)
{
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes->bytes, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
}

static void test_every_damaged_byte_is_found(void **state)
{
    (void)state;
    const char *path = support_path("small.h5"), *hurt = support_path("hurt.h5");
    write_small(path);
    assert_ok(read_all(path, false));
    Text bytes = {0};
    assert_ok(text_read_file(path, 1 << 20, &bytes));
    size_t found_in_x = 0;
    /* Every third byte, and every byte of the seal's fields. */
    for (size_t i = 0; i < bytes.size; i += i < 100 ? 1 : 3) {
        bytes.bytes[i] ^= 0x10;
        put(hurt, &bytes, bytes.size);
        bytes.bytes[i] ^= 0x10;
        Status status = read_all(hurt, false);
        if (!status_failed(status))
            fail_msg("byte %zu of %zu was changed and nobody noticed", i, bytes.size);
        assert_int_equal(status.code, STATUS_INPUT);
        assert_contains(status_message(), "hurt.h5");
        if (strstr(status_message(), "/parameters/x: damaged: block 1 of 1") != NULL)
            found_in_x++;
    }
    assert_true(found_in_x >= ROWS * WIDTH * 4 / 3);
    text_free(&bytes);
}

static void test_every_cut_is_found(void **state)
{
    (void)state;
    const char *path = support_path("whole.h5"), *cut = support_path("cut.h5");
    write_small(path);
    Text bytes = {0};
    assert_ok(text_read_file(path, 1 << 20, &bytes));
    for (size_t size = 0; size < bytes.size; size += size < 20 ? 1 : 97) {
        put(cut, &bytes, size);
        assert_fails(read_all(cut, false), STATUS_INPUT, "cut.h5");
        if (size > 16)
            assert_contains(status_message(), "truncated");
    }
    char expected[64];
    snprintf(expected, sizeof expected, "expected %zu bytes, found %zu", bytes.size, bytes.size + 1);
    text_append(&bytes, "x", 1);
    put(cut, &bytes, bytes.size);
    assert_fails(read_all(cut, false), STATUS_INPUT, expected);
    text_free(&bytes);
}

/* A block in the middle of a large dataset: found by name and number, on first touch and not before. */
static void test_damage_is_found_where_it_is(void **state)
{
    (void)state;
    const char *path = support_path("large.h5");
    int64_t elements = 3 * H5_BLOCK_BYTES / 4 - 5;
    float *values = memory_new((size_t)elements, sizeof *values);
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    h5_write_whole(writer, H5_SEMANTIC, "/a", DTYPE_F32, 1, &elements, values);
    values[elements - 1] = 42;
    h5_write_whole(writer, H5_SEMANTIC, "/b", DTYPE_F32, 1, &elements, values);
    assert_ok(h5_writer_close(&writer));
    FILE *stream = fopen(path, "r+b");
    assert_non_null(stream);
    /* The only 42 in the file is the end of /b; hurt a byte six MiB before it. */
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    char *bytes = memory_new((size_t)info.st_size, 1);
    assert_int_equal(fread(bytes, 1, (size_t)info.st_size, stream), info.st_size);
    const float mark = 42;
    const char *end = memmem(bytes, (size_t)info.st_size, &mark, sizeof mark);
    assert_non_null(end);
    assert_int_equal(fseek(stream, end - bytes - (6 << 20), SEEK_SET), 0);
    assert_int_equal(fputc(1, stream), 1);
    assert_int_equal(fclose(stream), 0);

    H5File *file;
    assert_ok(h5_open(path, "tercet-test", &file));
    assert_ok(h5_read_whole(file, h5_dataset(file, "/a"), values));
    assert_ok(h5_read_elements(file, h5_dataset(file, "/b"), 100, 10, values));
    assert_ok(h5_read_elements(file, h5_dataset(file, "/b"), elements - 10, 10, values));
    assert_fails(h5_read_elements(file, h5_dataset(file, "/b"), elements / 2, 10, values), STATUS_INPUT,
                 "large.h5: /b: damaged: block 2 of 3");
    assert_fails(h5_verify(file, 0, 1), STATUS_INPUT, "/b: damaged: block 2 of 3");
    h5_close(&file);

    /* And by all threads, from the disk. */
    support_leave_cache(path);
    assert_ok(h5_open(path, "tercet-test", &file));
    h5_read_once(file);
    float *others = memory_new((size_t)elements, sizeof *others);
    H5Read reads[2] = {{h5_dataset(file, "/a"), 0, elements, others}, {h5_dataset(file, "/b"), 0, elements, values}};
    assert_fails(h5_read_many(file, reads, 2), STATUS_INPUT, "large.h5: /b: damaged: block 2 of 3");
    h5_close(&file);
    memory_free(&others);
    memory_free(&bytes);
    memory_free(&values);
}

static void test_wrong_files_are_told_apart(void **state)
{
    (void)state;
    const char *path = support_path("right.h5");
    write_small(path);
    H5File *file;
    assert_fails(h5_open(path, "tercet-rollout", &file), STATUS_INPUT,
                 "right.h5: expected format tercet-rollout, found tercet-checkpoint");
    assert_null(file);
    assert_fails(h5_open(support_path("absent.h5"), NULL, &file), STATUS_IO, "absent.h5");
    assert_fails(h5_open(support_directory(), NULL, &file), STATUS_INPUT, "expected a file");
    assert_ok(text_write_file(support_path("text.h5"), "{\"a\": 1}", 8));
    assert_fails(h5_open(support_path("text.h5"), NULL, &file), STATUS_INPUT, "expected an HDF5 file");
    assert_ok(text_write_file(support_path("empty.h5"), "", 0));
    assert_fails(h5_open(support_path("empty.h5"), NULL, &file), STATUS_INPUT, "the file is empty");

    assert_ok(h5_open(path, "tercet-checkpoint", &file));
    const H5Dataset *dataset;
    assert_fails(h5_find(file, "/parameters/z", DTYPE_F32, 2, NULL, &dataset), STATUS_INPUT,
                 "right.h5: no dataset /parameters/z");
    assert_fails(h5_find(file, "/parameters/x", DTYPE_F64, 2, NULL, &dataset), STATUS_INPUT,
                 "/parameters/x: expected f64 (-1, -1), found f32 (30, 20)");
    assert_fails(h5_find(file, "/parameters/x", DTYPE_F32, 2, (int64_t[]){30, 21}, &dataset), STATUS_INPUT,
                 "expected f32 (30, 21), found f32 (30, 20)");
    assert_fails(h5_find(file, "/parameters/x", DTYPE_F32, 1, (int64_t[]){-1}, &dataset), STATUS_INPUT, "found f32");
    assert_ok(h5_find(file, "/parameters/x", DTYPE_F32, 2, (int64_t[]){-1, 20}, &dataset));
    h5_close(&file);
}

/* Files of other programs: plain HDF5, with chunks, deflate, other widths, and things that we do not read. */
static void write_foreign(const char *path)
{
    h5_library_start();
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(file >= 0);
    int values[64];
    for (int i = 0; i < 64; i++)
        values[i] = 3 * i - 20;
    hsize_t extent = 64, chunk = 10;
    hid_t space = H5Screate_simple(1, &extent, NULL), chunked = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(chunked, 1, &chunk);
    H5Pset_deflate(chunked, 6);
    const struct {
        const char *name;
        hid_t type, properties;
    } parts[] = {
        {"token", H5T_STD_I32LE, chunked},
        {"start", H5T_STD_I64LE, H5P_DEFAULT},
        {"small", H5T_STD_I16BE, chunked},
        {"value", H5T_IEEE_F32BE, H5P_DEFAULT},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        hid_t id = H5Dcreate2(file, parts[i].name, parts[i].type, space, H5P_DEFAULT, parts[i].properties, H5P_DEFAULT);
        assert_true(id >= 0 && H5Dwrite(id, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
        H5Dclose(id);
    }
    hid_t text = H5Tcopy(H5T_C_S1), scalar = H5Screate(H5S_SCALAR);
    H5Tset_size(text, H5T_VARIABLE);
    const char *string = "by another program";
    hid_t attribute = H5Acreate2(file, "note", text, scalar, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Awrite(attribute, text, &string) >= 0);
    H5Aclose(attribute);
    hid_t words = H5Dcreate2(file, "words", text, scalar, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Dwrite(words, text, H5S_ALL, H5S_ALL, H5P_DEFAULT, &string) >= 0);
    H5Dclose(words);
    H5Tclose(text);
    H5Sclose(scalar);
    H5Pclose(chunked);
    H5Sclose(space);
    assert_true(H5Fclose(file) >= 0);
}

static void test_foreign_files(void **state)
{
    (void)state;
    const char *path = support_path("foreign.h5");
    write_foreign(path);
    H5File *file;
    assert_fails(h5_open(path, NULL, &file), STATUS_INPUT, "found an HDF5 file without its seal");
    assert_ok(h5_open_foreign(path, "tercet-rollout", &file));
    assert_false(h5_sealed(file));
    const H5Dataset *list;
    assert_int_equal(h5_datasets(file, &list), 4);
    const struct {
        const char *path;
        DType dtype;
    } expected[] = {{"/token", DTYPE_I32}, {"/start", DTYPE_I64}, {"/small", DTYPE_I64}, {"/value", DTYPE_F32}};
    for (size_t i = 0; i < 4; i++) {
        const H5Dataset *dataset;
        assert_ok(h5_find(file, expected[i].path, expected[i].dtype, 1, (int64_t[]){64}, &dataset));
        char bytes[64 * 8];
        assert_ok(h5_read_elements(file, dataset, 5, 50, bytes));
        for (int e = 0; e < 50; e++) {
            int64_t wide;
            int32_t narrow;
            float real;
            memcpy(&wide, bytes + 8 * e, sizeof wide);
            memcpy(&narrow, bytes + 4 * e, sizeof narrow);
            memcpy(&real, bytes + 4 * e, sizeof real);
            double found = dataset->dtype == DTYPE_I64   ? (double)wide
                           : dataset->dtype == DTYPE_I32 ? narrow
                                                         : (double)real;
            assert_close(found, 3 * (e + 5) - 20, 0, 0);
        }
    }
    const char *note;
    assert_ok(h5_read_string(file, "/", "note", &note));
    assert_string_equal(note, "by another program");
    H5Digest digest, again;
    assert_ok(h5_digest_semantic(file, &digest));
    assert_ok(h5_digest_semantic(file, &again));
    assert_true(h5_digest_equal(digest, again));
    h5_close(&file);
}

/* A compact dataset whose shape says more than its header holds is not there: HDF5 would copy from beyond it. */
static void test_compact_shape_is_checked(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    /* HDF5 1.10.8 itself reads beyond its copy of compact data, damaged or not; the sanitizer stops it there. */
    print_message("SKIP: compact data under AddressSanitizer: the HDF5 library overreads them\n");
    skip();
#endif
    enum { SIZE = 77 };
    const char *path = support_path("compact.h5");
    h5_library_start();
    hid_t id = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), properties = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t extent = SIZE, wrong = 4096;
    hid_t space = H5Screate_simple(1, &extent, NULL);
    assert_true(H5Pset_layout(properties, H5D_COMPACT) >= 0);
    hid_t dataset = H5Dcreate2(id, "x", H5T_STD_U8LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    unsigned char values[SIZE], back[SIZE];
    memset(values, 5, sizeof values);
    assert_true(H5Dwrite(dataset, H5T_STD_U8LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(dataset);
    H5Sclose(space);
    H5Pclose(properties);
    assert_true(H5Fclose(id) >= 0);

    H5File *file;
    const H5Dataset *list;
    assert_ok(h5_open_foreign(path, NULL, &file));
    assert_int_equal(h5_datasets(file, &list), 1);
    assert_ok(h5_read_whole(file, &list[0], back));
    assert_memory_equal(back, values, SIZE);
    h5_close(&file);

    Text bytes = {0};
    assert_ok(text_read_file(path, 1 << 20, &bytes));
    int places = 0;
    for (char *at; (at = memmem(bytes.bytes, bytes.size, &extent, sizeof extent)); places++)
        memcpy(at, &wrong, sizeof wrong);
    assert_true(places > 0);
    put(path, &bytes, bytes.size);
    text_free(&bytes);
    assert_ok(h5_open_foreign(path, NULL, &file));
    assert_int_equal(h5_datasets(file, &list), 0);
    h5_close(&file);
}

/* Without a seal nothing is known in advance. Some of these crash or hang the HDF5 library; this program says so. */
static void test_damaged_foreign_files_never_crash(void **state)
{
    (void)state;
    const char *path = support_path("strange.h5"), *hurt = support_path("stranger.h5");
    write_foreign(path);
    Text bytes = {0};
    assert_ok(text_read_file(path, 1 << 20, &bytes));
    RngStream stream = rng_stream(3, RNG_TEST, 0, 0);
    int refused = 0;
    for (uint64_t i = 0; i < 200; i++) {
        Text copy = {0};
        text_append(&copy, bytes.bytes, bytes.size);
        for (uint64_t k = 0; k < 4; k++) {
            uint64_t at = rng_below(stream, 16 * i + 2 * k, copy.size < 4096 ? copy.size : 4096);
            copy.bytes[at] = (char)rng_below(stream, 16 * i + 2 * k + 1, 256);
        }
        put(hurt, &copy, i % 5 == 0 ? copy.size - (size_t)rng_below(stream, 16 * i + 15, copy.size) : copy.size);
        refused += status_failed(read_all(hurt, true));
        text_free(&copy);
    }
    assert_true(refused > 20);
    text_free(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_damaged_byte_is_found),
        cmocka_unit_test(test_every_cut_is_found),
        cmocka_unit_test(test_damage_is_found_where_it_is),
        cmocka_unit_test(test_wrong_files_are_told_apart),
        cmocka_unit_test(test_foreign_files),
        cmocka_unit_test(test_compact_shape_is_checked),
        cmocka_unit_test(test_damaged_foreign_files_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
