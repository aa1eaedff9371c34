//TEST ranks=1,2,3,4 timeout=120 devices=cuda
/* t423 -- one training step: the bits of all state are those of one rank, whatever the ranks, lanes and units; a failure of one
 * rank's unit or a gradient that is no number fails everywhere and changes nothing; accumulation changes nothing that matters. A fast sum over ranks, of which there
 * may be three, is near that, and the same when it is done again.
 *
 * On GPUs, which talk by NCCL, the sum over ranks goes on beside backward. Streams do everything at the latest moment, and the host waits first for the one or first
 * for the other, so that a queue which does not wait for what it needs finds it missing. */
#include "tests/support/support.h"
#include "tests/support/support_device.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/comm/comm_nccl.h"
#include "core/store/checkpoint.h"
#include "core/train/trainer.h"
#include "kernels/cpu/device_cpu.h"

enum { VOCAB = 100, POSITIONS = 16, SEQUENCE = 9, STEPS_MAX = 5, TOTAL_STEPS = 40 };

static Comm *world_comm;
static Device gpu; /* all worlds' where it is opened: NCCL works on one device */

/* A tiny GPT-2 (learned positions and biases: gradients of rows that no token touches stay zero). */
static ModelShape tiny_shape(void)
{
    ModelShape shape = {.arch = arch_find("gpt2"),
                        .layers = 2,
                        .width = 32,
                        .heads = 4,
                        .kv_heads = 4,
                        .head_dim = 8,
                        .ffn = 64,
                        .vocab = VOCAB,
                        .positions_max = POSITIONS,
                        .norm_epsilon = 1e-5f,
                        .tied = false};
    return shape;
}

static const OptimizerConfig adam = {.lr = 3e-3,
                                     .beta1 = 0.9,
                                     .beta2 = 0.99,
                                     .epsilon = 1e-8,
                                     .weight_decay = 0.1,
                                     .clip = 0.5,
                                     .form = ADAM_TORCH,
                                     .schedule = {.kind = SCHEDULE_COSINE, .warmup = 2, .final = 0.1}};

typedef struct World {
    Comm *comm;
    Device own, *device;
    DeviceBackend hidden;
    ReduceKind reduce;
    Arena arena, step;
    Exec exec;
    Model model;
    Trainer trainer;
    /* What units do */
    int64_t sequences, per_unit; /* of the whole step, and of a unit */
    int64_t round;               /* step, so that data change */
    int64_t fail_unit, nan_unit; /* -1: none */
    int64_t units_run;
} World;

/* Emulation takes its time, and two steps have both orders of waiting. */
static int steps_taken(void)
{
    return gpu.backend ? 2 : STEPS_MAX;
}

static void world_open_on(World *world, Device *device, Comm *comm, int64_t lanes)
{
    world->device = device;
    assert_ok(device_arena(device, &world->arena, "trainer", 64 << 20));
    assert_ok(device_arena(device, &world->step, "step", 64 << 20));
    world->exec = (Exec){.device = device, .step = &world->step};
    world->comm = comm;
    world->fail_unit = world->nan_unit = -1;
    ModelShape shape = tiny_shape();
    assert_ok(model_open(&world->model, device, &shape, HEAD_LM));
    params_initialise(device, &world->model.params, 7);
    assert_ok(
        trainer_open(&world->trainer, &world->model, comm, &adam, lanes, world->reduce, TOTAL_STEPS, &world->arena));
}

/* `threads` 0: one, and no lanes on threads of their own, as with models that do not stay in caches. */
static Status cpu_open(Device *device, int threads)
{
    TRY(device_open_cpu(device, threads ? threads : 1, NULL));
    device->strands = threads;
    return status_ok();
}

static int usual_threads = 1;

static void world_open_with(World *world, Comm *comm, int64_t lanes, ReduceKind reduce, int threads)
{
    *world = (World){.reduce = reduce};
    if (!gpu.backend)
        assert_ok(cpu_open(&world->own, threads));
    world_open_on(world, gpu.backend ? &gpu : &world->own, comm, lanes);
}

