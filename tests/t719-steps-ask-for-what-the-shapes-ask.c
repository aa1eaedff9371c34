//TEST timeout=120 devices=cuda
/* t719 -- what one step of each stage asks of the device (calls, FLOPs, bytes by op) is at most what its shapes ask for: the guard of speed
 * that needs no clock. The numbers are made here from the shapes alone; a step that asks for less is welcome, and lowers them. How often the host reads from
 * the device is pinned on the GPU as well, where the emulation counts beside us. */
#include "tests/support/stage_golden.h"
#include "tests/support/support_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/memory.h"
#include "tests/support/words.h"

/* A token is a byte; every text has the same length. */
enum {
    LAYERS = 2,
    WIDTH = 64,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD_DIM = WIDTH / HEADS,
    FFN = 96,
    QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM,
    VOCAB = 259, /* words_tokenizer */
    STORED = 384,
    PROMPT = 12,
    ANSWER = 20,
    SFT_BATCH = 8,
    RM_BATCH = 4,
    RM_ANSWERS = 3,
    PPO_BATCH = 8,
    PPO_NEW = 10,
    PPO_UNIT_PROMPTS = 4, /* one sample of each */
    PPO_EPOCHS = 2,
    PPO_MINIBATCHES = 2,
};

/* Per layer: two norms' gains, and four matrices; then the table, which is the head too, and the last norm. */
static const double PARAMETERS =
    LAYERS * (2.0 * WIDTH + QKV * WIDTH + WIDTH * WIDTH + 2.0 * FFN * WIDTH + FFN * WIDTH) + STORED * WIDTH + WIDTH;

/* --- Arithmetic --------------------------------------------------------------------------------------------------- */

typedef struct Asked {
    double calls, flops, bytes;
} Asked;

/* Of a step, by op. */
typedef struct Step {
    Asked op[OP_COUNT];
} Step;

static void ask(Step *step, OpKind op, double calls, double flops, double floats)
{
    step->op[op].calls += calls;
    step->op[op].flops += flops;
    step->op[op].bytes += 4 * floats;
}

/* y (m, n) = x (m, k) W (n, k); with `backward` also dx, and dW added to what is there. */
static void ask_product(Step *step, double m, double n, double k, bool backward)
{
    ask(step, OP_gemm, 1, 2 * m * n * k, m * k + n * k + m * n);
    if (backward) {
        ask(step, OP_gemm, 1, 2 * m * n * k, m * n + n * k + m * k);
        ask(step, OP_gemm, 1, 2 * m * n * k, m * n + m * k + 2 * n * k);
    }
}

static void ask_norm(Step *step, double rows, bool backward)
{
    double n = rows * WIDTH;
    ask(step, OP_norm_forward, 1, 5 * n, 4 * n + WIDTH + rows);
    if (backward)
        ask(step, OP_norm_backward, 1, 11 * n, 4 * n + rows + 3 * WIDTH);
}

/* The decoder on `tokens` tokens, of which `rows` are read after the last attention; pairs: (query, key) pairs. */
static void ask_decoder(Step *step, double tokens, double rows, double pairs, bool backward)
{
    int times = backward ? 2 : 1;
    ask(step, OP_embed_forward, 1, 0, tokens * (2 * WIDTH + 1));
    if (backward)
        ask(step, OP_embed_backward, 1, tokens * WIDTH, tokens * (3 * WIDTH + 1));
    for (int layer = 0; layer < LAYERS; layer++) {
        double on = layer == LAYERS - 1 ? rows : tokens;
        ask_norm(step, tokens, backward);
        ask_product(step, tokens, QKV, WIDTH, backward);
        double turned = tokens * (HEADS + KV_HEADS) * HEAD_DIM;
        ask(step, OP_rope, times, times * 3 * turned, times * (2 * turned + tokens * (1 + HEAD_DIM)));
        ask(step, OP_attention_forward, 1, pairs * HEADS * (4 * HEAD_DIM + 4), tokens * (WIDTH + QKV + HEADS + 1));
        if (backward)
            ask(step, OP_attention_backward, 1, pairs * HEADS * (10 * HEAD_DIM + 6),
                tokens * (2 * WIDTH + 2 * QKV + HEADS + 1));
        if (on < tokens) {
            ask(step, OP_gather_rows, 2, 0, 2 * on * (2 * WIDTH + 1));
            if (backward)
                ask(step, OP_scatter_rows, 2, 2 * on * WIDTH, 2 * on * (3 * WIDTH + 1));
        }
        ask_product(step, on, WIDTH, WIDTH, backward);
        ask_norm(step, on, backward);
        ask_product(step, on, 2 * FFN, WIDTH, backward);
        ask(step, OP_act_forward, 1, 5 * on * FFN, 3 * on * FFN);
        if (backward) /* gives it again in passing */
            ask(step, OP_act_backward, 1, 10 * on * FFN, 6 * on * FFN);
        ask_product(step, on, WIDTH, FFN, backward);
    }
    ask_norm(step, rows, backward);
}

