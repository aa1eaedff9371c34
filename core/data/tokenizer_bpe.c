/* tokenizer_bpe.c -- byte pair encoding of one word (Sennrich et al. 2016): again and again the adjacent pair whose merge
 * has the lowest rank, leftmost first, becomes one symbol.
 *
 * How:   symbols are a linked list, candidate pairs a heap, so a word of n characters takes O(n log n). A candidate that
 *        an earlier merge has overtaken is recognised when it comes out of the heap: the pair at its place no longer
 *        makes its token. */
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

#define UNUSED_ID UINT32_MAX
#define EMPTY_PAIR UINT64_MAX

typedef struct BpeSymbol {
    int32_t id; /* -1: merged into the one before */
    int32_t previous, next;
} BpeSymbol;

typedef struct BpeCandidate {
    int32_t rank, position, id;
} BpeCandidate;

/* --- Vocabulary ----------------------------------------------------------------------------------------------------*/

static uint32_t table_size(int64_t entries)
{
    uint32_t size = 64;
    while (size < 2 * entries)
        size *= 2;
    return size;
}

void bpe_init(Bpe *bpe, int32_t size, int32_t vocab_entries)
{
    *bpe = (Bpe){.size = size, .unk = -1};
    bpe->pieces = memory_new((size_t)size, sizeof *bpe->pieces);
    for (int32_t i = 0; i < size; i++)
        bpe->pieces[i].offset = UNUSED_ID;
    uint32_t slots = table_size(vocab_entries);
    bpe->slots_mask = slots - 1;
    bpe->slots = memory_new(slots, sizeof *bpe->slots);
    memset(bpe->slots, 0xff, slots * sizeof *bpe->slots);
    memset(bpe->byte_ids, 0xff, sizeof bpe->byte_ids);
    bpe_reserve_merges(bpe, 0);
}

void bpe_free(Bpe *bpe)
{
    text_free(&bpe->blob);
    memory_free(&bpe->pieces);
    memory_free(&bpe->slots);
    memory_free(&bpe->merges);
}

/* The slot that holds `text`, or the free one where it belongs. */
static uint32_t find_slot(const Bpe *bpe, const char *text, size_t size)
{
    uint32_t slot = (uint32_t)XXH3_64bits(text, size) & bpe->slots_mask;
    for (;; slot = (slot + 1) & bpe->slots_mask) {
        int32_t id = bpe->slots[slot];
        if (id < 0)
            return slot;
        Piece piece = bpe->pieces[id];
        if (piece.size == size && memcmp(bpe->blob.bytes + piece.offset, text, size) == 0)
            return slot;
    }
}

bool bpe_add_piece(Bpe *bpe, int32_t id, const char *text, size_t size)
{
    if (id < 0 || id >= bpe->size || bpe->pieces[id].offset != UNUSED_ID)
        return false;
    uint32_t slot = find_slot(bpe, text, size);
    if (bpe->slots[slot] >= 0 || bpe->blob.size + size >= UNUSED_ID)
        return false;
    bpe->pieces[id] = (Piece){(uint32_t)bpe->blob.size, (uint32_t)size};
    text_append(&bpe->blob, text, size);
    text_append(&bpe->blob, "", 1);
    bpe->slots[slot] = id;
    return true;
}

int32_t bpe_find(const Bpe *bpe, const char *text, size_t size)
{
    return bpe->slots[find_slot(bpe, text, size)];
}