static void world_open_by(World *world, Comm *comm, int64_t lanes, ReduceKind reduce)
{
    world_open_with(world, comm, lanes, reduce, usual_threads);
}

static void world_open(World *world, Comm *comm, int64_t lanes)
{
    world_open_by(world, comm, lanes, REDUCE_EXACT);
}

static void world_close(World *world)
{
    trainer_close(&world->trainer);
    model_close(&world->model);
    arena_close(&world->arena);
    arena_close(&world->step);
    device_close(&world->own);
}

static int32_t token_of(int64_t round, int64_t sequence, int64_t position)
{
    uint64_t x = (uint64_t)(round * 1000003 + sequence * 971 + position * 31 + 17) * 0x9e3779b97f4a7c15u;
    return (int32_t)((x >> 33) % VOCAB);
}

/* Sequences [unit * per_unit, ...) of lengths 2 to SEQUENCE: next-token loss. Every third sequence has weights of zero, whose gradient
 * is a zero with a sign. */
static Status language_unit(void *context, int64_t unit, Exec *exec, Tensor stats)
{
    World *world = context;
    world->units_run++;
    if (unit == world->fail_unit)
        return status_error(STATUS_INPUT, "unit %lld is malformed", (long long)unit);
    enum { MAX = 16 };
    int32_t token[MAX * SEQUENCE], target[MAX * SEQUENCE], start[MAX + 1] = {0};
    float weight[MAX * SEQUENCE];
    int64_t count = world->per_unit, tokens = 0;
    assert_true(count <= MAX);
    for (int64_t i = 0; i < count; i++) {
        int64_t sequence = unit * world->per_unit + i, length = 2 + sequence % (SEQUENCE - 1);
        for (int64_t position = 0; position < length; position++, tokens++) {
            token[tokens] = token_of(world->round, sequence, position);
            target[tokens] = token_of(world->round, sequence, position + 1);
            weight[tokens] = sequence % 3 == 2 ? 0.0f : 1.0f / (float)(world->sequences * SEQUENCE);
            if (unit == world->nan_unit)
                weight[tokens] = NAN;
        }
        start[i + 1] = (int32_t)tokens;
    }
    TokenBatch batch = token_batch_make(exec->device, exec->step, token, start, count, NULL);
    Tensor wanted = tensor_new1(exec->step, DTYPE_I32, tokens), weights = tensor_new1(exec->step, DTYPE_F32, tokens);
    tensor_write(exec->device, wanted, target);
    tensor_write(exec->device, weights, weight);
    Tensor hidden = model_hidden(&world->model, exec, &batch, tensor_absent(), NULL);
    VocabularyHead head = model_vocabulary_head(&world->model, 1.0f);
    head_nll(exec, &head, hidden, wanted, weights, tensor_absent(), stats);
    if (exec->tape)
        tape_backward(exec);
    return status_ok();
}

static Status world_step(World *world, int64_t units, StepReport *report)
{
    world->sequences = units * world->per_unit;
    size_t mark = arena_mark(&world->step);
    int64_t count = trainer_figures(&world->trainer, units, NLL_STATS);
    double *host = memory_new((size_t)count, sizeof *host);
    Tensor figures = tensor_new1(&world->step, DTYPE_F64, count);
    Status status = trainer_ask(&world->trainer, &world->exec, units, language_unit, world, NLL_STATS, figures, report);
    if (world->round % 2 == 0) { /* wait for what ranks exchange before anything that they make of it */
        const Device *device = world->device;
        float any;
        device->backend->copy_out(device->self, QUEUE_COMMUNICATION, &any, world->model.params.value.data, sizeof any);
    }
    tensor_read(world->device, figures, host);
    if (!status_failed(status))
        status = trainer_learn(&world->trainer, units, NLL_STATS, host, report);
    memory_free(&host);
    arena_rewind(&world->step, mark);
    world->round++;
    return status;
}

/* Parameters and both moments of the whole model, from all ranks. */
typedef struct State {
    char *bytes;
    size_t size;
} State;

