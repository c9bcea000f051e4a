"""Timing whole optimizer steps: on the device's own clock, whatever else the loop does in between."""

import dataclasses
import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

import train
from bench.jobs import Quiet, Text, attending, make_job, optimizer_of
from bench.variants import Variant
from model import GPT
from oracle.checkpoint import Progress
from oracle.cli import UserError
from oracle.loader import Batch, Batches
from oracle.memory import forget_peak
from oracle.settings import Config

BUILDING = 0.7  # of the time given


class Clock:
    """Moments on the device: CUDA events, which wait for nothing, and elsewhere this machine's clock.

    On a CPU with `threads=1` it is the time this process was given, which other programs do not disturb.
    """

    def __init__(self, device: torch.device, threads: int = 0) -> None:
        self.device = device
        self.read = time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter
        self.laps: list = []
        self.waits: list[list[tuple]] = []

    def now(self):
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        if self.device.type == "mps":
            torch.mps.synchronize()
        return self.read()

    def lap(self) -> None:
        """A step begins here."""
        self.laps.append(self.now())
        self.waits.append([])

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, the step waits for data; a GPU that still has work queued does not."""
        began = self.now()
        yield
        self.waits[-1].append((began, self.now()))

    def take(self) -> tuple[list[float], list[float]]:
        """Seconds of each finished step and those of it spent waiting for data; then start anew."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = [self._between(a, b) for a, b in zip(self.laps, self.laps[1:], strict=False)]
        waits = [sum(self._between(a, b) for a, b in pairs) for pairs in self.waits[:-1]]
        self.laps, self.waits = [], []
        return seconds, waits

    def _between(self, a, b) -> float:
        return a.elapsed_time(b) / 1000 if self.device.type == "cuda" else b - a


class Timed:
    """Batches, with the clock's marks around each."""

    def __init__(self, batches: Batches, clock: Clock) -> None:
        self.batches, self.clock = batches, clock

    def step(self, step: int) -> Batch:
        self.clock.lap()
        with self.clock.waiting():
            return self.batches.step(step)

    def documents(self, step: int) -> list[str]:
        return self.batches.documents(step)


class Contender(Protocol):
    """A way to train, of which some number of steps can be run and timed."""

    config: Config
    device: torch.device
    model: GPT
    optimizer: torch.optim.AdamW
    clock: Clock
    tokens_per_step: int

    def run(self, steps: int) -> None:
        """Do `steps` whole optimizer steps and begin one more, so that the last has an end on the clock."""
        ...

    def fresh(self) -> None:
        """Forget what was learnt from the weights of before."""
        ...


class Ours:
    """`train.fit`, as a run has it."""

    def __init__(self, variant: Variant, config: Config, text: Text) -> None:
        own = variant.own
        with attending(config):
            job = make_job(config, text, own["compile_mode"], own["linears"])
        if config.compile and job.forward is job.model:
            raise UserError("torch.compile does not work here")
        self.config, self.device, self.model = job.config, job.device, job.model
        self.optimizer = optimizer_of(own["optimizer"], job.model, job.config)
        self.clock = Clock(job.device, config.threads)
        self.job = dataclasses.replace(job, optimizer=self.optimizer, batches=Timed(job.batches, self.clock))
        self.tokens_per_step, self.progress = job.plan.tokens_per_step, Progress()

    def run(self, steps: int) -> None:
        last = self.progress.step + steps + 1
        job = dataclasses.replace(self.job, plan=dataclasses.replace(self.job.plan, max_iters=last))
        folder = Path(self.config.out_dir)
        folder.mkdir(parents=True, exist_ok=True)
        logbook = Quiet(folder, self.config, 0, last)
        try:
            with attending(self.config):
                train.fit(job, self.progress, logbook)
        finally:
            logbook.close()

    def fresh(self) -> None:
        self.job.health.losses.fill_(math.nan)  # the loss of new weights is no spike


