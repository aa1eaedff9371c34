/* rollout.c -- the columns of a rollout as a table: to make, share, write, read and check each of them the same way. */
#include "core/store/rollout.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/comm/shard.h"

enum { ROLLOUT_VERSION = 1 };
static const char format_name[] = "tercet-rollout";

/* Rows of a column: one for each sequence, token, or response token. */
typedef enum RowKind { PER_SEQUENCE, PER_TOKEN, PER_RESPONSE } RowKind;

typedef struct Column {
    const char *name;
    RowKind rows;
    DType dtype;
    size_t offset; /* of the pointer in Rollout */
    bool required; /* a stranger's file must have it; others are zero when absent */
} Column;

static const Column columns[] = {
    {"/prompt_id", PER_SEQUENCE, DTYPE_I64, offsetof(Rollout, prompt_id), false},
    {"/sample_index", PER_SEQUENCE, DTYPE_I32, offsetof(Rollout, sample_index), false},
    {"/prompt_length", PER_SEQUENCE, DTYPE_I32, offsetof(Rollout, prompt_length), true},
    {"/response_length", PER_SEQUENCE, DTYPE_I32, offsetof(Rollout, response_length), true},
    {"/stopped", PER_SEQUENCE, DTYPE_U8, offsetof(Rollout, stopped), false},
    {"/score", PER_SEQUENCE, DTYPE_F32, offsetof(Rollout, score), false},
    {"/reward_raw", PER_SEQUENCE, DTYPE_F32, offsetof(Rollout, reward_raw), false},
    {"/token", PER_TOKEN, DTYPE_I32, offsetof(Rollout, token), true},
    {"/sampled_logprob", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, sampled_logprob), false},
    {"/old_logprob", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, old_logprob), true},
    {"/reference_logprob", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, reference_logprob), false},
    {"/value", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, value), true},
    {"/kl", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, kl), false},
    {"/reward_shaped", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, reward_shaped), false},
    {"/advantage", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, advantage), true},
    {"/return", PER_RESPONSE, DTYPE_F32, offsetof(Rollout, returns), true},
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static void **column_slot(const Rollout *rollout, const Column *column)
{
    return (void **)((char *)rollout + column->offset);
}

static int64_t column_rows(const Rollout *rollout, RowKind rows)
{
    return rows == PER_SEQUENCE ? rollout->sequences : rows == PER_TOKEN ? rollout->tokens : rollout->responses;
}

/* --- Memory --- */

/* Arrays of the columns of one kind that have too little room, anew. */
static void columns_reserve(Rollout *rollout, RowKind kind, int64_t rows, int64_t *room)
{
    if (rows <= *room)
        return;
    for (int c = 0; c < COLUMNS; c++) {
        if (columns[c].rows != kind)
            continue;
        void **slot = column_slot(rollout, &columns[c]);
        memory_release(*slot);
        *slot = memory_new((size_t)rows, dtype_size(columns[c].dtype));
    }
    *room = rows;
}

static void columns_zero(Rollout *rollout, bool per_sequence)
{
    for (int c = 0; c < COLUMNS; c++)
        if ((columns[c].rows == PER_SEQUENCE) == per_sequence)
            memset(*column_slot(rollout, &columns[c]), 0,
                   (size_t)column_rows(rollout, columns[c].rows) * dtype_size(columns[c].dtype));
}

void rollout_reserve(Rollout *rollout, int64_t sequences, int64_t tokens, int64_t responses, int rewards)
{
    REQUIRE(rewards <= ROLLOUT_REWARDS_MAX, "%d rewards", rewards);
    if (sequences > rollout->room.sequences || !rollout->start) {
        memory_release(rollout->start);
        memory_release(rollout->response_start);
        rollout->start = memory_new((size_t)sequences + 1, sizeof *rollout->start);
        rollout->response_start = memory_new((size_t)sequences + 1, sizeof *rollout->response_start);
        for (int r = 0; r < rollout->room.rewards; r++)
            memory_free(&rollout->reward[r]);
        rollout->room.rewards = 0;
    }
    columns_reserve(rollout, PER_SEQUENCE, sequences, &rollout->room.sequences);
    columns_reserve(rollout, PER_TOKEN, tokens, &rollout->room.tokens);
    columns_reserve(rollout, PER_RESPONSE, responses, &rollout->room.responses);
    for (; rollout->room.rewards < rewards; rollout->room.rewards++)
        rollout->reward[rollout->room.rewards] =
            memory_new((size_t)rollout->room.sequences, sizeof *rollout->reward[0]);
}

