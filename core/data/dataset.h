/* dataset.h -- examples as ragged token sequences, read from the formats people have, tokenised once, shuffled by a function.
 *
 * Why:   lengths, units and the schedule must be known before step 1, and a run on other ranks, or resumed, must see the same examples in the
 *        same order. So files are tokenised once into an HDF5 file named by the digest of (files' bytes, tokenizer, template, options), and an epoch's
 *        order is a permutation function of (seed, epoch): nothing to store, nothing to lose.
 * Formats (JSONL, or a JSON array; `format: auto` looks at the first record's keys and says what it took):
 *     text      {"text": ...}; a .txt file is one text per line, or with `whole: true` one text
 *     response  {"prompt"|"question": ..., "response"|"completion"|"answer"|"output": ...}
 *     alpaca    {"instruction", "input"?, "output"}
 *     chat      {"messages": [{"role", "content"}...]}, ShareGPT {"conversations": [{"from", "value"}...]}; loss on assistant turns only
 *     pairs     {"prompt"?, "chosen", "rejected", "margin"?}: strings, message lists, hh-rlhf transcripts ("\n\nHuman: ... \n\nAssistant: ..."),
 *               or LLaMA-Factory's {"conversations", "chosen": {...}, "rejected": {...}}
 *     ranked    {"prompt", "responses": [...], "ranks": [...]} (0 or 1 best) or "scores": [...] (higher better)
 *     oasst     OpenAssistant message trees: each prompter message with ranked assistant replies is one group
 *     rated     TSV rating<TAB>text or id<TAB>rating<TAB>text (or {"rating", "text"}): pairs are drawn anew each epoch, ratings at least `gap` apart
 *     prompts   {"prompt"|"question"|"instruction" + "input"?: ...} or {"messages": ...}; all fields travel to the rewards as they are
 * Any of them serves where it has what is needed: pairs give prompts, response gives text, and so on. A record that has not is an error naming
 * file, line and key. */
#ifndef CORE_DATA_DATASET_H
#define CORE_DATA_DATASET_H

#include "core/comm/comm.h"
#include "core/config/config.h"
#include "core/data/template.h"
#include "core/data/tokenizer.h"

typedef enum DatasetKind { DATASET_SFT, DATASET_RANK, DATASET_PROMPT } DatasetKind;
typedef enum DataFormat {
    DATA_AUTO,
    DATA_TEXT,
    DATA_RESPONSE,
    DATA_ALPACA,
    DATA_CHAT,
    DATA_PAIRS,
    DATA_RANKED,
    DATA_OASST,
    DATA_RATED,
    DATA_PROMPTS
} DataFormat;

/* Keys of one item of `sft.data[]`, `rm.eval_data[]`, `ppo.prompts[]`. */
typedef struct DataSource {
    const char *path;
    DataFormat format;
    double
        weight; /* passes over this file per epoch: 1 each example once, 0.5 half of them (the other half next epoch), 2 twice;
                   * rounded to whole examples, the same number every epoch, at least one */
    int64_t prompt_tokens; /* prompts from texts: the first so many tokens; 0: the whole */
    int64_t limit;         /* use the first so many examples; 0: all */
    bool whole;            /* the file is one text, cut into pieces of max_length tokens */
} DataSource;
extern const ConfigKey data_source_keys[];

/* Keys that stand beside the lists, in `sft`, `rm`, `ppo`. */
typedef enum Overlong { OVERLONG_TRUNCATE, OVERLONG_DROP } Overlong;
typedef struct DataConfig {
    int template;       /* index into template_names() */
    int64_t max_length; /* tokens of a sequence */
    Overlong
        overlong;    /* truncate: texts and answers lose their end but keep a final EOS, prompts lose their beginning */
    bool append_eos; /* texts end in EOS */
    bool train_on_prompt; /* SFT: loss on prompts too */
    double gap;           /* rated: least difference of a pair */
    int64_t pairs;        /* rated: pairs per file and pass; 0: half the number of texts */
} DataConfig;
extern const ConfigKey data_config_keys[];

typedef struct Dataset Dataset;

/* Tokenise (rank 0) or find the cached file in `cache_directory`, then open it on every rank. What was read, dropped and truncated is logged. [collective] */
Status dataset_open(Comm *comm, DatasetKind kind, const DataSource *sources, int sources_count,
                    const DataConfig *config, const Tokenizer *tokenizer, const char *cache_directory,
                    Dataset **dataset);
void dataset_close(Dataset **dataset);
/* Hex digest of everything that the examples are a function of. */
const char *dataset_digest(const Dataset *dataset);

/* One token sequence. Pointers are valid until dataset_close. */
typedef struct Sequence {
    const int32_t *token;
    int64_t count;
    int64_t prompt;      /* tokens before the response; 0 for texts */
    const uint8_t *loss; /* SFT: (count) 1 where the token is a target; NULL otherwise */
    float
        strength; /* RANK: higher is better: -rank, a score, a rating; of pairs the chosen one's margin (1 without) and 0 */
} Sequence;
int64_t dataset_sequences(const Dataset *dataset);
Sequence dataset_sequence(const Dataset *dataset, int64_t index);
/* PROMPT: the record as one line of JSON with all its fields; where it has no "prompt", the prompt's plain text stands there. Of a message tree:
 * prompt and message_id alone. Valid until dataset_close. */
const char *dataset_fields(const Dataset *dataset, int64_t index);

/* Examples: sequences (SFT, PROMPT), or groups of answers (RANK). */
int64_t dataset_examples_per_epoch(const Dataset *dataset);
int64_t dataset_longest(const Dataset *dataset); /* tokens of the longest sequence */
enum { GROUP_ANSWERS_MAX = 64 };
/* The sequences of example number `position` of an epoch, in shuffled order (shuffle false: as they stand in the files): 1 for SFT and PROMPT, the answers of a group for
 * RANK (2 for rated texts, drawn by RNG_PAIRS; without `shuffle` always those of epoch 0). Returns their number, at most GROUP_ANSWERS_MAX. A pure function. [local] */
int dataset_example(const Dataset *dataset, uint64_t seed, int64_t epoch, int64_t position, bool shuffle,
                    int64_t sequences[GROUP_ANSWERS_MAX]);
/* RANK: fails, naming file and line, if two answers of a group are equally strong (Plackett-Luce has no ties). [local] */
Status dataset_check_no_ties(const Dataset *dataset);

#endif
