#!/usr/bin/env python3
"""bench.py -- runs rows (rows.py) with our worker and the peer's in turn, and prints one table; see README. Started by `run`."""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from row import bench
from rows import ROWS

HERE = pathlib.Path(__file__).resolve().parent
ASLEEP_SECONDS = 0.3  # until the side that waits has stopped spinning


class WorkerFailed(Exception):
    pass


class Worker:
    """A process that has set up its work and does it on "go" (bench.c says how)."""

    def __init__(self, context, words, substitutions):
        self.words = [word.format(**substitutions) for word in words]
        environment = dict(os.environ, OMP_NUM_THREADS=str(context.threads), TMPDIR=str(context.scratch))
        self.process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=context.log, text=True,
                                        env=environment, cwd=context.scratch, start_new_session=True)
        self.ready = self.read()

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise WorkerFailed(f"{' '.join(self.words)} ended: exit code {self.process.wait()}")

    def say(self, word):
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # read() tells

    def go(self):
        time.sleep(ASLEEP_SECONDS)
        self.say("go")
        return self.read()

    def end(self):
        """Its peak memory in bytes."""
        self.say("end")
        peak = self.read()["peak_bytes"]
        self.process.wait()
        return peak

    def kill(self):
        """Ends it and what it started, if it has not ended by itself."""
        if self.process.poll() is not None:
            return
        for ending in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(self.process.pid, ending)
            try:
                self.process.wait(timeout=5)
                return
            except subprocess.TimeoutExpired:
                pass
        self.process.wait()


class Context:
    """Where things are, and what all rows share."""

    def __init__(self, options, scratch, log):
        self.threads, self.alone = options.threads, options.alone
        self.bench, self.python = str(pathlib.Path(options.bench).resolve()), options.python
        self.data = pathlib.Path(os.environ["TERCET_DATA"]) if os.environ.get("TERCET_DATA") else None
        self.scratch, self.log = scratch, log
        self.words = dict(bench=self.bench, python=self.python, here=HERE, threads=self.threads, scratch=self.scratch, data=self.data,
                          mpirun=os.environ.get("MPIRUN", "mpirun"), source=HERE.parent.parent)

    def substitutions(self, row):
        return {**self.words, **(row.prepare(self) if row.prepare else {})}


def run_row(context, row, machine, rounds):
    """Workers of both sides, one round of each in turn. Returns what goes into the JSON line."""
    words = context.substitutions(row)
    sides = {"ours": row.ours} if context.alone or not row.peer else {"ours": row.ours, "peer": row.peer}
    rounds = row.rounds or rounds
    workers, samples, result = {}, {side: [] for side in sides}, {"row": row.name}
    machine_samples = []
    try:
        for side, command in sides.items():
            workers[side] = Worker(context, command, words)
        if rounds > 1:
            for worker in workers.values():
                worker.go()
        for _ in range(rounds):
            for side, worker in workers.items():
                samples[side].append(worker.go())
            if row.limit:
                machine_samples.append(machine.go())
        for side, worker in workers.items():
            result[side] = dict(command=worker.words, ready=worker.ready, rounds=samples[side], peak_bytes=worker.end())
    finally:
        for worker in workers.values():
            worker.kill()
    result["machine"] = machine_samples
    return result


def middle(values):
    return statistics.median(values)


GROWTH_TOLERANCE = 1.15


def judge_growth(line, time, memory):
    """Has the work grown as arithmetic says? time, memory: ours over the peer's, which is ours too, with less to do; None is not judged."""
    line["ratio"] = line["peer"] / line["median"]
    line["aim"] = 1 / time if time else None
    line["grown"] = []
    for what, found, said in (("time", 1 / line["ratio"], time), ("memory", line["memory"], memory)):
        if said:
            line["grown"].append(f"{what} x {found:.2f}, by arithmetic x {said:.2f}")
            if not said / GROWTH_TOLERANCE <= found <= said * GROWTH_TOLERANCE:
                line["misses"].append(line["grown"][-1])


