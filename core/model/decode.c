/* decode.c -- a burst of decode steps on one set of rows: see decode.h. */
#include "core/model/decode.h"

#include "core/base/memory.h"

/* Columns of the state, each (slots) I32. */
typedef enum StateColumn { STATE_SLOT, STATE_NEXT, STATE_PAST, STATE_INDEX, STATE_LEFT, STATE_COLUMNS } StateColumn;

enum { KEPT_MAX = 8 }; /* numbers of rows whose step is kept */

typedef struct KeptStep {
    int64_t rows;
    bool seen;   /* run once as it is: libraries have loaded what they need */
    double past; /* as Decode's, when it was kept */
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

/* Rows [from, from + count) of a step. */
typedef struct Part {
    int64_t from, count;
} Part;

static Tensor column_of(const Decode *decode, StateColumn column, Part part)
{
    return tensor_range(decode->state, column * decode->slots + part.from, part.count);
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

/* Of a model that stays in caches each thread may as well read all weights, if it has rows enough for so many. */
enum { CACHED_BYTES_PER_ROW = 1 << 20 };

/* How many parts a step's rows are cut into, each one thread's from the embedding to the draw. One: every op is cut over threads, so that weights come
 * from memory once. */
static int64_t parts_of(const Decode *decode)
{
    int64_t bytes = (int64_t)sizeof(float) * decode->model->params.count, rows = decode->rows;
    int64_t strands = decode->exec.device->strands;
    if (strands == 0 || !model_stays_cached(decode->model) || bytes > CACHED_BYTES_PER_ROW * rows)
        return 1;
    return rows < strands ? rows : strands;
}

/* One token for every row of a part. */
static void part_ask(const Decode *decode, Part part)
{
    Exec exec = decode->exec;
    double past = decode->past * (double)part.count / (double)decode->rows;
    TokenBatch batch = {.rows = {.tokens = part.count,
                                 .sequences = part.count,
                                 .longest = 1,
                                 .pairs = (double)part.count,
                                 .host_start = decode->host_start,
                                 .start = tensor_range(decode->start, 0, part.count + 1)},
                        .token = column_of(decode, STATE_NEXT, part),
                        .position = column_of(decode, STATE_PAST, part)};
    KvUse use = {.cache = decode->cache,
                 .slot = column_of(decode, STATE_SLOT, part),
                 .past = column_of(decode, STATE_PAST, part),
                 .pairs = (double)part.count + past};
    Tensor hidden = model_hidden(decode->model, &exec, &batch, tensor_absent(), &use);
    VocabularyHead head = model_vocabulary_head(decode->model, 1);
    Tensor logits = head_logits(&exec, &head, hidden);
    Tensor token = tensor_range(decode->drawn, part.from, part.count);
    Tensor logprob = tensor_range(decode->drawn, decode->rows + part.from, part.count);
    logprob.dtype = DTYPE_F32;
    SampleTerms terms = {.temperature = decode->options->temperature,
                         .top_p = decode->options->top_p,
                         .top_k = decode->options->top_k,
                         .seed = decode->seed,
                         .subsequence = tensor_range(decode->subsequence, part.from, part.count),
                         .position = column_of(decode, STATE_INDEX, part)};
    sample(&exec, logits, decode->model->shape.vocab, &terms, token, logprob);
}

static void strand_ask(void *context, int64_t number)
{
    const Decode *decode = context;
    int64_t parts = parts_of(decode), from = decode->rows * number / parts, to = decode->rows * (number + 1) / parts;
    part_ask(decode, (Part){from, to - from});
}

/* One token for every row. Works on the same addresses each time. */
static void step_ask(Decode *decode)
{
    Exec exec = decode->exec;
    int64_t rows = decode->rows, parts = parts_of(decode);
    Part all = {0, rows};
    size_t mark = arena_mark(exec.step);
    if (parts > 1)
        device_strands(exec.device, exec.step, parts, strand_ask, decode);
    else
        part_ask(decode, all);
    Tensor logprob = tensor_range(decode->drawn, rows, rows);
    logprob.dtype = DTYPE_F32;
    DecodeTerms next = {.token = tensor_range(decode->drawn, 0, rows),
                        .logprob = logprob,
                        .next = column_of(decode, STATE_NEXT, all),
                        .past = column_of(decode, STATE_PAST, all),
                        .index = column_of(decode, STATE_INDEX, all),
                        .left = column_of(decode, STATE_LEFT, all),
                        .stop = decode->stop,
                        .step = decode->step,
                        .history = tensor_range(decode->history, 0, exec.device->burst * 2 * rows)};
    decode_next(&exec, &next);
    arena_rewind(exec.step, mark);
}

static KeptStep *kept_of(Decode *decode)
{
    int most = decode->exec.device->backend->keeps_cheaply ? 1 : KEPT_MAX;
    for (int i = 0; i < most; i++)
        if (decode->kept[i].rows == decode->rows)
            return &decode->kept[i];
    KeptStep *kept = &decode->kept[decode->next_kept++ % most];
    device_forget(decode->exec.device, &kept->work);
    *kept = (KeptStep){.rows = decode->rows};
    return kept;
}

static void step_run(Decode *decode)
{
    Device *device = decode->exec.device;
    KeptStep *kept = device_keeps(device) ? kept_of(decode) : NULL;
    if (!kept || !(kept->seen || device->backend->keeps_cheaply)) {
        step_ask(decode);
        if (kept)
            kept->seen = true;
        return;
    }
    if (!kept->work) {
        device_keep_begin(device);
        step_ask(decode);
        kept->work = device_keep_end(device);
        kept->past = decode->past;
    }
    device_replay(device, kept->work, (decode->past - kept->past) / (double)decode->rows);
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
