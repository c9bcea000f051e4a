"""Sick steps: a loss or gradient that is no number, or a loss far above what it was.

The verdict is made where the loss is, on the device, and the optimizer's own kernel leaves a sick step out: nothing
on the host waits for a step. The host reads the verdicts with the next log line or checkpoint. That spikes are those
above mean + 6 sigma of the last 128 losses, and that leaving them out helps, is OLMo 2's (arXiv 2501.00656).
"""

import math
from dataclasses import dataclass

import torch

from oracle.cli import UserError
from oracle.settings import Config

WINDOW = 128  # losses remembered
ENOUGH = 64  # losses before anything can be a spike
RECENT = 32  # losses that say where training is now
IN_A_ROW = 20  # sick steps that stop a run whatever is configured
SHOWN = 5  # documents in a message; the log has all
SPIKE, BROKEN = 1.0, 2.0


@dataclass(frozen=True)
class Sick:
    step: int  # optimizer steps done when it came, itself included
    kind: str  # "spike" or "not a number"
    loss: float
    limit: float


class Health:
    """Watches the losses of a run and steps its optimizer, unless the step is sick."""

    def __init__(self, config: Config, device: torch.device, scaled: bool) -> None:
        self.sigma = config.spike_sigma
        self.scaled = scaled  # float16: a gradient that overflows is the scaler's daily business
        self.losses = torch.full((WINDOW,), math.nan, device=device)
        self._verdicts: list[tuple[int, torch.Tensor]] = []
        self._in_a_row = 0

    def step(self, step: int, loss: torch.Tensor, norm: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Do optimizer step `step` (0-based) unless its loss or gradient norm (scalars) is sick."""
        mean = self.losses.nanmean()
        known = (~self.losses.isnan()).sum()
        deviation = ((self.losses - mean).square().nansum() / known).sqrt()
        bounded = (known >= ENOUGH) & (self.sigma > 0)
        limit = torch.where(bounded, mean + self.sigma * deviation, math.inf)
        overflow = ~norm.isfinite()
        broken = ~loss.isfinite() if self.scaled else ~loss.isfinite() | overflow
        spike = loss > limit
        # A spike is remembered as the limit: a loss that stays high is the new normal after some steps.
        self.losses[step % WINDOW] = torch.where(loss.isfinite(), torch.minimum(loss, limit), mean)
        kind = torch.where(broken, BROKEN, torch.where(spike, SPIKE, 0.0))
        self._verdicts.append((step + 1, torch.stack((kind, loss, limit))))
        skip = broken | spike | overflow
        if loss.device.type == "mps":  # its kernel ignores found_inf, so there the host waits and decides
            if not skip:
                optimizer.step()
            return
        # The contract between torch's fused optimizers and its GradScaler: where found_inf is 1, nothing changes.
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
        optimizer.step()

    def recent_loss(self, step: int) -> float | None:
        """Mean training loss of the last steps before `step`; None before the first. Waits for the device."""
        places = [number % WINDOW for number in range(max(0, step - RECENT), step)]
        loss = self.losses[places].nanmean().item() if places else math.nan
        return loss if math.isfinite(loss) else None

    def sick_steps(self) -> list[Sick]:
        """The sick steps since the last call. Waits for the device."""
        if not self._verdicts:
            return []
        steps, verdicts = zip(*self._verdicts, strict=True)
        self._verdicts = []
        found = []
        for step, (kind, loss, limit) in zip(steps, torch.stack(verdicts).tolist(), strict=True):
            self._in_a_row = self._in_a_row + 1 if kind else 0
            if kind:
                found.append(Sick(step, "spike" if kind == SPIKE else "not a number", loss, limit))
        return found

    @property
    def hopeless(self) -> bool:
        return self._in_a_row >= IN_A_ROW

    def state(self) -> dict[str, torch.Tensor]:
        return {"health:losses": self.losses.cpu()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        if "health:losses" in tensors:
            self.losses.copy_(tensors["health:losses"])


def describe(sick: Sick, documents: list[str]) -> str:
    """One sentence: which step, what was wrong with it, and the documents it was made of."""
    if sick.kind == "spike":
        what = f"loss {sick.loss:.4f} is a spike, the limit is {sick.limit:.4f}"
    else:
        what = f"loss {sick.loss:.4f}" if not math.isfinite(sick.loss) else "its gradient is not a number"
    more = f" and {len(documents) - SHOWN} more" if len(documents) > SHOWN else ""
    return f"step {sick.step:,}: {what}; its documents: {', '.join(documents[:SHOWN])}{more} (metrics.jsonl has all)"


def give_up(sentence: str, config: Config, hopeless: bool) -> UserError:
    """The error that ends a sick run, with what to try."""
    cures = [f"lower --learning_rate ({config.learning_rate:g})", f"raise --warmup_iters ({config.warmup_iters})"]
    if config.dtype == "float16":
        cures.append("use --dtype=bfloat16 or float32")
    if not config.grad_clip:
        cures.append("set --grad_clip=1")
    if config.on_sick_step == "stop" and not hopeless:
        cures.append("or go on without such steps with --on_sick_step=skip")
    why = f"{IN_A_ROW} sick steps in a row, the last one " if hopeless else ""
    return UserError(
        f"{why}{sentence}. No sick step changed the weights, and the last checkpoint is older;"
        f" look at the documents, {', '.join(cures)}, and resume"
    )
