/* generate.c -- continuous batching: prefill what has a slot, decode for each running slot, refill.
 *
 * Each round either prefills (slots are free and requests wait) or decodes a burst of steps (decode.h). Both end with one read by the host, and its
 * decisions (stop, max_new, accept). */
#include "core/model/generate.h"

#include "core/base/memory.h"
#include "core/model/decode.h"

typedef struct Slot {
    int64_t request; /* -1: free */
    int64_t cached;  /* tokens whose keys and values are in the cache */
    int32_t next;    /* the newest token, not yet in the cache */
} Slot;

typedef struct Generation {
    const Model *model;
    Exec exec;
    const GenerateRequest *requests;
    const GenerateOptions *options;
    GenerateResult *results;
    int64_t count, slots, admitted, running;
    KvCache cache;
    Slot *slot;
    Decode *decode;
    DecodeRow *row; /* (slots) the running slots, in order */
    bool changed;   /* since the device was told of them */
    /* The batch that is being prefilled, host memory. One entry per sequence, which is a prompt: */
    int32_t *start; /* (slots + 1) */
    int32_t *past;  /* (slots) none: zeros */
    int32_t *first; /* (slots) the slot it is computed in */
    /* One entry per request: */
    int32_t *member;      /* (slots) its slot */
    int32_t *sequence;    /* (slots) its prompt */
    int32_t *index;       /* (slots) last row of its prompt, then the position of its draw */
    int64_t *subsequence; /* (slots) */
    int32_t *tokens;      /* (batch_tokens_max) */
    int32_t *drawn;       /* (2 slots) tokens, then bits of their log-probs */
} Generation;

static uint64_t decoded_rows, wasted_rows;

uint64_t generate_decoded_rows(void)
{
    return decoded_rows;
}

uint64_t generate_wasted_rows(void)
{
    return wasted_rows;
}

/* --- Checks and sizes --------------------------------------------------------------------------------------------- */

static Status requests_check(const Model *model, const GenerateRequest *requests, int64_t count,
                             const GenerateOptions *options, int64_t *capacity)
{
    *capacity = 0;
    if (options->slots < 1 || options->max_new < 1)
        return status_error(STATUS_USAGE, "generation needs at least one slot and one new token, not %lld and %lld",
                            (long long)options->slots, (long long)options->max_new);
    for (int64_t i = 0; i < count; i++) {
        int64_t total = requests[i].prompt_count + options->max_new;
        if (requests[i].prompt_count < 1)
            return status_error(STATUS_USAGE, "prompt %lld is empty", (long long)i);
        if (total > model->shape.positions_max)
            return status_error(STATUS_USAGE,
                                "prompt %lld has %lld tokens; with %lld new ones that is more than the model's %lld "
                                "positions",
                                (long long)i, (long long)requests[i].prompt_count, (long long)options->max_new,
                                (long long)model->shape.positions_max);
        for (int64_t j = 0; j < requests[i].prompt_count; j++)
            if (requests[i].prompt[j] < 0 || requests[i].prompt[j] >= model->shape.vocab)
                return status_error(STATUS_USAGE, "prompt %lld has token %d, expected 0 to %lld", (long long)i,
                                    (int)requests[i].prompt[j], (long long)model->shape.vocab - 1);
        REQUIRE(!requests[i].same_prompt || (i > 0 && requests[i].prompt == requests[i - 1].prompt &&
                                             requests[i].prompt_count == requests[i - 1].prompt_count),
                "request %lld has another prompt than the one before", (long long)i);
        REQUIRE(requests[i].stream.seed == requests[0].stream.seed, "request %lld has a seed of its own", (long long)i);
        *capacity = total > *capacity ? total : *capacity;
    }
    return status_ok();
}

/* Tokens of the longest batch of whole prompts that prefill_gather() may make. */
static int64_t batch_tokens_max(const GenerateRequest *requests, int64_t count, int64_t slots)
{
    int64_t longest = slots > GENERATE_PREFILL_TOKENS ? slots : GENERATE_PREFILL_TOKENS;
    for (int64_t i = 0; i < count; i++)
        longest = requests[i].prompt_count > longest ? requests[i].prompt_count : longest;
    return longest;
}

/* --- One batch ---------------------------------------------------------------------------------------------------- */

static Tensor upload(Generation *g, DType dtype, const void *host, int64_t count)
{
    Tensor tensor = tensor_new1(g->exec.step, dtype, count);
    tensor_write(g->exec.device, tensor, host);
    return tensor;
}

