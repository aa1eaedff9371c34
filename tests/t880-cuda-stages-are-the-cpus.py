#!/usr/bin/env python3
#TEST labels=cuda,mpi timeout=600 processors=2
"""t880 -- the three stages on emulated GPUs: what the CPU's say, whoever computes, and from wherever they go on.

The program is the one a user runs, with CUDA's source compiled for this processor (cuda_on_cpu/README), threads and blocks in random order, streams at the latest
moment. Metrics of SFT and reward model agree with the CPU's within 1e-3 relative; PPO's first iteration starts from the CPU's own models, and samples its very tokens.
Two ranks, which talk by NCCL, leave the bits of one, or with reduce=fast nearly, and the same again; so does a run that was stopped and went on, which on another kind of device it refuses.
"""

import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
import experiment
from experiment import SKIP, Experiment, compare, need_program

SHRUNK = ["model.layers=1", "sft.steps=3", "rm.steps=2", "ppo.iterations=2", "ppo.epochs=1", "ppo.batch=8", "ppo.max_new=6", "sft.eval_every=0", "rm.eval_every=0"]
STARTS = ["ppo.policy={0}/sft/final.h5", "ppo.rewards=[{{kind: model, name: learned, model: {0}/rm/final.h5, weight: 1}}, {{kind: length, weight: 0}}]"]
EMULATED = pathlib.Path(os.environ.get("BINARY_DIR", ".")) / "tests/tercet_cuda_on_cpu"
CLOCKS = ("seconds", "time", "tokens_per")


def use(program, **environment):
    experiment.TERCET = str(program)
    for name, value in environment.items():
        os.environ["CUDA_ON_CPU_" + name] = value


def metrics(run, output, stage):
    return [json.loads(line) for line in (run.folder / output / stage / "metrics.jsonl").read_text().splitlines()]


def agree(run, stage, lines, tolerance=1e-3, other="cuda"):
    """Of so many first lines of metrics, every number."""
    worst = (0, "")
    for cpu, cuda in list(zip(metrics(run, "cpu", stage), metrics(run, other, stage)))[:lines]:
        if set(cpu) != set(cuda):
            sys.exit(f"{stage}: metrics have other names: {cpu} and {cuda}")
        for name, value in cpu.items():
            if not isinstance(value, (int, float)) or any(word in name for word in CLOCKS):
                continue
            off = abs(value - cuda[name])
            # What is a difference of larger numbers, such as KL at the first step, has their error.
            if not off <= tolerance * abs(value) + 1e-5:
                sys.exit(f"{stage}: {name} is {value} on the CPU and {cuda[name]} on the emulated GPU\n{cpu}\n{cuda}")
            worst = max(worst, (off / (abs(value) + 1e-5), name))
    print(f"{stage}: metrics agree, at worst to {worst[0]:.1e} ({worst[1]})")


def tokens(run, output):
    path = sorted((run.folder / output / "ppo/rollouts").glob("*.h5"))[0]
    return subprocess.run(["h5dump", "-y", "-d", "/token", path], capture_output=True, text=True, check=True).stdout.split("\n", 1)[1]


need_program()
if not EMULATED.exists():
    print("SKIP: no emulated program: it needs g++ and the headers of the CUDA toolkit")
    sys.exit(SKIP)
with Experiment() as run:
    cpu_program, starts = experiment.TERCET, [word.format(run.folder / "cpu") for word in STARTS]
    for stage in ("sft", "rm", "ppo"):
        run.stage(stage, "cpu", "device=cpu", *SHRUNK)
    use(EMULATED, ORDER="random:1", STREAMS="latest", DEVICES="8")
    for stage in ("sft", "rm", "ppo"):
        said = run.stage(stage, "cuda", *SHRUNK, *(starts if stage == "ppo" else [])).stderr
        if "device: auto is cuda" not in said:
            sys.exit(f"{stage}: `auto` took no emulated GPU:\n{said}")
        agree(run, stage, 99 if stage != "ppo" else 1)
    if tokens(run, "cpu") != tokens(run, "cuda"):
        sys.exit("ppo: other tokens were sampled than on the CPU")

    use(EMULATED, ORDER="random:2")
    for stage in ("sft", "rm", "ppo"):
        said = run.stage(stage, "two", "device=cuda", *SHRUNK, *(starts if stage == "ppo" else []), ranks=2).stderr
        if "between GPUs: NCCL" not in said:
            sys.exit(f"{stage}: two ranks did not talk by NCCL:\n{said}")
        compare(run.state("cuda", stage), run.state("two", stage), f"{stage} on 2 emulated ranks")
        print(f"{stage}: 2 emulated ranks leave the bits of one")

    for output in ("fast", "again"):
        run.stage("sft", output, "device=cuda", "reduce=fast", *SHRUNK, ranks=2)
    compare(run.state("fast", "sft"), run.state("again", "sft"), "sft on 2 emulated ranks, summed fast")
    agree(run, "sft", 99, other="fast")

    run.stage("sft", "stopped", "device=cuda", "checkpoint_every=1", "stop_after=2", *SHRUNK, expect=(8,))
    use(cpu_program)
    refused = run.stage("sft", "stopped", "device=cpu", "checkpoint_every=1", *SHRUNK, expect=(2,)).stderr
    if "bits would differ" not in refused:
        sys.exit(f"the CPU went on from a GPU's checkpoint:\n{refused}")
    use(EMULATED, ORDER="reverse")
    run.stage("sft", "stopped", "device=cuda", "checkpoint_every=1", *SHRUNK)
    if run.digest(run.folder / "stopped/sft/final.h5") != run.digest(run.folder / "cuda/sft/final.h5"):
        sys.exit("a run that was stopped and went on has other bits")
    print("a run that was stopped on the GPU is refused on the CPU, and goes on to the same bits")

    use(EMULATED, DEVICES="1")
    shared = run.stage("sft", "shared", "device=cuda", *SHRUNK, ranks=2, expect=(2,)).stderr
    if "ranks 0 and 1 are on one GPU" not in shared:
        sys.exit(f"two ranks shared a GPU:\n{shared}")
    use(EMULATED, MEMORY=str((32 << 20) + (1 << 19)))
    small = run.stage("sft", "small", "device=cuda", *SHRUNK, expect=None)
    if small.returncode == 0 or "memory" not in small.stderr:
        sys.exit(f"32.5 MiB were enough, or nobody said why not:\n{small.stderr}")
    print(small.stderr.strip().splitlines()[-1])
