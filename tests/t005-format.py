#!/usr/bin/env python3
"""t005 -- every C file is as clang-format 14 writes it (.clang-format). Other versions differ in details: a loud skip."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import lint

VERSION = "14"


def skip(reason):
    required = "clang-format" in os.environ.get("TERCET_REQUIRE", "").split(",")
    print(f"{'FAIL (TERCET_REQUIRE)' if required else 'SKIP'}: clang-format: {reason}")
    sys.exit(1 if required else 77)


def find_program():
    for name in (f"clang-format-{VERSION}", "clang-format"):
        if shutil.which(name):
            said = subprocess.run([name, "--version"], capture_output=True, text=True).stdout
            if re.search(rf"version {VERSION}\.", said):
                return name
    skip(f"version {VERSION} is not installed (Debian 12: apt-get install clang-format)")


def is_formatted(program, root, names):
    return subprocess.run([program, "--style=file", "--dry-run", "-Werror", "--ferror-limit=3"] + names, cwd=root).returncode == 0


def main():
    program = find_program()
    root = pathlib.Path(os.environ.get("SOURCE_DIR") or pathlib.Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory(prefix="tercet-lint-") as folder:
        planted = pathlib.Path(folder)
        (planted / ".clang-format").write_text((root / ".clang-format").read_text())
        (planted / "good.c").write_text("int x;\n")
        (planted / "bad.c").write_text("int   x ;\n")
        if not is_formatted(program, planted, ["good.c"]):
            sys.exit("FAIL: self-test: a formatted file was refused")
        print("self-test: the next complaint is expected", file=sys.stderr)
        if is_formatted(program, planted, ["bad.c"]):
            sys.exit("FAIL: self-test: an unformatted file went through")
    if "--self-test" in sys.argv[1:]:
        return
    names = [name for name in lint.tree_files(root) if name.endswith((".c", ".cc", ".h", ".cu", ".cuh"))]
    bad = [name for name in names if not is_formatted(program, root, [name])]
    for name in bad:
        print(f"FAIL: {name}: run {program} -i on it")
    print(f"{len(names)} files read")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