void rollout_new(Rollout *rollout, int64_t sequences, int rewards)
{
    rollout_clear(rollout);
    rollout_reserve(rollout, sequences, 0, 0, rewards);
    rollout->sequences = sequences;
    rollout->rewards = rewards;
    columns_zero(rollout, true);
    for (int r = 0; r < rewards; r++)
        memset(rollout->reward[r], 0, (size_t)sequences * sizeof *rollout->reward[r]);
    rollout->start[0] = rollout->response_start[0] = 0;
}

void rollout_allocate(Rollout *rollout)
{
    for (int64_t i = 0; i < rollout->sequences; i++) {
        rollout->start[i + 1] = rollout->start[i] + rollout->prompt_length[i] + rollout->response_length[i];
        rollout->response_start[i + 1] = rollout->response_start[i] + rollout->response_length[i];
    }
    rollout->tokens = rollout->start[rollout->sequences];
    rollout->responses = rollout->response_start[rollout->sequences];
    rollout_reserve(rollout, 0, rollout->tokens, rollout->responses, rollout->rewards);
    columns_zero(rollout, false);
}

void rollout_clear(Rollout *rollout)
{
    rollout->sequences = rollout->tokens = rollout->responses = rollout->policy_step = 0;
    rollout->rewards = 0;
    rollout->temperature = rollout->kl_coefficient = 0;
    rollout->policy_digest[0] = 0;
}

void rollout_free(Rollout *rollout)
{
    for (int c = 0; c < COLUMNS; c++)
        memory_release(*column_slot(rollout, &columns[c]));
    for (int r = 0; r < ROLLOUT_REWARDS_MAX; r++) {
        memory_free(&rollout->reward[r]);
        memory_free(&rollout->reward_name[r]);
    }
    memory_free(&rollout->start);
    memory_free(&rollout->response_start);
    memset(rollout, 0, sizeof *rollout);
}

void rollout_name_reward(Rollout *rollout, int index, const char *name)
{
    char **slot = &rollout->reward_name[index];
    if (*slot && strcmp(*slot, name) == 0)
        return;
    memory_free(slot);
    *slot = memory_strdup(name);
}

/* --- Among ranks --- */

/* All ranks' parts of one column, in rank order, into `to`. */
static void gather_column(Comm *comm, const void *mine, size_t bytes, void *to, size_t bytes_all)
{
    int ranks = comm_size(comm);
    size_t *offsets = memory_borrow((size_t)ranks + 1, sizeof *offsets);
    comm_allgather(comm, &bytes, sizeof bytes, offsets + 1);
    for (int rank = 0; rank < ranks; rank++)
        offsets[rank + 1] += offsets[rank];
    REQUIRE(offsets[ranks] == bytes_all, "%zu bytes gathered, expected %zu", offsets[ranks], bytes_all);
    if (bytes)
        memcpy((char *)to + offsets[comm_rank(comm)], mine, bytes);
    comm_allgather_parts(comm, to, offsets);
    memory_return(&offsets);
}

static void gather_kind(Comm *comm, const Rollout *mine, Rollout *all, bool per_sequence)
{
    for (int c = 0; c < COLUMNS; c++) {
        if ((columns[c].rows == PER_SEQUENCE) != per_sequence)
            continue;
        size_t width = dtype_size(columns[c].dtype);
        gather_column(comm, *column_slot(mine, &columns[c]), width * (size_t)column_rows(mine, columns[c].rows),
                      *column_slot(all, &columns[c]), width * (size_t)column_rows(all, columns[c].rows));
    }
}

