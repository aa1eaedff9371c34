#!/usr/bin/env python3
#TEST labels=cuda timeout=60
"""t295 -- every CUDA kernel keeps kernels/cuda/BUDGET on sm_80 and sm_90: no spills, no stack, no more registers than listed. Skips without a toolkit."""
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
build = os.environ.get("BINARY_DIR") or str(HERE.parent / "build")
status = subprocess.run([sys.executable, "-B", str(HERE / "cuda_on_cpu/budget"), "--build", build]).returncode
required = "cuda" in os.environ.get("TERCET_REQUIRE", "").split(",")
sys.exit(1 if status == 77 and required else status)
