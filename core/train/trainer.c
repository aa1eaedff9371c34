/* trainer.c -- the walk over lanes and units, the tree that joins lanes, and the sums of statistics in unit order. */
#include "core/train/trainer.h"

#include <string.h>

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
                    ReduceKind reduce, int64_t steps_total, Arena *arena)
{
    int ranks = comm_size(comm);
    *trainer = (Trainer){.model = model, .comm = comm, .lanes = lanes};
    TRY(shard_check(lanes, ranks, reduce == REDUCE_EXACT));
    reduce_open(&trainer->reduction, reduce, comm);
    optimizer_open(&trainer->optimizer, optimizer, &model->params, comm, model->device, arena, steps_total);
    int64_t own = (lanes + ranks - 1) / ranks;
    trainer->width = (int)walk_width(walk_by_strands(model, lanes), own, model->device);
    trainer->buffers = log2_of(own) + trainer->width;
    trainer->buffer = memory_new((size_t)trainer->buffers, sizeof *trainer->buffer);
    trainer->tape = tape_open();
    return status_ok();
}

void trainer_close(Trainer *trainer)
{
    reduce_close(&trainer->reduction);
    memory_free(&trainer->buffer);
    if (trainer->tape)
        tape_close(trainer->tape);
    *trainer = (Trainer){0};
}

/* `stats` (own units * stats_count) F64 or absent: taken from the step arena. */
static Walk walk_new(Comm *comm, Exec *exec, const Model *model, int64_t lanes, int64_t units, UnitFunction unit,
                     void *context, int stats_count, Tensor stats)
{
    REQUIRE(stats_count >= 0 && stats_count <= TRAINER_STATS_MAX, "%d statistics", stats_count);
    Walk walk = {.unit = unit, .context = context, .units = units, .lanes = lanes};
    walk.own_lanes = shard_lanes(lanes, comm_size(comm), comm_rank(comm));
    walk.own = shard_rank_units(units, lanes, comm_size(comm), comm_rank(comm));
    walk.strands = walk_by_strands(model, lanes);
    int64_t dims[] = {walk.own.to - walk.own.from, stats_count};
    walk.stats = tensor_present(stats) ? tensor_at(stats.data, DTYPE_F64, 2, dims)
                                       : tensor_new2(exec->step, DTYPE_F64, dims[0], dims[1]);
    tensor_zero(exec->device, walk.stats);
    return walk;
}

/* sums += all units in unit order, from this rank's own (own, width). [collective] */
static void sum_units(Comm *comm, int64_t lanes, int64_t units, int64_t width, const double *mine, double *sums)
{
    int ranks = comm_size(comm);
    Span own = shard_rank_units(units, lanes, ranks, comm_rank(comm));
    double *all = memory_borrow((size_t)(units * width), sizeof *all); // (units, width)
    memcpy(all + own.from * width, mine, (size_t)((own.to - own.from) * width) * sizeof *all);
    size_t *offsets = memory_borrow((size_t)ranks + 1, sizeof *offsets);
    for (int rank = 0; rank < ranks; rank++)
        offsets[rank + 1] =
            (size_t)(shard_rank_units(units, lanes, ranks, rank).to * width) * sizeof(double); /* contiguous runs */
    comm_allgather_parts(comm, all, offsets);
    memory_return(&offsets);
    for (int64_t unit = 0; unit < units; unit++)
        for (int64_t i = 0; i < width; i++)
            sums[i] += all[unit * width + i];
    memory_return(&all);
}

/* The end of this rank's lanes: what waits in the buffers is joined and summed over ranks, stripe by stripe, from the last one down, as backward leaves them. */
typedef struct Ending {
    Trainer *trainer;
    Exec *exec;
    int made;       /* buffers that have memory */
    int waiting;    /* buffers; the last unit's gradients go to the last of them */
    int wave_from;  /* the buffer of the first lane of the wave at hand */
    int64_t joined; /* floats from here on are */
    uintptr_t told; /* the last address from which on gradients were said to be final */
} Ending;

static void buffer_make(Ending *ending)
{
    Trainer *trainer = ending->trainer;
    REQUIRE(ending->made < trainer->buffers, "%d gradient buffers are all in use", trainer->buffers);
    trainer->buffer[ending->made++] = tensor_new1(ending->exec->step, DTYPE_F32, trainer->model->params.count);
}

/* Floats from `at` on are final in all buffers. */
static void ending_from(Ending *ending, int64_t at)
{
    Trainer *trainer = ending->trainer;
    int64_t count = trainer->model->params.count, from = count;
    for (int64_t stripe = shard_stripes(count) - 1; stripe >= 0 && shard_stripe(count, stripe).from >= at; stripe--)
        from = shard_stripe(count, stripe).from;
    if (from == ending->joined)
        return;
    for (int right = ending->waiting - 1; right > 0; right--) {
        Tensor into = tensor_range(trainer->buffer[right - 1], from, ending->joined - from);
        add(ending->exec, into, into, tensor_range(trainer->buffer[right], from, ending->joined - from), 1.0f);
    }
    ending->joined = from;
    reduce_from(&trainer->reduction, from);
}

