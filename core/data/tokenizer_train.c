/* tokenizer_train.c -- counting words, then merging the most frequent pair until the vocabulary is full.
 *
 * How:   each distinct word is stood out once as a row of symbols with its count. A table holds every pair's count and the
 *        words it occurs in; a heap holds (count, pair) and may be out of date, which is noticed when an entry comes
 *        out. A merge touches only the words that hold its pair. */
#include "core/data/tokenizer_train.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "core/base/memory.h"
#include "core/data/tokenizer_parts.h"

enum { BYTES = 256, VOCAB_MAX = 1 << 20 };
#define EMPTY_PAIR UINT64_MAX

/* --- Words and their counts ----------------------------------------------------------------------------------------*/

typedef struct Word {
    size_t offset; /* in bytes, below: in the byte alphabet */
    uint32_t size;
    int64_t count;
} Word;

struct TokenizerTrainer {
    Pretokenizer pretokenizer;
    WordList words, scratch; /* of one text */
    Text bytes;
    Word *rows; // (count)
    int64_t count, capacity;
    int64_t *slots; // (slots_size) index into rows or -1
    size_t slots_size;
};

TokenizerTrainer *tokenizer_trainer_new(void)
{
    TokenizerTrainer *trainer = memory_new(1, sizeof *trainer);
    json_t *step = json_pack("{s:s, s:b}", "type", "ByteLevel", "add_prefix_space", 0);
    Status status = pretokenizer_parse(&trainer->pretokenizer, (JsonPlace){"tokenizer train", 0}, step, 0);
    REQUIRE(!status_failed(status), "%s", status_message());
    json_decref(step);
    return trainer;
}

void tokenizer_trainer_free(TokenizerTrainer **trainer)
{
    TokenizerTrainer *self = *trainer;
    if (!self)
        return;
    pretokenizer_free(&self->pretokenizer);
    word_list_free(&self->words);
    word_list_free(&self->scratch);
    text_free(&self->bytes);
    memory_free(&self->rows);
    memory_free(&self->slots);
    memory_free(trainer);
}

static size_t word_slot(const TokenizerTrainer *trainer, const char *word, size_t size)
{
    size_t slot = XXH3_64bits(word, size) & (trainer->slots_size - 1);
    for (;; slot = (slot + 1) & (trainer->slots_size - 1)) {
        if (trainer->slots[slot] < 0)
            return slot;
        const Word *row = &trainer->rows[trainer->slots[slot]];
        if (row->size == size && memcmp(trainer->bytes.bytes + row->offset, word, size) == 0)
            return slot;
    }
}

static void grow_slots(TokenizerTrainer *trainer)
{
    trainer->slots_size = trainer->slots_size ? 2 * trainer->slots_size : 1024;
    memory_free(&trainer->slots);
    trainer->slots = memory_new(trainer->slots_size, sizeof *trainer->slots);
    memset(trainer->slots, 0xff, trainer->slots_size * sizeof *trainer->slots);
    for (int64_t i = 0; i < trainer->count; i++)
        trainer->slots[word_slot(trainer, trainer->bytes.bytes + trainer->rows[i].offset, trainer->rows[i].size)] = i;
}

static void count_word(TokenizerTrainer *trainer, const char *word, size_t size)
{
    if (2 * (size_t)(trainer->count + 1) > trainer->slots_size)
        grow_slots(trainer);
    size_t slot = word_slot(trainer, word, size);
    if (trainer->slots[slot] < 0) {
        memory_reserve(&trainer->rows, trainer->count, &trainer->capacity);
        trainer->rows[trainer->count] = (Word){trainer->bytes.size, (uint32_t)size, 0};
        text_append(&trainer->bytes, word, size);
        trainer->slots[slot] = trainer->count++;
    }
    trainer->rows[trainer->slots[slot]].count++;
}

Status tokenizer_trainer_add(TokenizerTrainer *trainer, const char *text, size_t size)
{
    if (size > TOKENIZER_TEXT_BYTES_MAX)
        return status_error(STATUS_INPUT, "a text of %s; training takes at most %s at once", text_bytes((double)size),
                            text_bytes(TOKENIZER_TEXT_BYTES_MAX));
    size_t bad = utf8_check(text, size);
    if (bad < size)
        return status_error(STATUS_INPUT, "byte %zu of the text (0x%02x) is not UTF-8", bad, (unsigned char)text[bad]);
    TRY(pretokenizer_apply(&trainer->pretokenizer, text, size, true, false, &trainer->words, &trainer->scratch));
    size_t at = 0;
    for (size_t w = 0; w < trainer->words.count; w++) {
        count_word(trainer, trainer->words.bytes.bytes + at, trainer->words.ends[w] - at);
        at = trainer->words.ends[w];
    }
    return status_ok();
}

