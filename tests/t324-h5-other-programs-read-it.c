/* t324 -- an artifact is an ordinary HDF5 file: the tools of the HDF5 project find its groups, types and numbers where
 * h5.h says they are, behind the seal and before the trailer. */
#include "tests/support/support.h"

#include "core/h5/h5.h"

static void test_tools(void **state)
{
    (void)state;
    const char *path = support_path("plain.h5");
    H5Writer *writer;
    assert_ok(h5_writer_open(NULL, path, "tercet-checkpoint", 1, &writer));
    h5_write_string(writer, H5_SEMANTIC, "/", "config", "seed: 1");
    h5_write_int(writer, H5_OPERATIONAL, "/", "ranks", 4);
    h5_write_whole(writer, H5_SEMANTIC, "/parameters/x", DTYPE_F32, 2, (int64_t[]){2, 2},
                   (float[]){1.5f, -2, 3, 4.25f});
    h5_write_whole(writer, H5_SEMANTIC, "/half", DTYPE_F16, 1, (int64_t[]){2}, (uint16_t[]){0x3c00, 0xc100});
    h5_write_whole(writer, H5_SEMANTIC, "/brain", DTYPE_BF16, 1, (int64_t[]){2}, (uint16_t[]){0x3f80, 0xbf80});
    assert_ok(h5_writer_close(&writer));

    SupportRun run = support_run(20, "h5dump -d /parameters/x -d /half -d /brain '%s'", path);
    assert_exit(&run, 0);
    const char *dump = text_string(&run.out);
    assert_contains(dump, "H5T_IEEE_F32LE");
    assert_contains(dump, "(0,0): 1.5, -2,");
    assert_contains(dump, "(1,0): 3, 4.25");
    assert_contains(dump, "16-bit little-endian floating-point");
    assert_contains(dump, "(0): 1, -2.5");
    assert_contains(dump, "H5T_STD_U16LE");
    assert_contains(dump, "(0): \"bf16\"");
    support_run_free(&run);

    run = support_run(20, "h5dump -a /config -a /ranks -a /operational -a /format '%s'", path);
    assert_exit(&run, 0);
    dump = text_string(&run.out);
    assert_contains(dump, "(0): \"seed: 1\"");
    assert_contains(dump, "(0): 4");
    assert_contains(dump, "/@ranks");
    assert_contains(dump, "\"tercet-checkpoint\"");
    support_run_free(&run);

    run = support_run(20, "h5ls -r '%s'", path);
    assert_exit(&run, 0);
    dump = text_string(&run.out);
    assert_contains(dump, "/parameters/x            Dataset {2, 2}");
    assert_contains(dump, "/digests                 Dataset {3, 16}");
    support_run_free(&run);
}

int main(void)
{
    SupportRun run = support_run(20, "h5dump --version && h5ls --version");
    bool present = run.exit_code == 0;
    support_run_free(&run);
    if (!present)
        support_skip("hdf5-tools", "h5dump and h5ls are not installed (Debian: hdf5-tools)");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tools)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
