"""What the training loop measures of itself: loss, speed, position."""

import math
import time

import torch

from model import flops_per_token
from oracle.checkpoint import Progress
from oracle.hardware import peak_flops
from oracle.logbook import Logbook, duration, short
from oracle.plan import Plan
from oracle.settings import Config


class Meter:
    """Mean loss and speed since the last log line. The losses stay on the device until then."""

    def __init__(self, config: Config, plan: Plan, device: torch.device, progress: Progress) -> None:
        self.plan, self.device = plan, device
        self.peak = peak_flops(device, config)
        self.flops = flops_per_token(plan.model)
        self.losses = torch.tensor([progress.loss_sum, progress.loss_steps], device=device)  # sum, how many
        self.steps = 0  # since the speed was last taken
        self.saving_seconds = 0.0  # of the longest save so far
        self.restart()

    def count(self, loss: torch.Tensor) -> None:
        """One step's loss (scalar, on the device); one that is not a number is left out of the mean."""
        finite = loss.isfinite()
        self.losses += torch.stack((torch.where(finite, loss, 0.0), finite.float()))
        self.steps += 1

    def pending(self) -> tuple[float, int]:
        """Sum and number of the losses not logged yet: a checkpoint keeps them, and a resumed log is the same."""
        total, count = self.losses.tolist()
        return total, int(count)

    def restart(self) -> None:
        """Leave out of the speed what was not training."""
        self.began, self.steps = time.perf_counter(), 0

    def epoch(self, step: int) -> float:
        return step * self.plan.tokens_per_step / self.plan.train_tokens

    def log(self, logbook: Logbook, step: int, rate: float, norm: torch.Tensor, measures: dict[str, float]) -> None:
        """One log line, `measures` being what the stage adds to it."""
        total, count = self.pending()  # waits for the device
        elapsed = time.perf_counter() - self.began
        loss = total / count if count else math.nan
        speed = self.steps * self.plan.tokens_per_step / elapsed
        mfu = speed * self.flops / self.peak if self.peak else None
        tokens, last = step * self.plan.tokens_per_step, self.plan.max_iters
        record = {
            "step": step, "lr": rate, "grad_norm": float(norm) if norm.isfinite() else None, "tokens": tokens,
            "epoch": self.epoch(step), "tokens_per_second": speed, "mfu": mfu, **measures,
        }  # fmt: skip
        if count:  # none when every step was sick
            record["loss"] = loss
        if self.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / (1 << 30)
        logbook.metrics(record)
        eta = duration((last - step) * self.plan.tokens_per_step / speed)
        logbook.say(
            f"step {step:,}/{last:,} | loss {loss:.4f} | lr {rate:.2e} | norm {float(norm):.2f} | {short(speed)} tokens/s"
            + (f" | MFU {mfu:.1%}" if mfu else "")
            + "".join(f" | {name} {value:.4g}" for name, value in measures.items())
            + f" | epoch {self.epoch(step):.2f} | {short(tokens)} tokens | ETA {eta}"
        )
        self.losses.zero_()
        self.restart()
