/* command.h -- a launcher's template and a command, made into an argument vector; no shell in between.
 *
 * Template: words by the shell's quoting rules ('...', "...", \x), where {ranks} and {threads} are replaced inside a word
 *           and the word {command} becomes the words of the command:  srun -n {ranks} -c {threads} {command} */
#ifndef LAUNCH_COMMAND_H
#define LAUNCH_COMMAND_H

#include "core/base/text.h"

typedef struct Command {
    char **words; /* `count` words and a NULL, as execvp wants them */
    int count, capacity;
} Command;

void command_add(Command *command, const char *word);
void command_free(Command *command);
/* STATUS_USAGE: an open quote, an unknown {name}, or not exactly one {command}. */
Status command_from_template(const char *template_text, int ranks, int threads, const Command *inner, Command *out);
/* Append the command as a person would type it into a shell. */
void command_print(const Command *command, Text *text);

#endif