def judge(row, result):
    """The line of the table: numbers, and aims that were missed."""
    ours = [figures["seconds"] for figures in result["ours"]["rounds"]]
    last = result["ours"]["rounds"][-1]
    line = dict(row=row, min=min(ours), median=middle(ours), max=max(ours), peak=result["ours"]["peak_bytes"], misses=[], last=last)
    if row.limit:
        limits = [row.limit(machine, figures) for machine, figures in zip(result["machine"], result["ours"]["rounds"])]
        line["limit"] = middle(limits)
        line["share"] = middle([limit / seconds for limit, seconds in zip(limits, ours)])
        if row.share and not line["share"] >= row.share:
            line["misses"].append(f"share {line['share']:.2f}, aim {row.share:g}")
    if row.seconds is not None:
        aim = row.seconds(last) if callable(row.seconds) else row.seconds
        if not line["median"] <= aim:
            line["misses"].append(f"{span(line['median'])}, aim {span(aim)}")
    if "peer" in result:
        peer_last = result["peer"]["rounds"][-1]
        peer = middle([figures["seconds"] for figures in result["peer"]["rounds"]])
        line.update(peer=peer, peer_peak=result["peer"]["peak_bytes"], peer_last=peer_last, ready=result["peer"]["ready"])
        line["ratio"] = peer / line["median"]
        if "tokens" in last and "tokens" in peer_last:
            line["ratio"] *= last["tokens"] / peer_last["tokens"]
        line["aim"] = row.ratio(last, peer_last) if callable(row.ratio) else row.ratio
        line["memory"] = line["peak"] / line["peer_peak"]
        if row.growth:
            judge_growth(line, *row.growth(result["machine"][-1], last, dict(peer_last, peak_bytes=line["peer_peak"])))
        elif line["aim"] and not line["ratio"] >= line["aim"]:
            line["misses"].append(f"ratio {line['ratio']:.2f}, aim {line['aim']:.2f}")
        if row.memory and not line["memory"] <= row.memory:
            line["misses"].append(f"memory {line['memory']:.2f}, aim {row.memory:g}")
    return line


