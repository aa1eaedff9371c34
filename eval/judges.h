/* judges.h -- judges named on a command line, through the same table as those of an experiment.
 *
 *     PATH              a reward model: HDF5 file or Hugging Face directory      demo          the demo's true rule
 *     words:FILE        1 where FILE's word scores sum to above 0                match[:FIELD] the known answer's number
 *     length:N          nearness to N tokens                                     {kind: ...}   any, as in a config
 * NAME=... in front gives the judge a name; {kind: ...} has the key `name` for it. */
#ifndef EVAL_JUDGES_H
#define EVAL_JUDGES_H

#include "rewards/reward.h"

typedef struct Judges {
    ConfigSchema schema;
    Config *config;
} Judges;

/* STATUS_USAGE names what is wrong. [local] */
Status judges_parse(Judges *judges, const char *const *specs, int count);
void judges_free(Judges *judges);
/* Open them for answers made of this tokenizer's tokens; rewards_close when done. [collective] */
Status judges_open(const Judges *judges, Comm *comm, Device *device, const Tokenizer *tokenizer, Rewards *rewards);

#endif
