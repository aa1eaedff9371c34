/* stage.c -- the life of a stage: directories, parents, checkpoints, stopping and going on. */
#include "stages/stage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/signal.h"
#include "core/h5/h5.h"
#include "stages/inputs.h"

void stage_config_digest(const Config *config, const char *name, char digest[40])
{
    Text canonical = {0};
    RunConfig run;
    config_read(config, "", run_keys, &run);
    config_canonical(config, name, true, &canonical);
    if (config_has(config, "model"))
        config_canonical(config, "model", true, &canonical);
    text_printf(&canonical, "seed=%lld\nlanes=%lld\n", (long long)run.seed, (long long)run.lanes);
    h5_digest_text(h5_digest_bytes(text_string(&canonical), canonical.size), digest);
    text_free(&canonical);
}

/* Which files this stage reads, as rank 0 sees them. */
static Status stage_list_inputs(Stage *stage)
{
    text_append(&stage->inputs, "", 0);
    if (comm_rank(stage->comm) != 0 || stage->dry)
        return status_ok();
    Inputs inputs;
    inputs_list(stage->config, stage->name, &inputs);
    Status status = inputs_text(&inputs, &stage->inputs);
    inputs_free(&inputs);
    return status;
}

static Status stage_make_directory(Stage *stage)
{
    if (stage->dry)
        return status_ok();
    Status local = comm_rank(stage->comm) == 0 ? text_make_directories(stage->directory) : status_ok();
    TRY(comm_agree(stage->comm, local));
    if (comm_rank(stage->comm) == 0)
        local = h5_remove_temporaries(stage->directory, NULL);
    return comm_agree(stage->comm, local);
}

Status stage_open(Stage *stage, const char *name, Comm *comm, Device *device, const Config *config)
{
    memset(stage, 0, sizeof *stage);
    phase_reset(&stage->timer);
    stage->name = name;
    stage->comm = comm;
    stage->device = device;
    stage->dry = !device->backend->computes;
    stage->config = config;
    config_read(config, "", run_keys, &stage->run);
    if (!config_has(config, name))
        return config_error(config, name, "this experiment has no section `%s:`", name);
    TRY(shard_check(stage->run.lanes, comm_size(comm)));
    stage->directory = text_join_path(stage->run.output, name);
    TRY(stage_make_directory(stage));
    stage->memory = (StageMemory){.ranks = comm_size(comm), .lanes = stage->run.lanes};
    TRY(device_arena(device, &stage->model_arena, "models", 0));
    TRY(device_arena(device, &stage->step_arena, "step", 0));
    stage->phase = -1;
    stage->exec = (Exec){.device = device, .step = &stage->step_arena};
    config_dump_yaml(config, &stage->yaml);
    stage_config_digest(config, name, stage->config_digest);
    progress_set_interval(stage->run.log_every);
    TRY(comm_agree(comm, stage_list_inputs(stage)));
    return comm_agree_same(comm, "configuration", stage->config_digest);
}

/* What the arenas have come to by now. */
static void stage_measure(Stage *stage)
{
    StageMemory *memory = &stage->memory;
    if (stage->phase >= 0 && stage->step_arena.high_water > memory->phase[stage->phase].bytes)
        memory->phase[stage->phase].bytes = stage->step_arena.high_water;
    stage->step_arena.high_water = stage->step_arena.used;
    memory->training = stage->model_arena.high_water;
    memory->scratch = stage->device->scratch.high_water;
}

void stage_close(Stage *stage, StageMemory *memory)
{
    if (memory) {
        stage_measure(stage);
        *memory = stage->memory;
    }
    metrics_close(&stage->metrics);
    if (stage->step_arena.base)
        arena_close(&stage->step_arena);
    if (stage->model_arena.base)
        arena_close(&stage->model_arena);
    text_free(&stage->yaml);
    text_free(&stage->note);
    text_free(&stage->inputs);
    for (int i = 0; i < stage->parents; i++)
        memory_free(&stage->parent_name[i]);
    memory_free(&stage->directory);
}

/* --- Where things come from --- */

