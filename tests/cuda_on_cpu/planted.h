/* planted.h -- defects that are planted, and what it means that one was found.
 *
 * A right program must pass in every order of threads and blocks and every mode of streams. A defect counts as found when the process is stopped
 * with a report that names it, or when the result is wrong in at least one of the orders and modes that the suite runs everywhere. Every case runs in
 * a process of its own, forked before anything of CUDA was called. */
#ifndef CUDA_ON_CPU_PLANTED_H
#define CUDA_ON_CPU_PLANTED_H

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

struct Case {
    const char *name;
    bool (*run)(void); /* is the result right? */
    const char
        *report; /* NULL: nothing is planted; "": the result is wrong in some order or mode; else the report's words */
};

struct Outcome {
    bool right;
    std::string report;
};

static inline Outcome run_in_child(const Case &what, const char *order, const char *streams)
{
    int pipe_ends[2];
    if (pipe(pipe_ends) != 0)
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_ends[1], 2);
        close(pipe_ends[0]);
        setenv("CUDA_ON_CPU_ORDER", order, 1);
        setenv("CUDA_ON_CPU_STREAMS", streams, 1);
        _exit(what.run() ? 0 : 1);
    }
    close(pipe_ends[1]);
    Outcome outcome = {false, ""};
    char buffer[4096];
    for (ssize_t got; (got = read(pipe_ends[0], buffer, sizeof buffer)) > 0;)
        outcome.report.append(buffer, (size_t)got);
    close(pipe_ends[0]);
    int status;
    waitpid(child, &status, 0);
    outcome.right = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return outcome;
}

static inline bool planted_check(const Case &what)
{
    bool wrong_somewhere = false, told = false;
    std::string said;
    for (const char *order : {"forward", "reverse", "random:1", "random:2"})
        for (const char *streams : {"now", "latest"}) {
            Outcome outcome = run_in_child(what, order, streams);
            wrong_somewhere = wrong_somewhere || !outcome.right;
            told = told || (what.report && what.report[0] && outcome.report.find(what.report) != std::string::npos);
            said += outcome.report;
        }
    bool good = !what.report ? !wrong_somewhere : what.report[0] ? told : wrong_somewhere && said.empty();
    printf("%s %s%s\n", good ? "ok    " : "FAILED", what.name, !what.report ? "" : ": found");
    if (!good)
        printf("%s", said.c_str());
    return good;
}

/* What main() returns. */
static inline int planted_run(const Case *cases, size_t count)
{
    int failed = 0;
    for (size_t i = 0; i < count; i++)
        failed += !planted_check(cases[i]);
    printf("%zu passed, %d failed\n", count - (size_t)failed, failed);
    return failed != 0;
}

#endif
