#!/usr/bin/env python3
#TEST labels=stages,data,slow timeout=400 processors=2
"""Rankings that people made are learned: OpenAssistant trees (K answers each, both losses) and hh-format transcripts.

The loss on the training data must fall clearly below that of zero scores: log 2 for pairs, log(K!) / (K - 1) averaged over groups for
Plackett-Luce, computed here from the trees. The transcripts are made here from LLaMA-Factory's dpo_en_demo.json.
"""

import json
import math
import os
import sys
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "support"))
from experiment import Experiment, SKIP, need_program, write_lines

need_program()
root = os.environ.get("TERCET_DATA")
if not root:
    print("SKIP: TERCET_DATA is not set")
    sys.exit(1 if "data" in os.environ.get("TERCET_REQUIRE", "").split(",") else SKIP)
root = pathlib.Path(root)

YAML = """
output: {output}
threads: 1
lanes: 2
rm:
  model: {root}/models/stories260K-hf
  data: [{{path: {path}}}]
  template: {template}
  max_length: 128
  batch: 16
  unit_tokens: 2048
  epochs: {epochs}
  loss: {loss}
  optimizer: {{lr: 2e-3, warmup: 8}}
"""


def groups(node, found):
    """Sizes of the groups of ranked replies to prompts, and whether ranks are distinct."""
    replies = [r for r in node.get("replies", []) if r.get("rank") is not None and r.get("role") == "assistant"]
    if node.get("role") == "prompter" and len(replies) >= 2:
        found.append(len(replies))
    for reply in node.get("replies", []):
        groups(reply, found)


def transcript(record, answer):
    turns = {"human": "Human", "gpt": "Assistant"}
    return "".join(f"\n\n{turns[t['from']]}: {t['value']}" for t in record["conversations"] + [answer] if t['from'] in turns)


def train(run, name, path, loss, template, epochs):
    yaml = run.folder / f"{name}.yaml"
    yaml.write_text(YAML.format(output=run.folder / name, root=root, path=path, loss=loss, template=template, epochs=epochs))
    run.call("rm", yaml)
    lines = [json.loads(l) for l in (run.folder / name / "rm/metrics.jsonl").read_text().splitlines()]
    losses = [l["loss"] for l in lines if l["phase"] == "train"]
    return sum(losses[-8:]) / 8, len(losses)


with Experiment() as run:
    trees = root / "datasets/oasst-sample/en_100_message.jsonl"
    sizes = []
    for line in trees.read_text().splitlines():
        groups(json.loads(line), sizes)
    zero = sum(math.lgamma(k + 1) / (k - 1) for k in sizes) / len(sizes)
    records = json.loads((root / "datasets/llama-factory-demo/dpo_en_demo.json").read_text())
    hh = run.folder / "hh.jsonl"
    write_lines(hh, [{"chosen": transcript(r, r["chosen"]), "rejected": transcript(r, r["rejected"])} for r in records])
    for name, path, loss, template, epochs, bound in (
        ("oasst-pairs", trees, "pairs", "alpaca", 4, math.log(2)),
        ("oasst-ranked", trees, "plackett_luce", "alpaca", 4, zero),
        ("hh", hh, "pairs", "hh", 3, math.log(2)),
    ):
        last, steps = train(run, name, path, loss, template, epochs)
        print(f"{name}: loss of the last 8 of {steps} steps {last:.4f}; of zero scores {bound:.4f}")
        if not last < 0.97 * bound:
            sys.exit(f"{name}: nothing was learned")
