/* t119 -- every op of OP_LIST is run by a test of its own (t12x), so an op that is added without one is found. */
#include <ctype.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/tensor/ops.h"
#include "tests/support/support.h"

static char *read_all(const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t count = 0, capacity = 0;
    char *text = NULL;
    for (int c = fgetc(file); c != EOF; c = fgetc(file)) {
        memory_reserve(&text, count + 1, &capacity);
        text[count++] = (char)c;
    }
    fclose(file);
    memory_reserve(&text, count + 1, &capacity);
    text[count] = '\0';
    return text;
}

/* "device_run(device, OP_name," */
static bool runs_op(const char *text, const char *name)
{
    char call[128];
    snprintf(call, sizeof call, "device_run(device, OP_%s,", name);
    return strstr(text, call) != NULL;
}

static void test_every_op_is_run(void **state)
{
    (void)state;
    static const char *const names[] = {
#define OP_NAME(name, Stem) #name,
        OP_LIST(OP_NAME)
#undef OP_NAME
    };
    glob_t files;
    assert_int_equal(glob(support_source("tests/t12*.c"), 0, NULL, &files), 0);
    bool found[OP_COUNT] = {false};
    for (size_t f = 0; f < files.gl_pathc; f++) {
        char *text = read_all(files.gl_pathv[f]);
        for (int op = 0; op < OP_COUNT; op++)
            found[op] = found[op] || runs_op(text, names[op]);
        memory_free(&text);
    }
    globfree(&files);
    for (int op = 0; op < OP_COUNT; op++)
        if (!found[op])
            fail_msg("no test t12x runs op %s", names[op]);
    assert_false(runs_op("device_run(device, OP_gemmx, &args)", "gemm"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_op_is_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
