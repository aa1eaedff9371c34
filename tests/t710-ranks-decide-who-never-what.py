#!/usr/bin/env python3
#TEST labels=mpi,stages timeout=400 processors=2
"""Each stage on 1, 2 and 4 ranks leaves the same bits: every checkpoint with all its state, every rollout, and the metrics. Training of models as small as
these does on 2 and 3 threads, too.

That the comparison can fail is shown first: another seed, and another number of lanes, must differ.
"""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, compare, need_program

need_program()
with Experiment() as run:
    for stage in ("sft", "rm", "ppo"):
        run.stage(stage, "one")
    other = run.stage("sft", "other", "seed=8")
    if run.state("one", "sft")["final.h5"] == run.state("other", "sft")["final.h5"]:
        sys.exit("another seed gave the same digest: the comparison sees nothing")
    run.stage("sft", "lanes", "lanes=8")
    if run.digest(run.folder / "one/sft/final.h5") == run.digest(run.folder / "lanes/sft/final.h5"):
        sys.exit("lanes=8 gave the digest of lanes=4: the comparison sees nothing")
    for ranks in (2, 4):
        output = f"ranks{ranks}"
        for stage in ("sft", "rm", "ppo"):
            run.stage(stage, output, ranks=ranks)
            compare(run.state("one", stage), run.state(output, stage), f"{stage} on {ranks} ranks")
            print(f"{stage}: {ranks} ranks leave the bits of one")
    for threads in (2, 3):
        output = f"threads{threads}"
        for stage in ("sft", "rm"):
            run.stage(stage, output, f"threads={threads}")
            compare(run.state("one", stage), run.state(output, stage), f"{stage} on {threads} threads")
            print(f"{stage}: {threads} threads leave the bits of one")
