/* perplexity.c -- see perplexity.h. */
#include "eval/perplexity.h"

#include <math.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/data/json_writer.h"
#include "core/data/template.h"
#include "core/store/checkpoint.h"
#include "rewards/sequences.h"

enum { ROUND_UNITS = 16 };

/* One record of the round at hand. */
typedef struct Document {
    int64_t first_token, tokens;   /* in Perplexity.token */
    int64_t first_window, windows; /* in the list */
    int64_t bytes;                 /* of its text; -1: it came as tokens */
} Document;

typedef struct Perplexity {
    const PerplexityOptions *options;
    Comm *comm;
    Model model;
    Tokenizer *tokenizer;
    Arena step;
    Exec exec;
    SequenceList list;
    /* rank 0 alone */
    JsonReader *reader;
    JsonWriter *writer;
    Document *document;
    int64_t documents, documents_capacity;
    TemplateTokens token;
    bool ended;
    Status pending;
    Text pending_message;
    PerplexityReport report;
} Perplexity;

/* --- Reading --------------------------------------------------------------------------------------------------------- */

static Status read_ids(Perplexity *self, JsonPlace place, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0 ||
            json_integer_value(item) >= self->model.shape.vocab)
            return json_error(place, "\"tokens\"[%zu]: expected a whole number from 0 to %lld", i,
                              (long long)self->model.shape.vocab - 1);
        token_list_append(&self->token.tokens, (int32_t)json_integer_value(item));
    }
    return status_ok();
}

static Status read_record(Perplexity *self, JsonPlace place, const json_t *record, Document *document)
{
    TRY(json_check_object(place, record));
    if (json_has(record, "tokens")) {
        const json_t *list = NULL;
        TRY(json_get_array(place, record, "tokens", JSON_REQUIRED, &list));
        return read_ids(self, place, list);
    }
    const char *text = NULL;
    size_t size = 0;
    if (!json_has(record, "text"))
        return json_error(place, "expected \"text\" or \"tokens\"");
    TRY(json_get_string(place, record, "text", JSON_REQUIRED, &text, &size));
    if (!self->tokenizer)
        return json_error(place, "a text, but %s has no tokenizer", self->options->model);
    document->bytes = (int64_t)size;
    return status_prefix(template_encode_text(self->tokenizer, text, size, self->options->eos, &self->token), "%s:%lld",
                         place.path, (long long)place.line);
}

/* Cut a document into windows; those after the first predict their second half alone. */
static void add_windows(Perplexity *self, Document *document)
{
    const int32_t *token = self->token.tokens.ids + document->first_token;
    int64_t most = self->model.shape.positions_max, stride = most > 1 ? most / 2 : 1;
    document->first_window = self->list.count;
    if (document->tokens == 0)
        return;
    for (int64_t from = 0, done = 1;; from += stride) {
        int64_t length = document->tokens - from < most ? document->tokens - from : most;
        sequence_list_add(&self->list, token + from, length, from + length - done);
        document->windows++;
        done = from + length;
        if (done == document->tokens)
            return;
    }
}

/* As many records as fill a round; a failure ends the input. */
static void read_round(Perplexity *self)
{
    self->documents = 0;
    template_tokens_clear(&self->token);
    sequence_list_clear(&self->list);
    while (!self->ended && self->list.tokens < ROUND_UNITS * self->options->unit_tokens) {
        json_t *record = NULL;
        Document document = {.first_token = self->token.tokens.count, .bytes = -1};
        Status status = json_reader_next(self->reader, &record);
        if (!status_failed(status) && record)
            status = read_record(self, json_reader_place(self->reader), record, &document);
        if (status_failed(status)) {
            self->pending = status;
            text_append_string(&self->pending_message, status_message());
        }
        if (status_failed(status) || !record) {
            self->ended = true;
            return;
        }
        document.tokens = self->token.tokens.count - document.first_token;
        add_windows(self, &document);
        memory_reserve(&self->document, self->documents, &self->documents_capacity);
        self->document[self->documents++] = document;
    }
}

