"""experiment.py -- a small experiment of all three stages, for tests that run the program as a user would.

Data are made here by a fixed rule; the model is tiny, so a stage takes a second. Nothing is compared with a stored result: tests compare
runs with runs.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TERCET = os.environ.get("TERCET", "")
MPIRUN = shlex.split(os.environ.get("MPIRUN", ""))
SKIP = 77

YAML = """
output: {output}
seed: 7
threads: 1
lanes: 4
checkpoint_every: 2
keep_checkpoints: 100
log_every: 0

model: {{arch: llama, layers: 2, width: 32, heads: 4, kv_heads: 2, positions_max: 96}}

sft:
  tokenizer: {data}/tokenizer.json
  data: [{{path: {data}/sft.jsonl}}]
  eval_data: [{{path: {data}/sft.jsonl, limit: 16}}]
  batch: 16
  unit_tokens: 256
  steps: 5
  eval_every: 2
  optimizer: {{lr: 3e-3}}

rm:
  data: [{{path: {data}/ranked.jsonl}}]
  eval_data: [{{path: {data}/ranked.jsonl, limit: 8}}]
  batch: 8
  unit_tokens: 256
  steps: 4
  eval_every: 2
  optimizer: {{lr: 3e-3}}

ppo:
  prompts: [{{path: {data}/prompts.jsonl}}]
  rewards:
    - {{kind: model, name: learned, model: "${{output}}/rm/final.h5", weight: 1}}
    - {{kind: length, weight: 0}}
  iterations: 3
  batch: 16
  samples_per_prompt: 2
  unit_prompts: 2
  slots: 3
  max_new: 12
  epochs: 2
  minibatches: 2
  unit_tokens: 128
  kl_target: 4
  keep_rollouts: -1
  reward_normalise: running
  actor_optimizer: {{lr: 1e-3}}
  critic_optimizer: {{lr: 1e-3}}
"""


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make_data(folder):
    """Prompts about colours and things; the better answer is the longer one."""
    colours, things = ["red", "green", "blue", "grey", "pink"], ["fox", "mill", "boat", "lamp", "road", "hill", "bird"]
    prompts = [f"Tell of the {a} {b} and the {c} {d}." for a in colours for b in things for c in colours[:2] for d in things[:3]]
    prompts = [p for i, p in enumerate(prompts) if i % 3 == 0]
    answer = lambda p, n: " It is " + "very " * n + "far from " + " ".join(p.split()[3 : 5 + n])
    write_lines(folder / "sft.jsonl", [{"prompt": p, "response": answer(p, i % 4)} for i, p in enumerate(prompts)])
    write_lines(folder / "prompts.jsonl", [{"prompt": p, "answer": str(i)} for i, p in enumerate(prompts)])
    write_lines(
        folder / "ranked.jsonl",
        [{"prompt": p, "responses": [answer(p, k) for k in (0, 3, 1)], "ranks": [2, 0, 1]} for p in prompts],
    )


class Experiment:
    """A folder with data, tokenizer and experiment.yaml; run() starts the program on it."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tercet-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        make_data(self.data)
        self.call("tokenizer", "train", "--vocab", "300", "--out", self.data / "tokenizer.json", self.data / "sft.jsonl")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if not os.environ.get("TERCET_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def yaml(self, output):
        path = self.folder / (output + ".yaml")
        path.write_text(YAML.format(output=self.folder / output, data=self.data))
        return path

    def call(self, *words, ranks=0, expect=(0,), stdin=None, timeout=300, environment=None):
        command = (MPIRUN + [str(ranks)] if ranks else []) + [TERCET] + [str(w) for w in words]
        done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=timeout, env=environment and dict(os.environ, **environment))
        if expect is not None and done.returncode not in expect:
            sys.exit(f"{' '.join(command)}\nexit code {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}")
        return done

    def stage(self, stage, output, *overrides, ranks=0, expect=(0,), environment=None):
        return self.call(stage, self.yaml(output), *overrides, ranks=ranks, expect=expect, environment=environment)

    def kill_in_stage(self, stage, output, lines, *overrides, timeout=120):
        """`tercet run`, killed with SIGKILL when `stage` has so many lines of metrics."""
        metrics = self.folder / output / stage / "metrics.jsonl"
        child = subprocess.Popen([TERCET, "run", str(self.yaml(output)), *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + timeout
        while not (metrics.exists() and metrics.read_text().count("\n") >= lines):
            if child.poll() is not None or time.time() > deadline:
                sys.exit(f"{stage}: ended or stuck before it could be killed (exit code {child.poll()})")
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (self.folder / output / stage / "final.h5").exists():
            sys.exit(f"{stage} was complete before it was killed: the test interrupted nothing")

    def digest(self, path):
        return self.call("inspect", path, "--digest").stdout.strip()

    def state(self, output, stage):
        """Everything a stage leaves that must not depend on who computed: digests of all its files, and its metrics."""
        folder = self.folder / output / stage
        files = {str(p.relative_to(folder)): self.digest(p) for p in sorted(folder.rglob("*.h5")) if not p.name.startswith("interrupted-")}
        files["metrics.jsonl"] = (folder / "metrics.jsonl").read_text()
        return files


def compare(expected, found, what):
    """Exit unless two states are equal; says what differs first."""
    if set(expected) != set(found):
        sys.exit(f"{what}: files differ: only expected {sorted(set(expected) - set(found))}, only found {sorted(set(found) - set(expected))}")
    for name, value in expected.items():
        if value == found[name]:
            continue
        if name.endswith(".jsonl"):
            for a, b in zip(value.splitlines(), found[name].splitlines()):
                if a != b:
                    sys.exit(f"{what}: {name} differs\nexpected {a}\nfound    {b}")
        sys.exit(f"{what}: {name} differs: {value[:200]} and {found[name][:200]}")


def need_program():
    if not TERCET or not os.path.exists(TERCET):
        print("SKIP: the program is not built")
        sys.exit(SKIP)
