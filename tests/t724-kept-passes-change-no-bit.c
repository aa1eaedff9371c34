//TEST ranks=1,2,4 timeout=120 devices=cuda
/* t724 -- ppo.merge_first_pass: the steps of the first minibatch go on from the passes that old log-probs and values came from. All that policy and critic
 * have learned is then what it would be without, to the last bit: on any ranks, with several units for a lane and several minibatches, after a critic's
 * warm-up, and where what was kept is lost between the phases, as in a resume. And the passes are not made. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/memory.h"
#include "core/comm/comm_nccl.h"
#include "kernels/cpu/device_cpu.h"
#include "stages/ppo.h"
#include "tests/support/support.h"
#include "tests/support/support_device.h"
#include "tests/support/tiny_file.h"
#include "tests/support/words.h"

enum { BATCH = 16, ITERATIONS = 3, EPOCHS = 2 };

static Comm *world_comm;
static Device gpu; /* backend NULL: the CPU */
static ConfigSchema schema;

static void write_inputs(void)
{
    Text prompts = {0};
    Tokenizer *tokenizer = words_tokenizer(false);
    for (int i = 0; i < 2 * BATCH; i++)
        text_printf(&prompts, "{\"prompt\": \"number %d%.*s\"}\n", i * 977, i % 8, "abcdefgh");
    words_file("prompts.jsonl", text_string(&prompts));
    tiny_export(support_path("policy"), tokenizer, 5);
    tokenizer_close(&tokenizer);
    text_free(&prompts);
}

static Config *experiment(const char *name, int minibatches, int warmup, bool merge)
{
    Text yaml = {0};
    text_printf(&yaml,
                "output: %s\nlanes: 4\n"
                "ppo:\n  policy: %s\n  prompts: [{path: %s}]\n  rewards: [{kind: length}]\n"
                "  batch: %d\n  unit_prompts: 4\n  max_new: 10\n  unit_tokens: 48\n  epochs: %d\n  minibatches: %d\n"
                "  critic_warmup: %d\n  merge_first_pass: %s\n",
                support_path("%s", name), support_path("policy"), support_path("prompts.jsonl"), BATCH, EPOCHS,
                minibatches, warmup, merge ? "true" : "false");
    Config *config = NULL;
    assert_ok(
        config_open((ConfigSource){.path = "test.yaml", .text = yaml.bytes, .text_size = yaml.size}, &schema, &config));
    text_free(&yaml);
    return config;
}

/* What policy and critic are in the end, and the products that all ranks were asked for. */
typedef struct Outcome {
    float *actor, *critic;
    size_t actor_bytes, critic_bytes;
    double flops;
} Outcome;

static double sum_over_ranks(double mine)
{
    double all[8], sum = 0;
    comm_allgather(world_comm, &mine, sizeof mine, all);
    for (int rank = 0; rank < comm_size(world_comm); rank++)
        sum += all[rank];
    return sum;
}

static Outcome outcome_of(const char *name, int minibatches, int warmup, bool merge, bool lose)
{
    Config *config = experiment(name, minibatches, warmup, merge);
    Device cpu = {0}, *device = gpu.backend ? &gpu : &cpu;
    bool complete;
    if (!gpu.backend) {
        assert_ok(device_open_cpu(&cpu, 1, NULL));
        cpu.strands = 0; /* or models of this size would keep nothing */
    }
    Ppo *ppo = memory_new(1, sizeof *ppo);
    assert_ok(ppo_open(ppo, world_comm, device, config, &complete));
    assert_ok(ppo_resume(ppo));
    device_counters_reset(device);
    for (int iteration = 0; iteration < (gpu.backend ? 2 : ITERATIONS); iteration++) {
        if (lose) {
            assert_ok(ppo_experience(ppo));
            assert_int_equal(ppo->passes, merge ? PASSES_KEPT : PASSES_NONE);
            ppo_forget_passes(ppo);
            ppo->phase = PPO_UPDATE;
        }
        assert_ok(ppo_iterate(ppo));
        assert_int_equal(ppo->passes, PASSES_NONE);
        assert_int_equal(ppo->stage.step_arena.used, 0);
    }
    Outcome outcome = {.actor_bytes = tensor_bytes(ppo->actor.params.value),
                       .critic_bytes = tensor_bytes(ppo->critic.params.value),
                       .flops = sum_over_ranks(device->counter[OP_gemm].flops)};
    outcome.actor = memory_new(1, outcome.actor_bytes);
    outcome.critic = memory_new(1, outcome.critic_bytes);
    tensor_read(device, ppo->actor.params.value, outcome.actor);
    tensor_read(device, ppo->critic.params.value, outcome.critic);
    ppo_close(ppo, NULL);
    memory_free(&ppo);
    device_close(&cpu);
    config_close(&config);
    return outcome;
}

static void outcome_free(Outcome *outcome)
{
    memory_free(&outcome->actor);
    memory_free(&outcome->critic);
}

static void assert_same(const Outcome *a, const Outcome *b)
{
    assert_true(a->critic_bytes > a->actor_bytes); /* the scalar head */
    assert_memory_equal(a->actor, b->actor, a->actor_bytes);
    assert_memory_equal(a->critic, b->critic, a->critic_bytes);
}

static void check(int minibatches, int warmup)
{
    Outcome twice = outcome_of(support_path("twice-%d-%d", minibatches, warmup), minibatches, warmup, false, false);
    Outcome kept = outcome_of(support_path("kept-%d-%d", minibatches, warmup), minibatches, warmup, true, false);
    Outcome lost = outcome_of(support_path("lost-%d-%d", minibatches, warmup), minibatches, warmup, true, true);
    assert_same(&twice, &kept);
    assert_same(&twice, &lost);
    double saved = (twice.flops - kept.flops) / twice.flops;
    print_message("%d minibatches, warm-up %d: %.1f %% of products are saved\n", minibatches, warmup, 100 * saved);
    assert_true(saved > 0.05 / minibatches && saved < 0.15);
    assert_close(lost.flops, twice.flops, 1e-12, 0);
    outcome_free(&twice);
    outcome_free(&kept);
    outcome_free(&lost);
}

static void test_bits_are_those_of_two_passes(void **state)
{
    (void)state;
    check(2, 0);
    if (gpu.backend)
        return; /* emulation takes its time */
    check(1, 0);
    check(1, 1);
    check(8, 0); /* two units a minibatch: of four ranks some have none */
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm handle = MPI_COMM_WORLD;
    if (status_failed(comm_open_mpi(&handle, &world_comm)))
        return 1;
    status_set_rank(comm_rank(world_comm));
    stages_schema(&schema);
    if (getenv("TERCET_TEST_DEVICE")) {
        support_device_open(&gpu);
        if (status_failed(comm_attach_nccl(world_comm, &gpu, 0)))
            return 1;
    }
    if (comm_rank(world_comm) == 0)
        write_inputs();
    comm_barrier(world_comm);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bits_are_those_of_two_passes)};
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    config_schema_free(&schema);
    comm_detach_device(world_comm);
    device_close(&gpu);
    comm_close(world_comm);
    MPI_Finalize();
    return failures != 0;
}
