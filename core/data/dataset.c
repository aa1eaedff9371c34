/* dataset.c -- opening: the keys, the digest that names the cached file, the file found or made, and the accessors. */
#include "core/data/dataset_parts.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"

const ConfigKey data_source_keys[] = {
    CONFIG_KEY_PATH(DataSource, path, NULL,
                    "a data file: JSONL, a JSON array, .tsv or .txt. Its contents, not its place, enter the digest",
                    .operational = true),
    CONFIG_KEY_CHOICE(DataSource, format, "auto", "auto|text|response|alpaca|chat|pairs|ranked|oasst|rated|prompts",
                      "what a record is; auto looks at the first record's keys (.tsv is rated, .txt one text per line) "
                      "and says what it took"),
    CONFIG_KEY_FLOAT(DataSource, weight, "1", 1e-9, 1e6,
                     "passes over this file per epoch: 1 is each example once; 0.5 one half, the next epoch the other; "
                     "2 everything twice"),
    CONFIG_KEY_INT(DataSource, prompt_tokens, "0", 0, 1 << 30,
                   "prompts taken from texts: only their first so many tokens (BOS not counted); 0 is the whole text. "
                   "Other prompts are never cut by this"),
    CONFIG_KEY_INT(DataSource, limit, "0", 0, INT64_C(1) << 40, "use only the first so many examples; 0 is all"),
    CONFIG_KEY_BOOL(
        DataSource, whole, "false",
        "read the file as one text, cut into pieces of max_length tokens (a book), rather than one text per line"),
    {0}};

const ConfigKey data_config_keys[] = {
    /* The words of template_names(), in its order; t316 compares. */
    CONFIG_KEY_CHOICE(DataConfig, template, "plain", "plain|alpaca|chatml|hh",
                      "how a conversation is written for the model; plain adds nothing, which is what a model without "
                      "a chat format has seen. All stages must agree"),
    CONFIG_KEY_INT(DataConfig, max_length, "1024", 8, 1 << 24,
                   "tokens of the longest sequence (prompt and answer); attention's cost grows with its square"),
    CONFIG_KEY_CHOICE(DataConfig, overlong, "truncate", "truncate|drop",
                      "longer sequences: truncate (texts and answers lose their end and keep a final EOS, prompts lose "
                      "their beginning once the answer has half) or drop; both are counted and reported"),
    CONFIG_KEY_BOOL(DataConfig, append_eos, "true",
                    "texts end in EOS, so that a model learns to stop; answers of a conversation always do"),
    CONFIG_KEY_BOOL(DataConfig, train_on_prompt, "false",
                    "SFT: loss on prompts too; off, since a prompt's words are the user's"),
    CONFIG_KEY_FLOAT(DataConfig, gap, "1", 0, 1e9,
                     "rated texts: two make a pair only if their ratings differ by at least this; smaller gaps are "
                     "mostly the raters' noise"),
    CONFIG_KEY_INT(DataConfig, pairs, "0", 0, INT64_C(1) << 40,
                   "rated texts: pairs drawn per pass over a file, anew each epoch; 0 is half the number of texts, so "
                   "each is seen about once"),
    {0}};

/* --- The digest ----------------------------------------------------------------------------------------------------*/

/* What the tokens are a function of. */
static Status describe(const DatasetRequest *request, Text *text)
{
    const DataConfig *config = request->config;
    text_printf(text,
                "version %d\nkind %d\ntokenizer %016llx\ntemplate %s\nmax_length %lld\noverlong %d\nappend_eos %d\n"
                "train_on_prompt %d\n",
                DATASET_VERSION, (int)request->kind, (unsigned long long)tokenizer_digest(request->tokenizer),
                template_names()[config->template], (long long)config->max_length, (int)config->overlong,
                config->append_eos, request->kind == DATASET_SFT && config->train_on_prompt);
    for (int i = 0; i < request->sources_count; i++) {
        const DataSource *source = &request->sources[i];
        H5Digest digest;
        char hex[H5_DIGEST_TEXT];
        TRY(h5_digest_file(source->path, &digest));
        text_printf(text, "source %s format %s shape %d prompt_tokens %lld limit %lld\n", h5_digest_text(digest, hex),
                    data_format_name(source->format), (int)record_shape(source), (long long)source->prompt_tokens,
                    (long long)source->limit);
    }
    return status_ok();
}

/* What the examples are a function of besides. */
static void describe_order(const DatasetRequest *request, Text *text)
{
    if (request->kind == DATASET_RANK)
        text_printf(text, "gap %.17g\npairs %lld\n", request->config->gap, (long long)request->config->pairs);
    for (int i = 0; i < request->sources_count; i++)
        text_printf(text, "weight %.17g\n", request->sources[i].weight);
}