def park(contender: Contender) -> None:
    """Give the memory of weights, gradients and moments to the next contender."""
    contender.model.zero_grad(set_to_none=True)
    contender.optimizer.state.clear()
    for p in contender.model.parameters():
        p.untyped_storage().resize_(0)
    forget_peak(contender.device)


def unpark(contender: Contender) -> None:
    """Take memory again, with new random weights: nothing is timed that depends on their values."""
    forget_peak(contender.device)
    for p in contender.model.parameters():
        p.untyped_storage().resize_(p.numel() * p.element_size())
    contender.model.init_weights()
    contender.fresh()


@dataclass
class Row:
    """What is known of one variant."""

    name: str
    tokens_per_step: int = 0
    micro_batch: int = 0
    rounds: list[list[float]] = field(default_factory=list)  # seconds of the steps, round by round
    waited: float = 0.0
    peak_bytes: int = 0
    clocks: list[float] = field(default_factory=list)  # MHz
    watts: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def seconds(self) -> list[float]:
        return [second for part in self.rounds for second in part]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance from the 10th to the 90th percentile of the step's time, over its median."""
        tenths = statistics.quantiles(self.seconds, n=10, method="inclusive") if len(self.seconds) > 1 else [0.0]
        return (tenths[-1] - tenths[0]) / statistics.median(self.seconds)

    @property
    def waiting(self) -> float:
        return self.waited / sum(self.seconds)

    def ratio(self, other: "Row") -> float:
        """This speed over the other's: the median over rounds that both were in."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        times = [statistics.median(b) / statistics.median(a) for a, b in pairs]
        return statistics.median(times) * self.tokens_per_step / other.tokens_per_step


def one_line(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    return f"{text[0]}"[:160] if text else type(error).__name__


def take_turns(
    variants: list[Variant],
    build: Callable[[Variant], Contender],
    rounds: int,
    steps: int,
    warm_up: int,
    watch: Callable[[Row], AbstractContextManager],
    seconds: float = math.inf,
) -> list[Row]:
    """Run each variant in every round, forwards and backwards in turn, and return a row for each.

    `steps` are timed in all, after `warm_up` that are not (in later rounds a seventh of them, at least one). A variant
    that fails is left out from there on. Of `seconds`, the first 70 % are for building variants and the rest for the
    later rounds; after them nothing new begins.
    """
    began = time.monotonic()
    rows = {v.name: Row(v.name) for v in variants}
    contenders: dict[str, Contender] = {}
    for number in range(rounds):
        for variant in variants if number % 2 == 0 else variants[::-1]:
            row = rows[variant.name]
            spent = time.monotonic() - began
            if number == 0 and spent > BUILDING * seconds:
                row.failure = "not reached in the time given"
            if row.failure or spent > seconds:
                continue
            try:
                if number == 0:
                    contenders[variant.name] = build(variant)
                else:
                    unpark(contenders[variant.name])
                take_turn(
                    contenders[variant.name],
                    row,
                    warm_up if number == 0 else -(-warm_up // 7),
                    -(-steps // rounds),
                    watch,
                )
                park(contenders[variant.name])
            except Exception as error:  # in how many ways a device or a compiler can give up, nobody knows
                row.failure = one_line(error)
                traceback.clear_frames(error.__traceback__)  # they hold what it had allocated
                contenders.pop(variant.name, None)
                gc.collect()
    return list(rows.values())


def take_turn(
    contender: Contender, row: Row, warm_up: int, steps: int, watch: Callable[[Row], AbstractContextManager]
) -> None:
    """Run and time one contender, and add what was found to its row."""
    gpu = contender.device.type == "cuda"
    contender.run(warm_up)
    contender.clock.take()
    if gpu:
        torch.cuda.reset_peak_memory_stats(contender.device)
    with watch(row):
        contender.run(steps)
        seconds, waits = contender.clock.take()
    row.rounds.append(seconds)
    row.waited += sum(waits)
    row.tokens_per_step, row.micro_batch = contender.tokens_per_step, contender.config.batch_size
    if gpu:
        row.peak_bytes = max(row.peak_bytes, torch.cuda.max_memory_allocated(contender.device))
