#!/usr/bin/env python3
"""t279 -- every planted defect of tests/cuda_on_cpu/mutations still finds its place; whether tests find it is the label `mutation`'s business."""
import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile

MUTATE = pathlib.Path(__file__).resolve().parent / "cuda_on_cpu/mutate"


def main():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("mutate", str(MUTATE))
    mutate = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutate", loader))
    loader.exec_module(mutate)
    with tempfile.TemporaryDirectory(prefix="tercet-lint-") as folder:
        root = pathlib.Path(folder)
        (root / "a.cu").write_text("x = 1;\ny = 1;\n")
        (root / "a.txt").write_text("# a list\n\n@ a.cu t283: one\n- x = 1\n+ x = 2\n@ a.cu t283|t285: two\n-  = 1\n+  = 2\n"
                                    "@ a.cu t283: none\n- z\n+ 0\n@ a.cu t283: taken away\n- y = 1;\n+ \n")
        mutate.ROOT = root
        found = [mutate.complaint(m) for m in mutate.read_list(root / "a.txt")]
        if [bool(f) for f in found] != [False, True, True, False]:
            sys.exit(f"FAIL: self-test: {found}")
        (root / "a.txt").write_text("@ a.cu t283: one\n- x = 1\nx = 2\n")
        try:
            mutate.read_list(root / "a.txt")
        except SystemExit:
            pass
        else:
            sys.exit("FAIL: self-test: a malformed list was read")
    sys.exit(subprocess.run([sys.executable, "-B", str(MUTATE), "--check"]).returncode)


if __name__ == "__main__":
    main()