def span(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def size(count):
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def speed(line):
    return f"{line['last']['tokens'] / line['median']:,.0f} tok/s" if "tokens" in line["last"] else ""


HEADINGS = ["work", "ours: min / median / max", "", "peer", "median", "ratio", "aim", "limit", "share", "memory", "of the peer's", "missed"]


def cells(line):
    row, has = line["row"], lambda key: line.get(key) is not None
    peer = row.against
    if "compile_seconds" in line.get("ready", {}):
        peer += f" (after {line['ready']['compile_seconds']:.0f} s of compiling)"
    return [
        row.what,
        " / ".join(span(line[key]) for key in ("min", "median", "max")),
        speed(line),
        peer if has("peer") else "",
        span(line["peer"]) if has("peer") else "",
        f"{line['ratio']:.2f}" if has("ratio") else "",
        f"{line['aim']:.2f}" if has("aim") else "",
        span(line["limit"]) if has("limit") else "",
        (f"{line['share']:.2f}" + (f" (aim {row.share:g})" if row.share else "")) if has("share") else "",
        size(line["peak"]) + (f" / {size(line['peer_peak'])}" if has("peer_peak") else ""),
        (f"{line['memory']:.2f}" + (f" (aim {row.memory:g})" if row.memory else "")) if has("memory") else "",
        "; ".join(line["misses"] or ["as it should: " + "; ".join(line["grown"])] if line.get("grown") else line["misses"]),
    ]


def text_table(lines):
    table = [HEADINGS] + [cells(line) for line in lines]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    shown = [column for column, width in enumerate(widths) if any(row[column] for row in table[1:])]
    return "\n".join("  ".join(row[column].ljust(widths[column]) for column in shown).rstrip() for row in table)


def markdown_table(lines):
    rows = [HEADINGS, ["---"] * len(HEADINGS)] + [cells(line) for line in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine_line(machine, threads):
    with open("/proc/cpuinfo") as file:
        name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown processor")
    return (f"{name}, {threads} threads, {datetime.date.today()}: {machine['gemm_flops'] / 1e9:.0f} GFLOP/s in a product, {machine['read_bytes'] / 1e9:.0f} GB/s "
            f"read, {machine['stream_bytes'] / 1e9:.0f} GB/s in a stream of 4 reads and 3 writes")


def chosen(names):
    """Rows by name, or by the beginning of names."""
    for name in names:
        if not any(row.name == name or row.name.startswith(name + "-") for row in ROWS):
            sys.exit(f"bench: no row '{name}'; --list names them")
    return [row for row in ROWS if not names or any(row.name == name or row.name.startswith(name + "-") for name in names)]


def arguments():
    parser = argparse.ArgumentParser(description="Tercet beside its peers: the same work in turn, one table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows, or the beginning of their names; all without")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--alone", action="store_true", help="without peers: ours against the machine's limit")
    parser.add_argument("--rounds", type=int, default=3, help="of each side, after one to warm up (3)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side (as many as there are cores)")
    parser.add_argument("--bench", default="build/tests/bench", help="our worker")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--out", default="build/bench.jsonl", help="JSON lines, one per row, appended (build/bench.jsonl)")
    parser.add_argument("--from", dest="read", metavar="FILE", help="measure nothing: the table of these JSON lines, the last of each row")
    parser.add_argument("--markdown", action="store_true", help="the table for a README")
    return parser.parse_args()


def measure(options, rows):
    """Yields each row with what was measured, and writes it down."""
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="tercet-bench-"))
    log_path = pathlib.Path(options.out).with_suffix(".log")
    machine = None
    try:
        with open(log_path, "w") as log, open(options.out, "a") as out:
            context = Context(options, scratch, log)
            machine = Worker(context, bench("machine"), context.words)
            machine.go()
            for row in rows:
                if row.needs_data and not context.data:
                    print(f"{row.name}: left out: TERCET_DATA does not say where the data are", file=sys.stderr)
                    continue
                try:
                    result = run_row(context, row, machine, options.rounds)
                except WorkerFailed as failure:
                    print(f"{row.name}: {failure}; {log_path} has what it said", file=sys.stderr)
                    continue
                if not result["machine"]:
                    result["machine"] = [machine.go()]
                out.write(json.dumps(result) + "\n")
                out.flush()
                yield row, result
            machine.end()
    finally:
        if machine:
            machine.kill()
        shutil.rmtree(scratch, ignore_errors=True)


def remembered(path, rows):
    with open(path) as file:
        last = {result["row"]: result for result in map(json.loads, file)}
    return ((row, last[row.name]) for row in rows if row.name in last)


def main():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # workers and scratch go away on the way out
    options = arguments()
    rows = chosen(options.names)
    if options.list:
        for row in rows:
            print(f"{row.name:28} {row.what}{', against ' + row.against if row.against else ''}")
        return 0
    lines, machines = [], []
    for row, result in remembered(options.read, rows) if options.read else measure(options, rows):
        lines.append(judge(row, result))
        machines += result["machine"]
        if not options.read:
            print(f"{row.name}: {'; '.join(lines[-1]['misses']) or 'done'}", file=sys.stderr)
    if not lines:
        return 1
    typical = {key: middle([machine[key] for machine in machines]) for key in machines[0]}
    print(machine_line(typical, options.threads) + "\n")
    print(markdown_table(lines) if options.markdown else text_table(lines))
    missed = sum(bool(line["misses"]) for line in lines)
    print(f"\n{missed} of {len(lines)} rows miss an aim" if missed else "\nno row misses its aim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
