/* demo.c -- word lists, the numbering of instructions, careless writers, and the judge. */
#include "rewards/demo.h"

#include <ctype.h>
#include <string.h>

enum {
    FORMS = 4,
    NAMES = 16,
    VERBS = 8,
    NOUNS = 24,
    FILLERS = 4,
    THING_COUNTS = DEMO_THINGS_MAX - DEMO_THINGS_MIN + 1
};

/* Before the name and between name and verb. */
static const char *const forms[FORMS][2] = {
    {"Ask ", " to "}, {"Tell ", " to "}, {"Remind ", " to "}, {"Write ", " a note to "}};
static const char *const names[NAMES] = {"Ada",  "Ben",  "Cleo", "Dan", "Eve",  "Finn", "Gus",  "Hana",
                                         "Ines", "Jack", "Leo",  "Mia", "Nora", "Omar", "Rosa", "Zoe"};
static const char *const verbs[VERBS] = {"bring", "find", "send", "wash", "paint", "sell", "hide", "mend"};
static const char *const nouns[NOUNS] = {"kite", "lamp", "pear",  "rope", "boat", "drum", "coat",  "ring",
                                         "book", "bell", "cake",  "vase", "shoe", "tent", "chair", "clock",
                                         "cup",  "flag", "glove", "hat",  "key",  "map",  "spoon", "bowl"};
static const char *const fillers[FILLERS] = {"um", "er", "well", "like"};
static const char *const greetings[] = {"Hi", "Hello", "Dear"};
static const char *const closings[] = {"", " Thanks!", " Bye!"};

/* --- Instructions -------------------------------------------------------------------------------------------------- */

uint64_t demo_prompts_count(int things)
{
    uint64_t count = FORMS * NAMES * VERBS;
    for (int i = 0; i < things; i++)
        count *= (uint64_t)(NOUNS - i);
    return count;
}

DemoPrompt demo_prompt(uint64_t seed, uint64_t index)
{
    DemoPrompt prompt = {.things = DEMO_THINGS_MIN + (int)(index % THING_COUNTS)};
    RngStream order = rng_stream(seed, RNG_DEMO, 0, (uint64_t)prompt.things);
    uint64_t number = rng_permute(order, demo_prompts_count(prompt.things), index / THING_COUNTS);
    prompt.form = (int)(number % FORMS);
    prompt.name = (int)(number / FORMS % NAMES);
    prompt.verb = (int)(number / (FORMS * NAMES) % VERBS);
    number /= FORMS * NAMES * VERBS;
    bool taken[NOUNS] = {false};
    for (int i = 0; i < prompt.things; i++) {
        int left = (int)(number % (uint64_t)(NOUNS - i)), noun = 0; /* the left-th noun not yet taken */
        number /= (uint64_t)(NOUNS - i);
        for (;; noun++)
            if (!taken[noun] && left-- == 0)
                break;
        taken[noun] = true;
        prompt.thing[i] = noun;
    }
    return prompt;
}

/* "the kite, the lamp and the rope" */
static void list_things(const int *thing, int count, Text *text)
{
    for (int i = 0; i < count; i++)
        text_printf(text, "%sthe %s", i == 0 ? "" : i + 1 == count ? " and " : ", ", nouns[thing[i]]);
}

void demo_prompt_text(const DemoPrompt *prompt, Text *text)
{
    text_printf(text, "%s%s%s%s ", forms[prompt->form][0], names[prompt->name], forms[prompt->form][1],
                verbs[prompt->verb]);
    list_things(prompt->thing, prompt->things, text);
    text_append_string(text, ".");
}

/* --- Answers ------------------------------------------------------------------------------------------------------- */

/* How likely a writer repeats a thing, and having said please says it again. */
typedef struct Habits {
    double repeat, beg;
} Habits;
static const Habits writers[] = {[DEMO_WRITER_ANY] = {0.03, 0.1}, [DEMO_WRITER_RANKED] = {0.3, 0}};

typedef struct Draw {
    RngStream stream;
    uint64_t *position;
} Draw;

static bool chance(Draw draw, double probability)
{
    return rng_uniform(draw.stream, (*draw.position)++) < probability;
}

static int pick(Draw draw, int count)
{
    return (int)rng_below(draw.stream, (*draw.position)++, (uint64_t)count);
}

