/* t111 -- the vocabulary head in chunks: log-probs, losses and gradients equal those of one large product; scoring and
 * training give equal bits, so the first ratio of PPO is exactly 1; only one chunk of logits exists at a time. */
#include "tests/support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/forward.h"
#include "kernels/cpu/device_cpu.h"

/* 8192 stored ids: 256 rows a chunk, so 600 rows are three chunks, the last one shorter. */
enum { ROWS = 600, WIDTH = 8, STORED = 8192, VOCAB = 8184 };

typedef struct World {
    Device device;
    Arena model, step;
    Tape *tape;
    VocabularyHead head;
    Parameter proj, none;
    Tensor x, target, weight, old, advantage, stats;
} World;

static float noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) / (float)(1 << 23) - 1;
}

static void write_noise(Device *device, Tensor x, uint32_t seed, float scale)
{
    float *host = malloc(tensor_bytes(x));
    for (int64_t i = 0; i < tensor_count(x); i++)
        host[i] = scale * noise(&seed);
    tensor_write(device, x, host);
    free(host);
}

static void world_open(World *world)
{
    memset(world, 0, sizeof *world);
    Device *device = &world->device;
    assert_ok(device_open_cpu(device, 1, NULL));
    assert_ok(device_arena(device, &world->model, "model", 64 << 20));
    assert_ok(device_arena(device, &world->step, "step", 128 << 20));
    world->tape = tape_open();
    Arena *arena = &world->model;
    world->head.weight.value = tensor_new2(arena, DTYPE_F32, STORED, WIDTH);
    world->head.weight.grad = tensor_new2(arena, DTYPE_F32, STORED, WIDTH);
    world->head.vocab = VOCAB;
    world->head.temperature = 0.8f;
    world->proj.value = tensor_new2(arena, DTYPE_F32, WIDTH, WIDTH);
    world->proj.grad = tensor_new2(arena, DTYPE_F32, WIDTH, WIDTH);
    world->x = tensor_new2(arena, DTYPE_F32, ROWS, WIDTH);
    world->weight = tensor_new1(arena, DTYPE_F32, ROWS);
    world->old = tensor_new1(arena, DTYPE_F32, ROWS);
    world->advantage = tensor_new1(arena, DTYPE_F32, ROWS);
    world->target = tensor_new1(arena, DTYPE_I32, ROWS);
    world->stats = tensor_new1(arena, DTYPE_F64, POLICY_STATS);
    write_noise(device, world->head.weight.value, 1, 1.0f);
    write_noise(device, world->proj.value, 2, 1.0f);
    write_noise(device, world->x, 3, 1.0f);
    write_noise(device, world->weight, 4, 0.1f);
    write_noise(device, world->advantage, 5, 1.0f);
    int32_t target[ROWS];
    for (int i = 0; i < ROWS; i++)
        target[i] = i * 1009 % VOCAB;
    tensor_write(device, world->target, target);
    tensor_zero(device, world->head.weight.grad);
    tensor_zero(device, world->proj.grad);
    tensor_zero(device, world->stats);
}

static void world_close(World *world)
{
    tape_close(world->tape);
    arena_close(&world->step);
    arena_close(&world->model);
    device_close(&world->device);
}

/* The same loss in one piece, straight through the op table; leaves gradients of weight and hidden in `dw` and `dx`. */
static double in_one_piece(World *world, Tensor hidden, float *logprob, float *dw, float *dx)
{
    Device *device = &world->device;
    Exec exec = {device, &world->step, NULL};
    Tensor logits = head_logits(&exec, &world->head, hidden);
    assert_int_equal(logits.shape[1], STORED);
    Tensor lse = tensor_new1(&world->step, DTYPE_F32, ROWS), lp = tensor_new1(&world->step, DTYPE_F32, ROWS);
    Tensor dlp = tensor_new1(&world->step, DTYPE_F32, ROWS), stats = tensor_new1(&world->step, DTYPE_F64, NLL_STATS);
    Tensor dweight = tensor_new2(&world->step, DTYPE_F32, STORED, WIDTH);
    Tensor dhidden = tensor_new2(&world->step, DTYPE_F32, ROWS, WIDTH);
    tensor_zero(device, stats);
    LogitsStatsArgs forward = {.logits = logits.data,
                               .target = world->target.data,
                               .lse = lse.data,
                               .logprob = lp.data,
                               .rows = ROWS,
                               .vocab = VOCAB,
                               .ld = STORED,
                               .temperature = world->head.temperature};
    device_run(device, OP_logits_stats, &forward);
    NllLossArgs loss = {lp.data, world->weight.data, dlp.data, ROWS, stats.data};
    device_run(device, OP_nll_loss, &loss);
    LogitsBackwardArgs backward = {.logits = logits.data,
                                   .dlogits = logits.data,
                                   .target = world->target.data,
                                   .lse = lse.data,
                                   .dlogprob = dlp.data,
                                   .rows = ROWS,
                                   .vocab = VOCAB,
                                   .ld = STORED,
                                   .temperature = world->head.temperature};
    device_run(device, OP_logits_backward, &backward);
    GemmArgs to_weight = {.transpose_a = true,
                          .m = STORED,
                          .n = WIDTH,
                          .k = ROWS,
                          .alpha = 1,
                          .a = logits.data,
                          .lda = STORED,
                          .b = hidden.data,
                          .ldb = WIDTH,
                          .c = dweight.data,
                          .ldc = WIDTH};
    device_run(device, OP_gemm, &to_weight);
    GemmArgs to_hidden = {.m = ROWS,
                          .n = WIDTH,
                          .k = STORED,
                          .alpha = 1,
                          .a = logits.data,
                          .lda = STORED,
                          .b = world->head.weight.value.data,
                          .ldb = WIDTH,
                          .c = dhidden.data,
                          .ldc = WIDTH};
    device_run(device, OP_gemm, &to_hidden);
    double result[NLL_STATS];
    tensor_read(device, stats, result);
    tensor_read(device, lp, logprob);
    tensor_read(device, dweight, dw);
    tensor_read(device, dhidden, dx);
    return result[NLL_LOSS];
}

