/* sequences.h -- a list of token sequences that rank 0 has read, worked through by all ranks in fixed units.
 *
 * The tools that score or evaluate a stream share this: rank 0 reads and tokenises a round of records, every rank computes some of the
 * units, everyone has all the results. A unit is the next sequences of the list up to a token budget: a function of the list, not of ranks. */
#ifndef REWARDS_SEQUENCES_H
#define REWARDS_SEQUENCES_H

#include "core/comm/comm.h"

typedef struct SequenceList {
    int64_t count, tokens, results;
    int32_t *token;        /* (tokens) end to end */
    int64_t *start;        /* (count + 1) into token; start[0] is 0 */
    int64_t *result_start; /* (count + 1) into the results: how many floats each sequence gives */
    int64_t capacity, token_capacity;
} SequenceList;

/* Append a sequence of `length` >= 1 tokens that gives `results` floats. */
void sequence_list_add(SequenceList *list, const int32_t *token, int64_t length, int64_t results);
void sequence_list_clear(SequenceList *list);
void sequence_list_free(SequenceList *list);

/* Compute sequences [from, to): results of sequence i go to result[result_start[i]...]. */
typedef Status (*SequenceUnit)(void *context, const SequenceList *list, int64_t from, int64_t to, float *result);

/* Give every rank the list that rank 0 holds, and run all units of at most `unit_tokens` tokens (a longer sequence is a unit of its own).
 * *result (list->results) is fresh (memory_free) and equal on every rank; NULL after a failure. [collective] */
Status sequence_list_run(Comm *comm, SequenceList *list, int64_t unit_tokens, SequenceUnit unit, void *context,
                         float **result);

#endif
