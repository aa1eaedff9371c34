#!/usr/bin/env python3
"""t003 -- the top level holds the rooms and little else; nothing speaks of unfinished work or of somebody's machine."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import lint

TOP_LEVEL = {
    "core", "kernels", "rewards", "eval", "stages", "launch", "configs", "tests", ".ci",
    "CMakeLists.txt", "LICENSE", "README.md", ".clang-format", ".gitignore",
}
# Put together here so that this file passes its own test.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b|(?i:\b("
                        + "|".join(["st" + "ubs?", "place" + "holders?", "for" + " now", "not yet" + " implemented"]) + r")\b)")
MACHINE = re.compile(r"(?<![\w./$}])/(" + "|".join(["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers"]) + r")/")


def check(root, files):
    for name in sorted({name.split("/")[0] for name in files} - TOP_LEVEL):
        yield f"{name}: the top level has no such name"
    for name in files:
        text = lint.read_text(root / name)
        if text is None or name == "LICENSE":
            continue
        if lint.is_source(name) or name.startswith(("launch/", ".ci/", "tests/run", "CMakeLists")):
            for number, line in enumerate(text.splitlines(), 1):
                match = UNFINISHED.search(line)
                if match:
                    yield f"{name}:{number}: '{match.group(0)}': finish it or leave it out"
        if not name.startswith("tests/golden/"):
            for number, line in enumerate(text.splitlines(), 1):
                match = MACHINE.search(line)
                if match:
                    yield f"{name}:{number}: '{match.group(0)}' is a path of one machine"
        if "\r\n" in text and not name.startswith("tests/golden/"):
            yield f"{name}: lines end in CR LF"


CLEAN = {
    "README.md": "A ppo/work/ folder, $HOME/x and https://example.org/home/ are fine.\n",
    "core/base/a.c": '/* a.c -- a mkdtemp pattern XXXX' + 'XX and a stubborn word */\nchar *p = "../work/x";\n',
    "LICENSE": "", "CMakeLists.txt": "",
}
PLANTED = [
    ("notes.txt", "hello\n", "no such name"),
    ("scripts/x", "", "no such name"),
    ("core/base/b.c", "/* TO" + "DO later */\n", "finish it"),
    ("core/base/b.c", "int x; // X" + "XX\n", "finish it"),
    ("launch/quickstart", "# a St" + "ub\n", "finish it"),
    ("stages/b.c", "/* simple for" + " now */\n", "finish it"),
    ("README.md", "see /wo" + "rk/data\n", "path of one machine"),
    ("configs/a.yaml", "model: /ho" + "me/me/x.h5\n", "path of one machine"),
    ("core/base/b.c", "/* b.c -- b */\r\n", "CR LF"),
]

if __name__ == "__main__":
    lint.run(check, CLEAN, PLANTED)