/* DIRECTORY/NAME-DIGEST16.h5; NAME is the first file's. */
static char *cache_path(const DatasetRequest *request, const char *directory, const char *key)
{
    const char *path = request->sources[0].path, *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    Text text = {0};
    size_t stem = strcspn(name, ".");
    text_append(&text, name, stem < 64 ? stem : 64);
    text_printf(&text, "-%.16s.h5", key);
    char *result = text_join_path(directory, text_string(&text));
    text_free(&text);
    return result;
}

/* --- Find or make the file ------------------------------------------------------------------------------------------*/

static Status cache_check(const char *path, const char *key)
{
    H5File *file = NULL;
    const char *found;
    Status status = h5_open(path, DATASET_FORMAT, &file);
    if (!status_failed(status))
        status = h5_read_string(file, "/", "key", &found);
    if (!status_failed(status) && strcmp(found, key) != 0)
        status = status_error(STATUS_INPUT, "%s: made from other data", path);
    if (!status_failed(status))
        status = h5_verify(file, 0, 1);
    h5_close(&file);
    return status;
}

/* Rank 0's part: afterwards the file is there, whole. */
static Status prepare(const DatasetRequest *request, const char *directory, char key[H5_DIGEST_TEXT],
                      char digest[H5_DIGEST_TEXT])
{
    Text text = {0};
    Status status = describe(request, &text);
    if (!status_failed(status)) {
        h5_digest_text(h5_digest_bytes(text_string(&text), text.size), key);
        describe_order(request, &text);
        h5_digest_text(h5_digest_bytes(text_string(&text), text.size), digest);
        status = text_make_directories(directory);
    }
    text_free(&text);
    TRY(status);
    char *path = cache_path(request, directory, key);
    bool there = access(path, F_OK) == 0, good = there && !status_failed(cache_check(path, key));
    if (there && !good)
        log_warn("%s; tokenising anew", status_message());
    if (!good)
        status = dataset_build(request, path, key);
    memory_free(&path);
    return status;
}

/* --- Open -----------------------------------------------------------------------------------------------------------*/

static Status map_dataset(H5File *file, const char *path, DType dtype, int64_t elements, const void **pointer)
{
    const H5Dataset *found;
    TRY(h5_find(file, path, dtype, 1, &elements, &found));
    return h5_map(file, found, pointer);
}

/* Offsets from 0 to `end` that never fall. */
static Status check_offsets(const H5File *file, const char *path, const int64_t *offset, int64_t count, int64_t end)
{
    bool good = offset[0] == 0 && offset[count] == end;
    for (int64_t i = 0; i < count && good; i++)
        good = offset[i] <= offset[i + 1];
    return good ? status_ok()
                : status_error(STATUS_INPUT, "%s: %s does not rise to %lld", h5_path(file), path, (long long)end);
}

static Status map_all(Dataset *dataset)
{
    H5File *file = dataset->file;
    const H5Dataset *tokens, *prompt, *line;
    TRY(h5_find(file, "/tokens", DTYPE_I32, 1, NULL, &tokens));
    TRY(h5_find(file, "/prompt", DTYPE_I64, 1, NULL, &prompt));
    TRY(h5_find(file, "/line", DTYPE_I64, 1, NULL, &line));
    dataset->sequences = prompt->elements;
    dataset->groups = line->elements;
    TRY(h5_map(file, tokens, (const void **)&dataset->token));
    TRY(h5_map(file, prompt, (const void **)&dataset->prompt));
    TRY(h5_map(file, line, (const void **)&dataset->line));
    TRY(map_dataset(file, "/offsets", DTYPE_I64, dataset->sequences + 1, (const void **)&dataset->offset));
    TRY(map_dataset(file, "/groups", DTYPE_I64, dataset->groups + 1, (const void **)&dataset->group_start));
    TRY(check_offsets(file, "/offsets", dataset->offset, dataset->sequences, tokens->elements));
    TRY(check_offsets(file, "/groups", dataset->group_start, dataset->groups, dataset->sequences));
    if (dataset->kind == DATASET_SFT)
        TRY(map_dataset(file, "/loss", DTYPE_U8, tokens->elements, (const void **)&dataset->loss));
    if (dataset->kind == DATASET_RANK)
        TRY(map_dataset(file, "/strength", DTYPE_F32, dataset->sequences, (const void **)&dataset->strength));
    if (dataset->kind == DATASET_PROMPT) {
        const H5Dataset *fields;
        TRY(h5_find(file, "/fields", DTYPE_U8, 1, NULL, &fields));
        TRY(h5_map(file, fields, (const void **)&dataset->fields));
        TRY(map_dataset(file, "/fields_offsets", DTYPE_I64, dataset->sequences + 1,
                        (const void **)&dataset->fields_offset));
        TRY(check_offsets(file, "/fields_offsets", dataset->fields_offset, dataset->sequences, fields->elements));
    }
    for (int64_t i = 0; i < dataset->sequences; i++) {
        int64_t count = dataset->offset[i + 1] - dataset->offset[i];
        dataset->longest = count > dataset->longest ? count : dataset->longest;
    }
    return status_ok();
}

