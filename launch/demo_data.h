/* demo_data.h -- `tercet demo-data`: the demonstration's data sets, in the formats that everybody's data come in.
 *
 * Files: sft-train.jsonl, sft-heldout.jsonl          {"prompt", "response"}: answers by careless writers
 *        ranked-train.jsonl, ranked-heldout.jsonl    {"prompt", "responses": [4], "ranks": [4]} (1 is best): the true rule's
 *                                                    order; in training, 10 % of the ranks are wrong (two answers of
 *                                                    every fifth prompt have changed places)
 *        prompts-train.jsonl, prompts-heldout.jsonl  {"prompt"}
 * Rule:  no instruction occurs twice, in whatever files. All bytes are a function of the seed. */
#ifndef LAUNCH_DEMO_DATA_H
#define LAUNCH_DEMO_DATA_H

#include <stdint.h>

#include "core/base/status.h"

enum {
    DEMO_SFT_TRAIN = 40000,
    DEMO_SFT_HELDOUT = 500,
    DEMO_RANKED_TRAIN = 16000,
    DEMO_RANKED_HELDOUT = 500,
    DEMO_PROMPTS_TRAIN = 20000,
    DEMO_PROMPTS_HELDOUT = 500,
    DEMO_ANSWERS = 4,
    DEMO_SWAP_EVERY = 5, /* a swap makes 2 of 4 ranks wrong, so one prompt in five is 10 % of the ranks */
};

/* Makes the directory; each file is whole or absent. [local] */
Status demo_data_write(const char *directory, uint64_t seed);

#endif
