"""limits.py -- the least time that a piece of work can take on a machine: the arithmetic that README spells out row by row.

A work is a list of pieces. Each costs max(bytes / bandwidth, FLOPs / peak), and the limit is their sum; bandwidth and peak are measured beside the
work by `bench machine`. Counted is what any implementation must do: the products with their weights read once per visit, attention's products over
the pairs that a causal mask leaves, keys and values of the past, and the optimizer's passes. Not counted is what can ride along with a product or
stay in a cache: norms, activations, residuals, softmax. So a limit is a bound from below, and a share of 1 cannot be passed by good accounting.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    positions: int  # rows of a learned position table, or 0
    gated: bool = False
    biases: bool = False

    @property
    def head_dim(self):
        return self.width // self.heads

    @property
    def products(self):
        """(inputs, outputs) of the products of one layer."""
        up = 2 * self.ffn if self.gated else self.ffn
        return [(self.width, self.width + 2 * self.kv_heads * self.head_dim), (self.width, self.width), (self.width, up), (self.ffn, self.width)]

    @property
    def parameters(self):
        per_layer = sum(i * o + (o if self.biases else 0) for i, o in self.products) + (4 if self.biases else 2) * self.width
        return self.layers * per_layer + (self.vocab + self.positions) * self.width + (2 if self.biases else 1) * self.width

    @property
    def cached(self):
        """Small enough for a processor's caches, so that memory's bandwidth bounds nothing."""
        return 4 * self.parameters < 16 << 20


SHAPES = {
    "260k": Shape(5, 64, 8, 4, 172, 512, 0, gated=True),
    "gpt2-124m": Shape(12, 768, 12, 12, 3072, 50257, 1024, biases=True),
    "smol-135m": Shape(30, 576, 9, 3, 1536, 49152, 0, gated=True),
}


@dataclass(frozen=True)
class Piece:
    what: str
    count: float
    flops: float
    bytes: float = 0
    stream: bool = False  # reads and writes in AdamW's proportion, whose bandwidth is measured by itself


def seconds(pieces, machine):
    def one(piece):
        bandwidth = machine["stream_bytes"] if piece.stream else machine["read_bytes"]
        return piece.count * max(piece.bytes / bandwidth, piece.flops / machine["gemm_flops"])

    return sum(one(piece) for piece in pieces)


def causal_pairs(lengths):
    """(query, key) pairs that causal attention visits."""
    return sum(n * (n + 1) / 2 for n in lengths)


def forward(shape, tokens, pairs, head_rows, past=0, passes=1):
    """One visit of the decoder. past: tokens whose keys and values are read from a cache. passes: 1 forward; 3 with backward, which needs two
    products for each of the forward's."""
    s = SHAPES[shape]
    memory = 0 if s.cached else 4
    pieces = [Piece(f"product {i}x{o}", passes * s.layers, 2.0 * tokens * i * o, memory * i * o) for i, o in s.products]
    pieces.append(Piece("attention", passes * s.layers, 4.0 * pairs * s.width, memory * 2 * past * s.kv_heads * s.head_dim))
    if head_rows:
        pieces.append(Piece("LM head", passes, 2.0 * head_rows * s.width * s.vocab, memory * s.width * s.vocab))
    return pieces


def training_step(shape, tokens, pairs, steps=1, head_rows=None, scores_again=False):
    """head_rows: rows that carry loss, if not every token does. scores_again: count what backward pays for not keeping tokens x tokens scores, one
    more of attention's two products."""
    s = SHAPES[shape]
    memory = 0 if s.cached else s.parameters
    again = [Piece("scores again", s.layers, 2.0 * pairs * s.width)] if scores_again else []
    return forward(shape, tokens, pairs, tokens if head_rows is None else head_rows, passes=3) + again + [
        Piece("gradient norm", steps, 0, 4.0 * memory),
        Piece("AdamW", steps, 0, 28.0 * memory, stream=True),
    ]


def adamw(shape):
    return [Piece("AdamW", 1, 0, 28.0 * SHAPES[shape].parameters, stream=True)]


def decode(shape, batch, prompt, new):
    """`new` steps of one token for each of `batch` sequences; the first finds prompt tokens in the cache."""
    pieces = []
    for step in range(new):
        past = prompt + step
        pieces += forward(shape, batch, batch * (past + 1), batch, past=batch * past)
    return pieces


def prefill(shape, batch, prompt):
    return forward(shape, batch * prompt, batch * causal_pairs([prompt]), batch)


def score(shape, tokens, pairs):
    return forward(shape, tokens, pairs, 0)


def ppo_iteration(shape, batch, prompt, new, epochs, merged=False):
    """Sampling, the reward model on whole texts, policy and reference with the LM head on response rows, the critic, then `epochs` training steps of
    policy and critic each. merged: the first two of these go on from the policy's and the critic's passes before."""
    s = SHAPES[shape]
    tokens, pairs, rows = batch * (prompt + new), batch * causal_pairs([prompt + new]), batch * new
    pieces = prefill(shape, batch, prompt) + decode(shape, batch, prompt, new - 1)
    for head_rows in (0, rows, rows, 0):
        pieces += forward(shape, tokens, pairs, head_rows)
    for head_rows in (rows, 0):
        pieces += epochs * training_step(shape, tokens, pairs, head_rows=head_rows)
    if merged:
        pieces += forward(shape, tokens, pairs, 0, passes=-2)
    return pieces


def activations_bytes(shape, tokens):
    """What a forward leaves for backward: per layer two residual sums, two norms, qkv, attention's output, both projections' outputs and up (with
    gate); what the activation gave is made again."""
    s = SHAPES[shape]
    qkv = s.width + 2 * s.kv_heads * s.head_dim
    return 4.0 * tokens * s.layers * (7 * s.width + qkv + (2 if s.gated else 1) * s.ffn)
