"""How well a model predicts text: every document in full, always in the same order, in bits per byte."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from model import IGNORE
from oracle.dist import ALONE, World
from oracle.shards import Split
from oracle.tokenizer import Tokenizer


class Documents(Protocol):
    """Documents as tokens, each from its beginning-of-text to its end-of-text: a split, or any other text."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document."""
        ...

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all the text."""
        ...

    def all_tokens(self) -> np.ndarray:
        """Every token, one document after the other."""
        ...


@dataclass(frozen=True)
class Encoded:
    """Documents in memory."""

    tokens: np.ndarray
    lengths: np.ndarray
    bytes: int

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: Tokenizer) -> "Encoded":
        """`texts` as the model sees them; those without a character are left out."""
        kept = [text for text in texts if text]
        documents = tokenizer.encode_documents(kept)
        tokens = np.concatenate(documents) if documents else np.zeros(0, dtype=tokenizer.dtype)
        return cls(tokens, np.array([len(d) for d in documents], dtype=np.int64), sum(len(t.encode()) for t in kept))

    def all_tokens(self) -> np.ndarray:
        return self.tokens


class Validation:
    """Documents cut once into windows of `block_size`; each token is a target exactly once.

    Ends of text are scored; beginnings are not, nothing in the text announces them. A window begins `stride` tokens
    after the one before (0: `block_size`) and scores what that one has not, so that a smaller stride shows the model
    more of what came before: at least `block_size - stride` tokens, except at the very beginning. The context runs on
    from one document into the next, as in training. Ranks share the work.
    """

    def __init__(
        self,
        documents: Documents,
        block_size: int,
        batch_size: int,
        device: torch.device,
        world: World = ALONE,
        stride: int = 0,
    ) -> None:
        self.world = world
        stride = stride or block_size
        tokens = torch.from_numpy(documents.all_tokens().astype(np.int64))
        inputs, targets = tokens[:-1], tokens[1:].clone()
        targets[torch.from_numpy(np.cumsum(documents.lengths)[:-1] - 1)] = IGNORE
        self.n_targets = int((targets != IGNORE).sum())
        self.n_bytes = documents.bytes
        # Padded to whole batches, as many for each rank: one shape for torch.compile, no rank that waits for another.
        windows = 1 + max(0, math.ceil((len(inputs) - block_size) / stride))
        windows += -windows % (batch_size * self.world.size)
        padding = (windows - 1) * stride + block_size - len(inputs)
        # Views of the padded tokens (batches, batch_size, block_size), however much the windows overlap.
        self.inputs, self.targets = (
            torch.nn.functional.pad(padded, (0, padding), value=value)
            .unfold(0, block_size, stride)
            .unflatten(0, (-1, batch_size))
            for padded, value in ((inputs, 0), (targets, IGNORE))
        )
        self.overlap = block_size - stride
        self.device = device

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, autocast: Callable[[], AbstractContextManager]) -> dict[str, float]:
        """Nats per token, bits per UTF-8 byte of text, and perplexity. Leaves the model in training mode."""
        model.eval()
        nats = torch.zeros((), dtype=torch.float64)
        for number in range(self.world.rank, len(self.inputs), self.world.size):
            x, y = self.inputs[number], self.targets[number]
            if self.overlap:
                y = y.clone()
                y[0 if number else 1 :, : self.overlap] = IGNORE  # scored in the window before
            with autocast():
                nats += model(x.to(self.device), y.to(self.device), reduction="sum").double().cpu()
        model.train()
        measured = figures(self.world.total(float(nats)), self.n_targets, self.n_bytes)
        return {f"val_{name}": value for name, value in measured.items()}


def figures(nats: float, n_targets: int, n_bytes: int) -> dict[str, float]:
    """Nats per token, bits per byte and perplexity per token of text that cost `nats` in all."""
    loss = nats / n_targets
    return {"loss": loss, "bpb": nats / math.log(2) / n_bytes, "perplexity": math.exp(min(loss, 50))}


def some_of(split: Split, n_tokens: int, tokenizer: Tokenizer) -> Documents:
    """Whole documents of a split, drawn by chance until they have `n_tokens`; all of it if `n_tokens` is 0.

    The draw is the same every time, so that all models are measured on the same documents.
    """
    if not n_tokens or split.tokens <= n_tokens:
        return split
    drawn = np.random.default_rng(0).permutation(len(split))
    enough = int(np.searchsorted(np.cumsum(split.lengths[drawn]), n_tokens)) + 1
    chosen = [split.document(number) for number in sorted(drawn[:enough])]
    piece_sizes = np.array([len(piece) for piece in tokenizer.piece_bytes])
    tokens = np.concatenate(chosen)
    return Encoded(tokens, np.array([len(d) for d in chosen], dtype=np.int64), int(piece_sizes[tokens].sum()))