static void test_chunks_equal_one_piece(void **state)
{
    (void)state;
    World world;
    world_open(&world);
    Exec exec = {&world.device, &world.step, world.tape};
    Tensor hidden = linear_forward(&exec, world.x, world.proj, world.none);
    assert_true(hidden.node > 0);
    size_t before = arena_mark(&world.step);
    Tensor logprob = tensor_new1(&world.model, DTYPE_F32, ROWS);
    Tensor stats = tensor_range(world.stats, 0, NLL_STATS);
    head_nll(&exec, &world.head, hidden, world.target, world.weight, logprob, stats);
    /* One chunk of logits is 8 MiB here (256 rows), all rows would be 19 MiB. */
    assert_true(world.step.high_water - before < (size_t)10 << 20);
    assert_int_equal(world.device.counter[OP_logits_stats].calls, 3);
    tape_backward(&exec);
    double found[NLL_STATS];
    float lp[ROWS], expected_lp[ROWS], dproj[WIDTH * WIDTH], x[ROWS * WIDTH], dx[ROWS * WIDTH];
    float *dw = malloc(2 * sizeof(float) * STORED * WIDTH), *expected_dw = dw + STORED * WIDTH;
    tensor_read(&world.device, stats, found);
    tensor_read(&world.device, logprob, lp);
    tensor_read(&world.device, world.head.weight.grad, dw);
    tensor_read(&world.device, world.proj.grad, dproj);
    tensor_read(&world.device, world.x, x);
    double expected = in_one_piece(&world, hidden, expected_lp, expected_dw, dx);
    assert_close(found[NLL_LOSS], expected, 1e-6, 1e-9);
    assert_floats_close(lp, expected_lp, ROWS, 1e-6, 1e-5);
    assert_relative_l2(dw, expected_dw, STORED * WIDTH, 1e-5);
    float expected_dproj[WIDTH * WIDTH];
    for (int i = 0; i < WIDTH; i++)
        for (int j = 0; j < WIDTH; j++) {
            double sum = 0;
            for (int r = 0; r < ROWS; r++)
                sum += (double)dx[r * WIDTH + i] * x[r * WIDTH + j];
            expected_dproj[i * WIDTH + j] = (float)sum;
        }
    assert_relative_l2(dproj, expected_dproj, WIDTH * WIDTH, 1e-5);
    /* Masked rows of the table get nothing. */
    for (int i = VOCAB * WIDTH; i < STORED * WIDTH; i++)
        assert_true(dw[i] == 0);
    free(dw);
    world_close(&world);
}