/* Up to 256 rows are one visit. */
static void ask_head(Step *step, double rows, OpKind loss, bool backward)
{
    ask_product(step, rows, STORED, WIDTH, backward);
    ask(step, OP_logits_stats, 1, 6 * rows * VOCAB, rows * (VOCAB + 4));
    if (!backward)
        return;
    ask(step, OP_logits_backward, 1, 8 * rows * VOCAB, rows * (VOCAB + STORED + 5));
    ask(step, loss, 1, 25 * rows, 7 * rows);
}

/* Norm of the gradient, clipping, AdamW on runs of parameters that agree on decay. */
static void ask_update(Step *step, double parameters)
{
    ask(step, OP_sum_squares, 1, 2 * parameters, parameters + 2 * (parameters / SUM_BLOCK + 1));
    ask(step, OP_clip_scale, 1, parameters / SUM_BLOCK + 5, 2 * (parameters / SUM_BLOCK + 2) + 1);
    ask(step, OP_adamw, 4 * LAYERS + 4, 16 * parameters, 7 * parameters);
}

/* Queries and keys of `count` sequences of `length` tokens. */
static double pairs_of(double count, double length)
{
    return count * length * (length + 1) / 2;
}

/* --- The stages --------------------------------------------------------------------------------------------------- */

/* Prompt, answer and EOS, of which the last token predicts nothing; loss on answer and EOS. */
static void ask_sft(Step *step)
{
    double length = PROMPT + ANSWER, rows = SFT_BATCH * (ANSWER + 1);
    ask_decoder(step, SFT_BATCH * length, rows, pairs_of(SFT_BATCH, length), true);
    ask_head(step, rows, OP_nll_loss, true);
    ask_update(step, PARAMETERS);
}

/* Prompt, answer and EOS, read at the last token. */
static void ask_rm(Step *step)
{
    double sequences = RM_BATCH * RM_ANSWERS, length = PROMPT + ANSWER + 1;
    ask_decoder(step, sequences * length, sequences, pairs_of(sequences, length), true);
    ask_product(step, sequences, 1, WIDTH, true);
    ask(step, OP_bias_backward, 1, sequences, sequences + 2);
    ask(step, OP_rank_loss, 1, 8 * sequences, 3 * sequences + 2 * RM_BATCH);
    ask_update(step, PARAMETERS + 2 * WIDTH);
}

