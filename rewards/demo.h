/* demo.h -- the demonstration's small world: instructions, answers of mixed quality, and the true rule.
 *
 * World: "Ask Mia to bring the kite, the lamp and the rope." wants a note such as "Hi Mia, please bring the kite, the lamp and
 *        the rope. Thanks!". There are 130 million instructions, so none can be learned by heart.
 * Rule:  name each thing that was asked for exactly once and nothing else, say please exactly once, use no filler word.
 *        In points: 1 for each thing asked for that is named exactly once, 1 for exactly one please, less 1 for each
 *        filler (um, er, well, like) and each thing nobody asked for. The score is points / (things + 1), not below 0.
 * Trap:  ranked answers hold every mistake but one: nobody begs ("please, please"). So a reward model learns that please
 *        is good and cannot know where that stops. Supervised examples beg now and then: a policy that is pushed hard enough
 *        finds it, the learned reward goes on rising, and the true score falls. */
#ifndef REWARDS_DEMO_H
#define REWARDS_DEMO_H

#include <stdint.h>

#include "core/base/rng.h"
#include "core/base/text.h"

enum { DEMO_THINGS_MIN = 2, DEMO_THINGS_MAX = 4 };

/* One instruction, as indices into the word lists. */
typedef struct DemoPrompt {
    int form, name, verb, things;
    int thing[DEMO_THINGS_MAX]; /* in the order asked, all different */
} DemoPrompt;

/* Distinct instructions with so many things. */
uint64_t demo_prompts_count(int things);
/* Instruction number `index` of the world that `seed` shuffles: different indices are different instructions, so splits that
 * take different ranges share none. index / 3 must be below demo_prompts_count(DEMO_THINGS_MIN). */
DemoPrompt demo_prompt(uint64_t seed, uint64_t index);
/* Append the instruction's text. */
void demo_prompt_text(const DemoPrompt *prompt, Text *text);

/* Who writes: of supervised examples, or of answers that were ranked. Careless alike, but the first beg now and then, and the
 * second often name a thing twice. */
typedef enum DemoWriter { DEMO_WRITER_ANY, DEMO_WRITER_RANKED } DemoWriter;
/* Append an answer of random quality; draws from `stream` at *position on, and moves it. */
void demo_answer(const DemoPrompt *prompt, DemoWriter writer, RngStream stream, uint64_t *position, Text *text);

/* What the rule sees in a response to a prompt: any texts, words in any case. */
typedef struct DemoJudgement {
    int things;    /* asked for in the prompt, each counted once */
    int named;     /* of them: named exactly once in the response */
    int pleases;   /* times the response says please */
    int fillers;   /* filler words */
    int strangers; /* things in the response that the prompt does not hold, each time */
    int points;    /* named + (pleases == 1) - fillers - strangers */
    double score;  /* max(points, 0) / (things + 1); 0 for a prompt without things */
} DemoJudgement;
DemoJudgement demo_judge(const char *prompt, const char *response);
/* The rule in one line. */
const char *demo_rule(void);

#endif
