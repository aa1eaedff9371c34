/* score.c -- see score.h. */
#include "rewards/score.h"

#include <math.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/data/json_writer.h"
#include "rewards/score_record.h"

/* Units in one round: enough that ranks have their share, few enough that a stream keeps flowing. */
enum { ROUND_UNITS = 16 };

typedef struct Entry {
    json_t *record;
    ScoreRecord parsed;
} Entry;

typedef struct Score {
    const ScoreOptions *options;
    Comm *comm;
    RewardModel judge;
    Arena step;
    Exec exec;
    /* rank 0 alone */
    JsonReader *reader;
    JsonWriter *writer;
    Entry *entry;
    int64_t entries, capacity;
    SequenceList list;
    bool ended;     /* nothing more to read, or a failure */
    Status pending; /* the failure that ended reading */
    Text pending_message;
    /* Welford's running moments, in order of the input. */
    double mean, m2;
    ScoreReport report;
} Score;

/* Records until the round is full. A failure ends the input: what was read before it is still scored. */
static void read_round(Score *score)
{
    const ScoreOptions *options = score->options;
    ScoreFormat format = {template_get(options->template), score->judge.tokenizer, options->append_eos,
                          options->max_length, score->judge.model.shape.positions_max};
    sequence_list_clear(&score->list);
    score->entries = 0;
    while (!score->ended && score->list.tokens < ROUND_UNITS * options->unit_tokens) {
        json_t *record = NULL;
        ScoreRecord parsed = {0};
        Status status = json_reader_next(score->reader, &record);
        if (!status_failed(status) && record)
            status = score_record_parse(&format, json_reader_place(score->reader), record, &score->list, &parsed);
        if (status_failed(status)) {
            score->pending = status;
            text_append_string(&score->pending_message, status_message());
        }
        if (status_failed(status) || !record) {
            score->ended = true;
            return;
        }
        memory_reserve(&score->entry, score->entries, &score->capacity);
        score->entry[score->entries++] = (Entry){json_incref(record), parsed};
    }
}

static Status score_unit(void *context, const SequenceList *list, int64_t from, int64_t to, float *result)
{
    Score *score = context;
    int64_t count = to - from;
    const int32_t **token = memory_new((size_t)count, sizeof *token);
    int64_t *length = memory_new((size_t)count, sizeof *length);
    for (int64_t i = 0; i < count; i++) {
        token[i] = list->token + list->start[from + i];
        length[i] = list->start[from + i + 1] - list->start[from + i];
    }
    Status status = reward_model_score(&score->judge, &score->exec, token, length, count, result + from);
    for (int64_t i = from; i < to && !status_failed(status); i++) {
        if (score->options->normalise)
            result[i] = (float)(((double)result[i] - score->judge.mean) / score->judge.deviation);
        if (!isfinite(result[i]))
            status = status_error(STATUS_NUMERIC, "%s: a reward is %g", score->options->model, (double)result[i]);
    }
    memory_free(&length);
    memory_free(&token);
    return status;
}

static void count_pair(ScoreReport *report, float better, float worse)
{
    report->pairs++;
    report->correct += better > worse;
    report->tied += better == worse;
    report->margin += ((double)better - (double)worse - report->margin) / (double)report->pairs;
}

static void count_entry(Score *score, const ScoreRecord *parsed, const float *reward)
{
    ScoreReport *report = &score->report;
    report->records++;
    for (int64_t i = 0; i < parsed->count; i++) {
        double value = reward[i];
        report->least = report->answers == 0 ? value : fmin(report->least, value);
        report->most = report->answers == 0 ? value : fmax(report->most, value);
        report->answers++;
        double delta = value - score->mean;
        score->mean += delta / (double)report->answers;
        score->m2 += delta * (value - score->mean);
    }
    if (parsed->shape == SCORE_PAIR)
        count_pair(report, reward[0], reward[1]);
    for (int64_t i = 0; parsed->strength && i < parsed->count; i++)
        for (int64_t j = 0; j < parsed->count; j++)
            if (parsed->strength[i] > parsed->strength[j])
                count_pair(report, reward[i], reward[j]);
}

