/* stage_golden.h -- a stage run in this process on the models of tests/golden/stages, and its result against what PyTorch made.
 *
 *        StageGolden golden;
 *        stage_golden_open(&golden, "sft");                                  output: a directory of this name in the test's own
 *        stage_golden_set(&golden, "sft.model=%s", stage_golden_path("policy"));
 *        assert_ok(stage_golden_run(&golden, sft_run));
 *        stage_golden_compare(&golden, "sft/final.h5", "", HEAD_LM, "policy", "after-sft", 1e-4, 1e-3);
 *        stage_golden_close(&golden);
 */
#ifndef TESTS_SUPPORT_STAGE_GOLDEN_H
#define TESTS_SUPPORT_STAGE_GOLDEN_H

#include <jansson.h>

#include "core/model/model.h"
#include "stages/stage.h"
#include "tests/support/support.h"

enum { STAGE_GOLDEN_KEYS_MAX = 64 };

typedef struct StageGolden {
    char *output;     /* the run's directory */
    json_t *expected; /* expected.json */
    Device device;
    ConfigSchema schema;
    Config *config;
    char *key[STAGE_GOLDEN_KEYS_MAX]; /* "name=value" */
    int keys;
} StageGolden;

void stage_golden_open(StageGolden *golden, const char *output);
void stage_golden_close(StageGolden *golden);
/* A path in tests/golden/stages. */
const char *stage_golden_path(const char *name);
/* One more "name=value". */
void stage_golden_set(StageGolden *golden, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* All keys of an optimizer from the settings at `from` ("sft.settings") to the section `to` ("sft.optimizer"); no warm-up. */
void stage_golden_set_optimizer(StageGolden *golden, const char *to, const char *from);
/* Read the keys that were set into golden->config; for tests that need no whole stage. */
void stage_golden_configure(StageGolden *golden);
Status stage_golden_run(StageGolden *golden, Status (*run)(Comm *, Device *, const Config *, StageMemory *));

/* What is at "ppo_tf.epochs.ratio"; fails when nothing is. */
const json_t *stage_golden_value(const StageGolden *golden, const char *path);
/* A number there, or element `index` of an array there (-1: no array). */
double stage_golden_number(const StageGolden *golden, const char *path, int index);
/* A number of the line of OUTPUT/STAGE/metrics.jsonl with this step and phase. */
double stage_golden_metric(const StageGolden *golden, const char *stage, int64_t step, const char *phase,
                           const char *name);
/* Each view of GROUP/parameters in OUTPUT/FILE against the golden directory `after`: |a - b| / |b| at most `limit`, and the same of
 * what changed since the directory `before` at most `limit_change`. A view that PyTorch moved by less than `floor` in every element on
 * the average (its gradient is zero but for rounding) may have moved by no more than that. */
void stage_golden_compare(StageGolden *golden, const char *file, const char *group, HeadKind head, const char *before,
                          const char *after, double limit, double limit_change, double floor);

#endif