static void ask_ppo(Step *step)
{
    double length = PROMPT + PPO_NEW, fed = length - 1, rows = PPO_BATCH * PPO_NEW;
    /* Units of prompts are sampled by themselves: a prefill, then a round for each further token. */
    for (int unit = 0; unit < PPO_BATCH / PPO_UNIT_PROMPTS; unit++) {
        double count = PPO_UNIT_PROMPTS;
        for (int token = 0; token < PPO_NEW; token++) {
            double tokens = token ? count : count * PROMPT;
            ask_decoder(step, tokens, count, token ? count * (PROMPT + token) : pairs_of(count, PROMPT), false);
            double cached =
                count * (token ? PROMPT + token : (PROMPT + 1) / 2.0); /* keys that a row reads, by sequence */
            ask(step, OP_attention_forward, 0, 0, LAYERS * 2 * KV_HEADS * HEAD_DIM * cached);
            ask_product(step, count, STORED, WIDTH, false);
            ask(step, OP_sample, 1, 6 * count * VOCAB, count * (VOCAB + 5));
            if (token + 1 < PPO_NEW) /* what was drawn is what comes next */
                ask(step, OP_decode_next, 1, 0, 12 * count);
        }
        ask_decoder(step, count * length, count, pairs_of(count, length), false); /* the judge */
        ask_product(step, count, 1, WIDTH, false);
    }
    /* Policy, reference and critic look at it in as many units as there are minibatches; then the epochs. */
    double part = PPO_MINIBATCHES;
    for (int unit = 0; unit < PPO_MINIBATCHES; unit++) {
        for (int model = 0; model < 3; model++)
            ask_decoder(step, PPO_BATCH * fed / part, rows / part, pairs_of(PPO_BATCH / part, fed), false);
        ask_head(step, rows / part, OP_policy_loss, false);
        ask_head(step, rows / part, OP_policy_loss, false);
        ask_product(step, rows / part, 1, WIDTH, false);
        ask(step, OP_moments, 1, 4 * rows / part, rows / part);
    }
    ask(step, OP_reward_shape, 1, 4 * rows, 4 * rows + 2 * PPO_BATCH);
    ask(step, OP_gae, 1, 6 * rows, 4 * rows + PPO_BATCH);
    ask(step, OP_moments, 2, 8 * rows, 2 * rows);
    ask(step, OP_whiten, 1, 3 * rows, 2 * rows);
    for (int minibatch = 0; minibatch < PPO_EPOCHS * PPO_MINIBATCHES; minibatch++) {
        for (int model = 0; model < 2; model++)
            ask_decoder(step, PPO_BATCH * fed / part, rows / part, pairs_of(PPO_BATCH / part, fed), true);
        ask_head(step, rows / part, OP_policy_loss, true);
        ask_product(step, rows / part, 1, WIDTH, true);
        ask(step, OP_bias_backward, 1, rows / part, rows / part + 2);
        ask(step, OP_value_loss, 1, 16 * rows / part, 5 * rows / part);
        ask_update(step, PARAMETERS);
        ask_update(step, PARAMETERS + 2 * WIDTH);
    }
}

/* --- Claims ------------------------------------------------------------------------------------------------------- */

static const char *letters(int length, int seed)
{
    static char ring[8][64];
    static int next;
    char *text = ring[next = (next + 1) % 8];
    for (int i = 0; i < length; i++)
        text[i] = (char)('a' + (i * 7 + seed * 11 + i * seed) % 26);
    text[length] = 0;
    return text;
}

static void write_data(void)
{
    Text sft = {0}, ranked = {0};
    for (int i = 0; i < 64; i++) {
        text_printf(&sft, "{\"prompt\": \"%s\", \"response\": \"%s\"}\n", letters(PROMPT, i), letters(ANSWER, i + 3));
        text_printf(&ranked, "{\"prompt\": \"%s\", \"responses\": [\"%s\", \"%s\", \"%s\"], \"ranks\": [2, 1, 3]}\n",
                    letters(PROMPT, i), letters(ANSWER, i), letters(ANSWER, i + 1), letters(ANSWER, i + 2));
    }
    words_file("sft.jsonl", text_string(&sft));
    words_file("ranked.jsonl", text_string(&ranked));
    words_tokenizer_file(false);
    text_free(&sft);
    text_free(&ranked);
}

/* The emulation's own count of copies to the host (cuda_on_cpu/runtime.cc); not there on other devices. */
extern uint64_t cuda_on_cpu_copies_out(void) __attribute__((weak));

static uint64_t copies_out(void)
{
    return cuda_on_cpu_copies_out ? cuda_on_cpu_copies_out() : 0;
}

