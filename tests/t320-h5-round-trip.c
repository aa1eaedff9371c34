/* t320 -- what is written to an artifact is what is read from it: every type, shape, range and attribute; and digests
 * depend on contents alone. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/h5/h5.h"

static const DType types[] = {DTYPE_F32, DTYPE_F64, DTYPE_I32, DTYPE_I64, DTYPE_U8, DTYPE_BF16, DTYPE_F16};
enum { TYPES = sizeof types / sizeof *types };

/* Bytes that no two places share by accident. */
static void *noise(size_t bytes, uint64_t which)
{
    uint32_t *words = memory_new(bytes / 16 + 1, 16);
    for (size_t i = 0; i <= bytes / 16; i++)
        rng_philox(7, which, i, words + 4 * i);
    return words;
}

static int64_t count_of(int ndim, const int64_t *shape)
{
    int64_t count = 1;
    for (int i = 0; i < ndim; i++)
        count *= shape[i];
    return count;
}

static void test_every_type_and_shape(void **state)
{
    (void)state;
    static const int64_t shapes[H5_DIMS_MAX][H5_DIMS_MAX] = {{37}, {5, 7}, {3, 4, 5}, {2, 3, 2, 5}};
    const char *path = support_path("types.h5");
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 3, &writer));
    for (int t = 0; t < TYPES; t++)
        for (int d = 1; d <= H5_DIMS_MAX; d++) {
            char name[64];
            snprintf(name, sizeof name, "/%s/group/of%d", dtype_name(types[t]), d);
            int64_t count = count_of(d, shapes[d - 1]);
            size_t width = dtype_size(types[t]);
            char *bytes = noise((size_t)count * width, (uint64_t)(10 * t + d));
            h5_write_dataset(writer, H5_SEMANTIC, name, types[t], d, shapes[d - 1]);
            /* Ranges that cut rows, from the back. */
            for (int64_t end = count; end > 0;) {
                int64_t step = end < 11 ? end : 11;
                end -= step;
                h5_write_elements(writer, name, end, step, bytes + (size_t)end * width);
            }
            memory_free(&bytes);
        }
    assert_ok(h5_writer_close(&writer));
    assert_null(writer);

    H5File *file;
    assert_ok(h5_open(path, "tercet-test", &file));
    assert_true(h5_sealed(file));
    const H5Dataset *list;
    assert_int_equal(h5_datasets(file, &list), TYPES * H5_DIMS_MAX);
    for (int i = 1; i < TYPES * H5_DIMS_MAX; i++)
        assert_true(strcmp(list[i - 1].path, list[i].path) < 0);
    for (int t = 0; t < TYPES; t++)
        for (int d = 1; d <= H5_DIMS_MAX; d++) {
            char name[64];
            snprintf(name, sizeof name, "/%s/group/of%d", dtype_name(types[t]), d);
            const H5Dataset *dataset;
            assert_ok(h5_find(file, name, types[t], d, shapes[d - 1], &dataset));
            int64_t count = count_of(d, shapes[d - 1]);
            size_t width = dtype_size(types[t]);
            char *expected = noise((size_t)count * width, (uint64_t)(10 * t + d));
            char *found = memory_new((size_t)count, width);
            assert_ok(h5_read_whole(file, dataset, found));
            assert_memory_equal(found, expected, (size_t)count * width);
            memset(found, 0, (size_t)count * width);
            int64_t row = count / dataset->shape[0];
            assert_ok(h5_read_rows(file, dataset, 1, 1, found));
            assert_memory_equal(found, expected + (size_t)row * width, (size_t)row * width);
            memory_free(&expected);
            memory_free(&found);
        }
    h5_close(&file);
    assert_null(file);
}

