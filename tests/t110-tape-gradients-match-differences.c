/* t110 -- the tape: gradients of a graph with shared inputs, residuals, a tied table, an in-place rotation and two losses
 * agree with finite differences; frozen parameters cost nothing; the dry device plans the same memory; a second step
 * allocates nothing; what is said to be final on the way back is. */
#include "tests/support/support.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/tensor/forward.h"
#include "kernels/cpu/device_cpu.h"

enum { WIDTH = 16, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 4, QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN = 24 };
enum { VOCAB = 29, STORED = 32, POSITIONS = 16, TOKENS = 19, SEQUENCES = 4, GATHERED = 3 };

typedef enum Name {
    TABLE,
    LEARNED,
    GAIN1,
    BIAS1,
    W_QKV,
    B_QKV,
    W_OUT,
    GAIN2,
    W_UP,
    W_DOWN,
    B_DOWN,
    W_EXTRA,
    GAIN3,
    W_VALUE,
    NAMES
} Name;
static const int64_t shapes[NAMES][2] = {
    {STORED, WIDTH}, {POSITIONS, WIDTH},  {WIDTH, 0},      {WIDTH, 0}, {QKV, WIDTH},   {QKV, 0},   {WIDTH, WIDTH},
    {WIDTH, 0},      {2 * HIDDEN, WIDTH}, {WIDTH, HIDDEN}, {WIDTH, 0}, {WIDTH, WIDTH}, {WIDTH, 0}, {1, WIDTH},
};

typedef struct World {
    Device device;
    Arena model, step;
    Parameter parameter[NAMES];
    Tensor gradients[NAMES]; /* kept here while a parameter is frozen */
    Tensor stats_nll, stats_value, rope;
    Tape *tape;
} World;

static float noise(uint64_t a, uint64_t b)
{
    uint64_t x = (a + 1) * 0x9e3779b97f4a7c15u ^ (b + 1) * 0xc2b2ae3d27d4eb4fu;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 32;
    x *= 0x94d049bb133111ebu;
    x ^= x >> 31;
    return (float)((double)(x >> 11) * 0x1p-53 * 2 - 1);
}

static void write_noise(Device *device, Tensor x, uint64_t key, float scale, float offset)
{
    float host[STORED * WIDTH * 2];
    int64_t count = tensor_count(x);
    assert_true(count <= (int64_t)(sizeof host / sizeof *host));
    for (int64_t i = 0; i < count; i++)
        host[i] = offset + scale * noise(key, (uint64_t)i);
    tensor_write(device, x, host);
}

static Tensor new_like(Arena *arena, const int64_t shape[2])
{
    return shape[1] ? tensor_new2(arena, DTYPE_F32, shape[0], shape[1]) : tensor_new1(arena, DTYPE_F32, shape[0]);
}

static void world_open(World *world, bool dry)
{
    memset(world, 0, sizeof *world);
    assert_ok(dry ? device_open_dry(&world->device) : device_open_cpu(&world->device, 1, NULL));
    assert_ok(device_arena(&world->device, &world->model, "model", 16 << 20));
    assert_ok(device_arena(&world->device, &world->step, "step", 16 << 20));
    for (int i = 0; i < NAMES; i++) {
        world->parameter[i].value = new_like(&world->model, shapes[i]);
        world->gradients[i] = world->parameter[i].grad = new_like(&world->model, shapes[i]);
        bool gain = i == GAIN1 || i == GAIN2 || i == GAIN3;
        write_noise(&world->device, world->parameter[i].value, (uint64_t)i, 0.5f, gain ? 1 : 0);
        tensor_zero(&world->device, world->parameter[i].grad);
    }
    world->stats_nll = tensor_new1(&world->model, DTYPE_F64, NLL_STATS);
    world->stats_value = tensor_new1(&world->model, DTYPE_F64, VALUE_STATS);
    world->rope = tensor_new3(&world->model, DTYPE_F32, POSITIONS, HEAD_DIM / 2, 2);
    float table[POSITIONS * HEAD_DIM];
    for (int p = 0; p < POSITIONS; p++)
        for (int i = 0; i < HEAD_DIM / 2; i++) {
            table[(p * (HEAD_DIM / 2) + i) * 2] = cosf((float)p / (float)(1 + 3 * i));
            table[(p * (HEAD_DIM / 2) + i) * 2 + 1] = sinf((float)p / (float)(1 + 3 * i));
        }
    tensor_write(&world->device, world->rope, table);
    world->tape = tape_open();
}

