"""Does a model repeat its training text word for word? The longest run of tokens that a text shares with a corpus.

Exact, and fast enough for a whole newspaper: runs of `SEED` tokens are found by their hashes in one pass over the
corpus, then compared token by token and followed to their ends. Only where a run begins is it followed, so a run is
followed once however long it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SEED = 8  # tokens; shorter runs are everyday phrases and are not looked for
CHUNK = 1 << 22  # corpus tokens hashed at once
PAIRS = 1 << 22  # candidates compared at once
FILTER_BITS = 22
_BASE = np.array([0x9E3779B97F4A7C15], dtype=np.uint64)  # odd, so that no token is lost from a hash
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SEPARATOR = (1 << 32) - 1  # between texts: no token

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Run:
    """The longest run that a text shares with the corpus; 0 tokens where none has `SEED`."""

    tokens: int
    text_start: int  # where it is in the text
    corpus_start: int  # where it stands first in the corpus


def longest_runs(texts: Sequence[Sequence[int]], corpus: Array) -> list[Run]:
    """For each of `texts` (token ids) its longest run that is found in `corpus` (1-d, unsigned), exactly.

    Beginning- and end-of-text in the corpus end a run, as long as `texts` have none.
    """
    text, starts = _joined(texts)
    best: list[Array] = [np.zeros(len(texts), dtype=np.int64) for _ in range(3)]
    if len(text) >= SEED:
        for places, queries in _candidates(text, corpus):
            _follow(places, queries, text, starts, corpus, best)
    return [Run(int(n), int(q), int(p)) for n, q, p in zip(*best, strict=True)]


def _joined(texts: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """All texts in one array, a separator after each; where each begins."""
    parts = [np.array([*text, _SEPARATOR], dtype=np.uint32) for text in texts]
    starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
    return (np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)), starts


def _hashes(tokens: Array) -> Array:
    """A 64-bit hash of every run of SEED tokens: of pairs, of pairs of pairs, …"""
    hashes: Array = tokens.astype(np.uint64)
    width, base = 1, _BASE
    while width < SEED:
        hashes = hashes[:-width] * base + hashes[width:]
        width, base = 2 * width, base * base
    return hashes * _MIX


def _candidates(text: Array, corpus: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs (place in the corpus, place in the text) whose runs of SEED tokens have the same hash, in corpus order."""
    hashes = _hashes(text)
    order = np.argsort(hashes, kind="stable")
    values = hashes[order]
    shift = np.uint64(64 - FILTER_BITS)
    known: Array = np.zeros(1 << FILTER_BITS, dtype=bool)
    known[values >> shift] = True
    for first in range(0, max(0, len(corpus) - SEED + 1), CHUNK):
        found = _hashes(corpus[first : first + CHUNK + SEED - 1])
        places = np.flatnonzero(known[found >> shift])  # most of the corpus falls through here
        wanted = found[places]
        low, high = (np.asarray(np.searchsorted(values, wanted, side=side)) for side in ("left", "right"))
        counts = high - low
        places, low, counts = places[counts > 0] + first, low[counts > 0], counts[counts > 0]
        ends = np.cumsum(counts)
        begin = 0
        while begin < len(places):  # one very common run may have very many partners
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
            n, total = counts[begin:end], int(ends[end - 1] - done)
            within = np.arange(total) - np.repeat(np.cumsum(n) - n, n)
            yield np.repeat(places[begin:end], n), order[np.repeat(low[begin:end], n) + within]
            begin = end


def _follow(places: Array, queries: Array, text: Array, starts: Array, corpus: Array, best: list[Array]) -> None:
    """Follow each pair that is the beginning of a run to its end, and keep each text's longest in `best`."""
    # A run that could begin a token earlier was met there. The separator before a text equals no token.
    before = (places > 0) & (queries > 0) & (corpus[places - 1] == text[queries - 1])
    places, queries = places[~before], queries[~before]
    alive, length = np.arange(len(places)), 0
    lengths: Array = np.zeros(len(places), dtype=np.int64)
    while len(alive):
        ahead = places[alive] + length
        inside = ahead < len(corpus)
        same = inside & (corpus[np.where(inside, ahead, 0)] == text[queries[alive] + length])
        lengths[alive[~same]] = length
        alive, length = alive[same], length + 1
    whole = lengths >= SEED  # others had the same hash only
    lengths, places, queries = lengths[whole], places[whole], queries[whole]
    owners = np.searchsorted(starts, queries, side="right") - 1
    order = np.lexsort((places, -lengths, owners))  # each text's longest first
    found, first = np.unique(owners[order], return_index=True)
    for owner, winner in zip(found, order[first], strict=True):
        if lengths[winner] > best[0][owner]:
            start = queries[winner] - starts[owner]
            best[0][owner], best[1][owner], best[2][owner] = lengths[winner], start, places[winner]
