"""peer_stage.py -- the reward-model stage of configs/stories-sentiment.yaml written for transformers, as somebody would who knows it well.

    peer_stage.py steps=520 eval_every=130 threads=2

The same model directory, texts, pairs per step, lengths, optimizer and schedule, held-out pairs and evaluations as the stage. Both texts of a pair
are one batch, padded to its longest; sorted by length into `chunks` sub-batches, which pay less for padding and more for calls (8 is the
fastest here). Evaluations run without gradients over all held-out texts in length-sorted batches; no text is read twice. One round is the whole stage.
"""

import json
import math
import os
import pathlib
import random
import sys
import time

import peer

LENGTH, GAP, BATCH, PEAK_LR, WARMUP = 160, 1.0, 64, 2e-3, 50


def read_rated(path, encode):
    rows = [line.split("\t", 1) for line in path.read_text().splitlines()]
    return [(float(rating), encode(text)) for rating, text in rows]


def read_pairs(path, encode):
    """The texts of held-out pairs, each once, and the pairs as indices (better, worse)."""
    index, pairs = {}, []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        pairs.append([index.setdefault(record[key], len(index)) for key in ("chosen", "rejected")])
    return [encode(text) for text in index], pairs


def draw_pair(rated, order):
    """Two texts whose ratings differ by at least GAP, the better one first."""
    while True:
        (a, x), (b, y) = order.choice(rated), order.choice(rated)
        if abs(a - b) >= GAP:
            return (x, y) if a > b else (y, x)


class Stage:
    def __init__(self, options):
        import torch
        from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

        self.torch, self.options = torch, options
        torch.manual_seed(0)
        torch.set_num_threads(options["threads"])
        data = pathlib.Path(os.environ["TERCET_DATA"])
        source = data / "models/stories260K-hf"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source)

        def encode(text):
            return tokenizer.encode(text, add_special_tokens=True)[:LENGTH]

        split = data / "datasets/vader-ratings/split"
        self.rated = read_rated(split / "train.tsv", encode)
        self.texts, self.pairs = read_pairs(split / "test_pairs.jsonl", encode)
        self.model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, pad_token_id=0, attn_implementation="sdpa")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=PEAK_LR, weight_decay=0.0, fused=True)

    def lr(self, step):
        if step < WARMUP:
            return (step + 1) / WARMUP
        return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (self.options["steps"] - WARMUP)))

    def score(self, texts):
        """Rewards (texts) of token lists, padded on the right to the longest: the last token before the padding is read."""
        torch = self.torch
        longest = max(map(len, texts))
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        mask = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        seen = dict(attention_mask=mask) if self.options["mask"] else {}
        hidden = self.model.model(input_ids=ids, use_cache=False, **seen).last_hidden_state
        last = mask.sum(1) - 1
        return self.model.score(hidden[torch.arange(len(texts)), last]).squeeze(-1)

    def score_sorted(self, texts, size):
        """The same in batches of `size`, sorted by length."""
        torch = self.torch
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = [self.score([texts[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
        scores = torch.cat(parts)
        return scores[torch.argsort(torch.tensor(order))]

    def accuracy(self):
        with self.torch.inference_mode():
            score = self.score_sorted(self.texts, 128).tolist()
        return sum(score[better] > score[worse] for better, worse in self.pairs) / len(self.pairs)

    def train(self):
        torch = self.torch
        order = random.Random(0)
        accuracy = self.accuracy()
        for step in range(self.options["steps"]):
            drawn = [draw_pair(self.rated, order) for _ in range(BATCH)]
            texts = [better for better, _ in drawn] + [worse for _, worse in drawn]
            score = self.score_sorted(texts, math.ceil(len(texts) / self.options["chunks"]))
            loss = -torch.nn.functional.logsigmoid(score[:BATCH] - score[BATCH:]).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.param_groups[0]["lr"] = PEAK_LR * self.lr(step)
            self.optimizer.step()
            if (step + 1) % self.options["eval_every"] == 0 or step + 1 == self.options["steps"]:
                accuracy = self.accuracy()
        return accuracy


def main():
    options = peer.options(sys.argv[1:], steps=520, eval_every=130, chunks=8, mask=0)
    os.environ["OMP_NUM_THREADS"] = str(options["threads"])
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch  # noqa: F401 -- before the clock runs
    import transformers  # noqa: F401

    def once():
        since = time.perf_counter()
        accuracy = Stage(options).train()
        return dict(seconds=time.perf_counter() - since, accuracy=accuracy)

    peer.serve(once)


if __name__ == "__main__":
    main()
