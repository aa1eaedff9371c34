/* dataset_build.c -- items to token sequences, written once into a sealed HDF5 file.
 *
 * How:   an HDF5 dataset's extent must be known before it is filled, and tokens may be more than memory holds; so tokens,
 *        loss flags and fields gather in nameless files beside the target and are copied over at the end.
 * Layout (all [semantic]; S sequences, G groups, T tokens):
 *            /tokens i32 (T)   /offsets i64 (S + 1)   /prompt i64 (S) tokens before the response
 *            /groups i64 (G + 1) into sequences       /line i64 (G) where the group's record starts in its file
 *            /sources i64 (files, 8) SourceSpan       /@key what the contents are a function of
 *            SFT: /loss u8 (T)   RANK: /strength f32 (S)   PROMPT: /fields u8 (bytes), zero-terminated lines of JSON,
 *            and /fields_offsets i64 (S + 1) */
#include "core/data/dataset_parts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/memory.h"

/* --- Spills: append-only files without a name -----------------------------------------------------------------------*/

typedef struct Spill {
    FILE *file;
    int64_t bytes;
} Spill;

static Status spill_open(Spill *spill, const char *path)
{
    Text name = {0};
    text_printf(&name, "%s.spill.%ld.tmp", path, (long)getpid());
    spill->file = fopen(text_string(&name), "w+b");
    Status status = status_ok();
    if (!spill->file || unlink(text_string(&name)) != 0)
        status = status_error(STATUS_IO, "%s: cannot create: %s", text_string(&name), strerror(errno));
    text_free(&name);
    return status;
}

/* Failures show at spill_copy. */
static void spill_append(Spill *spill, const void *bytes, size_t size)
{
    if (size)
        fwrite(bytes, 1, size, spill->file);
    spill->bytes += (int64_t)size;
}

static Status spill_copy(Spill *spill, H5Writer *writer, const char *path, DType dtype)
{
    enum { PIECE_BYTES = 4 << 20 };
    int64_t width = (int64_t)dtype_size(dtype), elements = spill->bytes / width, shape[1] = {elements};
    h5_write_dataset(writer, H5_SEMANTIC, path, dtype, 1, shape);
    if (fflush(spill->file) != 0 || ferror(spill->file) || fseeko(spill->file, 0, SEEK_SET) != 0)
        return status_error(STATUS_IO, "temporary file of tokens: %s", strerror(errno));
    void *piece = memory_new(1, PIECE_BYTES);
    Status status = status_ok();
    for (int64_t at = 0; at < elements && !status_failed(status);) {
        int64_t count = elements - at < PIECE_BYTES / width ? elements - at : PIECE_BYTES / width;
        if (fread(piece, (size_t)width, (size_t)count, spill->file) != (size_t)count)
            status = status_error(STATUS_IO, "temporary file of tokens: it is shorter than what was written");
        else
            h5_write_elements(writer, path, at, count, piece);
        at += count;
    }
    memory_free(&piece);
    return status;
}

static void spill_close(Spill *spill)
{
    if (spill->file)
        fclose(spill->file);
    spill->file = NULL;
}

/* --- The builder ----------------------------------------------------------------------------------------------------*/

typedef struct IntList {
    int64_t *items;
    int64_t count, capacity;
} IntList;

static void int_append(IntList *list, int64_t value)
{
    memory_reserve(&list->items, list->count, &list->capacity);
    list->items[list->count++] = value;
}

typedef struct Encoded {
    TemplateTokens tokens;
    int64_t prompt; /* tokens before the answer */
    int64_t first;  /* its answer's first message; -1: a text */
    bool truncated, dropped;
    float strength;
} Encoded;

typedef struct Builder {
    const DatasetRequest *request;
    const Template *format;
    const DataSource *source; /* being read */
    SourceSpan span;
    Spill tokens, loss, fields;
    IntList offsets, prompt, groups, line, fields_offsets, spans;
    float *strength;
    int64_t strength_capacity;
    Encoded encoded[GROUP_ANSWERS_MAX]; /* scratch, kept for its memory */
    Text text;
    Item item;
} Builder;

static bool is_full(const Builder *builder)
{
    return builder->source->limit > 0 && builder->span.groups >= builder->source->limit;
}

