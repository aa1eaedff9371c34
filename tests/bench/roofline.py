#!/usr/bin/env python3
"""roofline.py -- PPO on paper: what an iteration on H100s should take by phase, and where its bytes go. Arithmetic alone; nothing here has been measured.

    tests/bench/roofline.py [layers=48 width=1600 heads=25 vocab=50257 positions=1024]      the shape (GPT-2 XL)
                            [batch=512 prompt=128 new=256 epochs=4 slots=64]                the iteration; slots: of one rank
                            [flops=989e12 bandwidth=3.35e12 link=450e9 memory=80e9]         a GPU; link: NVLink, one way
                            [mfu=0.55 stream=0.70 wire=0.80]                                the shares of these that are assumed

A phase takes the larger of its arithmetic at mfu * flops and its traffic at stream * bandwidth, plus what crosses the link at wire * link. The
README's tables are this script's; memory beyond parameters is the program's own count (tercet plan).
"""
import sys

DEFAULTS = dict(layers=48, width=1600, heads=25, vocab=50257, positions=1024, batch=512, prompt=128, new=256, epochs=4, slots=64,
                flops=989e12, bandwidth=3.35e12, link=450e9, memory=80e9, mfu=0.55, stream=0.70, wire=0.80)


def parameters(o):
    """GPT-2: tied embedding, biases; learned numbers."""
    layer = 12 * o["width"] ** 2 + 13 * o["width"]
    return o["layers"] * layer + (o["vocab"] + o["positions"] + 2) * o["width"]


def forward_flops(o, tokens, head_tokens, length):
    """Products of all layers, causal attention over sequences of `length`, and the head where logits are needed."""
    layers = 2 * 12 * o["width"] ** 2 * o["layers"]
    attention = 4 * o["width"] * o["layers"] * (length + 1) / 2
    return tokens * (layers + attention) + head_tokens * 2 * o["width"] * o["vocab"]


def phases(o, ranks):
    """name -> (seconds, what limits) of one iteration on each rank."""
    n, sequences = parameters(o), o["batch"] / ranks
    length = o["prompt"] + o["new"]
    tokens, responses = sequences * length, sequences * o["new"]
    rate, stream, wire = o["mfu"] * o["flops"], o["stream"] * o["bandwidth"], o["wire"] * o["link"]
    found = {}

    # Rollout: prompts at once, then one step per token for `slots` sequences; every step reads all weights and all keys and values.
    slots = min(o["slots"], sequences)
    cached = 2 * o["layers"] * o["width"] * 2  # bytes per token of a sequence, bf16
    step_bytes = 2 * n + slots * cached * (o["prompt"] + o["new"] / 2)
    step_flops = forward_flops(o, slots, slots, 2 * length)
    step = max(step_bytes / stream, step_flops / rate)
    prefill = forward_flops(o, sequences * o["prompt"], sequences, o["prompt"]) / rate
    found["rollout: prompts"] = (prefill, "arithmetic")
    found["rollout: decoding"] = (sequences / slots * o["new"] * step, f"bandwidth: {step_bytes / 1e9:.1f} GB a step, {step * 1e3:.1f} ms")
    lm, scalar = forward_flops(o, tokens, responses, length) / rate, forward_flops(o, tokens, 0, length) / rate
    found["old log-probs"] = (lm, "arithmetic")
    found["reference's log-probs"] = (lm, "arithmetic")
    found["critic's values"] = (scalar, "arithmetic")
    found["reward model"] = (scalar, "arithmetic")
    found[f"update: actor, {o['epochs']} epochs"] = (3 * lm * o["epochs"], "arithmetic")
    found[f"update: critic, {o['epochs']} epochs"] = (3 * scalar * o["epochs"], "arithmetic")
    # AdamW: each rank its slice: gradient, moments and parameter read, moments, parameter and bf16 copy written; the norm reads the gradient.
    adamw = (4 + 8 + 4 + 8 + 4 + 2 + 4) * n / ranks / stream
    found["AdamW, both models"] = (2 * o["epochs"] * adamw, "bandwidth")
    if ranks > 1:
        crossed = 2 * 4 * n * (ranks - 1) / ranks  # gradients to their owners, parameters back, fp32
        found["gradients and parameters between ranks"] = (2 * o["epochs"] * crossed / wire, "link, nothing of it hidden")
    return found


def model_bytes(n, ranks):
    """Per rank: what lives as long as the models do."""
    return {
        "actor and critic: fp32 parameters": 2 * 4 * n,
        "actor and critic: bf16 copies": 2 * 2 * n,
        "one fp32 gradient, which they use in turns": 4 * n,
        "moments of both, shared out over the ranks": 2 * 8 * n / ranks,
        "reference and reward model, which never learn: bf16 alone": 2 * 2 * n,
    }


def table(head, rows):
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main():
    o = dict(DEFAULTS)
    for word in sys.argv[1:]:
        key, _, value = word.partition("=")
        if key not in o:
            sys.exit(__doc__)
        o[key] = type(DEFAULTS[key])(float(value))
    n = parameters(o)
    print(f"{n / 1e9:.3f} G parameters each; {o['batch']} answers of {o['new']} tokens to prompts of {o['prompt']}\n")
    one, eight = phases(o, 1), phases(o, 8)
    rows = [(name, f"{one[name][0]:.2f}" if name in one else "-", f"{seconds:.2f}", limit) for name, (seconds, limit) in eight.items()]
    total = [sum(seconds for seconds, _ in p.values()) for p in (one, eight)]
    rows.append(("an iteration", f"{total[0]:.1f}", f"{total[1]:.1f}", ""))
    rows.append(("new tokens per second, all ranks", *(f"{o['batch'] * o['new'] / t:.0f}" for t in total), ""))
    table(("phase, seconds", "one H100", "each of eight", "limited by"), rows)
    rows = [(name, f"{model_bytes(n, 1)[name] / 1e9:.1f}", f"{model_bytes(n, 8)[name] / 1e9:.1f}") for name in model_bytes(n, 1)]
    rows.append(("together", *(f"{sum(model_bytes(n, r).values()) / 1e9:.1f}" for r in (1, 8))))
    table(("GB per rank", "one", "each of eight"), rows)
    cache = o["slots"] * (o["prompt"] + o["new"]) * 2 * o["layers"] * o["width"] * 2
    print(f"cache of keys and values, {o['slots']} slots: {cache / 1e9:.1f} GB")
    seven = 6.738e9
    print(f"7B (6.738 G parameters): {', '.join(f'{sum(model_bytes(seven, r).values()) / 1e9:.0f} GB per rank on {r}' for r in (1, 8, 64))}; "
          f"all of it shared out: {sum(model_bytes(seven, 1).values()) / 8e9:.0f} GB on each of 8; one card has {o['memory'] / 1e9:.0f}")


if __name__ == "__main__":
    main()
