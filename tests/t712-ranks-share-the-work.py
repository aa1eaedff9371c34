#!/usr/bin/env python3
#TEST labels=mpi,stages timeout=300 processors=2
"""Ranks share the arithmetic: on equal units each rank's count of operations is within 10 % of total / ranks, in every stage.

Computing everything on every rank would give equal bits too; this is what tells the two apart. Units are equal because every text has the
same length and every batch fills its units evenly. Where ranks, or threads, would wait for others, the program says so.
"""

import json
import re
import shutil
import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, need_program, write_lines


def flops(text):
    lines = re.findall(r"arithmetic by rank, FLOP:((?: [0-9.e+]+)+)", text)
    if len(lines) != 1:
        sys.exit(f"expected one line of operations by rank, found {len(lines)}:\n{text}")
    return [float(word) for word in lines[0].split()]


need_program()
with Experiment() as run:
    words = ["abcd", "bcda", "cdab", "dabc"]
    texts = [" ".join(words[(i >> k) % 4] for k in range(6)) for i in range(64)]
    write_lines(run.data / "sft.jsonl", [{"prompt": t, "response": " " + t} for t in texts])
    write_lines(run.data / "prompts.jsonl", [{"prompt": t} for t in texts])
    write_lines(run.data / "ranked.jsonl", [{"prompt": t, "responses": [" " + t, " " + t[::-1]], "ranks": [0, 1]} for t in texts])
    run.call("tokenizer", "train", "--vocab", "259", "--out", run.data / "tokenizer.json", run.data / "sft.jsonl")
    overrides = ["sft.eval_data=[]", "rm.eval_data=[]", "ppo.eos=ignore", "ppo.minibatches=1", "ppo.slots=4", "lanes=4", "sft.unit_tokens=1024", "rm.unit_tokens=1024"]
    for stage in ("sft", "rm", "ppo"):
        alone = flops(run.stage(stage, "one", *overrides).stderr)
        for ranks in (2, 4):
            said = run.stage(stage, f"r{ranks}", *overrides, ranks=ranks).stderr
            if "wait for others" in said:
                sys.exit(f"{stage}: {ranks} ranks are warned of waiting without a cause:\n{said}")
            shared = flops(said)
            share = alone[0] / ranks
            for rank, count in enumerate(shared):
                if not abs(count - share) <= 0.1 * share:
                    sys.exit(f"{stage}: rank {rank} of {ranks} did {count:.4g} FLOP; {share:.4g} is its share of {alone[0]:.4g}")
        print(f"{stage}: shared evenly by 2 and 4 ranks")
    shutil.rmtree(run.folder / "one" / "ppo")
    said = run.stage("ppo", "one", *overrides, "ppo.unit_prompts=64", ranks=2).stderr
    if "rollout: 1 unit for 2 ranks" not in said or "ppo.unit_prompts=4 " not in said:
        sys.exit(f"one unit for two ranks, and nobody says so:\n{said}")

    # Lanes of models as small as these are handed to threads whole.
    for threads, lanes, better in ((2, 4, None), (4, 4, None), (3, 4, 8), (4, 2, 4)):
        said = run.stage("sft", f"t{threads}-{lanes}", *overrides, f"lanes={lanes}", f"threads={threads}", "sft.steps=1").stderr
        if ("may leave some without" in said) != (better is not None) or (better and f"lanes={better} would not" not in said):
            sys.exit(f"{lanes} lanes for {threads} threads: lanes={better} should be proposed (None: nothing):\n{said}")
    shutil.rmtree(run.folder / "one" / "ppo")
    said = run.stage("ppo", "one", *overrides, "ppo.merge_first_pass=true").stderr
    if "ppo.merge_first_pass: nothing is kept" not in said:
        sys.exit(f"no passes of small models are kept, and nobody says so:\n{said}")