static State world_state(World *world)
{
    const Optimizer *optimizer = &world->trainer.optimizer;
    Tensor part[] = {optimizer->exp_avg, optimizer->exp_avg_sq};
    size_t flat = tensor_bytes(world->model.params.value);
    int64_t count = world->model.params.count;
    State state = {memory_new(3 * flat, 1), 3 * flat};
    tensor_read(world->device, world->model.params.value, state.bytes);
    for (int i = 0; i < 2; i++) {
        size_t bytes = tensor_bytes(part[i]), *offsets = memory_new(65, sizeof *offsets);
        char *mine = memory_new(bytes, 1), *all = NULL;
        tensor_read(world->device, part[i], mine);
        comm_allgather_ragged(world->comm, mine, bytes, &all, offsets);
        assert_int_equal(offsets[comm_size(world->comm)], flat);
        const char *from = all; /* by rank, and of each its slices */
        for (int rank = 0; rank < comm_size(world->comm); rank++)
            for (int64_t stripe = 0; stripe < shard_stripes(count); stripe++) {
                Span slice = shard_slice(count, comm_size(world->comm), rank, stripe);
                size_t size = (size_t)(slice.to - slice.from) * sizeof(float);
                memcpy(state.bytes + (size_t)(i + 1) * flat + (size_t)slice.from * sizeof(float), from, size);
                from += size;
            }
        memory_free(&mine);
        memory_free(&all);
        memory_free(&offsets);
    }
    return state;
}

static void assert_same_state(State a, State b, const char *what)
{
    assert_int_equal(a.size, b.size);
    if (memcmp(a.bytes, b.bytes, a.size) == 0)
        return;
    size_t at = 0;
    while (a.bytes[at] == b.bytes[at])
        at++;
    fail_msg("%s: state differs from byte %zu of %zu on", what, at, a.size);
}

static void run_steps(Comm *comm, ReduceKind reduce, int64_t lanes, int64_t units, bool host_visible, State *state,
                      StepReport *reports, int64_t *units_run)
{
    World world;
    world_open_by(&world, comm, lanes, reduce);
    world.hidden = *world.device->backend;
    world.hidden.host_visible = false; /* what a device with memory of its own would take: staging through the host */
    if (!host_visible && !gpu.backend)
        world.device->backend = &world.hidden;
    world.per_unit = 2;
    for (int step = 0; step < steps_taken(); step++)
        assert_ok(world_step(&world, units, &reports[step]));
    *units_run = world.units_run;
    *state = world_state(&world);
    world_close(&world);
}

static void test_bits_do_not_depend_on_ranks(void **state)
{
    (void)state;
    int ranks = comm_size(world_comm), rank = comm_rank(world_comm);
    const int64_t unit_counts[] = {11, 8, 5, 3, 1}; /* the last three leave lanes empty */
    for (int64_t lanes = 4; lanes <= 8; lanes *= 2)
        for (size_t u = 0; u < sizeof unit_counts / sizeof *unit_counts; u++)
            for (int visible = 0; visible < 2; visible++) {
                int64_t units = unit_counts[u], run_alone = 0, run_together = 0;
                if ((!visible && (u || gpu.backend)) || (gpu.backend && (lanes > 4 || (units < 11 && units > 1))))
                    continue;
                State alone, together;
                StepReport report_alone[STEPS_MAX], report_together[STEPS_MAX];
                run_steps(comm_self(), REDUCE_EXACT, lanes, units, true, &alone, report_alone, &run_alone);
                run_steps(world_comm, REDUCE_EXACT, lanes, units, visible, &together, report_together, &run_together);
                char what[64];
                snprintf(what, sizeof what, "%d lanes, %d units", (int)lanes, (int)units);
                assert_same_state(alone, together, what);
                assert_memory_equal(report_alone, report_together, (size_t)steps_taken() * sizeof *report_alone);
                for (int step = 0; step < steps_taken(); step++) {
                    assert_true(isfinite(report_alone[step].stats[NLL_LOSS]) && report_alone[step].grad_norm > 0);
                    if (units == 11)
                        assert_true(report_alone[step].grad_norm > adam.clip); /* clipping is at work */
                }
                /* Work is shared, not repeated. */
                Span own = shard_rank_units(units, lanes, ranks, rank);
                assert_int_equal(run_alone, steps_taken() * units);
                assert_int_equal(run_together, steps_taken() * (own.to - own.from));
                memory_free(&alone.bytes);
                memory_free(&together.bytes);
            }
}