/* --- Pairs ---------------------------------------------------------------------------------------------------------*/

typedef struct Pair {
    uint64_t key; /* left id << 32 | right id; EMPTY_PAIR: a free slot */
    int64_t count;
    int64_t *words; /* rows that hold it, or held it once; (words_count) */
    int64_t words_count, words_capacity;
} Pair;

typedef struct Entry {
    int64_t count;
    uint64_t key;
} Entry;

typedef struct Merger {
    const TokenizerTrainer *trainer;
    int32_t *symbols; /* rows back to back; a row's symbols close up as they merge */
    size_t *starts;   // (count + 1)
    int32_t *sizes;   // (count) symbols of each row now
    Pair *pairs;      // (pairs_size)
    size_t pairs_size, pairs_count;
    Entry *heap;
    int64_t heap_count, heap_capacity;
} Merger;

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static Pair *pair_slot(Pair *pairs, size_t size, uint64_t key)
{
    size_t slot = (key * 0x9E3779B97F4A7C15u) >> 20 & (size - 1);
    while (pairs[slot].key != key && pairs[slot].key != EMPTY_PAIR)
        slot = (slot + 1) & (size - 1);
    return &pairs[slot];
}

static Pair *new_pairs(size_t size)
{
    Pair *pairs = memory_new(size, sizeof *pairs);
    for (size_t i = 0; i < size; i++)
        pairs[i].key = EMPTY_PAIR;
    return pairs;
}

/* The pair's entry, made if need be. */
static Pair *get_pair(Merger *merger, uint64_t key)
{
    if (2 * (merger->pairs_count + 1) > merger->pairs_size) {
        size_t size = merger->pairs_size ? 2 * merger->pairs_size : 1024;
        Pair *pairs = new_pairs(size);
        for (size_t i = 0; i < merger->pairs_size; i++)
            if (merger->pairs[i].key != EMPTY_PAIR)
                *pair_slot(pairs, size, merger->pairs[i].key) = merger->pairs[i];
        memory_free(&merger->pairs);
        merger->pairs = pairs;
        merger->pairs_size = size;
    }
    Pair *pair = pair_slot(merger->pairs, merger->pairs_size, key);
    merger->pairs_count += pair->key == EMPTY_PAIR;
    pair->key = key;
    return pair;
}