/* What the device was asked for in a stage of so many steps. */
static void run(const char *stage, const char *steps_key, int steps,
                Status (*function)(Comm *, Device *, const Config *, StageMemory *), OpCounter counter[OP_COUNT],
                uint64_t *reads)
{
    StageGolden golden;
    char output[32];
    snprintf(output, sizeof output, "%s-%d", stage, steps);
    stage_golden_open(&golden, output);
    const char *sft = support_path("sft-2/sft/final.h5"), *rm = support_path("rm-2/rm/final.h5");
    stage_golden_set(&golden, "lanes=1");
    stage_golden_set(&golden, "model={layers: %d, width: %d, heads: %d, kv_heads: %d, ffn: %d, positions_max: 64}",
                     LAYERS, WIDTH, HEADS, KV_HEADS, FFN);
    stage_golden_set(&golden, "sft.tokenizer=%s", support_path("tokenizer.json"));
    stage_golden_set(&golden, "sft.data=[{path: %s}]", support_path("sft.jsonl"));
    stage_golden_set(&golden, "sft.batch=%d", SFT_BATCH);
    stage_golden_set(&golden, "rm.model=%s", sft);
    stage_golden_set(&golden, "rm.data=[{path: %s}]", support_path("ranked.jsonl"));
    stage_golden_set(&golden, "rm.batch=%d", RM_BATCH);
    stage_golden_set(&golden, "ppo.policy=%s", sft);
    stage_golden_set(&golden, "ppo.prompts=[{path: %s}]", support_path("sft.jsonl"));
    stage_golden_set(&golden, "ppo.rewards=[{kind: model, model: %s}]", rm);
    stage_golden_set(&golden, "ppo.batch=%d", PPO_BATCH);
    stage_golden_set(&golden, "ppo.max_new=%d", PPO_NEW);
    stage_golden_set(&golden, "ppo.unit_prompts=%d", PPO_UNIT_PROMPTS);
    stage_golden_set(&golden, "ppo.slots=%d", PPO_UNIT_PROMPTS);
    stage_golden_set(&golden, "ppo.epochs=%d", PPO_EPOCHS);
    stage_golden_set(&golden, "ppo.minibatches=%d", PPO_MINIBATCHES);
    stage_golden_set(&golden, "ppo.eos=ignore");
    stage_golden_set(&golden, "ppo.iterations=1");
    stage_golden_set(&golden, "%s=%d", steps_key, steps);
    const uint64_t before = copies_out();
    assert_ok(stage_golden_run(&golden, function));
    if (cuda_on_cpu_copies_out)
        assert_int_equal(copies_out() - before, golden.device.reads);
    memcpy(counter, golden.device.counter, sizeof golden.device.counter);
    *reads = golden.device.reads;
    stage_golden_close(&golden);
}

static void expect_at_most(const char *stage, const char *what, double found, double asked)
{
    if (!(found <= 1.001 * asked))
        fail_msg("%s: %s of a step: %.17g, the shapes ask for %.17g", stage, what, found, asked);
}

