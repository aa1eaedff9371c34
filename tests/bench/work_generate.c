/* work_generate.c -- decoding and prefill, by the generator that rollouts and `tercet generate` use.
 *
 * decode: `batch` prompts of `prompt` tokens, `new` more for each. Seconds are those of the `new` decode steps alone: the clock starts when every
 *         sequence has its first token, which the prefill's logits gave.
 * prefill: `batch` prompts of `prompt` tokens up to their first token each, logits of the last row only. */
#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/model/generate.h"
#include "tests/bench/work.h"

typedef struct Generate {
    Model model;
    int64_t batch, prompt, made; /* made: new tokens, the first included */
    int32_t *token;              /* (batch, prompt) */
    int32_t *result;             /* (batch, made) */
    GenerateRequest *request;
    GenerateResult *results;
    int64_t delivered;
    double first_at; /* when the last sequence had its first token */
    double temperature;
} Generate;

/* Tokens come slot by slot after each batch, so the first `batch` of them are what the prefill gave. */
static bool note_token(void *context, int64_t request, int32_t token)
{
    (void)request;
    (void)token;
    Generate *own = context;
    if (++own->delivered == own->batch)
        own->first_at = profile_seconds();
    return true;
}

static Status generate_open(Bench *bench, void **self, int64_t prompt, int64_t made)
{
    Generate *own = memory_new(1, sizeof *own);
    *self = own;
    own->batch = bench_int(bench, "batch", 1);
    own->prompt = prompt;
    own->made = made;
    own->temperature = (double)bench_int(bench, "temperature", 1);
    TRY(model_random(bench, bench_text(bench, "shape", "gpt2-124m"), HEAD_LM, &own->model));
    own->token = memory_new((size_t)(own->batch * prompt), sizeof *own->token);
    own->result = memory_new((size_t)(own->batch * made), sizeof *own->result);
    own->request = memory_new((size_t)own->batch, sizeof *own->request);
    own->results = memory_new((size_t)own->batch, sizeof *own->results);
    tokens_random(7, own->model.shape.vocab, own->batch * prompt, own->token);
    for (int64_t i = 0; i < own->batch; i++) {
        own->request[i] = (GenerateRequest){.prompt = own->token + i * prompt,
                                            .prompt_count = prompt,
                                            .stream = rng_stream(3, RNG_TEST, 1, (uint64_t)i)};
        own->results[i].token = own->result + i * made;
    }
    return status_ok();
}

static Status generate_once(Bench *bench, void *self, double *prefill_seconds, double *decode_seconds)
{
    Generate *own = self;
    GenerateOptions options = {
        .slots = own->batch,
        .max_new = own->made,
        .temperature = (float)own->temperature,
        .top_p = 1,
        .accept = note_token,
        .context = own,
    };
    own->delivered = 0;
    double since = profile_seconds();
    TRY(generate(&own->model, &bench->exec, own->request, own->batch, &options, own->results));
    *prefill_seconds = own->first_at - since;
    *decode_seconds = profile_seconds() - own->first_at;
    return status_ok();
}

static void generate_close(Bench *bench, void *self)
{
    (void)bench;
    Generate *own = self;
    if (own->model.device)
        model_close(&own->model);
    memory_free(&own->results);
    memory_free(&own->request);
    memory_free(&own->result);
    memory_free(&own->token);
    memory_free(&own);
}

static Status decode_open(Bench *bench, void **self)
{
    return generate_open(bench, self, bench_int(bench, "prompt", 32), 1 + bench_int(bench, "new", 64));
}

static Status decode_once(Bench *bench, void *self, Figures *figures)
{
    const Generate *own = self;
    double prefill, decode;
    TRY(generate_once(bench, self, &prefill, &decode));
    double tokens = (double)(own->batch * (own->made - 1));
    figures_add(figures, "seconds", decode);
    figures_add(figures, "tokens", tokens);
    figures_add(figures, "tokens_per_second", tokens / decode);
    figures_add(figures, "prefill_seconds", prefill);
    return status_ok();
}

const Work work_decode = {
    .name = "decode",
    .help = "new tokens after prefill: shape=gpt2-124m batch=1 prompt=32 new=64 temperature=1",
    .open = decode_open,
    .once = decode_once,
    .close = generate_close,
};

static Status prefill_open(Bench *bench, void **self)
{
    return generate_open(bench, self, bench_int(bench, "prompt", 1023), 1);
}

static Status prefill_once(Bench *bench, void *self, Figures *figures)
{
    const Generate *own = self;
    double prefill, decode;
    TRY(generate_once(bench, self, &prefill, &decode));
    double tokens = (double)(own->batch * own->prompt);
    figures_add(figures, "seconds", prefill);
    figures_add(figures, "tokens", tokens);
    figures_add(figures, "tokens_per_second", tokens / prefill);
    return status_ok();
}

const Work work_prefill = {
    .name = "prefill",
    .help = "prompts up to the first new token: shape=gpt2-124m batch=1 prompt=1023",
    .open = prefill_open,
    .once = prefill_once,
    .close = generate_close,
};