static void world_close(World *world)
{
    tape_close(world->tape);
    arena_close(&world->step);
    arena_close(&world->model);
    device_close(&world->device);
}

static Tensor on_step(World *world, DType dtype, int64_t count, const void *host)
{
    Tensor x = tensor_new1(&world->step, dtype, count);
    tensor_write(&world->device, x, host);
    return x;
}

/* Two losses over one graph; with a tape, also all gradients (+=). Returns the sum of the losses. */
static double run(World *world, bool backward)
{
    Exec exec = {&world->device, &world->step, backward ? world->tape : NULL};
    const Parameter *p = world->parameter, none = {0};
    arena_rewind(&world->step, 0);
    tensor_zero(&world->device, world->stats_nll);
    tensor_zero(&world->device, world->stats_value);

    static const int32_t start[SEQUENCES + 1] = {0, 7, 8, 8, TOKENS};
    int32_t token[TOKENS], target[TOKENS];
    float weight[TOKENS], value_data[3][GATHERED];
    for (int t = 0; t < TOKENS; t++) {
        token[t] = (t * 7 + 3) % VOCAB;
        target[t] = (t * 5 + 1) % VOCAB;
        weight[t] = t % 4 == 0 ? 0 : 0.1f;
    }
    for (int i = 0; i < 3 * GATHERED; i++)
        value_data[i / GATHERED][i % GATHERED] = i / GATHERED == 2 ? 0.3f : noise(77, (uint64_t)i);
    TokenBatch batch = token_batch_make(&world->device, &world->step, token, start, SEQUENCES, NULL);

    Tensor x = embedding_forward(&exec, &batch, p[TABLE], VOCAB, p[LEARNED]);
    NormOutput first = norm_forward(&exec, NORM_LAYER, x, tensor_absent(), p[GAIN1], p[BIAS1], 1e-5f);
    Tensor qkv = linear_forward(&exec, first.normalised, p[W_QKV], p[B_QKV]);
    qkv = rope_forward(&exec, qkv, batch.position, world->rope, HEADS + KV_HEADS, HEAD_DIM);
    Tensor mixed = attention_forward(&exec, qkv, &batch.rows, HEADS, KV_HEADS, HEAD_DIM, 0.5f, NULL);
    Tensor out = linear_forward(&exec, mixed, p[W_OUT], none);
    NormOutput second = norm_forward(&exec, NORM_RMS, out, first.sum, p[GAIN2], none, 1e-5f);
    Tensor up = linear_forward(&exec, second.normalised, p[W_UP], none);
    Tensor down = act_linear_forward(&exec, ACT_SWIGLU, up, p[W_DOWN], p[B_DOWN]);
    /* The normalised input is used a second time, and x itself a third. */
    Tensor extra = linear_forward(&exec, second.normalised, p[W_EXTRA], none);
    extra = act_linear_forward(&exec, ACT_GELU_TANH, extra, p[W_OUT], none);
    NormOutput third = norm_forward(&exec, NORM_RMS, down, extra, p[GAIN3], none, 1e-5f);
    NormOutput fourth = norm_forward(&exec, NORM_RMS, third.sum, second.sum, p[GAIN3], none, 1e-5f);
    Tensor twice = norm_forward(&exec, NORM_RMS, fourth.normalised, fourth.normalised, p[GAIN2], none, 1e-5f).sum;
    Tensor hidden = norm_forward(&exec, NORM_RMS, twice, x, p[GAIN1], none, 1e-5f).normalised;

    VocabularyHead head = {p[TABLE], VOCAB, 0.7f};
    head_nll(&exec, &head, hidden, on_step(world, DTYPE_I32, TOKENS, target), on_step(world, DTYPE_F32, TOKENS, weight),
             tensor_absent(), world->stats_nll);
    Tensor picked = gather_forward(&exec, hidden, on_step(world, DTYPE_I32, GATHERED, (int32_t[]){6, 7, 18}));
    /* Nothing else reads third.normalised: its gradient is zero but for the rows gathered. */
    Tensor aside = gather_forward(&exec, third.normalised, on_step(world, DTYPE_I32, GATHERED, (int32_t[]){2, 9, 17}));
    picked = norm_forward(&exec, NORM_RMS, picked, aside, p[GAIN3], none, 1e-5f).normalised;
    Tensor value = linear_forward(&exec, picked, p[W_VALUE], none);
    value_loss(&exec, value, on_step(world, DTYPE_F32, GATHERED, value_data[0]),
               on_step(world, DTYPE_F32, GATHERED, value_data[1]), on_step(world, DTYPE_F32, GATHERED, value_data[2]),
               0.2f, 0.5f, world->stats_value);
    if (backward)
        tape_backward(&exec);
    double nll[NLL_STATS], scalar[VALUE_STATS];
    tensor_read(&world->device, world->stats_nll, nll);
    tensor_read(&world->device, world->stats_value, scalar);
    return nll[NLL_LOSS] + scalar[VALUE_LOSS];
}

