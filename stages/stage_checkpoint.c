/* stage_checkpoint.c -- what a stage's checkpoints hold, when they are written, and how a stage goes on from one. */
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/signal.h"
#include "core/h5/h5.h"
#include "stages/inputs.h"
#include "stages/stage.h"

/* --- What a checkpoint holds --- */

/* A lane of a small model is one thread's (core/train/walk.h): is a quarter of the threads' time or more spent in waiting for the last ones? */
static bool threads_idle(int64_t lanes, int64_t ranks, int64_t threads)
{
    int64_t own = lanes / ranks, waves = (own + threads - 1) / threads;
    return 4 * own <= 3 * waves * threads;
}

static void warn_of_idle_threads(const Stage *stage, const Trainer *trainer)
{
    int64_t ranks = comm_size(stage->comm), threads = stage->device->threads, wanted = trainer->lanes;
    if (stage->dry || stage->models > 0 || comm_rank(stage->comm) != 0)
        return;
    while (threads_idle(wanted, ranks, threads))
        wanted *= 2;
    if (wanted == trainer->lanes)
        return;
    log_warn("%s: a lane of a model this small is one thread's, and %lld lanes on %lld rank%s of %lld threads may "
             "leave some without; lanes=%lld would not (and sum in another order)",
             stage->name, (long long)trainer->lanes, (long long)ranks, ranks == 1 ? "" : "s", (long long)threads,
             (long long)wanted);
}

void stage_trained_model(Stage *stage, const char *role, Trainer *trainer)
{
    REQUIRE(stage->models < 2, "a third trained model");
    if (trainer->buffers > stage->memory.gradient_buffers)
        stage->memory.gradient_buffers = trainer->buffers;
    if (trainer->width > stage->memory.wave)
        stage->memory.wave = trainer->width;
    if (walk_by_strands(trainer->model, trainer->lanes))
        warn_of_idle_threads(stage, trainer);
    stage->model[stage->models++] = (CheckpointModel){
        .role = role,
        .model = trainer->model,
        .exp_avg = trainer->optimizer.exp_avg,
        .exp_avg_sq = trainer->optimizer.exp_avg_sq,
        .optimizer_steps = &trainer->optimizer.steps,
    };
}

static void stage_state(Stage *stage, const char *name, StateKind kind, void *value)
{
    REQUIRE(stage->states < STAGE_STATE_MAX, "too many state items at %s", name);
    stage->state[stage->states++] = (StateItem){.name = name, .kind = kind, .value = value};
}

void stage_state_int(Stage *stage, const char *name, int64_t *value)
{
    stage_state(stage, name, STATE_INT, value);
}

void stage_state_double(Stage *stage, const char *name, double *value)
{
    stage_state(stage, name, STATE_DOUBLE, value);
}

static CheckpointHeader stage_header(Stage *stage, const char *digests[STAGE_PARENTS_MAX])
{
    for (int i = 0; i < stage->parents; i++)
        digests[i] = stage->parent_digest[i];
    return (CheckpointHeader){
        .stage = stage->name,
        .step = stage->step_index,
        .seed = (uint64_t)stage->run.seed,
        .config = text_string(&stage->yaml),
        .config_digest = stage->config_digest,
        .tokenizer = stage->tokenizer,
        .parent_names = stage->parent_name,
        .parent_digests = digests,
        .parents = stage->parents,
    };
}

/* The bits depend on these beside the configuration; a resume compares them. */
static char *stage_machine(const Stage *stage)
{
    Text text = {0};
    text_append_string(&text, device_describe(stage->device));
    if (stage->run.reduce == REDUCE_FAST)
        text_printf(&text, ", %d ranks summed fast", comm_size(stage->comm));
    char *machine = memory_strdup(text_string(&text));
    text_free(&text);
    return machine;
}

/* --- Saving, and going on --- */

