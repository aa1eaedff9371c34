"""rows.py -- what is measured, against whom, and what is aimed at: one row per line of the table. The rows of whole iterations, stages, files and
ranks are in rows_system.py."""

import limits
import prepare
import rows_system
from row import Row, bench, llama, torch


def decode_rows():
    prompts = {"gpt2-124m": (32, 64), "smol-135m": (32, 64), "260k": (16, 64)}
    table = [
        ("124m", "gpt2-124m", "transformers", [(1, 1.5, 0.8), (8, 3.5, 0.8), (32, 3.3, 0.53)]),
        ("135m", "smol-135m", "llama.cpp", [(1, 1.1, None), (8, 2.2, None), (32, 2.8, None)]),
        ("135m-transformers", "smol-135m", "transformers", [(1, None, None), (8, None, None), (32, None, None)]),
        ("260k", "260k", "transformers", [(1, 30, None), (8, 20, None), (64, 10, None)]),
    ]
    for name, shape, against, variants in table:
        prompt, new = prompts[shape]
        for batch, ratio, share in variants:
            words = [*(["repeat=10"] if shape == "260k" else []), f"batch={batch}", f"prompt={prompt}", f"new={new}"]
            compiled = shape == "gpt2-124m" or (shape == "smol-135m" and batch <= 8)  # where it was found faster (README)
            settings = ["cache=static", "compile=1"] if compiled else []
            yield Row(
                name=f"decode-{name}-b{batch}",
                what=f"decode {shape}, {prompt} + {new} tokens, B = {batch}",
                ours=bench("decode", f"shape={shape}", *words),
                peer=llama("decode", *words) if against == "llama.cpp" else torch("decode", f"shape={shape}", *words, *settings),
                against=against,
                limit=lambda machine, ours, s=shape, b=batch, p=prompt, n=new: limits.seconds(limits.decode(s, b, p, n), machine),
                ratio=ratio,
                share=share,
            )


def prefill_row(name, shape, prompt, peer, against, ratio=None, share=None):
    return Row(
        name=name,
        what=f"prefill {shape}, T = {prompt}, B = 1, last row's logits",
        ours=bench("prefill", f"shape={shape}", f"prompt={prompt}"),
        peer=peer,
        against=against,
        limit=lambda machine, ours: limits.seconds(limits.prefill(shape, 1, prompt), machine),
        ratio=ratio,
        share=share,
    )


def train_row(name, what, shape, words, peer_words=(), settings=(), **more):
    """settings: of ours alone."""
    return Row(
        name=name,
        what=what,
        ours=bench("train", f"shape={shape}", *words, *settings),
        peer=torch("train", f"shape={shape}", *words, *peer_words),
        limit=lambda machine, ours: limits.seconds(limits.training_step(shape, ours["tokens"], ours["pairs"], ours["steps"]), machine),
        **more,
    )


ROWS = [
    train_row("train-124m", "training step gpt2-124m, B4 x T256", "gpt2-124m", ["batch=4", "tokens=256"], against="PyTorch eager",
              ratio=1.5, share=0.85, memory=0.6),
    train_row("train-124m-compile", "the same", "gpt2-124m", ["batch=4", "tokens=256"], ["compile=1"], against="torch.compile", ratio=1.15),
    train_row("train-124m-ragged", "4 steps of 4 texts of oasst, unpadded", "gpt2-124m", ["batch=4", "steps=4", "lengths={lengths}"],
              against="PyTorch, padded", ratio=lambda ours, peer: 1.4 * peer["padded_tokens"] / peer["tokens"],
              prepare=prepare.batches_of_similar_length, needs_data=True),
    Row("adamw-124m", "AdamW alone, 124M parameters", bench("adamw", "repeat=5"), torch("adamw", "repeat=5"), "torch fused",
        limit=lambda machine, ours: limits.seconds(limits.adamw("gpt2-124m"), machine), ratio=1.0, share=0.9),
    *decode_rows(),
    prefill_row("prefill-135m", "smol-135m", 512, llama("prefill", "prompt=512"), "llama.cpp", ratio=1.7),
    prefill_row("prefill-135m-transformers", "smol-135m", 512, torch("prefill", "shape=smol-135m", "prompt=512"), "transformers"),
    prefill_row("prefill-124m", "gpt2-124m", 1023, torch("prefill", "shape=gpt2-124m", "prompt=1023"), "transformers", share=0.8),
    train_row("train-260k", "training step 260k, B32 x T128", "260k", ["batch=32", "tokens=128", "repeat=5"], settings=["lanes=8"],
              against="PyTorch eager", ratio=2.9),
    Row("score-135m", "reward model smol-135m, 512 texts of oasst", bench("score", "texts=512", "lengths={lengths}"),
        torch("score", "texts=512", "lengths={lengths}"), "transformers, padded",
        limit=lambda machine, ours: limits.seconds(limits.score("smol-135m", ours["tokens"], ours["pairs"]), machine), ratio=1.5,
        prepare=prepare.texts_of_mixed_length, needs_data=True),
    *rows_system.rows(),
]
