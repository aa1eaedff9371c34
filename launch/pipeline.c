/* pipeline.c -- decide, start, wait, check: see pipeline.h. */
#define _GNU_SOURCE
#include "launch/pipeline.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/base/signal.h"
#include "core/h5/h5.h"
#include "launch/lock.h"
#include "launch/process.h"

enum { DIRECTORY_DEPTH_MAX = 4, OLD_MAX = 1000, CODE_MAX = STATUS_STOPPED };

/* --- Words ------------------------------------------------------------------------------------------------------- */

/* Into run.log, with the time. */
static void note(int log_file, const char *message)
{
    Text line = {0};
    char stamp[32];
    const time_t now = time(NULL);
    struct tm utc;
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    text_printf(&line, "%s %s\n", stamp, message);
    if (log_file >= 0 && write(log_file, line.bytes, line.size) < 0)
        log_debug("run.log: %s", strerror(errno));
    text_free(&line);
}

/* To a person, and into run.log. */
static void __attribute__((format(printf, 2, 3))) say(int log_file, const char *format, ...)
{
    char message[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    log_info("%s", message);
    note(log_file, message);
}

const char *pipeline_default_launcher(void)
{
    if (geteuid() == 0)
        return "mpirun --quiet --allow-run-as-root --oversubscribe --bind-to none --mca "
               "btl_vader_single_copy_mechanism "
               "none -np {ranks} {command}";
    return "mpirun --quiet --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none -np {ranks} "
           "{command}";
}

static int threads_of(const PipelineStage *stage)
{
    cpu_set_t cores;
    if (stage->threads > 0)
        return stage->threads;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0)
        return 1;
    const int each = CPU_COUNT(&cores) / (stage->ranks > 0 ? stage->ranks : 1);
    return each > 0 ? each : 1;
}

static Status stage_command(const Pipeline *pipeline, const PipelineStage *stage, Command *command)
{
    Command inner = {0};
    command_add(&inner, pipeline->program);
    command_add(&inner, stage->name);
    command_add(&inner, pipeline->experiment);
    for (int i = 0; i < pipeline->overrides_count; i++)
        command_add(&inner, pipeline->overrides[i]);
    if (stage->ranks <= 1) {
        *command = inner;
        return status_ok();
    }
    const char *launcher = pipeline->launcher ? pipeline->launcher : pipeline_default_launcher();
    Status status = command_from_template(launcher, stage->ranks, threads_of(stage), &inner, command);
    command_free(&inner);
    return status;
}

/* --- Files ------------------------------------------------------------------------------------------------------- */

/* Temporary files in `directory` and below. */
static Status remove_temporaries(const char *directory, int depth, int *removed_count)
{
    int here = 0;
    TRY(h5_remove_temporaries(directory, &here));
    *removed_count += here;
    DIR *stream = depth < DIRECTORY_DEPTH_MAX ? opendir(directory) : NULL;
    if (!stream)
        return status_ok();
    Status status = status_ok();
    for (struct dirent *entry; !status_failed(status) && (entry = readdir(stream));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        struct stat about;
        char *path = text_join_path(directory, entry->d_name);
        if (lstat(path, &about) == 0 && S_ISDIR(about.st_mode))
            status = remove_temporaries(path, depth + 1, removed_count);
        memory_free(&path);
    }
    closedir(stream);
    return status;
}

/* Wait for ranks of an earlier run that are still dying, then clean up after them. */
static Status take_over(const Pipeline *pipeline, double timeout_seconds, int log_file)
{
    StageLock ranks;
    int removed_count = 0;
    TRY(lock_stage_first(pipeline->output, "run", timeout_seconds, &ranks));
    Status status = remove_temporaries(pipeline->output, 0, &removed_count);
    lock_stage_release(&ranks);
    if (removed_count > 0)
        say(log_file, "removed %d temporary file%s of an interrupted run", removed_count, removed_count > 1 ? "s" : "");
    return status;
}

