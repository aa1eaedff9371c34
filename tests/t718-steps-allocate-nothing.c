//TEST timeout=120
/* t718 -- no step but the first of a process takes memory from the system: not SFT's, not the reward model's, not an iteration of PPO, though
 * lengths differ. What libraries allocate is counted too, and printed. */
#include "tests/support/stage_golden.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"

/* --- Every allocation of this process ----------------------------------------------------------------------------- */

static atomic_long all_calls;

#if !defined(__SANITIZE_ADDRESS__)
#define EXPORT __attribute__((visibility("default"), used))
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *pointer, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
EXPORT void *malloc(size_t size);
EXPORT void *calloc(size_t count, size_t size);
EXPORT void *realloc(void *pointer, size_t size);
EXPORT void *memalign(size_t alignment, size_t size);
EXPORT void *aligned_alloc(size_t alignment, size_t size);
EXPORT int posix_memalign(void **pointer, size_t alignment, size_t size);

void *malloc(size_t size)
{
    atomic_fetch_add(&all_calls, 1);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    atomic_fetch_add(&all_calls, 1);
    return __libc_calloc(count, size);
}

void *realloc(void *pointer, size_t size)
{
    atomic_fetch_add(&all_calls, 1);
    return __libc_realloc(pointer, size);
}

void *memalign(size_t alignment, size_t size)
{
    atomic_fetch_add(&all_calls, 1);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}

int posix_memalign(void **pointer, size_t alignment, size_t size)
{
    *pointer = memalign(alignment, size);
    return *pointer ? 0 : ENOMEM;
}
#endif

/* --- Stages ------------------------------------------------------------------------------------------------------- */

typedef struct Trial {
    const char *stage, *steps_key;
    Status (*run)(Comm *comm, Device *device, const Config *config, StageMemory *memory);
} Trial;
static const Trial trials[] = {
    {"sft", "sft.steps", sft_run}, {"rm", "rm.steps", rm_run}, {"ppo", "ppo.iterations", ppo_run}};
enum { TRIALS = sizeof trials / sizeof *trials, FEW = 4, MANY = 12 };

/* Texts of many lengths. */
static void write_data(void)
{
    Text sft = {0}, ranked = {0}, words = {0};
    for (int i = 0; i < 60; i++) {
        int length = 1 + i * 7 % 23, other = 1 + i * 5 % 17;
        text_printf(&sft, "{\"prompt\": \"%.*s\", \"response\": \"%.*s\"}\n", other, "Name a colour, please.", length,
                    "Teal or green, I think.");
        text_printf(&ranked, "{\"prompt\": \"Go on: %d\", \"responses\": [", i);
        for (int r = 0; r < 2 + i % 3; r++)
            text_printf(&ranked, "%s\"%.*s\"", r ? ", " : "", 1 + (length + r * 9) % 20, "far and away and back");
        text_append_string(&ranked, "], \"scores\": [");
        for (int r = 0; r < 2 + i % 3; r++)
            text_printf(&ranked, "%s%d", r ? ", " : "", r * 3 % 4);
        text_append_string(&ranked, "]}\n");
    }
    text_printf(&words, "good\t1.5\nbad\t-2\n");
    assert_ok(text_write_file(support_path("sft.jsonl"), sft.bytes, sft.size));
    assert_ok(text_write_file(support_path("ranked.jsonl"), ranked.bytes, ranked.size));
    assert_ok(text_write_file(support_path("words.txt"), words.bytes, words.size));
    text_free(&sft);
    text_free(&ranked);
    text_free(&words);
}

