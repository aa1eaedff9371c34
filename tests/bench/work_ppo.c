/* work_ppo.c -- whole PPO iterations: the stage itself (stages/ppo.c) on four models of one shape with random weights.
 *
 * An iteration samples `batch` responses of exactly `new` tokens to prompts of `prompt` tokens, has the reward model score them, takes log-probs of
 * policy and reference and the critic's values, and updates actor and critic for `epochs` x `minibatches` steps, with logs as in any run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/base/profile.h"
#include "core/base/text.h"
#include "stages/ppo.h"
#include "tests/bench/work_scratch.h"

typedef struct PpoWork {
    Scratch scratch;
    Tokenizer *tokenizer;
    ConfigSchema schema;
    Config *config;
    Ppo *ppo;
} PpoWork;

/* Prompts of so many bytes, which are as many tokens; more of them than an iteration takes. */
static Status prompts_write(const char *path, int64_t count, int64_t length)
{
    Text lines = {0};
    for (int64_t i = 0; i < count; i++) {
        RngStream stream = rng_stream(7, RNG_TEST, 0, (uint64_t)i);
        text_append_string(&lines, "{\"prompt\": \"");
        for (int64_t t = 0; t < length; t++)
            text_printf(&lines, "%c", (int)('a' + rng_below(stream, (uint64_t)t, 26)));
        text_append_string(&lines, "\"}\n");
    }
    Status status = text_write_file(path, lines.bytes, lines.size);
    text_free(&lines);
    return status;
}

/* Policy, reward model and prompts as files, as any experiment has them. */
static Status files_write(Bench *bench, PpoWork *own, const char *shape, int64_t batch, int64_t prompt)
{
    ModelShape named;
    TRY(shape_named(shape, &named));
    TRY(scratch_open(bench, &own->scratch));
    TRY(tokenizer_of_bytes(named.vocab, &own->tokenizer));
    char *policy = scratch_path(&own->scratch, "policy.h5"), *judge = scratch_path(&own->scratch, "reward.h5");
    char *prompts = scratch_path(&own->scratch, "prompts.jsonl");
    Status status = model_file_write(bench, shape, HEAD_LM, own->tokenizer, policy);
    if (!status_failed(status))
        status = model_file_write(bench, shape, HEAD_SCALAR, own->tokenizer, judge);
    if (!status_failed(status))
        status = comm_agree(bench->comm,
                            comm_rank(bench->comm) == 0 ? prompts_write(prompts, 4 * batch, prompt) : status_ok());
    memory_free(&policy);
    memory_free(&judge);
    memory_free(&prompts);
    return status;
}

enum { WORDS_MAX = 24 };

/* The experiment, as somebody would write it. */
static Status config_write(Bench *bench, PpoWork *own, int64_t batch)
{
    const char *directory = own->scratch.path;
    int ranks = comm_size(bench->comm);
    Text word[WORDS_MAX] = {0};
    int count = 0;
    text_printf(&word[count++], "output=%s", directory);
    text_printf(&word[count++], "lanes=%lld", (long long)bench_int(bench, "lanes", ranks));
    text_printf(&word[count++], "log_every=86400");
    text_printf(&word[count++], "checkpoint_every=1000000");
    text_printf(&word[count++], "ppo.policy=%s/policy.h5", directory);
    text_printf(&word[count++], "ppo.prompts=[{path: %s/prompts.jsonl, format: prompts}]", directory);
    text_printf(&word[count++], "ppo.rewards=[{kind: model, name: learned, model: %s/reward.h5}]", directory);
    text_printf(&word[count++], "ppo.iterations=100000");
    text_printf(&word[count++], "ppo.batch=%lld", (long long)batch);
    text_printf(&word[count++], "ppo.max_new=%lld", (long long)bench_int(bench, "new", 32));
    text_printf(&word[count++], "ppo.eos=ignore");
    int64_t samples = bench_int(bench, "samples", 1);
    text_printf(&word[count++], "ppo.samples_per_prompt=%lld", (long long)samples);
    text_printf(&word[count++], "ppo.unit_prompts=%lld",
                (long long)bench_int(bench, "unit_prompts", batch / samples / ranks));
    text_printf(&word[count++], "ppo.slots=%lld", (long long)bench_int(bench, "slots", batch / ranks));
    text_printf(&word[count++], "ppo.unit_tokens=%lld", (long long)bench_int(bench, "unit_tokens", 4096));
    text_printf(&word[count++], "ppo.epochs=%lld", (long long)bench_int(bench, "epochs", 4));
    text_printf(&word[count++], "ppo.minibatches=%lld", (long long)bench_int(bench, "minibatches", 1));
    text_printf(&word[count++], "ppo.merge_first_pass=%s", bench_int(bench, "merge", 0) ? "true" : "false");
    const char *words[WORDS_MAX];
    for (int i = 0; i < count; i++)
        words[i] = text_string(&word[i]);
    Status status = config_of_words(&own->schema, words, count, &own->config);
    for (int i = 0; i < count; i++)
        text_free(&word[i]);
    return status;
}

