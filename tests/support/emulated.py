"""emulated.py -- the program with CUDA's source compiled for this processor (cuda_on_cpu/README), and what its stages say beside the CPU's."""

import json
import os
import pathlib
import subprocess
import sys

import experiment

EMULATED = pathlib.Path(os.environ.get("BINARY_DIR", ".")) / "tests/tercet_cuda_on_cpu"
SHRUNK = ["model.layers=1", "sft.steps=3", "rm.steps=2", "ppo.iterations=2", "ppo.epochs=1", "ppo.batch=8", "ppo.max_new=6", "sft.eval_every=0", "rm.eval_every=0"]
CLOCKS = ("seconds", "time", "tokens_per")


def need_emulated():
    experiment.need_program()
    if not EMULATED.exists():
        print("SKIP: no emulated program: it needs g++ and the headers of the CUDA toolkit")
        sys.exit(experiment.SKIP)


def use(program, **environment):
    experiment.TERCET = str(program)
    for name, value in environment.items():
        os.environ["CUDA_ON_CPU_" + name] = value


def starts(run, output):
    """What makes PPO start from the models of `output`."""
    folder = run.folder / output
    return [f"ppo.policy={folder}/sft/final.h5", f"ppo.rewards=[{{kind: model, name: learned, model: {folder}/rm/final.h5, weight: 1}}, {{kind: length, weight: 0}}]"]


def metrics(run, output, stage):
    return [json.loads(line) for line in (run.folder / output / stage / "metrics.jsonl").read_text().splitlines()]


def agree(run, stage, lines, tolerance=1e-3, other="cuda", only=()):
    """Of so many first lines of metrics, every number, or those named, is that of the CPU's run."""
    worst = (0, "")
    for cpu, cuda in list(zip(metrics(run, "cpu", stage), metrics(run, other, stage)))[:lines]:
        if set(cpu) != set(cuda):
            sys.exit(f"{stage}: metrics have other names: {cpu} and {cuda}")
        for name, value in cpu.items():
            if not isinstance(value, (int, float)) or any(word in name for word in CLOCKS) or (only and name not in only):
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