static Status put_aside(const PipelineStage *stage, int log_file)
{
    for (int i = 1; i <= OLD_MAX; i++) {
        Text old = {0};
        struct stat about;
        text_printf(&old, "%s.old.%d", stage->directory, i);
        const bool taken = lstat(text_string(&old), &about) == 0;
        int failure = 0;
        if (!taken && rename(stage->directory, text_string(&old)) != 0)
            failure = errno;
        if (!taken && failure == 0)
            say(log_file, "%s: what was there is now in %s", stage->name, text_string(&old));
        text_free(&old);
        if (failure == ENOENT || (!taken && failure == 0))
            return status_ok();
        if (failure)
            return status_error(STATUS_IO, "%s: cannot be put aside: %s", stage->directory, strerror(failure));
    }
    return status_error(STATUS_IO, "%s: %d old directories stand beside it; remove some", stage->directory, OLD_MAX);
}

/* --- One stage --------------------------------------------------------------------------------------------------- */

static Status judge(const PipelineStage *stage, PipelineVerdict *verdict)
{
    *verdict = (PipelineVerdict){.action = PIPELINE_RUN};
    return status_prefix(stage->judge(stage, verdict), "%s", stage->name);
}

static Status ended_badly(const PipelineStage *stage, const ProcessResult *result)
{
    const char *last = text_string(&result->last_line), *error = strstr(last, "error: ");
    if (error)
        last = error + strlen("error: ");
    if (result->exit_code == STATUS_STOPPED || (result->asked && result->exit_code != 0))
        return status_error(STATUS_STOPPED, "stopped in %s%s; the same command goes on from its checkpoint",
                            stage->name, result->exit_code == STATUS_STOPPED ? "" : " before it could save");
    if (result->signal)
        return status_error(STATUS_INTERNAL, "%s was ended by signal %d (%s)%s%s", stage->name, result->signal,
                            strsignal(result->signal),
                            result->signal == SIGKILL ? "; if nobody killed it, the machine was out of memory" : "",
                            "");
    if (result->exit_code >= 1 && result->exit_code <= CODE_MAX)
        return status_error((StatusCode)result->exit_code, "%s failed: %s", stage->name,
                            *last ? last : status_name((StatusCode)result->exit_code));
    return status_error(STATUS_INTERNAL, "%s ended with code %d: %s", stage->name, result->exit_code,
                        *last ? last : "it said nothing");
}

static Status stage_start(const Pipeline *pipeline, const PipelineStage *stage, int log_file)
{
    Command command;
    Text printed = {0};
    ProcessResult result;
    TRY(stage_command(pipeline, stage, &command));
    command_print(&command, &printed);
    say(log_file, "%s: %s", stage->name, text_string(&printed));
    const double started = profile_seconds();
    Status status = process_run(&command, stage->ranks > 1 ? SIGUSR1 : SIGTERM, log_file, &result);
    if (!status_failed(status) && result.exit_code != 0)
        status = ended_badly(stage, &result);
    if (!status_failed(status))
        say(log_file, "%s: done in %s", stage->name, text_duration(profile_seconds() - started));
    text_free(&result.last_line);
    text_free(&printed);
    command_free(&command);
    return status;
}

static Status stage_check(const PipelineStage *stage)
{
    PipelineVerdict verdict;
    Status status = judge(stage, &verdict);
    if (!status_failed(status) && verdict.action != PIPELINE_SKIP)
        status = status_error(STATUS_INTERNAL, "%s ended well, but %s is not its result: %s", stage->name,
                              stage->artifact, text_string(&verdict.reason));
    text_free(&verdict.reason);
    return status;
}

static Status stage_do(const Pipeline *pipeline, const PipelineStage *stage, int log_file)
{
    static const char *const words[] = {[PIPELINE_RUN] = "run",
                                        [PIPELINE_RESUME] = "go on",
                                        [PIPELINE_RESTART] = "begin again",
                                        [PIPELINE_SKIP] = "skip"};
    PipelineVerdict verdict;
    TRY(judge(stage, &verdict));
    say(log_file, "%s: %s (%s)", stage->name, words[verdict.action], text_string(&verdict.reason));
    text_free(&verdict.reason);
    if (verdict.action == PIPELINE_SKIP)
        return status_ok();
    if (verdict.action == PIPELINE_RESTART)
        TRY(put_aside(stage, log_file));
    TRY(stage_start(pipeline, stage, log_file));
    return stage_check(stage);
}

static Status stages_do(const Pipeline *pipeline, int log_file)
{
    for (int i = 0; i < pipeline->stages_count; i++) {
        if (signal_stop_requested())
            return status_error(STATUS_STOPPED, "stopped before %s; the same command goes on from there",
                                pipeline->stages[i].name);
        TRY(stage_do(pipeline, &pipeline->stages[i], log_file));
    }
    return status_ok();
}

