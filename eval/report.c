/* report.c -- see report.h. */
#include "eval/report.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"
#include "core/data/json.h"

enum { SUMMARY_BYTES_MAX = 16 << 20, TENTH = 10 };

/* One number over a stage's steps. */
typedef struct Series {
    char *name;
    double *value;
    int64_t count, capacity;
} Series;

typedef struct Figures {
    Series *series;
    int64_t count, capacity;
    int64_t steps; /* of the last line */
} Figures;

static Series *series_find(const Figures *figures, const char *name)
{
    for (int64_t i = 0; i < figures->count; i++)
        if (strcmp(figures->series[i].name, name) == 0)
            return &figures->series[i];
    return NULL;
}

static void series_add(Figures *figures, const char *name, double value)
{
    Series *series = series_find(figures, name);
    if (!series) {
        memory_reserve(&figures->series, figures->count, &figures->capacity);
        series = &figures->series[figures->count++];
        *series = (Series){.name = memory_strdup(name)};
    }
    memory_reserve(&series->value, series->count, &series->capacity);
    series->value[series->count++] = value;
}

static void figures_free(Figures *figures)
{
    for (int64_t i = 0; i < figures->count; i++) {
        memory_free(&figures->series[i].name);
        memory_free(&figures->series[i].value);
    }
    memory_free(&figures->series);
    *figures = (Figures){0};
}

/* "PHASE/NAME" of every number in DIRECTORY/STAGE/metrics.jsonl. No file, no figures. */
static Status read_metrics(const char *directory, const char *stage, Figures *figures)
{
    Text path = {0}, name = {0};
    text_printf(&path, "%s/%s/metrics.jsonl", directory, stage);
    JsonReader *reader = NULL;
    Status status = status_ok();
    if (access(text_string(&path), F_OK) != 0)
        goto out;
    TRY_GOTO(json_reader_open(&reader, text_string(&path)), out);
    for (;;) {
        json_t *line = NULL, *value = NULL;
        const char *key = NULL, *phase = NULL;
        TRY_GOTO(json_reader_next(reader, &line), out);
        if (!line)
            break;
        JsonPlace place = json_reader_place(reader);
        TRY_GOTO(json_check_object(place, line), out);
        TRY_GOTO(json_get_string(place, line, "phase", JSON_REQUIRED, &phase, NULL), out);
        TRY_GOTO(json_get_int64(place, line, "step", JSON_REQUIRED, &figures->steps), out);
        json_object_foreach(line, key, value)
        {
            if (!json_is_number(value) || strcmp(key, "step") == 0)
                continue;
            text_clear(&name);
            text_printf(&name, "%s/%s", phase, key);
            series_add(figures, text_string(&name), json_number_value(value));
        }
    }
out:
    json_reader_close(&reader);
    text_free(&name);
    text_free(&path);
    return status;
}

/* --- The table of stages --------------------------------------------------------------------------------------------- */

static void append_row(Text *text, const char *stage, const char *what, const Series *series, const char *format)
{
    if (!series)
        return;
    char first[32], last[32];
    snprintf(first, sizeof first, format, series->value[0]);
    snprintf(last, sizeof last, format, series->value[series->count - 1]);
    text_printf(text, "%-5s %-34s %12s %12s\n", stage, what, first, last);
}

typedef struct Row {
    const char *stage, *series, *what;
} Row;

static const Row rows[] = {
    {"sft", "train/loss", "loss on its training data"},
    {"sft", "evaluate/held_out_loss", "loss on held-out data"},
    {"sft", "evaluate/perplexity", "perplexity on held-out data"},
    {"rm", "train/loss", "ranking loss on its training data"},
    {"rm", "evaluate/accuracy", "accuracy on held-out pairs"},
    {"rm", "evaluate/margin", "margin on held-out pairs"},
    {"ppo", "iteration/reward", "reward"},
    {"ppo", "iteration/kl", "KL to the reference, nats"},
    {"ppo", "iteration/entropy", "entropy, nats per token"},
    {"ppo", "iteration/length", "tokens per response"},
    {"ppo", "iteration/explained_variance", "the critic's explained variance"},
};

static const char *const stages[] = {"sft", "rm", "ppo"};
enum { STAGES = 3 };

static Status append_stages(const char *directory, Text *text, bool *any)
{
    bool headed = false;
    for (int s = 0; s < STAGES; s++) {
        Figures figures = {0};
        Status status = read_metrics(directory, stages[s], &figures);
        if (!status_failed(status) && figures.count > 0 && !headed) {
            text_printf(text, "%-5s %-34s %12s %12s\n", "stage", "", "first", "last");
            headed = *any = true;
        }
        for (size_t r = 0; r < sizeof rows / sizeof rows[0] && !status_failed(status); r++)
            if (strcmp(rows[r].stage, stages[s]) == 0)
                append_row(text, stages[s], rows[r].what, series_find(&figures, rows[r].series), "%.4f");
        static const char judge[] = "iteration/reward/";
        for (int64_t i = 0; i < figures.count && !status_failed(status); i++)
            if (text_starts_with(figures.series[i].name, judge)) {
                Text what = {0};
                text_printf(&what, "judge: %s", figures.series[i].name + strlen(judge));
                append_row(text, stages[s], text_string(&what), &figures.series[i], "%.4f");
                text_free(&what);
            }
        figures_free(&figures);
        TRY(status);
    }
    return status_ok();
}

