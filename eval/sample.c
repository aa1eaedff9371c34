/* sample.c -- see sample.h. */
#include "eval/sample.h"

#include <string.h>

/* A text of several lines keeps them, indented below its label. */
static void append_labelled(Text *text, const char *label, const char *value)
{
    text_printf(text, "  %-8s ", label);
    for (const char *line = value;;) {
        const char *end = strchr(line, '\n');
        text_append(text, line, end ? (size_t)(end - line) : strlen(line));
        text_append(text, "\n", 1);
        if (!end)
            return;
        line = end + 1;
        text_append_string(text, "           ");
    }
}

Status sample_run(Comm *comm, Device *device, const SampleOptions *options, Text *text)
{
    Prompts prompts = {0};
    Answers a = {0}, b = {0};
    TRY(comm_agree(comm, prompts_read(&prompts, options->prompts, options->limit)));
    AnswerOptions against = options->answers;
    against.model = options->against;
    Status status = answers_make(&a, comm, device, &prompts, &options->answers);
    if (!status_failed(status) && options->against)
        status = answers_make(&b, comm, device, &prompts, &against);
    for (int64_t i = 0; i < prompts.count && !status_failed(status); i++) {
        text_printf(text, "%lld\n", (long long)i + 1);
        append_labelled(text, "prompt", a.answer[i].prompt);
        if (options->against)
            append_labelled(text, options->label_b ? options->label_b : "B", b.answer[i].response);
        append_labelled(text, options->label_a ? options->label_a : "A", a.answer[i].response);
    }
    answers_free(&a);
    answers_free(&b);
    prompts_free(&prompts);
    return status;
}
