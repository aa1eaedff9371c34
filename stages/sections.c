/* sections.c -- the rows of the root and of the three stages' sections. */
#include "stages/sections.h"

#include "core/data/dataset.h"
#include "core/model/arch.h"
#include "core/train/optimizer.h"
#include "rewards/reward.h"
#include "stages/stage.h"

const ConfigKey run_keys[] = {
    CONFIG_KEY_PATH(RunConfig, output, NULL, "Directory of the run: sft/, rm/ and ppo/ are made in it.",
                    .operational = true),
    CONFIG_KEY_INT(RunConfig, seed, "0", 0, INT64_MAX,
                   "Key of every random number (Philox). Two runs with equal semantic keys and seed have equal bits."),
    CONFIG_KEY_INT(RunConfig, ranks, "1", 1, 65536,
                   "Processes that `tercet run` asks the launcher for. Changes no result.", .operational = true),
    CONFIG_KEY_INT(RunConfig, threads, "auto", 1, 1024,
                   "OpenMP threads of each rank. auto: this rank's share of the cores it may use. Products repeat bit "
                   "for bit only "
                   "for a fixed count, so it is stored, and a resume compares it.",
                   .automatic = true, .operational = true),
    CONFIG_KEY_INT(
        RunConfig, lanes, "8", 1, 4096,
        "A power of two that fixes how a step's gradients are summed, whoever computes them: any 2^k <= "
        "lanes ranks give the "
        "same bits. Costs 1 + log2(lanes / ranks) gradient buffers; 8 serves 1 to 8 ranks. "
        "On the CPU, lanes of a model of up to 16 MB go to threads, one each (and a gradient buffer for each), "
        "if lanes is not 1: lanes / ranks should be a multiple of threads then, or several times as many."),
    CONFIG_KEY_CHOICE(
        RunConfig, reduce, "exact", "exact|fast",
        "How gradients are summed over ranks. exact: slices are exchanged and added in the fixed tree that "
        "`lanes` describes, so any number of ranks gives the same bits. fast: by the library between "
        "ranks, in its own order (NCCL's reduce-scatter or all-reduce between GPUs, else "
        "MPI_Allreduce): any number of ranks up to `lanes`, but other last bits for another number, "
        "which a resume therefore refuses unless exact=false."),
    CONFIG_KEY_CHOICE(
        RunConfig, device, "auto", "auto|cpu|cuda",
        "What computes. auto: the GPU where every rank sees one, else the CPU; the log says which and why. "
        "Like `threads` it moves last bits, not the mathematics, so it is stored with a checkpoint, and "
        "a resume on another kind of device is refused unless exact=false.",
        .operational = true),
    CONFIG_KEY_CHOICE(
        RunConfig, matmul, "fp32", "fp32|tf32",
        "Products in fp32. tf32, on a GPU: on its tensor cores, which round what is multiplied to 10 bits "
        "of mantissa and sum in fp32: several times faster, and other results."),
    CONFIG_KEY_CHOICE(RunConfig, precision, "fp32", "fp32|bf16",
                      "What models compute in. bf16, on a GPU: activations and products in bfloat16, sums, losses and "
                      "gradients of parameters "
                      "in fp32, parameters and moments kept in fp32 (Micikevicius et al. 2018)."),
    CONFIG_KEY_INT(
        RunConfig, checkpoint_every, "100", 1, 1000000000,
        "Steps (PPO: iterations) between checkpoints. A stopped run always saves; this bounds what a killed one loses.",
        .operational = true),
    CONFIG_KEY_INT(RunConfig, keep_checkpoints, "2", 1, 1000000, "Newest checkpoints kept of each stage.",
                   .operational = true),
    CONFIG_KEY_FLOAT(RunConfig, log_every, "10", 0, 86400,
                     "Seconds between progress lines where standard error is no terminal.", .operational = true),
    CONFIG_KEY_INT(RunConfig, stop_after, "0", 0, INT64_MAX,
                   "Stop as if asked to at this unit boundary, counted from the start of the process; 0 never. For "
                   "proving that a resumed "
                   "run has the bits of an undisturbed one.",
                   .operational = true),
    CONFIG_KEY_BOOL(RunConfig, exact, "true",
                    "Refuse to resume where bits could differ: other threads per rank, device, instruction set or "
                    "product library. false goes on "
                    "and records it in the checkpoint.",
                    .operational = true),
    CONFIG_KEY_STRING(RunConfig, launcher, "null",
                      "How `tercet run` starts ranks: a command with {ranks}, {threads} and {command}. null: mpirun "
                      "with flags that suit Open "
                      "MPI, or nothing for one rank. On Slurm: 'srun -n {ranks} -c {threads} {command}'.",
                      .operational = true),
    CONFIG_KEY_BOOL(RunConfig, profile, "false",
                    "Time every op: at the end a table of time by phase and op beside what the machine could do, and "
                    "OUTPUT/STAGE/trace.json for chrome://tracing or Perfetto.",
                    .operational = true),
    {0},
};

