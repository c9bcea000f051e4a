"""What an engine's network thinks of text it did not write: the weights that write are the weights that are measured."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from model import IGNORE
from oracle.cli import UserError
from oracle.engine import Span
from oracle.generate import RUINED, Engine

ROWS = 4096  # tokens that go through the network at once: their logits are the most memory this takes


class Scorer(torch.nn.Module):
    """An engine under the signature of a GPT with targets, for `Validation`; and the same for single texts.

    Raises UserError when the weights are ruined.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        engine.forget()
        self.network, self.name = engine.network, engine.name

    def forward(self, idx: torch.Tensor, targets: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        """Cross-entropy in nats, summed, of `targets` (B, T) after `idx` (B, T); targets equal to IGNORE do not count."""
        if reduction != "sum":
            raise ValueError(f"reduction={reduction!r}: only sums are computed here")
        return torch.cat(self._losses(list(idx), list(targets))).sum()

    def nats(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """What each of `texts` costs after its first token, in nats."""
        ids = [torch.tensor(text) for text in texts]
        return [float(loss.sum()) for loss in self._losses([t[:-1] for t in ids], [t[1:] for t in ids])]

    @torch.inference_mode()
    def _losses(self, inputs: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Nats of every target, float64, a tensor for each text; 0 where it is IGNORE."""
        losses: list[torch.Tensor] = []
        for first, last in self._groups([len(text) for text in inputs]):
            group = inputs[first:last]
            spans = [Span(slot, 0, len(text)) for slot, text in enumerate(group)]
            logits = self.network.forward(torch.cat(list(group)), spans, every=True)
            if logits.isnan().any():
                raise UserError(f"{self.name}: {RUINED}")
            wanted = torch.cat(list(targets[first:last])).to(logits.device)
            nats = F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="none").double()
            losses += nats.split([s.count for s in spans])
        return losses

    def _groups(self, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Which texts share a pass: as many as have a slot each and ROWS tokens in all."""
        groups, first, rows = [], 0, 0
        for number, length in enumerate(lengths):
            if number > first and (number - first == self.network.slots or rows + length > ROWS):
                groups.append((first, number))
                first, rows = number, 0
            rows += length
        return [*groups, (first, len(lengths))] if lengths else []
