#!/usr/bin/env python3
#TEST labels=stages timeout=300 processors=2
"""With a learning rate of zero nothing moves: in every iteration the policy is its reference, all ratios are 1, and the final parameters are the
first ones. With steps it leaves the reference after the first update and not before. A constant reward is worth nothing: scores are 0.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, need_program


def iterations(run, output):
    lines = (run.folder / output / "ppo" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def expect(condition, what, found):
    if not condition:
        sys.exit(f"{what}: {found}")


need_program()
with Experiment() as run:
    run.stage("sft", "start")
    policy = run.folder / "start/sft/final.h5"
    run.stage("rm", "start")
    learned = [f"ppo.policy={policy}", f"ppo.rewards[0].model={run.folder}/start/rm/final.h5"]
    length = [f"ppo.policy={policy}", "ppo.rewards=[{kind: length}]"]

    run.stage("ppo", "still", *learned, "ppo.actor_optimizer.lr=0", "ppo.critic_optimizer.lr=0")
    found = iterations(run, "still")
    expect(len(found) == 3, "iterations", len(found))
    for line in found:
        for name, value in (("kl", 0), ("value", 0), ("clip_fraction", 0), ("approx_kl", 0), ("value_clip_fraction", 0)):
            expect(line[name] == value, f"lr 0: {name} of iteration {line['step']}", line[name])
        expect(abs(line["ratio"] - 1) < 1e-6, "lr 0: ratio", line["ratio"])  # the mean's weights are rounded
        expect(line["actor_grad_norm"] > 0, "a gradient", line["actor_grad_norm"])
    parameters = lambda path: run.call("inspect", path, "--digest=parameters").stdout.strip()
    expect(parameters(policy) == parameters(run.folder / "still/ppo/final.h5"), "parameters after steps of length 0", "changed")

    run.stage("ppo", "moving", *learned, "ppo.iterations=2")
    found = iterations(run, "moving")
    expect(found[0]["kl"] == 0 and found[1]["kl"] != 0, "KL before and after the first update", [line["kl"] for line in found])

    # Responses of one length: the reward is a constant, and normalised it is nothing.
    run.stage("ppo", "constant", *length, "ppo.eos=ignore", "ppo.kl_target=0", "ppo.kl_coefficient=0")
    for line in iterations(run, "constant"):
        expect(line["score"] == 0, f"a constant reward's score in iteration {line['step']}", line["score"])
    print("steps of no length move nothing, steps of some length move, a constant reward is worth nothing")