/* In the library's order of adding: near the exact sum, the same again, and the same parameters on all ranks. */
static void test_fast_is_near_and_repeats(void **state)
{
    (void)state;
    const int64_t unit_counts[] = {11, 3};
    for (int u = 0; u < (gpu.backend ? 1 : 2); u++) {
        State exact, fast, again;
        StepReport exactly[STEPS_MAX], once[STEPS_MAX], twice[STEPS_MAX];
        int64_t run = 0, units = unit_counts[u];
        run_steps(comm_self(), REDUCE_EXACT, 8, units, true, &exact, exactly, &run);
        run_steps(world_comm, REDUCE_FAST, 8, units, false, &fast, once, &run);
        run_steps(world_comm, REDUCE_FAST, 8, units, true, &again, twice, &run);
        Span own = shard_rank_units(units, 8, comm_size(world_comm), comm_rank(world_comm));
        assert_int_equal(run, steps_taken() * (own.to - own.from));
        assert_same_state(fast, again, "a second fast run");
        assert_memory_equal(once, twice, (size_t)steps_taken() * sizeof *once);
        char *first = memory_new(fast.size, 1);
        memcpy(first, fast.bytes, fast.size);
        comm_broadcast(world_comm, 0, first, fast.size);
        assert_same_state((State){first, fast.size}, fast, "this rank's and rank 0's");
        size_t floats = fast.size / 3 / sizeof(float);
        print_message("fast from exact: parameters %.3g, first moments %.3g\n",
                      support_relative_l2((float *)fast.bytes, (float *)exact.bytes, floats),
                      support_relative_l2((float *)fast.bytes + floats, (float *)exact.bytes + floats, floats));
        assert_relative_l2((float *)fast.bytes, (float *)exact.bytes, floats, 1e-5);
        assert_relative_l2((float *)fast.bytes + floats, (float *)exact.bytes + floats, floats, 1e-4);
        for (int step = 0; step < steps_taken(); step++)
            assert_close(once[step].grad_norm, exactly[step].grad_norm, 1e-5 * exactly[step].grad_norm, 0);
        memory_free(&first);
        memory_free(&exact.bytes);
        memory_free(&fast.bytes);
        memory_free(&again.bytes);
    }
}

/* Moments of many stripes, written by all ranks together, are read back by each alone. */
static void test_checkpoints_hold_the_whole(void **state)
{
    (void)state;
    World world, reader;
    StepReport report;
    world_open(&world, world_comm, 4);
    world.per_unit = 2;
    assert_ok(world_step(&world, 11, &report));
    State written = world_state(&world);
    char *path = NULL;
    if (comm_rank(world_comm) == 0)
        path = memory_strdup(support_path("striped.h5"));
    int64_t size = path ? (int64_t)strlen(path) + 1 : 0;
    comm_broadcast(world_comm, 0, &size, sizeof size);
    path = memory_resize(path, (size_t)size, 1);
    comm_broadcast(world_comm, 0, path, (size_t)size);
    CheckpointHeader header = {.stage = "sft", .config = "", .config_digest = "00"};
    for (int which = 0; which < 2; which++) {
        World *of = which ? &reader : &world;
        if (which)
            world_open(&reader, comm_self(), 4);
        CheckpointModel model = {.role = "",
                                 .model = &of->model,
                                 .exp_avg = of->trainer.optimizer.exp_avg,
                                 .exp_avg_sq = of->trainer.optimizer.exp_avg_sq,
                                 .optimizer_steps = &of->trainer.optimizer.steps};
        assert_ok(which ? checkpoint_read(comm_self(), path, "sft", &model, 1, NULL, 0)
                        : checkpoint_write(world_comm, path, &header, &model, 1, NULL, 0));
    }
    State read = world_state(&reader);
    assert_same_state(written, read, "a checkpoint");
    assert_int_equal(reader.trainer.optimizer.steps, 1);
    comm_barrier(world_comm);
    memory_free(&path);
    memory_free(&written.bytes);
    memory_free(&read.bytes);
    world_close(&reader);
    world_close(&world);
}

