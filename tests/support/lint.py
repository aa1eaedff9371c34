"""lint.py -- what the lint tests share: the tree's files, and the proof that each lint can fail.

A lint is a function check(root, files) that yields complaints. run() first plants every violation of the lint's list in
a small tree of its own and expects the complaint, then reads the real tree; so a lint that has gone blind fails too.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

SOURCE_SUFFIXES = (".c", ".cc", ".h", ".cu", ".cuh", ".py", ".sh")


def tree_files(root):
    """Paths relative to root of all files that belong to the repository."""
    root = pathlib.Path(root)
    if (root / ".git").exists():
        listing = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True, capture_output=True).stdout.decode()
        return sorted(name for name in set(listing.split("\0")) if name and (root / name).is_file())
    found = []
    for folder, folders, names in os.walk(root):  # a source archive: no git, but perhaps build folders
        folders[:] = [f for f in folders if f != ".git" and not (pathlib.Path(folder) / f / "CMakeCache.txt").exists()]
        found += [str((pathlib.Path(folder) / name).relative_to(root)) for name in names]
    return sorted(found)


def read_text(path):
    """The file as text, or None when it is binary."""
    data = pathlib.Path(path).read_bytes()
    if b"\0" in data[:8192]:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def is_source(name):
    return name.endswith(SOURCE_SUFFIXES)


def strip_comments(text):
    """C without comments and string contents, line numbers kept."""
    out, at, size = [], 0, len(text)
    while at < size:
        two = text[at:at + 2]
        if two == "//":
            at = text.find("\n", at)
            at = size if at < 0 else at
        elif two == "/*":
            end = text.find("*/", at + 2)
            end = size if end < 0 else end + 2
            out.append("\n" * text.count("\n", at, end) or " ")
            at = end
        elif text[at] in "\"'" and not (text[at] == "'" and at and text[at - 1].isalnum()):
            quote, end = text[at], at + 1
            while end < size and text[end] not in (quote, "\n"):
                end += 2 if text[end] == "\\" else 1
            out.append(quote + quote)
            at = min(end + 1, size)
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def self_test(check, clean, planted):
    """clean: {path: text} without complaint; planted: [(path, text, part of the complaint)], one at a time."""
    failures = []
    for path, text, part in [(None, None, None)] + planted:
        with tempfile.TemporaryDirectory(prefix="tercet-lint-") as root:
            tree = dict(clean)
            if path:
                tree[path] = text
            for name, content in tree.items():
                target = pathlib.Path(root) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content)
            complaints = list(check(pathlib.Path(root), tree_files(root)))
        if path is None and complaints:
            failures.append(f"self-test: complaints about a clean tree: {complaints}")
        if path and not any(part in complaint for complaint in complaints):
            failures.append(f"self-test: a planted violation in {path} ({part}) was not found; got {complaints}")
        if path and len(complaints) > 1:
            failures.append(f"self-test: one violation planted in {path}, but {complaints}")
    return failures


def run(check, clean, planted):
    failures = self_test(check, clean, planted)
    if not failures:
        print(f"self-test: {len(planted)} planted violations found")
    if "--self-test" not in sys.argv[1:]:
        root = pathlib.Path(os.environ.get("SOURCE_DIR") or pathlib.Path(__file__).resolve().parents[2])
        files = tree_files(root)
        failures += list(check(root, files))
        print(f"{len(files)} files read")
    for failure in failures:
        print(f"FAIL: {failure}")
    sys.exit(1 if failures else 0)
