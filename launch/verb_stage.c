/* verb_stage.c -- `tercet sft|rm|ppo` (one stage, here) and `tercet run` (all of them, each as a job). */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/signal.h"
#include "core/store/checkpoint.h"
#include "launch/environment.h"
#include "launch/lock.h"
#include "launch/pipeline.h"
#include "launch/verbs.h"
#include "stages/inputs.h"
#include "stages/stage.h"

static const StageRow *stage_row(const char *name)
{
    for (int i = 0; i < STAGES; i++)
        if (strcmp(stage_rows[i].name, name) == 0)
            return &stage_rows[i];
    return NULL;
}

static Status experiment_needed(const char *verb)
{
    return status_error(STATUS_USAGE, "%s needs an experiment: tercet %s EXPERIMENT.yaml [key=value ...]", verb, verb);
}

/* --- One stage --- */

/* One job at a time in an output directory; ranks of a killed one are waited for. [collective] */
static Status lock_stage(Launch *launch, const char *output, const char *stage, StageLock *lock)
{
    Comm *comm = launch->bootstrap.comm;
    Status local = status_ok();
    if (comm_rank(comm) == 0) {
        local = text_make_directories(output);
        if (!status_failed(local))
            local = lock_stage_first(output, stage, LOCK_TIMEOUT_SECONDS, lock);
    }
    TRY(comm_agree(comm, local));
    local = comm_rank(comm) == 0 ? status_ok() : lock_stage_other(output, LOCK_TIMEOUT_SECONDS, lock);
    return comm_agree(comm, local);
}

Status verb_stage(Launch *launch, int argc, char **argv)
{
    const StageRow *row = stage_row(argv[0]);
    if (argc < 2)
        return experiment_needed(argv[0]);
    TRY(launch_comm(launch));
    signal_install(); /* other verbs end at once when asked to: they have nothing to save */
    Config *config = NULL;
    TRY(comm_agree(launch->bootstrap.comm, launch_config(launch, argv[1], argv + 2, argc - 2, &config)));
    RunConfig run;
    config_read(config, "", run_keys, &run);
    StageLock lock = {0};
    const DeviceWish wish = device_wish_of(&run);
    Status status = launch_device(launch, &wish);
    if (!status_failed(status))
        status = lock_stage(launch, run.output, row->name, &lock);
    if (!status_failed(status)) {
        const char *policy = environment_get(ENVIRONMENT_WAIT_POLICY), *spin = environment_get(ENVIRONMENT_SPIN_COUNT);
        log_info("%s: %d rank%s on %s%s; idle threads: %s%s", row->name, comm_size(launch->bootstrap.comm),
                 comm_size(launch->bootstrap.comm) == 1 ? "" : "s", device_describe(&launch->device),
                 bootstrap_binding(&launch->bootstrap),
                 spin     ? "sleep when they have spun "
                 : policy ? "wait as OMP_WAIT_POLICY says: "
                          : "wait as OpenMP does",
                 spin     ? spin
                 : policy ? policy
                          : "");
        status = devices_check_memory(&launch->bootstrap, &wish, &launch->device, row, config);
    }
    if (!status_failed(status))
        status = row->run(launch->bootstrap.comm, &launch->device, config, NULL);
    lock_stage_release(&lock);
    config_close(&config);
    return status;
}

/* --- All stages --- */

typedef struct Judged {
    const Config *config;
    Inputs inputs;
} Judged;

