#!/usr/bin/env python3
#TEST labels=cuda,mpi timeout=240 processors=2
"""t884 -- the three stages in bf16 on the emulated GPU say nearly what fp32 says, and one and two ranks leave the same bits; so does SFT by TF32 products.

A bf16 has 8 bits, so one rounding is 2^-9 of a value: losses and norms of SFT are within 5e-3 of fp32's; what the reward model says, and PPO's update
learns, follows differences of nearly equal answers, within 8e-2. PPO holds its first ratios to 1, and reports how far the sampler's log-probs have drifted
from those of training: more than fp32's last bit, less than 2^-8.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from emulated import EMULATED, SHRUNK, agree, metrics, need_emulated, starts, use
from experiment import Experiment, compare

STAGES = ("sft", "rm", "ppo")
# Of PPO, what does not hang on the sign of a small difference.
PPO = ("reward", "entropy", "length", "ended", "ratio", "value_loss", "actor_grad_norm", "critic_grad_norm", "clip_fraction")

need_emulated()
with Experiment() as run:
    for stage in STAGES:
        run.stage(stage, "cpu", "device=cpu", *SHRUNK)
    use(EMULATED, ORDER="random:4", STREAMS="latest", DEVICES="8")
    for stage in STAGES:
        words = ["device=cuda", "precision=bf16", *SHRUNK, *(starts(run, "cpu") if stage == "ppo" else [])]
        run.stage(stage, "bf16", *words)
        run.stage(stage, "two", *words, ranks=2)
        compare(run.state("bf16", stage), run.state("two", stage), f"{stage} in bf16 on 2 emulated ranks")
    agree(run, "sft", 99, 5e-3, other="bf16")
    agree(run, "rm", 99, 8e-2, other="bf16", only=("loss", "held_out_loss", "grad_norm"))
    agree(run, "ppo", 99, 1e-2, other="bf16", only=PPO)
    for line in metrics(run, "bf16", "ppo"):
        drift, most = line["logprob_drift"], line["logprob_drift_max"]
        if not 1e-6 < drift <= most < 2**-8:
            sys.exit(f"ppo: log-probs have drifted by {drift}, at most {most}")
        print(f"ppo: log-probs have drifted by {drift:.1e}, at most {most:.1e}")

    run.stage("sft", "tf32", "device=cuda", "matmul=tf32", *SHRUNK)
    agree(run, "sft", 99, 1e-3, other="tf32")
    norms = [[line["grad_norm"] for line in metrics(run, output, "sft") if "grad_norm" in line] for output in ("cpu", "tf32")]
    if not all(abs(a - b) > 1e-6 * a for a, b in zip(*norms)):
        sys.exit(f"sft: with matmul: tf32, gradients are those of fp32: {norms}")
