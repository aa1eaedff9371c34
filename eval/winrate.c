/* winrate.c -- see winrate.h. */
#include "eval/winrate.h"

#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/data/json_writer.h"
#include "eval/judges.h"

typedef struct Winrate {
    const WinrateOptions *options;
    Comm *comm;
    Device *device;
    Judges judges;
    Prompts prompts;
    Answers side[2];
    Rewards rewards; /* those of the side at hand */
    float *score[2][REWARDS_MAX];
} Winrate;

static Status judge_side(Winrate *winrate, int side, WinrateReport *report)
{
    Answers *answers = &winrate->side[side];
    TRY(judges_open(&winrate->judges, winrate->comm, winrate->device, answers->tokenizer, &winrate->rewards));
    Rewards *rewards = &winrate->rewards;
    report->judges = rewards->count;
    for (int r = 0; r < rewards->count; r++) {
        snprintf(report->judge[r].name, sizeof report->judge[r].name, "%s", rewards->item[r].name);
        winrate->score[side][r] = memory_new((size_t)answers->count, sizeof(float));
    }
    Status status =
        answers_judge(answers, winrate->comm, winrate->device, &winrate->prompts, rewards, winrate->score[side]);
    rewards_close(rewards);
    return status;
}

/* Mean and interval of one side's rewards. */
static double measure(const float *score, int64_t count, uint64_t seed, Interval *interval)
{
    double sum = 0, *value = memory_new((size_t)count, sizeof *value);
    bool shares = true;
    for (int64_t i = 0; i < count; i++) {
        value[i] = score[i];
        sum += value[i];
        shares = shares && (value[i] == 0 || value[i] == 1);
    }
    *interval = shares ? interval_wilson(sum, (double)count) : interval_bootstrap(value, count, seed);
    memory_free(&value);
    return sum / (double)count;
}

static void compare(const float *a, const float *b, int64_t count, uint64_t seed, WinrateJudge *judge)
{
    double sum = 0, *value = memory_new((size_t)count, sizeof *value);
    for (int64_t i = 0; i < count; i++) {
        judge->wins += a[i] > b[i];
        judge->losses += a[i] < b[i];
        judge->ties += a[i] == b[i];
        value[i] = a[i] > b[i] ? 1 : a[i] < b[i] ? 0 : 0.5;
        sum += value[i];
    }
    judge->rate = sum / (double)count;
    judge->rate_interval = interval_bootstrap(value, count, seed);
    memory_free(&value);
    judge->mean_a = measure(a, count, seed, &judge->interval_a);
    judge->mean_b = measure(b, count, seed, &judge->interval_b);
}

static void measure_answers(const Answers *answers, double *length, double *stopped)
{
    for (int64_t i = 0; i < answers->count; i++) {
        *length += (double)(answers->answer[i].count - answers->answer[i].prompt_count) / (double)answers->count;
        *stopped += answers->answer[i].stopped ? 1 / (double)answers->count : 0;
    }
}

/* --- Out ------------------------------------------------------------------------------------------------------------- */

static json_t *text_value(const char *text)
{
    json_t *value = json_string(text);
    return value ? value : json_null();
}

static Status write_lines(const Winrate *winrate, const WinrateReport *report, JsonWriter *writer)
{
    Status status = status_ok();
    for (int64_t i = 0; i < winrate->prompts.count && !status_failed(status); i++) {
        json_t *record = json_object(), *judges = json_object();
        json_object_set_new(record, "prompt", text_value(winrate->side[0].answer[i].prompt));
        json_object_set_new(record, "a", text_value(winrate->side[0].answer[i].response));
        json_object_set_new(record, "b", text_value(winrate->side[1].answer[i].response));
        for (int r = 0; r < report->judges; r++)
            json_object_set_new(
                judges, report->judge[r].name,
                json_pack("[o,o]", json_float(winrate->score[0][r][i]), json_float(winrate->score[1][r][i])));
        json_object_set_new(record, "judges", judges);
        status = json_writer_line(writer, record);
        json_decref(record);
    }
    return status;
}

