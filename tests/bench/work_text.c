/* work_text.c -- tokenising a text file of one text per line, as a stage does it once before training: read, encode, write the data set, open it.
 *
 * The text and the tokenizer come from texts.py, so that the peer reads the very same files. Each round makes the data set anew. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/data/dataset.h"
#include "tests/bench/work_scratch.h"

typedef struct TextWork {
    const char *path;
    double bytes;
    Scratch scratch;
    Tokenizer *tokenizer;
    int64_t rounds;
} TextWork;

static Status text_open(Bench *bench, void **self)
{
    TextWork *own = memory_new(1, sizeof *own);
    *self = own;
    own->path = bench_text(bench, "text", NULL);
    const char *tokenizer = bench_text(bench, "tokenizer", NULL);
    struct stat about;
    if (!own->path || !tokenizer || stat(own->path, &about) != 0)
        return status_error(STATUS_USAGE, "text=FILE and tokenizer=FILE are needed: texts.py makes them");
    own->bytes = (double)about.st_size;
    TRY(scratch_open(bench, &own->scratch));
    return tokenizer_open(&own->tokenizer, tokenizer);
}

static Status text_once(Bench *bench, void *self, Figures *figures)
{
    TextWork *own = self;
    DataSource source = {.path = own->path, .format = DATA_TEXT, .weight = 1};
    DataConfig config = {.template = 0, .max_length = 1 << 20, .append_eos = true};
    Dataset *dataset = NULL;
    char name[32];
    snprintf(name, sizeof name, "data-%lld", (long long)own->rounds++);
    char *cache = scratch_path(&own->scratch, name);
    double since = profile_seconds(), tokens = 0;
    Status status = dataset_open(bench->comm, DATASET_SFT, &source, 1, &config, own->tokenizer, cache, &dataset);
    double seconds = profile_seconds() - since;
    memory_free(&cache);
    TRY(status);
    int64_t sequences = dataset_sequences(dataset);
    for (int64_t i = 0; i < sequences; i++)
        tokens += (double)dataset_sequence(dataset, i).count;
    dataset_close(&dataset);
    figures_add(figures, "seconds", seconds);
    figures_add(figures, "bytes", own->bytes);
    figures_add(figures, "tokens", tokens);
    figures_add(figures, "texts", (double)sequences);
    return status_ok();
}

static void text_close(Bench *bench, void *self)
{
    TextWork *own = self;
    if (!own)
        return;
    tokenizer_close(&own->tokenizer);
    scratch_close(bench, &own->scratch);
    memory_free(&own);
}

const Work work_tokenise = {
    .name = "tokenise",
    .help = "a text file into a data set: text=FILE tokenizer=FILE dir=/tmp",
    .open = text_open,
    .once = text_once,
    .close = text_close,
};
