/* dataset_parts.h -- what a data set is made of. Private to core/data/dataset*.c.
 *
 * A file goes through: records (dataset_records.c: lines or JSON values, one JSON value each) -> items
 * (dataset_formats.c: one reader per format, all giving the same shape) -> token sequences in an HDF5 file
 * (dataset_build.c) -> the opened data set (dataset.c), whose epochs are functions (dataset_order.c). */
#ifndef CORE_DATA_DATASET_PARTS_H
#define CORE_DATA_DATASET_PARTS_H

#include "core/data/dataset.h"
#include "core/data/json.h"
#include "core/h5/h5.h"

#define DATASET_FORMAT "tercet-dataset"
/* Raise when the same files, tokenizer and options would give other tokens: cached files are then made anew. */
enum { DATASET_VERSION = 1 };

/* --- Records (dataset_records.c) ------------------------------------------------------------------------------------*/

/* How a file is cut into records: by its name and the format asked for. */
typedef enum RecordShape { RECORD_JSON, RECORD_TEXT_LINES, RECORD_RATED_LINES, RECORD_WHOLE } RecordShape;
RecordShape record_shape(const DataSource *source);

typedef struct RecordReader RecordReader;
Status record_reader_open(RecordReader **reader, const DataSource *source);
/* The next record, borrowed until the next call; *record NULL at the end. Lines come as {"text"} or {"rating", "text"}. */
Status record_reader_next(RecordReader *reader, const json_t **record, JsonPlace *place);
void record_reader_close(RecordReader **reader);

/* --- Items (dataset_formats.c) --------------------------------------------------------------------------------------*/

typedef struct Answer {
    int64_t first,
        count;        /* the prompt: messages [first, first + count) of the item; count 0: `text` is no conversation */
    const char *text; /* NULL: there is only a prompt */
    size_t size;      /* bytes of text */
    double strength;  /* higher is better */
} Answer;

/* One example as a format gives it, whatever it will be used for. Strings are borrowed from the record or `owned`. */
typedef struct Item {
    JsonPlace place;
    const json_t *record;
    Message *messages;
    int64_t messages_count, messages_capacity;
    Answer *answers;
    int64_t answers_count, answers_capacity;
    bool every_turn; /* messages [0, count] of the one answer are a conversation; all its assistant turns are learned */
    char **owned;
    int64_t owned_count, owned_capacity;
} Item;

typedef Status (*ItemSink)(void *context, const Item *item);

/* Words of DataFormat. */
const char *data_format_name(DataFormat format);
/* The format of a record, by its keys; STATUS_INPUT if none. */
Status data_format_guess(JsonPlace place, const json_t *record, DatasetKind kind, DataFormat *format);
/* Reads one record and gives each of its items (trees have several) to `sink`. `item` is scratch. */
Status data_format_read(DataFormat format, JsonPlace place, const json_t *record, Item *item, ItemSink sink,
                        void *context);
void item_free(Item *item);

/* --- The file (dataset_build.c) -------------------------------------------------------------------------------------*/

/* One row of /sources: what came from one file. All int64, in this order. */
typedef struct SourceSpan {
    int64_t format; /* DataFormat, auto resolved */
    int64_t first_sequence, sequences;
    int64_t first_group, groups; /* a rated text is a group of one: its pairs are drawn */
    int64_t tokens;
    int64_t truncated, dropped; /* sequences that were over-long */
} SourceSpan;
enum { SOURCE_SPAN_FIELDS = sizeof(SourceSpan) / sizeof(int64_t) };

typedef struct DatasetRequest {
    DatasetKind kind;
    const DataSource *sources;
    int sources_count;
    const DataConfig *config;
    const Tokenizer *tokenizer;
} DatasetRequest;

/* Tokenise everything into a new sealed file at `path`; `key` goes into it. [local] */
Status dataset_build(const DatasetRequest *request, const char *path, const char *key);

/* --- Opened (dataset.c, dataset_order.c) ----------------------------------------------------------------------------*/

/* Pairs of rated texts: all pairs (stronger, weaker) at least `gap` apart are numbered, and a number is drawn. */
typedef struct RatedPairs {
    int64_t *order; /* (texts) sequences by rating, ascending */
    int64_t *below; /* (texts + 1) pairs whose stronger text is one of order[0, i) */
    int64_t count;  /* texts */
} RatedPairs;

typedef struct SourceOrder {
    SourceSpan span;
    char *path;
    int64_t items;     /* examples in the file: groups, or for rated texts the pairs of one pass */
    int64_t per_epoch; /* examples of this file in one epoch */
    int64_t start;     /* examples of the files before it in one epoch */
    bool rated;        /* RANK: pairs are drawn */
    RatedPairs pairs;
} SourceOrder;

struct Dataset {
    DatasetKind kind;
    char digest[H5_DIGEST_TEXT];
    H5File *file;
    int64_t sequences, groups, longest, per_epoch;
    /* Mapped: */
    const int32_t *token;         // (tokens)
    const uint8_t *loss;          // (tokens), SFT
    const int64_t *offset;        // (sequences + 1)
    const int64_t *prompt;        // (sequences)
    const float *strength;        // (sequences), RANK
    const int64_t *group_start;   // (groups + 1)
    const int64_t *line;          // (groups) where its record starts
    const char *fields;           // (bytes), PROMPT
    const int64_t *fields_offset; // (sequences + 1)
    SourceOrder *sources;
    int sources_count;
};

/* Fill items, per_epoch, start and pairs of every source. Fails where no pair is `gap` apart. */
Status dataset_order_prepare(Dataset *dataset, const DataSource *sources, const DataConfig *config);
void dataset_order_free(Dataset *dataset);

#endif
