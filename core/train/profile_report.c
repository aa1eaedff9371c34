/* profile_report.c -- the table of a profile, and the trace. */
#include "core/train/profile_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

/* Rows of less than this share of their phase are added up in one line. */
static const double SMALL = 0.001;

/* --- The table --- */

enum { HOST = PROFILE_ROWS, COLUMNS }; /* of a phase's seconds: by row, then the rest */

typedef struct PhaseSeconds {
    double of[PROFILE_PHASES_MAX][COLUMNS];
} PhaseSeconds;

static PhaseSeconds *seconds_by_rank(Comm *comm, const OpProfile *profile)
{
    PhaseSeconds *mine = memory_new(1, sizeof *mine), *all = memory_new((size_t)comm_size(comm), sizeof *all);
    for (int p = 0; p < profile->phases; p++) {
        mine->of[p][HOST] = profile->phase[p].seconds;
        for (int row = 0; row < PROFILE_ROWS; row++) {
            mine->of[p][row] = profile->phase[p].row[row].seconds;
            mine->of[p][HOST] -= mine->of[p][row];
        }
    }
    comm_allgather(comm, mine, sizeof *mine, all);
    memory_free(&mine);
    return all;
}

/* ", min-max of all ranks" where there are several. */
static void print_spread(Text *text, const PhaseSeconds *all, int ranks, int phase, int column)
{
    double least = all[0].of[phase][column], most = least;
    for (int rank = 1; rank < ranks; rank++) {
        double seconds = all[rank].of[phase][column];
        least = seconds < least ? seconds : least;
        most = seconds > most ? seconds : most;
    }
    if (ranks > 1)
        text_printf(text, "  %.3f-%.3f", least, most);
    text_append_string(text, "\n");
}

static void print_row(Text *text, const char *name, const ProfileRow *row, double phase_seconds)
{
    double seconds = row->seconds > 0 ? row->seconds : 1e-12;
    text_printf(text, "  %-20s %9llu %9.3f %6.1f%% %9.1f %7.1f %6.1f%%", name, (unsigned long long)row->calls,
                row->seconds, 100 * row->seconds / phase_seconds, row->flops / seconds * 1e-9,
                row->bytes / seconds * 1e-9, 100 * row->limit / seconds);
}

static void add_row(ProfileRow *sum, const ProfileRow *row)
{
    sum->calls += row->calls;
    sum->seconds += row->seconds;
    sum->flops += row->flops;
    sum->bytes += row->bytes;
    sum->limit += row->limit;
}

/* Rows of `phase` that were called, by seconds, the most first. */
static int sort_rows(const ProfilePhase *phase, int order[PROFILE_ROWS])
{
    int count = 0;
    for (int row = 0; row < PROFILE_ROWS; row++) {
        if (phase->row[row].calls == 0)
            continue;
        int at = count++;
        for (; at > 0 && phase->row[order[at - 1]].seconds < phase->row[row].seconds; at--)
            order[at] = order[at - 1];
        order[at] = row;
    }
    return count;
}

static void print_phase(Text *text, const ProfilePhase *phase, const PhaseSeconds *all, int ranks, int index)
{
    int order[PROFILE_ROWS], count = sort_rows(phase, order), small = 0;
    double seconds = phase->seconds > 0 ? phase->seconds : 1e-12;
    ProfileRow sum = {0}, rest = {0};
    text_printf(text, "%s: %.3f s\n", phase->name, phase->seconds);
    if (count > 0)
        text_printf(text, "  %-20s %9s %9s %7s %9s %7s %7s%s\n", "op", "calls", "seconds", "share", "GFLOP/s", "GB/s",
                    "limit", ranks > 1 ? "  s by rank" : "");
    for (int i = 0; i < count; i++) {
        const ProfileRow *row = &phase->row[order[i]];
        add_row(&sum, row);
        if (row->seconds < SMALL * seconds) {
            add_row(&rest, row);
            small++;
            continue;
        }
        print_row(text, op_profile_row_name(order[i]), row, seconds);
        print_spread(text, all, ranks, index, order[i]);
    }
    if (small > 0) {
        char name[32];
        snprintf(name, sizeof name, "(%d small ones)", small);
        print_row(text, name, &rest, seconds);
        text_append_string(text, "\n");
    }
    double host = phase->seconds - sum.seconds;
    text_printf(text, "  %-20s %9s %9.3f %6.1f%% %9s %7s %7s", "not in ops", "", host, 100 * host / seconds, "", "",
                "");
    print_spread(text, all, ranks, index, HOST);
    sum.seconds = phase->seconds;
    if (count > 0) {
        print_row(text, "all", &sum, seconds);
        text_append_string(text, "\n");
    }
}

