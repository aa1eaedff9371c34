//TEST timeout=180
/* The orchestrator over stages that this very program plays (argv[1] is a stage's name): what is complete is skipped, what
 * changed begins again, a failure is told with its reason, two runs do not meet, and a SIGKILL leaves nobody behind. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/signal.h"
#include "launch/lock.h"
#include "launch/pipeline.h"
#include "tests/support/support.h"

/* --- A stage ------------------------------------------------------------------------------------------------------ */

/* EXPERIMENT is a directory here; EXPERIMENT/NAME holds what the stage shall do. */
static void read_line(const char *directory, const char *name, char *line, size_t size)
{
    char *path = text_join_path(directory, name);
    FILE *file = fopen(path, "r");
    line[0] = 0;
    if (file) {
        if (!fgets(line, (int)size, file))
            line[0] = 0;
        fclose(file);
    }
    line[strcspn(line, "\n")] = 0;
    memory_free(&path);
}

static void write_line(const char *path, const char *line)
{
    assert_ok(text_write_file(path, line, strlen(line)));
}

static int play_stage(const char *name, const char *experiment)
{
    char doing[64], input[64], artifact[512], partial[512];
    signal_die_with_parent();
    signal_install();
    read_line(experiment, name, doing, sizeof doing);
    read_line(experiment, "input", input, sizeof input);
    snprintf(artifact, sizeof artifact, "%s/out/%s/final.h5", experiment, name);
    snprintf(partial, sizeof partial, "%s/out/%s/partial", experiment, name);
    StageLock lock;
    char output[512], directory[512], agreed[600];
    snprintf(output, sizeof output, "%s/out", experiment);
    snprintf(directory, sizeof directory, "%s/out/%s", experiment, name);
    /* The ranks of one launcher agree by a file, where real ones have comm_agree. */
    snprintf(agreed, sizeof agreed, "%s/%ld.agreed", directory, (long)getppid());
    if (status_failed(text_make_directories(directory)))
        return STATUS_IO;
    const char *rank = getenv("PLAYED_RANK") ? getenv("PLAYED_RANK") : getenv("OMPI_COMM_WORLD_RANK");
    if (rank == NULL || strcmp(rank, "0") == 0) {
        if (status_failed(lock_stage_first(output, name, 20, &lock)))
            return STATUS_IO;
        fclose(fopen(agreed, "w"));
    } else {
        if (!support_wait_for_file(agreed, 20) || status_failed(lock_stage_other(output, 20, &lock)))
            return STATUS_IO;
    }
    fprintf(stderr, "live 1%%\rlive 2%%\rsaid by %s\n", name);
    if (strcmp(doing, "fail") == 0) {
        fprintf(stderr, "error: data.jsonl:7: expected a string\nleaving\n");
        return STATUS_INPUT;
    }
    if (strcmp(doing, "crash") == 0)
        raise(SIGKILL);
    if (strcmp(doing, "nothing") == 0)
        return 0;
    if (strcmp(doing, "hang") == 0) {
        char begun[600];
        snprintf(begun, sizeof begun, "%s.%ld.begun", partial, (long)getpid());
        fclose(fopen(begun, "w"));
        for (int i = 0; i < 600 && !signal_stop_requested(); i++)
            usleep(100000);
        FILE *file = fopen(partial, "w");
        fclose(file);
        return STATUS_STOPPED;
    }
    if (access(partial, F_OK) == 0)
        fprintf(stderr, "%s went on\n", name);
    FILE *file = fopen(artifact, "w");
    fprintf(file, "%s\n", input);
    fclose(file);
    return 0;
}

/* Complete when the artifact holds what EXPERIMENT/input holds now. */
static Status play_judge(const PipelineStage *stage, PipelineVerdict *verdict)
{
    char wanted[64], found[64];
    const char *experiment = stage->context;
    read_line(experiment, "input", wanted, sizeof wanted);
    char *partial = text_join_path(stage->directory, "partial");
    if (access(stage->artifact, F_OK) == 0) {
        read_line(stage->directory, "final.h5", found, sizeof found);
        verdict->action = strcmp(found, wanted) == 0 ? PIPELINE_SKIP : PIPELINE_RESTART;
        text_printf(&verdict->reason, "made from '%s', input is '%s'", found, wanted);
    } else {
        verdict->action = access(partial, F_OK) == 0 ? PIPELINE_RESUME : PIPELINE_RUN;
        text_append_string(&verdict->reason, "no final.h5");
    }
    memory_free(&partial);
    return status_ok();
}

/* --- The run ------------------------------------------------------------------------------------------------------ */

enum { REAL_RANKS = 3 }; /* this many are started by the standard launcher, mpirun; others by the script */

