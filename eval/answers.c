/* answers.c -- see answers.h. */
#include "eval/answers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json.h"
#include "core/model/generate.h"
#include "core/store/checkpoint.h"
#include "rewards/score_record.h"

enum { PROMPTS_BYTES_MAX = 1 << 30 };

/* --- Prompts --------------------------------------------------------------------------------------------------------- */

static void prompts_add(Prompts *prompts, const json_t *record, int64_t line)
{
    int64_t capacity = prompts->capacity;
    memory_reserve(&prompts->record, prompts->count, &prompts->capacity);
    if (prompts->capacity != capacity)
        prompts->line = memory_resize(prompts->line, (size_t)prompts->capacity, sizeof *prompts->line);
    Text text = {0};
    json_append(&text, record);
    prompts->line[prompts->count] = line;
    prompts->record[prompts->count++] = memory_strdup(text_string(&text));
    text_free(&text);
}

static Status read_json(Prompts *prompts, int64_t limit)
{
    JsonReader *reader = NULL;
    TRY(json_reader_open(&reader, prompts->path));
    Status status = status_ok();
    while (limit == 0 || prompts->count < limit) {
        json_t *record = NULL;
        TRY_GOTO(json_reader_next(reader, &record), out);
        if (!record)
            break;
        JsonPlace place = json_reader_place(reader);
        TRY_GOTO(json_check_object(place, record), out);
        prompts_add(prompts, record, place.line);
    }
out:
    json_reader_close(&reader);
    return status;
}

static Status read_tsv(Prompts *prompts, int64_t limit)
{
    Text text = {0};
    TRY(text_read_file(prompts->path, PROMPTS_BYTES_MAX, &text));
    Status status = status_ok();
    int64_t number = 0;
    char *line = text.bytes, *end = text.bytes + text.size;
    while (line && line < end && (limit == 0 || prompts->count < limit)) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        char *next = stop ? stop + 1 : end;
        stop = stop ? stop : end;
        while (stop > line && stop[-1] == '\r')
            stop--;
        number++;
        if (stop > line) {
            char *tab = memchr(line, '\t', (size_t)(stop - line));
            json_t *record = tab ? json_pack("{s:s#}", "text", tab + 1, (int)(stop - tab - 1)) : NULL;
            if (!record) {
                status = status_error(STATUS_INPUT, "%s:%lld: expected rating, tab and a text in UTF-8", prompts->path,
                                      (long long)number);
                break;
            }
            prompts_add(prompts, record, number);
            json_decref(record);
        }
        line = next;
    }
    text_free(&text);
    return status;
}

Status prompts_read(Prompts *prompts, const char *path, int64_t limit)
{
    *prompts = (Prompts){.path = memory_strdup(path)};
    Status status = text_ends_with(path, ".tsv") ? read_tsv(prompts, limit) : read_json(prompts, limit);
    if (!status_failed(status) && prompts->count == 0)
        status = status_error(STATUS_INPUT, "%s: no prompts", path);
    if (status_failed(status))
        prompts_free(prompts);
    return status;
}

void prompts_free(Prompts *prompts)
{
    for (int64_t i = 0; i < prompts->count; i++)
        memory_free(&prompts->record[i]);
    memory_free(&prompts->record);
    memory_free(&prompts->line);
    memory_free(&prompts->path);
    *prompts = (Prompts){0};
}

/* --- Answers --------------------------------------------------------------------------------------------------------- */

typedef struct Maker {
    const AnswerOptions *options;
    const Prompts *prompts;
    Model model;
    Tokenizer *tokenizer;
    Arena step;
    Exec exec;
    Answer *answer; /* (prompts): token holds the prompt, with room for max_new more */
} Maker;

/* First prompt of the units that `rank` answers. */
static int64_t rank_first(int64_t prompts, int rank, int size)
{
    int64_t units = (prompts + UNIT_PROMPTS - 1) / UNIT_PROMPTS, first = units * rank / size * UNIT_PROMPTS;
    return first < prompts ? first : prompts;
}

