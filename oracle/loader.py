"""Which tokens are in which batch: a pure function of (seed, step), so resuming needs no loader state.

Every epoch the documents are put in a new order and joined to one stream; the epochs' streams follow each other
without end and are cut into windows of `block_size`. Within an epoch the windows are shuffled too, so that
neighbours from one long document do not fill a batch. Each token of the corpus is a target exactly once per epoch;
drawing windows at random, by contrast, shows 63 % of the corpus in an "epoch".
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from oracle.cli import UserError
from oracle.dist import ALONE, World
from oracle.shards import Split


@dataclass(frozen=True)
class _Epoch:
    order: np.ndarray  # documents in this epoch's order
    ends: np.ndarray  # stream position after each of them
    first_window: int  # number of the first window that starts in this epoch
    windows: np.ndarray  # this epoch's windows, shuffled, relative to first_window


class Windows:
    """The endless sequence of training windows over a split."""

    def __init__(self, split: Split, block_size: int, seed: int) -> None:
        if split.tokens <= block_size:
            raise UserError(
                f"the training split has {split.tokens:,} tokens, fewer than one window of block_size={block_size} + 1:"
                " give more text or lower block_size"
            )
        self.split, self.block_size, self.seed = split, block_size, seed
        self._epoch = lru_cache(maxsize=3)(self._make_epoch)  # a batch can touch an epoch, the next, and its spill

    def _make_epoch(self, epoch: int) -> _Epoch:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.split))
        first, end = (-(-e * self.split.tokens // self.block_size) for e in (epoch, epoch + 1))
        return _Epoch(order, np.cumsum(self.split.lengths[order]), first, rng.permutation(end - first))

    def take(self, first: int, count: int) -> np.ndarray:
        """Entries `first` to `first + count` of the sequence: (count, block_size + 1), int64."""
        out: np.ndarray = np.empty((count, self.block_size + 1), dtype=np.int64)
        for row, number in enumerate(range(first, first + count)):
            done = 0
            for _, piece in self._pieces(number):
                out[row, done : done + len(piece)] = piece
                done += len(piece)
        return out

    def documents(self, first: int, count: int) -> set[int]:
        """Numbers of the documents that `take(first, count)` is cut from."""
        return {document for number in range(first, first + count) for document, _ in self._pieces(number)}

    def _pieces(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Entry `number` of the sequence as (document, its tokens) from the endless stream: block_size + 1 tokens."""
        epoch = self._epoch(number * self.block_size // self.split.tokens)
        window = epoch.first_window + int(epoch.windows[number - epoch.first_window])
        position, left = window * self.block_size, self.block_size + 1
        while left:
            number, offset = divmod(position, self.split.tokens)
            epoch = self._epoch(number)
            rank = int(np.searchsorted(epoch.ends, offset, side="right"))
            while left and rank < len(epoch.order):
                document = int(epoch.order[rank])
                tokens = self.split.document(document)
                start = len(tokens) - (int(epoch.ends[rank]) - offset)
                piece = tokens[start : start + left]
                yield document, piece
                position, offset, left, rank = position + len(piece), offset + len(piece), left - len(piece), rank + 1


@dataclass(frozen=True)
class Batch:
    """One optimizer step: this rank's micro-batches, each the arguments of the loss (in pretraining inputs and targets,
    (B, T) int64), and the targets that count in all of the step, other ranks' too."""

    micro_batches: list[tuple[torch.Tensor, ...]]
    n_targets: float


class Batches(Protocol):
    """What the training loop draws from."""

    def step(self, step: int) -> Batch: ...

    def documents(self, step: int) -> list[str]:
        """Ids of the documents in the batch of `step`, those of all ranks."""
        ...


class PretrainingBatches:
    """Step -> this rank's rows of its Batch; for a GPU made one step ahead in a thread, which on a CPU only takes time."""

    def __init__(
        self, windows: Windows, sequences: int, batch_size: int, device: torch.device, world: World = ALONE
    ) -> None:
        self.windows, self.sequences, self.batch_size, self.device = windows, sequences, batch_size, device
        self.world = world
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def step(self, step: int) -> Batch:
        if self.device.type == "cpu":
            return self._make(step)
        ahead, self._ahead = self._ahead, None
        batch = ahead[1].result() if ahead and ahead[0] == step else self._make(step)
        self._ahead = (step + 1, self._pool.submit(self._make, step + 1))
        return batch

    def documents(self, step: int) -> list[str]:
        return self.windows.split.ids(self.windows.documents(step * self.sequences, self.sequences))

    def _make(self, step: int) -> Batch:
        own = self.sequences // self.world.size
        tokens = torch.from_numpy(self.windows.take(step * self.sequences + self.world.rank * own, own))
        if self.device.type == "cuda":  # pinned memory lets the copy overlap with the step that is running
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        else:
            tokens = tokens.to(self.device)
        micro = tokens.split(self.batch_size)
        return Batch([(m[:, :-1], m[:, 1:]) for m in micro], tokens[:, 1:].numel() * self.world.size)