/* Steps that do not learn would pass the test above. */
static void test_loss_falls(void **state)
{
    (void)state;
    World world;
    world_open(&world, world_comm, 4);
    world.per_unit = 2;
    StepReport first, report;
    for (int step = 0; step < TOTAL_STEPS; step++) {
        world.round = 0;
        assert_ok(world_step(&world, 8, &report));
        if (step == 0)
            first = report;
    }
    print_message("loss %.4f -> %.4f\n", first.stats[NLL_LOSS] / first.stats[NLL_WEIGHT],
                  report.stats[NLL_LOSS] / report.stats[NLL_WEIGHT]);
    assert_true(report.stats[NLL_LOSS] < 0.7 * first.stats[NLL_LOSS]);
    world_close(&world);
}

static void test_evaluation_has_the_same_bits(void **state)
{
    (void)state;
    double alone[NLL_STATS] = {0}, together[NLL_STATS] = {0}, unused[NLL_STATS] = {0};
    for (int which = 0; which < 2; which++) {
        World world;
        world_open(&world, which ? world_comm : comm_self(), 8);
        world.per_unit = 2;
        world.sequences = 22;
        State before = world_state(&world);
        Tape *tape = tape_open(); /* ignored: units see none */
        world.exec.tape = tape;
        size_t mark = arena_mark(&world.step);
        assert_ok(units_evaluate(world.comm, &world.exec, &world.model, 8, 11, language_unit, &world, NLL_STATS,
                                 which ? together : alone));
        assert_ptr_equal(world.exec.tape, tape);
        assert_int_equal(arena_mark(&world.step), mark);
        tape_close(tape);
        State after = world_state(&world);
        assert_same_state(before, after, "evaluation");
        world.fail_unit = 4;
        assert_fails(
            units_evaluate(world.comm, &world.exec, &world.model, 8, 11, language_unit, &world, NLL_STATS, unused),
            STATUS_INPUT, "unit 4 is malformed");
        memory_free(&before.bytes);
        memory_free(&after.bytes);
        world_close(&world);
    }
    assert_memory_equal(alone, together, sizeof alone);
    assert_true(isfinite(alone[NLL_LOSS]) && alone[NLL_LOSS] > 0);
}

/* Lanes of a model as small as this go to threads: any number of them, a wave that is not full included, gives the bits of units one by one. */
static void test_threads_decide_nothing(void **state)
{
    (void)state;
    enum { UNITS = 11 };
    State first = {0};
    double figures[NLL_STATS] = {0};
    for (int threads = 0; threads <= 4; threads++) {
        World world;
        StepReport report;
        double sums[NLL_STATS] = {0};
        world_open_with(&world, world_comm, 4, REDUCE_EXACT, threads);
        world.per_unit = 2;
        for (int step = 0; step < STEPS_MAX; step++)
            assert_ok(world_step(&world, UNITS, &report));
        assert_ok(
            units_evaluate(world.comm, &world.exec, &world.model, 4, UNITS, language_unit, &world, NLL_STATS, sums));
        world.fail_unit = UNITS - 2; /* noted with others that are not to be done either */
        assert_fails(world_step(&world, UNITS, &report), STATUS_INPUT, "unit 9 is malformed");
        world.fail_unit = -1;
        State after = world_state(&world);
        if (threads == 0) {
            first = after;
            memcpy(figures, sums, sizeof sums);
        } else {
            assert_same_state(first, after, "another number of threads");
            assert_memory_equal(figures, sums, sizeof sums);
            memory_free(&after.bytes);
        }
        world_close(&world);
    }
    memory_free(&first.bytes);
}

static Status empty_unit(void *context, int64_t unit, Exec *exec, Tensor stats)
{
    (void)context;
    (void)unit;
    (void)exec;
    (void)stats;
    return status_ok();
}

