/* work_score.c -- a reward model scoring many texts, by the judge that PPO and `tercet score` use; and how many tokens real texts have.
 *
 * score: texts come in the order of the file of their lengths, packed into units of unit_tokens. */
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/data/json.h"
#include "rewards/reward_model.h"
#include "tests/bench/work.h"

typedef struct Score {
    RewardModel judge; /* model and unit_tokens alone: texts are tokens already */
    int64_t count, tokens;
    int64_t *length;       /* (count) */
    int32_t *flat;         /* (tokens) */
    const int32_t **token; /* (count) into flat */
    float *score;          /* (count) */
} Score;

static Status score_open(Bench *bench, void **self)
{
    Score *own = memory_new(1, sizeof *own);
    *self = own;
    own->judge.unit_tokens = bench_int(bench, "unit_tokens", 4096);
    int64_t longest;
    own->count = bench_int(bench, "texts", 512);
    TRY(lengths_read(bench_text(bench, "lengths", NULL), own->count, bench_int(bench, "tokens", 128), &own->length,
                     &own->tokens, &longest));
    TRY(model_random(bench, bench_text(bench, "shape", "smol-135m"), HEAD_SCALAR, &own->judge.model));
    own->flat = memory_new((size_t)own->tokens, sizeof *own->flat);
    own->token = memory_new((size_t)own->count, sizeof *own->token);
    own->score = memory_new((size_t)own->count, sizeof *own->score);
    tokens_random(7, own->judge.model.shape.vocab, own->tokens, own->flat);
    int64_t at = 0;
    for (int64_t i = 0; i < own->count; at += own->length[i++])
        own->token[i] = own->flat + at;
    return status_ok();
}

static Status score_once(Bench *bench, void *self, Figures *figures)
{
    Score *own = self;
    double since = profile_seconds();
    TRY(reward_model_score(&own->judge, &bench->exec, own->token, own->length, own->count, own->score));
    double seconds = profile_seconds() - since;
    figures_add(figures, "seconds", seconds);
    figures_add(figures, "tokens", (double)own->tokens);
    figures_add(figures, "pairs", lengths_pairs(own->length, own->count));
    figures_add(figures, "tokens_per_second", (double)own->tokens / seconds);
    return status_ok();
}

static void score_close(Bench *bench, void *self)
{
    (void)bench;
    Score *own = self;
    if (own->judge.model.device)
        model_close(&own->judge.model);
    memory_free(&own->score);
    memory_free(&own->token);
    memory_free(&own->flat);
    memory_free(&own->length);
    memory_free(&own);
}

const Work work_score = {
    .name = "score",
    .help = "reward-model scoring: shape=smol-135m texts=512 lengths=FILE (or tokens=128) unit_tokens=4096",
    .open = score_open,
    .once = score_once,
    .close = score_close,
};

/* --- Lengths of texts ------------------------------------------------------------------------------------------------- */

static Status lengths_write(Tokenizer *tokenizer, JsonReader *reader, FILE *out, int64_t longest)
{
    for (;;) {
        json_t *record = NULL;
        TRY(json_reader_next(reader, &record));
        if (!record)
            return status_ok();
        const char *text = NULL;
        size_t size = 0;
        TRY(json_get_string(json_reader_place(reader), record, "text", JSON_REQUIRED, &text, &size));
        TokenList list = {0};
        Status status = tokenizer_encode(tokenizer, text, size, 0, &list);
        int64_t length = list.count < longest ? list.count : longest;
        token_list_free(&list);
        TRY(status);
        if (length > 0)
            fprintf(out, "%lld\n", (long long)length);
    }
}

static Status lengths_open(Bench *bench, void **self)
{
    *self = NULL;
    const char *texts = bench_text(bench, "texts", NULL), *path = bench_text(bench, "tokenizer", NULL);
    const char *to = bench_text(bench, "out", NULL);
    int64_t longest = bench_int(bench, "max", 1024);
    if (!texts || !path || !to)
        return status_error(STATUS_USAGE, "lengths: texts=, tokenizer= and out= are needed");
    Tokenizer *tokenizer = NULL;
    JsonReader *reader = NULL;
    TRY(tokenizer_open(&tokenizer, path));
    Status status = json_reader_open(&reader, texts);
    if (!status_failed(status)) {
        FILE *out = fopen(to, "w");
        status = out ? lengths_write(tokenizer, reader, out, longest) : status_error(STATUS_IO, "cannot write %s", to);
        if (out && fclose(out) != 0 && !status_failed(status))
            status = status_error(STATUS_IO, "cannot write %s", to);
    }
    json_reader_close(&reader);
    tokenizer_close(&tokenizer);
    return status;
}

static Status lengths_once(Bench *bench, void *self, Figures *figures)
{
    (void)bench;
    (void)self;
    figures_add(figures, "seconds", 0);
    return status_ok();
}

static void lengths_close(Bench *bench, void *self)
{
    (void)bench;
    (void)self;
}

const Work work_lengths = {
    .name = "lengths",
    .help = "writes the tokens of each text, one number a line: texts=FILE.jsonl tokenizer=PATH out=FILE max=1024",
    .open = lengths_open,
    .once = lengths_once,
    .close = lengths_close,
};
