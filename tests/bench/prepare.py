"""prepare.py -- inputs that rows share: lengths in tokens of the messages of a real data set, which both sides then fill with random tokens."""

import json
import pathlib
import random
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
MESSAGES = "datasets/oasst-sample/en_100_message.jsonl"  # under TERCET_DATA: OpenAssistant message trees
TOKENIZER = "tokenizers/gpt2"


def message_texts(path):
    def walk(message):
        yield message["text"]
        for reply in message.get("replies") or []:
            yield from walk(reply)

    with open(path) as file:
        for line in file:
            yield from walk(json.loads(line))


def message_lengths(context, longest):
    """Tokens of each message, at most `longest`, counted by our tokenizer."""
    texts, out = context.scratch / "texts.jsonl", context.scratch / f"lengths-{longest}.txt"
    if not out.exists():
        with open(texts, "w") as file:
            for text in message_texts(context.data / MESSAGES):
                file.write(json.dumps({"text": text}) + "\n")
        subprocess.run([context.bench, "lengths", f"texts={texts}", f"tokenizer={context.data / TOKENIZER}", f"out={out}", f"max={longest}",
                        "rounds=1"], check=True, stdout=subprocess.DEVNULL, stderr=context.log)
    return [int(line) for line in out.read_text().split()]


def write_lengths(context, name, lengths):
    path = context.scratch / name
    path.write_text("".join(f"{length}\n" for length in lengths))
    return {"lengths": str(path)}


def batches_of_similar_length(context, batch=4, steps=4):
    """As a length-sorted epoch has them: batches of neighbours in the sorted data set, taken from the middle of each of `steps` equal parts."""
    lengths = sorted(length for length in message_lengths(context, 1024) if length > 1)
    middles = [int(len(lengths) * (step + 0.5) / steps) for step in range(steps)]
    return write_lengths(context, "batches.txt", [length for middle in middles for length in lengths[middle : middle + batch]])


def texts_of_mixed_length(context, count=512):
    lengths = message_lengths(context, 128)
    random.Random(1).shuffle(lengths)
    return write_lengths(context, "texts.txt", lengths[:count])


def make_texts(context, name, size):
    """texts.py's folder with `size` bytes of text."""
    folder = context.scratch / name
    subprocess.run(["python3", str(HERE / "texts.py"), str(folder), str(size)], check=True)
    return folder


def texts(context):
    folder, tenth = make_texts(context, "text", 100_000_000), make_texts(context, "text-tenth", 10_000_000)
    return {"text": folder / "text.txt", "tenth": tenth / "text.txt", "tokenizer": folder / "tokenizer.json"}


def large_experiment(context):
    """A few steps of a small model on a data set that is larger than the memory it will get."""
    folder = make_texts(context, "text-large", 200_000_000)
    path = context.scratch / "large.yaml"
    path.write_text(f"""output: none
model: {{arch: llama, layers: 2, width: 32, heads: 2, positions_max: 256}}
sft:
  tokenizer: {folder}/tokenizer.json
  data: [{{path: "{folder}/text.txt"}}]
  max_length: 256
  batch: 64
  steps: 20
""")
    return {"experiment": path}