static void test_blocks_are_read_in_any_order(void **state)
{
    (void)state;
    const char *path = support_path("blocks.h5");
    int64_t shape[2] = {2600, 1000}; /* 10.4 MB: three blocks, the last one short */
    size_t bytes = (size_t)shape[0] * (size_t)shape[1] * 4;
    float *values = noise(bytes, 1);
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    h5_write_dataset(writer, H5_SEMANTIC, "/parameters/x", DTYPE_F32, 2, shape);
    for (int64_t row = 0; row < shape[0]; row += 700)
        h5_write_rows(writer, "/parameters/x", row, row + 700 < shape[0] ? 700 : shape[0] - row,
                      values + row * shape[1]);
    assert_ok(h5_writer_close(&writer));

    H5File *file;
    assert_ok(h5_open(path, "tercet-test", &file));
    const H5Dataset *dataset = h5_dataset(file, "/parameters/x");
    assert_non_null(dataset);
    float *found = memory_new(1, bytes);
    RngStream stream = rng_stream(1, RNG_TEST, 0, 0);
    for (uint64_t i = 0; i < 40; i++) {
        int64_t first = (int64_t)rng_below(stream, 2 * i, (uint64_t)dataset->elements);
        int64_t count = (int64_t)rng_below(stream, 2 * i + 1, (uint64_t)(dataset->elements - first) + 1);
        assert_ok(h5_read_elements(file, dataset, first, count, found));
        assert_memory_equal(found, values + first, (size_t)count * 4);
    }
    for (int part = 0; part < 3; part++)
        assert_ok(h5_verify(file, part, 3));
    h5_close(&file);
    memory_free(&found);
    memory_free(&values);
}

/* Small and large datasets, whole and in part, into memory that no disk could write to; from the disk and, a second time, from the cache. */
static void test_many_are_read_at_once(void **state)
{
    (void)state;
    enum { DATASETS = 5, READS = 2 * DATASETS };
    static const int64_t sizes[DATASETS] = {3, 20000, H5_BLOCK_BYTES, H5_BLOCK_BYTES + 1, 3 * H5_BLOCK_BYTES - 77};
    const char *path = support_path("many.h5");
    char *bytes[DATASETS], name[8];
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    for (int i = 0; i < DATASETS; i++) {
        bytes[i] = noise((size_t)sizes[i], (uint64_t)i);
        snprintf(name, sizeof name, "/%d", i);
        h5_write_whole(writer, H5_SEMANTIC, name, DTYPE_U8, 1, &sizes[i], bytes[i]);
    }
    assert_ok(h5_writer_close(&writer));
    support_leave_cache(path);

    for (int pass = 0; pass < 2; pass++) {
        H5File *file;
        assert_ok(h5_open(path, "tercet-test", &file));
        h5_read_once(file);
        H5Read reads[READS];
        char *room[READS];
        for (int i = 0; i < READS; i++) {
            snprintf(name, sizeof name, "/%d", i / 2);
            int64_t size = sizes[i / 2], first = i % 2 ? size / 3 : 0;
            room[i] = memory_new((size_t)size + 1, 1);
            reads[i] = (H5Read){h5_dataset(file, name), first, size - first, room[i] + 1};
            assert_non_null(reads[i].dataset);
        }
        assert_ok(h5_read_many(file, reads, READS));
        for (int i = 0; i < READS; i++) {
            assert_memory_equal(reads[i].elements, bytes[i / 2] + reads[i].first, (size_t)reads[i].count);
            memory_free(&room[i]);
        }
        h5_close(&file);
    }
    for (int i = 0; i < DATASETS; i++)
        memory_free(&bytes[i]);
}