Status pipeline_run(const Pipeline *pipeline)
{
    const double timeout = pipeline->lock_timeout_seconds > 0 ? pipeline->lock_timeout_seconds : LOCK_TIMEOUT_SECONDS;
    Lock lock = {0};
    signal_install();
    if (pipeline->stages_count == 0)
        return status_error(STATUS_USAGE, "%s: no stage is written: expected a section sft, rm or ppo",
                            pipeline->experiment);
    TRY(text_make_directories(pipeline->output));
    char *lock_path = text_join_path(pipeline->output, ".run.lock"),
         *log_path = text_join_path(pipeline->output, "run.log");
    int log_file = -1;
    Status status = lock_take(lock_path, false, timeout, "tercet run", &lock);
    if (!status_failed(status)) {
        log_file = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (log_file < 0)
            status = status_error(STATUS_IO, "%s: %s", log_path, strerror(errno));
    }
    if (!status_failed(status))
        status = take_over(pipeline, timeout, log_file);
    if (!status_failed(status))
        status = stages_do(pipeline, log_file);
    if (log_file >= 0) {
        if (status_failed(status)) /* the caller tells the person */
            note(log_file, status_message());
        else
            say(log_file, "run: all stages are complete");
        close(log_file);
    }
    lock_release(&lock);
    memory_free(&lock_path);
    memory_free(&log_path);
    return status;
}

/* --- Dry run ----------------------------------------------------------------------------------------------------- */

/* An earlier stage whose artifact this one reads and which would not be skipped, or NULL. */
static const PipelineStage *waits_for(const Pipeline *pipeline, int stage, const bool *runs)
{
    for (int i = 0; i < stage; i++)
        for (int k = 0; k < pipeline->stages[stage].inputs_count; k++)
            if (runs[i] && strcmp(pipeline->stages[stage].inputs[k], pipeline->stages[i].artifact) == 0)
                return &pipeline->stages[i];
    return NULL;
}

static Status plan_stage(const Pipeline *pipeline, int index, bool *runs, Text *text)
{
    static const char *const words[] = {[PIPELINE_RUN] = "would run",
                                        [PIPELINE_RESUME] = "would go on",
                                        [PIPELINE_RESTART] = "would begin again, putting aside what is there",
                                        [PIPELINE_SKIP] = "would be skipped"};
    const PipelineStage *stage = &pipeline->stages[index];
    PipelineVerdict verdict;
    Command command = {0};
    TRY(judge(stage, &verdict));
    Status status = stage_command(pipeline, stage, &command);
    const PipelineStage *before = waits_for(pipeline, index, runs);
    runs[index] = before || verdict.action != PIPELINE_SKIP;
    text_printf(text, "%s\n", stage->name);
    if (before && verdict.action == PIPELINE_SKIP)
        text_printf(text, "  would be skipped only if %s makes the same %s again\n", before->name, before->artifact);
    else
        text_printf(text, "  %s: %s\n", words[verdict.action], text_string(&verdict.reason));
    text_printf(text, "  ranks %d, threads %d each%s\n", stage->ranks, threads_of(stage),
                stage->threads > 0 ? "" : " (auto)");
    for (int i = 0; i < stage->inputs_count; i++)
        text_printf(text, "  reads   %s\n", stage->inputs[i]);
    text_printf(text, "  writes  %s\n  command ", stage->artifact);
    command_print(&command, text);
    text_append_string(text, "\n");
    text_free(&verdict.reason);
    command_free(&command);
    return status;
}

Status pipeline_plan(const Pipeline *pipeline, Text *text)
{
    static const char *const names[] = {".run.lock", ".lock"};
    for (int i = 0; i < 2; i++) {
        char *path = text_join_path(pipeline->output, names[i]);
        if (!lock_is_free(path))
            text_printf(text, "%s is locked: a run is going on there now, so this may change\n", pipeline->output);
        memory_free(&path);
    }
    bool *runs = memory_new((size_t)pipeline->stages_count, sizeof *runs);
    Status status = status_ok();
    for (int i = 0; i < pipeline->stages_count && !status_failed(status); i++)
        status = plan_stage(pipeline, i, runs, text);
    memory_free(&runs);
    return status;
}
