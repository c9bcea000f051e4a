"""Train a language model from nothing on the shards prepare.py made.

    python train.py config/demo.py
    python train.py config/rizospastis.py --batch_size=16 --compile=False
    python train.py config/rizospastis.py --init_from=resume

The loop is `fit`, the only one in this repository.
"""

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model import GPT, flops_per_token
from oracle import cli
from oracle.checkpoint import Checkpoint, Progress, RunDirectory
from oracle.cli import UserError
from oracle.config import load, to_json, without_effect
from oracle.evaluate import Validation
from oracle.files import write_text
from oracle.generate import generate, prompt_ids, stream
from oracle.hardware import autocast, compiled, device_name, peak_flops, setup
from oracle.loader import Batch, PretrainingBatches, Windows
from oracle.logbook import Logbook, duration, short
from oracle.optim import learning_rate, make_optimizer
from oracle.plan import Plan, dry_run, make_plan, resolved
from oracle.report import baselines_of, draw
from oracle.settings import Config
from oracle.shards import Prepared
from oracle.tokenizer import Tokenizer


@dataclass
class Job:
    """Everything `fit` needs; a fine-tune fills it differently."""

    config: Config
    plan: Plan
    model: GPT
    forward: torch.nn.Module  # the model, perhaps compiled
    optimizer: torch.optim.Optimizer
    batches: PretrainingBatches
    evaluate: Callable[[], dict[str, float]]  # with "val_loss", which decides what is best
    sample: Callable[[int], None]  # complete the prompts, at the step given
    save: Callable[[Progress], Path]
    run: RunDirectory
    device: torch.device
    dtype: torch.dtype


def main(argv: Sequence[str]) -> None:
    call = load("train.py", argv)
    for warning in without_effect(call.config, "train.py"):
        print(f"warning: {warning}")
    if call.dry_run:
        print(dry_run(call.config))
    else:
        train(call.config, f"python train.py {' '.join(argv)}")


def train(config: Config, command: str) -> None:
    """Pretraining from the settings: read the data, build or resume the model, run the loop, draw the curves."""
    device, dtype = setup(config)
    data = Prepared(config.data_dir)
    tokenizer = Tokenizer(data.tokenizer_path)
    plan = make_plan(config, tokenizer.vocab_size, data.train.tokens)
    config = resolved(config, plan)
    run = RunDirectory(config.out_dir)
    identity = {"data": data.sha256, "tokenizer": tokenizer.sha256}
    checkpoint = find_checkpoint(run, config, identity)

    torch.manual_seed(config.seed)
    model = GPT(plan.model).to(device)
    optimizer = make_optimizer(model, config)
    windows = Windows(data.train, config.block_size, config.seed)
    batches = PretrainingBatches(windows, plan.sequences_per_step, config.batch_size, device)
    cast = autocast(device, dtype)
    forward: torch.nn.Module = model
    if config.compile:
        forward = compiled(model, lambda candidate: probe(candidate, batches.step(0), cast))
    progress = Progress()
    torch.manual_seed(config.seed)  # dropout starts here, whatever compiling drew
    if checkpoint:
        checkpoint.load_model(model)
        checkpoint.load_optimizer(model, optimizer)
        progress = checkpoint.progress
    run.path.mkdir(parents=True, exist_ok=True)
    write_text(run.path / "config.json", to_json(config))

    validation = Validation(data.val, config.block_size, config.batch_size, device)
    logbook = Logbook(run.path, config, progress.step, plan.max_iters)
    job = Job(
        config, plan, model, forward, optimizer, batches,
        evaluate=lambda: validation(forward, cast),
        sample=lambda step: complete_prompts(model, tokenizer, config, cast, logbook, step),
        save=lambda state: run.save(state, model, optimizer, config, tokenizer.path, identity),
        run=run, device=device, dtype=dtype,
    )  # fmt: skip
    baselines = baselines_of(data.manifest)
    logbook.say(opening(job, data, baselines))
    try:
        finished = fit(job, progress, logbook)
    finally:
        logbook.close()
    if finished:
        print(
            f"done: best validation loss {progress.best_val_loss:.4f} at step {progress.best_step:,}; {draw(run.path, baselines)}"
        )
        print(f"next: python sample.py {run.path}")
    else:
        print(f"stopped at step {progress.step:,}, saved; go on with: {resume_command(command)}")