static void test_scoring_and_training_give_equal_bits(void **state)
{
    (void)state;
    World world;
    world_open(&world);
    Exec score = {&world.device, &world.step, NULL}, train = {&world.device, &world.step, world.tape};
    float old[ROWS], now[ROWS], entropy[ROWS];
    Tensor hidden = linear_forward(&score, world.x, world.proj, world.none);
    Tensor entropies = tensor_new1(&world.step, DTYPE_F32, ROWS);
    head_logprobs(&score, &world.head, hidden, world.target, world.old, entropies);
    tensor_read(&world.device, world.old, old);
    tensor_read(&world.device, entropies, entropy);

    for (int with_bonus = 0; with_bonus < 2; with_bonus++) {
        PolicyTerms terms = {world.old, world.advantage, world.weight, 0.2f, 0.2f, with_bonus ? 0.01f : 0.0f};
        Tensor logprob = tensor_new1(&world.step, DTYPE_F32, ROWS);
        hidden = linear_forward(&train, world.x, world.proj, world.none);
        tensor_zero(&world.device, world.stats);
        head_policy(&train, &world.head, hidden, world.target, &terms, logprob, world.stats);
        tape_backward(&train);
        tensor_read(&world.device, logprob, now);
        assert_memory_equal(now, old, sizeof now);
        double stats[POLICY_STATS], weighted = 0;
        float weight[ROWS];
        tensor_read(&world.device, world.stats, stats);
        tensor_read(&world.device, world.weight, weight);
        for (int r = 0; r < ROWS; r++)
            weighted += (double)weight[r] * entropy[r];
        assert_true(stats[POLICY_RATIO_NOT_ONE] == 0);
        assert_true(stats[POLICY_APPROX_KL] == 0);
        assert_close(stats[POLICY_ENTROPY], weighted, 1e-5, 1e-6);
    }

    /* One weight changed in between: the ratio is no longer 1, and the count says so. */
    PolicyTerms terms = {world.old, world.advantage, world.weight, 0.2f, 0.2f, 0};
    tensor_write(&world.device, tensor_range(world.head.weight.value, 3, 1), &(float){1.5f});
    tensor_zero(&world.device, world.stats);
    head_policy(&score, &world.head, hidden, world.target, &terms, tensor_absent(), world.stats);
    double stats[POLICY_STATS];
    tensor_read(&world.device, world.stats, stats);
    assert_true(stats[POLICY_RATIO_NOT_ONE] > 0);
    world_close(&world);
}

/* The policy's own gradient, entropy bonus included, along a direction of the projection, against differences. */
static void test_policy_gradient_matches_differences(void **state)
{
    (void)state;
    World world;
    world_open(&world);
    world.head.weight.value = tensor_rows(world.head.weight.value, 0, 40);
    world.head.weight.grad = tensor_absent();
    world.head.vocab = 37;
    int32_t target[ROWS];
    for (int i = 0; i < ROWS; i++)
        target[i] = i * 7 % 37;
    tensor_write(&world.device, world.target, target);
    float proj[WIDTH * WIDTH], gradient[WIDTH * WIDTH], moved[WIDTH * WIDTH], direction[WIDTH * WIDTH], old[ROWS];
    uint32_t seed = 9;
    Exec score = {&world.device, &world.step, NULL};
    head_logprobs(&score, &world.head, linear_forward(&score, world.x, world.proj, world.none), world.target, world.old,
                  tensor_absent());
    tensor_read(&world.device, world.old, old);
    for (int i = 0; i < ROWS; i++)
        old[i] += 0.1f * noise(&seed); /* inside the clip range, so the loss is smooth */
    tensor_write(&world.device, world.old, old);
    tensor_read(&world.device, world.proj.value, proj);
    for (int i = 0; i < WIDTH * WIDTH; i++)
        direction[i] = noise(&seed);
    PolicyTerms terms = {world.old, world.advantage, world.weight, 0.2f, 0.2f, 0.3f};
    double loss[3];
    for (int s = 0; s < 3; s++) {
        const double epsilon[] = {1e-3, -1e-3, 0};
        for (int i = 0; i < WIDTH * WIDTH; i++)
            moved[i] = proj[i] + (float)epsilon[s] * direction[i];
        tensor_write(&world.device, world.proj.value, moved);
        Exec exec = {&world.device, &world.step, s == 2 ? world.tape : NULL};
        tensor_zero(&world.device, world.stats);
        head_policy(&exec, &world.head, linear_forward(&exec, world.x, world.proj, world.none), world.target, &terms,
                    tensor_absent(), world.stats);
        double stats[POLICY_STATS];
        tensor_read(&world.device, world.stats, stats);
        loss[s] = stats[POLICY_LOSS] - 0.3 * stats[POLICY_ENTROPY];
        if (s == 2)
            tape_backward(&exec);
    }
    tensor_read(&world.device, world.proj.grad, gradient);
    double expected = 0, length = 0;
    for (int i = 0; i < WIDTH * WIDTH; i++) {
        expected += (double)gradient[i] * direction[i];
        length += (double)gradient[i] * gradient[i];
    }
    assert_true(length > 0);
    assert_close((loss[0] - loss[1]) / 2e-3, expected, 0, 5e-3 * sqrt(length));
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_equal_one_piece),
        cmocka_unit_test(test_scoring_and_training_give_equal_bits),
        cmocka_unit_test(test_policy_gradient_matches_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
