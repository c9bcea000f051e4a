"""Pairs as tokens: two texts each, packed into two rows each, the better answers in one and the worse in the other.

A row of chosen answers and its row of rejected ones hold the same pairs in the same order, so that a pair is never
torn between batches and every batch has one shape. Texts in a row do not see each other (`model.separate`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from oracle.chat import Template
from oracle.loader import Batch
from oracle.packing import PackedRows, Sample, Shuffled, best_fit
from oracle.packing import fit as fit_texts
from oracle.preferences import Pair
from oracle.stage import Place


@dataclass(frozen=True)
class Texts:
    """A pair as tokens; of both texts only the answer and its end are targets."""

    pair: Pair
    chosen: Sample
    rejected: Sample


@dataclass(frozen=True)
class FittedPairs:
    """What of the pairs fits into the context, and what was done to the rest."""

    texts: list[Texts]
    cut: int
    dropped: int

    def __str__(self) -> str:
        said = f"{len(self.texts):,} pairs kept"
        said += f", {self.cut:,} too long and cut" if self.cut else ""
        return said + (f", {self.dropped:,} left out: too long, or the same after cutting" if self.dropped else "")


def render(pair: Pair, template: Template, which: str) -> Sample:
    """The prompt with the "chosen" or the "rejected" answer."""
    answer = {"role": "assistant", "content": getattr(pair, which)}
    ids, mask = template.render([*pair.prompt, answer], [False] * len(pair.prompt) + [True])
    return Sample(pair.id, np.array(ids, dtype=template.tokenizer.dtype), np.array(mask))


def fit(pairs: Sequence[Pair], template: Template, block_size: int, cut: bool) -> FittedPairs:
    """Leave out pairs with a text of more than block_size + 1 tokens, or `cut` their ends off; a pair whose texts are
    then the same, or one of which is left without an answer, is left out."""
    kept, n_cut = [], 0
    for pair in pairs:
        sides = [fit_texts([render(pair, template, which)], block_size, cut) for which in ("chosen", "rejected")]
        if not all(side.samples for side in sides):
            continue
        chosen, rejected = (side.samples[0] for side in sides)
        if not np.array_equal(chosen.ids, rejected.ids):
            kept.append(Texts(pair, chosen, rejected))
            n_cut += any(side.cut for side in sides)
    return FittedPairs(kept, n_cut, len(pairs) - len(kept))


class PairRows:
    """All pairs in rows of `block_size`; `most` is the largest number of pairs in a row."""

    def __init__(self, texts: Sequence[Texts], block_size: int) -> None:
        self.texts = texts
        self.rows = best_fit([max(len(t.chosen.ids), len(t.rejected.ids)) - 1 for t in texts], block_size)
        self.most = max(len(row) for row in self.rows)
        self._sides = [
            PackedRows(samples, block_size, rows=self.rows)
            for samples in ([t.chosen for t in texts], [t.rejected for t in texts])
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs, targets and places of the rows, each (rows, 2, block_size); a number below 0 is an empty row."""
        sides = [side.take(numbers)[:3] for side in self._sides]
        x, y, places = (torch.from_numpy(np.stack(arrays, 1)) for arrays in zip(*sides, strict=True))
        return x, y, places

    def spread(self, values: np.ndarray, numbers: Sequence[int]) -> torch.Tensor:
        """Of values for all pairs, (pairs, 2), those of the rows: (rows, 2, most), 0 where there is no pair."""
        out: np.ndarray = np.zeros((len(numbers), 2, self.most), dtype=np.float32)
        for row, number in enumerate(numbers):
            here = self.pairs([number])
            out[row, :, : len(here)] = values[here].T
        return torch.from_numpy(out)

    def pairs(self, numbers: Sequence[int]) -> list[int]:
        """Numbers of the pairs in the rows."""
        return [pair for number in numbers if number >= 0 for pair in self.rows[number]]


class PairBatches:
    """Step -> this rank's rows of its Batch, a pure function of (seed, step). `sequences` and `batch_size` count texts'
    rows, two to a row of pairs; `reference` (pairs, 2) holds the log-probabilities before training.

    A micro-batch is (inputs, targets, places, reference, pairs of the step for each of its chosen tokens).
    """

    def __init__(
        self, rows: PairRows, reference: np.ndarray, sequences: int, batch_size: int, seed: int, place: Place
    ) -> None:
        self.rows, self.reference, self.sequences, self.batch_size = rows, reference, sequences, batch_size
        self.place = place
        self._row = Shuffled(len(rows), seed)

    def step(self, step: int) -> Batch:
        numbers, world = self._numbers(step), self.place.world
        pairs = self.rows.pairs(numbers)
        chosen_tokens = sum(int(self.rows.texts[n].chosen.mask[1:].sum()) for n in pairs)
        own = numbers[world.rank :: world.size]
        tensors = [t.to(self.place.device) for t in (*self.rows.take(own), self.rows.spread(self.reference, own))]
        share = torch.tensor(len(pairs) / chosen_tokens, device=self.place.device)
        cut = zip(*(t.split(self.batch_size // 2) for t in tensors), strict=True)
        return Batch([(*parts, share) for parts in cut], float(len(pairs)))

    def documents(self, step: int) -> list[str]:
        return [self.rows.texts[n].pair.id for n in self.rows.pairs(self._numbers(step))]

    def _numbers(self, step: int) -> list[int]:
        count = self.sequences // 2
        return [self._row(number) for number in range(step * count, (step + 1) * count)]
