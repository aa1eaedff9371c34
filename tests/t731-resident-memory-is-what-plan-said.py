#!/usr/bin/env python3
#TEST labels=stages timeout=300
"""t731 -- the most memory that a stage ever holds is what `tercet plan` said and the program's own size, within 5 %.

The program's own size is what the same stage holds on a model of next to nothing, less its plan; the size that counts is several hundred MB.
"""

import os
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import SKIP, TERCET, Experiment, need_program

COMMON = ["lanes=1", "checkpoint_every=1000", "sft.steps=3", "rm.steps=3", "ppo.iterations=2", "ppo.eos=ignore", "ppo.keep_rollouts=0"]
LARGE = ["model.width=512", "model.layers=8"]


def planned(run, yaml, overrides):
    """Bytes of each stage by name."""
    stage, sizes = "", {}
    for line in run.call("plan", yaml, *overrides).stdout.splitlines():
        begin = re.match(r"(\w+): bytes of one rank", line)
        stage = begin.group(1) if begin else stage
        most = re.match(r"  most at once, in .* (\d+)$", line)
        if most:
            sizes[stage] = int(most.group(1))
    return sizes


def resident(words):
    """The most bytes that a process held, by the system's count."""
    with subprocess.Popen([TERCET, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit code {process.returncode}\n{said}")
    return 1024 * usage.ru_maxrss


need_program()
if "-sanitize" in os.environ.get("BINARY_DIR", ""):
    print("SKIP: a sanitizer's own memory would be counted")
    sys.exit(SKIP)
failed = False
with Experiment() as run:
    small, large = run.yaml("small"), run.yaml("large")
    plans = planned(run, small, COMMON), planned(run, large, COMMON + LARGE)
    for stage in ("sft", "rm", "ppo"):
        own = resident([stage, small, *COMMON]) - plans[0][stage]
        found, expected = resident([stage, large, *COMMON, *LARGE]), plans[1][stage] + own
        print(f"{stage}: {found / 1e6:.1f} MB resident, {plans[1][stage] / 1e6:.1f} MB planned and {own / 1e6:.1f} MB the program: {found / expected - 1:+.1%}")
        failed = failed or not abs(found / expected - 1) <= 0.05
if failed:
    sys.exit("failed: more than 5 % off")
