#!/usr/bin/env python3
"""texts.py -- the text and the tokenizer.json of the tokenising row, made from the data under TERCET_DATA; no packages needed.

    texts.py DIRECTORY BYTES

DIRECTORY/text.txt: lines of real texts (Shakespeare, reviews, tweets, questions with answers, conversations, a little Chinese), drawn again and
again in an order of a fixed seed until there are BYTES of them. DIRECTORY/tokenizer.json: GPT-2's byte-level BPE in the form that Hugging Face
tokenizers and Tercet both read. What is there already is left alone.
"""

import json
import os
import pathlib
import random
import sys

SPLIT_LINES = ["datasets/tinyshakespeare/input.txt", "datasets/vader-ratings/movieReviewSnippets_GroundTruth.txt",
               "datasets/vader-ratings/amazonReviewSnippets_GroundTruth.txt", "datasets/vader-ratings/tweets_GroundTruth.txt"]
JSON_LINES = ["datasets/gsm8k/train.jsonl", "datasets/oasst-sample/en_100_message.jsonl", "datasets/medicalgpt/medical_sft_1K_format.jsonl"]
JSON_FILES = ["datasets/llama-factory-demo/alpaca_en_demo.json", "datasets/llama-factory-demo/dpo_en_demo.json"]


def strings(value):
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def real_lines(data):
    for name in SPLIT_LINES:
        for line in (data / name).read_text(errors="replace").splitlines():
            yield line.split("\t")[-1]
    for name in JSON_LINES:
        for line in (data / name).read_text().splitlines():
            yield from strings(json.loads(line))
    for name in JSON_FILES:
        yield from strings(json.loads((data / name).read_text()))


def write_text(data, path, size):
    lines = [line for text in real_lines(data) for line in text.splitlines() if line.strip()]
    order = random.Random(1)
    written = 0
    with open(path.with_suffix(".tmp"), "wb") as out:
        while written < size:
            order.shuffle(lines)
            for line in lines:
                row = line.encode() + b"\n"
                out.write(row)
                written += len(row)
                if written >= size:
                    break
    os.rename(path.with_suffix(".tmp"), path)


def write_tokenizer(data, path):
    folder = data / "tokenizers/gpt2"
    merges = [line for line in (folder / "vocab.bpe").read_text().splitlines() if line and not line.startswith("#version")]
    form = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    path.write_text(json.dumps(dict(
        version="1.0", truncation=None, padding=None, normalizer=None, pre_tokenizer=form, post_processor=None, decoder=form,
        added_tokens=[dict(id=50256, content="<|endoftext|>", single_word=False, lstrip=False, rstrip=False, normalized=False,
                           special=True)],
        model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False,
                   byte_fallback=False, vocab=json.loads((folder / "encoder.json").read_text()), merges=merges))))


def main():
    if len(sys.argv) != 3 or "TERCET_DATA" not in os.environ:
        sys.exit("texts.py DIRECTORY BYTES, with TERCET_DATA set")
    data, out = pathlib.Path(os.environ["TERCET_DATA"]), pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").exists():
        write_tokenizer(data, out / "tokenizer.json")
    text = out / "text.txt"
    if not text.exists() or text.stat().st_size < int(sys.argv[2]):
        write_text(data, text, int(sys.argv[2]))


if __name__ == "__main__":
    main()
