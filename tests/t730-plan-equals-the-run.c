//TEST ranks=1,2 timeout=300
/* t730 -- a plan says what the run's arenas come to: within 1 % where all sequences are equally long, no less where they are not;
 * it needs no stage's artifact, leaves no file but the tokenised data, and says so plainly when a model is nowhere. */
#include "tests/support/support.h"

#include <dirent.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/data/tokenizer_train.h"
#include "kernels/cpu/device_cpu.h"
#include "stages/stage.h"

static Comm *world_comm;
static ConfigSchema schema;

/* --- Data: one token per byte ------------------------------------------------------------------------------------- */

static uint32_t dice = 1;

static const char *letters(int count)
{
    static char ring[8][64];
    static int next;
    char *text = ring[next = (next + 1) % 8];
    for (int i = 0; i < count; i++) {
        dice = dice * 1664525u + 1013904223u;
        text[i] = (char)('a' + (dice >> 24) % 26);
    }
    text[count] = 0;
    return text;
}

/* `length`, or where sequences are to differ anything from 3 to it. */
static int length_of(bool fixed, int length)
{
    dice = dice * 1664525u + 1013904223u;
    return fixed ? length : 3 + (int)((dice >> 16) % (unsigned)(length - 2));
}

static void write_lines(const char *name, bool fixed, int kind, int count)
{
    Text text = {0};
    for (int i = 0; i < count; i++) {
        text_printf(&text, "{\"prompt\": \"%s\"", letters(length_of(fixed, 12)));
        if (kind == 1)
            text_printf(&text, ", \"response\": \"%s\"", letters(length_of(fixed, 20)));
        for (int r = 0; kind == 2 && r < 4; r++)
            text_printf(&text, "%s\"%s\"", r ? ", " : ", \"responses\": [", letters(length_of(fixed, 16)));
        text_append_string(&text, kind == 2 ? "], \"ranks\": [2, 1, 4, 3]}\n" : "}\n");
    }
    assert_ok(text_write_file(support_path("%s-%s", fixed ? "fixed" : "ragged", name), text.bytes, text.size));
    text_free(&text);
}

static void write_inputs(void)
{
    TokenizerTrainer *trainer = tokenizer_trainer_new();
    assert_ok(tokenizer_trainer_add(trainer, "abc", 3));
    const char *special[] = {"<end>"};
    TokenizerTrainConfig config = {
        .vocab_size = 257, .frequency_min = 1000, .special = special, .special_count = 1, .eos = "<end>"};
    Text json = {0};
    assert_ok(tokenizer_train(trainer, &config, &json));
    assert_ok(text_write_file(support_path("tokenizer.json"), json.bytes, json.size));
    text_free(&json);
    tokenizer_trainer_free(&trainer);
    for (int fixed = 0; fixed < 2; fixed++) {
        write_lines("sft.jsonl", fixed, 1, 48);
        write_lines("ranked.jsonl", fixed, 2, 32);
        write_lines("prompts.jsonl", fixed, 0, 32);
    }
}

static Config *experiment(const char *output, bool fixed, int ranks, const char *override)
{
    const char *kind = fixed ? "fixed" : "ragged";
    Text yaml = {0};
    text_printf(&yaml,
                "output: %s\nranks: %d\nlanes: 4\nseed: 3\n"
                "model: {layers: 2, width: 32, heads: 4, kv_heads: 2, positions_max: 64}\n"
                "sft:\n  tokenizer: %s\n  batch: 16\n  unit_tokens: 128\n  epochs: 2\n  eval_every: 2\n"
                "  data: [{path: %s}]\n  eval_data: [{path: %s}]\n",
                output, ranks, support_path("tokenizer.json"), support_path("%s-sft.jsonl", kind),
                support_path("%s-sft.jsonl", kind));
    text_printf(&yaml, "rm:\n  batch: 8\n  unit_tokens: 256\n  data: [{path: %s}]\n  eval_data: [{path: %s}]\n",
                support_path("%s-ranked.jsonl", kind), support_path("%s-ranked.jsonl", kind));
    text_printf(
        &yaml,
        "ppo:\n  iterations: 3\n  batch: 16\n  unit_prompts: 4\n  slots: 3\n  max_new: 10\n  unit_tokens: 64\n"
        "  minibatches: 2\n  epochs: 2\n  eos: %s\n  critic_warmup: 1\n  prompts: [{path: %s}]\n"
        "  rewards: [{kind: model, model: '${output}//rm/final.h5', unit_tokens: 64}, {kind: length, weight: 0}]\n",
        fixed ? "ignore" : "stop", support_path("%s-prompts.jsonl", kind));
    ConfigSource source = {.path = "test.yaml", .text = yaml.bytes, .text_size = yaml.size};
    if (override) {
        source.overrides = &override;
        source.overrides_count = 1;
    }
    Config *config = NULL;
    assert_ok(config_open(source, &schema, &config));
    text_free(&yaml);
    return config;
}