/* A new token of a slot: keep it, and see whether it ends the response. */
static void deliver(Generation *g, Slot *slot, int32_t token, float logprob)
{
    const GenerateOptions *options = g->options;
    GenerateResult *result = &g->results[slot->request];
    result->token[result->count] = token;
    if (result->logprob)
        result->logprob[result->count] = logprob;
    result->count++;
    for (int i = 0; i < options->stop_count; i++)
        result->stopped |= token == options->stop[i];
    if (options->accept && !options->accept(options->context, slot->request, token))
        result->stopped = true;
    slot->next = token;
    if (result->stopped || result->count == options->max_new) {
        slot->request = -1;
        g->running--;
        g->changed = true;
    }
}

static Status check_drawn(const Generation *g, const Slot *slot, int32_t token)
{
    if (token >= 0)
        return status_ok();
    return status_error(STATUS_NUMERIC, "logits of token %lld of response %lld are not finite",
                        (long long)g->results[slot->request].count, (long long)slot->request);
}

static float float_of(int32_t bits)
{
    union {
        int32_t bits;
        float value;
    } as = {.bits = bits};
    return as.value;
}

typedef struct Gathered {
    int64_t requests, sequences;
} Gathered;

/* Waiting requests into free slots, as many as one batch takes. */
static Gathered prefill_gather(Generation *g)
{
    Gathered batch = {0};
    int64_t tokens = 0;
    for (int64_t s = 0; s < g->slots && g->admitted < g->count; s++) {
        if (g->slot[s].request >= 0)
            continue;
        const GenerateRequest *request = &g->requests[g->admitted];
        const bool shared = batch.requests && request->same_prompt;
        if (!shared && batch.sequences && tokens + request->prompt_count > GENERATE_PREFILL_TOKENS)
            break;
        if (!shared) {
            for (int64_t j = 0; j < request->prompt_count; j++)
                g->tokens[tokens++] = request->prompt[j];
            g->past[batch.sequences] = 0;
            g->first[batch.sequences] = (int32_t)s;
            g->start[++batch.sequences] = (int32_t)tokens;
        }
        g->slot[s] = (Slot){.request = g->admitted++};
        g->running++;
        g->member[batch.requests] = (int32_t)s;
        g->sequence[batch.requests++] = (int32_t)(batch.sequences - 1);
    }
    return batch;
}

/* Run the gathered prompts through the decoder and draw one token for each request. */
static Status prefill(Generation *g)
{
    const Gathered gathered = prefill_gather(g);
    const int64_t sequences = gathered.sequences, requests = gathered.requests;
    Exec *exec = &g->exec;
    size_t mark = arena_mark(exec->step);
    TokenBatch batch = token_batch_make(exec->device, exec->step, g->tokens, g->start, sequences, g->past);
    KvUse use = {.cache = &g->cache};
    use.slot = upload(g, DTYPE_I32, g->first, sequences);
    use.past = upload(g, DTYPE_I32, g->past, sequences);
    use.pairs = batch.rows.pairs;
    /* Only a prompt's last row meets the vocabulary, once for each request. */
    Tensor last = tensor_absent();
    if (batch.rows.tokens > sequences || requests > sequences) {
        for (int64_t i = 0; i < requests; i++)
            g->index[i] = g->start[g->sequence[i] + 1] - 1;
        last = upload(g, DTYPE_I32, g->index, requests);
    }
    Tensor hidden = model_hidden(g->model, exec, &batch, last, &use);
    VocabularyHead head = model_vocabulary_head(g->model, 1);
    Tensor logits = head_logits(exec, &head, hidden);

    for (int64_t i = 0; i < requests; i++) {
        int32_t first = g->first[g->sequence[i]];
        if (g->member[i] != first)
            kv_cache_copy(&g->cache, exec->device, g->member[i], first);
        int64_t request = g->slot[g->member[i]].request;
        g->subsequence[i] = (int64_t)g->requests[request].stream.subsequence;
        g->index[i] = (int32_t)g->results[request].count;
    }
    SampleTerms terms = {
        .temperature = g->options->temperature,
        .top_p = g->options->top_p,
        .top_k = g->options->top_k,
        .seed = g->requests[0].stream.seed,
        .subsequence = upload(g, DTYPE_I64, g->subsequence, requests),
        .position = upload(g, DTYPE_I32, g->index, requests),
    };
    /* Tokens and log-probs side by side, so that one read brings both. */
    Tensor drawn = tensor_new1(exec->step, DTYPE_I32, 2 * requests);
    Tensor token = tensor_range(drawn, 0, requests), logprob = tensor_range(drawn, requests, requests);
    logprob.dtype = DTYPE_F32;
    sample(exec, logits, g->model->shape.vocab, &terms, token, logprob);
    tensor_read(exec->device, drawn, g->drawn);
    arena_rewind(exec->step, mark);

    for (int64_t i = 0; i < requests; i++) {
        Slot *slot = &g->slot[g->member[i]];
        TRY(check_drawn(g, slot, g->drawn[i]));
        slot->cached += g->requests[slot->request].prompt_count;
        deliver(g, slot, g->drawn[i], float_of(g->drawn[requests + i]));
    }
    g->changed = true;
    return status_ok();
}