static void test_attributes(void **state)
{
    (void)state;
    const char *path = support_path("attributes.h5");
    size_t long_size = 200000;
    char *long_text = memory_new(long_size + 1, 1);
    memset(long_text, 'y', long_size);
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    h5_write_int(writer, H5_SEMANTIC, "/", "step", INT64_MIN);
    h5_write_real(writer, H5_SEMANTIC, "/", "kl_coefficient", 0.1);
    h5_write_string(writer, H5_SEMANTIC, "/", "config", long_text);
    h5_write_string(writer, H5_OPERATIONAL, "/", "code_version", "old");
    h5_write_string(writer, H5_OPERATIONAL, "/", "code_version", "v1 — ü");
    h5_write_string(writer, H5_SEMANTIC, "/parents/deep", "policy", "");
    h5_write_string(writer, H5_SEMANTIC, "/parents/deep", "config", long_text);
    int64_t empty[2] = {0, 16}, one = 1;
    h5_write_whole(writer, H5_SEMANTIC, "/empty", DTYPE_F32, 2, empty, NULL);
    h5_write_whole(writer, H5_OPERATIONAL, "/timings", DTYPE_F64, 1, &one, (double[]){0.5});
    h5_write_string(writer, H5_SEMANTIC, "/timings", "unit", "s");
    assert_ok(h5_writer_close(&writer));

    H5File *file;
    assert_ok(h5_open(path, NULL, &file));
    int64_t integer;
    double real;
    const char *string;
    assert_ok(h5_read_int(file, "/", "step", &integer));
    assert_true(integer == INT64_MIN);
    assert_ok(h5_read_real(file, "/", "kl_coefficient", &real));
    assert_true(real == 0.1);
    assert_ok(h5_read_real(file, "/", "format_version", &real));
    assert_true(real == 1.0);
    assert_ok(h5_read_string(file, "/", "config", &string));
    assert_string_equal(string, long_text);
    assert_ok(h5_read_string(file, "/parents/deep", "config", &string));
    assert_string_equal(string, long_text);
    assert_ok(h5_read_string(file, "/", "code_version", &string));
    assert_string_equal(string, "v1 — ü");
    assert_ok(h5_read_string(file, "/parents/deep", "policy", &string));
    assert_string_equal(string, "");
    assert_ok(h5_read_string(file, "/timings", "unit", &string));
    assert_string_equal(string, "s");
    assert_fails(h5_read_int(file, "/", "kl_coefficient", &integer), STATUS_INPUT, "expected an integer");
    assert_fails(h5_read_int(file, "/", "nothing", &integer), STATUS_INPUT, "no attribute /@nothing");
    assert_int_equal(h5_attribute(file, "/", "code_version")->kind, H5_OPERATIONAL);
    assert_int_equal(h5_attribute(file, "/", "step")->kind, H5_SEMANTIC);
    assert_int_equal(h5_dataset(file, "/timings")->kind, H5_OPERATIONAL);
    const H5Attribute *attributes;
    assert_int_equal(h5_attributes(file, &attributes), 9);
    const H5Dataset *dataset;
    assert_ok(h5_find(file, "/empty", DTYPE_F32, 2, empty, &dataset));
    assert_ok(h5_read_whole(file, dataset, NULL));
    assert_ok(h5_verify(file, 0, 1));
    h5_close(&file);
    memory_free(&long_text);
}

typedef struct Variant {
    bool reversed; /* order of writing */
    int code_version;
    double timing;
    int64_t step;
    float last; /* last element of /parameters/b */
} Variant;

static void digests_of(const char *name, Variant variant, H5Digest *semantic, H5Digest *parameters)
{
    const char *path = support_path("%s", name);
    float a[6] = {1, 2, 3, 4, 5, 6}, b[3] = {7, 8, variant.last};
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    for (int i = 0; i < 2; i++) {
        if ((i == 0) != variant.reversed)
            h5_write_whole(writer, H5_SEMANTIC, "/parameters/a", DTYPE_F32, 2, (int64_t[]){2, 3}, a);
        else
            h5_write_whole(writer, H5_SEMANTIC, "/parameters/b", DTYPE_F32, 1, (int64_t[]){3}, b);
    }
    h5_write_int(writer, H5_SEMANTIC, "/", "step", variant.step);
    h5_write_int(writer, H5_OPERATIONAL, "/", "code_version", variant.code_version);
    h5_write_whole(writer, H5_OPERATIONAL, "/timings", DTYPE_F64, 1, (int64_t[]){1}, &variant.timing);
    assert_ok(h5_writer_close(&writer));
    H5File *file;
    assert_ok(h5_open(path, "tercet-test", &file));
    assert_ok(h5_digest_semantic(file, semantic));
    assert_ok(h5_digest_parameters(file, parameters));
    h5_close(&file);
}

