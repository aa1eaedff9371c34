"""peer.py -- what every peer's worker shares: its options, the driver's protocol (bench.c has the same), and the shapes of work.c."""

import json
import sys
import time

STARTED = time.perf_counter()


def options(words, **defaults):
    """key=value words over defaults, whose types they take; an unknown key ends the program. Every worker has threads= and repeat=."""
    defaults = dict(threads=2, repeat=1, **defaults)
    values = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in defaults:
            sys.exit(f"'{word}': expected one of {', '.join(key + '=' for key in defaults)}")
        values[key] = type(defaults[key])(value)
    return values


def tell(**figures):
    print(json.dumps(figures), flush=True)


def peak_bytes():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def serve(once, repeat=1, **ready):
    """Set-up is over: do `once`, which returns figures, `repeat` times for each "go", and tell the mean of each figure."""
    tell(ready=True, setup_seconds=time.perf_counter() - STARTED, **ready)
    for line in sys.stdin:
        if not line.startswith("go"):
            break
        rounds = [once() for _ in range(repeat)]
        tell(**{key: sum(figures[key] for figures in rounds) / repeat for key in rounds[0]})
    tell(peak_bytes=peak_bytes())


def read_lengths(path, count, each):
    """Tokens of each of `count` sequences: `each`, or the first lines of a file."""
    if not path:
        return [each] * count
    with open(path) as file:
        lengths = [int(line) for line in file][:count]
    if len(lengths) < count:
        sys.exit(f"{path}: expected {count} lengths, found {len(lengths)}")
    return lengths


def config_of(shape):
    """The configuration of transformers; no token ends or pads anything."""
    from transformers import GPT2Config, LlamaConfig

    none = dict(bos_token_id=None, eos_token_id=None)
    if shape == "260k":
        return LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=5, num_attention_heads=8,
                           num_key_value_heads=4, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True, **none)
    if shape == "gpt2-124m":
        return GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **none)
    if shape == "smol-135m":
        return LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                           num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0,
                           tie_word_embeddings=True, **none)
    sys.exit(f"shape={shape}: expected 260k, gpt2-124m or smol-135m")
