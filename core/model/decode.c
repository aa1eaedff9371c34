/* decode.c -- a burst of decode steps on one set of rows: see decode.h. */
#include "core/model/decode.h"

#include "core/base/memory.h"

/* Columns of the state, each (slots) I32. */
typedef enum StateColumn { STATE_SLOT, STATE_NEXT, STATE_PAST, STATE_INDEX, STATE_LEFT, STATE_COLUMNS } StateColumn;

enum { KEPT_MAX = 8 }; /* numbers of rows whose step is kept */

typedef struct KeptStep {
    int64_t rows;
    bool seen; /* run once as it is: libraries have loaded what they need */
    DeviceKept *work;
} KeptStep;

struct Decode {
    const Model *model;
    Exec exec;
    const KvCache *cache;
    const GenerateOptions *options;
    uint64_t seed;
    int64_t slots, rows;
    double past;        /* tokens in the cache, of all rows; counters only */
    Tensor state;       /* (STATE_COLUMNS, slots) I32 */
    Tensor subsequence; /* (slots) I64 */
    Tensor start;       /* (slots + 1) I32: 0, 1, 2, ... */
    Tensor stop;        /* (stop_count) I32 */
    Tensor step;        /* (1) I32: steps of this burst so far */
    Tensor drawn;       /* (2, slots) I32: of the step at hand */
    Tensor history;     /* (burst, 2, slots) I32 */
    int32_t *host_state, *host_start, *host_history;
    int64_t *host_subsequence;
    KeptStep kept[KEPT_MAX];
    int next_kept;
};

static int32_t *integers(int64_t count)
{
    return memory_borrow((size_t)count, sizeof(int32_t));
}

Decode *decode_open(const Model *model, Exec *exec, const KvCache *cache, const GenerateOptions *options, uint64_t seed,
                    int64_t slots)
{
    Decode *decode = memory_borrow(1, sizeof *decode);
    int64_t history = exec->device->burst * 2 * slots;
    *decode = (Decode){.model = model,
                       .exec = *exec,
                       .cache = cache,
                       .options = options,
                       .seed = seed,
                       .slots = slots,
                       .state = tensor_new2(exec->step, DTYPE_I32, STATE_COLUMNS, slots),
                       .subsequence = tensor_new1(exec->step, DTYPE_I64, slots),
                       .start = tensor_new1(exec->step, DTYPE_I32, slots + 1),
                       .stop = tensor_new1(exec->step, DTYPE_I32, options->stop_count),
                       .step = tensor_new1(exec->step, DTYPE_I32, 1),
                       .drawn = tensor_new1(exec->step, DTYPE_I32, 2 * slots),
                       .history = tensor_new1(exec->step, DTYPE_I32, history),
                       .host_state = integers(STATE_COLUMNS * slots),
                       .host_start = integers(slots + 1),
                       .host_history = integers(history),
                       .host_subsequence = memory_borrow((size_t)slots, sizeof(int64_t))};
    for (int64_t i = 0; i <= slots; i++)
        decode->host_start[i] = (int32_t)i;
    tensor_write(exec->device, decode->start, decode->host_start);
    if (options->stop_count)
        tensor_write(exec->device, decode->stop, options->stop);
    return decode;
}

void decode_close(Decode *decode)
{
    for (int i = 0; i < KEPT_MAX; i++)
        device_forget(decode->exec.device, &decode->kept[i].work);
    memory_return(&decode->host_subsequence);
    memory_return(&decode->host_history);
    memory_return(&decode->host_start);
    memory_return(&decode->host_state);
    memory_return(&decode);
}

static Tensor column_of(const Decode *decode, StateColumn column)
{
    return tensor_range(decode->state, column * decode->slots, decode->rows);
}

