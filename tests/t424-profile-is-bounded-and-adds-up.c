//TEST timeout=60
/* t424 -- a profile adds up by phase and op, keeps a bounded trace that says what it left out, and costs nothing when it is off. */
#include "tests/support/support.h"

#include <jansson.h>
#include <string.h>

#include "core/train/profile_report.h"
#include "kernels/cpu/device_cpu.h"

enum { N = 64, EXTRA = 7 };

static void add_calls(Device *device, Arena *arena, int calls)
{
    Tensor x = tensor_new1(arena, DTYPE_F32, N);
    tensor_zero(device, x);
    FillArgs args = {x.data, N, 1};
    for (int i = 0; i < calls; i++)
        device_run(device, OP_fill, &args);
}

static void test_calls_land_in_their_phase(void **state)
{
    (void)state;
    Device device;
    Arena arena;
    assert_ok(device_open_cpu(&device, 1, NULL));
    assert_ok(device_arena(&device, &arena, "test", 0));
    add_calls(&device, &arena, 2);
    assert_null(device.profile);
    uint64_t before = device.counter[OP_gemm].calls;
    assert_ok(op_profile_open(&device));
    OpProfile *profile = device.profile;
    assert_int_equal(device.counter[OP_gemm].calls, before); /* the measurement is not counted */
    assert_true(profile->peak > 1e8 && profile->bandwidth > 1e8);

    add_calls(&device, &arena, 3);
    op_profile_phase(profile, "work");
    add_calls(&device, &arena, 5);
    GemmArgs gemm = {.m = 4, .n = 8, .k = 2, .alpha = 1, .lda = 2, .ldb = 8, .ldc = 8};
    gemm.a = arena_alloc(&arena, 8 * sizeof(float));
    gemm.b = arena_alloc(&arena, 16 * sizeof(float));
    gemm.c = arena_alloc(&arena, 32 * sizeof(float));
    memset((void *)gemm.a, 0, 8 * sizeof(float));
    memset((void *)gemm.b, 0, 16 * sizeof(float));
    device_run(&device, OP_gemm, &gemm);
    op_profile_phase(profile, "start");
    assert_int_equal(profile->phases, 2);
    assert_int_equal(profile->phase[0].row[OP_fill].calls, 3);
    assert_int_equal(profile->phase[1].row[OP_fill].calls, 5);
    assert_int_equal(profile->phase[1].row[PROFILE_TRANSFER].calls, 1);
    const ProfileRow *row = &profile->phase[1].row[OP_gemm];
    assert_true(row->flops == 2 * 4 * 8 * 2 && row->bytes == 4 * (8 + 16 + 32) && row->seconds > 0);
    double moving = row->bytes / profile->bandwidth, computing = row->flops / profile->peak;
    assert_close(row->limit, moving > computing ? moving : computing, 1e-12, 0);
    double inside = 0;
    for (int i = 0; i < PROFILE_ROWS; i++)
        inside += profile->phase[1].row[i].seconds;
    assert_true(inside > 0 && inside <= profile->phase[1].seconds);
    Text text = {0};
    profile_report(comm_self(), profile, &text);
    assert_contains(text_string(&text), "work: ");
    assert_contains(text_string(&text), "not in ops");
    assert_contains(text_string(&text), "GFLOP/s in a product");
    text_free(&text);
    op_profile_close(&device);
    assert_null(device.profile);
    arena_close(&arena);
    device_close(&device);
}

static void test_trace_is_bounded(void **state)
{
    (void)state;
    Device device;
    Arena arena;
    assert_ok(device_open_cpu(&device, 1, NULL));
    assert_ok(device_arena(&device, &arena, "test", 0));
    assert_ok(op_profile_open(&device));
    for (int i = 0; i < PROFILE_SPANS_MAX + EXTRA; i++)
        op_profile_phase(device.profile, i % 2 ? "odd" : "even");
    add_calls(&device, &arena, PROFILE_EVENTS_MAX + EXTRA - 1); /* one more is the zeroing */
    assert_int_equal(device.profile->events_dropped, EXTRA);
    assert_int_equal(device.profile->spans_dropped, EXTRA);
    const char *path = support_path("trace.json");
    assert_ok(profile_trace(device.profile, 3, path));
    json_error_t error;
    json_t *trace = json_load_file(path, 0, &error), *said = json_object_get(trace, "otherData");
    if (!trace)
        fail_msg("%s: %s in line %d", path, error.text, error.line);
    assert_int_equal(json_integer_value(json_object_get(said, "calls kept")), PROFILE_EVENTS_MAX);
    assert_int_equal(json_integer_value(json_object_get(said, "calls dropped")), EXTRA);
    assert_true(json_real_value(json_object_get(said, "seconds dropped")) > 0);
    json_t *events = json_object_get(trace, "traceEvents");
    assert_int_equal(json_array_size(events), 3 + PROFILE_SPANS_MAX + PROFILE_EVENTS_MAX);
    double last = -1;
    for (size_t i = 3 + PROFILE_SPANS_MAX; i < json_array_size(events); i++) {
        json_t *event = json_array_get(events, i);
        double start = json_number_value(json_object_get(event, "ts"));
        assert_true(start >= last && json_number_value(json_object_get(event, "dur")) >= 0);
        assert_string_equal(json_string_value(json_object_get(event, "ph")), "X");
        assert_int_equal(json_integer_value(json_object_get(event, "pid")), 3);
        last = start;
    }
    json_decref(trace);
    arena_close(&arena);
    device_close(&device); /* and with it the profile */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_land_in_their_phase),
        cmocka_unit_test(test_trace_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