static char program[4096];

typedef struct Played {
    Text paths[6];
    PipelineStage stages[2];
    const char *inputs[1];
    Pipeline pipeline;
} Played;

static void play_open(Played *played, const char *experiment, int ranks, const char *launcher)
{
    static const char *const names[] = {"sft", "rm"};
    *played = (Played){0};
    text_printf(&played->paths[4], "%s/out", experiment);
    for (int i = 0; i < 2; i++) {
        text_printf(&played->paths[2 * i], "%s/out/%s", experiment, names[i]);
        text_printf(&played->paths[2 * i + 1], "%s/out/%s/final.h5", experiment, names[i]);
        played->stages[i] = (PipelineStage){.name = names[i],
                                            .ranks = ranks,
                                            .directory = text_string(&played->paths[2 * i]),
                                            .artifact = text_string(&played->paths[2 * i + 1]),
                                            .judge = play_judge,
                                            .context = (void *)experiment};
    }
    played->inputs[0] = played->stages[0].artifact;
    played->stages[1].inputs = played->inputs;
    played->stages[1].inputs_count = 1;
    played->pipeline = (Pipeline){.program = program,
                                  .experiment = experiment,
                                  .output = text_string(&played->paths[4]),
                                  .launcher = launcher,
                                  .stages = played->stages,
                                  .stages_count = 2,
                                  .lock_timeout_seconds = 5};
}

static void play_close(Played *played)
{
    for (int i = 0; i < 6; i++)
        text_free(&played->paths[i]);
}

static Status play_run(const char *experiment, int ranks, const char *launcher)
{
    Played played;
    play_open(&played, experiment, ranks, launcher);
    Status status = pipeline_run(&played.pipeline);
    play_close(&played);
    return status;
}

static const char *experiment_new(const char *name, const char *sft, const char *rm)
{
    const char *experiment = support_path("%s", name);
    assert_ok(text_make_directories(experiment));
    write_line(support_path("%s/input", name), "v1\n");
    write_line(support_path("%s/sft", name), sft);
    write_line(support_path("%s/rm", name), rm);
    return experiment;
}

static void read_log(const char *name, Text *text)
{
    text_clear(text);
    assert_ok(text_read_file(support_path("%s/out/run.log", name), 1 << 20, text));
}

/* A launcher that is a plain script and does not exec: its ranks are its children. */
static const char *script_launcher(void)
{
    static char launcher[1024];
    write_line(support_path("launcher"),
               "n=$1; shift\ntrap 'kill -USR1 $pids' USR1\npids=\nr=0\n"
               "while [ $r -lt $n ]; do PLAYED_RANK=$r \"$@\" & pids=\"$pids $!\"; r=$((r + 1)); done\n"
               "code=0\nfor p in $pids; do while :; do wait $p; c=$?; kill -0 $p 2>/dev/null || break; done;\n"
               "[ $c -ne 0 ] && code=$c; done\nexit $code\n");
    snprintf(launcher, sizeof launcher, "sh '%s' {ranks} {command}", support_path("launcher"));
    return launcher;
}

/* --- Who is left -------------------------------------------------------------------------------------------------- */

/* Processes whose command line holds `part`, besides this one. */
static int processes_with(const char *part)
{
    int count = 0;
    DIR *proc = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(proc));) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || atol(entry->d_name) == getpid())
            continue;
        char path[300], line[4096];
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        const int file = open(path, O_RDONLY);
        const ssize_t size = file < 0 ? 0 : read(file, line, sizeof line - 1);
        if (file >= 0)
            close(file);
        for (ssize_t i = 0; i < size; i++)
            line[i] = line[i] ? line[i] : ' ';
        line[size > 0 ? size : 0] = 0;
        count += strstr(line, part) != NULL;
    }
    closedir(proc);
    return count;
}

static int files_ending(const char *directory, const char *end)
{
    int count = 0;
    DIR *stream = opendir(directory);
    for (struct dirent *entry; stream && (entry = readdir(stream));)
        count += text_ends_with(entry->d_name, end);
    if (stream)
        closedir(stream);
    return count;
}

/* Within 20 s, on a busy machine too; a rank that nobody ends lives for 60 s. */
static bool nobody_is_left(const char *part)
{
    for (int i = 0; i < 400; i++) {
        if (processes_with(part) == 0)
            return true;
        usleep(50000);
    }
    return false;
}

/* Every rank has begun: one that has not reached its first line would outlive a launcher that is killed now. */
static bool ranks_began(const char *directory, int ranks)
{
    for (int i = 0; i < 400; i++) {
        if (files_ending(directory, ".begun") >= ranks)
            return true;
        usleep(50000);
    }
    return false;
}

