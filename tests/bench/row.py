"""row.py -- a row of the table, and the commands that rows are made of.

A command's words may hold {bench} (our worker), {python} (the peers' interpreter), {here} (this folder), {threads}, {mpirun}, {scratch}, {data}
(TERCET_DATA), {source} (the checkout) and what the row's `prepare` returns. Both sides of a row do the same work on the same shapes in fp32 on as
many threads.
"""

from dataclasses import dataclass
from typing import Callable, Optional


@dataclass(frozen=True)
class Row:
    name: str
    what: str  # for a person
    ours: list
    peer: Optional[list] = None
    against: str = ""  # the peer, for a person
    limit: Optional[Callable] = None  # (machine's figures, ours) -> seconds
    ratio: object = None  # aim: peer's seconds / ours at least; a number, or a function of (ours, peer)
    share: Optional[float] = None  # aim: limit / ours at least
    memory: Optional[float] = None  # aim: our peak memory / the peer's at most
    seconds: object = None  # aim: at most so long; a number, or a function of (ours)
    rounds: Optional[int] = None  # instead of --rounds; with 1 there is no warm-up either
    prepare: Optional[Callable] = None  # (context) -> more substitutions
    needs_data: bool = False
    growth: Optional[Callable] = None  # (machine's figures, ours, peer's) -> (time, memory) of ours over the peer's, by arithmetic; both +- 15 %


def bench(*words):
    return ["{bench}", *words, "threads={threads}", "dir={scratch}"]


def mpirun(ranks, *words):
    """Our worker on ranks of one thread, launched as `tercet run` does."""
    flags = "--quiet --allow-run-as-root --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none -np".split()
    return ["{mpirun}", *flags, str(ranks), "{bench}", *words, "threads=1", "dir={scratch}"]


def torch(*words):
    return ["{python}", "{here}/peer_torch.py", *words, "threads={threads}"]


def llama(*words):
    return ["{python}", "{here}/peer_llama.py", *words, "threads={threads}"]
