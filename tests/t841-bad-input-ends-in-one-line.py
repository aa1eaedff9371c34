#!/usr/bin/env python3
#TEST labels=mpi,stages,slow timeout=1200 processors=2
"""Whatever a user does wrong ends soon, on every rank, with one line that names it, and leaves nothing half-written.

Each case runs the program alone and on two ranks, and asks for: the documented exit code on every rank; exactly one `error:` line with the words
that name the trouble; and all of them together for no temporary file and no new artifact (each stage has an output directory of its own). Ranks
are watched one by one: the launcher is told not to end those that are left when one fails, so a rank that waits for ever is a timeout here.
"""

import concurrent.futures
import os
import pathlib
import re
import shutil
import struct
import json
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import MPIRUN, TERCET, Experiment, need_program, write_lines

USAGE, INPUT, IO, NUMERIC = 2, 3, 4, 6
SECONDS = 120  # of a case, on a machine busy with other tests

# Keeps each rank's exit code; arguments: folder, program, words.
KEEP_CODE = 'folder=$1; shift; "$@"; code=$?; echo $code > "$folder/code.${OMPI_COMM_WORLD_RANK:-0}"; exit $code'

failures = []


def failed(what):
    print("FAILED:", what, flush=True)
    failures.append(what)


def artifacts(folder):
    """Every file but logs, locks and the cache of tokenised data (whole or absent: its own test), by size and time."""
    skip = {"metrics.jsonl", "timings.jsonl", "log.txt", "code.0", "code.1", "code.2"}
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file() and p.name not in skip and not p.name.startswith(".") and p.suffix != ".yaml" and p.parent.name != "data"
    }


cases = []


def refuse(what, words, code, *names, ranks=(0, 2), stdin=None, limit_kib=0):
    """Puts a case on the list, once for each number of ranks (0: alone)."""
    cases.append((what, [str(w) for w in words], code, names, ranks, stdin, limit_kib))


def run_case(case):
    what, words, code, names, ranks, stdin, limit_kib = case
    for count in ranks:
        codes = pathlib.Path(tempfile.mkdtemp(prefix="codes-", dir=scratch))
        launcher = MPIRUN[:-1] + ["--mca", "orte_abort_on_non_zero_status", "0", "-np", str(count)] if count else []
        limit = f"ulimit -f {limit_kib}; " if limit_kib else ""
        command = launcher + ["sh", "-c", limit + KEEP_CODE, "sh", str(codes), TERCET] + words
        label = f"{what}, {count or 1} rank{'s' if count > 1 else ''}"
        try:
            done = subprocess.run(command, capture_output=True, input=stdin, timeout=SECONDS, start_new_session=True)
        except subprocess.TimeoutExpired:
            failed(f"{label}: still running after {SECONDS} s")
            continue
        text = done.stderr.decode(errors="replace")
        lines = [l for l in text.splitlines() if re.match(r"(rank \d+: )?error: ", l)]
        found = sorted(int(p.read_text()) for p in codes.glob("code.*"))
        if found != [code] * max(count, 1):
            failed(f"{label}: exit codes {found}, expected {code} on each\n{text[-1500:]}")
        if len(lines) != 1:
            failed(f"{label}: {len(lines)} error lines, expected one\n{text[-1500:]}")
        for name in names:
            if lines and name not in lines[0]:
                failed(f"{label}: the line does not name '{name}': {lines[0]}")
        for stray in re.findall(r".*(?:Sanitizer|Assertion|HDF5-DIAG|REQUIRE).*", text):
            failed(f"{label}: {stray}")
        print(f"{label}: {lines[0][:200] if lines else 'NO LINE'}", flush=True)


def run_cases():
    """All of them, several at a time, as most of a launch is waiting. None may leave anything, so what is there is compared around them all."""
    before = artifacts(run.folder)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(run_case, cases))
    temporaries = [str(p) for p in run.folder.rglob("*.tmp")]
    if temporaries:
        failed(f"left {temporaries}")
    after = artifacts(run.folder)
    changed = sorted(set(before) ^ set(after)) + [p for p in after if after[p] != before.get(p, after[p])]
    if changed:
        failed(f"files appeared, went or changed: {changed}")


