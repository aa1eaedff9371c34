/* stage.c -- the life of a stage: directories, models and data with their digests, phases, the result, and its log lines. */
#include "stages/stage.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/h5/h5.h"
#include "core/train/profile_report.h"

void stage_config_digest(const Config *config, const char *name, char digest[40])
{
    Text canonical = {0};
    RunConfig run;
    config_read(config, "", run_keys, &run);
    config_canonical(config, name, true, &canonical);
    if (config_has(config, "model"))
        config_canonical(config, "model", true, &canonical);
    text_printf(&canonical, "seed=%lld\nlanes=%lld\nprecision=%d\nmatmul=%d\n", (long long)run.seed,
                (long long)run.lanes, (int)run.precision, (int)run.matmul);
    if (run.reduce != REDUCE_EXACT)
        text_append_string(&canonical, "reduce=fast\n");
    h5_digest_text(h5_digest_bytes(text_string(&canonical), canonical.size), digest);
    text_free(&canonical);
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
    TRY(shard_check(stage->run.lanes, comm_size(comm), stage->run.reduce == REDUCE_EXACT));
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
    if (stage->run.profile && !stage->dry && !device->profile) {
        comm_barrier(comm); /* ranks share the memory that they measure */
        TRY(comm_agree(comm, op_profile_open(device)));
    }
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
    config_read(stage->config, "model", model_shape_keys, &config);
    ModelShape shape;
    TRY(model_shape_from_config(&config, tokenizer_vocab_size(*tokenizer), &shape));
    TRY(comm_agree(stage->comm, model_open(model, stage->device, &shape, head)));
    if (!stage->dry)
        params_initialise(stage->device, &model->params, (uint64_t)stage->run.seed);
    else
        params_narrow(stage->device, &model->params);
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
    stage->memory.models += model_bytes(model);
    if (tokenizer && tokenizer_vocab_size(*tokenizer) > model->shape.vocab)
        return config_error(stage->config, stage->name, "the tokenizer has %lld tokens, the model %lld",
                            (long long)tokenizer_vocab_size(*tokenizer), (long long)model->shape.vocab);
    if (has_head)
        *has_head = head_found;
    stage_parent(stage, role, digest);
    return status_ok();
}

void stage_freeze(Stage *stage, Model *model)
{
    stage->memory.models -= model_bytes(model);
    model_freeze(model);
    stage->memory.models += model_bytes(model);
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

/* --- Phases --- */

int64_t stage_steps(const Stage *stage, int64_t total, int64_t enough)
{
    return stage->dry && enough < total ? enough : total;
}

void stage_phase(Stage *stage, const char *name)
{
    stage_measure(stage);
    phase_begin(&stage->timer, name);
    if (stage->device->profile)
        op_profile_phase(stage->device->profile, name);
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

Status stage_report_profile(Stage *stage)
{
    OpProfile *profile = stage->device->profile;
    if (!profile)
        return status_ok();
    Text table = {0};
    Status status = status_ok();
    profile_report(stage->comm, profile, &table);
    if (comm_rank(stage->comm) == 0) {
        char *path = text_join_path(stage->directory, "trace.json");
        status = profile_trace(profile, 0, path);
        log_info("%s %s%s: the first %lld calls%s", stage->name, text_string(&table), path, (long long)profile->events,
                 profile->events_dropped ? "" : ", which is all");
        if (profile->events_dropped)
            log_info("not in it: %llu calls, %.3f s", (unsigned long long)profile->events_dropped,
                     profile->seconds_dropped);
        memory_free(&path);
    }
    text_free(&table);
    op_profile_close(stage->device);
    return comm_agree(stage->comm, status);
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

Status stage_finish(Stage *stage)
{
    TRY(stage_save(stage));
    TRY(stage_save_final(stage));
    if (stage->dry)
        return status_ok();
    progress_finish(&stage->progress, text_string(&stage->note));
    stage_report_memory(stage);
    stage_report_work(stage);
    TRY(stage_report_profile(stage));
    log_info("%s is complete: %s/final.h5", stage->name, stage->directory);
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