#define MODEL_HELP                                                                                                     \
    "Where to start: an HDF5 file of ours or a Hugging Face directory. null: fresh parameters of the shape under "     \
    "`model:`."
#define TOKENIZER_HELP "tokenizer.json, tokenizer.model or a directory with one. null: the model's own."
#define BATCH_HELP "Examples per optimizer step, over all ranks."
#define UNIT_HELP                                                                                                      \
    "Tokens in one unit of work (a micro-batch). Bounds activation memory (of each thread where lanes go to threads, " \
    "see lanes; but see ppo.merge_first_pass); enters the bits, not the mathematics: gradients accumulate over "       \
    "units. On the CPU 256 to 512 may be "                                                                             \
    "faster for models of less than a million parameters, whose activations then stay in caches."
#define STEPS_HELP "Optimizer steps; 0: as many as `epochs` gives."
#define EVAL_HELP                                                                                                      \
    "Steps between evaluations on eval_data, beside those at the beginning and the end; 0: only these two."
#define SHUFFLE_HELP "Each epoch in an order of its own, a function of the seed; false: as in the files."

const ConfigKey sft_keys[] = {
    CONFIG_KEY_PATH(SftConfig, model, "null", MODEL_HELP, .operational = true),
    CONFIG_KEY_PATH(SftConfig, tokenizer, "null", TOKENIZER_HELP, .operational = true),
    CONFIG_KEY_INT(SftConfig, batch, "64", 1, 1000000, BATCH_HELP),
    CONFIG_KEY_INT(SftConfig, unit_tokens, "4096", 1, 16777216, UNIT_HELP),
    CONFIG_KEY_INT(SftConfig, epochs, "1", 1, 100000, "Passes over the data."),
    CONFIG_KEY_INT(SftConfig, steps, "0", 0, 16777215, STEPS_HELP),
    CONFIG_KEY_INT(SftConfig, eval_every, "0", 0, 1000000000, EVAL_HELP),
    CONFIG_KEY_BOOL(SftConfig, shuffle, "true", SHUFFLE_HELP),
    {0},
};

const ConfigKey rm_keys[] = {
    CONFIG_KEY_PATH(RmConfig, model, "${output}/sft/final.h5", MODEL_HELP " The head is new: N(0, 1/(width + 1)).",
                    .operational = true),
    CONFIG_KEY_PATH(RmConfig, tokenizer, "null", TOKENIZER_HELP, .operational = true),
    CONFIG_KEY_INT(RmConfig, batch, "64", 1, 1000000,
                   "Prompts (groups of answers) per optimizer step, over all ranks."),
    CONFIG_KEY_INT(RmConfig, unit_tokens, "4096", 1, 16777216, UNIT_HELP " All answers of a prompt are in one unit."),
    CONFIG_KEY_INT(RmConfig, epochs, "1", 1, 100000,
                   "Passes over the data. One: rewards overfit from the second on (Ouyang et al. 2022)."),
    CONFIG_KEY_INT(RmConfig, steps, "0", 0, 16777215, STEPS_HELP),
    CONFIG_KEY_INT(RmConfig, eval_every, "0", 0, 1000000000, EVAL_HELP),
    CONFIG_KEY_BOOL(RmConfig, shuffle, "true", SHUFFLE_HELP),
    CONFIG_KEY_CHOICE(RmConfig, loss, "pairs", "pairs|plackett_luce",
                      "pairs: mean over a prompt's pairs of -log sigmoid(r_better - r_worse); tied pairs drop out. "
                      "plackett_luce: the whole "
                      "order at once; ties are refused."),
    CONFIG_KEY_FLOAT(RmConfig, margin_scale, "0", 0, 1000,
                     "pairs: the better answer must lead by this times the difference in rating (or the record's "
                     "margin). 0: no margin."),
    {0},
};

