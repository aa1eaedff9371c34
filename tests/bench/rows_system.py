"""rows_system.py -- rows of whole jobs: PPO iterations, a stage, start, files, tokenising, ranks, and how all of it grows."""

import limits
import prepare
from row import Row, bench, mpirun


def ppo_row(name, shape, what, words, ratio, memory, settings=()):
    """settings: of ours alone."""
    number = {key: int(value) for key, value in (word.split("=") for word in words)}
    return Row(
        name=f"ppo-{name}",
        what=f"PPO iteration, four {shape}, {what}, 4 epochs",
        ours=bench("ppo", f"shape={shape}", *words, *settings),
        peer=["{python}", "{here}/peer_trl.py", f"shape={shape}", *words, "threads={threads}"],
        against="TRL",
        limit=lambda machine, ours: limits.seconds(
            limits.ppo_iteration(shape, number["batch"], number["prompt"], number["new"], 4, merged="merge=1" in settings), machine),
        ratio=ratio,
        memory=memory,
    )


def program(*words, **options):
    return ["python3", "{here}/program.py", *(f"{key}={value}" for key, value in options.items()), "--", "{source}/build/tercet", *words]


def raw(machine, ours):
    return ours["raw_seconds"]


def file_row(name, what, work, limit=raw, **more):
    return Row(name=name, what=what, ours=bench(*work), limit=limit, **more)


def start_limit(machine, ours):
    return 0.2 + ours["raw_seconds"]


def ranks_row(name, what, work, share):
    """Two ranks of one thread against one rank of two."""
    return Row(name=f"ranks-{name}", what=what, ours=mpirun(2, *work), peer=["{bench}", *work, "threads=2", "dir={scratch}"],
               against="1 rank, 2 threads", ratio=share)


# --- Growth: "peer" is the same work of ours with less to do ---------------------------------------------------------


def training_growth(shape, big, small):
    """Tokens of a step, one unit each: (sequences, length). Memory grows by the activations."""

    def growth(machine, ours, base):
        time = [limits.seconds(limits.training_step(shape, figures["tokens"], figures["pairs"], scores_again=True), machine) for figures in (ours, base)]
        more = limits.activations_bytes(shape, ours["tokens"]) - limits.activations_bytes(shape, base["tokens"])
        return time[0] / time[1], 1 + more / base["peak_bytes"]

    def words(sequences, length):
        return bench("train", f"shape={shape}", f"batch={sequences}", f"tokens={length}", f"unit_tokens={sequences * length}")

    return dict(ours=words(*big), peer=words(*small), growth=growth)


def ranks_memory(shape, ranks):
    """Parameters and gradients are each rank's own; moments and activations are shared out."""

    def growth(machine, ours, base):
        return None, 1 + (ranks - 1) * 2 * 4.0 * limits.SHAPES[shape].parameters / base["peak_bytes"]

    return growth


def growth_rows():
    train, tokenise = "train", ["tokenise", "tokenizer={tokenizer}"]
    yield Row("growth-tokens", "training step gpt2-124m: B8 against B1, T256", against="ours, B1",
              **training_growth("gpt2-124m", (8, 256), (1, 256)))
    yield Row("growth-context", "training step smol-135m, 4096 tokens: context 4096 against 256", against="ours, 16 x 256",
              **training_growth("smol-135m", (1, 4096), (16, 256)))
    work = [train, "shape=gpt2-124m", "batch=4", "tokens=256", "unit_tokens=1024"]
    yield Row("growth-ranks", "training step gpt2-124m, B4 x T256: 2 ranks against 1, one thread each", mpirun(2, *work), mpirun(1, *work),
              "ours, 1 rank", growth=lambda machine, ours, base: (0.5, ranks_memory("gpt2-124m", 2)(machine, ours, base)[1]))
    yield Row("growth-ranks-4", "its memory on 4 ranks", mpirun(4, *work), mpirun(1, *work), "ours, 1 rank", rounds=1,
              growth=ranks_memory("gpt2-124m", 4))
    yield Row("growth-data", "tokenising 100 MB against 10 MB", bench(*tokenise, "text={text}"), bench(*tokenise, "text={tenth}"), "ours, 10 MB",
              growth=lambda machine, ours, base: (ours["bytes"] / base["bytes"], 1 + 64 * (ours["texts"] - base["texts"]) / base["peak_bytes"]), prepare=prepare.texts, needs_data=True)
    stage = ["sft", "{experiment}", "threads={threads}", "output={{out}}"]
    yield Row("growth-data-memory", "sft on 200 MB of text in 192 MiB of memory, cached files included, against enough",
              program(*stage, memory_limit=192 << 20), program(*stage), "ours, enough memory", rounds=1, prepare=prepare.large_experiment,
              needs_data=True)


def rows():
    stage = ["rm", "{source}/configs/stories-sentiment.yaml", "rm.model={data}/models/stories260K-hf", "ranks=1", "threads={threads}",
             "output={{out}}"]
    yield ppo_row("124m", "gpt2-124m", "8 x (32 + 32)", ["batch=8", "prompt=32", "new=32"], ratio=2.3, memory=0.72,
                  settings=["merge=1"])
    yield ppo_row("260k", "260k", "64 x (16 + 64)", ["batch=64", "prompt=16", "new=64"], ratio=6, memory=0.13,
                  settings=["lanes=8", "unit_tokens=320", "repeat=5"])
    yield Row("stage-rm", "whole reward-model stage of stories-sentiment", program(*stage), ["{python}", "{here}/peer_stage.py", "threads={threads}"],
              "transformers", ratio=7, rounds=1, needs_data=True)
    yield file_row("start-260k", "process start to first training step, 260k", ["start", "shape=260k"], start_limit,
                   seconds=lambda ours: start_limit(None, ours))
    yield file_row("start-124m", "the same, gpt2-124m: 0.2 s plus reading the model", ["start", "shape=gpt2-124m"], start_limit,
                   seconds=lambda ours: start_limit(None, ours))
    yield file_row("files-load", "loading a 500 MB safetensors model, uncached", ["load"], share=0.9)
    yield file_row("files-save", "saving a 1.5 GB checkpoint, synced", ["save"], share=0.9)
    yield file_row("files-restore", "loading a 1.5 GB checkpoint, uncached", ["restore"], share=0.9)
    yield Row("tokenise", "tokenising 100 MB of text", bench("tokenise", "text={text}", "tokenizer={tokenizer}"),
              ["{python}", "{here}/peer_tokenizers.py", "text={text}", "tokenizer={tokenizer}", "threads={threads}"], "HF tokenizers", ratio=1.5,
              prepare=prepare.texts, needs_data=True)
    for batch, share in ((4, 0.9), (16, 0.95)):
        yield ranks_row(f"train-b{batch}", f"2 ranks x 1 thread, training gpt2-124m, B{batch} x T256", ["train", f"batch={batch}", "tokens=256"], share)
    yield ranks_row("ppo-124m", "2 ranks x 1 thread, PPO iteration, gpt2-124m, 8 x (32 + 32)", ["ppo"], 0.9)
    yield ranks_row("ppo-260k", "2 ranks x 1 thread, PPO iteration, 260k, 64 x (16 + 64)",
                    ["ppo", "shape=260k", "batch=64", "prompt=16", "new=64", "lanes=8", "unit_tokens=320", "repeat=5"], 0.9)
    yield from growth_rows()