static Status stage_write(Stage *stage, const char *path, bool optimizer)
{
    const char *digests[STAGE_PARENTS_MAX];
    CheckpointHeader header = stage_header(stage, digests);
    CheckpointModel models[2];
    for (int i = 0; i < stage->models; i++) {
        models[i] = stage->model[i];
        if (!optimizer) {
            models[i].exp_avg = models[i].exp_avg_sq = tensor_absent();
            models[i].optimizer_steps = NULL;
        }
    }
    char *machine = stage_machine(stage);
    char *inputs = (char *)text_string(&stage->inputs);
    StateItem state[STAGE_STATE_MAX + 2];
    memcpy(state, stage->state, sizeof *state * (size_t)stage->states);
    state[stage->states] = (StateItem){.name = "machine", .kind = STATE_TEXT, .value = &machine, .operational = true};
    state[stage->states + 1] = (StateItem){.name = "inputs", .kind = STATE_TEXT, .value = &inputs, .operational = true};
    Status status =
        checkpoint_write(stage->comm, path, &header, models, optimizer ? stage->models : 1, state, stage->states + 2);
    memory_free(&machine);
    return status;
}

Status stage_save(Stage *stage)
{
    if (stage->saved || stage->dry)
        return status_ok();
    stage_phase(stage, "save");
    char *path = checkpoint_path(stage->directory, stage->step_index);
    Status status = stage_write(stage, path, true);
    memory_free(&path);
    TRY(status);
    stage->saved = true;
    if (comm_rank(stage->comm) == 0)
        status = checkpoint_prune(stage->directory, (int)stage->run.keep_checkpoints, NULL);
    return comm_agree(stage->comm, status);
}

Status stage_save_when_due(Stage *stage)
{
    stage->saved = false;
    return stage->step_index % stage->run.checkpoint_every == 0 ? stage_save(stage) : status_ok();
}

bool stage_should_stop(Stage *stage)
{
    stage->polls++;
    bool injected = stage->polls == stage->run.stop_after && !stage->dry;
    return comm_agree_stop(stage->comm, signal_stop_requested() || injected);
}

Status stage_stopped(Stage *stage)
{
    TRY(stage_save(stage));
    TRY(stage_report_profile(stage));
    return status_error(STATUS_STOPPED, "%s stopped as asked after step %lld; saved, run it again to go on",
                        stage->name, (long long)stage->step_index);
}

/* A file of another stage in this one's directory was put there by mistake. */
static Status stage_check_name(const Stage *stage, const char *path, const CheckpointInfo *info)
{
    if (strcmp(info->stage, stage->name) == 0)
        return status_ok();
    return status_error(STATUS_INPUT, "%s is a checkpoint of stage '%s'; expected one of '%s'", path, info->stage,
                        stage->name);
}

/* Same configuration, same parents, and with `exact` the same machine. */
static Status stage_check_resume(Stage *stage, const char *path, const CheckpointInfo *info)
{
    TRY(stage_check_name(stage, path, info));
    if (strcmp(info->config_digest, stage->config_digest) != 0)
        return status_error(STATUS_USAGE,
                            "%s was made with other semantic keys (digest %s, now %s): go on with the old ones, or "
                            "choose another `output`",
                            path, info->config_digest, stage->config_digest);
    H5File *file = NULL;
    TRY(h5_open(path, "tercet-checkpoint", &file));
    Status status = status_ok();
    for (int i = 0; i < stage->parents && !status_failed(status); i++) {
        const H5Attribute *parent = h5_attribute(file, "/parents", stage->parent_name[i]);
        if (!parent || parent->type != H5_STRING || strcmp(parent->string, stage->parent_digest[i]) != 0)
            status =
                status_error(STATUS_USAGE, "%s was made from another `%s` (digest %s, now %s): choose another `output`",
                             path, stage->parent_name[i], parent && parent->type == H5_STRING ? parent->string : "none",
                             stage->parent_digest[i]);
    }
    h5_close(&file);
    return status;
}

