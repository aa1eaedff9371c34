/* command.c -- words of a template, quoted and replaced: see command.h. */
#include "launch/command.h"

#include <string.h>

#include "core/base/memory.h"

void command_add(Command *command, const char *word)
{
    if (command->count + 1 >= command->capacity) {
        command->capacity = command->capacity ? 2 * command->capacity : 16;
        command->words = memory_resize(command->words, (size_t)command->capacity, sizeof *command->words);
    }
    command->words[command->count++] = memory_strdup(word);
    command->words[command->count] = NULL;
}

void command_free(Command *command)
{
    for (int i = 0; i < command->count; i++)
        memory_free(&command->words[i]);
    memory_free(&command->words);
    *command = (Command){0};
}

/* The next word of *at, unquoted, into `word`. *found false at the end. */
static Status next_word(const char **at, Text *word, bool *found)
{
    const char *p = *at + strspn(*at, " \t\n");
    text_clear(word);
    *found = *p != 0;
    for (char quote = 0; *p && (quote || !strchr(" \t\n", *p)); p++) {
        if (*p == quote)
            quote = 0;
        else if (!quote && (*p == '\'' || *p == '"'))
            quote = *p;
        else if (quote != '\'' && *p == '\\' && p[1])
            text_append(word, ++p, 1);
        else
            text_append(word, p, 1);
        if (quote && !p[1])
            return status_error(STATUS_USAGE, "launcher: a quote is open at the end");
    }
    *at = p;
    return status_ok();
}

static Status replace_names(const char *word, int ranks, int threads, Text *out)
{
    for (const char *p = word; *p; p++) {
        const char *end = *p == '{' ? strchr(p, '}') : NULL;
        if (!end) {
            text_append(out, p, 1);
        } else if (strncmp(p, "{ranks}", 7) == 0) {
            text_printf(out, "%d", ranks);
            p = end;
        } else if (strncmp(p, "{threads}", 9) == 0) {
            text_printf(out, "%d", threads);
            p = end;
        } else {
            return status_error(STATUS_USAGE,
                                "launcher: '%.*s' is no name; there are {ranks}, {threads} and, as a word "
                                "of its own, {command}",
                                (int)(end - p + 1), p);
        }
    }
    return status_ok();
}

Status command_from_template(const char *template_text, int ranks, int threads, const Command *inner, Command *out)
{
    Text word = {0}, replaced = {0};
    int commands = 0;
    Status status = status_ok();
    *out = (Command){0};
    for (const char *at = template_text;;) {
        bool found;
        TRY_GOTO(next_word(&at, &word, &found), done);
        if (!found)
            break;
        if (strcmp(text_string(&word), "{command}") == 0) {
            commands++;
            for (int i = 0; i < inner->count; i++)
                command_add(out, inner->words[i]);
            continue;
        }
        text_clear(&replaced);
        TRY_GOTO(replace_names(text_string(&word), ranks, threads, &replaced), done);
        command_add(out, text_string(&replaced));
    }
    if (commands != 1)
        status = status_error(STATUS_USAGE, "launcher: expected {command} once, found it %d times in '%s'", commands,
                              template_text);
done:
    text_free(&word);
    text_free(&replaced);
    if (status_failed(status))
        command_free(out);
    return status;
}

void command_print(const Command *command, Text *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
    for (int i = 0; i < command->count; i++) {
        const char *word = command->words[i];
        text_append_string(text, i ? " " : "");
        if (*word && word[strspn(word, plain)] == 0) {
            text_append_string(text, word);
            continue;
        }
        text_append_string(text, "'");
        for (const char *p = word; *p; p++)
            text_append_string(text, *p == '\'' ? "'\\''" : (const char[]){*p, 0});
        text_append_string(text, "'");
    }
}
