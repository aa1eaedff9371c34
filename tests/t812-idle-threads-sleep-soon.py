#!/usr/bin/env python3
#TEST labels=cpu timeout=60
"""t812 -- a program that computes starts with GOMP_SPINCOUNT=1000 unless the environment says how threads shall wait."""
import os
import re
import subprocess
import sys

PROGRAM = os.environ.get("TERCET")
if not PROGRAM:
    print("skipped: there is no program (TERCET)")
    sys.exit(77)
CLEAN = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}


def spin_counts(words, **environment):
    """What OpenMP says about itself each time that the program is loaded."""
    run = subprocess.run([PROGRAM, *words], env={**CLEAN, "OMP_DISPLAY_ENV": "verbose", **environment},
                         capture_output=True, text=True, timeout=30)
    return run.returncode, re.findall(r"GOMP_SPINCOUNT = '(\d+)'", run.stderr), run.stderr


def expect(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")


code, help_counts, _ = spin_counts(["help"])
expect(code == 0 and len(help_counts) == 1, f"help is loaded once: {help_counts}")
if not help_counts[0].isdigit():
    print("skipped: this OpenMP has no GOMP_SPINCOUNT")
    sys.exit(77)

code, counts, text = spin_counts(["sft", "there-is-no-such.yaml"])
expect(counts == [help_counts[0], "1000"], f"sft is loaded a second time, with 1000: {counts}")
expect(code != 0 and text.count("there-is-no-such.yaml") == 1, f"its words arrive, once:\n{text}")
for setting in ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "77"}):
    _, counts, _ = spin_counts(["sft", "there-is-no-such.yaml"], **setting)
    expect(len(counts) == 1, f"{setting} is left as it is: {counts}")
