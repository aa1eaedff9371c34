/* trainer.c -- the walk over lanes and units, the tree that joins lanes, and the sums of statistics in unit order. */
#include "core/train/trainer.h"

#include "core/base/memory.h"

static int log2_of(int64_t value)
{
    int log = 0;
    while (value > 1) {
        value /= 2;
        log++;
    }
    return log;
}

Status trainer_open(Trainer *trainer, Model *model, Comm *comm, const OptimizerConfig *optimizer, int64_t lanes,
                    int64_t steps_total, Arena *arena)
{
    *trainer = (Trainer){.model = model, .comm = comm, .lanes = lanes};
    TRY(shard_check(lanes, comm_size(comm)));
    optimizer_open(&trainer->optimizer, optimizer, &model->params, comm, model->device, arena, steps_total);
    trainer->buffers = 1 + log2_of(lanes / comm_size(comm));
    trainer->buffer = memory_new((size_t)trainer->buffers, sizeof *trainer->buffer);
    trainer->tape = tape_open();
    return status_ok();
}

void trainer_close(Trainer *trainer)
{
    optimizer_close(&trainer->optimizer);
    memory_free(&trainer->buffer);
    if (trainer->tape)
        tape_close(trainer->tape);
    *trainer = (Trainer){0};
}

/* What both walks share. */
typedef struct Walk {
    UnitFunction unit;
    void *context;
    Span own;     /* this rank's units */
    Tensor stats; /* (own, stats_count) F64 on the device */
} Walk;

static Walk walk_new(Comm *comm, Exec *exec, int64_t lanes, int64_t units, UnitFunction unit, void *context,
                     int stats_count)
{
    REQUIRE(stats_count >= 0 && stats_count <= TRAINER_STATS_MAX, "%d statistics", stats_count);
    Walk walk = {.unit = unit, .context = context};
    walk.own = shard_rank_units(units, lanes, comm_size(comm), comm_rank(comm));
    walk.stats = tensor_new2(exec->step, DTYPE_F64, walk.own.to - walk.own.from, stats_count);
    tensor_zero(exec->device, walk.stats);
    return walk;
}

static Status walk_unit(const Walk *walk, Exec *exec, int64_t unit)
{
    int64_t width = walk->stats.shape[1];
    size_t mark = arena_mark(exec->step);
    Status status =
        walk->unit(walk->context, unit, exec, tensor_range(walk->stats, (unit - walk->own.from) * width, width));
    if (exec->tape)
        tape_reset(exec->tape);
    arena_rewind(exec->step, mark);
    return status;
}

/* Sums over all units in unit order. [collective] */
static void walk_sum(const Walk *walk, Comm *comm, Exec *exec, int64_t lanes, int64_t units, double *sums)
{
    int64_t width = walk->stats.shape[1];
    int ranks = comm_size(comm);
    double *all = memory_borrow((size_t)(units * width), sizeof *all); // (units, stats_count)
    if (walk->own.to > walk->own.from && width)
        tensor_read(exec->device, walk->stats, all + walk->own.from * width);
    size_t *offsets = memory_borrow((size_t)ranks + 1, sizeof *offsets);
    for (int rank = 0; rank < ranks; rank++)
        offsets[rank + 1] =
            (size_t)(shard_rank_units(units, lanes, ranks, rank).to * width) * sizeof(double); /* contiguous runs */
    comm_allgather_parts(comm, all, offsets);
    memory_return(&offsets);
    for (int64_t i = 0; i < width; i++) {
        sums[i] = 0.0;
        for (int64_t unit = 0; unit < units; unit++)
            sums[i] += all[unit * width + i];
    }
    memory_return(&all);
}

/* Gradients of this rank's lanes, joined like the carries of a binary counter: `level[i]` lanes' worth of doublings wait in buffer i.
 * The sum ends in buffer 0. */
static Status accumulate_lanes(Trainer *trainer, Exec *exec, const Walk *walk, int64_t units)
{
    Comm *comm = trainer->comm;
    Span lanes = shard_lanes(trainer->lanes, comm_size(comm), comm_rank(comm));
    int level[64], waiting = 0;
    for (int64_t lane = lanes.from; lane < lanes.to; lane++) {
        REQUIRE(waiting < trainer->buffers, "%d gradient buffers are all in use", trainer->buffers);
        Tensor current = trainer->buffer[waiting];
        tensor_zero(exec->device, current);
        params_set_grad(&trainer->model->params, current);
        Span own = shard_units(units, trainer->lanes, lane);
        for (int64_t unit = own.from; unit < own.to; unit++)
            TRY(walk_unit(walk, exec, unit));
        level[waiting++] = 0;
        while (waiting > 1 && level[waiting - 2] == level[waiting - 1]) {
            Tensor left = trainer->buffer[waiting - 2], right = trainer->buffer[waiting - 1];
            add(exec, left, left, right, 1.0f);
            level[--waiting - 1]++;
        }
    }
    REQUIRE(waiting == 1, "%d lanes of a rank are no power of two", (int)(lanes.to - lanes.from));
    return status_ok();
}

Status trainer_step(Trainer *trainer, Exec *exec, int64_t units, UnitFunction unit, void *context, int stats_count,
                    StepReport *report)
{
    Comm *comm = trainer->comm;
    Params *params = &trainer->model->params;
    Tape *tape = exec->tape;
    size_t mark = arena_mark(exec->step);
    *report = (StepReport){0};
    for (int i = 0; i < trainer->buffers; i++)
        trainer->buffer[i] = tensor_new1(exec->step, DTYPE_F32, params->count);
    Walk walk = walk_new(comm, exec, trainer->lanes, units, unit, context, stats_count);
    exec->tape = trainer->tape;
    Status status = accumulate_lanes(trainer, exec, &walk, units);
    exec->tape = tape;
    /* Outside a step a model's gradients go nowhere: a stray backward must not reach a buffer of the next step. */
    params_set_grad(params, tensor_absent());
    status = comm_agree(comm, status);
    if (status_failed(status)) {
        arena_rewind(exec->step, mark);
        return status;
    }
    walk_sum(&walk, comm, exec, trainer->lanes, units, report->stats);
    reduce_slices(comm, exec, trainer->buffer[0]);
    status =
        optimizer_step(&trainer->optimizer, comm, exec, params, trainer->buffer[0], &report->grad_norm, &report->lr);
    arena_rewind(exec->step, mark);
    return status;
}

Status units_evaluate(Comm *comm, Exec *exec, int64_t lanes, int64_t units, UnitFunction unit, void *context,
                      int stats_count, double *stats)
{
    TRY(shard_check(lanes, comm_size(comm)));
    Tape *tape = exec->tape;
    size_t mark = arena_mark(exec->step);
    Walk walk = walk_new(comm, exec, lanes, units, unit, context, stats_count);
    exec->tape = NULL;
    Status status = status_ok();
    for (int64_t at = walk.own.from; at < walk.own.to && !status_failed(status); at++)
        status = walk_unit(&walk, exec, at);
    exec->tape = tape;
    status = comm_agree(comm, status);
    if (!status_failed(status))
        walk_sum(&walk, comm, exec, lanes, units, stats);
    arena_rewind(exec->step, mark);
    return status;
}