def find_checkpoint(run: RunDirectory, config: Config, identity: dict[str, str]) -> Checkpoint | None:
    """The checkpoint to resume, or None for a fresh run. Raises UserError rather than overwrite or mix runs."""
    existing = run.pointers().get("last")
    if config.init_from == "scratch":
        if existing:
            raise UserError(
                f"{run.path}: holds a run at {existing}: go on with --init_from=resume,"
                " or choose another --out_dir; nothing is overwritten"
            )
        return None
    checkpoint = Checkpoint.open(run.find("last"))
    for what, now in identity.items():
        before = checkpoint.identity[what]
        if before != now:
            raise UserError(
                f"{run.path}: was trained with {what} {before[:12]}, {config.data_dir} holds {what} {now[:12]}:"
                " resume with the data it was trained on, or start a new run"
            )
    old = checkpoint.config()
    for name, value in dataclasses.asdict(config).items():
        was = old.get(name)
        if was != (list(value) if isinstance(value, tuple) else value) and name != "init_from":
            print(f"note: {name} was {was!r}, is now {value!r}")
    return checkpoint


def probe(candidate: torch.nn.Module, batch: Batch, cast: Callable) -> None:
    """One forward and backward pass of the real shape, so that a compiler that fails does so before anything starts."""
    x, y = batch.micro_batches[0]
    with cast():
        loss = candidate(x, y, reduction="sum")
    loss.backward()
    candidate.zero_grad(set_to_none=True)


def opening(job: Job, data: Prepared, baselines: dict[str, float]) -> str:
    size = sum(p.numel() for p in job.model.parameters())
    bits = ", ".join(f"{name} {value:.3f}" for name, value in baselines.items())
    return (
        f"{short(size)} parameters on {device_name(job.device)} in {str(job.dtype).removeprefix('torch.')};"
        f" {data.train.tokens:,} training tokens, {data.val.tokens:,} validation tokens\n"
        f"{job.plan.max_iters:,} steps of {job.plan.tokens_per_step:,} tokens"
        f" ({job.plan.micro_batches} micro-batches of {job.config.batch_size}) = {job.plan.epochs:.2f} epochs\n"
        f"to beat, in bits per byte: {bits}"
    )


def resume_command(command: str) -> str:
    return command if "--init_from=resume" in command else f"{command} --init_from=resume"


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM only raise a flag, which the loop reads between steps; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(job: Job, progress: Progress, logbook: Logbook) -> bool:
    """THE training loop. Returns True when `max_iters` is reached, False when asked to stop; both leave a checkpoint."""
    config, last = job.config, job.plan.max_iters
    cast = autocast(job.device, job.dtype)
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.dtype == torch.float16)
    parameters = list(job.model.parameters())
    meter = Meter(job, progress)
    job.model.train()
    with stop_requests() as stop_requested:
        while True:
            step = progress.step
            housekeeping(job, progress, logbook, meter)
            if step >= last:
                return True
            if stop_requested():
                meter.save(job, progress)
                return False

            rate = learning_rate(step, config, last)
            for group in job.optimizer.param_groups:
                group["lr"] = rate
            batch = job.batches.step(step)
            for x, y in batch.micro_batches:
                with cast():
                    # The sum over this micro-batch, divided by the targets of the whole step: however the step
                    # is cut into micro-batches, every token weighs the same.
                    loss = job.forward(x, y, reduction="sum") / batch.n_targets
                scaler.scale(loss).backward()
                meter.loss += loss.detach()
            scaler.unscale_(job.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf)
            scaler.step(job.optimizer)
            scaler.update()
            job.optimizer.zero_grad(set_to_none=True)

            progress.step += 1
            meter.steps += 1
            if progress.step % config.log_interval == 0 or progress.step == last:
                meter.log(logbook, progress.step, rate, norm)
            logbook.advance(progress.step)