static json_t *summary_value(const Winrate *winrate, const WinrateReport *report)
{
    json_t *judges = json_array();
    for (int r = 0; r < report->judges; r++) {
        const WinrateJudge *judge = &report->judge[r];
        json_array_append_new(judges,
                              json_pack("{s:s,s:I,s:I,s:I,s:f,s:[f,f],s:f,s:[f,f],s:f,s:[f,f]}", "name", judge->name,
                                        "wins", (json_int_t)judge->wins, "ties", (json_int_t)judge->ties, "losses",
                                        (json_int_t)judge->losses, "rate", judge->rate, "rate_interval",
                                        judge->rate_interval.low, judge->rate_interval.high, "mean_a", judge->mean_a,
                                        "interval_a", judge->interval_a.low, judge->interval_a.high, "mean_b",
                                        judge->mean_b, "interval_b", judge->interval_b.low, judge->interval_b.high));
    }
    return json_pack("{s:s,s:s,s:s,s:s,s:I,s:f,s:f,s:f,s:f,s:o}", "a", winrate->options->answers.model, "a_digest",
                     winrate->side[0].digest, "b", winrate->options->against, "b_digest", winrate->side[1].digest,
                     "prompts", (json_int_t)report->prompts, "length_a", report->length_a, "length_b", report->length_b,
                     "stopped_a", report->stopped_a, "stopped_b", report->stopped_b, "judges", judges);
}

static Status write_summary(const Winrate *winrate, const WinrateReport *report, JsonWriter *writer)
{
    json_t *value = summary_value(winrate, report);
    if (!value)
        return status_error(STATUS_INPUT, "a path or a judge's name is no UTF-8");
    Status status = json_writer_line(writer, value);
    json_decref(value);
    return status;
}

/* Rank 0. */
static Status write_files(const Winrate *winrate, const WinrateReport *report)
{
    const char *path[] = {winrate->options->output, winrate->options->summary};
    for (int k = 0; k < 2; k++) {
        JsonWriter *writer = NULL;
        if (!path[k])
            continue;
        TRY(json_writer_open(&writer, path[k]));
        Status status = k == 0 ? write_lines(winrate, report, writer) : write_summary(winrate, report, writer);
        Status closed = json_writer_close(&writer, !status_failed(status));
        TRY(status);
        TRY(closed);
    }
    return status_ok();
}

static Status run(Winrate *winrate, WinrateReport *report)
{
    const WinrateOptions *options = winrate->options;
    Comm *comm = winrate->comm;
    TRY(comm_agree(comm, judges_parse(&winrate->judges, options->judges, options->judges_count)));
    TRY(comm_agree(comm, prompts_read(&winrate->prompts, options->prompts, options->limit)));
    AnswerOptions against = options->answers;
    against.model = options->against;
    TRY(answers_make(&winrate->side[0], comm, winrate->device, &winrate->prompts, &options->answers));
    TRY(answers_make(&winrate->side[1], comm, winrate->device, &winrate->prompts, &against));
    if (options->answers.prompt_tokens > 0 &&
        tokenizer_digest(winrate->side[0].tokenizer) != tokenizer_digest(winrate->side[1].tokenizer))
        return status_error(STATUS_USAGE,
                            "prompts cut to a number of tokens differ between %s and %s, which have "
                            "different tokenizers",
                            options->answers.model, options->against);
    for (int side = 0; side < 2; side++)
        TRY(judge_side(winrate, side, report));
    report->prompts = winrate->prompts.count;
    for (int r = 0; r < report->judges; r++)
        compare(winrate->score[0][r], winrate->score[1][r], report->prompts, options->answers.seed, &report->judge[r]);
    measure_answers(&winrate->side[0], &report->length_a, &report->stopped_a);
    measure_answers(&winrate->side[1], &report->length_b, &report->stopped_b);
    return comm_agree(comm, comm_rank(comm) == 0 ? write_files(winrate, report) : status_ok());
}

Status winrate_run(Comm *comm, Device *device, const WinrateOptions *options, WinrateReport *report)
{
    *report = (WinrateReport){0};
    Winrate winrate = {.options = options, .comm = comm, .device = device};
    Status status = run(&winrate, report);
    for (int side = 0; side < 2; side++) {
        answers_free(&winrate.side[side]);
        for (int r = 0; r < REWARDS_MAX; r++)
            memory_free(&winrate.score[side][r]);
    }
    prompts_free(&winrate.prompts);
    judges_free(&winrate.judges);
    return status;
}

void winrate_table(const WinrateReport *report, Text *text)
{
    text_printf(text, "%lld prompts        A wins  ties    B wins  win rate  95 %% interval     mean A     mean B\n",
                (long long)report->prompts);
    for (int r = 0; r < report->judges; r++) {
        const WinrateJudge *judge = &report->judge[r];
        text_printf(text, "%-18.18s %6lld %6lld  %6lld    %.3f    [%.3f, %.3f]  %9.4f  %9.4f\n", judge->name,
                    (long long)judge->wins, (long long)judge->ties, (long long)judge->losses, judge->rate,
                    judge->rate_interval.low, judge->rate_interval.high, judge->mean_a, judge->mean_b);
    }
    text_printf(text, "answers: A %.1f tokens, %.0f %% ended by themselves; B %.1f tokens, %.0f %%\n", report->length_a,
                100 * report->stopped_a, report->length_b, 100 * report->stopped_b);
}
