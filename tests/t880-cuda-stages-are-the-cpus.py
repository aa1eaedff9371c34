#!/usr/bin/env python3
#TEST labels=cuda,mpi timeout=600 processors=2
"""t880 -- the three stages on emulated GPUs: what the CPU's say, whoever computes, and from wherever they go on.

The program is the one a user runs, with CUDA's source compiled for this processor (cuda_on_cpu/README), threads and blocks in random order, streams at the latest
moment. Metrics of SFT and reward model agree with the CPU's within 1e-3 relative; PPO's first iteration starts from the CPU's own models, and samples its very tokens.
Two ranks, which talk by NCCL, leave the bits of one, or with reduce=fast nearly, and the same again; so does a run that was stopped and went on, which on another kind of device it refuses.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
import experiment
from emulated import EMULATED, SHRUNK, agree, need_emulated, starts, tokens, use
from experiment import Experiment, compare

need_emulated()
with Experiment() as run:
    cpu_program = experiment.TERCET
    for stage in ("sft", "rm", "ppo"):
        run.stage(stage, "cpu", "device=cpu", *SHRUNK)
    use(EMULATED, ORDER="random:1", STREAMS="latest", DEVICES="8")
    for stage in ("sft", "rm", "ppo"):
        said = run.stage(stage, "cuda", *SHRUNK, *(starts(run, "cpu") if stage == "ppo" else [])).stderr
        if "device: auto is cuda" not in said:
            sys.exit(f"{stage}: `auto` took no emulated GPU:\n{said}")
        agree(run, stage, 99 if stage != "ppo" else 1)
    if tokens(run, "cpu") != tokens(run, "cuda"):
        sys.exit("ppo: other tokens were sampled than on the CPU")

    use(EMULATED, ORDER="random:2")
    for stage in ("sft", "rm", "ppo"):
        said = run.stage(stage, "two", "device=cuda", *SHRUNK, *(starts(run, "cpu") if stage == "ppo" else []), ranks=2).stderr
        if "between GPUs: NCCL" not in said:
            sys.exit(f"{stage}: two ranks did not talk by NCCL:\n{said}")
        compare(run.state("cuda", stage), run.state("two", stage), f"{stage} on 2 emulated ranks")
        print(f"{stage}: 2 emulated ranks leave the bits of one")

    for output in ("fast", "again"):
        run.stage("sft", output, "device=cuda", "reduce=fast", *SHRUNK, ranks=2)
    compare(run.state("fast", "sft"), run.state("again", "sft"), "sft on 2 emulated ranks, summed fast")
    agree(run, "sft", 99, other="fast")

    run.stage("sft", "stopped", "device=cuda", "checkpoint_every=1", "stop_after=2", *SHRUNK, expect=(8,))
    use(cpu_program)
    refused = run.stage("sft", "stopped", "device=cpu", "checkpoint_every=1", *SHRUNK, expect=(2,)).stderr
    if "bits would differ" not in refused:
        sys.exit(f"the CPU went on from a GPU's checkpoint:\n{refused}")
    use(EMULATED, ORDER="reverse")
    run.stage("sft", "stopped", "device=cuda", "checkpoint_every=1", *SHRUNK)
    if run.digest(run.folder / "stopped/sft/final.h5") != run.digest(run.folder / "cuda/sft/final.h5"):
        sys.exit("a run that was stopped and went on has other bits")
    print("a run that was stopped on the GPU is refused on the CPU, and goes on to the same bits")

    use(EMULATED, DEVICES="1")
    shared = run.stage("sft", "shared", "device=cuda", *SHRUNK, ranks=2, expect=(2,)).stderr
    if "ranks 0 and 1 are on one GPU" not in shared:
        sys.exit(f"two ranks shared a GPU:\n{shared}")
    use(EMULATED, MEMORY=str((32 << 20) + (1 << 19)))
    small = run.stage("sft", "small", "device=cuda", *SHRUNK, expect=None)
    if small.returncode == 0 or "memory" not in small.stderr:
        sys.exit(f"32.5 MiB were enough, or nobody said why not:\n{small.stderr}")
    print(small.stderr.strip().splitlines()[-1])