static Status judge_file(const PipelineStage *stage, const char *path, PipelineVerdict *verdict, bool complete)
{
    const Judged *judged = stage->context;
    CheckpointInfo info;
    char digest[40], *then = NULL;
    Status status = checkpoint_inspect(path, &info);
    if (status_failed(status)) {
        verdict->action = PIPELINE_RESTART;
        text_printf(&verdict->reason, "%s", status_message());
        return status_ok();
    }
    stage_config_digest(judged->config, stage->name, digest);
    if (strcmp(digest, info.config_digest) != 0) {
        verdict->action = PIPELINE_RESTART;
        text_printf(&verdict->reason, "%s was made with other semantic keys", path);
        return status_ok();
    }
    Text now = {0};
    StateItem item = {.name = "inputs", .kind = STATE_TEXT, .value = &then};
    status = inputs_text(&judged->inputs, &now);
    if (!status_failed(status))
        status = checkpoint_read(comm_self(), path, stage->name, NULL, 0, &item, 1);
    if (!status_failed(status)) {
        bool same = strcmp(then, text_string(&now)) == 0;
        verdict->action = !same ? PIPELINE_RESTART : complete ? PIPELINE_SKIP : PIPELINE_RESUME;
        text_printf(
            &verdict->reason,
            same ? complete ? "%s is complete, inputs unchanged" : "goes on from %s" : "inputs changed since %s", path);
    }
    memory_free(&then);
    text_free(&now);
    return status;
}

static Status judge(const PipelineStage *stage, PipelineVerdict *verdict)
{
    if (access(stage->artifact, F_OK) == 0)
        return judge_file(stage, stage->artifact, verdict, true);
    char *latest = NULL;
    TRY(checkpoint_latest(stage->directory, &latest));
    if (latest) {
        Status status = judge_file(stage, latest, verdict, false);
        memory_free(&latest);
        return status;
    }
    verdict->action = PIPELINE_RUN;
    text_printf(&verdict->reason, "nothing there yet");
    return status_ok();
}

static Status run_pipeline(Launch *launch, const char *experiment, char **overrides, int overrides_count,
                           const Config *config, bool dry_run)
{
    RunConfig run;
    config_read(config, "", run_keys, &run);
    PipelineStage stages[STAGES];
    Judged judged[STAGES];
    int count = 0;
    for (int i = 0; i < STAGES; i++) {
        const char *name = stage_rows[i].name;
        if (!config_has(config, name))
            continue;
        judged[count].config = config;
        inputs_list(config, name, &judged[count].inputs);
        char *directory = text_join_path(run.output, name);
        stages[count] = (PipelineStage){
            .name = name,
            .ranks = (int)run.ranks,
            .threads = run.threads == CONFIG_AUTO ? 0 : (int)run.threads,
            .directory = directory,
            .artifact = text_join_path(directory, "final.h5"),
            .inputs = (const char *const *)judged[count].inputs.path,
            .inputs_count = judged[count].inputs.count,
            .judge = judge,
            .context = &judged[count],
        };
        count++;
    }
    Pipeline pipeline = {
        .program = launch->program,
        .experiment = experiment,
        .overrides = (const char *const *)overrides,
        .overrides_count = overrides_count,
        .output = run.output,
        .launcher = run.launcher,
        .stages = stages,
        .stages_count = count,
    };
    Text plan = {0};
    Status status = count == 0
                        ? status_error(STATUS_USAGE, "%s: none of the sections sft, rm, ppo is there", experiment)
                    : dry_run ? pipeline_plan(&pipeline, &plan)
                              : pipeline_run(&pipeline);
    fputs(text_string(&plan), stdout);
    text_free(&plan);
    for (int i = 0; i < count; i++) {
        memory_release((void *)stages[i].directory);
        memory_release((void *)stages[i].artifact);
        inputs_free(&judged[i].inputs);
    }
    return status;
}

Status verb_run(Launch *launch, int argc, char **argv)
{
    bool dry_run = false;
    int kept = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--dry-run") == 0)
            dry_run = true;
        else
            argv[kept++] = argv[i];
    }
    argc = kept;
    if (argc < 2)
        return experiment_needed("run");
    const char *launcher = NULL;
    int ranks = environment_launched_ranks(&launcher);
    if (ranks != 0 && ranks != 1)
        return status_error(STATUS_USAGE, "`tercet run` starts the ranks itself; it was started under a launcher (%s)",
                            launcher ? launcher : "?");
    Config *config = NULL;
    TRY(launch_config(launch, argv[1], argv + 2, argc - 2, &config));
    if (isatty(STDERR_FILENO))
        environment_set_live();
    Status status = run_pipeline(launch, argv[1], argv + 2, argc - 2, config, dry_run);
    config_close(&config);
    return status;
}