/* --- Win rates ------------------------------------------------------------------------------------------------------- */

typedef Status (*SummaryVisit)(void *context, JsonPlace place, const json_t *summary);

static int is_summary(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && text_ends_with(entry->d_name, ".json");
}

/* Every .json file in eval/, by name. */
static Status visit_summaries(const char *directory, SummaryVisit visit, void *context)
{
    char *folder = text_join_path(directory, "eval");
    struct dirent **entry = NULL;
    int count = scandir(folder, &entry, is_summary, alphasort);
    Status status = count >= 0 || errno == ENOENT
                        ? status_ok()
                        : status_error(STATUS_IO, "%s: cannot list: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        char *path = text_join_path(folder, entry[i]->d_name);
        json_t *summary = NULL;
        if (!status_failed(status))
            status = json_read_file(path, SUMMARY_BYTES_MAX, &summary);
        if (!status_failed(status))
            status = visit(context, (JsonPlace){path, 0}, summary);
        json_decref(summary);
        memory_free(&path);
        free(entry[i]);
    }
    free(entry);
    memory_free(&folder);
    return status;
}

typedef struct Verdict {
    const char *name;
    double rate, low, high, mean_a, mean_b;
} Verdict;

static Status read_verdict(JsonPlace place, const json_t *judge, Verdict *verdict)
{
    const json_t *interval = NULL;
    TRY(json_check_object(place, judge));
    TRY(json_get_string(place, judge, "name", JSON_REQUIRED, &verdict->name, NULL));
    TRY(json_get_double(place, judge, "rate", JSON_REQUIRED, &verdict->rate));
    TRY(json_get_double(place, judge, "mean_a", JSON_REQUIRED, &verdict->mean_a));
    TRY(json_get_double(place, judge, "mean_b", JSON_REQUIRED, &verdict->mean_b));
    TRY(json_get_array(place, judge, "rate_interval", JSON_REQUIRED, &interval));
    if (json_array_size(interval) != 2)
        return json_error(place, "\"rate_interval\": expected two numbers, found %zu", json_array_size(interval));
    verdict->low = json_number_value(json_array_get(interval, 0));
    verdict->high = json_number_value(json_array_get(interval, 1));
    return status_ok();
}

typedef struct Table {
    Text *text;
    bool *any;
} Table;

static Status append_summary(void *context, JsonPlace place, const json_t *summary)
{
    Table *table = context;
    const json_t *judges = NULL;
    const char *a = NULL, *b = NULL;
    int64_t prompts = 0;
    TRY(json_check_object(place, summary));
    if (!json_has(summary, "judges"))
        return status_ok();
    TRY(json_get_array(place, summary, "judges", JSON_REQUIRED, &judges));
    TRY(json_get_string(place, summary, "a", JSON_REQUIRED, &a, NULL));
    TRY(json_get_string(place, summary, "b", JSON_REQUIRED, &b, NULL));
    TRY(json_get_int64(place, summary, "prompts", JSON_REQUIRED, &prompts));
    text_printf(table->text, "\n%s against %s on %lld held-out prompts\n", a, b, (long long)prompts);
    text_printf(table->text, "  %-22s %8s  %-16s %12s %12s\n", "judge", "win rate", "95 % interval", "its mean",
                "theirs");
    for (size_t i = 0; i < json_array_size(judges); i++) {
        Verdict verdict = {0};
        TRY(read_verdict(place, json_array_get(judges, i), &verdict));
        text_printf(table->text, "  %-22.22s %8.3f  [%.3f, %.3f]   %12.4f %12.4f\n", verdict.name, verdict.rate,
                    verdict.low, verdict.high, verdict.mean_a, verdict.mean_b);
    }
    *table->any = true;
    return status_ok();
}

/* --- Time ------------------------------------------------------------------------------------------------------------ */

/* Seconds of each phase, summed over a stage's steps. */
static Status read_timings(const char *directory, const char *stage, Figures *figures)
{
    Text path = {0};
    text_printf(&path, "%s/%s/timings.jsonl", directory, stage);
    JsonReader *reader = NULL;
    Status status = status_ok();
    if (access(text_string(&path), F_OK) != 0)
        goto out;
    TRY_GOTO(json_reader_open(&reader, text_string(&path)), out);
    for (;;) {
        json_t *line = NULL, *phase = NULL;
        const json_t *phases = NULL;
        const char *name = NULL;
        TRY_GOTO(json_reader_next(reader, &line), out);
        if (!line)
            break;
        JsonPlace place = json_reader_place(reader);
        TRY_GOTO(json_check_object(place, line), out);
        TRY_GOTO(json_get_object(place, line, "phases", JSON_REQUIRED, &phases), out);
        json_object_foreach((json_t *)phases, name, phase)
        {
            double seconds = 0;
            TRY_GOTO(json_check_object(place, phase), out);
            TRY_GOTO(json_get_double(place, phase, "seconds", JSON_REQUIRED, &seconds), out);
            Series *series = series_find(figures, name);
            if (series)
                series->value[0] += seconds;
            else
                series_add(figures, name, seconds);
        }
    }
out:
    json_reader_close(&reader);
    text_free(&path);
    return status;
}