void stage_parent(Stage *stage, const char *name, const char *digest)
{
    REQUIRE(stage->parents < STAGE_PARENTS_MAX, "too many parents at %s", name);
    stage->parent_name[stage->parents] = memory_strdup(name);
    snprintf(stage->parent_digest[stage->parents], sizeof stage->parent_digest[0], "%s", digest);
    stage->parents++;
}

/* Fresh parameters of the shape under `model:`. */
static Status stage_fresh_model(Stage *stage, const char *tokenizer_path, HeadKind head, Model *model,
                                Tokenizer **tokenizer)
{
    if (!config_has(stage->config, "model"))
        return config_error(stage->config, stage->name,
                            "neither a `model` to start from nor a section `model:` with a shape");
    if (!tokenizer_path)
        return config_error(stage->config, stage->name, "a fresh model needs `tokenizer`");
    TRY(comm_agree(stage->comm, tokenizer_open(tokenizer, tokenizer_path)));
    ModelConfig config;
    config_read(stage->config, "model", model_config_group.keys, &config);
    ModelShape shape;
    TRY(model_shape_from_config(&config, tokenizer_vocab_size(*tokenizer), &shape));
    TRY(comm_agree(stage->comm, model_open(model, stage->device, &shape, head)));
    if (!stage->dry)
        params_initialise(stage->device, &model->params, (uint64_t)stage->run.seed);
    return status_ok();
}

Status stage_model(Stage *stage, const char *role, const char *path, const char *tokenizer_path, HeadKind head,
                   Model *model, bool *has_head, Tokenizer **tokenizer)
{
    bool head_found = false;
    char digest[40] = "";
    if (!path) {
        TRY(stage_fresh_model(stage, tokenizer_path, head, model, tokenizer));
        snprintf(digest, sizeof digest, "%s", "fresh");
    } else {
        TRY(model_load(stage->comm, stage->device, path, head, model, &head_found, tokenizer_path ? NULL : tokenizer,
                       digest));
        if (tokenizer && tokenizer_path)
            TRY(comm_agree(stage->comm, tokenizer_open(tokenizer, tokenizer_path)));
        if (tokenizer && !*tokenizer)
            return config_error(stage->config, stage->name, "%s has no tokenizer; name one with `tokenizer`", path);
    }
    stage->memory.models += model->arena.high_water;
    if (tokenizer && tokenizer_vocab_size(*tokenizer) > model->shape.vocab)
        return config_error(stage->config, stage->name, "the tokenizer has %lld tokens, the model %lld",
                            (long long)tokenizer_vocab_size(*tokenizer), (long long)model->shape.vocab);
    if (has_head)
        *has_head = head_found;
    stage_parent(stage, role, digest);
    return status_ok();
}

Status stage_dataset(Stage *stage, DatasetKind kind, const char *key, const DataConfig *config,
                     const Tokenizer *tokenizer, Dataset **dataset)
{
    char path[64];
    snprintf(path, sizeof path, "%s.%s", stage->name, key);
    *dataset = NULL;
    int count = config_count(stage->config, path);
    if (count == 0)
        return status_ok();
    DataSource *sources = memory_new((size_t)count, sizeof *sources);
    for (int i = 0; i < count; i++) {
        char item[80];
        snprintf(item, sizeof item, "%s[%d]", path, i);
        config_read(stage->config, item, data_source_keys, &sources[i]);
    }
    char *cache = text_join_path(stage->run.output, "data");
    /* The other ranks of a plan are not there to write their part of the file. */
    Status status =
        dataset_open(stage->dry ? comm_self() : stage->comm, kind, sources, count, config, tokenizer, cache, dataset);
    if (!status_failed(status))
        stage_parent(stage, key, dataset_digest(*dataset));
    memory_free(&cache);
    memory_free(&sources);
    return status;
}

Status stage_check_length(Stage *stage, const ModelShape *shape, int64_t longest)
{
    if (longest <= shape->positions_max)
        return status_ok();
    return config_error(stage->config, stage->name,
                        "sequences of up to %lld tokens; the model has %lld positions: lower max_length",
                        (long long)longest, (long long)shape->positions_max);
}