void profile_report(Comm *comm, OpProfile *profile, Text *text)
{
    op_profile_phase(profile, profile->phase[profile->current].name);
    PhaseSeconds *all = seconds_by_rank(comm, profile);
    text_printf(text,
                "time by phase and op%s; limit: %.0f GFLOP/s in a product, %.1f GB/s from memory, as measured at the "
                "start\n",
                comm_size(comm) > 1 ? " of rank 0, others computing too" : "", profile->peak * 1e-9,
                profile->bandwidth * 1e-9);
    for (int p = 0; p < profile->phases; p++)
        print_phase(text, &profile->phase[p], all, comm_size(comm), p);
    memory_free(&all);
}

/* --- The trace --- */

enum { THREAD_PHASES = 1, THREAD_OPS };

static void trace_begin(Text *json, const char *name, const char *category, int rank, int thread, double start,
                        double seconds)
{
    text_printf(json, ",\n{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f",
                name, category, rank, thread, start * 1e6, seconds * 1e6);
}

static void trace_event(Text *json, const OpProfile *profile, const ProfileEvent *event, int rank)
{
    char name[96];
    if (event->row == OP_gemm)
        snprintf(name, sizeof name, "gemm %dx%dx%d", event->size[0], event->size[1], event->size[2]);
    else
        snprintf(name, sizeof name, "%s", op_profile_row_name(event->row));
    trace_begin(json, name, profile->phase[event->phase].name, rank, THREAD_OPS, event->start, event->seconds);
    double seconds = event->seconds > 0 ? event->seconds : 1e-9;
    text_printf(json, ",\"args\":{\"GFLOP/s\":%.1f,\"GB/s\":%.1f}}", event->flops / seconds * 1e-9,
                event->bytes / seconds * 1e-9);
}

Status profile_trace(const OpProfile *profile, int rank, const char *path)
{
    Text json = {0};
    text_printf(&json,
                "{\"displayTimeUnit\":\"ms\",\n\"otherData\":{\"calls kept\":%lld,\"calls dropped\":%llu,"
                "\"seconds dropped\":%.6f,\"phases dropped\":%llu},\n\"traceEvents\":[\n"
                "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"args\":{\"name\":\"rank %d\"}},\n"
                "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"phases\"}},\n"
                "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"ops\"}}",
                (long long)profile->events, (unsigned long long)profile->events_dropped, profile->seconds_dropped,
                (unsigned long long)profile->spans_dropped, rank, rank, rank, THREAD_PHASES, rank, THREAD_OPS);
    for (int64_t i = 0; i < profile->spans; i++) {
        const ProfileSpan *span = &profile->span[i];
        trace_begin(&json, profile->phase[span->phase].name, "phase", rank, THREAD_PHASES, span->start, span->seconds);
        text_append_string(&json, "}");
    }
    for (int64_t i = 0; i < profile->events; i++)
        trace_event(&json, profile, &profile->event[i], rank);
    text_append_string(&json, "\n]}\n");
    Status status = text_write_file(path, json.bytes, json.size);
    text_free(&json);
    return status;
}
