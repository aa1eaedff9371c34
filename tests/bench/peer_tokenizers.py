"""peer_tokenizers.py -- Hugging Face tokenizers on the text of texts.py, to stand beside work_text.c.

    peer_tokenizers.py text=FILE tokenizer=FILE threads=2

A round reads the file, cuts it into lines and encodes them in batches of 8192 with all threads, by the fastest call (encode_batch_fast: no
offsets). The ids stay where Rust made them: neither turned into Python's integers nor written anywhere, both of which our side's round includes.
"""

import os
import sys
import time

import peer

LINES = 8192


def main():
    options = peer.options(sys.argv[1:], text="", tokenizer="")
    os.environ["RAYON_NUM_THREADS"] = str(options["threads"])
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(options["tokenizer"])

    def once():
        since = time.perf_counter()
        with open(options["text"], encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\n") for line in file]
        tokens = len(lines)  # the end of each, which our side appends
        for start in range(0, len(lines), LINES):
            tokens += sum(map(len, tokenizer.encode_batch_fast(lines[start : start + LINES], add_special_tokens=False)))
        return dict(seconds=time.perf_counter() - since, tokens=tokens)

    peer.serve(once)


if __name__ == "__main__":
    main()