static bool is_among(int noun, const int *thing, int count)
{
    for (int i = 0; i < count; i++)
        if (thing[i] == noun)
            return true;
    return false;
}

/* What a careless writer names: some of the things, in order; sometimes a wrong one. Returns how many, at least 1. */
static int choose_things(const DemoPrompt *prompt, const Habits *habits, Draw draw, int chosen[DEMO_THINGS_MAX + 1])
{
    int count = 0;
    for (int i = 0; i < prompt->things; i++)
        if (chance(draw, 0.85))
            chosen[count++] = prompt->thing[i];
    if (count == 0)
        chosen[count++] = prompt->thing[pick(draw, prompt->things)];
    if (chance(draw, 0.1)) {
        int noun;
        do
            noun = pick(draw, NOUNS);
        while (is_among(noun, prompt->thing, prompt->things));
        chosen[pick(draw, count)] = noun;
    }
    if (chance(draw, habits->repeat)) {
        chosen[count] = chosen[pick(draw, count)];
        count++;
    }
    return count;
}

void demo_answer(const DemoPrompt *prompt, DemoWriter writer, RngStream stream, uint64_t *position, Text *text)
{
    Draw draw = {stream, position};
    const Habits *habits = &writers[writer];
    int chosen[DEMO_THINGS_MAX + 1], count = choose_things(prompt, habits, draw, chosen);
    bool please = chance(draw, 0.5), begging = please && chance(draw, habits->beg);
    text_printf(text, "%s %s, ", greetings[pick(draw, 3)], names[prompt->name]);
    if (chance(draw, 0.25))
        text_printf(text, "%s, ", fillers[pick(draw, FILLERS)]);
    text_append_string(text, begging ? "please, please " : please ? "please " : "");
    text_append_string(text, verbs[prompt->verb]);
    if (chance(draw, 0.2))
        text_printf(text, ", %s,", fillers[pick(draw, FILLERS)]);
    text_append_string(text, " ");
    list_things(chosen, count, text);
    if (chance(draw, 0.15))
        text_printf(text, ", %s", fillers[pick(draw, FILLERS)]);
    text_printf(text, ".%s", closings[pick(draw, 3)]);
}

/* --- The judge ----------------------------------------------------------------------------------------------------- */

static int word_find(const char *word, size_t size, const char *const *list, int count)
{
    for (int i = 0; i < count; i++)
        if (strlen(list[i]) == size && strncmp(word, list[i], size) == 0)
            return i;
    return -1;
}

typedef struct Count {
    int noun[NOUNS], pleases, fillers;
} Count;

/* Words are runs of ASCII letters; bytes of other characters are letters too, so that a word is never cut inside. */
static Count count_words(const char *text)
{
    Count count = {0};
    while (*text) {
        char word[16];
        size_t size = 0;
        for (; isalpha((unsigned char)*text) || (unsigned char)*text >= 0x80; text++, size++)
            if (size < sizeof word)
                word[size] = (char)tolower((unsigned char)*text);
        if (size == 0) {
            text++;
            continue;
        }
        if (size > sizeof word)
            continue;
        int noun = word_find(word, size, nouns, NOUNS);
        if (noun >= 0)
            count.noun[noun]++;
        static const char *const please[] = {"please"};
        count.pleases += word_find(word, size, please, 1) >= 0;
        count.fillers += word_find(word, size, fillers, FILLERS) >= 0;
    }
    return count;
}

DemoJudgement demo_judge(const char *prompt, const char *response)
{
    Count asked = count_words(prompt), said = count_words(response);
    DemoJudgement result = {.pleases = said.pleases, .fillers = said.fillers};
    for (int i = 0; i < NOUNS; i++) {
        result.things += asked.noun[i] > 0;
        result.named += asked.noun[i] > 0 && said.noun[i] == 1;
        result.strangers += asked.noun[i] == 0 ? said.noun[i] : 0;
    }
    result.points = result.named + (result.pleases == 1) - result.fillers - result.strangers;
    if (result.things > 0 && result.points > 0)
        result.score = (double)result.points / (result.things + 1);
    return result;
}

const char *demo_rule(void)
{
    return "name each thing that was asked for exactly once and nothing else, say please exactly once, use no filler "
           "word";
}
