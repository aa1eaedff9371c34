#!/usr/bin/env python3
#TEST labels=mpi,stages timeout=600 processors=2
"""`tercet run` killed with SIGKILL in the middle of each stage and started again at once: the final digests of an undisturbed run, no rank left
over, no temporary file; a third start finds everything done."""

import os
import sys
import time
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, TERCET, compare, need_program


def processes(mark):
    """Processes of ours whose command line names this output."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def finals(run, output):
    return {s: run.digest(run.folder / output / s / "final.h5") for s in ("sft", "rm", "ppo")}


need_program()
LONG = ["ranks=2", "sft.steps=30", "sft.eval_every=0", "rm.steps=30", "rm.eval_every=0", "ppo.iterations=8", "keep_checkpoints=2", "checkpoint_every=3"]
with Experiment() as run:
    run.call("run", run.yaml("straight"), *LONG)
    expected = finals(run, "straight")
    yaml = run.yaml("killed")
    for stage in ("sft", "rm", "ppo"):
        run.kill_in_stage(stage, "killed", 5, *LONG)
    run.call("run", yaml, *LONG)
    found = finals(run, "killed")
    if found != expected:
        sys.exit(f"digests after three kills {found}, undisturbed {expected}")
    deadline = time.time() + 10
    while processes(str(yaml)) and time.time() < deadline:
        time.sleep(0.1)
    if processes(str(yaml)):
        sys.exit(f"processes left over: {processes(str(yaml))}")
    left = [str(p) for p in (run.folder / "killed").rglob("*.tmp")]
    if left:
        sys.exit(f"temporary files left over: {left}")
    done = run.call("run", yaml, *LONG)
    if "complete" not in done.stderr:
        sys.exit("a third start does not say that all is done:\n" + done.stderr)
