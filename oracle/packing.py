"""Conversations packed into rows of the context's length, each kept apart from its neighbours.

Rows are filled best-fit, longest first. A row's texts see nothing of each other and each begins at position 0
(`model.separate`), so packing changes the speed and not the loss. Every conversation is in one row, every row once in
an epoch, and which rows a step has is a pure function of (seed, step).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from model import IGNORE
from oracle.loader import Batch, Windows
from oracle.stage import Place
from oracle.tokenizer import PAD


@dataclass(frozen=True)
class Sample:
    """A conversation as tokens: `ids` (n) and which of them count as targets, `mask` (n)."""

    id: str
    ids: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """What of the samples fits into the context, and what was done to the rest."""

    samples: list[Sample]
    cut: int
    dropped: int

    def __str__(self) -> str:
        said = [f"{self.cut:,} too long and cut"] if self.cut else []
        said += [f"{self.dropped:,} left out: too long, or without an answer to learn"] if self.dropped else []
        return f"{len(self.samples):,} kept" + "".join(f", {what}" for what in said)


def fit(samples: Sequence[Sample], block_size: int, cut: bool) -> Fitted:
    """Leave out samples of more than block_size + 1 tokens, or `cut` their ends off; none without a target is kept."""
    kept, n_cut = [], 0
    for sample in samples:
        long = len(sample.ids) > block_size + 1
        if long and not cut:
            continue
        if long:
            sample = Sample(sample.id, sample.ids[: block_size + 1], sample.mask[: block_size + 1])
        if sample.mask[1:].any():
            kept.append(sample)
            n_cut += long
    return Fitted(kept, n_cut, len(samples) - len(kept))


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Numbers of the `lengths` by row: longest first, each into the fullest row that still takes it."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0  # bit r: there is a row with room for r tokens
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        need = lengths[number]
        fitting = rooms >> need << need
        if fitting:
            room = (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(number)
        by_room[room - need].append(row)
        rooms |= 1 << (room - need)
    return rows


class PackedRows:
    """All samples in rows of `block_size`. `prompt_weight` is the share of a target's loss that other tokens have;
    `rows`, where given, says which samples share a row."""

    def __init__(
        self,
        samples: Sequence[Sample],
        block_size: int,
        prompt_weight: float = 0.0,
        rows: list[list[int]] | None = None,
    ) -> None:
        self.samples, self.block_size, self.prompt_weight = samples, block_size, prompt_weight
        self.rows = best_fit([len(s.ids) - 1 for s in samples], block_size) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, numbers: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Inputs, targets, places and weights of the rows, each (rows, block_size); a number below 0 is an empty row."""
        shape = (len(numbers), self.block_size)
        x: np.ndarray = np.full(shape, PAD, dtype=np.int64)
        y: np.ndarray = np.full(shape, IGNORE, dtype=np.int64)
        places: np.ndarray = np.zeros(shape, dtype=np.int64)
        weights: np.ndarray = np.zeros(shape, dtype=np.float32)
        for row, number in enumerate(numbers):
            first = 0
            for sample in (self.samples[n] for n in (self.rows[number] if number >= 0 else ())):
                part = slice(first, first + len(sample.ids) - 1)
                weight = np.where(sample.mask[1:], 1.0, self.prompt_weight)
                x[row, part], places[row, part] = sample.ids[:-1], np.arange(len(weight))
                y[row, part] = np.where(weight > 0, sample.ids[1:].astype(np.int64), IGNORE)  # uint16 has no -1
                weights[row, part] = weight
                first = part.stop
        return x, y, places, weights

    def ids(self, numbers: Sequence[int]) -> list[str]:
        return [self.samples[n].id for number in numbers for n in self.rows[number]]


class Shuffled:
    """The endless sequence of `count` rows, each once in an epoch, in a new order every time."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._order = lru_cache(maxsize=2)(self._make_order)  # a step can touch an epoch and the next

    def __call__(self, number: int) -> int:
        epoch, place = divmod(number, self.count)
        return int(self._order(epoch)[place])

    def _make_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)


class ConversationBatches:
    """Step -> this rank's rows of its Batch. `mix` is the share of rows that are running text instead, from `windows`.

    A micro-batch is (inputs, targets, places), and weights as a fourth when prompts count too.
    """

    def __init__(
        self, rows: PackedRows, sequences: int, batch_size: int, seed: int, place: Place,
        mix: float = 0.0, windows: Windows | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.sequences, self.batch_size, self.seed, self.place = rows, sequences, batch_size, seed, place
        self.mix, self.windows = mix, windows
        self._row = Shuffled(len(rows), seed)

    def step(self, step: int) -> Batch:
        numbers, texts = self._rows_of(step)
        x, y, places, weights = self.rows.take(numbers)
        if texts:
            assert self.windows
            tokens = self.windows.take(texts.start, len(texts))
            x, y = np.concatenate([x, tokens[:, :-1]]), np.concatenate([y, tokens[:, 1:]])
            places = np.concatenate([places, np.broadcast_to(np.arange(x.shape[1]), tokens[:, 1:].shape)])
            weights = np.concatenate([weights, np.ones(tokens[:, 1:].shape, dtype=np.float32)])
        world = self.place.world
        own = slice(world.rank * (len(x) // world.size), (world.rank + 1) * (len(x) // world.size))
        arrays = (x, y, places, weights) if self.rows.prompt_weight else (x, y, places)
        tensors = [torch.from_numpy(array[own]).to(self.place.device) for array in arrays]
        micro = list(zip(*(t.split(self.batch_size) for t in tensors), strict=True))
        return Batch(micro, float(weights.sum()))

    def documents(self, step: int) -> list[str]:
        numbers, texts = self._rows_of(step)
        running = (
            self.windows.split.ids(self.windows.documents(texts.start, len(texts))) if self.windows and texts else []
        )
        return self.rows.ids(numbers) + running

    def _rows_of(self, step: int) -> tuple[list[int], range]:
        """The packed rows of a step, and the numbers of its windows of running text."""
        before, after = (int(n * self.sequences * self.mix) for n in (step, step + 1))
        first = step * self.sequences - before
        count = self.sequences - (after - before)
        numbers = [self._row(n) for n in range(first, first + count)]
        return numbers, range(before, after)
