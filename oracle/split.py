"""Which document trains, which validates, which is held out: decided once, by text, and checked for leaks.

Documents that repeat each other, exactly or nearly, form a group, and a group falls on one side. The side follows
from a hash of its longest text, so it does not depend on the order of the corpus. A group with a document of the
held-out dates is held out whole.
"""

from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from tqdm import tqdm

from oracle.cli import UserError
from oracle.corpus import CorpusReader
from oracle.dedup import Resemblance
from oracle.settings import Config
from oracle.text import normalize

TRAIN, VAL, HELDOUT, BLANK = range(4)


@dataclass
class Assigned:
    """The side of every document, in the order of the corpus, and what the manifest says of it."""

    sides: np.ndarray  # D int8: TRAIN, VAL, HELDOUT, or BLANK for a document without text
    hashes: np.ndarray  # D uint64, of the normalised text
    sizes: np.ndarray  # D int64: UTF-8 bytes of the normalised text
    corpus: dict[str, int]  # documents, bytes, characters, undated
    split: dict[str, Any]  # groups found, groups joined by the leak check
    leaks: dict[str, int]  # held-out split -> its documents that have a near-duplicate elsewhere; empty if unknown


class _Survey:
    """Passes the normalised texts of a corpus on, and notes 17 bytes about each."""

    def __init__(self, reader: CorpusReader, config: Config) -> None:
        self._reader, self._config = reader, config
        self._hashes, self._sizes, self._dated = array("Q"), array("q"), bytearray()
        self.characters = self.undated = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        key = self._config.seed.to_bytes(8, "little")
        first_day = self._config.heldout_from
        with tqdm(desc="measure", unit="char", unit_scale=True) as progress:
            for number, document in enumerate(self._reader):
                text = normalize(document.text)
                if text.isspace():
                    text = ""
                data = text.encode()
                digest = blake2b(data, digest_size=8, key=key).digest()
                self._hashes.append(int.from_bytes(digest, "little"))
                self._sizes.append(len(data))
                self._dated.append(bool(first_day) and document.date >= first_day)
                self.characters += len(text)
                self.undated += bool(data) and not document.date
                progress.update(len(document.text))
                yield str(number), text

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hashes (uint64), sizes (int64), and which documents are of the held-out dates (bool)."""
        dated = np.frombuffer(bytes(self._dated), bool)
        return np.array(self._hashes, np.uint64), np.array(self._sizes, np.int64), dated


def assign(reader: CorpusReader, config: Config, workers: int) -> Assigned:
    """Read the corpus once and decide the side of every document.

    Memory: 17 bytes a document, and what `oracle.dedup` holds where `near_duplicates` is set. Raises UserError if
    a side that must not be empty is.
    """
    survey = _Survey(reader, config)
    if config.near_duplicates:
        with closing(Resemblance(survey, workers=workers)) as resemblance:
            hashes, sizes, dated = survey.arrays()
            groups = _Groups(resemblance.groups(), hashes, sizes, dated)
            leaks = groups.repair(resemblance, config.val_fraction)
    else:
        for _ in survey:
            pass
        hashes, sizes, dated = survey.arrays()
        groups, leaks = _Groups([], hashes, sizes, dated), {}
    sides = groups.sides(config.val_fraction)
    _check(sides, survey, config)
    corpus = {
        "documents": int((sizes > 0).sum()),
        "bytes": int(sizes.sum()),
        "characters": survey.characters,
        "undated": survey.undated,
    }
    return Assigned(sides, hashes, sizes, corpus, {"groups": groups.count, "joined_by_check": groups.joined}, leaks)


class _Groups:
    """Which documents belong together; alone, a document is a group of its own."""

    def __init__(self, groups: list[list[int]], hashes: np.ndarray, sizes: np.ndarray, dated: np.ndarray) -> None:
        self._hashes, self._has_text, self._dated = hashes, sizes > 0, dated
        # Exact copies are together even where nobody looked for near ones.
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        self._leader = first[inverse]
        for group in groups:
            self._leader[group] = max(group, key=lambda i: (sizes[i], hashes[i]))
        self.count, self.joined = len(groups), 0

    def sides(self, val_fraction: float) -> np.ndarray:
        """D int8. Where no hash is low enough for validation, as in a small corpus, the lowest validates."""
        held: np.ndarray = np.zeros(len(self._leader), bool)
        held[self._leader[self._dated & self._has_text]] = True
        held = held[self._leader]
        keys = self._hashes[self._leader]
        rest = self._has_text & ~held
        val = rest & (keys < np.uint64(val_fraction * (1 << 64)))
        if rest.any() and not val.any():
            val = rest & (keys == keys[rest].min())
        sides = np.where(val, VAL, np.where(held, HELDOUT, TRAIN)).astype(np.int8)
        sides[~self._has_text] = BLANK
        return sides

    def repair(self, resemblance: Resemblance, val_fraction: float) -> dict[str, int]:
        """Join the groups of every pair that leaks across the split, until none does; returns what is left: zeros.

        A group that leaked takes the side of the training document, unless it is of the held-out dates.
        """
        while True:
            sides = self.sides(val_fraction)
            named = {"validation": resemblance.leaks(sides == TRAIN, sides == VAL)}
            if self._dated.any():
                named["heldout"] = resemblance.leaks((sides == TRAIN) | (sides == VAL), sides == HELDOUT)
            if not any(named.values()):
                return {split: len(found) for split, found in named.items()}
            for leak in (leak for found in named.values() for leak in found):
                old, new = self._leader[leak.held], self._leader[leak.train]
                if old != new:
                    self._leader[self._leader == old] = new
                    self.joined += 1


def _check(sides: np.ndarray, survey: _Survey, config: Config) -> None:
    counts = np.bincount(sides, minlength=4)
    documents = len(sides) - counts[BLANK]
    if documents < 2:
        what = "is empty" if not documents else "holds one document, and validation needs a second"
        raise UserError(
            f"{config.corpus}: the corpus {what}; give more text, or lower text_chunk_chars to cut text files"
        )
    if config.heldout_from and not counts[HELDOUT]:
        raise UserError(
            f"heldout_from={config.heldout_from}: no document is of that day or later ({survey.undated} of"
            f" {documents} have no ISO date); give an earlier day, or leave it out"
        )
    for side, purpose in ((TRAIN, "train on"), (VAL, "validate with")):
        if not counts[side]:
            raise UserError(
                f"{config.corpus}: of {documents} documents {counts[VAL]} validate, {counts[HELDOUT]} are held out and"
                f" {counts[TRAIN]} train, so nothing is left to {purpose} (near-duplicates stay together);"
                " give more text, or change val_fraction or heldout_from"
            )