/* Along a random direction of each parameter, so that every element counts. */
static void test_gradients_match_differences(void **state)
{
    (void)state;
    World world;
    world_open(&world, false);
    double loss = run(&world, true);
    assert_true(isfinite(loss) && loss > 0);
    assert_true(run(&world, false) == loss);
    for (int i = 0; i < NAMES; i++) {
        int64_t count = tensor_count(world.parameter[i].value);
        float value[STORED * WIDTH * 2], moved[STORED * WIDTH * 2], gradient[STORED * WIDTH * 2];
        tensor_read(&world.device, world.parameter[i].value, value);
        tensor_read(&world.device, world.parameter[i].grad, gradient);
        double expected = 0, length = 0;
        for (int64_t e = 0; e < count; e++) {
            double direction = noise(1000 + (uint64_t)i, (uint64_t)e);
            expected += gradient[e] * direction;
            length += (double)gradient[e] * gradient[e];
        }
        const double epsilon = 1e-3;
        double side[2];
        for (int s = 0; s < 2; s++) {
            for (int64_t e = 0; e < count; e++)
                moved[e] =
                    value[e] + (float)((s ? -epsilon : epsilon) * (double)noise(1000 + (uint64_t)i, (uint64_t)e));
            tensor_write(&world.device, world.parameter[i].value, moved);
            side[s] = run(&world, false);
        }
        tensor_write(&world.device, world.parameter[i].value, value);
        double difference = (side[0] - side[1]) / (2 * epsilon);
        assert_true(length > 0);
        if (!(fabs(difference - expected) <= 5e-3 * sqrt(length)))
            fail_msg("parameter %d: difference %g, gradient along it %g, norm %g", i, difference, expected,
                     sqrt(length));
    }
    world_close(&world);
}

static void test_gradients_accumulate_and_repeat(void **state)
{
    (void)state;
    World world;
    world_open(&world, false);
    float once[STORED * WIDTH * 2], twice[STORED * WIDTH * 2];
    run(&world, true);
    tensor_read(&world.device, world.parameter[W_UP].grad, once);
    tensor_zero(&world.device, world.parameter[W_UP].grad);
    run(&world, true);
    tensor_read(&world.device, world.parameter[W_UP].grad, twice);
    assert_memory_equal(once, twice, tensor_bytes(world.parameter[W_UP].grad));
    run(&world, true);
    tensor_read(&world.device, world.parameter[W_UP].grad, twice);
    for (int i = 0; i < 2 * HIDDEN * WIDTH; i++)
        once[i] *= 2;
    assert_floats_close(twice, once, 2 * HIDDEN * WIDTH, 1e-5, 1e-7);
    world_close(&world);
}

