#!/usr/bin/env python3
#TEST labels=cuda timeout=120
"""t850 -- launch/gpu-check says why it cannot check (no driver, no GPU, no nvcc), touching nothing; on the emulated device it writes its report."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("BINARY_DIR") or ROOT / "build")


def run(folder, tools, *words):
    """gpu-check with a PATH of the system's plain tools and `tools`: name -> shell text."""
    programs = folder / "bin"
    shutil.rmtree(programs, ignore_errors=True)
    programs.mkdir()
    for name in ("bash", "sh", "sed", "grep", "head", "dirname", "mktemp", "rm", "cat"):
        os.symlink(shutil.which(name), programs / name)
    for name, text in tools.items():
        (programs / name).write_text("#!/bin/sh\n" + text + "\n")
        (programs / name).chmod(0o755)
    environment = {"PATH": str(programs), "CUDA_HOME": str(folder / "none"), "HOME": str(folder), "TMPDIR": str(folder)}
    return subprocess.run([str(ROOT / "launch/gpu-check"), *words], env=environment, capture_output=True, text=True)


def refuses(folder, tools, words):
    report = folder / "report.txt"
    done = run(folder, tools, "--report", str(report))
    if done.returncode != 2 or words not in done.stderr or report.exists() or len(done.stderr.splitlines()) != 1:
        sys.exit(f"FAIL: expected status 2 and '{words}', found {done.returncode}: {done.stderr}")


def reports(folder):
    report = folder / "report.txt"
    done = subprocess.run([str(ROOT / "launch/gpu-check"), "--emulated", "--build", str(BUILD), "--report", str(report), "--only", "machine,bench"],
                          env={**os.environ, "OMP_WAIT_POLICY": "passive", "TMPDIR": str(folder)}, capture_output=True, text=True)
    text = report.read_text() if report.exists() else ""
    wanted = ("gpu-check: all passed", "emulated", "commit: ", "norm_backward", "attention_forward", "adamw", "tokens_per_second", "TFLOP/s of a rank")
    missing = [w for w in wanted if w not in text]
    if done.returncode or missing:
        sys.exit(f"FAIL: status {done.returncode}, the report lacks {missing}\n{done.stderr[-3000:]}\n{text[-3000:]}")


def main():
    with tempfile.TemporaryDirectory(prefix="tercet-test-") as name:
        folder = pathlib.Path(name)
        refuses(folder, {}, "there is no NVIDIA driver here")
        refuses(folder, {"nvidia-smi": "echo 'No devices were found'; exit 6"}, "sees no GPU: No devices were found")
        refuses(folder, {"nvidia-smi": "echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)'"}, "no nvcc to build for it")
        if not (BUILD / "tests/bench_cuda_on_cpu").exists():
            print("SKIPPED: the report: this build has no emulated program (no CUDA headers, or no C++ compiler)")
            sys.exit(77)
        reports(folder)
        print("refused thrice, reported once")


if __name__ == "__main__":
    main()
