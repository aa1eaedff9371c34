/* verb_generate.c -- `tercet generate`: text from a model, streamed to a person or as JSON lines to a program.
 *
 * One prompt and one answer: the answer is written as it comes. Otherwise one JSON line {"prompt", "response", "stopped"} per answer, in order. What
 * the command line leaves open (chat format, length of answers) is what the model was trained with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/data/json.h"
#include "core/data/template.h"
#include "core/model/generate.h"
#include "core/store/checkpoint.h"
#include "launch/trained_with.h"
#include "launch/verbs.h"

enum { STOPS_MAX = OPTION_STRINGS_MAX + 8 };

typedef struct GenerateVerb {
    const char *model_path, *prompt, *file;
    TrainedWithOptions with;
    int64_t max_new; /* CONFIG_AUTO: auto_new, or what fits behind the longest prompt of a batch */
    int64_t auto_new, top_k, seed, n, slots;
    DeviceWish wish;
    double temperature, top_p;
    OptionStrings stop;
    Model model;
    Tokenizer *tokenizer;
    const Template *format;
    const char *stops[STOPS_MAX];
    int stops_count;
    bool stream; /* a person is watching */
    /* Of the batch at hand: (requests) */
    TokenizerStream *streams;
    Text *texts;
    bool *cut; /* ended by a stop string */
    size_t *written;
} GenerateVerb;

/* --- Prompts --- */

typedef struct Prompts {
    char **text;
    int64_t count, capacity;
} Prompts;

static void prompts_add(Prompts *prompts, const char *text)
{
    memory_reserve(&prompts->text, prompts->count, &prompts->capacity);
    prompts->text[prompts->count++] = memory_strdup(text);
}

static void prompts_free(Prompts *prompts)
{
    for (int64_t i = 0; i < prompts->count; i++)
        memory_free(&prompts->text[i]);
    memory_free(&prompts->text);
}

/* JSON lines with a key "prompt", from a file or "-". */
static Status prompts_read_json(const char *path, Prompts *prompts)
{
    JsonReader *reader = NULL;
    json_t *value = NULL;
    TRY(json_reader_open(&reader, path));
    Status status = json_reader_next(reader, &value);
    while (!status_failed(status) && value) {
        const char *text = NULL;
        status = json_check_object(json_reader_place(reader), value);
        if (!status_failed(status))
            status = json_get_string(json_reader_place(reader), value, "prompt", JSON_REQUIRED, &text, NULL);
        if (!status_failed(status)) {
            prompts_add(prompts, text);
            status = json_reader_next(reader, &value);
        }
    }
    json_reader_close(&reader);
    return status;
}

/* One prompt per line of standard input. */
static Status prompts_read_lines(Prompts *prompts)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    while ((size = getline(&line, &capacity, stdin)) >= 0) {
        while (size > 0 && (line[size - 1] == '\n' || line[size - 1] == '\r'))
            line[--size] = 0;
        if (size > 0)
            prompts_add(prompts, line);
    }
    free(line);
    return prompts->count > 0
               ? status_ok()
               : status_error(STATUS_USAGE,
                              "generate: no prompt; give --prompt TEXT, --file FILE.jsonl, or lines on standard input");
}

static Status prompts_read(const GenerateVerb *verb, Prompts *prompts)
{
    if (verb->prompt && verb->file)
        return status_error(STATUS_USAGE, "generate: --prompt and --file exclude each other");
    if (verb->prompt) {
        prompts_add(prompts, verb->prompt);
        return status_ok();
    }
    return verb->file ? prompts_read_json(verb->file, prompts) : prompts_read_lines(prompts);
}

/* --- Answers --- */

/* Where the earliest stop string begins, or the size. */
static size_t find_stop(const GenerateVerb *verb, const Text *text, bool *found)
{
    size_t first = text->size;
    *found = false;
    for (int s = 0; s < verb->stops_count; s++) {
        const char *at = text->size ? strstr(text->bytes, verb->stops[s]) : NULL;
        if (at && (size_t)(at - text->bytes) < first) {
            first = (size_t)(at - text->bytes);
            *found = true;
        }
    }
    return first;
}

/* Bytes that may be shown: none of them can become the beginning of a stop string. */
static size_t safe_size(const GenerateVerb *verb, const Text *text)
{
    size_t safe = text->size;
    for (int s = 0; s < verb->stops_count; s++) {
        size_t length = strlen(verb->stops[s]);
        for (size_t tail = 1; tail < length && tail <= text->size; tail++)
            if (memcmp(text->bytes + text->size - tail, verb->stops[s], tail) == 0 && text->size - tail < safe)
                safe = text->size - tail;
    }
    return safe;
}

