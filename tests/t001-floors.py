#!/usr/bin/env python3
"""t001 -- an include goes only down a floor or sideways in a room; worlds, environment and kernels stay in their rooms.

The rooms and floors are those of the README's map. Edges between rooms of one floor stand in tests/floors.txt.
"""
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import lint

FLOORS = {
    "core/base": 0, "core/tensor": 1, "core/comm": 2, "kernels": 2, "core/h5": 3, "core/config": 3, "core/data": 3,
    "core/model": 3, "core/store": 4, "core/train": 4, "rewards": 5, "eval": 6, "stages": 7, "launch": 8,
}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
# (what, pattern, where it is allowed)
CONFINED = [
    ("MPI_COMM_WORLD", re.compile(r"\bMPI_COMM_WORLD\b"), ("launch/bootstrap.c", "tests/")),
    ("the environment", re.compile(r"\b(secure_)?getenv\b|\bsetenv\b|\bputenv\b|\benviron\b"), ("launch/environment.c", "tests/")),
    ("an OpenMP reduction", re.compile(r"#[ \t]*pragma[ \t]+omp[^\n]*\breduction[ \t]*\("), ("tests/",)),
    ("an atomic float operation", re.compile(r"\batomic(Add|_fetch_add)\b[^;]*\bfloat\b"), ()),
]


def room_of(name):
    for room in FLOORS:
        if name.startswith(room + "/"):
            return room
    return "tests" if name.startswith("tests/") else None


def read_edges(root):
    path = root / "tests/floors.txt"
    edges = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        words = line.split("#")[0].split()
        if words:
            edges.append((number, words))
    return edges


def check_edges(edges):
    graph = {}
    for number, words in edges:
        where = f"tests/floors.txt:{number}"
        if len(words) != 2 or words[0] not in FLOORS or words[1] not in FLOORS:
            yield f"{where}: expected two rooms, found {' '.join(words)}"
        elif FLOORS[words[0]] != FLOORS[words[1]]:
            yield f"{where}: {words[0]} and {words[1]} are not of one floor"
        else:
            graph.setdefault(words[0], []).append(words[1])

    def reaches(start, goal, seen):
        for step in graph.get(start, []):
            if step == goal or (step not in seen and reaches(step, goal, seen | {step})):
                return True
        return False

    circle = [room for room in graph if reaches(room, room, {room})]
    if circle:
        yield f"tests/floors.txt: a circle through {', '.join(circle)}"


def check_include(name, line, target, root, permitted):
    where = f"{name}:{line}"
    room, other = room_of(name), room_of(target)
    if other is None or not (root / target).is_file():
        yield f"{where}: \"{target}\" is no file of the tree, seen from the root"
        return
    if room == "tests":
        return
    if other == "tests":
        yield f"{where}: {room} includes a test's header"
    elif {room, other} == {"kernels", "core/comm"}:
        yield f"{where}: kernels and core/comm never include each other"
    elif other == "kernels" and 3 <= FLOORS[room] <= 7:
        yield f"{where}: {room} includes {target}; above the kernels ops are called through a Device"
    elif FLOORS[other] > FLOORS[room]:
        yield f"{where}: {room} (floor {FLOORS[room]}) includes {target} (floor {FLOORS[other]})"
    elif FLOORS[other] == FLOORS[room] and other != room and (room, other) not in permitted:
        yield f"{where}: {room} includes {other} of the same floor; tests/floors.txt does not list that edge"


def check(root, files):
    edges = read_edges(root)
    yield from check_edges(edges)
    permitted = {tuple(words) for _, words in edges}
    for name in files:
        if not name.endswith((".c", ".cc", ".h", ".cu", ".cuh")):
            continue
        if room_of(name) is None:
            yield f"{name}: stands in no room"
            continue
        text = lint.read_text(root / name) or ""
        for match in INCLUDE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield from check_include(name, line, match.group(1), root, permitted)
        code = lint.strip_comments(text)
        for what, pattern, allowed in CONFINED:
            match = pattern.search(code)
            if match and not name.startswith(allowed):
                line = code.count("\n", 0, match.start()) + 1
                yield f"{name}:{line}: {what} outside {', '.join(allowed) or 'nothing'}"
    build = root / "CMakeLists.txt"
    if build.exists() and "-march=native" in build.read_text():
        yield "CMakeLists.txt: -march=native: the program would not run on the node it is sent to"


CLEAN = {
    "tests/floors.txt": "core/data core/h5\n",
    "core/base/a.h": "",
    "core/base/a.c": '#include "core/base/a.h"\n/* getenv */ const char *s = "MPI_COMM_WORLD";\n',
    "core/comm/comm.h": '#include "core/base/a.h"\n',
    "core/h5/h5.h": "", "core/data/data.h": '#include "core/h5/h5.h"\n', "core/model/model.h": "",
    "kernels/cpu/isa.h": "", "stages/ppo.h": '#include "core/model/model.h"\n',
    "launch/bootstrap.c": '#include "kernels/cpu/isa.h"\nMPI_Comm c = MPI_COMM_WORLD;\n',
    "launch/environment.c": 'char *x = getenv("A");\n',
    "tests/support/support.h": '#include "launch/x.h"\n', "launch/x.h": "",
    "tests/t999-x.c": '#include "kernels/cpu/isa.h"\nint main(void) { return getenv("A") && MPI_COMM_WORLD; }\n',
}
PLANTED = [
    ("core/base/b.c", '#include "core/comm/comm.h"\n', "core/base (floor 0) includes core/comm/comm.h (floor 2)"),
    ("core/base/b.c", '#include "a.h"\n', "is no file of the tree"),
    ("core/h5/b.c", '#include "core/data/data.h"\n', "core/h5 includes core/data of the same floor"),
    ("core/model/b.c", '#  include "stages/ppo.h"\n', "(floor 7)"),
    ("core/comm/b.c", '#include "kernels/cpu/isa.h"\n', "never include each other"),
    ("kernels/cpu/b.cu", '#include "core/comm/comm.h"\n', "never include each other"),
    ("stages/b.c", '#include "kernels/cpu/isa.h"\n', "through a Device"),
    ("core/model/b.c", '#include "kernels/cpu/isa.h"\n', "through a Device"),
    ("stages/b.c", '#include "tests/support/support.h"\n', "test's header"),
    ("core/comm/b.c", "int x;\nMPI_Comm c = MPI_COMM_WORLD;\n", "core/comm/b.c:2: MPI_COMM_WORLD"),
    ("stages/b.c", 'int x;\n/* a\n b */ char *p = getenv("X");\n', "stages/b.c:3: the environment"),
    ("kernels/cpu/b.c", "#pragma omp parallel for reduction(+ : sum)\n", "OpenMP reduction"),
    ("tests/floors.txt", "core/data core/h5\ncore/h5 core/model\ncore/model core/data\n", "a circle"),
    ("tests/floors.txt", "core/data core/h5\nstages eval\n", "not of one floor"),
    ("tests/floors.txt", "core/data core/h5\nnowhere core/h5\n", "expected two rooms"),
    ("lib/b.c", "int x;\n", "stands in no room"),
    ("CMakeLists.txt", "add_compile_options(-march=native)\n", "-march=native"),
]

if __name__ == "__main__":
    lint.run(check, CLEAN, PLANTED)
