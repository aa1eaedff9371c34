#!/usr/bin/env python3
#TEST labels=mpi,stages timeout=240 processors=2
"""t725 -- reduce: fast. Any number of ranks up to `lanes`; near the exact run; the same bits when it is done again on as many ranks, and refused on others; never mixed
with what an exact run left."""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, compare, need_program

STOPPED = 8


def losses(run, output, stage):
    lines = [json.loads(line) for line in (run.folder / output / stage / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def expect_words(done, words, what):
    if words not in done.stderr:
        sys.exit(f"{what}: nobody said '{words}':\n{done.stderr}")


need_program()
with Experiment() as run:
    run.stage("sft", "exact")
    for output in ("fast", "again"):
        for stage in ("sft", "rm", "ppo"):
            run.stage(stage, output, "reduce=fast", ranks=3)
    for stage in ("sft", "rm", "ppo"):
        compare(run.state("fast", stage), run.state("again", stage), f"{stage} on 3 ranks, done again")
    worst = max(abs(a - b) / a for a, b in zip(losses(run, "exact", "sft"), losses(run, "fast", "sft"), strict=True))
    if not worst <= 1e-4:
        sys.exit(f"the losses of a fast run are off by {worst:.2e}")
    print(f"3 ranks repeat themselves; losses within {worst:.1e} of the exact run's")

    expect_words(run.stage("sft", "three", ranks=3, expect=(2,)), "expected a power of two of at most 4 (lanes), found 3", "an exact run on 3 ranks")
    expect_words(run.stage("sft", "eight", "reduce=fast", "lanes=2", ranks=3, expect=(2,)), "expected at most 2 (lanes), found 3", "more ranks than lanes")
    run.stage("sft", "mixed", "stop_after=2", expect=(STOPPED,))
    expect_words(run.stage("sft", "mixed", "reduce=fast", expect=(2,)), "other semantic keys", "an exact run that goes on fast")
    run.stage("sft", "moved", "reduce=fast", "stop_after=2", ranks=2, expect=(STOPPED,))
    expect_words(run.stage("sft", "moved", "reduce=fast", ranks=3, expect=(2,)), "bits would differ", "a fast run that goes on on other ranks")
    run.stage("sft", "moved", "reduce=fast", "exact=false", ranks=3)
    print("what would mix sums is refused, with the reason")