static void show(GenerateVerb *verb, int64_t request, size_t size)
{
    if (!verb->stream || size <= verb->written[request])
        return;
    fwrite(verb->texts[request].bytes + verb->written[request], 1, size - verb->written[request], stdout);
    fflush(stdout);
    verb->written[request] = size;
}

static bool accept_token(void *context, int64_t request, int32_t token)
{
    GenerateVerb *verb = context;
    Text *text = &verb->texts[request];
    if (status_failed(tokenizer_stream_push(&verb->streams[request], token, text)))
        return false;
    bool found;
    size_t end = find_stop(verb, text, &found);
    if (found) {
        text->size = end;
        text->bytes[end] = 0;
        verb->cut[request] = true;
        show(verb, request, end);
        return false;
    }
    show(verb, request, safe_size(verb, text));
    return true;
}

static void print_answer(const char *prompt, const Text *answer, bool stopped)
{
    json_t *record = json_object();
    json_object_set_new(record, "prompt", json_string(prompt));
    json_object_set_new(record, "response", json_stringn(text_string(answer), answer->size));
    json_object_set_new(record, "stopped", json_boolean(stopped));
    Text line = {0};
    json_append(&line, record);
    puts(text_string(&line));
    text_free(&line);
    json_decref(record);
}

/* Tokens of the longest answer to prompts of at most `longest` tokens. */
static int64_t answer_room(const GenerateVerb *verb, int64_t longest)
{
    int64_t room = verb->model.shape.positions_max - longest;
    if (verb->max_new != CONFIG_AUTO)
        return verb->max_new;
    return room < 1 ? 1 : room < verb->auto_new ? room : verb->auto_new;
}

/* Answers to one batch of prompts, n for each. */
static Status answer(GenerateVerb *verb, Exec *exec, char *const *prompts, int64_t count, int64_t first_prompt)
{
    int64_t requests_count = count * verb->n;
    GenerateRequest *requests = memory_new((size_t)requests_count, sizeof *requests);
    GenerateResult *results = memory_new((size_t)requests_count, sizeof *results);
    TemplateTokens *encoded = memory_new((size_t)count, sizeof *encoded);
    verb->streams = memory_new((size_t)requests_count, sizeof *verb->streams);
    verb->texts = memory_new((size_t)requests_count, sizeof *verb->texts);
    verb->cut = memory_new((size_t)requests_count, sizeof *verb->cut);
    verb->written = memory_new((size_t)requests_count, sizeof *verb->written);
    Status status = status_ok();
    int64_t longest = 0;
    for (int64_t p = 0; p < count && !status_failed(status); p++) {
        Message message = {ROLE_USER, prompts[p], strlen(prompts[p])};
        status = template_encode(verb->format, verb->tokenizer, &message, 1, &encoded[p]);
        longest = encoded[p].tokens.count > longest ? encoded[p].tokens.count : longest;
    }
    const int64_t max_new = answer_room(verb, longest);
    for (int64_t p = 0; p < count && !status_failed(status); p++)
        for (int64_t k = 0; k < verb->n; k++) {
            int64_t r = p * verb->n + k;
            requests[r] = (GenerateRequest){
                .prompt = encoded[p].tokens.ids,
                .prompt_count = encoded[p].tokens.count,
                .stream =
                    rng_stream((uint64_t)verb->seed, RNG_GENERATE, 0, (uint64_t)((first_prompt + p) * verb->n + k)),
                .same_prompt = k > 0,
            };
            results[r].token = memory_new((size_t)max_new, sizeof(int32_t));
            tokenizer_stream_start(&verb->streams[r], verb->tokenizer, TOKENIZER_CONTINUE | TOKENIZER_SKIP_SPECIAL);
        }
    int32_t end = template_end_token(verb->format, verb->tokenizer);
    GenerateOptions options = {
        .slots = verb->slots,
        .max_new = max_new,
        .temperature = (float)verb->temperature,
        .top_p = (float)verb->top_p,
        .top_k = verb->top_k,
        .stop = &end,
        .stop_count = end >= 0 ? 1 : 0,
        .accept = accept_token,
        .context = verb,
    };
    if (!status_failed(status))
        status = generate(&verb->model, exec, requests, requests_count, &options, results);
    for (int64_t r = 0; r < requests_count; r++) {
        if (verb->streams[r].tokenizer)
            tokenizer_stream_finish(&verb->streams[r], verb->cut[r] ? NULL : &verb->texts[r]);
        if (!status_failed(status)) {
            show(verb, r, verb->texts[r].size);
            if (!verb->stream)
                print_answer(prompts[r / verb->n], &verb->texts[r], results[r].stopped);
        }
        text_free(&verb->texts[r]);
        memory_free(&results[r].token);
    }
    if (verb->stream && !status_failed(status))
        puts("");
    for (int64_t p = 0; p < count; p++)
        template_tokens_free(&encoded[p]);
    memory_free(&encoded);
    memory_free(&verb->streams);
    memory_free(&verb->texts);
    memory_free(&verb->cut);
    memory_free(&verb->written);
    memory_free(&results);
    memory_free(&requests);
    return status;
}

