#!/usr/bin/env python3
"""t002 -- no source file is above 800 lines, each begins by saying what it is, and each test has a number of its own."""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import lint

LINES_MAX = 800
TEST_NAME = re.compile(r"tests/(t[0-9]{3})-[a-z0-9-]+\.(c|cc|py|sh)$")


def first_line_is_good(name, lines):
    first = lines[0] if lines else ""
    base = name.rsplit("/", 1)[-1]
    if name.endswith((".py", ".sh")):
        return first.startswith(("#!", '"""'))
    if TEST_NAME.match(name):
        return first.startswith(("//TEST", "/*"))
    return first.startswith(f"/* {base} -- ")


def check(root, files):
    numbers = {}
    for name in files:
        if not lint.is_source(name):
            continue
        lines = (lint.read_text(root / name) or "").splitlines()
        if len(lines) > LINES_MAX:
            yield f"{name}: {len(lines)} lines, more than {LINES_MAX}: split it by idea"
        if not first_line_is_good(name, lines):
            yield f"{name}:1: the first line does not say what the file is (C: '/* {name.rsplit('/', 1)[-1]} -- ...')"
        if name.startswith("tests/t") and not TEST_NAME.match(name):
            yield f"{name}: a test is called tNxx-claim"
        test = TEST_NAME.match(name)
        if test and numbers.setdefault(test.group(1), name) != name:
            yield f"{name}: {numbers[test.group(1)]} has this number"


CLEAN = {
    "core/base/a.c": "/* a.c -- an a. */\n" + "int x;\n" * 799,
    "tests/t010-a.c": "//TEST timeout=1\n", "tests/t011-b.c": "/* t011 -- b */\n",
    "tests/t001-c.py": "#!/usr/bin/env python3\n", "tests/golden/table.txt": "1\n" * 2000,
}
PLANTED = [
    ("core/base/b.c", "/* b.c -- long. */\n" + "int x;\n" * 800, "801 lines"),
    ("core/base/b.h", "#ifndef B_H\n", "first line"),
    ("core/base/b.c", "/* a.c -- copied. */\n", "first line"),
    ("core/base/b.c", "", "first line"),
    ("tests/t012-c.c", "#include <stdio.h>\n", "first line"),
    ("kernels/cuda/b.cu", "/* b.cu -- long. */\n" + "int x;\n" * 800, "801 lines"),
    ("tests/test_x.c", "/* test_x.c -- named otherwise. */\n", "tNxx-claim"),
    ("tests/t011-c.c", "/* t011 -- another b. */\n", "has this number"),
]

if __name__ == "__main__":
    lint.run(check, CLEAN, PLANTED)