static Status encode_prompts(Maker *maker)
{
    const AnswerOptions *options = maker->options;
    int64_t positions = maker->model.shape.positions_max;
    ScoreFormat format = {.format = template_get(options->template), .tokenizer = maker->tokenizer};
    Status status = status_ok();
    TemplateTokens tokens = {0};
    for (int64_t i = 0; i < maker->prompts->count && !status_failed(status); i++) {
        JsonPlace place = {maker->prompts->path, maker->prompts->line[i]};
        const char *line = maker->prompts->record[i];
        json_t *record = NULL;
        template_tokens_clear(&tokens);
        status = json_read_bytes(place.path, line, strlen(line), &record);
        if (!status_failed(status))
            status = score_record_prompt(&format, place, record, &tokens);
        json_decref(record);
        int64_t count = tokens.tokens.count;
        if (options->prompt_tokens > 0 && count > options->prompt_tokens)
            count = options->prompt_tokens;
        if (!status_failed(status) && count < 1)
            status = json_error(place, "a prompt without tokens");
        else if (!status_failed(status) && count + options->max_new > positions)
            status = json_error(place, "%lld tokens and %lld new ones, %s takes at most %lld", (long long)count,
                                (long long)options->max_new, options->model, (long long)positions);
        if (status_failed(status))
            break;
        Answer *answer = &maker->answer[i];
        answer->prompt_count = answer->count = count;
        answer->token = memory_new((size_t)(count + options->max_new), sizeof *answer->token);
        memcpy(answer->token, tokens.tokens.ids, (size_t)count * sizeof *answer->token);
    }
    template_tokens_free(&tokens);
    return status;
}

/* Prompts [from, to), at most UNIT_PROMPTS of them. */
static Status answer_unit(Maker *maker, int64_t from, int64_t to)
{
    GenerateRequest request[UNIT_PROMPTS];
    GenerateResult result[UNIT_PROMPTS];
    for (int64_t i = from; i < to; i++) {
        Answer *answer = &maker->answer[i];
        request[i - from] = (GenerateRequest){
            .prompt = answer->token,
            .prompt_count = answer->prompt_count,
            .stream = rng_stream(maker->options->seed, RNG_GENERATE, 0, (uint64_t)i),
        };
        result[i - from] = (GenerateResult){.token = answer->token + answer->prompt_count};
    }
    int32_t end = template_end_token(template_get(maker->options->template), maker->tokenizer);
    GenerateOptions options = {
        .slots = UNIT_PROMPTS,
        .max_new = maker->options->max_new,
        .temperature = (float)maker->options->temperature,
        .top_p = 1,
        .stop = &end,
        .stop_count = end >= 0 && !maker->options->ignore_end ? 1 : 0,
    };
    TRY(generate(&maker->model, &maker->exec, request, to - from, &options, result));
    for (int64_t i = from; i < to; i++) {
        maker->answer[i].count += result[i - from].count;
        maker->answer[i].stopped = result[i - from].stopped;
    }
    return status_ok();
}

/* Every rank gets what the others made: new tokens, counts, and who stopped. */
static void gather(Comm *comm, Maker *maker)
{
    int64_t prompts = maker->prompts->count, max_new = maker->options->max_new, row = max_new + 2;
    int size = comm_size(comm), rank = comm_rank(comm);
    int32_t *all = memory_new((size_t)(prompts * row), sizeof *all);
    size_t *offset = memory_new((size_t)size + 1, sizeof *offset);
    for (int r = 0; r <= size; r++)
        offset[r] = (size_t)(rank_first(prompts, r, size) * row) * sizeof *all;
    for (int64_t i = rank_first(prompts, rank, size); i < rank_first(prompts, rank + 1, size); i++) {
        const Answer *answer = &maker->answer[i];
        int32_t *own = all + i * row;
        own[0] = (int32_t)(answer->count - answer->prompt_count);
        own[1] = answer->stopped;
        memcpy(own + 2, answer->token + answer->prompt_count, (size_t)own[0] * sizeof *own);
    }
    comm_allgather_parts(comm, all, offset);
    for (int64_t i = 0; i < prompts; i++) {
        Answer *answer = &maker->answer[i];
        const int32_t *own = all + i * row;
        answer->count = answer->prompt_count + own[0];
        answer->stopped = own[1] != 0;
        memcpy(answer->token + answer->prompt_count, own + 2, (size_t)own[0] * sizeof *own);
    }
    memory_free(&offset);
    memory_free(&all);
}

/* A fresh string of the tokens' text, without zero bytes. */
static Status decode(const Tokenizer *tokenizer, const int32_t *token, int64_t count, unsigned flags, char **out)
{
    Text text = {0};
    Status status = tokenizer_decode(tokenizer, token, count, TOKENIZER_SKIP_SPECIAL | flags, &text);
    *out = memory_strdup(text_string(&text));
    text_free(&text);
    return status;
}

static Status decode_all(Maker *maker)
{
    for (int64_t i = 0; i < maker->prompts->count; i++) {
        Answer *answer = &maker->answer[i];
        TRY(decode(maker->tokenizer, answer->token, answer->prompt_count, 0, &answer->prompt));
        TRY(decode(maker->tokenizer, answer->token + answer->prompt_count, answer->count - answer->prompt_count,
                   TOKENIZER_CONTINUE, &answer->response));
    }
    return status_ok();
}

