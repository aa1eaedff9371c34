/* safetensors: what is written comes back, 16-bit types are widened exactly, and no damaged header gets through or
 * crashes the reader. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"
#include "core/store/safetensors.h"
#include "tests/support/support.h"

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = support_path("round.safetensors");
    SafetensorsPlan plan[] = {{.name = (char *)"b.weight", .ndim = 2, .shape = {3, 5}},
                              {.name = (char *)"a.bias", .ndim = 1, .shape = {4}},
                              {.name = (char *)"empty", .ndim = 2, .shape = {0, 7}}};
    float values[19], back[19];
    for (int i = 0; i < 19; i++)
        values[i] = (float)i * 0.3f - 2;
    SafetensorsWriter *writer;
    assert_ok(safetensors_writer_open(path, plan, 3, &writer));
    assert_ok(safetensors_write(writer, values, 7));
    assert_ok(safetensors_write(writer, values + 7, 12));
    assert_int_equal(access(path, F_OK), -1);
    assert_ok(safetensors_writer_close(&writer, status_ok()));
    assert_null(writer);

    Safetensors *file;
    assert_ok(safetensors_open(path, &file));
    assert_int_equal(safetensors_count(file), 3);
    int b = safetensors_find(file, "b.weight"), a = safetensors_find(file, "a.bias");
    assert_int_equal(safetensors_entry(file, b)->shape[1], 5);
    assert_int_equal(safetensors_find(file, "c"), -1);
    assert_ok(safetensors_read_f32(file, b, back));
    assert_memory_equal(back, values, 15 * sizeof *back);
    assert_ok(safetensors_read_f32(file, a, back));
    assert_memory_equal(back, values + 15, 4 * sizeof *back);
    safetensors_close(&file);

    /* A writer that fails leaves what was there, and no temporary. */
    assert_ok(safetensors_writer_open(path, plan, 1, &writer));
    char *temporary = h5_temporary_name(path, (long)getpid());
    assert_int_equal(access(temporary, F_OK), 0);
    assert_fails(safetensors_writer_close(&writer, status_error(STATUS_NUMERIC, "no number")), STATUS_NUMERIC,
                 "no number");
    assert_int_equal(access(temporary, F_OK), -1);
    memory_free(&temporary);
    assert_ok(safetensors_open(path, &file));
    safetensors_close(&file);
}

static void put_file(const char *path, const char *header, size_t header_size, size_t data_bytes)
{
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    for (int i = 0; i < 8; i++)
        fputc((int)(header_size >> (8 * i) & 255), stream);
    fwrite(header, 1, strlen(header), stream);
    /* Bytes 0, 1, 2, ...: as bf16 0x0100, 0x0302, ... */
    for (size_t i = 0; i < data_bytes; i++)
        fputc((int)(i & 255), stream);
    fclose(stream);
}

static void test_widening(void **state)
{
    (void)state;
    const char *path = support_path("half.safetensors");
    const char *header = "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                         "\"h\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]},"
                         "\"i\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[8,12]}}";
    put_file(path, header, strlen(header), 12);
    Safetensors *file;
    assert_ok(safetensors_open(path, &file));
    float values[2];
    uint32_t bits[2] = {0x01000000, 0x03020000};
    assert_ok(safetensors_read_f32(file, safetensors_find(file, "b"), values));
    assert_memory_equal(values, bits, sizeof bits);
    assert_ok(safetensors_read_f32(file, safetensors_find(file, "h"), values));
    /* 0x0504: exponent 1, mantissa 0x104; 0x0706: exponent 1, mantissa 0x306. */
    assert_close(values[0], (1 + 0x104 / 1024.0) / 16384, 0, 0);
    assert_close(values[1], (1 + 0x306 / 1024.0) / 16384, 0, 0);
    assert_fails(safetensors_read_f32(file, safetensors_find(file, "i"), values), STATUS_INPUT, "tensor i is I32");
    int32_t integer;
    assert_ok(safetensors_read(file, safetensors_find(file, "i"), &integer));
    assert_int_equal(integer, 0x0b0a0908);
    safetensors_close(&file);
}

static void test_damage_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *header, *part;
        long size; /* -1: of the header */
        int data;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "after the last", -1, 9},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", "tensor a", -1, 7},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", "8 bytes of data for 3 elements", -1, 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", "hole", -1, 12},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", "shape", -1, 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}", "shape", -1, 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,8]}}", "elements", -1, 8},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", "F33", -1, 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", "tensor a", -1, 8},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],"
         "\"data_offsets\":[0,8]}}",
         "overlap", -1, 8},
        {"{\"a\":[]}", "tensor a", -1, 0},
        {"[]", "no JSON object", -1, 0},
        {"{\"a\"", "JSON", -1, 0},
        {"{}", "header of 4294967296000 bytes", 4294967296000, 0},
        {"{}", "header of 3 bytes", 3, 0},
    };
    const char *path = support_path("damaged.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = cases[i].size < 0 ? strlen(cases[i].header) : (size_t)cases[i].size;
        put_file(path, cases[i].header, size, (size_t)cases[i].data);
        Safetensors *file;
        assert_fails(safetensors_open(path, &file), STATUS_INPUT, cases[i].part);
        assert_contains(status_message(), "damaged.safetensors");
        assert_null(file);
    }
    FILE *stream = fopen(path, "wb");
    fputs("1234567", stream);
    fclose(stream);
    Safetensors *file;
    assert_fails(safetensors_open(path, &file), STATUS_INPUT, "too short");
    assert_fails(safetensors_open(support_path("absent"), &file), STATUS_IO, "absent");
}

/* Every byte of a header changed to several others, and every truncation: an error or a valid file, never a crash. */
static void test_no_mutation_crashes(void **state)
{
    (void)state;
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F16\",\"shape\":[2,3],"
                         "\"data_offsets\":[0,12]},\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]}}";
    const char *path = support_path("mutated.safetensors");
    char copy[256];
    float values[8];
    int opened = 0;
    static const char others[] = {'0', '9', '"', '-', '}', '\\', '\x7f', '\xff'};
    for (size_t at = 0; at < strlen(header); at++)
        for (size_t k = 0; k < sizeof others; k++) {
            strcpy(copy, header);
            copy[at] = others[k];
            put_file(path, copy, strlen(header), 16);
            Safetensors *file;
            Status status = safetensors_open(path, &file);
            assert_int_equal(status_failed(status), file == NULL);
            if (!file)
                continue;
            opened++;
            for (int i = 0; i < safetensors_count(file); i++)
                if (safetensors_entry(file, i)->elements <= 8 && safetensors_entry(file, i)->dtype == DTYPE_F16)
                    assert_ok(safetensors_read_f32(file, i, values));
            safetensors_close(&file);
        }
    assert_true(opened > 0);
    put_file(path, header, strlen(header), 16);
    for (long size = 8 + (long)strlen(header) + 15; size >= 0; size--) {
        assert_int_equal(truncate(path, size), 0);
        Safetensors *file;
        assert_fails(safetensors_open(path, &file), STATUS_INPUT, "mutated");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_widening),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_no_mutation_crashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