/* Lanes of models as small as these go to threads; unless PPO is to keep passes, which it does of larger models only. */
static bool keeps_passes;

static int threads_of_rank(void)
{
    return comm_size(world_comm) == 1 ? 2 : 1;
}

static void strands_off(Device *device)
{
    if (keeps_passes)
        device->strands = 0;
}

/* --- Claims ------------------------------------------------------------------------------------------------------- */

static void run(const Config *config, StageMemory memory[STAGES])
{
    for (int i = 0; i < STAGES; i++) {
        Device device;
        assert_ok(device_open_cpu(&device, threads_of_rank(), NULL));
        strands_off(&device);
        assert_ok(stage_rows[i].run(world_comm, &device, config, &memory[i]));
        device_close(&device);
    }
}

static Status dry_device(void *context, Device *device)
{
    (void)context;
    TRY(device_open_cpu_dry(device, threads_of_rank(), NULL));
    strands_off(device);
    return status_ok();
}

/* The plan as rank 0 makes it, the run as the hungriest rank of each entry lived it. */
static void plan_and_run(bool fixed, StageMemory planned[STAGES], StageMemory lived[STAGES])
{
    const char *kept = keeps_passes ? "-kept" : "", *override = keeps_passes ? "ppo.merge_first_pass=true" : NULL;
    const char *plan_output = support_path("plan-%d%s", fixed, kept), *output = support_path("run-%d%s", fixed, kept);
    Config *config = experiment(plan_output, fixed, comm_size(world_comm), override);
    bool there[STAGES];
    if (comm_rank(world_comm) == 0) {
        assert_ok(stages_plan(config, dry_device, NULL, planned, there));
        assert_true(there[0] && there[1] && there[2]);
    }
    config_close(&config);
    comm_barrier(world_comm);
    config = experiment(output, fixed, comm_size(world_comm), override);
    run(config, lived);
    config_close(&config);
    StageMemory *all = memory_new((size_t)comm_size(world_comm), sizeof *all);
    for (int i = 0; i < STAGES; i++) {
        comm_allgather(world_comm, &lived[i], sizeof *all, all);
        for (int rank = 1; rank < comm_size(world_comm); rank++)
            for (int p = 0; p < all[rank].phases; p++) /* names are pointers of that rank's */
                if (all[rank].phase[p].bytes > all[0].phase[p].bytes)
                    all[0].phase[p].bytes = all[rank].phase[p].bytes;
        if (comm_rank(world_comm) == 0)
            lived[i] = all[0];
    }
    memory_free(&all);
}

/* The entry of a phase, 0 if it has none. */
static size_t phase_bytes(const StageMemory *memory, const char *name)
{
    for (int i = 0; i < memory->phases; i++)
        if (strcmp(memory->phase[i].name, name) == 0)
            return memory->phase[i].bytes;
    return 0;
}

