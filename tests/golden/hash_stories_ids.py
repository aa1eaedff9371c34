#!/usr/bin/env python3
"""Prints the FNV-1a hash (64 bits, over ids as 4 little-endian bytes and -1 after each text) of what Hugging Face
tokenizers gives for the 211 texts with the tokenizer of stories260K-hf. t301 holds the number.
Usage: TERCET_DATA=... hash_stories_ids.py"""
import json
import os

from tokenizers import Tokenizer

data = os.environ["TERCET_DATA"]
tokenizer = Tokenizer.from_file(f"{data}/models/stories260K-hf/tokenizer.json")
value = 0xCBF29CE484222325
for line in open(f"{data}/vectors/texts_211.jsonl", encoding="utf-8"):
    for token in tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids + [-1]:
        for byte in (token & 0xFFFFFFFF).to_bytes(4, "little"):
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
print(f"0x{value:016x}")
