/* t015 -- log lines by level and rank, progress as plain lines in a log and as one live line on a terminal; signals set a
 * flag, phases add up. */
#define _GNU_SOURCE /* posix_openpt */
#include "tests/support/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/profile.h"
#include "core/base/signal.h"

/* What function() writes to standard error, in a child whose standard error is a file, or a terminal. */
static Text capture(void (*function)(void), bool terminal)
{
    char *path = (char *)support_path("captured");
    int file = terminal ? posix_openpt(O_RDWR | O_NOCTTY) : open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    assert_true(file >= 0);
    int other = file;
    if (terminal) {
        assert_int_equal(grantpt(file) | unlockpt(file), 0);
        other = open(ptsname(file), O_RDWR | O_NOCTTY);
        assert_true(other >= 0);
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(other, STDERR_FILENO);
        function();
        _exit(0);
    }
    Text text = {0};
    int status = 0;
    waitpid(child, &status, 0); /* less than a terminal's buffer is written, so it does not wait for us */
    assert_int_equal(status, 0);
    if (!terminal)
        lseek(file, 0, SEEK_SET);
    else
        fcntl(file, F_SETFL, O_NONBLOCK);
    char part[4096];
    for (ssize_t got; (got = read(file, part, sizeof part)) > 0;)
        text_append(&text, part, (size_t)got);
    text_append(&text, "", 0);
    close(file);
    if (terminal)
        close(other);
    return text;
}

static void speak(void)
{
    log_info("info %d", 1);
    log_warn("careful: %s", "thin ice");
    log_error("config.yaml:3: %s", "unknown key");
    log_debug("detail");
}

static void speak_quietly(void)
{
    log_set_level(LOG_QUIET);
    speak();
}

static void speak_in_detail(void)
{
    log_set_level(LOG_DEBUG);
    speak();
}

static void speak_as_rank_2(void)
{
    status_set_rank(2);
    log_set_level(LOG_DEBUG);
    speak();
    Progress progress = progress_start("sft", 0, 10);
    progress_set_interval(0);
    progress_update(&progress, 5, 100, "loss 1");
    progress_finish(&progress, "");
}

static void expect(void (*function)(void), const char *expected)
{
    Text text = capture(function, false);
    assert_string_equal(text.bytes, expected);
    text_free(&text);
}

static void test_levels_and_ranks(void **state)
{
    (void)state;
    expect(speak, "info 1\nwarning: careful: thin ice\nerror: config.yaml:3: unknown key\n");
    expect(speak_quietly, "error: config.yaml:3: unknown key\n");
    expect(speak_in_detail, "info 1\nwarning: careful: thin ice\nerror: config.yaml:3: unknown key\ndebug: detail\n");
    expect(speak_as_rank_2, "rank 2: warning: careful: thin ice\nrank 2: error: config.yaml:3: unknown key\n"
                            "rank 2: debug: detail\n");
}

static void speak_to_file(void)
{
    if (!log_set_file(support_path("log.txt")) || log_set_file(support_path("no/folder/log.txt")))
        _exit(1);
    speak();
    if (!log_set_file(NULL))
        _exit(1);
    log_info("after");
}

static void test_file_gets_the_same(void **state)
{
    (void)state;
    expect(speak_to_file, "info 1\nwarning: careful: thin ice\nerror: config.yaml:3: unknown key\nafter\n");
    Text text = {0};
    assert_ok(text_read_file(support_path("log.txt"), 1000, &text));
    assert_string_equal(text.bytes, "info 1\nwarning: careful: thin ice\nerror: config.yaml:3: unknown key\n");
    text_free(&text);
}

static void progress_three(void)
{
    progress_set_interval(0);
    Progress progress = progress_start("sft", 100, 400);
    progress_update(&progress, 120, 0, "loss 1.83");
    progress_update(&progress, 400, 0, NULL);
    progress_finish(&progress, "loss 1.20");
}

static void progress_patient(void)
{
    progress_set_interval(1000);
    Progress progress = progress_start("ppo", 0, 0);
    for (int i = 1; i <= 100; i++)
        progress_update(&progress, i, i, "");
    progress_finish(&progress, "");
}

static void progress_live(void)
{
    progress_set_interval(1000);
    Progress progress = progress_start("rm", 0, 50);
    progress_update(&progress, 25, 2000, "loss 0.5");
    progress_update(&progress, 26, 2000, "loss 0.4"); /* too soon to be drawn */
    log_warn("between");
    usleep(150000);
    progress_update(&progress, 27, 2000,
                    "a note that is far too long for the eighty columns that a terminal without a "
                    "size of its own is taken to have");
    progress_finish(&progress, "done");
}