/* More frequent first; then the smaller pair. */
static bool comes_before(Entry a, Entry b)
{
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static void heap_push(Merger *merger, Entry entry)
{
    memory_reserve(&merger->heap, merger->heap_count, &merger->heap_capacity);
    int64_t at = merger->heap_count++;
    while (at > 0 && comes_before(entry, merger->heap[(at - 1) / 2])) {
        merger->heap[at] = merger->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    merger->heap[at] = entry;
}

static Entry heap_pop(Merger *merger)
{
    Entry top = merger->heap[0], last = merger->heap[--merger->heap_count];
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < merger->heap_count; at = child) {
        if (child + 1 < merger->heap_count && comes_before(merger->heap[child + 1], merger->heap[child]))
            child++;
        if (!comes_before(merger->heap[child], last))
            break;
        merger->heap[at] = merger->heap[child];
    }
    merger->heap[at] = last;
    return top;
}

static void change_pair(Merger *merger, int32_t left, int32_t right, int64_t change, int64_t row)
{
    Pair *pair = get_pair(merger, pair_key(left, right));
    pair->count += change;
    if (change > 0 && (!pair->words_count || pair->words[pair->words_count - 1] != row)) {
        memory_reserve(&pair->words, pair->words_count, &pair->words_capacity);
        pair->words[pair->words_count++] = row;
    }
}

/* Neighbouring pairs of a row, counted in (sign 1) or out (sign -1). Overlapping occurrences ("aaa") count each. */
static void count_row(Merger *merger, int64_t row, int sign)
{
    const int32_t *symbols = merger->symbols + merger->starts[row];
    int64_t weight = sign * merger->trainer->rows[row].count;
    for (int32_t i = 0; i + 1 < merger->sizes[row]; i++)
        change_pair(merger, symbols[i], symbols[i + 1], weight, row);
}

static void start(Merger *merger, const int32_t byte_ids[BYTES])
{
    const TokenizerTrainer *trainer = merger->trainer;
    size_t total = 0;
    merger->starts = memory_new((size_t)trainer->count + 1, sizeof *merger->starts);
    merger->sizes = memory_new((size_t)trainer->count, sizeof *merger->sizes);
    merger->symbols = memory_new(trainer->bytes.size, sizeof *merger->symbols);
    for (int64_t row = 0; row < trainer->count; row++) {
        const char *word = trainer->bytes.bytes + trainer->rows[row].offset;
        merger->starts[row] = total;
        for (size_t at = 0, length; at < trainer->rows[row].size; at += length)
            merger->symbols[total++] = byte_ids[bytelevel_byte(utf8_char(word + at, &length))];
        merger->sizes[row] = (int32_t)(total - merger->starts[row]);
        count_row(merger, row, 1);
    }
    for (size_t i = 0; i < merger->pairs_size; i++)
        if (merger->pairs[i].key != EMPTY_PAIR)
            heap_push(merger, (Entry){merger->pairs[i].count, merger->pairs[i].key});
}

/* A row's pairs that a merge made or changed go into the heap with their counts of now. */
static void push_row(Merger *merger, int64_t row, int32_t id)
{
    const int32_t *symbols = merger->symbols + merger->starts[row];
    for (int32_t i = 0; i + 1 < merger->sizes[row]; i++)
        if (symbols[i] == id || symbols[i + 1] == id) {
            uint64_t key = pair_key(symbols[i], symbols[i + 1]);
            heap_push(merger, (Entry){get_pair(merger, key)->count, key});
        }
}

static void merge_row(Merger *merger, int64_t row, uint64_t key, int32_t id)
{
    int32_t left = (int32_t)(key >> 32), right = (int32_t)(uint32_t)key;
    int32_t *symbols = merger->symbols + merger->starts[row], size = merger->sizes[row], kept = 0;
    bool holds = false;
    for (int32_t i = 0; i + 1 < size && !holds; i++)
        holds = symbols[i] == left && symbols[i + 1] == right;
    if (!holds)
        return;
    count_row(merger, row, -1);
    for (int32_t i = 0; i < size; i++) {
        bool here = i + 1 < size && symbols[i] == left && symbols[i + 1] == right;
        symbols[kept++] = here ? id : symbols[i];
        i += here;
    }
    merger->sizes[row] = kept;
    count_row(merger, row, 1);
}

/* The most frequent pair, or one of count 0 if there is none. */
static Entry best_pair(Merger *merger)
{
    while (merger->heap_count) {
        Entry entry = heap_pop(merger);
        int64_t now = get_pair(merger, entry.key)->count;
        if (now == entry.count)
            return entry;
        if (now > 0 && now < entry.count) /* fell since; an entry with its count of now must stand in the heap */
            heap_push(merger, (Entry){now, entry.key});
    }
    return (Entry){0};
}

static void merge_everywhere(Merger *merger, uint64_t key, int32_t id)
{
    Pair *pair = get_pair(merger, key);
    int64_t *rows = pair->words, count = pair->words_count;
    pair->words = NULL;
    pair->words_count = pair->words_capacity = 0;
    for (int64_t i = 0; i < count; i++)
        merge_row(merger, rows[i], key, id);
    for (int64_t i = 0; i < count; i++)
        push_row(merger, rows[i], id);
    memory_free(&rows);
}

static void merger_free(Merger *merger)
{
    for (size_t i = 0; i < merger->pairs_size; i++)
        memory_free(&merger->pairs[i].words);
    memory_free(&merger->pairs);
    memory_free(&merger->symbols);
    memory_free(&merger->starts);
    memory_free(&merger->sizes);
    memory_free(&merger->heap);
}

/* --- The tokenizer.json --------------------------------------------------------------------------------------------*/

static Status check_config(const TokenizerTrainConfig *config)
{
    if (config->special_count < 0 || config->vocab_size < BYTES + config->special_count ||
        config->vocab_size > VOCAB_MAX)
        return status_error(STATUS_USAGE, "vocabulary size %d: expected %d (256 bytes and the special tokens) to %d",
                            config->vocab_size, BYTES + config->special_count, VOCAB_MAX);
    if (config->frequency_min < 1)
        return status_error(STATUS_USAGE, "least frequency %lld: expected 1 or more", (long long)config->frequency_min);
    for (int32_t i = 0; i < config->special_count; i++) {
        const char *token = config->special[i];
        if (!*token || utf8_check(token, strlen(token)) < strlen(token))
            return status_error(STATUS_USAGE, "special token %d: expected UTF-8 text", i);
        for (int32_t j = 0; j < i; j++)
            if (strcmp(config->special[j], token) == 0)
                return status_error(STATUS_USAGE, "special token \"%s\" is given twice", token);
    }
    return status_ok();
}

static Status find_role(const TokenizerTrainConfig *config, const char *token, int *id)
{
    *id = -1;
    if (!token)
        return status_ok();
    for (int32_t i = 0; i < config->special_count; i++)
        if (strcmp(config->special[i], token) == 0)
            *id = i;
    if (*id < 0)
        return status_error(STATUS_USAGE, "\"%s\" is not among the special tokens", token);
    return status_ok();
}

/* Bytes in the order of the characters that stand for them, as tokenizers that people know have them. */
static void order_bytes(uint8_t order[BYTES])
{
    int count = 0;
    for (uint32_t character = 0; count < BYTES; character++)
        if (bytelevel_byte(character) >= 0)
            order[count++] = (uint8_t)bytelevel_byte(character);
}

static json_t *make_specials(const TokenizerTrainConfig *config)
{
    json_t *added = json_array();
    for (int32_t i = 0; i < config->special_count; i++)
        json_array_append_new(added,
                              json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i, "content", config->special[i],
                                        "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1));
    return added;
}

static Status learn(Merger *merger, const TokenizerTrainConfig *config, json_t *vocab, json_t *merges)
{
    int32_t next = 0, byte_ids[BYTES];
    uint8_t order[BYTES];
    Text blob = {0}; /* the tokens' texts, back to back */
    size_t *ends = memory_new((size_t)config->vocab_size + 1, sizeof *ends);
    Status status = status_ok();
    for (; next < config->special_count; next++) {
        json_object_set_new(vocab, config->special[next], json_integer(next));
        ends[next + 1] = blob.size;
    }
    order_bytes(order);
    for (int i = 0; i < BYTES; i++, next++) {
        byte_ids[order[i]] = next;
        utf8_append(&blob, bytelevel_char(order[i]));
        ends[next + 1] = blob.size;
        Text name = {0};
        utf8_append(&name, bytelevel_char(order[i]));
        if (json_object_get(vocab, name.bytes))
            status = status_error(STATUS_USAGE, "special token \"%s\" is also a byte's token", name.bytes);
        json_object_set_new(vocab, name.bytes, json_integer(next));
        text_free(&name);
    }
    start(merger, byte_ids);
    while (next < config->vocab_size && !status_failed(status)) {
        Entry best = best_pair(merger);
        if (best.count < config->frequency_min || best.count < 1)
            break;
        size_t left = best.key >> 32, right = (uint32_t)best.key;
        Text parts[3] = {{0}, {0}, {0}};
        text_append(&parts[0], blob.bytes + ends[left], ends[left + 1] - ends[left]);
        text_append(&parts[1], blob.bytes + ends[right], ends[right + 1] - ends[right]);
        text_printf(&parts[2], "%s%s", parts[0].bytes, parts[1].bytes);
        /* Another pair may already have made this text: then there is no new token, only the merge. */
        const json_t *known = json_object_get(vocab, parts[2].bytes);
        int32_t id = known ? (int32_t)json_integer_value(known) : next;
        bool forbidden = id < config->special_count;
        if (!known) {
            text_append(&blob, parts[2].bytes, parts[2].size);
            ends[++next] = blob.size;
            json_object_set_new(vocab, parts[2].bytes, json_integer(id));
        }
        if (forbidden) { /* text must never become a special token by merging */
            get_pair(merger, best.key)->count = INT64_MIN / 2;
        } else {
            json_array_append_new(merges, json_pack("[s, s]", parts[0].bytes, parts[1].bytes));
            merge_everywhere(merger, best.key, id);
        }
        for (int i = 0; i < 3; i++)
            text_free(&parts[i]);
    }
    text_free(&blob);
    memory_free(&ends);
    return status;
}

Status tokenizer_train(const TokenizerTrainer *trainer, const TokenizerTrainConfig *config, Text *json)
{
    int bos, eos, pad;
    TRY(check_config(config));
    TRY(find_role(config, config->bos, &bos));
    TRY(find_role(config, config->eos, &eos));
    TRY(find_role(config, config->pad, &pad));
    Merger merger = {.trainer = trainer};
    json_t *vocab = json_object(), *merges = json_array();
    Status status = learn(&merger, config, vocab, merges);
    merger_free(&merger);
    json_t *own = json_pack("{s:i, s:i, s:i, s:i, s:b, s:b}", "bos", bos, "eos", eos, "pad", pad, "unk", -1, "adds_bos",
                            config->adds_bos && bos >= 0, "sentencepiece", 0);
    json_t *model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o, s:o}", "type", "BPE", "dropout",
                              "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                              "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", merges, "tercet", own);
    json_t *root = json_pack("{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:{s:s, s:b, s:b, s:b}, s:o}",
                             "version", "1.0", "truncation", "padding", "added_tokens", make_specials(config),
                             "normalizer", "pre_tokenizer", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets",
                             1, "use_regex", 1, "post_processor", "decoder", "type", "ByteLevel", "add_prefix_space", 0,
                             "trim_offsets", 1, "use_regex", 1, "model", model);
    REQUIRE(root, "a tokenizer.json from its parts");
    if (config->adds_bos && bos >= 0)
        json_object_set_new(root, "post_processor", tokenizer_bos_template(config->bos, bos));
    if (!status_failed(status))
        json_append(json, root);
    json_decref(root);
    return status;
}