void rollout_allgather(Comm *comm, const Rollout *mine, Rollout *all)
{
    int64_t sequences = 0, *counts = memory_borrow((size_t)comm_size(comm), sizeof *counts);
    comm_allgather(comm, &mine->sequences, sizeof *counts, counts);
    for (int r = 0; r < comm_size(comm); r++)
        sequences += counts[r];
    memory_return(&counts);
    rollout_new(all, sequences, mine->rewards);
    gather_kind(comm, mine, all, true);
    for (int r = 0; r < mine->rewards; r++) {
        rollout_name_reward(all, r, mine->reward_name[r]);
        gather_column(comm, mine->reward[r], sizeof(float) * (size_t)mine->sequences, all->reward[r],
                      sizeof(float) * (size_t)sequences);
    }
    rollout_allocate(all);
    gather_kind(comm, mine, all, false);
    all->policy_step = mine->policy_step;
    memcpy(all->policy_digest, mine->policy_digest, sizeof all->policy_digest);
    all->temperature = mine->temperature;
    all->kl_coefficient = mine->kl_coefficient;
}

/* --- Writing --- */

/* This rank's share of the rows of a dataset that all ranks hold. */
static void write_share(Comm *comm, H5Writer *writer, const char *path, DType dtype, int64_t rows, const void *values)
{
    h5_write_dataset(writer, H5_SEMANTIC, path, dtype, 1, &rows);
    Span share = shard_span(rows, comm_size(comm), comm_rank(comm));
    if (share.to > share.from)
        h5_write_elements(writer, path, share.from, share.to - share.from,
                          (const char *)values + (size_t)share.from * dtype_size(dtype));
}

Status rollout_write(Comm *comm, const char *path, const Rollout *rollout)
{
    H5Writer *writer = NULL;
    TRY(h5_writer_open(comm, path, format_name, ROLLOUT_VERSION, &writer));
    h5_write_int(writer, H5_SEMANTIC, "/", "policy_step", rollout->policy_step);
    h5_write_string(writer, H5_SEMANTIC, "/", "policy_digest", rollout->policy_digest);
    h5_write_real(writer, H5_SEMANTIC, "/", "temperature", rollout->temperature);
    h5_write_real(writer, H5_SEMANTIC, "/", "kl_coefficient", rollout->kl_coefficient);
    write_share(comm, writer, "/start", DTYPE_I64, rollout->sequences + 1, rollout->start);
    write_share(comm, writer, "/response_start", DTYPE_I64, rollout->sequences + 1, rollout->response_start);
    for (int c = 0; c < COLUMNS; c++)
        write_share(comm, writer, columns[c].name, columns[c].dtype, column_rows(rollout, columns[c].rows),
                    *column_slot(rollout, &columns[c]));
    for (int r = 0; r < rollout->rewards; r++) {
        char name[128];
        snprintf(name, sizeof name, "/reward/%s", rollout->reward_name[r]);
        write_share(comm, writer, name, DTYPE_F32, rollout->sequences, rollout->reward[r]);
    }
    return h5_writer_close(&writer);
}

/* --- Reading --- */

static Status read_column(H5File *file, const Column *column, Rollout *rollout)
{
    if (!column->required && !h5_dataset(file, column->name))
        return status_ok();
    const H5Dataset *dataset = NULL;
    int64_t rows = column_rows(rollout, column->rows);
    TRY(h5_find(file, column->name, column->dtype, 1, &rows, &dataset));
    return h5_read_whole(file, dataset, *column_slot(rollout, column));
}

static Status read_columns(H5File *file, Rollout *rollout, bool per_sequence)
{
    for (int c = 0; c < COLUMNS; c++)
        if ((columns[c].rows == PER_SEQUENCE) == per_sequence)
            TRY(read_column(file, &columns[c], rollout));
    return status_ok();
}

/* Components are whatever stands under /reward/. */
static Status read_rewards(H5File *file, Rollout *rollout)
{
    const H5Dataset *list;
    int count = h5_datasets(file, &list);
    for (int i = 0; i < count; i++) {
        if (strncmp(list[i].path, "/reward/", 8) != 0)
            continue;
        if (rollout->rewards == ROLLOUT_REWARDS_MAX)
            return status_error(STATUS_INPUT, "%s: more than %d rewards", h5_path(file), ROLLOUT_REWARDS_MAX);
        const H5Dataset *dataset = NULL;
        TRY(h5_find(file, list[i].path, DTYPE_F32, 1, &rollout->sequences, &dataset));
        int r = rollout->rewards++;
        rollout_reserve(rollout, 0, 0, 0, rollout->rewards);
        rollout_name_reward(rollout, r, list[i].path + 8);
        TRY(h5_read_whole(file, dataset, rollout->reward[r]));
    }
    return status_ok();
}