static Status encode_answer(Builder *builder, const Item *item, const Answer *answer, Encoded *out,
                            const Encoded *before)
{
    const Tokenizer *tokenizer = builder->request->tokenizer;
    TemplateTokens *tokens = &out->tokens;
    template_tokens_clear(tokens);
    out->prompt = 0;
    out->strength = (float)answer->strength;
    out->truncated = out->dropped = false;
    out->first = answer->count ? answer->first : -1;
    if (!answer->count)
        return template_encode_text(tokenizer, answer->text, answer->size, builder->request->config->append_eos,
                                    tokens);
    const Message *messages = item->messages + answer->first;
    if (item->every_turn && answer->text) {
        TRY(template_encode(builder->format, tokenizer, messages, answer->count + 1, tokens));
        while (out->prompt < tokens->tokens.count && !tokens->loss[out->prompt])
            out->prompt++;
        return status_ok();
    }
    if (before && before->first == answer->first) {
        for (int64_t i = 0; i < before->prompt; i++)
            token_list_append(&tokens->tokens, before->tokens.tokens.ids[i]);
        tokens->loss_capacity = tokens->tokens.capacity;
        tokens->loss = memory_resize(tokens->loss, (size_t)tokens->loss_capacity, sizeof *tokens->loss);
        memset(tokens->loss, 0, (size_t)before->prompt);
    } else {
        TRY(template_encode(builder->format, tokenizer, messages, answer->count, tokens));
        memset(tokens->loss, 0, (size_t)tokens->tokens.count); /* earlier answers are others' examples */
    }
    out->prompt = tokens->tokens.count;
    if (answer->text)
        TRY(template_encode_answer(builder->format, tokenizer, answer->text, answer->size, true, tokens));
    return status_ok();
}

/* Cut to max_length. `longest` (tokens): the longest answer of the group, so that a group's prompts are cut alike: an answer
 * gets up to half, the prompt what is left, and the answer what the prompt does not need. */
static void fit(const Builder *builder, Encoded *encoded, int64_t longest)
{
    const DataConfig *config = builder->request->config;
    const Tokenizer *tokenizer = builder->request->tokenizer;
    TemplateTokens *all = &encoded->tokens;
    int32_t *ids = all->tokens.ids;
    int64_t max = config->max_length, total = all->tokens.count, prompt = encoded->prompt, answer = total - prompt;
    int64_t room = longest < (max + 1) / 2 ? longest : (max + 1) / 2;
    int64_t keep = prompt + longest <= max || prompt < max - room ? prompt : max - room;
    if (keep < prompt) { /* from the beginning, but BOS stays */
        int64_t fixed = tokenizer_adds_bos(tokenizer) && ids[0] == tokenizer_bos(tokenizer) && keep > 0,
                cut = prompt - keep;
        memmove(ids + fixed, ids + fixed + cut, (size_t)(total - fixed - cut) * sizeof *ids);
        memmove(all->loss + fixed, all->loss + fixed + cut, (size_t)(total - fixed - cut));
        total -= cut;
        encoded->prompt = prompt = keep;
        encoded->truncated = true;
    }
    if (answer > max - prompt) {
        total = max;
        while (total > prompt + 1 && !all->loss[total - 1]) /* a later turn's question without its answer */
            total--;
        int32_t end = encoded->first >= 0  ? template_end_token(builder->format, tokenizer)
                      : config->append_eos ? tokenizer_eos(tokenizer)
                                           : -1;
        if (end >= 0)
            ids[total - 1] = end;
        encoded->truncated = true;
    }
    all->tokens.count = total;
}

static void learn_prompt(const Builder *builder, Encoded *encoded)
{
    const Tokenizer *tokenizer = builder->request->tokenizer;
    const int32_t *ids = encoded->tokens.tokens.ids;
    for (int64_t i = 0; i < encoded->prompt; i++)
        encoded->tokens.loss[i] = !(i == 0 && tokenizer_adds_bos(tokenizer) && ids[0] == tokenizer_bos(tokenizer));
}

static void append_tokens(Builder *builder, const int32_t *ids, const uint8_t *loss, int64_t count, int64_t prompt,
                          float strength)
{
    const DatasetRequest *request = builder->request;
    spill_append(&builder->tokens, ids, (size_t)count * sizeof *ids);
    if (request->kind == DATASET_SFT)
        spill_append(&builder->loss, loss, (size_t)count);
    memory_reserve(&builder->strength, builder->prompt.count, &builder->strength_capacity);
    builder->strength[builder->prompt.count] = strength;
    int_append(&builder->prompt, prompt);
    int_append(&builder->offsets, builder->tokens.bytes / (int64_t)sizeof *ids);
    builder->span.sequences++;
    builder->span.tokens += count;
}