def copy_with(path, name, change):
    """A copy of a file, changed as bytes."""
    target = scratch / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(change(path.read_bytes()))
    return target


def half(data):
    return data[: len(data) // 2]


def flipped(data):
    """One bit in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def directory_with(name, file, change):
    """A Hugging Face directory with one file changed, or without it."""
    target = scratch / name
    shutil.copytree(run.folder / "hf", target)
    if change:
        (target / file).write_bytes(change((target / file).read_bytes()))
    else:
        (target / file).unlink()
    return target


def with_nan(data):
    """safetensors whose first tensor begins with a NaN."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    tensor = next(header[name] for name in header if name.endswith("layers.0.self_attn.q_proj.weight"))
    at = 8 + size + tensor["data_offsets"][0]
    return data[:at] + struct.pack("<f", float("nan")) + data[at + 4 :]


need_program()
with Experiment() as run:
    scratch = run.folder / "scratch"
    scratch.mkdir()
    for stage, more in (("sft", ["sft.steps=2"]), ("rm", ["rm.steps=2"]), ("ppo", ["ppo.iterations=1"])):
        run.stage(stage, "good", *more)
    good = run.folder / "good"
    policy, reward, final = good / "sft/final.h5", good / "rm/final.h5", good / "ppo/final.h5"
    rollout = good / "ppo/rollouts/iteration-00000001.h5"
    run.call("export", "--model", policy, "--out", run.folder / "hf")
    fresh = 0

    def stage(name, what, code, overrides, *names, **more):
        """A stage in an output directory of its own, the earlier stages' results given by path."""
        global fresh
        fresh += 1
        inputs = {"rm": [f"rm.model={policy}"], "ppo": [f"ppo.policy={policy}", f"ppo.rewards[0].model={reward}"]}
        refuse(f"{name}: {what}", [name, run.yaml(f"bad{fresh}"), *inputs.get(name, []), *overrides], code, *names, **more)

    # --- The command line and the experiment file
    refuse("no verb", ["sfft"], USAGE, "sfft", "sft")
    refuse("no experiment", ["sft"], USAGE, "EXPERIMENT")
    refuse("missing experiment", ["ppo", scratch / "none.yaml"], IO, "none.yaml")
    for name in ("sft", "rm", "ppo"):
        stage(name, "unknown key", USAGE, [f"{name}.unit_token=5"], "unit_token", "unit_tokens", ranks=(2,))
        stage(name, "bad value", USAGE, [f"{name}.batch=many"], f"{name}.batch", "many", ranks=(2,))
    stage("sft", "value out of range", USAGE, ["sft.batch=0"], "sft.batch")
    stage("ppo", "top_p", USAGE, ["ppo.top_p=0.9"], "top_p", "temperature")
    stage("ppo", "samples that do not divide", USAGE, ["ppo.samples_per_prompt=3"], "samples_per_prompt")
    stage("ppo", "unknown reward kind", USAGE, ["ppo.rewards[1].kind=lenght"], "lenght", "length")
    stage("ppo", "a key of another reward kind", USAGE, ["ppo.rewards[1].lexicon=x"], "lexicon")
    stage("ppo", "two judges of one name", USAGE, ["ppo.rewards[1].name=learned"], "learned")
    stage("sft", "three ranks", USAGE, [], "power of two", ranks=(3,))
    stage("sft", "more ranks than lanes", USAGE, ["lanes=1"], "lanes", ranks=(2,))
    stage("sft", "no output", IO, [f"output={run.data}/sft.jsonl/run"], "sft.jsonl", ranks=(0, 2))
    broken = scratch / "broken.yaml"
    broken.write_text("sft: {batch: 4\nrm: [")
    refuse("broken YAML", ["sft", broken], USAGE, "broken.yaml")
    nothing = scratch / "nothing.yaml"
    nothing.write_text(f"output: {scratch}/nothing\n")
    refuse("no section", ["sft", nothing], USAGE, "sft")

    # --- Data
    lines = (run.data / "sft.jsonl").read_bytes().splitlines(keepends=True)
    bad = {
        "malformed": (b"".join(lines[:2]) + b'{"prompt": "a", "respo\n', ":3"),
        "keyless": (b"".join(lines[:1]) + b'{"prompt": "a"}\n', ":2"),
        "not-utf8": (b"".join(lines[:4]) + b'{"prompt": "\xff\xfe", "response": "b"}\n', ":5"),
        "empty": (b"", "empty.jsonl"),
        "truncated": (b"".join(lines)[:-20], f":{len(lines)}"),
    }
    for name, (data, place) in bad.items():
        path = scratch / f"{name}.jsonl"
        path.write_bytes(data)
        stage("sft", f"{name} data", INPUT, [f"sft.data[0].path={path}"], f"{name}.jsonl", place)
    stage("rm", "malformed data", INPUT, [f"rm.eval_data[0].path={scratch}/malformed.jsonl"], "malformed.jsonl")
    stage("ppo", "malformed prompts", INPUT, [f"ppo.prompts[0].path={scratch}/malformed.jsonl"], "malformed.jsonl:3")
    stage("rm", "missing data", IO, [f"rm.data[0].path={scratch}/none.jsonl"], "none.jsonl")
    tied = scratch / "tied.jsonl"
    write_lines(tied, [{"prompt": "Tell.", "responses": [" a", " b", " c"], "ranks": [0, 1, 1]}] * 4)
    stage("rm", "ties", INPUT, [f"rm.data[0].path={tied}", "rm.loss=plackett_luce"], "tied.jsonl:1")
    stage("rm", "held-out ties", INPUT, [f"rm.eval_data[0].path={tied}", "rm.loss=plackett_luce", f"rm.data[0].limit=8"], "tied.jsonl:1")
    long = scratch / "long.jsonl"
    write_lines(long, [{"prompt": "word " * 200, "response": " b " * 200, "chosen": "a " * 200, "rejected": "b"}] * 8)
    stage("sft", "too long", USAGE, [f"sft.data[0].path={long}"], "96 positions", "max_length")
    stage("ppo", "too long", USAGE, ["ppo.max_new=96"], "96 positions")

    # --- Checkpoints and directories
    stage("ppo", "a reward model as policy", INPUT, [f"ppo.policy={reward}"], "rm/final.h5", "reward model")
    stage("sft", "a reward model to start from", INPUT, [f"sft.model={reward}"], "rm/final.h5", "reward model")
    stage("ppo", "a policy as reward model", INPUT, [f"ppo.rewards[0].model={policy}"], "sft/final.h5", "reward model")
    stage("ppo", "missing policy", IO, [f"ppo.policy={scratch}/none.h5"], "none.h5")
    stage("ppo", "a text as reward model", INPUT, [f"ppo.rewards[0].model={run.data}/sft.jsonl"], "sft.jsonl")
    stage("rm", "truncated model", INPUT, [f"rm.model={copy_with(policy, 'cut-policy.h5', half)}"], "cut-policy.h5")
    stage("rm", "flipped bit", INPUT, [f"rm.model={copy_with(policy, 'flipped.h5', flipped)}"], "flipped.h5")
    stage("ppo", "truncated reward model", INPUT, [f"ppo.rewards[0].model={copy_with(reward, 'cut-rm.h5', half)}"], "cut-rm.h5")
    stage("ppo", "truncated rollout", INPUT, [f"ppo.rollout={copy_with(rollout, 'cut-rollout.h5', half)}"], "cut-rollout.h5")
    stage("ppo", "a model as rollout", INPUT, [f"ppo.rollout={policy}"], "sft/final.h5")
    for file, change in (("model.safetensors", half), ("tokenizer.json", half), ("config.json", half), ("config.json", None)):
        name = f"{'cut' if change else 'no'}-{file}"
        path = directory_with(name, file, change)
        stage("rm", f"a directory with {name}", INPUT if change else IO, [f"rm.model={path}"], f"{name}/{file}")

    # --- Numbers that are none
    nan = directory_with("nan", "model.safetensors", with_nan)
    stage("sft", "NaN in the model", NUMERIC, [f"sft.model={nan}"])
    stage("rm", "NaN in the model", NUMERIC, [f"rm.model={nan}"])
    stage("ppo", "NaN in the policy", NUMERIC, [f"ppo.policy={nan}"])
    stage("ppo", "NaN in the reference", NUMERIC, [f"ppo.reference={nan}"])
    stage("ppo", "NaN in the critic", NUMERIC, [f"ppo.critic={nan}"])

    # --- Resuming
    last = good / "sft/step-00000002.h5"
    for name, source, change, code in (
        ("a truncated", last, half, INPUT),
        ("a flipped", last, flipped, INPUT),
        ("another stage's", good / "ppo/step-00000001.h5", bytes, INPUT),
    ):
        fresh += 1
        target = run.folder / f"bad{fresh}" / "sft" / "step-00000002.h5"
        target.parent.mkdir(parents=True)
        target.write_bytes(change(source.read_bytes()))
        refuse(f"sft: resuming from {name} checkpoint", ["sft", run.yaml(f"bad{fresh}"), "sft.steps=2"], code, "step-00000002.h5")
    fresh += 1
    (run.folder / f"bad{fresh}" / "rm").mkdir(parents=True)
    shutil.copy(policy, run.folder / f"bad{fresh}" / "rm" / "final.h5")
    refuse("rm: another stage's result", ["rm", run.yaml(f"bad{fresh}")], INPUT, "rm/final.h5", "'sft'")
    refuse("sft: other keys", ["sft", run.yaml("good"), "sft.steps=2", "seed=8"], USAGE, "final.h5", "output")

    # --- No room
    for name in ("sft", "rm", "ppo"):
        stage(name, "a full disk", IO, ["checkpoint_every=1"], ranks=(0,), limit_kib=24)  # MPI's own shared memory is files too

    # --- Tools
    pairs = scratch / "pairs.jsonl"
    write_lines(pairs, [{"prompt": "Tell.", "chosen": " a", "rejected": " b"}] * 3)
    (scratch / "bad-pairs.jsonl").write_bytes(pairs.read_bytes() + b'{"prompt": "Tell.", "chosen": 3}\n')
    text = scratch / "text.jsonl"
    write_lines(text, [{"text": "It is far."}] * 3)
    out = scratch / "out.jsonl"
    refuse("score: no model", ["score", pairs], USAGE, "--model")
    refuse("score: unknown option", ["score", "--modle", reward], USAGE, "--modle", "--model")
    refuse("score: a policy", ["score", "--model", policy, pairs, "--out", out], INPUT, "sft/final.h5")
    refuse("score: missing model", ["score", "--model", scratch / "none.h5", pairs], IO, "none.h5")
    refuse("score: truncated model", ["score", "--model", scratch / "cut-rm.h5", pairs], INPUT, "cut-rm.h5")
    refuse("score: malformed line", ["score", "--model", reward, scratch / "bad-pairs.jsonl", "--out", out], INPUT, "bad-pairs.jsonl:4")
    refuse("score: missing file", ["score", "--model", reward, scratch / "none.jsonl", "--out", out], IO, "none.jsonl")
    refuse("score: no place for the result", ["score", "--model", reward, pairs, "--out", scratch / "no/where"], IO, "no/where")
    refuse("score: standard input", ["score", "--model", reward, "-"], INPUT, ":2", ranks=(0,), stdin=b'{"prompt": "a", "response": "b"}\n{]\n')
    refuse("eval perplexity: a reward model", ["eval", "perplexity", "--model", reward, text], INPUT, "rm/final.h5")
    refuse("eval perplexity: malformed line", ["eval", "perplexity", "--model", policy, scratch / "malformed.jsonl", "--out", out], INPUT, "malformed.jsonl:1")
    refuse("eval perplexity: NaN", ["eval", "perplexity", "--model", nan, text, "--out", out], NUMERIC, "nan")
    refuse("eval preference: a policy", ["eval", "preference", "--model", policy, pairs], INPUT, "sft/final.h5")
    refuse("eval preference: malformed line", ["eval", "preference", "--model", reward, scratch / "bad-pairs.jsonl"], INPUT, "bad-pairs.jsonl:4")
    winrate = ["eval", "winrate", "--model", final, "--prompts", run.data / "prompts.jsonl", "--limit", "4"]
    refuse("eval winrate: missing model", winrate + ["--against", scratch / "none.h5", "--judge", "length:5"], IO, "none.h5")
    refuse("eval winrate: missing judge", winrate + ["--against", policy, "--judge", scratch / "none.h5"], IO, "none.h5")
    refuse("eval winrate: a policy as judge", winrate + ["--against", policy, "--judge", policy], INPUT, "sft/final.h5")
    refuse("eval: of what", ["eval", "perplexitty"], USAGE, "perplexitty")
    say = ["generate", "--prompt", "Tell.", "--max-new", "4", "--model"]
    refuse("generate: a reward model", say + [reward], INPUT, "rm/final.h5", ranks=(0,))
    refuse("generate: truncated model", say + [scratch / "cut-policy.h5"], INPUT, "cut-policy.h5", ranks=(0,))
    refuse("generate: NaN", say + [nan], NUMERIC, "not finite", ranks=(0,))
    refuse("generate: too long", say + [policy, "--max-new", "200"], USAGE, "96", ranks=(0,))
    refuse("generate: two ranks", say + [policy], USAGE, "one process", ranks=(2,))
    refuse("generate: malformed line", ["generate", "--model", policy, "--file", scratch / "malformed.jsonl"], INPUT, "malformed.jsonl:3", ranks=(0,))
    refuse("generate: temperature", say + [policy, "--temperature", "-1"], USAGE, "--temperature", ranks=(0,))
    for name, path, code in (
        ("truncated", scratch / "cut-policy.h5", INPUT),
        ("a text", run.data / "sft.jsonl", INPUT),
        ("flipped bit", scratch / "flipped.h5", INPUT),
        ("missing", scratch / "none.h5", IO),
    ):
        refuse(f"inspect: {name}", ["inspect", path], code, path.name)
        refuse(f"inspect --digest: {name}", ["inspect", path, "--digest"], code, path.name, ranks=(0,))
    refuse("export: truncated", ["export", "--model", scratch / "cut-policy.h5", "--out", scratch / "exported"], INPUT, "cut-policy.h5", ranks=(0,))
    refuse("run: missing experiment", ["run", scratch / "none.yaml"], IO, "none.yaml", ranks=(0,))
    refuse("tokenizer: missing text", ["tokenizer", "train", "--vocab", "300", "--out", out, scratch / "none.txt"], IO, "none.txt", ranks=(0,))

    run_cases()

    # --- What is damaged in the cache of tokenised data is made again, and the run goes on.
    cache = sorted((good / "data").glob("*.h5"))
    target = run.folder / "cached" / "data"
    target.mkdir(parents=True)
    for path in cache:
        (target / path.name).write_bytes(half(path.read_bytes()))
    run.stage("sft", "cached", "sft.steps=2")
    for path in cache:
        if path.read_bytes() != (target / path.name).read_bytes() and path.stat().st_size == (target / path.name).stat().st_size:
            failed(f"the cache file {path.name} was made again with other bytes")
    if run.digest(policy) != run.digest(run.folder / "cached/sft/final.h5"):
        failed("a run with a damaged cache has another result")

    if failures:
        sys.exit(f"{len(failures)} failures\n" + "\n".join(failures))
    print("every mistake was named in one line")