/* The running slots, in order. Returns how many; *left: tokens that one of them may still make, at most. */
static int64_t decode_gather(Generation *g, int64_t *left)
{
    int64_t rows = 0;
    *left = 0;
    for (int64_t s = 0; s < g->slots; s++) {
        const Slot *slot = &g->slot[s];
        if (slot->request < 0)
            continue;
        int64_t count = g->results[slot->request].count;
        g->row[rows++] = (DecodeRow){
            .slot = (int32_t)s,
            .next = slot->next,
            .past = (int32_t)slot->cached,
            .index = (int32_t)count,
            .left = (int32_t)(g->options->max_new - count),
            .subsequence = (int64_t)g->requests[slot->request].stream.subsequence,
        };
        if (g->options->max_new - count > *left)
            *left = g->options->max_new - count;
    }
    return rows;
}

/* Some tokens of each running slot; `accept` is asked after every one. */
static Status decode(Generation *g)
{
    int64_t steps, rows = decode_gather(g, &steps);
    if (g->changed)
        decode_set(g->decode, g->row, rows);
    g->changed = false;
    if (steps > g->exec.device->burst)
        steps = g->exec.device->burst;
    if (g->options->accept)
        steps = 1;
    const int32_t *drawn;
    decode_run(g->decode, steps, &drawn);
    for (int64_t step = 0; step < steps; step++, drawn += 2 * rows)
        for (int64_t i = 0; i < rows; i++) {
            Slot *slot = &g->slot[g->row[i].slot];
            if (slot->request < 0) {
                wasted_rows++;
                continue;
            }
            decoded_rows++;
            TRY(check_drawn(g, slot, drawn[i]));
            slot->cached++;
            deliver(g, slot, drawn[i], float_of(drawn[rows + i]));
        }
    return status_ok();
}

/* --- The whole list ----------------------------------------------------------------------------------------------- */

static Status generation_run(Generation *g)
{
    while (g->admitted < g->count || g->running > 0) {
        if (g->admitted < g->count && g->running < g->slots) {
            TRY(prefill(g));
            continue;
        }
        TRY(decode(g));
    }
    return status_ok();
}

Status generate(const Model *model, Exec *exec, const GenerateRequest *requests, int64_t count,
                const GenerateOptions *options, GenerateResult *results)
{
    int64_t capacity;
    TRY(requests_check(model, requests, count, options, &capacity));
    if (count < 1)
        return status_ok();
    for (int64_t i = 0; i < count; i++) {
        results[i].count = 0;
        results[i].stopped = false;
    }
    int64_t slots = options->slots < count ? options->slots : count;
    Generation g = {
        .model = model,
        .exec = {exec->device, exec->step, NULL},
        .requests = requests,
        .options = options,
        .results = results,
        .count = count,
        .slots = slots,
    };
    size_t mark = arena_mark(exec->step);
    g.cache = kv_cache_new(model, exec->step, slots, capacity);
    size_t items = (size_t)slots;
    g.slot = memory_borrow(items, sizeof *g.slot);
    for (int64_t s = 0; s < slots; s++)
        g.slot[s].request = -1;
    g.start = memory_borrow(items + 1, sizeof *g.start);
    g.past = memory_borrow(items, sizeof *g.past);
    g.first = memory_borrow(items, sizeof *g.first);
    g.member = memory_borrow(items, sizeof *g.member);
    g.sequence = memory_borrow(items, sizeof *g.sequence);
    g.index = memory_borrow(items, sizeof *g.index);
    g.subsequence = memory_borrow(items, sizeof *g.subsequence);
    g.tokens = memory_borrow((size_t)batch_tokens_max(requests, count, slots), sizeof *g.tokens);
    g.drawn = memory_borrow(2 * items, sizeof *g.drawn);
    g.row = memory_borrow(items, sizeof *g.row);
    g.decode = decode_open(model, &g.exec, &g.cache, options, requests[0].stream.seed, slots);

    Status status = generation_run(&g);

    decode_close(g.decode);
    memory_return(&g.row);
    memory_return(&g.drawn);
    memory_return(&g.tokens);
    memory_return(&g.subsequence);
    memory_return(&g.index);
    memory_return(&g.sequence);
    memory_return(&g.member);
    memory_return(&g.first);
    memory_return(&g.past);
    memory_return(&g.start);
    memory_return(&g.slot);
    arena_rewind(exec->step, mark);
    return status;
}