static void append_group(Builder *builder, const Item *item)
{
    int_append(&builder->groups, builder->prompt.count);
    int_append(&builder->line, item->place.line);
    builder->span.groups++;
}

/* --- What each kind takes from an item ------------------------------------------------------------------------------*/

/* A text cut into pieces of max_length. */
static void append_pieces(Builder *builder, const Item *item, const Encoded *encoded)
{
    const TemplateTokens *all = &encoded->tokens;
    int64_t max = builder->request->config->max_length;
    for (int64_t at = 0; at < all->tokens.count && !is_full(builder); at += max) {
        int64_t count = all->tokens.count - at < max ? all->tokens.count - at : max;
        append_tokens(builder, all->tokens.ids + at, all->loss + at, count, 0, 0);
        append_group(builder, item);
    }
}

static Status take_sft(Builder *builder, const Item *item)
{
    const Answer *best = NULL;
    for (int64_t i = 0; i < item->answers_count; i++)
        if (item->answers[i].text && (!best || item->answers[i].strength > best->strength))
            best = &item->answers[i];
    if (!best && builder->span.format == DATA_OASST)
        return status_ok(); /* a leaf of the tree */
    if (!best)
        return json_error(item->place, "nothing to learn: there is no answer to the prompt");
    Encoded *encoded = &builder->encoded[0];
    TRY(encode_answer(builder, item, best, encoded, NULL));
    if (builder->source->whole && encoded->first < 0) {
        append_pieces(builder, item, encoded);
        return status_ok();
    }
    const DataConfig *config = builder->request->config;
    if (config->overlong == OVERLONG_DROP && encoded->tokens.tokens.count > config->max_length) {
        builder->span.dropped++;
        return status_ok();
    }
    fit(builder, encoded, encoded->tokens.tokens.count - encoded->prompt);
    builder->span.truncated += encoded->truncated;
    if (config->train_on_prompt)
        learn_prompt(builder, encoded);
    append_tokens(builder, encoded->tokens.tokens.ids, encoded->tokens.loss, encoded->tokens.tokens.count,
                  encoded->prompt, 0);
    append_group(builder, item);
    return status_ok();
}

static Status take_ranked(Builder *builder, const Item *item)
{
    const DataConfig *config = builder->request->config;
    bool rated = builder->span.format == DATA_RATED;
    if (item->answers_count < 2 && builder->span.format == DATA_OASST)
        return status_ok();
    if (item->answers_count < 2 && !rated)
        return json_error(item->place, "nothing to compare: a record of format %s is no pair or ranked list",
                          data_format_name((DataFormat)builder->span.format));
    int64_t longest = 0, kept = 0;
    for (int64_t i = 0; i < item->answers_count; i++) {
        Encoded *encoded = &builder->encoded[i];
        TRY(encode_answer(builder, item, &item->answers[i], encoded, i ? encoded - 1 : NULL));
        int64_t count = encoded->tokens.tokens.count, answer = count - encoded->prompt;
        encoded->dropped = config->overlong == OVERLONG_DROP && count > config->max_length;
        if (!encoded->dropped && answer > longest)
            longest = answer;
        kept += !encoded->dropped;
    }
    if (kept < (rated ? 1 : 2)) {
        builder->span.dropped += item->answers_count;
        return status_ok();
    }
    for (int64_t i = 0; i < item->answers_count; i++) {
        Encoded *encoded = &builder->encoded[i];
        builder->span.dropped += encoded->dropped;
        if (encoded->dropped)
            continue;
        fit(builder, encoded, longest);
        builder->span.truncated += encoded->truncated;
        append_tokens(builder, encoded->tokens.tokens.ids, NULL, encoded->tokens.tokens.count, encoded->prompt,
                      encoded->strength);
    }
    append_group(builder, item);
    return status_ok();
}

