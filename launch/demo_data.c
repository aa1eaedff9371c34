/* demo_data.c -- instructions, careless answers and their ranks, written as JSON lines. */
#include "launch/demo_data.h"

#include <jansson.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/data/json.h"
#include "rewards/demo.h"

enum { TRIES_MAX = 10000 };

/* A split is a range of instructions, and a name for its random numbers: `stream` is part of the data's definition. */
typedef struct Split {
    const char *file;
    uint64_t stream;
    int64_t first, count;
    bool noisy;
} Split;

/* --- Records: appended to `out` as one line each --------------------------------------------------------------------*/

static void append_record(json_t *record, Text *out)
{
    json_append(out, record);
    text_append_string(out, "\n");
    json_decref(record);
}

static void record_response(const Split *split, uint64_t seed, int64_t index, Text *out)
{
    DemoPrompt prompt = demo_prompt(seed, (uint64_t)(split->first + index));
    Text question = {0}, answer = {0};
    uint64_t position = 0;
    demo_prompt_text(&prompt, &question);
    demo_answer(&prompt, DEMO_WRITER_ANY, rng_stream(seed, RNG_DEMO, split->stream, (uint64_t)index), &position,
                &answer);
    append_record(json_pack("{s:s, s:s}", "prompt", text_string(&question), "response", text_string(&answer)), out);
    text_free(&question);
    text_free(&answer);
}

static void record_prompt(const Split *split, uint64_t seed, int64_t index, Text *out)
{
    DemoPrompt prompt = demo_prompt(seed, (uint64_t)(split->first + index));
    Text question = {0};
    demo_prompt_text(&prompt, &question);
    append_record(json_pack("{s:s}", "prompt", text_string(&question)), out);
    text_free(&question);
}

/* Four answers of different worth; their ranks say the true order, or in a noisy split nearly so. */
static void record_ranked(const Split *split, uint64_t seed, int64_t index, Text *out)
{
    DemoPrompt prompt = demo_prompt(seed, (uint64_t)(split->first + index));
    RngStream stream = rng_stream(seed, RNG_DEMO, split->stream, (uint64_t)index);
    Text question = {0}, answer[DEMO_ANSWERS] = {0};
    int points[DEMO_ANSWERS], rank[DEMO_ANSWERS];
    uint64_t position = 0;
    demo_prompt_text(&prompt, &question);
    for (int a = 0; a < DEMO_ANSWERS; a++) {
        bool fresh = false;
        for (int tries = 0; !fresh; tries++) {
            REQUIRE(tries < TRIES_MAX, "no answer of another worth to '%s'", text_string(&question));
            text_clear(&answer[a]);
            demo_answer(&prompt, DEMO_WRITER_RANKED, stream, &position, &answer[a]);
            points[a] = demo_judge(text_string(&question), text_string(&answer[a])).points;
            fresh = true;
            for (int b = 0; b < a; b++)
                fresh = fresh && points[b] != points[a];
        }
    }
    for (int a = 0; a < DEMO_ANSWERS; a++) {
        rank[a] = 1;
        for (int b = 0; b < DEMO_ANSWERS; b++)
            rank[a] += points[b] > points[a];
    }
    if (split->noisy && index % DEMO_SWAP_EVERY == 0) {
        int a = (int)rng_below(stream, position, DEMO_ANSWERS);
        int b = (a + 1 + (int)rng_below(stream, position + 1, DEMO_ANSWERS - 1)) % DEMO_ANSWERS;
        int kept = rank[a];
        rank[a] = rank[b];
        rank[b] = kept;
    }
    json_t *responses = json_array(), *ranks = json_array();
    for (int a = 0; a < DEMO_ANSWERS; a++) {
        json_array_append_new(responses, json_string(text_string(&answer[a])));
        json_array_append_new(ranks, json_integer(rank[a]));
        text_free(&answer[a]);
    }
    append_record(
        json_pack("{s:s, s:o, s:o}", "prompt", text_string(&question), "responses", responses, "ranks", ranks), out);
    text_free(&question);
}

/* --- Files ----------------------------------------------------------------------------------------------------------*/

typedef void (*RecordFunction)(const Split *split, uint64_t seed, int64_t index, Text *out);

static Status write_split(const char *directory, uint64_t seed, const Split *split, RecordFunction record)
{
    Text text = {0};
    for (int64_t i = 0; i < split->count; i++)
        record(split, seed, i, &text);
    char *path = text_join_path(directory, split->file);
    Status status = text_write_file(path, text_string(&text), text.size);
    memory_free(&path);
    text_free(&text);
    return status;
}

Status demo_data_write(const char *directory, uint64_t seed)
{
    /* Streams 0 of RNG_DEMO are demo_prompt()'s. */
    static const struct {
        Split split;
        RecordFunction record;
    } files[] = {
        {{"sft-train.jsonl", 1, 0, DEMO_SFT_TRAIN, false}, record_response},
        {{"sft-heldout.jsonl", 2, 0, DEMO_SFT_HELDOUT, false}, record_response},
        {{"ranked-train.jsonl", 3, 0, DEMO_RANKED_TRAIN, true}, record_ranked},
        {{"ranked-heldout.jsonl", 4, 0, DEMO_RANKED_HELDOUT, false}, record_ranked},
        {{"prompts-train.jsonl", 5, 0, DEMO_PROMPTS_TRAIN, false}, record_prompt},
        {{"prompts-heldout.jsonl", 6, 0, DEMO_PROMPTS_HELDOUT, false}, record_prompt},
    };
    TRY(text_make_directories(directory));
    int64_t first = 0;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        Split split = files[f].split;
        split.first = first;
        first += split.count;
        TRY(write_split(directory, seed, &split, files[f].record));
        log_info("%s/%s: %lld lines", directory, split.file, (long long)split.count);
    }
    log_info("the true rule: %s", demo_rule());
    return status_ok();
}