/* --- Claims ------------------------------------------------------------------------------------------------------- */

static void test_runs_then_skips_then_begins_again(void **state)
{
    (void)state;
    const char *experiment = experiment_new("plain", "ok\n", "ok\n");
    Text log = {0};
    assert_ok(play_run(experiment, 1, NULL));
    read_log("plain", &log);
    assert_contains(text_string(&log), "sft: run (no final.h5)");
    assert_contains(text_string(&log), "\nsaid by rm\n");
    assert_lacks(text_string(&log), "live");
    assert_contains(text_string(&log), "all stages are complete");

    assert_ok(play_run(experiment, 1, NULL));
    read_log("plain", &log);
    assert_contains(text_string(&log), "sft: skip (made from 'v1', input is 'v1')");
    assert_contains(text_string(&log), "rm: skip");

    write_line(support_path("plain/input"), "v2\n");
    assert_ok(play_run(experiment, 1, NULL));
    read_log("plain", &log);
    assert_contains(text_string(&log), "sft: begin again (made from 'v1', input is 'v2')");
    assert_int_equal(access(support_path("plain/out/sft.old.1/final.h5"), F_OK), 0);
    text_free(&log);
}

static void test_failures_give_their_reason(void **state)
{
    (void)state;
    const char *experiment = experiment_new("fail", "ok\n", "fail\n");
    assert_fails(play_run(experiment, 1, NULL), STATUS_INPUT, "rm failed: data.jsonl:7: expected a string");
    assert_fails(play_run(experiment, 2, script_launcher()), STATUS_INPUT, "data.jsonl:7");
    assert_fails(play_run(experiment, REAL_RANKS, NULL), STATUS_INPUT, "rm failed: data.jsonl:7: expected a string");
    Text log = {0};
    read_log("fail", &log);
    assert_contains(text_string(&log), "sft: skip");
    assert_contains(text_string(&log), " rm failed: data.jsonl:7");
    text_free(&log);
    write_line(support_path("fail/rm"), "crash\n");
    assert_fails(play_run(experiment, 1, NULL), STATUS_INTERNAL, "rm was ended by signal 9");
    write_line(support_path("fail/rm"), "nothing\n");
    assert_fails(play_run(experiment, 1, NULL), STATUS_INTERNAL, "is not its result");
    assert_fails(play_run(experiment, 2, "/nonexistent/mpirun -np {ranks} {command}"), STATUS_IO,
                 "/nonexistent/mpirun");
    assert_fails(play_run(experiment, 2, "mpirun -np {rank} {command}"), STATUS_USAGE, "'{rank}'");
    assert_fails(play_run(experiment, 2, "mpirun -np {ranks}"), STATUS_USAGE, "{command} once");
    assert_fails(play_run(experiment, 2, "mpirun '-np {command}"), STATUS_USAGE, "quote");
    write_line(support_path("fail/rm"), "ok\n");
    assert_ok(play_run(experiment, 3, script_launcher()));
}

static void test_dry_run_does_nothing(void **state)
{
    (void)state;
    const char *experiment = experiment_new("dry", "ok\n", "ok\n");
    Played played;
    Text plan = {0};
    play_open(&played, experiment, 2, "srun -n {ranks} -c {threads} '--x=a b' {command}");
    played.stages[0].threads = 3;
    assert_ok(pipeline_plan(&played.pipeline, &plan));
    assert_int_not_equal(access(support_path("dry/out"), F_OK), 0);
    assert_contains(text_string(&plan), "sft\n  would run: no final.h5\n  ranks 2, threads 3 each\n");
    assert_contains(text_string(&plan), "srun -n 2 -c 3 '--x=a b' ");
    assert_contains(text_string(&plan), "  reads   ");

    play_close(&played);
    assert_ok(play_run(experiment, 1, NULL));
    assert_ok(text_make_directories(support_path("dry/gone")));
    assert_int_equal(rename(support_path("dry/out/sft/final.h5"), support_path("dry/gone/final.h5")), 0);
    play_open(&played, experiment, 1, NULL);
    text_clear(&plan);
    assert_ok(pipeline_plan(&played.pipeline, &plan));
    assert_contains(text_string(&plan), "rm\n  would be skipped only if sft makes the same");
    play_close(&played);
    text_free(&plan);
}