static Status read_spans(Dataset *dataset, const DatasetRequest *request)
{
    const H5Dataset *found;
    int64_t shape[2] = {request->sources_count, SOURCE_SPAN_FIELDS};
    TRY(h5_find(dataset->file, "/sources", DTYPE_I64, 2, shape, &found));
    SourceSpan *spans = memory_new((size_t)request->sources_count, sizeof *spans);
    Status status = h5_read_whole(dataset->file, found, spans);
    dataset->sources = memory_new((size_t)request->sources_count, sizeof *dataset->sources);
    dataset->sources_count = request->sources_count;
    for (int i = 0; i < request->sources_count; i++) {
        dataset->sources[i].span = spans[i];
        dataset->sources[i].path = memory_strdup(request->sources[i].path);
    }
    memory_free(&spans);
    return status;
}

/* Every rank's part: open what rank 0 left. */
static Status open_file(Dataset *dataset, const DatasetRequest *request, const char *path)
{
    TRY(h5_open(path, DATASET_FORMAT, &dataset->file));
    TRY(map_all(dataset));
    TRY(read_spans(dataset, request));
    return dataset_order_prepare(dataset, request->sources, request->config);
}

static void report(const Dataset *dataset)
{
    static const char *const nouns[] = {
        [DATASET_SFT] = "examples", [DATASET_RANK] = "groups", [DATASET_PROMPT] = "prompts"};
    for (int i = 0; i < dataset->sources_count; i++) {
        const SourceOrder *order = &dataset->sources[i];
        Text text = {0};
        text_printf(&text, "%s (%s): %lld %s, %s tokens", order->path, data_format_name((DataFormat)order->span.format),
                    (long long)order->span.groups, order->rated ? "rated texts" : nouns[dataset->kind],
                    text_count((double)order->span.tokens));
        if (order->per_epoch != order->span.groups || order->rated)
            text_printf(&text, ", %lld %s per epoch", (long long)order->per_epoch,
                        order->rated ? "pairs" : nouns[dataset->kind]);
        if (order->span.truncated)
            text_printf(&text, ", %lld sequences truncated", (long long)order->span.truncated);
        if (order->span.dropped)
            text_printf(&text, ", %lld sequences dropped as over-long", (long long)order->span.dropped);
        log_info("%s", text_string(&text));
        text_free(&text);
    }
}

Status dataset_open(Comm *comm, DatasetKind kind, const DataSource *sources, int sources_count,
                    const DataConfig *config, const Tokenizer *tokenizer, const char *cache_directory, Dataset **result)
{
    REQUIRE(sources_count > 0, "a data set of %d files", sources_count);
    const DatasetRequest request = {kind, sources, sources_count, config, tokenizer};
    struct {
        char key[H5_DIGEST_TEXT], digest[H5_DIGEST_TEXT];
    } names = {0};
    *result = NULL;
    Status status = status_ok();
    if (comm_rank(comm) == 0)
        status = prepare(&request, cache_directory, names.key, names.digest);
    TRY(comm_agree(comm, status));
    comm_broadcast(comm, 0, &names, sizeof names);
    Dataset *dataset = memory_new(1, sizeof *dataset);
    dataset->kind = kind;
    memcpy(dataset->digest, names.digest, sizeof dataset->digest);
    char *path = cache_path(&request, cache_directory, names.key);
    status = comm_agree(comm, open_file(dataset, &request, path));
    memory_free(&path);
    if (status_failed(status)) {
        dataset_close(&dataset);
        return status;
    }
    report(dataset);
    *result = dataset;
    return status;
}

void dataset_close(Dataset **address)
{
    Dataset *dataset = *address;
    if (!dataset)
        return;
    dataset_order_free(dataset);
    h5_close(&dataset->file);
    memory_free(address);
}

/* --- Accessors ------------------------------------------------------------------------------------------------------*/

const char *dataset_digest(const Dataset *dataset)
{
    return dataset->digest;
}

int64_t dataset_sequences(const Dataset *dataset)
{
    return dataset->sequences;
}

int64_t dataset_longest(const Dataset *dataset)
{
    return dataset->longest;
}

Sequence dataset_sequence(const Dataset *dataset, int64_t index)
{
    REQUIRE(index >= 0 && index < dataset->sequences, "sequence %lld of %lld", (long long)index,
            (long long)dataset->sequences);
    int64_t from = dataset->offset[index];
    return (Sequence){.token = dataset->token + from,
                      .count = dataset->offset[index + 1] - from,
                      .prompt = dataset->prompt[index],
                      .loss = dataset->loss ? dataset->loss + from : NULL,
                      .strength = dataset->strength ? dataset->strength[index] : 0};
}

const char *dataset_fields(const Dataset *dataset, int64_t index)
{
    REQUIRE(dataset->kind == DATASET_PROMPT && index >= 0 && index < dataset->sequences, "fields of sequence %lld",
            (long long)index);
    return dataset->fields + dataset->fields_offset[index];
}
