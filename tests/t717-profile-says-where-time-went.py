#!/usr/bin/env python3
#TEST labels=mpi,stages timeout=300 processors=2
"""`profile=true` prints where each stage's time went, on one rank and on two, writes a trace that a viewer loads, and changes no result."""

import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, compare, need_program

PHASES = {"sft": ["evaluate", "train", "save"], "rm": ["evaluate", "train", "save"], "ppo": ["rollout", "evaluate", "advantage", "update", "save"]}
MUST = {"train": ["gemm", "adamw", "attention_backward"], "rollout": ["gemm", "sample"], "update": ["gemm", "adamw", "policy_loss"], "advantage": ["gae"]}


def expect(condition, what):
    if not condition:
        sys.exit(f"failed: {what}")


def check_table(stage, text, ranks):
    expect("time by phase and op" in text, f"{stage}: a table\n{text}")
    for phase in PHASES[stage]:
        found = re.search(rf"^{phase}: ([0-9.]+) s\n((?:  .*\n)+)", text, re.M)
        expect(found, f"{stage}: phase {phase}\n{text}")
        rows = found[2].splitlines()
        host = [row for row in rows if "not in ops" in row]
        expect(len(host) == 1, f"{stage} {phase}: what was not in ops")
        expect(ranks == 1 or re.search(r"\d\.\d{3}-\d+\.\d{3}$", host[0]), f"{stage} {phase}: the spread over ranks in {host[0]!r}")
        seconds = sum(float(row[32:42]) for row in rows if not row.startswith(("  op", "  all")))
        expect(abs(seconds - float(found[1])) <= 0.002 + 0.0006 * len(rows), f"{stage} {phase}: rows add up to {seconds}, not {found[1]}")


def check_trace(stage, path):
    trace = json.loads(path.read_text())
    expect(trace["otherData"]["calls dropped"] == 0, f"{stage}: all of so short a run is in the trace")
    calls = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["cat"] != "phase"]
    phases = {event["name"] for event in trace["traceEvents"] if event.get("cat") == "phase"}
    expect(set(PHASES[stage]) <= phases, f"{stage}: phases {phases}")
    for phase in PHASES[stage]:
        names = {event["name"].split()[0] for event in calls if event["cat"] == phase}
        expect(set(MUST.get(phase, [])) <= names, f"{stage} {phase}: ops {names}")


need_program()
with Experiment() as run:
    for stage in PHASES:
        run.stage(stage, "plain")
        for ranks in (1, 2):
            output = f"profiled-{ranks}"
            done = run.stage(stage, output, "profile=true", ranks=0 if ranks == 1 else ranks)
            check_table(stage, done.stderr, ranks)
            check_trace(stage, run.folder / output / stage / "trace.json")
            compare(run.state("plain", stage), run.state(output, stage), f"{stage} profiled on {ranks} ranks")
    print("all stages: tables add up, traces load, results are the same")
