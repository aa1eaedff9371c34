#!/usr/bin/env python3
#TEST labels=cpu timeout=600
"""t870 -- instructions of each op in small SFT, reward-model and PPO stages on the AVX2 kernels, as callgrind counts them, stay under a bound
per byte or FLOP: a loop that is no longer vectorised, or runs twice, shows here on any machine, busy or not.

Callgrind knows AVX2 and not AVX-512, so it is AVX2 that the program finds under it. Calls, FLOPs and bytes are those that t719 prints.
Products are the library's, and most of their instructions here are its making of code, once.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Instructions per byte or per FLOP, a third above what gcc 12 makes of these shapes (rows of 64 floats). A vector has 32 bytes.
BOUNDS = {
    "gemm": ("FLOP", 0.25),
    "attention_forward": ("FLOP", 0.50),
    "attention_backward": ("FLOP", 0.49),
    "norm_forward": ("bytes", 0.37),
    "norm_backward": ("bytes", 0.54),
    "rope": ("bytes", 0.46),
    "act_forward": ("bytes", 0.40),
    "act_backward": ("bytes", 0.31),
    "logits_stats": ("bytes", 1.42),
    "logits_backward": ("bytes", 0.52),
    "sum_squares": ("bytes", 0.33),
    "adamw": ("bytes", 0.12),
    "embed_forward": ("bytes", 0.15),
    "embed_backward": ("bytes", 0.26),
    "gather_rows": ("bytes", 0.22),
    "scatter_rows": ("bytes", 0.19),
    "rank_loss": ("bytes", 36.0),  # groups of three answers
    "policy_loss": ("bytes", 10.2),
    "value_loss": ("bytes", 3.1),
    "sample": ("bytes", 0.51),
}
BINARY = pathlib.Path(os.environ.get("BINARY_DIR", "build"))
PROGRAM = BINARY / "tests" / "t719-steps-ask-for-what-the-shapes-ask"


def skip(why):
    if "valgrind" in os.environ.get("TERCET_REQUIRE", "").split(","):
        sys.exit(f"FAIL: {why}")
    print(f"SKIP: {why}")
    sys.exit(77)


for tool in ("valgrind", "callgrind_annotate"):
    if not shutil.which(tool):
        skip(f"no {tool}")
if os.uname().machine != "x86_64":
    skip("no AVX2 on this machine")
cache = (BINARY / "CMakeCache.txt").read_text()
if re.search(r"^TERCET_(ASAN|UBSAN|CHECKED):BOOL=(ON|1|TRUE)", cache, re.M | re.I):
    skip("a build with checks in its loops is no measure")
if not re.search(r"^CMAKE_BUILD_TYPE:\w+=(Release|RelWithDebInfo)", cache, re.M):
    skip("not an optimised build")

with tempfile.TemporaryDirectory(prefix="tercet-") as folder:
    counts = pathlib.Path(folder) / "callgrind.out"
    run = subprocess.run(
        ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=device_run", f"--callgrind-out-file={counts}", PROGRAM, "test_ppo_and*"],
        capture_output=True, text=True,
    )
    if run.returncode:
        sys.exit(f"the steps failed under valgrind:\n{run.stdout}\n{run.stderr}")
    table = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", counts], capture_output=True, text=True, check=True).stdout

instructions = {name: int(count.replace(",", "")) for count, name in re.findall(r"^ *([\d,]+) \(.*:cpu_(\w+)_avx2 \[", table, re.M)}
if not instructions:
    skip("this processor has no AVX2")
asked = {}  # from start to end, all stages
for name, flops, size in re.findall(r"^\w+ +(\w+) +in all +(\d+) FLOP +(\d+) bytes$", run.stdout, re.M):
    of = asked.setdefault(name, {"FLOP": 0.0, "bytes": 0.0})
    of["FLOP"] += float(flops)
    of["bytes"] += float(size)
failed = []
for name, (unit, bound) in BOUNDS.items():
    if name not in instructions or name not in asked:
        print(f"{name:20} is not asked for any more")
        continue
    each = instructions[name] / asked[name][unit]
    print(f"{name:20} {instructions[name]:12d} instructions, {each:6.3f} per {unit}, bound {bound:.2f}")
    if not each <= bound:
        failed.append(f"{name}: {each:.3f} instructions per {unit}, bound {bound}")
if len(asked) < 10:
    failed.append(f"t719 printed only {len(asked)} ops")
if failed:
    sys.exit("\n".join(failed))