/* The second step: a stage of two less a stage of one. */
static void check(const char *stage, const char *steps_key,
                  Status (*function)(Comm *, Device *, const Config *, StageMemory *), void (*arithmetic)(Step *step))
{
    OpCounter one[OP_COUNT], two[OP_COUNT];
    Step step = {0};
    Asked asked = {0}, all = {0};
    uint64_t reads[2];
    run(stage, steps_key, 1, function, one, &reads[0]);
    run(stage, steps_key, 2, function, two, &reads[1]);
    if (function != ppo_run)
        assert_int_equal(reads[1] - reads[0], 1); /* the figures of a step, all at once */
    arithmetic(&step);
    for (int op = 0; op < OP_COUNT; op++) {
        Asked found = {(double)(two[op].calls - one[op].calls), two[op].flops - one[op].flops,
                       two[op].bytes - one[op].bytes};
        char what[64];
        if (found.calls + step.op[op].calls > 0)
            printf("%-4s %-20s %6.0f of %6.0f calls %12.0f of %12.0f FLOP %12.0f of %12.0f bytes\n", stage,
                   op_name((OpKind)op), found.calls, step.op[op].calls, found.flops, step.op[op].flops, found.bytes,
                   step.op[op].bytes);
        /* Of both stages from start to end, for t870. */
        if (two[op].calls)
            printf("%-4s %-20s in all %14.0f FLOP %14.0f bytes\n", stage, op_name((OpKind)op),
                   one[op].flops + two[op].flops, one[op].bytes + two[op].bytes);
        if (step.op[op].calls > 0) { /* another op may have taken its place, but then in the sums below */
            snprintf(what, sizeof what, "FLOPs of %s", op_name((OpKind)op));
            expect_at_most(stage, what, found.flops, step.op[op].flops);
            snprintf(what, sizeof what, "calls of %s", op_name((OpKind)op));
            expect_at_most(stage, what, found.calls, step.op[op].calls);
            snprintf(what, sizeof what, "bytes of %s", op_name((OpKind)op));
            expect_at_most(stage, what, found.bytes, step.op[op].bytes);
        }
        asked =
            (Asked){asked.calls + step.op[op].calls, asked.flops + step.op[op].flops, asked.bytes + step.op[op].bytes};
        all = (Asked){all.calls + found.calls, all.flops + found.flops, all.bytes + found.bytes};
    }
    expect_at_most(stage, "calls", all.calls, asked.calls);
    expect_at_most(stage, "FLOPs", all.flops, asked.flops);
    expect_at_most(stage, "bytes", all.bytes, asked.bytes);
    /* Products cannot be done without: less than this, and the counters are broken. */
    assert_true(two[OP_gemm].flops - one[OP_gemm].flops >= 0.5 * step.op[OP_gemm].flops);
    /* Nor can pairs; and a replayed decode step, which is asked for once, is to count those of now. */
    assert_close(two[OP_attention_forward].flops - one[OP_attention_forward].flops, step.op[OP_attention_forward].flops,
                 1e-9, 0);
}

static void test_sft(void **state)
{
    (void)state;
    check("sft", "sft.steps", sft_run, ask_sft);
}

static void test_rm(void **state)
{
    (void)state;
    check("rm", "rm.steps", rm_run, ask_rm);
}

static void test_ppo(void **state)
{
    (void)state;
    check("ppo", "ppo.iterations", ppo_run, ask_ppo);
}

/* How many more times the host reads when `key` is `more` and not `less`. */
static uint64_t more_reads(const char *stage, const char *key, int less, int more,
                           Status (*function)(Comm *, Device *, const Config *, StageMemory *))
{
    OpCounter counter[OP_COUNT];
    uint64_t few, many;
    run(stage, key, less, function, counter, &few);
    run(stage, key, more, function, counter, &many);
    return many - few;
}

/* The host waits for the device once a step; in PPO once a minibatch, for both models' figures; and in generation once for as many tokens as the device decodes
 * before it is asked: one on the CPU, 16 on a GPU. */
static void test_ppo_and_other_reads(void **state)
{
    (void)state;
    Device device;
    support_device_open(&device);
    const int burst = device.burst;
    assert_int_equal(burst, strcmp(device.backend->name, "cuda") == 0 ? 16 : 1);
    device_close(&device);
    if (burst > 1) { /* on the CPU they have been here */
        assert_int_equal(more_reads("sft", "sft.steps", 1, 2, sft_run), 1);
        assert_int_equal(more_reads("rm", "rm.steps", 1, 2, rm_run), 1);
    }
    assert_int_equal(more_reads("ppo-epochs", "ppo.epochs", 1, 2, ppo_run), PPO_MINIBATCHES);
    /* The first token is the prompt's. */
    assert_int_equal(more_reads("ppo-tokens", "ppo.max_new", 17, 33, ppo_run),
                     PPO_BATCH / PPO_UNIT_PROMPTS * 16 / burst);
}

/* argument: the tests to skip, for t870 */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_skip_filter(argv[1]);
    log_set_level(LOG_WARN);
    write_data();
    const struct CMUnitTest reads[] = {cmocka_unit_test(test_ppo_and_other_reads)};
    if (getenv("TERCET_TEST_DEVICE")) /* work is as on the CPU, but that decode goes on in bursts */
        return cmocka_run_group_tests(reads, NULL, NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sft), cmocka_unit_test(test_rm),
                                       cmocka_unit_test(test_ppo), cmocka_unit_test(test_ppo_and_other_reads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