static Status append_times(const char *directory, Text *text)
{
    bool headed = false;
    double total = 0;
    for (int s = 0; s < STAGES; s++) {
        Figures figures = {0};
        double seconds = 0;
        Status status = read_timings(directory, stages[s], &figures);
        if (!status_failed(status) && figures.count > 0) {
            if (!headed)
                text_append_string(text, "\nseconds by phase\n");
            headed = true;
            Text phases = {0};
            for (int64_t i = 0; i < figures.count; i++) {
                seconds += figures.series[i].value[0];
                text_printf(&phases, "  %s %.1f", figures.series[i].name, figures.series[i].value[0]);
            }
            text_printf(text, "  %-5s %8.1f  %s\n", stages[s], seconds, text_string(&phases));
            text_free(&phases);
        }
        total += seconds;
        figures_free(&figures);
        TRY(status);
    }
    if (headed)
        text_printf(text, "  %-5s %8.1f\n", "all", total);
    return status_ok();
}

Status report_write(const char *directory, Text *text)
{
    bool any = false;
    Table table = {text, &any};
    TRY(append_stages(directory, text, &any));
    TRY(visit_summaries(directory, append_summary, &table));
    TRY(append_times(directory, text));
    return any ? status_ok()
               : status_error(STATUS_INPUT, "%s: expected the directory of an experiment, found no metrics in it",
                              directory);
}

/* --- Demands --------------------------------------------------------------------------------------------------------- */

static Status check_accuracy(const char *directory, double accuracy)
{
    Figures figures = {0};
    Status status = read_metrics(directory, "rm", &figures);
    const Series *series = series_find(&figures, "evaluate/accuracy");
    if (!status_failed(status) && !series)
        status = status_error(STATUS_INPUT, "%s/rm: no held-out accuracy", directory);
    else if (!status_failed(status) && !(series->value[series->count - 1] >= accuracy))
        status = status_error(STATUS_NUMERIC, "held-out accuracy of the reward model is %.4f, below %.4f",
                              series->value[series->count - 1], accuracy);
    figures_free(&figures);
    return status;
}

static double mean(const double *value, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += value[i];
    return sum / (double)count;
}

static Status check_rise(const char *directory, const char *judge)
{
    Figures figures = {0};
    Text name = {0};
    text_printf(&name, "iteration/reward/%s", judge);
    Status status = read_metrics(directory, "ppo", &figures);
    const Series *series = series_find(&figures, text_string(&name));
    if (!status_failed(status) && !series) {
        status = status_error(STATUS_INPUT, "%s/ppo: no judge called %s", directory, judge);
    } else if (!status_failed(status)) {
        int64_t part = series->count / TENTH > 0 ? series->count / TENTH : 1;
        double first = mean(series->value, part), last = mean(series->value + series->count - part, part);
        if (!(last > first))
            status = status_error(STATUS_NUMERIC, "reward of judge %s went from %.4f to %.4f: it did not rise", judge,
                                  first, last);
    }
    text_free(&name);
    figures_free(&figures);
    return status;
}

typedef struct WinrateNeed {
    const char *judge;
    bool found;
} WinrateNeed;

static Status check_summary(void *context, JsonPlace place, const json_t *summary)
{
    WinrateNeed *need = context;
    const json_t *judges = NULL;
    TRY(json_check_object(place, summary));
    TRY(json_get_array(place, summary, "judges", JSON_OPTIONAL, &judges));
    for (size_t i = 0; judges && i < json_array_size(judges); i++) {
        Verdict verdict = {0};
        TRY(read_verdict(place, json_array_get(judges, i), &verdict));
        if (strcmp(verdict.name, need->judge) != 0)
            continue;
        need->found = true;
        if (!(verdict.low > 0.5))
            return status_error(STATUS_NUMERIC, "win rate before judge %s is %.3f [%.3f, %.3f]: not above 0.5",
                                need->judge, verdict.rate, verdict.low, verdict.high);
    }
    return status_ok();
}

Status report_check(const char *directory, const ReportNeeds *needs)
{
    if (needs->accuracy > 0)
        TRY(check_accuracy(directory, needs->accuracy));
    if (needs->rise)
        TRY(check_rise(directory, needs->rise));
    if (needs->winrate) {
        WinrateNeed need = {needs->winrate, false};
        TRY(visit_summaries(directory, check_summary, &need));
        if (!need.found)
            return status_error(STATUS_INPUT, "%s/eval: no win rate before a judge called %s", directory,
                                needs->winrate);
    }
    return status_ok();
}