static void set_keys(StageGolden *golden, const Trial *trial, int steps)
{
    stage_golden_set(golden, "checkpoint_every=1000000");
    stage_golden_set(golden, "log_every=86400");
    stage_golden_set(golden, "sft.model=%s", stage_golden_path("policy"));
    stage_golden_set(golden, "sft.data=[{path: %s}]", support_path("sft.jsonl"));
    stage_golden_set(golden, "sft.batch=4");
    stage_golden_set(golden, "sft.unit_tokens=48");
    stage_golden_set(golden, "rm.model=%s", stage_golden_path("policy"));
    stage_golden_set(golden, "rm.data=[{path: %s}]", support_path("ranked.jsonl"));
    stage_golden_set(golden, "rm.batch=4");
    stage_golden_set(golden, "rm.unit_tokens=128");
    stage_golden_set(golden, "ppo.policy=%s", stage_golden_path("policy"));
    stage_golden_set(golden, "ppo.critic=%s", stage_golden_path("critic"));
    stage_golden_set(golden, "ppo.prompts=[{path: %s}]", support_path("sft.jsonl"));
    stage_golden_set(golden, "ppo.rewards=[{kind: length}, {kind: words, file: \"%s\"}, {kind: model, model: \"%s\"}]",
                     support_path("words.txt"), support_path("rm-%d/rm/final.h5", MANY));
    stage_golden_set(golden, "ppo.batch=8");
    stage_golden_set(golden, "ppo.samples_per_prompt=2");
    stage_golden_set(golden, "ppo.unit_prompts=2");
    stage_golden_set(golden, "ppo.slots=3");
    stage_golden_set(golden, "ppo.max_new=9");
    stage_golden_set(golden, "ppo.minibatches=2");
    stage_golden_set(golden, "ppo.epochs=2");
    stage_golden_set(golden, "ppo.unit_tokens=48");
    stage_golden_set(golden, "ppo.keep_rollouts=0");
    stage_golden_set(golden, "%s=%d", trial->steps_key, steps);
}

/* Ours in each line of timings.jsonl but the first, by phase: none but those of the files that "save" writes. Returns what "save" took. */
static double check_timings(const StageGolden *golden, const Trial *trial, int steps)
{
    char *directory = text_join_path(golden->output, trial->stage), *path = text_join_path(directory, "timings.jsonl");
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    int lines = 0;
    double saves = 0;
    for (json_t *line; (line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL)); lines++) {
        const char *phase;
        json_t *numbers;
        json_object_foreach(json_object_get(line, "phases"), phase, numbers)
        {
            const json_t *calls = json_object_get(numbers, "allocations");
            assert_true(json_is_integer(calls));
            if (strcmp(phase, "save") == 0)
                saves += (double)json_integer_value(calls);
            else if (lines > 0 && json_integer_value(calls) != 0)
                fail_msg("%s step %d, %s: %lld allocations", trial->stage, lines + 1, phase,
                         (long long)json_integer_value(calls));
        }
        json_decref(line);
    }
    assert_int_equal(lines, steps);
    fclose(file);
    memory_free(&path);
    memory_free(&directory);
    return saves;
}

/* All calls of malloc and its kin in a stage of so many steps, and those of ours. */
static void count(const Trial *trial, int steps, double *all, double *ours, double *saves)
{
    char output[32];
    StageGolden golden;
    snprintf(output, sizeof output, "%s-%d", trial->stage, steps);
    stage_golden_open(&golden, output);
    set_keys(&golden, trial, steps);
    long before = atomic_load(&all_calls);
    uint64_t ours_before = memory_calls();
    assert_ok(stage_golden_run(&golden, trial->run));
    *all = (double)(atomic_load(&all_calls) - before);
    *ours = (double)(memory_calls() - ours_before);
    *saves = check_timings(&golden, trial, steps);
    stage_golden_close(&golden);
}

static void test_steps_allocate_nothing(void **state)
{
    (void)state;
    write_data();
    for (int i = 0; i < TRIALS; i++) {
        double all[2], ours[2], saves[2];
        count(&trials[i], FEW - 1, &all[0], &ours[0], &saves[0]); /* tokenises the data, and what else is done once */
        count(&trials[i], FEW, &all[0], &ours[0], &saves[0]);
        count(&trials[i], MANY, &all[1], &ours[1], &saves[1]);
        double steps = MANY - FEW, own = (ours[1] - ours[0]) / steps, libraries = (all[1] - all[0]) / steps - own;
        printf("%s: per step %.1f calls of malloc in libraries, %.1f of ours, all of them in writing files\n",
               trials[i].stage, libraries, own);
        assert_close(ours[1] - ours[0], saves[1] - saves[0], 0, 0);
    }
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__)
    support_skip("allocator", "AddressSanitizer has malloc, and every block is one of its own");
#endif
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps_allocate_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
