/* inputs.h -- every file that a stage reads, with a digest of what is in it: how the orchestrator knows that nothing changed.
 *
 * The list is made from the rows: whatever a section of the stage says in a key of type PATH is an input. It is stored in each checkpoint as text, one
 * line "DIGEST  PATH" per file, and compared with what is there now. */
#ifndef STAGES_INPUTS_H
#define STAGES_INPUTS_H

#include "core/base/text.h"
#include "core/config/config.h"

typedef struct Inputs {
    char **path; /* sorted, each once */
    int count, capacity;
} Inputs;

/* Paths that `stage` ("sft", "rm", "ppo") of this experiment reads. */
void inputs_list(const Config *config, const char *stage, Inputs *inputs);
void inputs_free(Inputs *inputs);
/* One line per input: digest of an artifact of ours (its semantic contents), of a file's bytes, of a directory's model files; "absent" when there is nothing. */
Status inputs_text(const Inputs *inputs, Text *text);

#endif
