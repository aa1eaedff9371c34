"""program.py -- our side where a row is a whole run of the program: one verb with its words, from start to exit.

    program.py [memory_limit=BYTES] -- build/tercet rm EXPERIMENT.yaml key=value ...

Speaks the protocol of bench.c. Each round gets an output directory of its own, {out} in the words; "peak_bytes" is the largest of the rounds. With
memory_limit the program runs in a control group of so much memory, the system's cache of its files included (cgroup version 1 or 2, root).
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import peer


class Group:
    """A control group whose processes may use so much memory."""

    def __init__(self, limit):
        root = pathlib.Path("/sys/fs/cgroup")
        old = (root / "memory").is_dir()
        self.path = (root / "memory" if old else root) / f"tercet-bench-{os.getpid()}"
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))

    def join(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        self.path.rmdir()


def last_lines(path, count):
    lines = path.read_text(errors="replace").splitlines()
    return "\n".join(lines[-count:])


def run(words, folder, group):
    """Seconds and largest resident bytes of one run."""
    out = pathlib.Path(tempfile.mkdtemp(dir=folder))
    words = [word.replace("{out}", str(out / "run")) for word in words]
    with open(out / "log", "w") as log:
        since = time.perf_counter()
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=group.join if group else None)
        try:
            _, code, usage = os.wait4(child.pid, 0)
        except SystemExit:
            child.kill()
            child.wait()
            raise
        seconds = time.perf_counter() - since
    child.returncode = os.waitstatus_to_exitcode(code)
    if child.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {child.returncode}\n{last_lines(out / 'log', 5)}")
    shutil.rmtree(out)
    return seconds, 1024 * usage.ru_maxrss


def main():
    split = sys.argv.index("--")
    options = peer.options(sys.argv[1:split], memory_limit=0)
    words = sys.argv[split + 1 :]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    group = Group(options["memory_limit"]) if options["memory_limit"] else None
    peak = 0
    try:
        with tempfile.TemporaryDirectory(prefix="tercet-bench-") as folder:
            peer.tell(ready=True, setup_seconds=time.perf_counter() - peer.STARTED)
            while sys.stdin.readline().startswith("go"):
                seconds, resident = run(words, folder, group)
                peak = max(peak, resident)
                peer.tell(seconds=seconds)
    finally:
        if group:
            group.close()
    peer.tell(peak_bytes=peak)


if __name__ == "__main__":
    main()