void decode_set(Decode *decode, const DecodeRow *row, int64_t rows)
{
    Device *device = decode->exec.device;
    int64_t slots = decode->slots;
    REQUIRE(rows >= 1 && rows <= slots, "%lld rows in %lld slots", (long long)rows, (long long)slots);
    decode->rows = rows;
    decode->past = 0;
    for (int64_t i = 0; i < rows; i++) {
        int32_t *state = decode->host_state + i;
        state[STATE_SLOT * slots] = row[i].slot;
        state[STATE_NEXT * slots] = row[i].next;
        state[STATE_PAST * slots] = row[i].past;
        state[STATE_INDEX * slots] = row[i].index;
        state[STATE_LEFT * slots] = row[i].left;
        decode->host_subsequence[i] = row[i].subsequence;
        decode->past += row[i].past;
    }
    tensor_write(device, decode->state, decode->host_state);
    tensor_write(device, decode->subsequence, decode->host_subsequence);
}

/* One token for every row. Works on the same addresses each time. */
static void step_ask(const Decode *decode)
{
    Exec exec = decode->exec;
    int64_t rows = decode->rows;
    size_t mark = arena_mark(exec.step);
    TokenBatch batch = {.rows = {.tokens = rows,
                                 .sequences = rows,
                                 .longest = 1,
                                 .pairs = (double)rows,
                                 .host_start = decode->host_start,
                                 .start = tensor_range(decode->start, 0, rows + 1)},
                        .token = column_of(decode, STATE_NEXT),
                        .position = column_of(decode, STATE_PAST)};
    KvUse use = {.cache = decode->cache,
                 .slot = column_of(decode, STATE_SLOT),
                 .past = column_of(decode, STATE_PAST),
                 .pairs = (double)rows + decode->past};
    Tensor hidden = model_hidden(decode->model, &exec, &batch, tensor_absent(), &use);
    VocabularyHead head = model_vocabulary_head(decode->model, 1);
    Tensor logits = head_logits(&exec, &head, hidden);
    Tensor token = tensor_range(decode->drawn, 0, rows), logprob = tensor_range(decode->drawn, rows, rows);
    logprob.dtype = DTYPE_F32;
    SampleTerms terms = {.temperature = decode->options->temperature,
                         .top_p = decode->options->top_p,
                         .top_k = decode->options->top_k,
                         .seed = decode->seed,
                         .subsequence = tensor_range(decode->subsequence, 0, rows),
                         .position = column_of(decode, STATE_INDEX)};
    sample(&exec, logits, decode->model->shape.vocab, &terms, token, logprob);
    DecodeTerms next = {.token = token,
                        .logprob = logprob,
                        .next = column_of(decode, STATE_NEXT),
                        .past = column_of(decode, STATE_PAST),
                        .index = column_of(decode, STATE_INDEX),
                        .left = column_of(decode, STATE_LEFT),
                        .stop = decode->stop,
                        .step = decode->step,
                        .history = tensor_range(decode->history, 0, exec.device->burst * 2 * rows)};
    decode_next(&exec, &next);
    arena_rewind(exec.step, mark);
}

static KeptStep *kept_of(Decode *decode)
{
    for (int i = 0; i < KEPT_MAX; i++)
        if (decode->kept[i].rows == decode->rows)
            return &decode->kept[i];
    KeptStep *kept = &decode->kept[decode->next_kept++ % KEPT_MAX];
    device_forget(decode->exec.device, &kept->work);
    *kept = (KeptStep){.rows = decode->rows};
    return kept;
}

static void step_run(Decode *decode)
{
    Device *device = decode->exec.device;
    KeptStep *kept = device_keeps(device) ? kept_of(decode) : NULL;
    if (!kept || !kept->seen) {
        step_ask(decode);
        if (kept)
            kept->seen = true;
        return;
    }
    if (!kept->work) {
        device_keep_begin(device);
        step_ask(decode);
        kept->work = device_keep_end(device);
    }
    device_replay(device, kept->work);
}

void decode_run(Decode *decode, int64_t steps, const int32_t **drawn)
{
    Device *device = decode->exec.device;
    REQUIRE(steps >= 1 && steps <= device->burst, "a burst of %lld steps", (long long)steps);
    tensor_zero(device, decode->step);
    for (int64_t step = 0; step < steps; step++) {
        step_run(decode);
        decode->past += (double)decode->rows;
    }
    tensor_read(device, tensor_range(decode->history, 0, steps * 2 * decode->rows), decode->host_history);
    *drawn = decode->host_history;
}