/* --- Computing ------------------------------------------------------------------------------------------------------- */

/* Log-probs of the last result_count tokens of each sequence. */
static Status logprob_unit(void *context, const SequenceList *list, int64_t from, int64_t to, float *result)
{
    Perplexity *self = context;
    int64_t sequences = to - from, tokens = list->start[to] - list->start[from];
    int64_t rows = list->result_start[to] - list->result_start[from], row = 0;
    if (rows == 0)
        return status_ok();
    Device *device = self->exec.device;
    int32_t *start = memory_new((size_t)sequences + 1, sizeof *start);
    int32_t *index = memory_new((size_t)rows, sizeof *index), *target = memory_new((size_t)rows, sizeof *target);
    for (int64_t i = 0; i < sequences; i++) {
        int64_t end = list->start[from + i + 1] - list->start[from];
        int64_t results = list->result_start[from + i + 1] - list->result_start[from + i];
        start[i + 1] = (int32_t)end;
        for (int64_t t = end - results; t < end; t++, row++) {
            index[row] = (int32_t)t - 1;
            target[row] = list->token[list->start[from] + t];
        }
    }
    size_t mark = arena_mark(&self->step);
    TokenBatch batch = token_batch_make(device, &self->step, list->token + list->start[from], start, sequences, NULL);
    DCHECK(batch.rows.tokens == tokens, "%lld tokens", (long long)tokens);
    (void)tokens;
    Tensor wanted = tensor_new1(&self->step, DTYPE_I32, rows), targets = tensor_new1(&self->step, DTYPE_I32, rows);
    tensor_write(device, wanted, index);
    tensor_write(device, targets, target);
    Tensor hidden = model_hidden(&self->model, &self->exec, &batch, wanted, NULL);
    Tensor logprob = tensor_new1(&self->step, DTYPE_F32, rows);
    VocabularyHead head = model_vocabulary_head(&self->model, 1);
    head_logprobs(&self->exec, &head, hidden, targets, logprob, tensor_absent());
    tensor_read(device, logprob, result + list->result_start[from]);
    arena_rewind(&self->step, mark);
    memory_free(&target);
    memory_free(&index);
    memory_free(&start);
    for (int64_t i = list->result_start[from]; i < list->result_start[to]; i++)
        if (!isfinite(result[i]))
            return status_error(STATUS_NUMERIC, "%s: a log-probability is %g", self->options->model, (double)result[i]);
    return status_ok();
}

/* --- Writing --------------------------------------------------------------------------------------------------------- */

static Status write_document(Perplexity *self, const Document *document, const float *logprob)
{
    if (!self->writer)
        return status_ok();
    json_t *record = json_object(), *tokens = json_array(), *logprobs = json_array();
    for (int64_t t = 0; t < document->tokens; t++) {
        json_array_append_new(tokens, json_integer(self->token.tokens.ids[document->first_token + t]));
        json_array_append_new(logprobs, t ? json_float(logprob[t - 1]) : json_null());
    }
    json_object_set_new(record, "tokens", tokens);
    json_object_set_new(record, "logprobs", logprobs);
    Status status = json_writer_line(self->writer, record);
    json_decref(record);
    return status;
}

static Status finish_round(Perplexity *self, const float *logprob)
{
    PerplexityReport *report = &self->report;
    for (int64_t d = 0; d < self->documents; d++) {
        const Document *document = &self->document[d];
        const SequenceList *list = &self->list;
        int64_t first = list->count ? list->result_start[document->first_window] : 0;
        int64_t last = list->count ? list->result_start[document->first_window + document->windows] : 0;
        double nll = 0;
        for (int64_t i = first; i < last; i++)
            nll -= (double)logprob[i];
        report->records++;
        report->predicted += last - first;
        report->nll += nll;
        if (document->bytes >= 0) {
            report->text_bytes += document->bytes;
            report->text_predicted += last - first;
            report->text_nll += nll;
        }
        TRY(write_document(self, document, logprob + first));
    }
    return self->writer ? json_writer_flush(self->writer) : status_ok();
}

