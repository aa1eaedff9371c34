#!/usr/bin/env python3
#TEST labels=mpi,stages timeout=600 processors=2
"""A run that is stopped at any unit boundary and started again leaves the bits of an undisturbed one.

Every boundary of a short run is tried (stop_after = 1, 2, 3, ... until the run ends by itself): after each step of SFT and reward model, and
in PPO after each rollout, each minibatch and each iteration. Every third restart goes on with two ranks.
"""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, compare, need_program

STOPPED = 8


def final_state(run, output, stage):
    state = run.state(output, stage)
    return {name: value for name, value in state.items() if not name.startswith("step-")} | {
        "last": sorted((name, value) for name, value in state.items() if name.startswith("step-"))[-1]
    }


need_program()
with Experiment() as run:
    for stage in ("sft", "rm", "ppo"):
        run.stage(stage, "straight")
        expected = final_state(run, "straight", stage)
        at = 0
        while True:
            at += 1
            output = f"{stage}{at}"
            for before in ("sft", "rm"):
                if before != stage and (run.folder / "straight" / before).exists() and not (run.folder / output / before).exists():
                    (run.folder / output).mkdir(exist_ok=True)
                    (run.folder / output / before).symlink_to(run.folder / "straight" / before)
            done = run.stage(stage, output, f"stop_after={at}", expect=(0, STOPPED))
            if done.returncode == 0:
                break
            run.stage(stage, output, ranks=2 if at % 3 == 0 else 0)
            compare(expected, final_state(run, output, stage), f"{stage} stopped at boundary {at}")
        if at < 4:
            sys.exit(f"{stage}: only {at - 1} boundaries: the run was not interrupted")
        print(f"{stage}: stopped at each of {at - 1} boundaries and resumed: the bits of a straight run")