/* Units without anything to learn, as of texts of one token, in the first step there is. */
static void test_units_may_be_empty(void **state)
{
    (void)state;
    World world;
    double sums[1] = {0};
    world_open_with(&world, world_comm, 4, REDUCE_EXACT, 2);
    assert_ok(units_evaluate(world.comm, &world.exec, &world.model, 4, 8, empty_unit, NULL, 1, sums));
    assert_true(sums[0] == 0);
    StepReport report;
    assert_ok(trainer_step(&world.trainer, &world.exec, 8, empty_unit, NULL, 1, &report));
    assert_true(report.grad_norm == 0);
    world_close(&world);
}

/* Fails, changes nothing on any rank, and the next step is as if nothing had been. */
static void check_failed_step(int64_t fail_unit, int64_t nan_unit, StatusCode code, const char *part)
{
    World world, calm;
    world_open(&world, world_comm, 4);
    world_open(&calm, world_comm, 4);
    world.per_unit = calm.per_unit = 2;
    StepReport report;
    assert_ok(world_step(&world, 11, &report));
    assert_ok(world_step(&calm, 11, &report));
    State before = world_state(&world);
    world.fail_unit = fail_unit;
    world.nan_unit = nan_unit;
    size_t mark = arena_mark(&world.step);
    assert_fails(world_step(&world, 11, &report), code, part);
    assert_int_equal(arena_mark(&world.step), mark);
    State after = world_state(&world);
    assert_same_state(before, after, "failed step");
    assert_int_equal(world.trainer.optimizer.steps, 1);
    assert_null(world.exec.tape);
    memory_free(&before.bytes);
    memory_free(&after.bytes);
    world.fail_unit = world.nan_unit = -1;
    world.round = calm.round;
    assert_ok(world_step(&world, 11, &report));
    assert_ok(world_step(&calm, 11, &report));
    before = world_state(&world), after = world_state(&calm);
    assert_same_state(before, after, "step after a failed one");
    memory_free(&before.bytes);
    memory_free(&after.bytes);
    world_close(&world);
    world_close(&calm);
}

static void test_failing_unit_fails_everywhere(void **state)
{
    (void)state;
    for (int64_t unit = 0; unit < 11; unit += gpu.backend ? 10 : 5) {
        char part[64];
        snprintf(part, sizeof part, "unit %d is malformed", (int)unit);
        check_failed_step(unit, -1, STATUS_INPUT, part);
    }
}

static void test_bad_gradient_fails_everywhere(void **state)
{
    (void)state;
#ifdef TERCET_CHECKED
    print_message("a checked build stops at the op that made the NaN, before the optimizer can see it\n");
    skip();
#endif
    check_failed_step(-1, 10, STATUS_NUMERIC, "optimizer step 2: the gradient's norm is");
}

/* Sixteen sequences in one unit, or in four: loss within 1e-6, gradient (a tenth of it, the first moment) within 1e-5. */
static void test_accumulation_changes_nothing(void **state)
{
    (void)state;
    float *gradient[2];
    double loss[2];
    size_t count = 0;
    for (int which = 0; which < 2; which++) {
        World world;
        world_open(&world, comm_self(), 1);
        world.per_unit = which ? 4 : 16;
        StepReport report;
        assert_ok(world_step(&world, which ? 4 : 1, &report));
        loss[which] = report.stats[NLL_LOSS];
        count = (size_t)world.model.params.count;
        gradient[which] = memory_new(count, sizeof(float));
        tensor_read(world.device, world.trainer.optimizer.exp_avg, gradient[which]);
        world_close(&world);
    }
    print_message("loss %.9f, difference %.3g; gradient %.3g\n", loss[0], loss[1] - loss[0],
                  support_relative_l2(gradient[1], gradient[0], count));
    assert_close(loss[1], loss[0], 1e-6, 0);
    assert_relative_l2(gradient[1], gradient[0], count, 1e-5);
    assert_true(loss[0] > 0.1);
    memory_free(&gradient[0]);
    memory_free(&gradient[1]);
}

/* A dry run as this rank of as many has the memory of the real one, to the byte, with what stands at a time of lanes on several threads; and a step allocates
 * a fixed amount. */
