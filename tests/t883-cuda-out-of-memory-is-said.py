#!/usr/bin/env python3
#TEST labels=cuda,mpi timeout=120 processors=2
"""t883 -- a GPU that refuses memory behind the plan's check (somebody else is on it, or the plan was wrong) ends the program on all ranks, with code 5, what the plan
was and what is unused."""

import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from emulated import EMULATED, need_emulated, use
from experiment import Experiment

WORDS = r"rank (\d): out of memory: arena (\w+) cannot grow from (\d+) to (\d+) bytes: cuda device (\d) gives no more: (\d+) of its (\d+) bytes are unused, this program's arenas hold (\d+), and the plan of all it takes is (\d+) bytes\n"
SHRUNK = ["device=cuda", "model.layers=1", "sft.steps=3", "sft.eval_every=0"]

need_emulated()
with Experiment() as run:
    for ranks, device in ((1, 0), (2, 1)):
        use(EMULATED, DEVICES=str(ranks), REFUSE=f"{device}:{100 << 20}")
        began = time.monotonic()
        done = run.stage("sft", f"refused{ranks}", *SHRUNK, ranks=ranks if ranks > 1 else 0, expect=(5,))
        took = time.monotonic() - began
        found = re.search(WORDS, done.stderr)
        if not found or int(found[1]) != device or int(found[5]) != device:
            sys.exit(f"{ranks} ranks: nobody said which device refused what:\n{done.stderr}")
        before, after, unused, total, held, plan = (int(found[i]) for i in (3, 4, 6, 7, 8, 9))
        if not (before < after and 0 < plan < unused < total == 8 << 30 and held == 96 << 20):
            sys.exit(f"these figures cannot be: {found[0]}")
        if took > 30:
            sys.exit(f"{ranks} ranks: the program left after {took:.0f} s")
        print(f"{ranks} ranks left after {took:.1f} s: {found[0].strip()}")