static void test_frozen_parameters_change_nothing_else(void **state)
{
    (void)state;
    World all, some;
    world_open(&all, false);
    world_open(&some, false);
    static const Name frozen[] = {TABLE, LEARNED, GAIN1, BIAS1, W_QKV, B_QKV, W_OUT, B_DOWN, GAIN3};
    for (size_t i = 0; i < sizeof frozen / sizeof *frozen; i++)
        some.parameter[frozen[i]].grad = tensor_absent();
    double loss = run(&all, true);
    assert_true(run(&some, true) == loss);
    for (int i = 0; i < NAMES; i++) {
        float a[STORED * WIDTH * 2], b[STORED * WIDTH * 2];
        tensor_read(&all.device, all.gradients[i], a);
        tensor_read(&some.device, some.gradients[i], b);
        bool is_frozen = !tensor_present(some.parameter[i].grad);
        for (int64_t e = 0; e < tensor_count(all.gradients[i]); e++)
            assert_true(is_frozen ? b[e] == 0 : a[e] == b[e]);
    }
    /* Below the lowest trainable parameter nothing runs backward at all. */
    assert_int_equal(all.device.counter[OP_attention_backward].calls, 1);
    assert_int_equal(some.device.counter[OP_attention_backward].calls, 0);
    assert_int_equal(some.device.counter[OP_embed_backward].calls, 0);
    assert_true(device_total(&some.device).flops < device_total(&all.device).flops);
    world_close(&some);
    world_close(&all);
}

static void test_dry_device_plans_the_same_memory(void **state)
{
    (void)state;
    World real, dry;
    world_open(&real, false);
    world_open(&dry, true);
    run(&real, true);
    assert_true(run(&dry, true) == 0);
    assert_int_equal(dry.step.high_water, real.step.high_water);
    assert_int_equal(dry.model.high_water, real.model.high_water);
    assert_int_equal(dry.device.reads, real.device.reads);
    assert_int_equal(dry.device.writes, real.device.writes);
    OpCounter a = device_total(&dry.device), b = device_total(&real.device);
    assert_int_equal(a.calls, b.calls);
    assert_true(a.flops == b.flops && a.bytes == b.bytes && a.flops > 0);
    world_close(&dry);
    world_close(&real);
}

static void test_second_step_allocates_nothing(void **state)
{
    (void)state;
    World world;
    world_open(&world, false);
    run(&world, true);
    run(&world, false);
    uint64_t calls = memory_calls();
    size_t committed = world.step.committed, high_water = world.step.high_water;
    run(&world, true);
    run(&world, false);
    assert_int_equal(memory_calls(), calls);
    assert_int_equal(world.step.committed, committed);
    assert_int_equal(world.step.high_water, high_water);
    world_close(&world);
}

/* d/dx of a sum of two seeds reaches the parameter once with each; the seed's memory is left as it was. */
static void test_seeds_add_and_are_not_written(void **state)
{
    (void)state;
    World world;
    world_open(&world, false);
    Exec exec = {&world.device, &world.step, world.tape};
    Tensor x = tensor_new2(&world.step, DTYPE_F32, 2, WIDTH), seed = tensor_new2(&world.step, DTYPE_F32, 2, WIDTH);
    write_noise(&world.device, x, 50, 1, 0);
    write_noise(&world.device, seed, 51, 1, 0);
    Parameter none = {0};
    NormOutput out = norm_forward(&exec, NORM_RMS, linear_forward(&exec, x, world.parameter[W_OUT], none),
                                  tensor_absent(), world.parameter[GAIN1], none, 1e-5f);
    tape_seed(&exec, out.normalised, seed);
    tape_seed(&exec, out.sum, seed);
    tape_seed(&exec, out.normalised, seed);
    tape_backward(&exec);
    float before[2 * WIDTH], after[2 * WIDTH], gain[WIDTH];
    for (int i = 0; i < 2 * WIDTH; i++)
        before[i] = noise(51, (uint64_t)i);
    tensor_read(&world.device, seed, after);
    assert_memory_equal(before, after, sizeof before);
    float y[2 * WIDTH], g[WIDTH];
    tensor_read(&world.device, out.normalised, y);
    tensor_read(&world.device, world.parameter[GAIN1].value, g);
    tensor_read(&world.device, world.parameter[GAIN1].grad, gain);
    for (int i = 0; i < WIDTH; i++)
        assert_close(gain[i], 2 * (before[i] * y[i] + before[WIDTH + i] * y[WIDTH + i]) / g[i], 1e-4, 1e-5);
    world_close(&world);
}