static void test_progress_in_a_log(void **state)
{
    (void)state;
    expect(progress_three, "sft 120/400  30%  ETA 0:00  loss 1.83\nsft 400/400  100%  ETA 0:00\n"
                           "sft 400/400  100%  in 0:00  loss 1.20\n");
    Text text = capture(progress_patient, false);
    assert_true(text_starts_with(text.bytes, "ppo 100  "));
    assert_contains(text.bytes, " tok/s  in 0:00\n");
    assert_int_equal(strcspn(text.bytes, "\n") + 1, text.size); /* one line only */
    text_free(&text);
}

static void test_progress_on_a_terminal(void **state)
{
    (void)state;
    int probe = posix_openpt(O_RDWR | O_NOCTTY);
    if (probe < 0) {
        print_message("SKIP: terminal: no pseudo-terminal can be opened here (/dev/pts is not mounted)\n");
        skip();
    }
    close(probe);
    Text text = capture(progress_live, true);
    assert_true(text_starts_with(text.bytes, "\rrm 25/50  50%  "));
    assert_contains(text.bytes, "tok/s  ETA 0:00  loss 0.5\033[K\r\033[Kwarning: between\r\n\rrm 27/50");
    assert_lacks(text.bytes, "26/50");
    assert_lacks(text.bytes, "taken to have");
    assert_true(text_ends_with(text.bytes, "\033[K\r\033[Krm 27/50  54%  13.3k tok/s  in 0:00  done\r\n") ||
                text_ends_with(text.bytes, "tok/s  in 0:00  done\r\n"));
    text_free(&text);
}

static int child_after(void (*function)(void))
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        function();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void signals_ask(void)
{
    signal_install();
    if (signal_stop_requested())
        _exit(1);
    raise(SIGINT);
    if (!signal_stop_requested())
        _exit(2);
    raise(SIGTERM);
    raise(SIGTERM);
    raise(SIGUSR1);
    _exit(3);
}

static void usr1_asks(void)
{
    signal_install();
    raise(SIGUSR1);
    _exit(signal_stop_requested() ? 3 : 4);
}

static void second_interrupt_ends(void)
{
    signal_install();
    raise(SIGINT);
    raise(SIGINT);
    _exit(4);
}

static void request_asks(void)
{
    signal_request_stop();
    _exit(signal_stop_requested() ? 3 : 4);
}

static void test_signals(void **state)
{
    (void)state;
    assert_int_equal(child_after(signals_ask), 3);
    assert_int_equal(child_after(usr1_asks), 3);
    assert_int_equal(child_after(second_interrupt_ends), 128 + SIGINT);
    assert_int_equal(child_after(request_asks), 3);
}

static void test_death_with_the_parent(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t parent = fork();
    if (parent == 0) {
        if (fork() == 0) {
            signal_die_with_parent();
            (void)!write(ends[1], "r", 1);
            for (;;)
                pause();
        }
        close(ends[1]);
        for (;;)
            pause();
    }
    close(ends[1]);
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1); /* the grandchild is ready */
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    assert_int_equal(read(ends[0], &byte, 1), 0); /* nobody holds the pipe any more: this would hang otherwise */
    close(ends[0]);
}

static void test_phases(void **state)
{
    (void)state;
    PhaseTimer timer;
    phase_reset(&timer);
    double started = profile_seconds();
    phase_begin(&timer, "rollout");
    phase_tokens(&timer, 10);
    usleep(20000);
    phase_begin(&timer, "update");
    usleep(5000);
    char name[] = "rollout"; /* the same phase, from another string */
    phase_begin(&timer, name);
    phase_tokens(&timer, 5);
    phase_end(&timer);
    double elapsed = profile_seconds() - started;
    usleep(20000);
    phase_end(&timer);
    assert_int_equal(timer.count, 2);
    assert_int_equal(timer.current, -1);
    assert_string_equal(timer.phase[0].name, "rollout");
    assert_close(timer.phase[0].tokens, 15, 0, 0);
    assert_true(timer.phase[0].seconds >= 0.02 && timer.phase[1].seconds >= 0.005);
    assert_close(timer.phase[0].seconds + timer.phase[1].seconds, elapsed, 0, 2e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_and_ranks),
        cmocka_unit_test(test_file_gets_the_same),
        cmocka_unit_test(test_progress_in_a_log),
        cmocka_unit_test(test_progress_on_a_terminal),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_death_with_the_parent),
        cmocka_unit_test(test_phases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
