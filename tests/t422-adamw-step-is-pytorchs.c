//TEST timeout=30
/* t422 -- the optimizer: PyTorch's AdamW with decay groups and clipping (golden/adamw.py), the TF form against its formula in
 * double, a gradient that is no number changes nothing, and the keys' defaults. */
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/config/config.h"
#include "core/train/optimizer.h"
#include "kernels/cpu/device_cpu.h"

enum { COUNT = 256, STEPS = 3 };

typedef struct World {
    Device device;
    Arena model, step;
    Exec exec;
    Params params;
    ParamView view[4];
    Tensor grad;
    Optimizer optimizer;
} World;

/* The inputs of golden/adamw.py. */
static double number(int64_t i, int64_t seed, double scale)
{
    return (double)((i * 37 + seed * 61) % 101 - 50) * scale;
}

static void write_numbers(World *world, Tensor to, int64_t seed, double scale)
{
    float host[COUNT];
    for (int i = 0; i < COUNT; i++)
        host[i] = (float)number(i, seed, scale);
    tensor_write(&world->device, to, host);
}

/* Views of `counts` floats, each beginning on 64 floats; the even ones decay. */
static void world_open(World *world, const OptimizerConfig *config, const int64_t counts[4])
{
    *world = (World){0};
    assert_ok(device_open_cpu(&world->device, 1, NULL));
    assert_ok(device_arena(&world->device, &world->model, "model", 1 << 20));
    assert_ok(device_arena(&world->device, &world->step, "step", 1 << 20));
    world->exec = (Exec){.device = &world->device, .step = &world->step};
    for (int i = 0; i < 4; i++)
        world->view[i] = (ParamView){.offset = 64 * i, .count = counts[i], .decay = i % 2 == 0};
    world->params = (Params){.view = world->view, .views = 4, .count = COUNT};
    world->params.value = tensor_new1(&world->model, DTYPE_F32, COUNT);
    world->grad = tensor_new1(&world->model, DTYPE_F32, COUNT);
    write_numbers(world, world->params.value, 0, 0.01);
    optimizer_open(&world->optimizer, config, &world->params, comm_self(), &world->device, &world->model, 100);
}

static void world_close(World *world)
{
    arena_close(&world->step);
    arena_close(&world->model);
    device_close(&world->device);
}

static Status world_step(World *world, double *norm, double *lr)
{
    return optimizer_step(&world->optimizer, comm_self(), &world->exec, &world->params, world->grad, norm, lr);
}

static const OptimizerConfig torch_config = {
    .lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1, .clip = 1.0, .form = ADAM_TORCH};

/* The next number of the golden file, past comments. */
static double golden_next(char **at)
{
    while (**at == '#')
        *at += strcspn(*at, "\n") + 1;
    char *end = *at;
    double value = strtod(*at, &end);
    assert_true(end != *at);
    *at = end + strspn(end, " \n");
    return value;
}

static void compare_golden(World *world, Tensor tensor, char **golden, const char *name)
{
    float host[COUNT], expected[COUNT];
    tensor_read(&world->device, tensor, host);
    for (int i = 0; i < COUNT; i++)
        expected[i] = (float)golden_next(golden);
    print_message("%s: relative difference %.3g\n", name, support_relative_l2(host, expected, COUNT));
    assert_floats_close(host, expected, COUNT, 2e-6, 2e-7);
}

static void test_torch_form_matches_the_golden(void **state)
{
    (void)state;
    Text file = {0};
    assert_ok(text_read_file(support_source("tests/golden/adamw.txt"), 1 << 20, &file));
    char *golden = file.bytes;
    World world;
    world_open(&world, &torch_config, (const int64_t[]){64, 64, 64, 64});
    for (int64_t step = 1; step <= STEPS; step++) {
        write_numbers(&world, world.grad, step, 0.002 * (double)step);
        double norm = 0, lr = 0;
        assert_ok(world_step(&world, &norm, &lr));
        assert_close(norm, golden_next(&golden), 1e-6, 0);
        assert_close(lr, 0.01, 0, 0);
    }
    assert_int_equal(world.optimizer.steps, STEPS);
    compare_golden(&world, world.params.value, &golden, "parameters");
    compare_golden(&world, world.optimizer.exp_avg, &golden, "exp_avg");
    compare_golden(&world, world.optimizer.exp_avg_sq, &golden, "exp_avg_sq");
    assert_int_equal(*golden, 0);
    world_close(&world);
    text_free(&file);
}