/* --- Merges --------------------------------------------------------------------------------------------------------*/

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t merge_slot(const Bpe *bpe, uint64_t pair)
{
    uint32_t slot = (uint32_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & bpe->merges_mask;
    while (bpe->merges[slot].pair != pair && bpe->merges[slot].pair != EMPTY_PAIR)
        slot = (slot + 1) & bpe->merges_mask;
    return slot;
}

void bpe_reserve_merges(Bpe *bpe, int64_t count)
{
    memory_free(&bpe->merges);
    uint32_t slots = table_size(count);
    bpe->merges_mask = slots - 1;
    bpe->merges = memory_new(slots, sizeof *bpe->merges);
    for (uint32_t i = 0; i < slots; i++)
        bpe->merges[i].pair = EMPTY_PAIR;
}

void bpe_add_merge(Bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    Merge *merge = &bpe->merges[merge_slot(bpe, pair_of(left, right))];
    if (merge->pair == EMPTY_PAIR)
        *merge = (Merge){pair_of(left, right), rank, id};
}

/* NULL: the two do not merge. */
static const Merge *find_merge(const Bpe *bpe, int32_t left, int32_t right)
{
    const Merge *merge = &bpe->merges[merge_slot(bpe, pair_of(left, right))];
    return merge->pair == EMPTY_PAIR ? NULL : merge;
}

/* --- One word ------------------------------------------------------------------------------------------------------*/

void bpe_scratch_free(BpeScratch *scratch)
{
    memory_free(&scratch->symbols);
    memory_free(&scratch->heap);
    *scratch = (BpeScratch){0};
}

static bool comes_before(BpeCandidate a, BpeCandidate b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static void heap_push(BpeScratch *scratch, BpeCandidate candidate)
{
    memory_reserve(&scratch->heap, scratch->heap_count, &scratch->heap_capacity);
    int64_t at = scratch->heap_count++;
    while (at > 0 && comes_before(candidate, scratch->heap[(at - 1) / 2])) {
        scratch->heap[at] = scratch->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    scratch->heap[at] = candidate;
}

static BpeCandidate heap_pop(BpeScratch *scratch)
{
    BpeCandidate top = scratch->heap[0], last = scratch->heap[--scratch->heap_count];
    int64_t at = 0, count = scratch->heap_count;
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && comes_before(scratch->heap[child + 1], scratch->heap[child]))
            child++;
        if (!comes_before(scratch->heap[child], last))
            break;
        scratch->heap[at] = scratch->heap[child];
        at = child;
    }
    scratch->heap[at] = last;
    return top;
}

static void propose(const Bpe *bpe, BpeScratch *scratch, int32_t position)
{
    const BpeSymbol *left = &scratch->symbols[position];
    if (left->next < 0)
        return;
    const Merge *merge = find_merge(bpe, left->id, scratch->symbols[left->next].id);
    if (merge)
        heap_push(scratch, (BpeCandidate){merge->rank, position, merge->id});
}

static void add_symbol(BpeScratch *scratch, int64_t *count, int32_t id)
{
    memory_reserve(&scratch->symbols, *count, &scratch->symbols_capacity);
    scratch->symbols[*count] = (BpeSymbol){id, (int32_t)*count - 1, (int32_t)*count + 1};
    ++*count;
}

/* The word's characters as symbols: a token, or its bytes' tokens, or the unknown token. */
static int64_t start_symbols(const Bpe *bpe, BpeScratch *scratch, const char *word, size_t size)
{
    int64_t count = 0;
    bool last_unknown = false;
    for (size_t at = 0, length; at < size; at += length) {
        utf8_char(word + at, &length);
        int32_t id = bpe_find(bpe, word + at, length);
        bool unknown = id < 0;
        if (!unknown) {
            add_symbol(scratch, &count, id);
        } else if (bpe->byte_fallback) {
            for (size_t i = 0; i < length; i++)
                unknown = unknown && bpe->byte_ids[(uint8_t)word[at + i]] >= 0;
            for (size_t i = 0; unknown && i < length; i++)
                add_symbol(scratch, &count, bpe->byte_ids[(uint8_t)word[at + i]]);
            unknown = !unknown;
        }
        if (unknown && bpe->unk >= 0 && !(bpe->fuse_unk && last_unknown))
            add_symbol(scratch, &count, bpe->unk);
        last_unknown = unknown;
    }
    if (count)
        scratch->symbols[count - 1].next = -1;
    return count;
}

void bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *word, size_t size, TokenList *out)
{
    if (bpe->ignore_merges) {
        int32_t whole = bpe_find(bpe, word, size);
        if (whole >= 0) {
            token_list_append(out, whole);
            return;
        }
    }
    int64_t count = start_symbols(bpe, scratch, word, size);
    BpeSymbol *symbols = scratch->symbols;
    scratch->heap_count = 0;
    for (int64_t i = 0; i < count; i++)
        propose(bpe, scratch, (int32_t)i);
    while (scratch->heap_count) {
        BpeCandidate best = heap_pop(scratch);
        BpeSymbol *left = &symbols[best.position];
        if (left->id < 0 || left->next < 0)
            continue;
        BpeSymbol *right = &symbols[left->next];
        const Merge *merge = find_merge(bpe, left->id, right->id);
        if (!merge || merge->id != best.id)
            continue;
        left->id = best.id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0)
            symbols[left->next].previous = best.position;
        propose(bpe, scratch, best.position);
        if (left->previous >= 0)
            propose(bpe, scratch, left->previous);
    }
    for (int64_t i = 0; i < count && i >= 0; i = symbols[i].next)
        token_list_append(out, symbols[i].id);
}
