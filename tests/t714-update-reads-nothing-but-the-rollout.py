#!/usr/bin/env python3
#TEST labels=stages timeout=120
"""One iteration from a rollout file ends with the digest of the run that wrote the file; a damaged file is refused."""

import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, compare, need_program

need_program()
with Experiment() as run:
    for stage in ("sft", "rm"):
        run.stage(stage, "whole")
    run.stage("ppo", "whole", "ppo.iterations=1")
    rollout = run.folder / "whole/ppo/rollouts/iteration-00000001.h5"
    (run.folder / "file").mkdir()
    for stage in ("sft", "rm"):
        (run.folder / "file" / stage).symlink_to(run.folder / "whole" / stage)
    done = run.stage("ppo", "file", "ppo.iterations=1", f"ppo.rollout={rollout}")
    if "not 1" in done.stderr:
        sys.exit("the program's own rollout was taken for a stranger's:\n" + done.stderr)
    for name in ("final.h5", "step-00000001.h5", "rollouts/iteration-00000001.h5"):
        if run.digest(run.folder / "whole/ppo" / name) != run.digest(run.folder / "file/ppo" / name):
            sys.exit(f"{name}: the update from the file has another digest")
    damaged = run.folder / "damaged.h5"
    data = bytearray(rollout.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    done = run.stage("ppo", "bad", f"ppo.policy={run.folder}/whole/sft/final.h5", f"ppo.rewards[0].model={run.folder}/whole/rm/final.h5",
                     f"ppo.rollout={damaged}", expect=(3,))
    if "damaged.h5" not in done.stderr:
        sys.exit("the error does not name the file:\n" + done.stderr)
    if list((run.folder / "bad/ppo").glob("*.h5")):
        sys.exit("a refused rollout left files behind")