/* --- What a checkpoint holds --- */

void stage_trained_model(Stage *stage, const char *role, Trainer *trainer)
{
    REQUIRE(stage->models < 2, "a third trained model");
    stage->memory.gradient_buffers = trainer->buffers;
    stage->model[stage->models++] = (CheckpointModel){
        .role = role,
        .model = trainer->model,
        .exp_avg = trainer->optimizer.exp_avg,
        .exp_avg_sq = trainer->optimizer.exp_avg_sq,
        .slice = trainer->optimizer.slice,
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
    char *machine = memory_strdup(text_string(&text));
    text_free(&text);
    return machine;
}

/* --- Phases --- */

int64_t stage_steps(const Stage *stage, int64_t total, int64_t enough)
{
    return stage->dry && enough < total ? enough : total;
}

void stage_phase(Stage *stage, const char *name)
{
    stage_measure(stage);
    phase_begin(&stage->timer, name);
    stage->phase = stage_memory_phase(&stage->memory, name);
}

/* What the run's arenas came to: the table that a plan prints. */
static void stage_report_memory(Stage *stage)
{
    Text table = {0};
    stage_measure(stage);
    stage_memory_print(&stage->memory, &table);
    log_info("%s memory of one rank, in bytes:\n%.*s", stage->name, (int)table.size - 1, text_string(&table));
    text_free(&table);
}

/* One line: what each rank has computed since the process began. */
static void stage_report_work(Stage *stage)
{
    int ranks = comm_size(stage->comm);
    double mine = device_total(stage->device).flops, *all = memory_new((size_t)ranks, sizeof *all);
    comm_allgather(stage->comm, &mine, sizeof mine, all);
    Text line = {0};
    for (int r = 0; r < ranks; r++)
        text_printf(&line, " %.6g", all[r]);
    log_info("%s arithmetic by rank, FLOP:%s", stage->name, text_string(&line));
    text_free(&line);
    memory_free(&all);
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

Status stage_resume(Stage *stage, bool *resumed)
{
    *resumed = false;
    if (stage->dry)
        return status_ok();
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

Status stage_finish(Stage *stage)
{
    TRY(stage_save(stage));
    TRY(stage_write_named(stage, "final.h5"));
    if (stage->dry)
        return status_ok();
    progress_finish(&stage->progress, text_string(&stage->note));
    stage_report_memory(stage);
    stage_report_work(stage);
    log_info("%s is complete: %s/final.h5", stage->name, stage->directory);
    return status_ok();
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

/* --- One line per step --- */

Status stage_check_finite(const Stage *stage, const char *what, double value)
{
    if (isfinite(value) || stage->dry)
        return status_ok();
    return status_error(STATUS_NUMERIC, "%s step %lld: the %s is %s; nothing was saved", stage->name,
                        (long long)stage->step_index, what, isnan(value) ? "not a number" : "infinite");
}

void stage_log_begin(Stage *stage, int64_t step, const char *phase)
{
    text_clear(&stage->note);
    metrics_begin(&stage->metrics, step, phase);
}

void stage_log(Stage *stage, const char *name, double value, bool shown)
{
    metrics_number(&stage->metrics, name, value);
    if (shown)
        text_printf(&stage->note, "%s%s %.4g", stage->note.size ? "  " : "", name, value);
}

Status stage_log_end(Stage *stage, int64_t tokens)
{
    if (stage->dry)
        return status_ok();
    Status status = metrics_end(&stage->metrics);
    if (tokens > 0) {
        stage->tokens_done += tokens;
        phase_end(&stage->timer);
        if (!status_failed(status))
            status = metrics_timings(&stage->metrics, stage->step_index, &stage->timer);
        phase_reset(&stage->timer);
        progress_update(&stage->progress, stage->step_index, stage->tokens_done, text_string(&stage->note));
    } else {
        log_info("%s step %lld  %s", stage->name, (long long)stage->step_index, text_string(&stage->note));
    }
    return comm_agree(stage->comm, status);
}
