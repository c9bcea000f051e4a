"""What one kind of training supplies: its data, its loss, its measures. The loop and all around it is train.py's."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from model import GPT
from oracle.dist import ALONE, World
from oracle.hardware import autocast
from oracle.loader import Batches
from oracle.logbook import Logbook
from oracle.plan import Plan
from oracle.tokenizer import Tokenizer


@dataclass(frozen=True)
class Place:
    """Where a run computes, and in which format."""

    device: torch.device
    dtype: torch.dtype
    world: World = ALONE

    @property
    def cast(self) -> Callable[[], AbstractContextManager]:
        """A factory of contexts in which matrix products run in `dtype`."""
        return autocast(self.device, self.dtype)


class Stage(Protocol):
    """One kind of training. It is made from the settings before there is a model, and reads its data then."""

    script: str  # what a user calls
    tokenizer: Tokenizer
    identity: dict[str, str]  # hashes that a resumed run must find as they were
    epoch_tokens: int  # of one pass over the data, padding counted
    files: dict[str, str]  # name -> text: kept in every checkpoint
    baselines: dict[str, float]  # bits per byte to draw beside the curves
    samples_with_evaluations: bool  # besides those at sample_iters
    saves_start: bool  # the model it starts from may turn out to be the best

    def weights(self, model: GPT) -> None:
        """Give a fresh run's model the weights it starts from."""
        ...

    def loss(self, model: GPT) -> torch.nn.Module:
        """What is called with each micro-batch and reduction="sum", and returns the summed loss (scalar)."""
        ...

    def batches(self, plan: Plan, batch_size: int, place: Place) -> Batches: ...

    def evaluator(
        self, model: GPT, loss: torch.nn.Module, batch_size: int, place: Place
    ) -> Callable[[], dict[str, float]]:
        """A function of no arguments that measures the model, by way of `loss`, perhaps compiled, where it can.

        Its figures are "val_loss", by which checkpoints are compared, "val_bpb", "val_perplexity", and any others.
        """
        ...

    def sample(self, model: GPT, place: Place, logbook: Logbook, step: int) -> None:
        """Let the model answer its fixed prompts, and keep the texts."""
        ...

    def measures(self) -> dict[str, float]:
        """Figures of the steps since the last call, for the log line."""
        ...

    def verdict(self, figures: dict[str, float]) -> str:
        """Why the run must end after an evaluation with these figures; empty when it may go on."""
        ...

    def about(self) -> str:
        """The data in words."""
        ...

    def following(self, run: Path) -> str:
        """The command a user would want next."""
        ...
