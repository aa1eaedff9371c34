/* attention.h -- what the kernels of attention's forward pass hand to each other. */
#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/tile.h"

/* Rows, that is (query, head in group) pairs, of one sequence and key head. */
typedef struct Item {
    int64_t sequence, kv_head, first_row, rows;
} Item;

/* Where a sequence's keys and values are. */
typedef struct Sequence {
    int64_t start, queries, past;
    TileRows k, v;
} Sequence;

/* Up to TILE_ROWS rows whose heads narrow_suits(). */
void KERNEL(attend_many_narrow)(const AttentionForwardArgs *args, const Sequence *sequence, Item item);

#endif