static void test_fixed_lengths_are_foretold(void **state)
{
    (void)state;
    StageMemory planned[STAGES], lived[STAGES];
    plan_and_run(true, planned, lived);
    if (comm_rank(world_comm) != 0)
        return;
    const char *phases[] = {"train", "evaluate", "rollout", "advantage", "update", "save"};
    for (int i = 0; i < STAGES; i++) {
        assert_int_equal(planned[i].models, lived[i].models);
        assert_int_equal(planned[i].training, lived[i].training);
        assert_int_equal(planned[i].wave, lived[i].wave);
        assert_int_equal(planned[i].gradient_buffers, planned[i].wave + (comm_size(world_comm) == 1 ? 2 : 1));
        assert_int_equal(planned[i].gradient_buffers, lived[i].gradient_buffers);
        assert_true(lived[i].models > 0 && lived[i].training > 0 && lived[i].scratch > 0);
        assert_close((double)planned[i].scratch, (double)lived[i].scratch, 0.01, 0);
        for (size_t p = 0; p < sizeof phases / sizeof *phases; p++)
            assert_close((double)phase_bytes(&planned[i], phases[p]), (double)phase_bytes(&lived[i], phases[p]), 0.01,
                         0);
        assert_close((double)stage_memory_most(&planned[i], NULL), (double)stage_memory_most(&lived[i], NULL), 0.01, 0);
    }
    assert_true(phase_bytes(&lived[0], "train") > 0 && phase_bytes(&lived[0], "evaluate") > 0);
    assert_true(phase_bytes(&lived[1], "train") > 0 && phase_bytes(&lived[1], "evaluate") > 0);
    assert_true(phase_bytes(&lived[2], "rollout") > 0 && phase_bytes(&lived[2], "update") > 0);
    /* Actor, critic, reference and judge; the last two do not learn. */
    assert_close((double)lived[2].models, 4.0 * (double)lived[0].models, 0.01, 0);
    assert_close((double)lived[2].training, 2.0 * (double)lived[0].training, 0.01, 0);
}

static void test_ragged_lengths_are_bounded(void **state)
{
    (void)state;
    StageMemory planned[STAGES], lived[STAGES];
    plan_and_run(false, planned, lived);
    if (comm_rank(world_comm) != 0)
        return;
    for (int i = 0; i < STAGES; i++)
        for (int p = 0; p < lived[i].phases; p++)
            if (phase_bytes(&planned[i], lived[i].phase[p].name) < lived[i].phase[p].bytes)
                fail_msg("%s %s: %zu planned, %zu lived", stage_rows[i].name, lived[i].phase[p].name,
                         phase_bytes(&planned[i], lived[i].phase[p].name), lived[i].phase[p].bytes);
}

/* The same two claims where PPO keeps passes between its phases, which shows in them. */
static void test_kept_passes_are_foretold(void **state)
{
    StageMemory usual[STAGES], keeping[STAGES];
    bool there[STAGES];
    keeps_passes = true;
    for (int kept = 0; kept < 2; kept++) {
        Config *config = experiment(support_path("plan-1-kept"), true, comm_size(world_comm),
                                    kept ? "ppo.merge_first_pass=true" : NULL);
        if (comm_rank(world_comm) == 0)
            assert_ok(stages_plan(config, dry_device, NULL, kept ? keeping : usual, there));
        config_close(&config);
    }
    if (comm_rank(world_comm) == 0) {
        assert_true(phase_bytes(&keeping[2], "update") > phase_bytes(&usual[2], "update"));
        assert_true(phase_bytes(&keeping[2], "advantage") > phase_bytes(&usual[2], "advantage"));
        assert_int_equal(phase_bytes(&keeping[2], "rollout"), phase_bytes(&usual[2], "rollout"));
    }
    test_fixed_lengths_are_foretold(state);
    test_ragged_lengths_are_bounded(state);
    keeps_passes = false;
}

static void test_nothing_is_left_but_data(void **state)
{
    (void)state;
    if (comm_rank(world_comm) != 0)
        return;
    DIR *directory = opendir(support_path("plan-1"));
    assert_non_null(directory);
    for (struct dirent *entry = readdir(directory); entry; entry = readdir(directory))
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, "data") != 0)
            fail_msg("a plan left %s", entry->d_name);
    closedir(directory);
}

/* A plan of a finished run is that of one which has not begun, and touches nothing. */
static void test_a_finished_run_is_planned_anew(void **state)
{
    (void)state;
    if (comm_rank(world_comm) != 0)
        return;
    StageMemory before[STAGES], after[STAGES];
    bool there[STAGES];
    Config *config = experiment(support_path("plan-1"), true, 2, NULL);
    assert_ok(stages_plan(config, dry_device, NULL, before, there));
    config_close(&config);
    const char *files[] = {"sft/final.h5", "sft/metrics.jsonl", "rm/metrics.jsonl", "ppo/final.h5",
                           "ppo/metrics.jsonl"};
    enum { FILES = sizeof files / sizeof *files };
    struct stat then[FILES], now;
    for (int i = 0; i < FILES; i++)
        assert_int_equal(stat(support_path("run-1/%s", files[i]), &then[i]), 0);
    config = experiment(support_path("run-1"), true, 2, "stop_after=1");
    assert_ok(stages_plan(config, dry_device, NULL, after, there));
    config_close(&config);
    for (int i = 0; i < FILES; i++) {
        assert_int_equal(stat(support_path("run-1/%s", files[i]), &now), 0);
        assert_memory_equal(&then[i].st_mtim, &now.st_mtim, sizeof now.st_mtim);
        assert_int_equal(then[i].st_size, now.st_size);
        assert_int_equal(then[i].st_ino, now.st_ino);
    }
    for (int i = 0; i < STAGES; i++)
        assert_int_equal(stage_memory_most(&before[i], NULL), stage_memory_most(&after[i], NULL));
}