const ConfigKey ppo_keys[] = {
    CONFIG_KEY_PATH(PpoConfig, policy, "${output}/sft/final.h5",
                    "The actor's start: an HDF5 file or a Hugging Face directory.", .operational = true),
    CONFIG_KEY_PATH(PpoConfig, reference, "null", "What KL is measured against. null: the policy's start.",
                    .operational = true),
    CONFIG_KEY_PATH(PpoConfig, critic, "null",
                    "The critic's start: a reward model (its head is kept) or a policy (the head starts at zero, so V "
                    "= 0). null: the policy. "
                    "Starting from the reward model is TRL's choice; from the policy, OpenAI's of 2019.",
                    .operational = true),
    CONFIG_KEY_PATH(PpoConfig, rollout, "null",
                    "Run one iteration's update from this rollout file instead of sampling.", .operational = true),
    CONFIG_KEY_INT(PpoConfig, iterations, "100", 1, 16777215, "Rollout, advantage, update: this many times."),
    CONFIG_KEY_INT(PpoConfig, batch, "64", 1, 1000000, "Responses per iteration, over all ranks."),
    CONFIG_KEY_INT(PpoConfig, samples_per_prompt, "1", 1, 1000000, "Responses drawn for each prompt; divides batch."),
    CONFIG_KEY_INT(PpoConfig, max_new, "64", 1, 1000000, "Longest response in tokens."),
    CONFIG_KEY_INT(PpoConfig, unit_prompts, "16", 1, 1000000,
                   "Prompts in one unit of sampling. Units are what ranks share out, so batch / samples_per_prompt / "
                   "unit_prompts should be a "
                   "multiple of the ranks."),
    CONFIG_KEY_INT(PpoConfig, slots, "64", 1, 1000000,
                   "Responses of a unit that are decoded at once; a finished one's slot goes to the unit's next."),
    CONFIG_KEY_FLOAT(PpoConfig, temperature, "1", 1e-3, 100, "Divides logits in sampling and in every log-prob alike."),
    CONFIG_KEY_REFUSED("top_k", "PPO samples by temperature alone: a token that top-k cuts off has probability 0 under "
                                "the sampler and not under the "
                                "policy, so ratios and KL would be wrong"),
    CONFIG_KEY_REFUSED("top_p", "PPO samples by temperature alone: a token that top-p cuts off has probability 0 under "
                                "the sampler and not under the "
                                "policy, so ratios and KL would be wrong"),
    CONFIG_KEY_CHOICE(PpoConfig, eos, "stop", "stop|ignore",
                      "stop: the end token ends a response. ignore: every response has max_new tokens."),
    CONFIG_KEY_BOOL(PpoConfig, shuffle, "true", SHUFFLE_HELP),
    CONFIG_KEY_INT(PpoConfig, keep_rollouts, "0", -1, 1000000000, "Newest rollout files kept in ppo/rollouts; -1: all.",
                   .operational = true),
    CONFIG_KEY_CHOICE(PpoConfig, missing_eos, "none", "none|subtract|replace",
                      "A response without its end token has missing_eos_value subtracted from its reward (TRL), or its "
                      "reward replaced by minus that value "
                      "(OpenAI). none suits texts that have no end."),
    CONFIG_KEY_FLOAT(PpoConfig, missing_eos_value, "1", -1000, 1000,
                     "See missing_eos; after normalisation and clipping, so in its units."),
    CONFIG_KEY_CHOICE(PpoConfig, reward_normalise, "first", "none|first|running",
                      "Rewards minus mean over deviation: of the first iteration's responses (the starting policy's, "
                      "Ziegler et al. 2019), or of all so far. Makes "
                      "kl_coefficient mean the same for every reward."),
    CONFIG_KEY_FLOAT(PpoConfig, reward_clip, "5", 0, 1e9,
                     "Normalised rewards are clipped to +- this (DeepSpeed-Chat, ColossalChat); 0: never."),
    CONFIG_KEY_CHOICE(
        PpoConfig, kl, "k1", "k1|k2|k3",
        "Estimator of the per-token penalty: k1 log-ratio (unbiased), k2 half its square, k3 positive and unbiased."),
    CONFIG_KEY_FLOAT(PpoConfig, kl_coefficient, "0.05", 0, 1e6, "Price of one nat per token, in rewards."),
    CONFIG_KEY_FLOAT(
        PpoConfig, kl_target, "0", 0, 1e6,
        "Nats per response that the coefficient is steered to (Ziegler et al. 2019); 0: fixed coefficient."),
    CONFIG_KEY_FLOAT(PpoConfig, kl_horizon, "10000", 1, 1e12, "Responses over which the adaptive coefficient moves."),
    CONFIG_KEY_FLOAT(PpoConfig, gamma, "1", 0, 1, "Discount. 1: a response is short and its end counts in full."),
    CONFIG_KEY_FLOAT(PpoConfig, lambda, "0.95", 0, 1, "GAE's trade of bias for variance; every known recipe's choice."),
    CONFIG_KEY_BOOL(PpoConfig, whiten_advantages, "true",
                    "Advantages to mean 0, variance 1 (biased) over the whole iteration, before minibatches."),
    CONFIG_KEY_BOOL(PpoConfig, whiten_rewards, "false", "Per-token rewards to variance 1, mean kept (OpenAI 2019)."),
    CONFIG_KEY_INT(PpoConfig, epochs, "4", 1, 1000, "Passes over one iteration's responses."),
    CONFIG_KEY_INT(PpoConfig, minibatches, "1", 1, 100000, "Optimizer steps per epoch, of whole units."),
    CONFIG_KEY_INT(PpoConfig, unit_tokens, "4096", 1, 16777216, UNIT_HELP),
    CONFIG_KEY_BOOL(PpoConfig, merge_first_pass, "false",
                    "Keep the forward passes of policy and critic that old log-probs and values come from, and let the "
                    "first minibatch's steps go on from them: two passes less, for the activations of a rank's whole "
                    "share of that minibatch. The same bits; but ratios before the first step are then 1 by "
                    "construction, where two passes prove it. Not for models whose lanes go to threads (see lanes): "
                    "making their passes again costs no more.",
                    .operational = true),
    CONFIG_KEY_INT(PpoConfig, critic_warmup, "0", 0, 1000000, "First iterations in which only the critic learns."),
    CONFIG_KEY_FLOAT(PpoConfig, clip_low, "0.2", 0, 1,
                     "Ratios below 1 - this gain nothing more (Schulman et al. 2017)."),
    CONFIG_KEY_FLOAT(PpoConfig, clip_high, "0.2", 0, 1000, "Ratios above 1 + this gain nothing more."),
    CONFIG_KEY_FLOAT(PpoConfig, value_clip, "0.2", 0, 1e9,
                     "Values may leave the old ones by this before the clipped error counts; 0: plain squares."),
    CONFIG_KEY_FLOAT(PpoConfig, value_coefficient, "1", 0, 1e6,
                     "Factor of the value loss. The critic has parameters and an optimizer of its own, so this scales "
                     "its clipping only."),
    CONFIG_KEY_FLOAT(PpoConfig, entropy_coefficient, "0", 0, 1e6,
                     "Bonus per nat of entropy; 0 because the KL penalty already keeps the policy broad."),
    CONFIG_KEY_FLOAT(
        PpoConfig, target_kl, "0", 0, 1e6,
        "End an iteration's epochs once a minibatch's approximate KL to the old policy is above this; 0: never."),
    {0},
};