/* The prompt as a person would write it. */
static Status prompt_text(Builder *builder, const Item *item, const Answer *prompt, const Encoded *encoded, bool cut)
{
    text_clear(&builder->text);
    const TokenList *tokens = &encoded->tokens.tokens;
    if (!prompt->count && cut)
        return tokenizer_decode(builder->request->tokenizer, tokens->ids, tokens->count, TOKENIZER_SKIP_SPECIAL,
                                &builder->text);
    const Message *messages = item->messages + prompt->first;
    if (!prompt->count)
        text_append(&builder->text, prompt->text, prompt->size);
    else if (prompt->count == 1)
        text_append(&builder->text, messages->text, messages->size);
    else
        return template_text(builder->format, messages, prompt->count, &builder->text);
    return status_ok();
}

static Status append_fields(Builder *builder, const Item *item)
{
    json_t *fields = json_is_object(item->record) && builder->span.format != DATA_OASST
                         ? json_copy((json_t *)item->record)
                         : json_object();
    const json_t *id = builder->span.format == DATA_OASST ? json_object_get(item->record, "message_id") : NULL;
    if (id)
        json_object_set(fields, "message_id", (json_t *)id);
    json_t *prompt = json_has(fields, "prompt") ? NULL : json_stringn(text_string(&builder->text), builder->text.size);
    if (prompt)
        json_object_set_new(fields, "prompt", prompt);
    text_clear(&builder->text);
    json_append(&builder->text, fields);
    json_decref(fields);
    spill_append(&builder->fields, text_string(&builder->text), builder->text.size + 1);
    int_append(&builder->fields_offsets, builder->fields.bytes);
    return status_ok();
}

static Status take_prompt(Builder *builder, const Item *item)
{
    const DataConfig *config = builder->request->config;
    const Tokenizer *tokenizer = builder->request->tokenizer;
    Answer prompt = item->answers[0];
    Encoded *encoded = &builder->encoded[0];
    bool cut = false;
    if (prompt.count) {
        prompt.text = NULL;
        TRY(encode_answer(builder, item, &prompt, encoded, NULL));
    } else {
        template_tokens_clear(&encoded->tokens);
        TRY(template_encode_text(tokenizer, prompt.text, prompt.size, false, &encoded->tokens));
        int64_t limit = builder->source->prompt_tokens + (tokenizer_adds_bos(tokenizer) ? 1 : 0);
        cut = builder->source->prompt_tokens > 0 && encoded->tokens.tokens.count > limit;
        if (cut)
            encoded->tokens.tokens.count = limit;
        encoded->prompt = encoded->tokens.tokens.count;
        encoded->first = -1;
        encoded->truncated = false;
    }
    if (config->overlong == OVERLONG_DROP && encoded->tokens.tokens.count > config->max_length) {
        builder->span.dropped++;
        return status_ok();
    }
    fit(builder, encoded, 0);
    builder->span.truncated += encoded->truncated;
    TRY(prompt_text(builder, item, &prompt, encoded, cut || encoded->truncated));
    TRY(append_fields(builder, item));
    append_tokens(builder, encoded->tokens.tokens.ids, NULL, encoded->tokens.tokens.count, encoded->tokens.tokens.count,
                  0);
    append_group(builder, item);
    return status_ok();
}

static Status take_item(void *context, const Item *item)
{
    static Status (*const take[])(Builder *, const Item *) = {
        [DATASET_SFT] = take_sft, [DATASET_RANK] = take_ranked, [DATASET_PROMPT] = take_prompt};
    Builder *builder = context;
    if (is_full(builder))
        return status_ok();
    Status status = take[builder->request->kind](builder, item);
    if (status_failed(status)) { /* the tokenizer and the templates do not know where a text came from */
        Text place = {0};
        text_printf(&place, "%s:%lld: ", item->place.path, (long long)item->place.line);
        if (!text_starts_with(status_message(), text_string(&place)))
            status = status_prefix(status, "%s:%lld", item->place.path, (long long)item->place.line);
        text_free(&place);
    }
    return status;
}

/* --- Files ----------------------------------------------------------------------------------------------------------*/

static DataFormat format_of_shape(RecordShape shape, DataFormat asked)
{
    if (asked != DATA_AUTO)
        return asked;
    return shape == RECORD_RATED_LINES ? DATA_RATED : shape == RECORD_JSON ? DATA_AUTO : DATA_TEXT;
}