def housekeeping(job: Job, progress: Progress, logbook: Logbook, meter: "Meter") -> None:
    """What is due before the next step: save first, then evaluate, then sample."""
    config, step = job.config, progress.step
    final = step == job.plan.max_iters
    evaluation_due = step % config.eval_interval == 0 or final
    sampling_due = bool(config.sample_prompts) and (step in config.sample_iters or final)
    saving_due = step > 0 and (step % (config.checkpoint_interval or config.eval_interval) == 0 or evaluation_due)
    if not (evaluation_due or sampling_due or saving_due):
        return
    saved = meter.save(job, progress) if saving_due else None
    if evaluation_due:
        figures = job.evaluate()
        best = figures["val_loss"] < progress.best_val_loss
        if best and saved:
            progress.best_val_loss, progress.best_step = figures["val_loss"], step
            job.run.point("best", saved.name)
        logbook.metrics({"step": step, "epoch": meter.epoch(step), **figures})
        logbook.say(
            f"step {step:,} | validation {figures['val_loss']:.4f} nats per token,"
            f" {figures['val_bpb']:.4f} bits per byte, perplexity {figures['val_perplexity']:,.1f}{' (best)' if best else ''}"
        )
    if sampling_due:
        job.sample(step)
    meter.restart()


class Meter:
    """Mean loss and speed since the last log line. The loss stays on the device until it is logged."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job = job
        self.peak = peak_flops(job.device, job.config)
        self.flops = flops_per_token(job.plan.model)
        self.loss = torch.tensor(progress.loss_sum, device=job.device)
        self.steps = progress.loss_steps
        self.restart()

    def save(self, job: Job, progress: Progress) -> Path:
        """A checkpoint that knows the losses not logged yet, so that a resumed log is the uninterrupted one."""
        progress.loss_sum, progress.loss_steps = self.loss.item(), self.steps
        return job.save(progress)

    def restart(self) -> None:
        """Leave out of the speed what was not training."""
        self.began, self.timed_from = time.perf_counter(), self.steps

    def epoch(self, step: int) -> float:
        return step * self.job.plan.tokens_per_step / self.job.plan.train_tokens

    def log(self, logbook: Logbook, step: int, rate: float, norm: torch.Tensor) -> None:
        loss = self.loss.item() / self.steps  # waits for the device
        elapsed, timed = time.perf_counter() - self.began, self.steps - self.timed_from
        speed = timed * self.job.plan.tokens_per_step / elapsed
        mfu = speed * self.flops / self.peak if self.peak else None
        tokens, last = step * self.job.plan.tokens_per_step, self.job.plan.max_iters
        record = {
            "step": step, "loss": loss, "lr": rate, "grad_norm": float(norm), "tokens": tokens,
            "epoch": self.epoch(step), "tokens_per_second": speed, "mfu": mfu,
        }  # fmt: skip
        if self.job.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated(self.job.device) / (1 << 30)
        logbook.metrics(record)
        eta = duration((last - step) * self.job.plan.tokens_per_step / speed)
        logbook.say(
            f"step {step:,}/{last:,} | loss {loss:.4f} | lr {rate:.2e} | norm {float(norm):.2f} | {short(speed)} tokens/s"
            + (f" | MFU {mfu:.1%}" if mfu else "")
            + f" | epoch {self.epoch(step):.2f} | {short(tokens)} tokens | ETA {eta}"
        )
        self.loss = torch.zeros((), device=self.job.device)
        self.steps = 0
        self.restart()


def complete_prompts(
    model: GPT, tokenizer: Tokenizer, config: Config, cast: Callable, logbook: Logbook, step: int
) -> None:
    """Complete each of the fixed prompts and keep the texts: a run's own diary of what it has learnt."""
    model.eval()
    for number, prompt in enumerate(config.sample_prompts):
        generator = torch.Generator().manual_seed(config.seed + number)
        with cast():
            ids = generate(
                model, tokenizer, prompt_ids(tokenizer, prompt), config.max_new_tokens,
                config.temperature, config.top_k, config.top_p, generator,
            )  # fmt: skip
            text = "".join(stream(tokenizer, ids))
        logbook.sample({"step": step, "prompt": prompt, "text": text})
        logbook.say(f"step {step:,} | {prompt}>>{text[:160]!r}")
    model.train()


if __name__ == "__main__":
    sys.exit(cli.run(main))
