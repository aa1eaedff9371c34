/* work.h -- one piece of work that can be done again and again, and what the bench's driver wants to know of it.
 *
 * How:   `bench WORK key=value ...` opens a work (models with random weights, data), says so, and does it once per "go"; see bench.c for the
 *        protocol. A work measures its own seconds where setting up a round is not part of what is compared.
 * Rule:  works use the program's own rooms as the stages do: nothing that a user's run does not have. */
#ifndef TESTS_BENCH_WORK_H
#define TESTS_BENCH_WORK_H

#include "core/base/rng.h"
#include "core/model/model.h"
#include "launch/bootstrap.h"

enum { BENCH_OPTIONS_MAX = 32, FIGURES_MAX = 24 };

/* What the command line and the machine give every work. */
typedef struct Bench {
    Bootstrap bootstrap;
    Comm *comm; /* bootstrap's */
    Device device;
    Arena model, step; /* lifetimes: the work's, one round's */
    Exec exec;         /* results into `step`, no tape */
    struct {
        const char *key, *value;
        bool used;
    } option[BENCH_OPTIONS_MAX];
    int options;
} Bench;

/* The value of an option, or `otherwise`. A value that is no number ends the program. */
int64_t bench_int(Bench *bench, const char *key, int64_t otherwise);
const char *bench_text(Bench *bench, const char *key, const char *otherwise);

/* What one round came to: names with numbers, printed in order. Every round has "seconds". */
typedef struct Figures {
    struct {
        const char *name; /* static string */
        double value;
    } figure[FIGURES_MAX];
    int count;
} Figures;
void figures_add(Figures *figures, const char *name, double value);

typedef struct Work {
    const char *name, *help; /* help: its options with their defaults */
    /* Everything that comes before the first round. *self is the work's own. [collective] */
    Status (*open)(Bench *bench, void **self);
    /* One round. [collective] */
    Status (*once)(Bench *bench, void *self, Figures *figures);
    void (*close)(Bench *bench, void *self); /* also of a work that failed to open; self may be NULL */
} Work;

extern const Work work_train, work_adamw;             /* work_train.c */
extern const Work work_decode, work_prefill;          /* work_generate.c */
extern const Work work_score, work_lengths;           /* work_score.c */
extern const Work work_machine;                       /* work_machine.c */
extern const Work work_ppo;                           /* work_ppo.c */
extern const Work work_load, work_save, work_restore; /* work_files.c */
extern const Work work_tokenise;                      /* work_text.c */
extern const Work work_start;                         /* work_start.c */
extern const Work work_ops;                           /* work_ops.c */

/* "260k", "gpt2-124m", "gpt2-xl", "smol-135m": the shapes of stories260K, GPT-2, GPT-2 XL and SmolLM2-135M (work.c). */
Status shape_named(const char *name, ModelShape *shape);
/* A model of option shape= with random weights of a fixed seed. */
Status model_random(Bench *bench, const char *shape, HeadKind head, Model *model);
/* `count` token ids below `vocab`, a function of `seed` alone. */
void tokens_random(uint64_t seed, int64_t vocab, int64_t count, int32_t *token);
/* Lengths of `count` sequences in tokens: `each`, or one per line of a file. memory_free *length. */
Status lengths_read(const char *path, int64_t count, int64_t each, int64_t **length, int64_t *total, int64_t *longest);
/* (query, key) pairs that causal attention visits in sequences of these lengths. */
double lengths_pairs(const int64_t *length, int64_t count);

#endif