static Status read_source(Builder *builder, RecordReader *reader)
{
    const DataSource *source = builder->source;
    DataFormat format = format_of_shape(record_shape(source), source->format);
    int64_t records = 0;
    while (!is_full(builder)) {
        const json_t *record;
        JsonPlace place;
        TRY(record_reader_next(reader, &record, &place));
        if (!record)
            break;
        if (format == DATA_AUTO)
            TRY(data_format_guess(place, record, builder->request->kind, &format));
        builder->span.format = format;
        TRY(data_format_read(format, place, record, &builder->item, take_item, builder));
        records++;
    }
    if (!records)
        return status_error(STATUS_INPUT, "%s: the file holds no records", source->path);
    if (!builder->span.groups)
        return status_error(
            STATUS_INPUT, "%s: no example is left of %lld records (%lld sequences were longer than %lld)", source->path,
            (long long)records, (long long)builder->span.dropped, (long long)builder->request->config->max_length);
    return status_ok();
}

static Status read_sources(Builder *builder)
{
    for (int i = 0; i < builder->request->sources_count; i++) {
        RecordReader *reader;
        builder->source = &builder->request->sources[i];
        builder->span = (SourceSpan){.first_sequence = builder->prompt.count, .first_group = builder->line.count};
        TRY(record_reader_open(&reader, builder->source));
        Status status = read_source(builder, reader);
        record_reader_close(&reader);
        TRY(status);
        const int64_t *row = (const int64_t *)&builder->span;
        for (int f = 0; f < SOURCE_SPAN_FIELDS; f++)
            int_append(&builder->spans, row[f]);
    }
    return status_ok();
}

static void write_ints(H5Writer *writer, const char *path, const IntList *list)
{
    h5_write_whole(writer, H5_SEMANTIC, path, DTYPE_I64, 1, (int64_t[]){list->count}, list->items);
}

static Status write_all(Builder *builder, H5Writer *writer, const char *key)
{
    DatasetKind kind = builder->request->kind;
    h5_write_string(writer, H5_SEMANTIC, "/", "key", key);
    TRY(spill_copy(&builder->tokens, writer, "/tokens", DTYPE_I32));
    write_ints(writer, "/offsets", &builder->offsets);
    write_ints(writer, "/prompt", &builder->prompt);
    write_ints(writer, "/groups", &builder->groups);
    write_ints(writer, "/line", &builder->line);
    h5_write_whole(writer, H5_SEMANTIC, "/sources", DTYPE_I64, 2,
                   (int64_t[]){builder->request->sources_count, SOURCE_SPAN_FIELDS}, builder->spans.items);
    if (kind == DATASET_SFT)
        TRY(spill_copy(&builder->loss, writer, "/loss", DTYPE_U8));
    if (kind == DATASET_RANK)
        h5_write_whole(writer, H5_SEMANTIC, "/strength", DTYPE_F32, 1, (int64_t[]){builder->prompt.count},
                       builder->strength);
    if (kind == DATASET_PROMPT) {
        TRY(spill_copy(&builder->fields, writer, "/fields", DTYPE_U8));
        write_ints(writer, "/fields_offsets", &builder->fields_offsets);
    }
    return status_ok();
}

Status dataset_build(const DatasetRequest *request, const char *path, const char *key)
{
    Builder *builder = memory_new(1, sizeof *builder);
    H5Writer *writer = NULL;
    builder->request = request;
    builder->format = template_get((TemplateKind)request->config->template);
    int_append(&builder->offsets, 0);
    int_append(&builder->groups, 0);
    int_append(&builder->fields_offsets, 0);
    Status status;
    TRY_GOTO(spill_open(&builder->tokens, path), done);
    TRY_GOTO(spill_open(&builder->loss, path), done);
    TRY_GOTO(spill_open(&builder->fields, path), done);
    TRY_GOTO(read_sources(builder), done);
    TRY_GOTO(h5_writer_open(NULL, path, DATASET_FORMAT, DATASET_VERSION, &writer), done);
    h5_writer_fail(writer, write_all(builder, writer, key));
    status = h5_writer_close(&writer);
done:
    spill_close(&builder->tokens);
    spill_close(&builder->loss);
    spill_close(&builder->fields);
    IntList *lists[] = {&builder->offsets, &builder->prompt,         &builder->groups,
                        &builder->line,    &builder->fields_offsets, &builder->spans};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        memory_free(&lists[i]->items);
    for (int i = 0; i < GROUP_ANSWERS_MAX; i++)
        template_tokens_free(&builder->encoded[i].tokens);
    memory_free(&builder->strength);
    text_free(&builder->text);
    item_free(&builder->item);
    memory_free(&builder);
    return status;
}
