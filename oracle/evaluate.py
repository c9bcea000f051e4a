"""Validation: the whole split, every time, in the same order."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

from model import IGNORE
from oracle.dist import ALONE, World
from oracle.shards import Split
from oracle.tokenizer import BOS


class Validation:
    """A split cut once into windows of `block_size`; each token is a target exactly once.

    Ends of text are scored; beginnings are not, nothing in the text announces them. Ranks share the work.
    """

    def __init__(
        self, split: Split, block_size: int, batch_size: int, device: torch.device, world: World = ALONE
    ) -> None:
        self.world = world
        tokens = torch.from_numpy(split.all_tokens().astype(np.int64))
        inputs, targets = tokens[:-1], tokens[1:].clone()
        targets[targets == BOS] = IGNORE
        self.n_targets = int((targets != IGNORE).sum())
        self.n_bytes = split.bytes
        # Padded to whole batches, as many for each rank: one shape for torch.compile, no rank that waits for another.
        size = batch_size * block_size * self.world.size
        padding = -len(inputs) % size
        self.inputs = torch.nn.functional.pad(inputs, (0, padding)).view(-1, batch_size, block_size)
        self.targets = torch.nn.functional.pad(targets, (0, padding), value=IGNORE).view(-1, batch_size, block_size)
        self.device = device

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, autocast: Callable[[], AbstractContextManager]) -> dict[str, float]:
        """Nats per token, bits per UTF-8 byte of text, and perplexity. Leaves the model in training mode."""
        model.eval()
        nats = torch.zeros((), dtype=torch.float64)
        own = slice(self.world.rank, None, self.world.size)
        for x, y in zip(self.inputs[own], self.targets[own], strict=True):
            with autocast():
                nats += model(x.to(self.device), y.to(self.device), reduction="sum").double().cpu()
        model.train()
        nats_in_all = self.world.total(float(nats))
        loss = nats_in_all / self.n_targets
        return {
            "val_loss": loss,
            "val_bpb": nats_in_all / math.log(2) / self.n_bytes,
            "val_perplexity": math.exp(min(loss, 50)),
        }
