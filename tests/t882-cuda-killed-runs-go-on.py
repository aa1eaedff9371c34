#!/usr/bin/env python3
#TEST labels=cuda,mpi,slow timeout=1800 processors=2
"""t882 -- four emulated ranks with NCCL leave the bits of one, and so do two that are killed with SIGKILL in the middle of each stage and started again."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from emulated import EMULATED, need_emulated, use
from experiment import Experiment, compare

SHRUNK = ["device=cuda", "model.layers=1", "sft.steps=6", "rm.steps=6", "ppo.iterations=3", "ppo.epochs=1", "ppo.batch=8", "ppo.max_new=6", "checkpoint_every=1"]
STAGES = ("sft", "rm", "ppo")

need_emulated()
use(EMULATED, DEVICES="8", STREAMS="latest", ORDER="random:3")
with Experiment() as run:
    for stage in STAGES:
        run.stage(stage, "one", *SHRUNK)
        run.stage(stage, "four", *SHRUNK, ranks=4)
        compare(run.state("one", stage), run.state("four", stage), f"{stage} on 4 emulated ranks")
        print(f"{stage}: 4 emulated ranks leave the bits of one", flush=True)
    yaml = run.yaml("killed")
    for stage in STAGES:
        run.kill_in_stage(stage, "killed", 2, "ranks=2", *SHRUNK, timeout=600)
        print(f"{stage}: killed", flush=True)
    run.call("run", yaml, "ranks=2", *SHRUNK, timeout=900)
    for stage in STAGES:
        if run.digest(run.folder / "killed" / stage / "final.h5") != run.digest(run.folder / "one" / stage / "final.h5"):
            sys.exit(f"{stage}: killed and started again, it has other bits")
    print("killed three times, and the bits of an undisturbed run")