static Status make(Maker *maker, Comm *comm, Device *device, char digest[40])
{
    const AnswerOptions *options = maker->options;
    int64_t prompts = maker->prompts->count;
    bool has_head = false;
    TRY(model_load(comm, device, options->model, HEAD_LM, &maker->model, &has_head, &maker->tokenizer, digest));
    model_freeze(&maker->model);
    Status status = status_ok();
    if (!maker->tokenizer)
        status = status_error(STATUS_INPUT, "%s has no tokenizer", options->model);
    else if (!has_head)
        status = status_error(STATUS_INPUT, "%s: expected a policy, found a model without a language-model head",
                              options->model);
    if (!status_failed(status))
        status = device_arena(device, &maker->step, "step", 0);
    maker->exec = (Exec){device, &maker->step, NULL};
    if (!status_failed(status))
        status = encode_prompts(maker);
    int64_t from = rank_first(prompts, comm_rank(comm), comm_size(comm));
    int64_t end = rank_first(prompts, comm_rank(comm) + 1, comm_size(comm));
    for (int64_t to; from < end && !status_failed(status); from = to) {
        to = from + UNIT_PROMPTS < prompts ? from + UNIT_PROMPTS : prompts;
        status = answer_unit(maker, from, to);
    }
    TRY(comm_agree(comm, status));
    gather(comm, maker);
    return comm_agree(comm, decode_all(maker));
}

Status answers_make(Answers *answers, Comm *comm, Device *device, const Prompts *prompts, const AnswerOptions *options)
{
    REQUIRE(options->max_new >= 1, "answers of %lld tokens", (long long)options->max_new);
    *answers = (Answers){.count = prompts->count, .answer = memory_new((size_t)prompts->count, sizeof(Answer))};
    Maker maker = {.options = options, .prompts = prompts, .answer = answers->answer};
    Status status = make(&maker, comm, device, answers->digest);
    answers->tokenizer = maker.tokenizer;
    if (maker.model.device)
        model_close(&maker.model);
    if (maker.step.base)
        arena_close(&maker.step);
    if (status_failed(status))
        answers_free(answers);
    return status;
}

void answers_free(Answers *answers)
{
    for (int64_t i = 0; i < answers->count; i++) {
        memory_free(&answers->answer[i].token);
        memory_free(&answers->answer[i].prompt);
        memory_free(&answers->answer[i].response);
    }
    memory_free(&answers->answer);
    tokenizer_close(&answers->tokenizer);
    *answers = (Answers){0};
}

static Status judge_unit(const Answers *answers, Exec *exec, const Prompts *prompts, const Rewards *rewards,
                         int64_t from, int64_t to, float *const score[REWARDS_MAX])
{
    RewardSample sample[UNIT_PROMPTS];
    float total[UNIT_PROMPTS], *component[REWARDS_MAX] = {0};
    for (int64_t i = from; i < to; i++) {
        const Answer *answer = &answers->answer[i];
        sample[i - from] = (RewardSample){
            .prompt = answer->prompt,
            .response = answer->response,
            .fields = prompts->record[i],
            .token = answer->token,
            .count = answer->count,
            .prompt_count = answer->prompt_count,
            .stopped = answer->stopped,
        };
    }
    for (int r = 0; r < rewards->count; r++)
        component[r] = score[r] + from;
    return rewards_score(rewards, exec, sample, to - from, component, total);
}

Status answers_judge(const Answers *answers, Comm *comm, Device *device, const Prompts *prompts, const Rewards *rewards,
                     float *const score[REWARDS_MAX])
{
    Arena step = {0};
    TRY(comm_agree(comm, device_arena(device, &step, "step", 0)));
    Exec exec = {device, &step, NULL};
    int size = comm_size(comm), rank = comm_rank(comm);
    int64_t from = rank_first(answers->count, rank, size), end = rank_first(answers->count, rank + 1, size);
    Status status = status_ok();
    for (int64_t to; from < end && !status_failed(status); from = to) {
        to = from + UNIT_PROMPTS < answers->count ? from + UNIT_PROMPTS : answers->count;
        status = judge_unit(answers, &exec, prompts, rewards, from, to, score);
    }
    status = comm_agree(comm, status);
    if (!status_failed(status)) {
        size_t *offset = memory_new((size_t)size + 1, sizeof *offset);
        for (int r = 0; r <= size; r++)
            offset[r] = (size_t)rank_first(answers->count, r, size) * sizeof(float);
        for (int r = 0; r < rewards->count; r++)
            comm_allgather_parts(comm, score[r], offset);
        memory_free(&offset);
    }
    arena_close(&step);
    return status;
}
