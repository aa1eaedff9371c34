#!/usr/bin/env python3
#TEST labels=cuda,mpi timeout=240 processors=2
"""t881 -- a peer that fails or falls silent inside a collective ends the program on all ranks within half a minute, with the reason, even where giving up blocks."""

import concurrent.futures
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from emulated import EMULATED, need_emulated, use
from experiment import Experiment

FAULTS = [ # those that wait longest together
    [("error:0:3,stuck", "remote process exited"), ("silent:0:3,stuck", "nothing on it has ended")],
    [("error:1:2", "remote process exited")],
    [("silent:1:2", "nothing on it has ended")],
]


def lose(run, fault, reason):
    """None, or what is wrong."""
    began = time.monotonic()
    done = run.stage("sft", fault.replace(":", "-").replace(",", "-"), "device=cuda", "model.layers=1", "sft.steps=3", "sft.eval_every=0", ranks=2, expect=None,
                     environment={"CUDA_ON_CPU_NCCL_FAULT": fault})
    took = time.monotonic() - began
    if done.returncode == 0 or "the device is lost" not in done.stderr or reason not in done.stderr:
        return f"{fault}: exit code {done.returncode}, and nobody said '{reason}':\n{done.stderr}"
    if took > 60:
        return f"{fault}: the program left after {took:.0f} s"
    print(f"{fault}: left after {took:.1f} s, start and first steps included")
    return None


need_emulated()
use(EMULATED, DEVICES="2", STREAMS="latest", PATIENCE="200")
os.environ["TERCET_DEVICE_TIMEOUT"] = "3"
with Experiment() as run, concurrent.futures.ThreadPoolExecutor() as pool:
    for together in FAULTS:
        wrong = list(filter(None, pool.map(lambda case: lose(run, *case), together)))
        if wrong:
            sys.exit("\n".join(wrong))