/* Of the tape: gradients from this address on are final. */
static void ending_told(void *context, const void *from)
{
    Ending *ending = context;
    Tensor last = ending->trainer->buffer[ending->waiting - 1];
    uintptr_t begins = (uintptr_t)last.data, at = (uintptr_t)from, bytes = tensor_bytes(last);
    REQUIRE(at <= ending->told, "a unit goes backward twice: gradients that are being summed would get more");
    ending->told = at;
    uintptr_t offset = at < begins ? 0 : at - begins < bytes ? at - begins : bytes;
    ending_from(ending, (int64_t)((offset + sizeof(float) - 1) / sizeof(float)));
}

/* The last unit of a rank; its backward is followed where that gains anything. */
static Status walk_last_unit(Trainer *trainer, Exec *exec, const Walk *walk, int64_t unit, Ending *ending)
{
    if (reduce_overlaps(&trainer->reduction))
        tape_watch(trainer->tape, (TapeWatch){ending, ending_told});
    Status status = walk_unit(walk, exec, unit);
    tape_watch(trainer->tape, (TapeWatch){0});
    return status;
}

/* The lane's gradient, in buffer `into`. */
static Status accumulate_lane(Trainer *trainer, Exec *exec, const Walk *walk, int64_t lane, int into, Ending *ending)
{
    tensor_zero(exec->device, trainer->buffer[into]);
    params_set_grad(&trainer->model->params, trainer->buffer[into]);
    Span units = shard_units(walk->units, walk->lanes, lane);
    for (int64_t unit = units.from; unit < units.to; unit++) {
        bool last = lane == walk->own_lanes.to - 1 && unit == units.to - 1;
        TRY(last ? walk_last_unit(trainer, exec, walk, unit, ending) : walk_unit(walk, exec, unit));
    }
    return status_ok();
}

/* The same where lanes go to threads: a wave leaves its lanes' gradients in buffers from the first free one on, and each trades places when its turn
 * comes. Buffer 0, which the reduction knows, never does: only the first lane goes there, and that is the first of its wave. */
static Status accumulate_strand(Trainer *trainer, Exec *exec, const Walk *walk, int64_t lane, int into, Ending *ending)
{
    int number = (int)(lane - walk->own_lanes.from) % trainer->width;
    if (number == 0) {
        ending->wave_from = into;
        TRY(walk_wave(walk, exec, lane, &trainer->model->params, trainer->buffer + into));
    }
    Tensor *there = &trainer->buffer[ending->wave_from + number], gradient = *there;
    *there = trainer->buffer[into];
    trainer->buffer[into] = gradient;
    return status_ok();
}

/* Lanes joined into one node of the tree. One without units is not filled and has no buffer: it would add zeros, which change no bit, as no sum that began
 * at 0 is -0. */
typedef struct Node {
    int doublings;
    bool filled;
} Node;

/* Gradients of this rank's lanes, joined like the carries of a binary counter; those of filled nodes wait in the buffers, in order.
 * The last lane's join all that wait. */
static Status accumulate_lanes(Trainer *trainer, Exec *exec, const Walk *walk, Ending *ending)
{
    Node node[64];
    int nodes = 0;
    for (int64_t lane = walk->own_lanes.from; lane < walk->own_lanes.to; lane++) {
        Span units = shard_units(walk->units, walk->lanes, lane);
        bool filled = walk->strands || units.from < units.to;
        if (filled) {
            int into = ending->waiting++;
            if (into == ending->made)
                buffer_make(ending);
            TRY(walk->strands ? accumulate_strand(trainer, exec, walk, lane, into, ending)
                              : accumulate_lane(trainer, exec, walk, lane, into, ending));
        }
        node[nodes++] = (Node){0, filled};
        while (lane < walk->own_lanes.to - 1 && nodes > 1 && node[nodes - 2].doublings == node[nodes - 1].doublings) {
            Node *left = &node[nodes - 2], right = node[--nodes];
            if (left->filled && right.filled) {
                Tensor into = trainer->buffer[ending->waiting - 2];
                add(exec, into, into, trainer->buffer[--ending->waiting], 1.0f);
            }
            *left = (Node){left->doublings + 1, left->filled || right.filled};
        }
    }
    return status_ok();
}

/* The sum of all ranks' gradients, in buffer 0, which is made first and stays; further ones as lanes need them, except that a wave needs its own at once.
 * A rank that fails comes to the exchange all the same, or its peers would wait for it for ever. */