static void check_plan(int threads)
{
    size_t arena[2], step[2];
    Comm *dry = comm_open_dry(comm_rank(world_comm), comm_size(world_comm));
    for (int which = 0; which < 2; which++) {
        World world = {0};
        if (which == 0)
            assert_ok(cpu_open(&world.own, threads));
        else
            assert_ok(threads ? device_open_cpu_dry(&world.own, threads, NULL) : device_open_dry(&world.own));
        world_open_on(&world, &world.own, which ? dry : world_comm, 8);
        world.per_unit = 2;
        StepReport report;
        for (int i = 0; i < 2; i++)
            assert_ok(world_step(&world, 11, &report));
        arena[which] = world.arena.high_water;
        step[which] = world.step.high_water;
        int64_t lanes = 8 / comm_size(world_comm);
        int64_t wave = threads < 1 ? 1 : threads < lanes ? threads : lanes;
        int64_t expected = wave + (lanes > 1) + (lanes > 2) + (lanes > 4);
        assert_int_equal(world.trainer.buffers, expected);
        world_close(&world);
    }
    comm_close(dry);
    assert_int_equal(arena[0], arena[1]);
    assert_int_equal(step[0], step[1]);
}

static void test_dry_run_plans_the_memory(void **state)
{
    (void)state;
    for (int threads = 0; threads <= 3; threads++)
        check_plan(threads);
}

static void test_lanes_must_fit_ranks(void **state)
{
    (void)state;
    World world;
    world_open(&world, world_comm, 4);
    Trainer trainer;
    assert_fails(trainer_open(&trainer, &world.model, world_comm, &adam, 3, REDUCE_EXACT, 10, &world.arena),
                 STATUS_USAGE, "lanes");
    if (comm_size(world_comm) > 1) {
        double stats[NLL_STATS];
        assert_fails(trainer_open(&trainer, &world.model, world_comm, &adam, 1, REDUCE_FAST, 10, &world.arena),
                     STATUS_USAGE, "ranks");
        assert_fails(
            units_evaluate(world_comm, &world.exec, &world.model, 1, 4, language_unit, &world, NLL_STATS, stats),
            STATUS_USAGE, "ranks");
    }
    world_close(&world);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm handle = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&handle, &world_comm)))
        return 1;
    status_set_rank(comm_rank(world_comm));
    shard_set_stripe(2); /* so that the tiny model has several */
    if (getenv("TERCET_TEST_DEVICE")) {
        support_device_open(&gpu);
        if (status_failed(comm_attach_nccl(world_comm, &gpu, 0)))
            return 1;
    }
    const struct CMUnitTest fast[] = {cmocka_unit_test(test_fast_is_near_and_repeats)};
    const struct CMUnitTest exact[] = {
        cmocka_unit_test(test_bits_do_not_depend_on_ranks),
        cmocka_unit_test(test_failing_unit_fails_everywhere),
        cmocka_unit_test(test_bad_gradient_fails_everywhere),
    };
    const struct CMUnitTest others[] = {
        cmocka_unit_test(test_checkpoints_hold_the_whole),   cmocka_unit_test(test_loss_falls),
        cmocka_unit_test(test_evaluation_has_the_same_bits), cmocka_unit_test(test_threads_decide_nothing),
        cmocka_unit_test(test_units_may_be_empty),           cmocka_unit_test(test_accumulation_changes_nothing),
        cmocka_unit_test(test_dry_run_plans_the_memory),     cmocka_unit_test(test_lanes_must_fit_ranks),
    };
    const int ranks = comm_size(world_comm);
    int failures = cmocka_run_group_tests(fast, NULL, NULL);
    if ((ranks & (ranks - 1)) == 0) {
        failures += cmocka_run_group_tests(exact, NULL, NULL);
        if (!gpu.backend) { /* they would find nothing else there */
            failures += cmocka_run_group_tests(others, NULL, NULL);
            usual_threads = 0;
            failures += cmocka_run_group_tests(exact, NULL, NULL);
        }
    }
    comm_detach_device(world_comm);
    device_close(&gpu);
    comm_close(world_comm);
    MPI_Finalize();
    return failures != 0;
}
