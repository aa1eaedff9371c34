/* support_run.c -- programs started by tests: captured, timed, and never left behind. */
#include "tests/support/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/base/profile.h"

enum { CAPTURE_BYTES_MAX = 64 << 20 };
static const double GRACE_SECONDS = 5.0;

static void sleep_milliseconds(int milliseconds)
{
    usleep((useconds_t)milliseconds * 1000);
}

static void redirect(int target, const char *path, int flags)
{
    int file = open(path, flags, 0666);
    if (file < 0 || dup2(file, target) < 0)
        _exit(126);
    close(file);
}

static SupportProcess start(const char *command)
{
    static int counter;
    int number = counter++;
    SupportProcess process = {0};
    process.out_path = memory_strdup(support_path("run-%ld-%d.out", (long)getpid(), number));
    process.err_path = memory_strdup(support_path("run-%ld-%d.err", (long)getpid(), number));
    process.started = profile_seconds();
    fflush(NULL);
    process.pid = fork();
    REQUIRE(process.pid >= 0, "cannot fork");
    if (process.pid == 0) {
        setpgid(0, 0);
        redirect(STDIN_FILENO, "/dev/null", O_RDONLY);
        redirect(STDOUT_FILENO, process.out_path, O_WRONLY | O_CREAT | O_TRUNC);
        redirect(STDERR_FILENO, process.err_path, O_WRONLY | O_CREAT | O_TRUNC);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    setpgid(process.pid, process.pid); /* in both, so that neither has to wait for the other */
    return process;
}

SupportRun support_wait(SupportProcess *process, double timeout_seconds)
{
    SupportRun run = {0};
    int status = 0;
    double now = profile_seconds(), limit = now + timeout_seconds;
    bool late = false;
    while (waitpid(process->pid, &status, WNOHANG) == 0) {
        now = profile_seconds();
        if (now >= limit) {
            kill(-process->pid, late ? SIGKILL : SIGTERM);
            limit = now + GRACE_SECONDS;
            late = true;
        }
        sleep_milliseconds(now - process->started < 1.0 ? 2 : 20);
    }
    run.seconds = profile_seconds() - process->started;
    run.exit_code = late ? 124 : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (late)
        kill(-process->pid, SIGKILL); /* what the leader left in its group */
    Status read = text_read_file(process->out_path, CAPTURE_BYTES_MAX, &run.out);
    if (!status_failed(read))
        read = text_read_file(process->err_path, CAPTURE_BYTES_MAX, &run.err);
    REQUIRE(!status_failed(read), "%s", status_message());
    unlink(process->out_path);
    unlink(process->err_path);
    memory_free(&process->out_path);
    memory_free(&process->err_path);
    /* Never NULL, for strstr */
    text_append(&run.out, "", 0);
    text_append(&run.err, "", 0);
    return run;
}

#define FORMAT_COMMAND(command, format)                                                                                \
    do {                                                                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, format);                                                                                   \
        text_vprintf(&(command), (format), arguments);                                                                 \
        va_end(arguments);                                                                                             \
    } while (0)

SupportProcess support_start(const char *format, ...)
{
    Text command = {0};
    FORMAT_COMMAND(command, format);
    SupportProcess process = start(command.bytes);
    text_free(&command);
    return process;
}

SupportRun support_run(double timeout_seconds, const char *format, ...)
{
    Text command = {0};
    FORMAT_COMMAND(command, format);
    SupportProcess process = start(command.bytes);
    SupportRun run = support_wait(&process, timeout_seconds);
    text_free(&command);
    return run;
}

SupportRun support_run_tercet(int ranks, double timeout_seconds, const char *format, ...)
{
    Text command = {0};
    text_printf(&command, "exec %s %s ", ranks ? support_mpirun(ranks) : "", support_tercet());
    FORMAT_COMMAND(command, format);
    SupportProcess process = start(command.bytes);
    SupportRun run = support_wait(&process, timeout_seconds);
    text_free(&command);
    return run;
}

void support_run_free(SupportRun *run)
{
    text_free(&run->out);
    text_free(&run->err);
}

void support_assert_exit(const SupportRun *run, int code, const char *file, int line)
{
    if (run->exit_code == code)
        return;
    print_error("exit code %d after %.1f s, expected %d\n--- standard output\n%s\n--- standard error\n%s\n",
                run->exit_code, run->seconds, code, text_string(&run->out), text_string(&run->err));
    _fail(file, line);
}

const char *support_tercet(void)
{
    return TERCET_BINARY_DIR "/tercet";
}

const char *support_mpirun(int ranks)
{
    static char command[8][1024];
    static int next;
    char *result = command[next++ % 8];
    snprintf(result, sizeof command[0], "%s %d", TERCET_MPIRUN, ranks);
    return result;
}

bool support_wait_for_file(const char *path, double timeout_seconds)
{
    double limit = profile_seconds() + timeout_seconds;
    while (access(path, F_OK) != 0) {
        if (profile_seconds() >= limit)
            return false;
        sleep_milliseconds(5);
    }
    return true;
}

bool support_aborts(void (*function)(void *argument), void *argument, const char *part)
{
    char *path = memory_strdup(support_path("abort-%ld.err", (long)getpid()));
    fflush(NULL);
    pid_t child = fork();
    REQUIRE(child >= 0, "cannot fork");
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        redirect(STDERR_FILENO, path, O_WRONLY | O_CREAT | O_TRUNC);
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        function(argument);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    Text text = {0};
    bool read = !status_failed(text_read_file(path, 1 << 20, &text));
    bool aborted = read && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(text_string(&text), part);
    if (!aborted)
        print_error("expected an abort with '%s'; wait status %#x, message: %s\n", part, (unsigned)status,
                    text_string(&text));
    unlink(path);
    text_free(&text);
    memory_free(&path);
    return aborted;
}
