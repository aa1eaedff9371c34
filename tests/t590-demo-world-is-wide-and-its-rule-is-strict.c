//TEST timeout=60
/* The demo's instructions are too many to learn by heart, its writers neither good nor hopeless, and its rule says of
 * hand-written notes what a person would. */
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "rewards/demo.h"
#include "rewards/reward_demo.h"
#include "tests/support/support.h"

/* --- The world ------------------------------------------------------------------------------------------------------*/

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void test_more_than_a_million_instructions(void **state)
{
    (void)state;
    uint64_t total = 0;
    for (int things = DEMO_THINGS_MIN; things <= DEMO_THINGS_MAX; things++)
        total += demo_prompts_count(things);
    assert_true(total > 1000000);
    /* By counting: 150,000 numbers give 150,000 texts. The next numbers are as new as these. */
    enum { COUNT = 150000 };
    char **text = memory_new(COUNT, sizeof *text);
    Text line = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        DemoPrompt prompt = demo_prompt(7, i);
        text_clear(&line);
        demo_prompt_text(&prompt, &line);
        text[i] = memory_strdup(text_string(&line));
    }
    qsort(text, COUNT, sizeof *text, compare_texts);
    for (int i = 1; i < COUNT; i++)
        if (strcmp(text[i - 1], text[i]) == 0)
            fail_msg("'%s' came twice", text[i]);
    for (int i = 0; i < COUNT; i++)
        memory_free(&text[i]);
    memory_free(&text);
    text_free(&line);
}

/* The last number is as good as the first. */
static void test_last_instruction_exists(void **state)
{
    (void)state;
    uint64_t last = 3 * demo_prompts_count(DEMO_THINGS_MIN) - 3;
    Text text = {0};
    for (uint64_t i = 0; i < 3; i++) {
        DemoPrompt prompt = demo_prompt(1, last + i);
        assert_int_equal(prompt.things, DEMO_THINGS_MIN + (int)i);
        text_clear(&text);
        demo_prompt_text(&prompt, &text);
        assert_int_equal(demo_judge(text_string(&text), "").things, prompt.things);
    }
    text_free(&text);
}

/* --- The rule -------------------------------------------------------------------------------------------------------*/

static void test_rule_on_hand_examples(void **state)
{
    (void)state;
    static const char prompt[] = "Ask Mia to bring the kite, the lamp and the rope.";
    static const struct {
        const char *response;
        int named, pleases, fillers, strangers, points;
        double score;
    } cases[] = {
        {"Hi Mia, please bring the kite, the lamp and the rope. Thanks!", 3, 1, 0, 0, 4, 1.0},
        {"Hi Mia, bring the kite, the lamp and the rope.", 3, 0, 0, 0, 3, 0.75},
        {"Hi Mia, please, please bring the kite, the lamp and the rope.", 3, 2, 0, 0, 3, 0.75},
        {"Hi Mia, please bring the kite, the lamp and the lamp.", 1, 1, 0, 0, 2, 0.5},
        {"Dear Mia, please bring the kite, the lamp and the drum.", 2, 1, 0, 1, 2, 0.5},
        {"Hello Mia, um, PLEASE bring, well, the Kite, the lamp and the rope.", 3, 1, 2, 0, 2, 0.5},
        {"Hi Mia, um, bring the drum, like.", 0, 0, 2, 1, -3, 0},
        {"kites lamps ropes pleased umm welled", 0, 0, 0, 0, 0, 0},
        {"\xc3\xbcm kite\xc3\xa9 like", 0, 0, 1, 0, -1, 0},
        {"", 0, 0, 0, 0, 0, 0},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        DemoJudgement found = demo_judge(prompt, cases[c].response);
        if (found.things != 3 || found.named != cases[c].named || found.pleases != cases[c].pleases ||
            found.fillers != cases[c].fillers || found.strangers != cases[c].strangers ||
            found.points != cases[c].points || found.score != cases[c].score)
            fail_msg("'%s': named %d pleases %d fillers %d strangers %d points %d score %g", cases[c].response,
                     found.named, found.pleases, found.fillers, found.strangers, found.points, found.score);
    }
    assert_true(demo_judge("No such thing.", "please bring the kite").score == 0);

    RewardSample sample = {.prompt = prompt, .response = cases[1].response, .fields = "{}"};
    float score = -1;
    assert_ok(reward_kind_demo.score(NULL, NULL, &sample, 1, &score));
    assert_true(score == 0.75f);
}

/* How often the answer names this one thing: what judging without any prompt counts as strange, less what judging with it does. */
static int count_thing(const DemoPrompt *prompt, int thing, const char *answer)
{
    DemoPrompt one = *prompt;
    one.things = 1;
    one.thing[0] = prompt->thing[thing];
    Text alone = {0};
    demo_prompt_text(&one, &alone);
    int count = demo_judge("", answer).strangers - demo_judge(text_string(&alone), answer).strangers;
    text_free(&alone);
    return count;
}

/* What careless writers come to: far from right, far from hopeless, and the trap is where demo.h says it is. */
static void test_writers_are_mediocre(void **state)
{
    (void)state;
    enum { COUNT = 6000 };
    Text question = {0}, answer = {0};
    for (int writer = DEMO_WRITER_ANY; writer <= DEMO_WRITER_RANKED; writer++) {
        double score = 0;
        int perfect = 0, begging = 0, repeating = 0;
        for (uint64_t i = 0; i < COUNT; i++) {
            DemoPrompt prompt = demo_prompt(3, i);
            uint64_t position = 0;
            text_clear(&question);
            text_clear(&answer);
            demo_prompt_text(&prompt, &question);
            demo_answer(&prompt, (DemoWriter)writer, rng_stream(3, RNG_TEST, 0, i), &position, &answer);
            DemoJudgement found = demo_judge(text_string(&question), text_string(&answer));
            assert_int_equal(found.things, prompt.things);
            score += found.score;
            perfect += found.score == 1;
            begging += found.pleases > 1;
            bool repeats = false;
            for (int t = 0; t < prompt.things; t++)
                repeats = repeats || count_thing(&prompt, t, text_string(&answer)) > 1;
            repeating += repeats;
        }
        assert_true(score / COUNT > 0.35 && score / COUNT < 0.7);
        assert_true(perfect > 0 && perfect < COUNT / 4);
        assert_int_equal(begging > COUNT / 100, writer == DEMO_WRITER_ANY);
        assert_int_equal(repeating > COUNT / 5, writer == DEMO_WRITER_RANKED);
        if (writer == DEMO_WRITER_RANKED)
            assert_int_equal(begging, 0);
    }
    text_free(&question);
    text_free(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_more_than_a_million_instructions),
        cmocka_unit_test(test_last_instruction_exists),
        cmocka_unit_test(test_rule_on_hand_examples),
        cmocka_unit_test(test_writers_are_mediocre),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