static Status generate_all(GenerateVerb *verb, Device *device, const Prompts *prompts)
{
    Arena step = {0};
    TRY(device_arena(device, &step, "step", 0));
    Exec exec = {.device = device, .step = &step};
    int64_t batch = verb->slots > verb->n ? verb->slots / verb->n : 1;
    verb->stream = prompts->count == 1 && verb->n == 1;
    Status status = status_ok();
    for (int64_t p = 0; p < prompts->count && !status_failed(status); p += batch) {
        int64_t count = prompts->count - p < batch ? prompts->count - p : batch;
        status = answer(verb, &exec, prompts->text + p, count, p);
    }
    arena_close(&step);
    return status;
}

static Status generate_check(GenerateVerb *verb)
{
    if (!verb->model_path)
        return status_error(STATUS_USAGE, "generate: --model is needed; see tercet help generate");
    if ((verb->max_new != CONFIG_AUTO && verb->max_new < 1) || verb->n < 1 || verb->slots < 1 || verb->top_k < 0 ||
        verb->temperature < 0 || verb->top_p <= 0 || verb->seed < 0)
        return status_error(STATUS_USAGE, "generate: expected --max-new >= 1, --n >= 1, --slots >= 1, --top-k >= 0, "
                                          "--temperature >= 0, --top-p > 0, --seed >= 0");
    TrainedWith trained;
    TRY(trained_with(verb->model_path, &verb->with, &trained));
    verb->format = template_get(trained.template);
    verb->auto_new = trained.max_new;
    for (const char *const *stop = template_stops(verb->format); *stop && verb->stops_count < STOPS_MAX; stop++)
        verb->stops[verb->stops_count++] = *stop;
    for (int i = 0; i < verb->stop.count && verb->stops_count < STOPS_MAX; i++) {
        if (!verb->stop.items[i][0])
            return status_error(STATUS_USAGE, "--stop: an empty string would stop everything");
        verb->stops[verb->stops_count++] = verb->stop.items[i];
    }
    return status_ok();
}

Status verb_generate(Launch *launch, int argc, char **argv)
{
    GenerateVerb verb = {.with = {.section = "sft", .max_length = CONFIG_AUTO},
                         .max_new = CONFIG_AUTO,
                         .n = 1,
                         .slots = 32,
                         .temperature = 0.7,
                         .top_p = 1,
                         .wish = {.threads = CONFIG_AUTO}};
    const Option options[] = {
        {"--model", OPTION_STRING, &verb.model_path},
        {"--prompt", OPTION_STRING, &verb.prompt},
        {"--file", OPTION_STRING, &verb.file},
        {"--template", OPTION_STRING, &verb.with.template_name},
        {"--max-new", OPTION_INT, &verb.max_new},
        {"--temperature", OPTION_FLOAT, &verb.temperature},
        {"--top-k", OPTION_INT, &verb.top_k},
        {"--top-p", OPTION_FLOAT, &verb.top_p},
        {"--seed", OPTION_INT, &verb.seed},
        {"--n", OPTION_INT, &verb.n},
        {"--slots", OPTION_INT, &verb.slots},
        {"--stop", OPTION_STRINGS, &verb.stop},
        {"--threads", OPTION_INT, &verb.wish.threads},
        {"--device", OPTION_STRING, &verb.wish.device},
        {NULL, OPTION_FLAG, NULL},
    };
    const char *words[1];
    int count = 0;
    TRY(options_parse(argc, argv, options, words, 0, &count));
    TRY(generate_check(&verb));
    Prompts prompts = {0};
    Status status = prompts_read(&verb, &prompts);
    if (!status_failed(status))
        status = launch_device(launch, &verb.wish);
    if (!status_failed(status) && comm_size(launch->bootstrap.comm) != 1)
        status = status_error(STATUS_USAGE, "generate runs as one process");
    bool has_head = false;
    char digest[40];
    if (!status_failed(status))
        status = model_load(launch->bootstrap.comm, &launch->device, verb.model_path, HEAD_LM, &verb.model, &has_head,
                            &verb.tokenizer, digest);
    if (!status_failed(status))
        model_freeze(&verb.model);
    if (!status_failed(status) && !verb.tokenizer)
        status = status_error(STATUS_INPUT, "%s has no tokenizer", verb.model_path);
    if (!status_failed(status))
        status = generate_all(&verb, &launch->device, &prompts);
    if (verb.model.device)
        model_close(&verb.model);
    tokenizer_close(&verb.tokenizer);
    prompts_free(&prompts);
    return status;
}