/* p -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps) + lr decay p, and a schedule; with gaps between views. */
static void test_tf_form_matches_its_formula(void **state)
{
    (void)state;
    OptimizerConfig config = torch_config;
    config.form = ADAM_TF;
    config.beta2 = 0.999;
    config.epsilon = 1e-5;
    config.clip = 0.5;
    config.schedule = (ScheduleConfig){.kind = SCHEDULE_LINEAR, .warmup = 2, .final = 0.0};
    const int64_t counts[] = {60, 10, 64, 1};
    World world;
    world_open(&world, &config, counts);
    double p[COUNT], m[COUNT] = {0}, v[COUNT] = {0}, g[COUNT];
    float host[COUNT] = {0}, host_g[COUNT];
    for (int i = 0; i < COUNT; i++) {
        p[i] = i % 64 < counts[i / 64] ? (double)(float)number(i, 0, 0.01) : 0.0;
        host[i] = (float)p[i];
    }
    tensor_write(&world.device, world.params.value, host);
    for (int64_t step = 1; step <= 5; step++) {
        double sum = 0.0;
        for (int i = 0; i < COUNT; i++) {
            g[i] = i % 64 < counts[i / 64] ? (double)(float)number(i, step, 0.003) : 0.0;
            host_g[i] = (float)g[i];
            sum += g[i] * g[i];
        }
        double norm = sqrt(sum), scale = fmin(1.0, 0.5 / (norm + 1e-6));
        double lr = 0.01 * schedule_factor(&config.schedule, step - 1, 100);
        double lr_t = lr * sqrt(1.0 - pow(0.999, (double)step)) / (1.0 - pow(0.9, (double)step));
        for (int i = 0; i < COUNT; i++) {
            m[i] = 0.9 * m[i] + 0.1 * g[i] * scale;
            v[i] = 0.999 * v[i] + 0.001 * g[i] * scale * g[i] * scale;
            double decay = (i / 64) % 2 == 0 ? 0.1 : 0.0;
            p[i] -= lr_t * m[i] / (sqrt(v[i]) + 1e-5) + lr * decay * p[i];
        }
        tensor_write(&world.device, world.grad, host_g);
        double got_norm = 0, got_lr = 0;
        assert_ok(world_step(&world, &got_norm, &got_lr));
        assert_close(got_norm, norm, 1e-12, 0);
        assert_close(got_lr, lr, 0, 0);
        assert_true(scale < 1.0);
    }
    tensor_read(&world.device, world.params.value, host);
    for (int i = 0; i < COUNT; i++) {
        assert_close(host[i], p[i], 1e-5, 1e-7);
        if (i % 64 >= counts[i / 64])
            assert_true(host[i] == 0.0f); /* gaps stay zero */
    }
    world_close(&world);
}

static void test_bad_gradient_changes_nothing(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int which = 0; which < 3; which++) {
        World world;
        world_open(&world, &torch_config, (const int64_t[]){64, 64, 64, 64});
        double norm = 0, lr = 0;
        write_numbers(&world, world.grad, 1, 0.002);
        assert_ok(world_step(&world, &norm, &lr));
        float before[3][COUNT], after[3][COUNT];
        Tensor all[] = {world.params.value, world.optimizer.exp_avg, world.optimizer.exp_avg_sq};
        for (int i = 0; i < 3; i++)
            tensor_read(&world.device, all[i], before[i]);
        tensor_write(&world.device, tensor_range(world.grad, 100, 1), &bad[which]);
        assert_fails(world_step(&world, &norm, &lr), STATUS_NUMERIC, "optimizer step 2: the gradient's norm is");
        assert_false(isfinite(norm));
        for (int i = 0; i < 3; i++) {
            tensor_read(&world.device, all[i], after[i]);
            assert_memory_equal(before[i], after[i], sizeof before[i]);
        }
        assert_int_equal(world.optimizer.steps, 1);
        world_close(&world);
    }
}

static void test_keys(void **state)
{
    (void)state;
    const ConfigGroup groups[] = {{.path = "sft.optimizer", .keys = optimizer_keys, .help = "optimizer"},
                                  {.path = "ppo.optimizer", .keys = optimizer_ppo_keys, .help = "optimizer"},
                                  {0}};
    ConfigSchema schema = {0};
    config_schema_add(&schema, groups);
    const char *overrides[] = {"sft.optimizer.lr=3e-4", "sft.optimizer.schedule=linear", "sft.optimizer.warmup=20",
                               "sft.optimizer.form=tf"};
    ConfigSource source = {.overrides = overrides, .overrides_count = 4};
    Config *config = NULL;
    assert_ok(config_open(source, &schema, &config));
    OptimizerConfig sft, ppo;
    config_read(config, "sft.optimizer", optimizer_keys, &sft);
    config_read(config, "ppo.optimizer", optimizer_ppo_keys, &ppo);
    assert_close(sft.lr, 3e-4, 0, 0);
    assert_close(sft.epsilon, 1e-8, 0, 0);
    assert_close(sft.weight_decay, 0.01, 0, 0);
    assert_close(sft.schedule.warmup, 20, 0, 0);
    assert_close(sft.schedule.final, 0.1, 0, 0);
    assert_int_equal(sft.schedule.kind, SCHEDULE_LINEAR);
    assert_int_equal(sft.form, ADAM_TF);
    assert_close(ppo.epsilon, 1e-5, 0, 0);
    assert_close(ppo.weight_decay, 0, 0, 0);
    assert_close(ppo.clip, 1, 0, 0);
    assert_int_equal(ppo.schedule.kind, SCHEDULE_LINEAR);
    assert_int_equal(ppo.form, ADAM_TF);
    config_close(&config);
    assert_int_equal(optimizer_keys_count, 10);
    assert_int_equal(optimizer_ppo_keys_count, 10);
    for (int i = 0; i < optimizer_keys_count; i++) {
        assert_string_equal(optimizer_keys[i].name, optimizer_ppo_keys[i].name);
        assert_int_equal(optimizer_keys[i].offset, optimizer_ppo_keys[i].offset);
    }
    const char *bad[] = {"sft.optimizer.epsilon=0"}; /* 0 / 0 where no gradient ever came */
    source = (ConfigSource){.overrides = bad, .overrides_count = 1};
    assert_fails(config_open(source, &schema, &config), STATUS_USAGE, "epsilon");
    config_schema_free(&schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch_form_matches_the_golden),
        cmocka_unit_test(test_tf_form_matches_its_formula),
        cmocka_unit_test(test_bad_gradient_changes_nothing),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