static const ConfigGroup groups[] = {
    {.path = "", .keys = run_keys, .help = "the run"},
    {.path = "model",
     .keys = model_shape_keys,
     .optional = true,
     .help = "shape of a model that starts from random parameters"},
    {.path = "sft", .keys = sft_keys, .optional = true, .help = "supervised fine-tuning"},
    {.path = "sft", .keys = data_config_keys, .optional = true},
    {.path = "sft.optimizer", .keys = optimizer_keys},
    {.path = "sft.data[]", .keys = data_source_keys, .help = "training files"},
    {.path = "sft.eval_data[]", .keys = data_source_keys, .help = "held-out files"},
    {.path = "rm", .keys = rm_keys, .optional = true, .help = "reward model on ranked answers"},
    {.path = "rm", .keys = data_config_keys, .optional = true},
    {.path = "rm.optimizer", .keys = optimizer_keys},
    {.path = "rm.data[]", .keys = data_source_keys, .help = "training files"},
    {.path = "rm.eval_data[]", .keys = data_source_keys, .help = "held-out files"},
    {.path = "ppo", .keys = ppo_keys, .optional = true, .help = "PPO with actor, critic, reference and rewards"},
    {.path = "ppo", .keys = data_config_keys, .optional = true},
    {.path = "ppo.actor_optimizer", .keys = optimizer_ppo_keys},
    {.path = "ppo.critic_optimizer", .keys = optimizer_ppo_keys},
    {.path = "ppo.prompts[]", .keys = data_source_keys, .help = "files of prompts"},
    {0},
};

void stages_schema(ConfigSchema *schema)
{
    config_schema_add(schema, groups);
    rewards_schema(schema, "ppo.rewards[]");
}
