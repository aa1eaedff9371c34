/* work.c -- what several works share: options, figures, the shapes that rows are about, random weights and tokens. */
#include "tests/bench/work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"

const char *bench_text(Bench *bench, const char *key, const char *otherwise)
{
    for (int i = 0; i < bench->options; i++)
        if (strcmp(bench->option[i].key, key) == 0) {
            bench->option[i].used = true;
            return bench->option[i].value;
        }
    return otherwise;
}

int64_t bench_int(Bench *bench, const char *key, int64_t otherwise)
{
    const char *text = bench_text(bench, key, NULL);
    if (!text)
        return otherwise;
    char *end;
    long long value = strtoll(text, &end, 10);
    REQUIRE(end != text && !*end, "%s=%s: expected a whole number", key, text);
    return value;
}

void figures_add(Figures *figures, const char *name, double value)
{
    REQUIRE(figures->count < FIGURES_MAX, "more than %d figures", FIGURES_MAX);
    figures->figure[figures->count].name = name;
    figures->figure[figures->count++].value = value;
}

typedef struct NamedShape {
    const char *name, *arch;
    ModelShape shape; /* without arch */
} NamedShape;

static const NamedShape shapes[] = {
    {"260k",
     "llama",
     {.layers = 5,
      .width = 64,
      .heads = 8,
      .kv_heads = 4,
      .head_dim = 8,
      .ffn = 172,
      .vocab = 512,
      .positions_max = 512,
      .norm_epsilon = 1e-5f,
      .rope_base = 10000.0f,
      .tied = true}},
    {"gpt2-124m",
     "gpt2",
     {.layers = 12,
      .width = 768,
      .heads = 12,
      .kv_heads = 12,
      .head_dim = 64,
      .ffn = 3072,
      .vocab = 50257,
      .positions_max = 1024,
      .norm_epsilon = 1e-5f,
      .tied = true}},
    {"smol-135m",
     "llama",
     {.layers = 30,
      .width = 576,
      .heads = 9,
      .kv_heads = 3,
      .head_dim = 64,
      .ffn = 1536,
      .vocab = 49152,
      .positions_max = 8192,
      .norm_epsilon = 1e-5f,
      .rope_base = 100000.0f,
      .tied = true}},
    {"gpt2-xl",
     "gpt2",
     {.layers = 48,
      .width = 1600,
      .heads = 25,
      .kv_heads = 25,
      .head_dim = 64,
      .ffn = 6400,
      .vocab = 50257,
      .positions_max = 1024,
      .norm_epsilon = 1e-5f,
      .tied = true}},
};

Status shape_named(const char *name, ModelShape *shape)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0) {
            *shape = shapes[i].shape;
            shape->arch = arch_find(shapes[i].arch);
            return status_ok();
        }
    return status_error(STATUS_USAGE, "shape=%s: expected 260k, gpt2-124m, gpt2-xl or smol-135m", name);
}

Status model_random(Bench *bench, const char *shape, HeadKind head, Model *model)
{
    ModelShape named;
    TRY(shape_named(shape, &named));
    TRY(model_open(model, &bench->device, &named, head));
    params_initialise(&bench->device, &model->params, 1);
    return status_ok();
}

void tokens_random(uint64_t seed, int64_t vocab, int64_t count, int32_t *token)
{
    RngStream stream = rng_stream(seed, RNG_TEST, 0, 0);
    for (int64_t i = 0; i < count; i++)
        token[i] = (int32_t)rng_below(stream, (uint64_t)i, (uint64_t)vocab);
}

Status lengths_read(const char *path, int64_t count, int64_t each, int64_t **length, int64_t *total, int64_t *longest)
{
    *length = memory_new((size_t)count, sizeof **length);
    *total = *longest = 0;
    FILE *file = path ? fopen(path, "r") : NULL;
    if (path && !file)
        return status_error(STATUS_IO, "cannot read %s", path);
    for (int64_t i = 0; i < count; i++) {
        long long one = each;
        if (file && (fscanf(file, "%lld", &one) != 1 || one < 1)) {
            fclose(file);
            return status_error(STATUS_INPUT, "%s: expected %lld lengths, found %lld", path, (long long)count,
                                (long long)i);
        }
        (*length)[i] = one;
        *total += one;
        *longest = one > *longest ? one : *longest;
    }
    if (file)
        fclose(file);
    return status_ok();
}

double lengths_pairs(const int64_t *length, int64_t count)
{
    double pairs = 0;
    for (int64_t i = 0; i < count; i++)
        pairs += 0.5 * (double)length[i] * (double)(length[i] + 1);
    return pairs;
}