static Status ppo_work_open(Bench *bench, void **self)
{
    PpoWork *own = memory_new(1, sizeof *own);
    *self = own;
    const char *shape = bench_text(bench, "shape", "gpt2-124m");
    int64_t batch = bench_int(bench, "batch", 8);
    TRY(files_write(bench, own, shape, batch, bench_int(bench, "prompt", 32)));
    TRY(config_write(bench, own, batch));
    own->ppo = memory_new(1, sizeof *own->ppo);
    bool complete = false;
    TRY(ppo_open(own->ppo, bench->comm, &bench->device, own->config, &complete));
    return ppo_resume(own->ppo);
}

/* Seconds of the phases of the iteration that ended last, from the stage's own timings.jsonl. */
static void phases_add(const PpoWork *own, Figures *figures)
{
    static const char *const phases[] = {"rollout", "evaluate", "advantage", "update", "save"};
    char *path = scratch_path(&own->scratch, "ppo/timings.jsonl");
    Text lines = {0};
    if (!status_failed(text_read_file(path, 64 << 20, &lines)) && lines.size > 1) {
        lines.bytes[lines.size - 1] = 0;
        const char *last = strrchr(lines.bytes, '\n');
        for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
            char name[48];
            snprintf(name, sizeof name, "\"%s\":{\"seconds\":", phases[i]);
            const char *found = strstr(last ? last : lines.bytes, name);
            if (found)
                figures_add(figures, phases[i], strtod(found + strlen(name), NULL));
        }
    }
    text_free(&lines);
    memory_free(&path);
}

static Status ppo_work_once(Bench *bench, void *self, Figures *figures)
{
    PpoWork *own = self;
    int64_t before = own->ppo->stage.tokens_done;
    double since = profile_seconds();
    TRY(ppo_iterate(own->ppo));
    figures_add(figures, "seconds", profile_seconds() - since);
    figures_add(figures, "new_tokens", (double)(own->ppo->stage.tokens_done - before));
    if (comm_rank(bench->comm) == 0)
        phases_add(own, figures);
    return status_ok();
}

static void ppo_work_close(Bench *bench, void *self)
{
    PpoWork *own = self;
    if (!own)
        return;
    if (own->ppo)
        ppo_close(own->ppo, NULL);
    memory_free(&own->ppo);
    config_close(&own->config);
    config_schema_free(&own->schema);
    tokenizer_close(&own->tokenizer);
    scratch_close(bench, &own->scratch);
    memory_free(&own);
}

const Work work_ppo = {
    .name = "ppo",
    .help = "PPO iterations: shape=gpt2-124m batch=8 prompt=32 new=32 epochs=4 minibatches=1 unit_tokens=4096 "
            "samples=1 (of each prompt) unit_prompts=BATCH/SAMPLES/RANKS slots=BATCH/RANKS lanes=RANKS dir=/tmp",
    .open = ppo_work_open,
    .once = ppo_work_once,
    .close = ppo_work_close,
};