static void test_a_stop_is_passed_on_and_the_next_run_goes_on(void **state)
{
    (void)state;
    const char *experiment = experiment_new("stop", "hang\n", "ok\n");
    script_launcher();
    const int signals[] = {SIGTERM, SIGINT, SIGTERM};
    const int ranks[] = {2, 2, REAL_RANKS};
    for (int i = 0; i < 3; i++) {
        SupportProcess process = support_start("exec '%s' run '%s' %d", program, experiment, ranks[i]);
        assert_true(ranks_began(support_path("stop/out/sft"), ranks[i]));
        kill(process.pid, signals[i]);
        SupportRun run = support_wait(&process, 20);
        assert_exit(&run, STATUS_STOPPED);
        assert_contains(text_string(&run.err), "the same command goes on from its checkpoint");
        support_run_free(&run);
        assert_true(nobody_is_left(experiment));
        SupportRun clean = support_run(10, "rm -f '%s'/out/sft/*.begun", experiment);
        support_run_free(&clean);
    }
    write_line(support_path("stop/sft"), "ok\n");
    SupportRun run = support_run(30, "exec '%s' run '%s' 2", program, experiment);
    assert_exit(&run, 0);
    assert_contains(text_string(&run.err), "sft: go on (no final.h5)");
    assert_contains(text_string(&run.err), "sft went on");
    support_run_free(&run);
}

static void test_a_killed_run_leaves_nobody_and_the_next_cleans_up(void **state)
{
    (void)state;
    const char *experiment = experiment_new("kill", "hang\n", "ok\n");
    script_launcher();
    for (int ranks = 1; ranks <= REAL_RANKS; ranks++) {
        SupportRun clean = support_run(10, "rm -f '%s'/out/sft/*.begun", experiment);
        support_run_free(&clean);
        SupportProcess process = support_start("exec '%s' run '%s' %d", program, experiment, ranks);
        assert_true(ranks_began(support_path("kill/out/sft"), ranks));
        assert_true(processes_with(experiment) >= ranks + 1);
        kill(process.pid, SIGKILL);
        SupportRun run = support_wait(&process, 10);
        assert_int_equal(run.exit_code, 128 + SIGKILL);
        support_run_free(&run);
        assert_true(nobody_is_left(experiment));
    }
    char *left = text_join_path(support_path("kill/out/sft"), "step-3.h5.4194000.tmp");
    fclose(fopen(left, "w"));
    write_line(support_path("kill/sft"), "ok\n");
    assert_ok(play_run(experiment, 2, script_launcher()));
    assert_int_not_equal(access(left, F_OK), 0);
    Text log = {0};
    read_log("kill", &log);
    assert_contains(text_string(&log), "removed 1 temporary file of an interrupted run");
    text_free(&log);
    memory_free(&left);
}

static void test_two_runs_do_not_meet(void **state)
{
    (void)state;
    const char *experiment = experiment_new("lock", "hang\n", "ok\n");
    SupportProcess process = support_start("exec '%s' run '%s' 1", program, experiment);
    assert_true(ranks_began(support_path("lock/out/sft"), 1));
    Played played;
    play_open(&played, experiment, 1, NULL);
    played.pipeline.lock_timeout_seconds = 0.7;
    assert_fails(pipeline_run(&played.pipeline), STATUS_IO, ".run.lock: held by tercet run, pid ");
    /* Without the orchestrator's lock, the stage's still stands. */
    StageLock lock;
    assert_fails(lock_stage_first(played.pipeline.output, "rm", 0.2, &lock), STATUS_IO, ".lock: held by tercet sft");
    kill(process.pid, SIGKILL);
    /* Started again at once, it waits for those who are dying, and then has the lock. */
    played.pipeline.lock_timeout_seconds = 10;
    write_line(support_path("lock/sft"), "ok\n");
    assert_ok(pipeline_run(&played.pipeline));
    SupportRun run = support_wait(&process, 10);
    support_run_free(&run);
    play_close(&played);
}

int main(int argc, char **argv)
{
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    if (argc == 4 && strcmp(argv[1], "run") == 0) {
        static char launcher[4096];
        snprintf(launcher, sizeof launcher, "sh '%s/../launcher' {ranks} {command}", argv[2]);
        Status status = play_run(argv[2], atoi(argv[3]), atoi(argv[3]) == REAL_RANKS ? NULL : launcher);
        if (status_failed(status))
            log_error("%s", status_message());
        return (int)status.code;
    }
    if (argc == 3)
        return play_stage(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_then_skips_then_begins_again),
        cmocka_unit_test(test_failures_give_their_reason),
        cmocka_unit_test(test_dry_run_does_nothing),
        cmocka_unit_test(test_a_stop_is_passed_on_and_the_next_run_goes_on),
        cmocka_unit_test(test_a_killed_run_leaves_nobody_and_the_next_cleans_up),
        cmocka_unit_test(test_two_runs_do_not_meet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