/* The gradient of a rotation is the rotation back, not in the seed's memory but in a copy. */
static void test_rotation_copies_a_shared_gradient(void **state)
{
    (void)state;
    World world;
    world_open(&world, false);
    Exec exec = {&world.device, &world.step, world.tape};
    Tensor x = tensor_new2(&world.step, DTYPE_F32, 2, WIDTH), seed = tensor_new2(&world.step, DTYPE_F32, 2, QKV);
    write_noise(&world.device, x, 50, 1, 0);
    write_noise(&world.device, seed, 51, 1, 0);
    Tensor qkv = linear_forward(&exec, x, world.parameter[W_QKV], world.parameter[B_QKV]);
    Tensor position = on_step(&world, DTYPE_I32, 2, (int32_t[]){3, 5});
    qkv = rope_forward(&exec, qkv, position, world.rope, HEADS + KV_HEADS, HEAD_DIM);
    tape_seed(&exec, qkv, seed);
    tape_backward(&exec);
    float before[2 * QKV], after[2 * QKV], bias[QKV];
    for (int i = 0; i < 2 * QKV; i++)
        before[i] = noise(51, (uint64_t)i);
    tensor_read(&world.device, seed, after);
    assert_memory_equal(before, after, sizeof before);
    tensor_read(&world.device, world.parameter[B_QKV].grad, bias);
    for (int h = 0; h < HEADS + 2 * KV_HEADS; h++)
        for (int i = 0; i < HEAD_DIM / 2; i++) {
            double expected[2] = {0, 0};
            for (int t = 0; t < 2; t++) {
                double angle = h < HEADS + KV_HEADS ? (t ? 5.0 : 3.0) / (1 + 3 * i) : 0;
                double a = before[t * QKV + h * HEAD_DIM + i], b = before[t * QKV + h * HEAD_DIM + i + HEAD_DIM / 2];
                expected[0] += a * cos(angle) + b * sin(angle);
                expected[1] += b * cos(angle) - a * sin(angle);
            }
            assert_close(bias[h * HEAD_DIM + i], expected[0], 1e-5, 1e-5);
            assert_close(bias[h * HEAD_DIM + i + HEAD_DIM / 2], expected[1], 1e-5, 1e-5);
        }
    world_close(&world);
}

/* What gradients were when the tape first called them final. */
typedef struct Finals {
    World *world;
    float then[NAMES][STORED * WIDTH * 2];
    bool final[NAMES];
    int told, early; /* calls; and those before the last that said something of a gradient */
    uintptr_t from;
} Finals;

static void note_finals(void *context, const void *from)
{
    Finals *finals = context;
    finals->told++;
    assert_true((uintptr_t)from <= finals->from || finals->told == 1); /* never taken back */
    finals->from = (uintptr_t)from;
    for (int i = 0; i < NAMES; i++) {
        Tensor gradient = finals->world->gradients[i];
        if (finals->final[i] || (uintptr_t)gradient.data < (uintptr_t)from)
            continue;
        finals->final[i] = true;
        finals->early += from != NULL;
        tensor_read(&finals->world->device, gradient, finals->then[i]);
    }
}

static void test_final_gradients_are_final(void **state)
{
    (void)state;
    World world;
    world_open(&world, false);
    Finals *finals = memory_new(1, sizeof *finals);
    finals->world = &world;
    tape_watch(world.tape, (TapeWatch){finals, note_finals});
    run(&world, true);
    assert_true(finals->from == 0);
    print_message("%d of %d gradients were final before the first op's backward\n", finals->early, NAMES);
    assert_true(finals->early >=
                NAMES - 4); /* all but those of the table, which two ops share, and what lies at its side */
    for (int i = 0; i < NAMES; i++) {
        float now[STORED * WIDTH * 2];
        tensor_read(&world.device, world.gradients[i], now);
        assert_true(finals->final[i]);
        if (memcmp(finals->then[i], now, tensor_bytes(world.gradients[i])) != 0)
            fail_msg("parameter %d's gradient was said to be final, and was not", i);
    }
    tape_watch(world.tape, (TapeWatch){0});
    const int told = finals->told;
    run(&world, true);
    assert_int_equal(finals->told, told);
    memory_free(&finals);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_match_differences),
        cmocka_unit_test(test_gradients_accumulate_and_repeat),
        cmocka_unit_test(test_frozen_parameters_change_nothing_else),
        cmocka_unit_test(test_dry_device_plans_the_same_memory),
        cmocka_unit_test(test_second_step_allocates_nothing),
        cmocka_unit_test(test_seeds_add_and_are_not_written),
        cmocka_unit_test(test_rotation_copies_a_shared_gradient),
        cmocka_unit_test(test_final_gradients_are_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
