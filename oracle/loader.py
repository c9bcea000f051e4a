"""Which tokens are in which batch: a pure function of (seed, step), so resuming needs no loader state.

Every epoch the documents are put in a new order and joined to one stream; the epochs' streams follow each other
without end and are cut into windows of `block_size`. Within an epoch the windows are shuffled too, so that
neighbours from one long document do not fill a batch. Each token of the corpus is a target exactly once per epoch;
drawing windows at random, by contrast, shows 63 % of the corpus in an "epoch".
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from oracle.cli import UserError
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
            epoch = self._epoch(number * self.block_size // self.split.tokens)
            window = epoch.first_window + int(epoch.windows[number - epoch.first_window])
            self._copy(window * self.block_size, out[row])
        return out

    def _copy(self, position: int, out: np.ndarray) -> None:
        """Fill `out` from the endless stream, starting at `position`."""
        done = 0
        while done < len(out):
            number, offset = divmod(position + done, self.split.tokens)
            epoch = self._epoch(number)
            rank = int(np.searchsorted(epoch.ends, offset, side="right"))
            while done < len(out) and rank < len(epoch.order):
                document = self.split.document(int(epoch.order[rank]))
                start = len(document) - (int(epoch.ends[rank]) - offset)
                piece = document[start : start + len(out) - done]
                out[done : done + len(piece)] = piece
                done += len(piece)
                offset += len(piece)
                rank += 1


@dataclass(frozen=True)
class Batch:
    """One optimizer step: micro-batches of (inputs, targets), each (B, T) int64, and the targets that count in all."""

    micro_batches: list[tuple[torch.Tensor, torch.Tensor]]
    n_targets: int


class PretrainingBatches:
    """Step -> Batch; for a GPU made one step ahead in a thread, while on a CPU a thread would only take its time."""

    def __init__(self, windows: Windows, sequences: int, batch_size: int, device: torch.device) -> None:
        self.windows, self.sequences, self.batch_size, self.device = windows, sequences, batch_size, device
        self.tokens_per_step = sequences * windows.block_size
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def step(self, step: int) -> Batch:
        if self.device.type == "cpu":
            return self._make(step)
        ahead, self._ahead = self._ahead, None
        batch = ahead[1].result() if ahead and ahead[0] == step else self._make(step)
        self._ahead = (step + 1, self._pool.submit(self._make, step + 1))
        return batch

    def _make(self, step: int) -> Batch:
        tokens = torch.from_numpy(self.windows.take(step * self.sequences, self.sequences))
        if self.device.type == "cuda":  # pinned memory lets the copy overlap with the step that is running
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        else:
            tokens = tokens.to(self.device)
        micro = tokens.split(self.batch_size)
        return Batch([(m[:, :-1], m[:, 1:]) for m in micro], tokens[:, 1:].numel())