static Status run_rounds(Perplexity *self)
{
    bool root = comm_rank(self->comm) == 0;
    for (uint8_t ended = 0; !ended;) {
        if (root)
            read_round(self);
        float *logprob = NULL;
        Status status =
            sequence_list_run(self->comm, &self->list, self->options->unit_tokens, logprob_unit, self, &logprob);
        if (!status_failed(status) && root)
            status = finish_round(self, logprob);
        memory_free(&logprob);
        TRY(comm_agree(self->comm, status));
        ended = self->ended;
        comm_broadcast(self->comm, 0, &ended, sizeof ended);
    }
    Status status = self->pending;
    if (status_failed(status))
        status = status_error(status.code, "%s", text_string(&self->pending_message));
    return comm_agree(self->comm, status);
}

static Status open_all(Perplexity *self, Device *device)
{
    const PerplexityOptions *options = self->options;
    bool has_head = false;
    char digest[40];
    TRY(model_load(self->comm, device, options->model, HEAD_LM, &self->model, &has_head, &self->tokenizer, digest));
    model_freeze(&self->model);
    Status status = has_head
                        ? status_ok()
                        : status_error(STATUS_INPUT, "%s: expected a language model, found a model without its head",
                                       options->model);
    if (!status_failed(status))
        status = device_arena(device, &self->step, "step", 0);
    self->exec = (Exec){device, &self->step, NULL};
    if (!status_failed(status) && comm_rank(self->comm) == 0) {
        status = json_reader_open(&self->reader, options->input);
        if (!status_failed(status) && options->output)
            status = json_writer_open(&self->writer, options->output);
    }
    return comm_agree(self->comm, status);
}

Status perplexity_run(Comm *comm, Device *device, const PerplexityOptions *options, PerplexityReport *report)
{
    REQUIRE(options->unit_tokens >= 1, "units of %lld tokens", (long long)options->unit_tokens);
    Perplexity self = {.options = options, .comm = comm};
    double started = profile_seconds();
    Status status = open_all(&self, device);
    if (!status_failed(status))
        status = run_rounds(&self);
    Status closed = json_writer_close(&self.writer, !status_failed(status));
    if (!status_failed(status))
        status = comm_agree(comm, closed);
    self.report.seconds = profile_seconds() - started;
    comm_broadcast(comm, 0, &self.report, sizeof self.report);
    *report = self.report;
    json_reader_close(&self.reader);
    if (self.model.device)
        model_close(&self.model);
    tokenizer_close(&self.tokenizer);
    if (self.step.base)
        arena_close(&self.step);
    sequence_list_free(&self.list);
    template_tokens_free(&self.token);
    memory_free(&self.document);
    text_free(&self.pending_message);
    return status;
}

void perplexity_table(const PerplexityReport *report, Text *text)
{
    double mean = report->predicted > 0 ? report->nll / (double)report->predicted : 0;
    text_printf(text, "records      %lld\n", (long long)report->records);
    text_printf(text, "predicted    %lld tokens\n", (long long)report->predicted);
    if (report->predicted > 0) {
        text_printf(text, "loss         %.6f nats per token\n", mean);
        text_printf(text, "perplexity   %.6g\n", exp(mean));
    }
    if (report->text_bytes > 0)
        text_printf(text, "bits/byte    %.6f\n", report->text_nll / log(2.0) / (double)report->text_bytes);
    text_printf(text, "time         %.1f s, %s tokens/s\n", report->seconds,
                text_count(report->seconds > 0 ? (double)report->predicted / report->seconds : 0));
}