static Status check_lengths(const H5File *file, const Rollout *rollout)
{
    const H5Dataset *token = h5_dataset(file, "/token");
    if (!token)
        return status_error(STATUS_INPUT, "%s: /token is missing", h5_path(file));
    int64_t total = 0;
    for (int64_t i = 0; i < rollout->sequences; i++) {
        int32_t prompt = rollout->prompt_length[i], response = rollout->response_length[i];
        if (prompt < 1 || response < 1)
            return status_error(STATUS_INPUT,
                                "%s: sequence %lld has %d prompt and %d response tokens; expected at least one of each",
                                h5_path(file), (long long)i, prompt, response);
        total += (int64_t)prompt + response;
        if (total > token->elements)
            break;
    }
    if (total != token->elements)
        return status_error(STATUS_INPUT, "%s: lengths add up to %lld tokens or more, /token has %lld", h5_path(file),
                            (long long)total, (long long)token->elements);
    return status_ok();
}

static Status check_values(const H5File *file, const Rollout *rollout, int64_t vocab)
{
    for (int64_t i = 0; i < rollout->tokens; i++)
        if (rollout->token[i] < 0 || rollout->token[i] >= vocab)
            return status_error(STATUS_INPUT, "%s: /token[%lld] is %d; the policy has %lld tokens", h5_path(file),
                                (long long)i, rollout->token[i], (long long)vocab);
    for (int c = 0; c < COLUMNS; c++) {
        if (columns[c].rows != PER_RESPONSE)
            continue;
        const float *values = *column_slot(rollout, &columns[c]);
        for (int64_t i = 0; i < rollout->responses; i++)
            if (!isfinite(values[i]))
                return status_error(STATUS_INPUT, "%s: %s[%lld] is %g", h5_path(file), columns[c].name, (long long)i,
                                    (double)values[i]);
    }
    return status_ok();
}

static Status read_all(H5File *file, int64_t vocab, Rollout *rollout)
{
    const H5Dataset *lengths = NULL;
    TRY(h5_find(file, "/prompt_length", DTYPE_I32, 1, NULL, &lengths));
    if (lengths->elements < 1)
        return status_error(STATUS_INPUT, "%s: no sequences", h5_path(file));
    rollout_new(rollout, lengths->elements, 0);
    TRY(read_columns(file, rollout, true));
    TRY(check_lengths(file, rollout));
    rollout_allocate(rollout);
    TRY(read_columns(file, rollout, false));
    TRY(read_rewards(file, rollout));
    const char *digest = NULL;
    if (h5_attribute(file, "/", "policy_digest"))
        TRY(h5_read_string(file, "/", "policy_digest", &digest));
    snprintf(rollout->policy_digest, sizeof rollout->policy_digest, "%s", digest ? digest : "");
    if (h5_attribute(file, "/", "policy_step"))
        TRY(h5_read_int(file, "/", "policy_step", &rollout->policy_step));
    if (h5_attribute(file, "/", "temperature"))
        TRY(h5_read_real(file, "/", "temperature", &rollout->temperature));
    if (h5_attribute(file, "/", "kl_coefficient"))
        TRY(h5_read_real(file, "/", "kl_coefficient", &rollout->kl_coefficient));
    return check_values(file, rollout, vocab);
}

Status rollout_read(Comm *comm, const char *path, int64_t vocab, Rollout *rollout)
{
    rollout_clear(rollout);
    H5File *file = NULL;
    Status status = h5_open_foreign(path, NULL, &file);
    if (!status_failed(status))
        status = read_all(file, vocab, rollout);
    h5_close(&file);
    status = comm_agree(comm, status);
    if (status_failed(status))
        rollout_free(rollout);
    return status;
}