static void test_digests_are_of_what_counts(void **state)
{
    (void)state;
    H5Digest semantic, parameters, semantic2, parameters2;
    Variant base = {false, 1, 0.5, 10, 9}, other = {true, 2, 0.75, 10, 9};
    digests_of("d0.h5", base, &semantic, &parameters);
    digests_of("d1.h5", other, &semantic2, &parameters2);
    assert_true(h5_digest_equal(semantic, semantic2));
    assert_true(h5_digest_equal(parameters, parameters2));
    other.step = 11;
    digests_of("d2.h5", other, &semantic2, &parameters2);
    assert_false(h5_digest_equal(semantic, semantic2));
    assert_true(h5_digest_equal(parameters, parameters2));
    base.last = nextafterf(9, 10);
    digests_of("d3.h5", base, &semantic2, &parameters2);
    assert_false(h5_digest_equal(semantic, semantic2));
    assert_false(h5_digest_equal(parameters, parameters2));

    /* The same contents make the same bytes: no times, no left-over memory. */
    base.last = 9;
    digests_of("d4.h5", base, &semantic2, &parameters2);
    H5Digest raw, raw2;
    assert_ok(h5_digest_file(support_path("d0.h5"), &raw));
    assert_ok(h5_digest_file(support_path("d4.h5"), &raw2));
    assert_true(h5_digest_equal(raw, raw2));
}

static void test_digest_text(void **state)
{
    (void)state;
    char text[H5_DIGEST_TEXT];
    /* xxhsum -H128 of nothing, as published with the algorithm. */
    assert_string_equal(h5_digest_text(h5_digest_bytes("", 0), text), "99aa06d3014798d86001c324468d497f");
    H5Digest parsed;
    assert_true(h5_digest_parse(text, &parsed));
    assert_true(h5_digest_equal(parsed, h5_digest_bytes("", 0)));
    assert_false(h5_digest_parse("99aa", &parsed));
    assert_false(h5_digest_parse("99aa06d3014798d86001c324468d497g", &parsed));
    assert_false(h5_digest_parse("99aa06d3014798d86001c324468d497f0", &parsed));
}

/* Mapped elements are the written ones, for datasets that HDF5 aligns and for small ones that it packs. */
static void test_mapped_is_written(void **state)
{
    (void)state;
    enum { SMALL = 5, LARGE = 3000000 };
    const char *path = support_path("mapped.h5");
    uint8_t *bytes = noise(SMALL, 1);
    int64_t *offsets = noise(SMALL * sizeof *offsets, 2);
    int32_t *tokens = noise(LARGE * sizeof *tokens, 3);
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-test", 1, &writer));
    h5_write_whole(writer, H5_SEMANTIC, "/bytes", DTYPE_U8, 1, (int64_t[]){SMALL}, bytes);
    h5_write_whole(writer, H5_SEMANTIC, "/none", DTYPE_F32, 1, (int64_t[]){0}, bytes);
    h5_write_whole(writer, H5_SEMANTIC, "/offsets", DTYPE_I64, 1, (int64_t[]){SMALL}, offsets);
    h5_write_whole(writer, H5_SEMANTIC, "/tokens", DTYPE_I32, 1, (int64_t[]){LARGE}, tokens);
    assert_ok(h5_writer_close(&writer));
    H5File *file;
    assert_ok(h5_open(path, NULL, &file));
    const struct {
        const char *path;
        const void *expected;
        size_t bytes;
    } cases[] = {{"/bytes", bytes, SMALL},
                 {"/none", bytes, 0},
                 {"/offsets", offsets, SMALL * sizeof *offsets},
                 {"/tokens", tokens, LARGE * sizeof *tokens}};
    for (int twice = 0; twice < 2; twice++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const H5Dataset *dataset = h5_dataset(file, cases[i].path);
            const void *mapped = NULL;
            assert_non_null(dataset);
            assert_ok(h5_map(file, dataset, &mapped));
            assert_int_equal((uintptr_t)mapped % dtype_size(dataset->dtype), 0);
            assert_memory_equal(mapped, cases[i].expected, cases[i].bytes);
        }
    h5_close(&file);
    memory_free(&bytes);
    memory_free(&offsets);
    memory_free(&tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_and_shape),       cmocka_unit_test(test_blocks_are_read_in_any_order),
        cmocka_unit_test(test_many_are_read_at_once),      cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_digests_are_of_what_counts), cmocka_unit_test(test_digest_text),
        cmocka_unit_test(test_mapped_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