static Status write_entry(Score *score, Entry *entry, const float *reward)
{
    json_t *record = entry->record;
    if (entry->parsed.shape == SCORE_ONE) {
        json_object_set_new(record, "reward", json_float(reward[0]));
    } else {
        json_t *list = json_array();
        for (int64_t i = 0; i < entry->parsed.count; i++)
            json_array_append_new(list, json_float(reward[i]));
        json_object_set_new(record, "rewards", list);
    }
    if (entry->parsed.shape == SCORE_PAIR)
        json_object_set_new(record, "margin", json_float(reward[0] - reward[1]));
    return score->writer ? json_writer_line(score->writer, record) : status_ok();
}

/* Rank 0: the round's lines and statistics. `reward` NULL: the round failed, only let go of it. */
static Status finish_round(Score *score, const float *reward)
{
    Status status = status_ok();
    for (int64_t i = 0; i < score->entries; i++) {
        Entry *entry = &score->entry[i];
        if (reward && !status_failed(status)) {
            const float *own = reward + entry->parsed.first;
            count_entry(score, &entry->parsed, own);
            status = write_entry(score, entry, own);
        }
        json_decref(entry->record);
        memory_free(&entry->parsed.strength);
    }
    if (reward && !status_failed(status) && score->writer)
        status = json_writer_flush(score->writer);
    score->report.tokens += reward ? score->list.tokens : 0;
    score->entries = 0;
    return status;
}

static Status score_rounds(Score *score)
{
    bool root = comm_rank(score->comm) == 0;
    for (uint8_t ended = 0; !ended;) {
        if (root)
            read_round(score);
        float *reward = NULL;
        Status status =
            sequence_list_run(score->comm, &score->list, score->options->unit_tokens, score_unit, score, &reward);
        if (root) {
            Status written = finish_round(score, reward);
            if (!status_failed(status))
                status = written;
        }
        memory_free(&reward);
        TRY(comm_agree(score->comm, status));
        ended = score->ended;
        comm_broadcast(score->comm, 0, &ended, sizeof ended);
    }
    Status status = score->pending;
    if (status_failed(status))
        status = status_error(status.code, "%s", text_string(&score->pending_message));
    return comm_agree(score->comm, status);
}

static Status score_open(Score *score, Device *device)
{
    const ScoreOptions *options = score->options;
    TRY(reward_model_open(&score->judge, score->comm, device, options->model, options->unit_tokens));
    Status status = device_arena(device, &score->step, "step", 0);
    score->exec = (Exec){device, &score->step, NULL};
    if (!status_failed(status) && comm_rank(score->comm) == 0) {
        status = json_reader_open(&score->reader, options->input);
        if (!status_failed(status) && options->output)
            status = json_writer_open(&score->writer, options->output);
    }
    return comm_agree(score->comm, status);
}

Status score_run(Comm *comm, Device *device, const ScoreOptions *options, ScoreReport *report)
{
    REQUIRE(options->unit_tokens >= 1, "units of %lld tokens", (long long)options->unit_tokens);
    Score score = {.options = options, .comm = comm};
    double started = profile_seconds();
    Status status = score_open(&score, device);
    if (!status_failed(status))
        status = score_rounds(&score);
    /* A file appears only when all of it is there; a pipe has had its lines already. */
    Status closed = json_writer_close(&score.writer, !status_failed(status));
    if (!status_failed(status))
        status = comm_agree(comm, closed);
    ScoreReport *own = &score.report;
    own->mean = score.mean;
    own->deviation = own->answers > 1 ? sqrt(score.m2 / (double)(own->answers - 1)) : 0;
    own->seconds = profile_seconds() - started;
    comm_broadcast(comm, 0, own, sizeof *own);
    *report = *own;
    json_reader_close(&score.reader);
    reward_model_close(&score.judge);
    if (score.step.base)
        arena_close(&score.step);
    sequence_list_free(&score.list);
    memory_free(&score.entry);
    text_free(&score.pending_message);
    return status;
}

void score_report_log(const ScoreReport *report)
{
    log_info("%lld records, %lld answers: reward %.4f mean, %.4f deviation, %.4f to %.4f", (long long)report->records,
             (long long)report->answers, report->mean, report->deviation, report->least, report->most);
    if (report->pairs > 0)
        log_info("%lld pairs: accuracy %.4f, mean margin %.4f%s", (long long)report->pairs,
                 (double)report->correct / (double)report->pairs, report->margin,
                 report->tied ? " (ties count as wrong)" : "");
    log_info("%.1f s, %s tokens/s", report->seconds,
             text_count(report->seconds > 0 ? (double)report->tokens / report->seconds : 0));
}