static Status sum_gradients(Trainer *trainer, Exec *exec, const Walk *walk)
{
    Ending ending = {.trainer = trainer, .exec = exec, .joined = trainer->model->params.count, .told = UINTPTR_MAX};
    do
        buffer_make(&ending);
    while (walk->strands && ending.made < trainer->buffers);
    reduce_begin(&trainer->reduction, exec, trainer->buffer[0]);
    Status status = accumulate_lanes(trainer, exec, walk, &ending);
    if (!ending.waiting || (status_failed(status) && ending.joined == trainer->model->params.count)) {
        tensor_zero(exec->device, trainer->buffer[0]);
        ending.waiting = 1;
    }
    ending_from(&ending, 0);
    reduce_end(&trainer->reduction);
    return status;
}

int64_t trainer_figures(const Trainer *trainer, int64_t units, int stats_count)
{
    Span own = shard_rank_units(units, trainer->lanes, comm_size(trainer->comm), comm_rank(trainer->comm));
    return (own.to - own.from) * stats_count + 1;
}

Status trainer_ask(Trainer *trainer, Exec *exec, int64_t units, UnitFunction unit, void *context, int stats_count,
                   Tensor figures, StepReport *report)
{
    Comm *comm = trainer->comm;
    Params *params = &trainer->model->params;
    Tape *tape = exec->tape;
    size_t mark = arena_mark(exec->step);
    int64_t counted = trainer_figures(trainer, units, stats_count);
    *report = (StepReport){0};
    REQUIRE(tensor_count(figures) == counted, "room for %lld figures, %lld are made", (long long)tensor_count(figures),
            (long long)counted);
    Walk walk = walk_new(comm, exec, trainer->model, trainer->lanes, units, unit, context, stats_count, figures);
    exec->tape = trainer->tape;
    Status status = sum_gradients(trainer, exec, &walk);
    exec->tape = tape;
    /* Outside a step a model's gradients go nowhere: a stray backward must not reach a buffer of the next step. */
    params_set_grad(params, tensor_absent());
    status = comm_agree(comm, status);
    if (!status_failed(status))
        optimizer_ask(&trainer->optimizer, comm, exec, params, trainer->buffer[0],
                      tensor_range(figures, counted - 1, 1), &report->lr);
    arena_rewind(exec->step, mark);
    return status;
}

Status trainer_learn(Trainer *trainer, int64_t units, int stats_count, const double *figures, StepReport *report)
{
    report->grad_norm = figures[trainer_figures(trainer, units, stats_count) - 1];
    sum_units(trainer->comm, trainer->lanes, units, stats_count, figures, report->stats);
    return optimizer_check(&trainer->optimizer, report->grad_norm);
}

Status trainer_step(Trainer *trainer, Exec *exec, int64_t units, UnitFunction unit, void *context, int stats_count,
                    StepReport *report)
{
    size_t mark = arena_mark(exec->step);
    int64_t count = trainer_figures(trainer, units, stats_count);
    Tensor figures = tensor_new1(exec->step, DTYPE_F64, count);
    Status status = trainer_ask(trainer, exec, units, unit, context, stats_count, figures, report);
    if (!status_failed(status)) {
        double *host = memory_borrow((size_t)count, sizeof *host);
        tensor_read(exec->device, figures, host);
        status = trainer_learn(trainer, units, stats_count, host, report);
        memory_return(&host);
    }
    arena_rewind(exec->step, mark);
    return status;
}

Status units_evaluate(Comm *comm, Exec *exec, const Model *model, int64_t lanes, int64_t units, UnitFunction unit,
                      void *context, int stats_count, double *stats)
{
    TRY(shard_check(lanes, comm_size(comm), false));
    Tape *tape = exec->tape;
    size_t mark = arena_mark(exec->step);
    Walk walk = walk_new(comm, exec, model, lanes, units, unit, context, stats_count, tensor_absent());
    exec->tape = NULL;
    Status status = status_ok();
    int64_t width = walk_width(walk.strands, walk.own_lanes.to - walk.own_lanes.from, exec->device);
    for (int64_t lane = walk.own_lanes.from; lane < walk.own_lanes.to && !status_failed(status); lane += width)
        status = walk.strands ? walk_wave(&walk, exec, lane, NULL, NULL) : walk_lane(&walk, exec, lane);
    exec->tape = tape;
    status = comm_agree(comm, status);
    if (!status_failed(status)) {
        double *mine = memory_borrow((size_t)tensor_count(walk.stats), sizeof *mine);
        if (tensor_count(walk.stats))
            tensor_read(exec->device, walk.stats, mine);
        sum_units(comm, lanes, units, stats_count, mine, stats);
        memory_return(&mine);
    }
    arena_rewind(exec->step, mark);
    return status;
}
