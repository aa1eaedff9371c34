/* sequences.c -- see sequences.h. */
#include "rewards/sequences.h"

#include <string.h>

#include "core/base/memory.h"

static void reserve(SequenceList *list, int64_t count, int64_t tokens)
{
    if (count + 1 > list->capacity) {
        list->capacity = 2 * (count + 1);
        list->start = memory_resize(list->start, (size_t)list->capacity, sizeof *list->start);
        list->result_start = memory_resize(list->result_start, (size_t)list->capacity, sizeof *list->result_start);
    }
    if (tokens > list->token_capacity) {
        list->token_capacity = 2 * tokens;
        list->token = memory_resize(list->token, (size_t)list->token_capacity, sizeof *list->token);
    }
    list->start[0] = list->result_start[0] = 0;
}

void sequence_list_add(SequenceList *list, const int32_t *token, int64_t length, int64_t results)
{
    REQUIRE(length >= 1 && results >= 0, "a sequence of %lld tokens, %lld results", (long long)length,
            (long long)results);
    reserve(list, list->count + 1, list->tokens + length);
    memcpy(list->token + list->tokens, token, (size_t)length * sizeof *token);
    list->count++;
    list->start[list->count] = list->tokens += length;
    list->result_start[list->count] = list->results += results;
}

void sequence_list_clear(SequenceList *list)
{
    list->count = list->tokens = list->results = 0;
}

void sequence_list_free(SequenceList *list)
{
    memory_free(&list->token);
    memory_free(&list->start);
    memory_free(&list->result_start);
    *list = (SequenceList){0};
}

static void share(Comm *comm, SequenceList *list)
{
    int64_t header[] = {list->count, list->tokens, list->results};
    comm_broadcast(comm, 0, header, sizeof header);
    reserve(list, header[0], header[1]);
    list->count = header[0];
    list->tokens = header[1];
    list->results = header[2];
    comm_broadcast(comm, 0, list->start, (size_t)(list->count + 1) * sizeof *list->start);
    comm_broadcast(comm, 0, list->result_start, (size_t)(list->count + 1) * sizeof *list->result_start);
    comm_broadcast(comm, 0, list->token, (size_t)list->tokens * sizeof *list->token);
}

/* First sequence of each unit, and the end; the number of units. */
static int64_t cut_units(const SequenceList *list, int64_t unit_tokens, int64_t *first)
{
    int64_t units = 0;
    for (int64_t from = 0, to; from < list->count; from = to) {
        first[units++] = from;
        for (to = from + 1; to < list->count && list->start[to + 1] - list->start[from] <= unit_tokens; to++)
            ;
    }
    first[units] = list->count;
    return units;
}

Status sequence_list_run(Comm *comm, SequenceList *list, int64_t unit_tokens, SequenceUnit unit, void *context,
                         float **result)
{
    share(comm, list);
    int rank = comm_rank(comm), size = comm_size(comm);
    int64_t *first = memory_new((size_t)list->count + 1, sizeof *first);
    int64_t units = cut_units(list, unit_tokens, first);
    size_t *offset = memory_new((size_t)size + 1, sizeof *offset);
    for (int r = 0; r <= size; r++)
        offset[r] = sizeof(float) * (size_t)list->result_start[first[units * r / size]];
    *result = memory_new((size_t)list->results, sizeof **result);
    Status status = status_ok();
    for (int64_t u = units * rank / size; u < units * (rank + 1) / size && !status_failed(status); u++)
        status = unit(context, list, first[u], first[u + 1], *result);
    status = comm_agree(comm, status);
    if (status_failed(status))
        memory_free(result);
    else
        comm_allgather_parts(comm, *result, offset);
    memory_free(&offset);
    memory_free(&first);
    return status;
}