/* A plan sees what the configuration changes, and models of any size cost it nothing. */
static void test_plans_differ_where_experiments_do(void **state)
{
    (void)state;
    if (comm_rank(world_comm) != 0)
        return;
    StageMemory small[STAGES], large[STAGES];
    bool there[STAGES];
    Config *config = experiment(support_path("plan-1"), true, 4, NULL);
    assert_ok(stages_plan(config, dry_device, NULL, small, there));
    config_close(&config);
    assert_int_equal(small[0].gradient_buffers, 1);
    config = experiment(support_path("plan-1"), true, 4,
                        "model={layers: 2, width: 16384, heads: 128, kv_heads: 2, positions_max: 64}");
    assert_ok(stages_plan(config, dry_device, NULL, large, there));
    config_close(&config);
    for (int i = 0; i < STAGES; i++)
        assert_true(large[i].models > (size_t)16 << 30 && large[i].models > 1000 * small[i].models);
    config = experiment(support_path("plan-1"), true, 4, "ppo.max_new=40");
    assert_ok(stages_plan(config, dry_device, NULL, large, there));
    config_close(&config);
    assert_true(phase_bytes(&large[2], "rollout") > phase_bytes(&small[2], "rollout"));
    assert_int_equal(large[2].training, small[2].training);

    Text table = {0};
    stage_memory_print(&small[2], &table);
    assert_contains(text_string(&table), "step: rollout");
    assert_contains(text_string(&table), "4 ranks on one node");
    assert_contains(text_string(&table), "gradient buffers of a step: 1 = 1 + log2(4 lanes / 4 ranks)");
    text_free(&table);
}

static void test_a_model_that_is_nowhere_is_named(void **state)
{
    (void)state;
    if (comm_rank(world_comm) != 0)
        return;
    StageMemory memory[STAGES];
    bool there[STAGES];
    Config *config = experiment(support_path("plan-1"), true, 1, "ppo.policy=nowhere/final.h5");
    assert_fails(stages_plan(config, dry_device, NULL, memory, there), STATUS_IO, "nowhere/final.h5");
    config_close(&config);
    /* Promises end with the plan that made them. */
    Device device;
    assert_ok(device_open_dry(&device));
    config = experiment(support_path("plan-1"), true, 1, NULL);
    assert_fails(ppo_run(comm_self(), &device, config, NULL), STATUS_IO, "sft/final.h5");
    config_close(&config);
    /* A language model cannot come from the reward model's promise. */
    config = experiment(support_path("plan-1"), true, 1, "ppo.policy=${output}/rm/final.h5");
    assert_fails(stages_plan(config, dry_device, NULL, memory, there), STATUS_INPUT, "expected a language model");
    config_close(&config);
    device_close(&device);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm world = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&world, &world_comm)))
        return 1;
    log_set_level(LOG_WARN);
    stages_schema(&schema);
    if (comm_rank(world_comm) == 0)
        write_inputs();
    comm_barrier(world_comm);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixed_lengths_are_foretold),
        cmocka_unit_test(test_ragged_lengths_are_bounded),
        cmocka_unit_test(test_kept_passes_are_foretold),
        cmocka_unit_test(test_nothing_is_left_but_data),
        cmocka_unit_test(test_a_finished_run_is_planned_anew),
        cmocka_unit_test(test_plans_differ_where_experiments_do),
        cmocka_unit_test(test_a_model_that_is_nowhere_is_named),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    config_schema_free(&schema);
    comm_close(world_comm);
    MPI_Finalize();
    return failed;
}