/* Which files this stage reads, as rank 0 sees them. By now they have been read, and whoever read one remembers its digest. */
static Status stage_list_inputs(Stage *stage)
{
    if (comm_rank(stage->comm) != 0 || stage->dry)
        return status_ok();
    Inputs inputs;
    inputs_list(stage->config, stage->name, &inputs);
    Status status = inputs_text(&inputs, &stage->inputs);
    inputs_free(&inputs);
    return status;
}

Status stage_resume(Stage *stage, bool *resumed)
{
    *resumed = false;
    if (stage->dry)
        return status_ok();
    TRY(comm_agree(stage->comm, stage_list_inputs(stage)));
    char *path = NULL, *machine = NULL;
    Status status = comm_rank(stage->comm) == 0 ? checkpoint_latest(stage->directory, &path) : status_ok();
    TRY(comm_agree(stage->comm, status));
    int64_t size = path ? (int64_t)strlen(path) + 1 : 0;
    comm_broadcast(stage->comm, 0, &size, sizeof size);
    if (size > 0) {
        if (!path)
            path = memory_new((size_t)size, 1);
        comm_broadcast(stage->comm, 0, path, (size_t)size);
        CheckpointInfo info;
        status = checkpoint_inspect(path, &info);
        if (!status_failed(status))
            status = stage_check_resume(stage, path, &info);
        TRY_GOTO(comm_agree(stage->comm, status), out);
        StateItem state[STAGE_STATE_MAX + 1];
        memcpy(state, stage->state, sizeof *state * (size_t)stage->states);
        state[stage->states] =
            (StateItem){.name = "machine", .kind = STATE_TEXT, .value = &machine, .operational = true};
        TRY_GOTO(checkpoint_read(stage->comm, path, stage->name, stage->model, stage->models, state, stage->states + 1),
                 out);
        char *now = stage_machine(stage);
        if (strcmp(now, machine) != 0) {
            if (stage->run.exact)
                status = status_error(
                    STATUS_USAGE,
                    "%s was made on '%s', this is '%s': bits would differ; exact=false goes on all the same", path,
                    machine, now);
            else
                log_warn("going on from '%s' on '%s': bits may differ from an undisturbed run's", machine, now);
        }
        memory_free(&now);
        TRY_GOTO(comm_agree(stage->comm, status), out);
        stage->step_index = info.step;
        stage->saved = true;
        *resumed = true;
        log_info("%s goes on from %s", stage->name, path);
    }
    status = metrics_open(&stage->metrics, stage->directory, comm_rank(stage->comm), stage->step_index);
    status = comm_agree(stage->comm, status);
out:
    memory_free(&machine);
    memory_free(&path);
    return status;
}

/* --- The result --- */

static Status stage_write_named(Stage *stage, const char *name)
{
    char *path = text_join_path(stage->directory, name);
    Status status = status_ok();
    if (stage->dry)
        model_promise(path, stage->model[0].model, stage->tokenizer);
    else
        status = stage_write(stage, path, false);
    memory_free(&path);
    return status;
}

Status stage_save_best(Stage *stage)
{
    return stage_write_named(stage, "best.h5");
}

Status stage_save_final(Stage *stage)
{
    return stage_write_named(stage, "final.h5");
}

Status stage_is_complete(Stage *stage, bool *complete)
{
    *complete = false;
    if (stage->dry)
        return status_ok();
    char *path = text_join_path(stage->directory, "final.h5");
    CheckpointInfo info;
    Status status = status_ok();
    if (access(path, F_OK) == 0) {
        status = checkpoint_inspect(path, &info);
        if (!status_failed(status))
            status = stage_check_name(stage, path, &info);
        if (!status_failed(status) && strcmp(info.config_digest, stage->config_digest) != 0)
            status = status_error(STATUS_USAGE,
                                  "%s was made with other semantic keys: choose another `output`, or remove it", path);
        *complete = !status_failed(status);
    }
    memory_free(&path);
    TRY(comm_agree(stage->comm, status));
    if (*complete)
        log_info("%s is complete already: %s/final.h5", stage->name, stage->directory);
    return status_ok();
}
