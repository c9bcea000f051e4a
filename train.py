"""Train a language model from nothing on the shards prepare.py made.

    python train.py config/demo.py
    python train.py config/rizospastis.py --batch_size=auto --max_minutes=690
    python train.py config/rizospastis.py --init_from=resume
    torchrun --nproc_per_node=8 train.py config/rizospastis.py

The loop is `fit`, the only one in this repository; the fine-tunes give `train` another stage.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from model import GPT
from oracle import cli
from oracle.checkpoint import Checkpoint, Progress, RunDirectory
from oracle.config import load, to_json, without_effect
from oracle.dist import ALONE, World, gradient_sync, joined, leave, parallel, shard, whole
from oracle.files import write_text
from oracle.finetune import continued
from oracle.hardware import attention, autocast, compiled, device_name, machine, setup
from oracle.health import Health, describe, give_up
from oracle.loader import Batch, Batches
from oracle.logbook import Logbook, short
from oracle.memory import measurement, naming_what_fits, settled
from oracle.meter import Meter
from oracle.optim import learning_rate, make_optimizer
from oracle.plan import Plan, dry_run, make_plan, resolved
from oracle.pretraining import Pretraining
from oracle.report import draw
from oracle.resume import changes, find_checkpoint, resume_command, same_steps
from oracle.settings import Config
from oracle.signals import SAVE, STOP, listening
from oracle.stage import Place, Stage

Outcome = Literal["finished", "stopped", "no better", "ended"]


@dataclass
class Job:
    """Everything `fit` needs; each stage fills it differently."""

    config: Config
    plan: Plan
    model: GPT
    forward: torch.nn.Module  # the loss of a micro-batch: the model itself, perhaps wrapped, compiled, in parallel
    optimizer: torch.optim.Optimizer
    batches: Batches
    evaluate: Callable[[], dict[str, float]]  # with "val_loss", which decides what is best
    sample: Callable[[int], None]  # complete the prompts, at the step given
    save: Callable[[Progress], Path]
    run: RunDirectory
    device: torch.device
    dtype: torch.dtype
    scaler: torch.amp.GradScaler
    health: Health
    world: World = ALONE
    measures: Callable[[], dict[str, float]] = dict  # what else a log line tells of its steps
    verdict: Callable[[dict[str, float]], str] = lambda figures: ""  # why an evaluation's figures end the run
    samples_with_evaluations: bool = False
    saves_start: bool = False


def main(argv: Sequence[str]) -> None:
    call = load("train.py", argv, continued)
    for warning in without_effect(call.config, "train.py"):
        print(f"warning: {warning}")
    if call.dry_run:
        print(dry_run(call.config))
    else:
        train(Pretraining, call.config, argv)


def train(make_stage: Callable[[Config, World], Stage], config: Config, argv: Sequence[str]) -> None:
    """One run of any stage: read the data, build or resume the model, run the loop, draw the curves."""
    world = World.from_environment()
    device, dtype = setup(config, world.local_rank)
    place = Place(device, dtype, world)
    heads = (config.n_head, config.block_size, config.n_embd // config.n_head)
    with joined(world, device), attention(config.attention, heads, config.dropout, device, dtype) as kernel:
        stage = make_stage(config, world)
        run = RunDirectory(config.out_dir, config.keep_interval, world)
        checkpoint = find_checkpoint(run, config, stage.identity)
        config, plan, model = build(config, checkpoint, stage, place)
        optimizer = make_optimizer(model, config)
        batches = stage.batches(plan, config.batch_size, place)
        scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        health = Health(config, device, scaled=scaler.is_enabled())
        loss = stage.loss(model)
        measure = None if config.fsdp else measurement(model, place.cast, device)
        with naming_what_fits(config.batch_size, plan.sequences_per_step // world.size, measure):
            if config.compile:
                loss = compiled(
                    loss, lambda candidate: probe(candidate, batches.step(0), place.cast), fullgraph=not config.fsdp
                )
            progress = restore(checkpoint, model, optimizer, scaler, health, config, world)
            if world.main:
                run.path.mkdir(parents=True, exist_ok=True)
            logbook = Logbook(run.path, config, progress.step, plan.max_iters, writes=world.main)
            if world.main:
                run.sweep()
                write_text(run.path / "config.json", to_json(config))
            logbook.note({"step": progress.step, "machine": machine(device, dtype, world.size) | {"attention": kernel}})
            job = Job(
                config, plan, model, parallel(loss, world, device, config.fsdp), optimizer, batches,
                evaluate=stage.evaluator(model, loss, config.batch_size, place),
                sample=lambda step: stage.sample(model, place, logbook, step),
                save=lambda state: run.save(
                    state, model, optimizer, config, stage.tokenizer.path, stage.identity, loop_tensors(scaler, health),
                    stage.files,
                ),
                run=run, device=device, dtype=dtype, scaler=scaler, health=health, world=world,
                measures=stage.measures, verdict=stage.verdict, samples_with_evaluations=stage.samples_with_evaluations,
                saves_start=stage.saves_start,
            )  # fmt: skip
            logbook.say(opening(job, stage, kernel))
            try:
                outcome = fit(job, progress, logbook)
            finally:
                logbook.close()
    if world.main:
        print(farewell(outcome, progress, job, stage, resume_command(stage.script, argv, world)))
    leave(world)


def build(config: Config, checkpoint: Checkpoint | None, stage: Stage, place: Place) -> tuple[Config, Plan, GPT]:
    """Settings with nothing left open, what follows from them, and the model on its device, as a fresh run has it."""
    world = place.world
    if checkpoint:
        config = same_steps(config, checkpoint)
    plan = make_plan(config, stage.tokenizer.vocab_size, stage.epoch_tokens, world.size)
    torch.manual_seed(config.seed)
    model = GPT(plan.model)
    if not checkpoint:
        stage.weights(model)
    config = settled(config, model, plan.sequences_per_step // world.size, place.device, place.dtype, world)
    plan = make_plan(config, stage.tokenizer.vocab_size, stage.epoch_tokens, world.size)
    config = resolved(config, plan)
    for note in changes(config, checkpoint) if checkpoint else ():
        print(f"note: {note}")
    if config.fsdp:
        shard(model, model.h, world, place.device)
    return config, plan, model.to(place.device)


def restore(
    checkpoint: Checkpoint | None, model: GPT, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
    health: Health, config: Config, world: World,
) -> Progress:  # fmt: skip
    """Everything as the checkpoint has it, or as a run begins; the random generators are the last thing set."""
    step = checkpoint.progress.step if checkpoint else 0
    # Dropout starts here, whatever compiling drew, and each rank has its own.
    torch.manual_seed(config.seed + world.rank * (1_000_003 + step))
    if not checkpoint:
        return Progress()
    checkpoint.load_model(model)
    tensors = checkpoint.load_optimizer(model, optimizer, world)
    health.load(tensors)
    if scaler.is_enabled() and "scaler" in tensors:
        scale, growth_tracker = tensors["scaler"].tolist()
        scaler.load_state_dict(scaler.state_dict() | {"scale": scale, "_growth_tracker": int(growth_tracker)})
    return checkpoint.progress


def loop_tensors(scaler: torch.amp.GradScaler, health: Health) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps for the loop itself, besides weights and moments."""
    state = scaler.state_dict()
    scale = {"scaler": torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)} if state else {}
    return health.state() | scale


def probe(candidate: torch.nn.Module, batch: Batch, cast: Callable) -> None:
    """One forward and backward pass of the real shape, so that a compiler that fails does so before anything starts."""
    with cast():
        loss = candidate(*batch.micro_batches[0], reduction="sum")
    loss.backward()
    candidate.zero_grad(set_to_none=True)


def opening(job: Job, stage: Stage, attention_kernel: str) -> str:
    size = sum(p.numel() for p in job.model.parameters())
    bits = ", ".join(f"{name} {value:.3f}" for name, value in stage.baselines.items())
    ranks = f" on each of {job.world.size} ranks" if job.world.size > 1 else ""
    return (
        f"{short(size)} parameters on {device_name(job.device)} in {str(job.dtype).removeprefix('torch.')},"
        f" attention by the {attention_kernel} kernel; {stage.about()}\n"
        f"{job.plan.max_iters:,} steps of {job.plan.tokens_per_step:,} tokens"
        f" ({job.plan.micro_batches} micro-batches of {job.config.batch_size}{ranks}) = {job.plan.epochs:.2f} epochs"
    ) + (f"\nto beat, in bits per byte: {bits}" if bits else "")


def farewell(outcome: Outcome, progress: Progress, job: Job, stage: Stage, command: str) -> str:
    if outcome == "stopped":
        return f"stopped at step {progress.step:,}, saved; go on with: {command}"
    best = f"best validation loss {progress.best_val_loss:.4f} at step {progress.best_step:,}"
    curves, following = draw(job.run.path, stage.baselines), f"next: {stage.following(job.run.path)}"
    if outcome in ("finished", "ended"):
        return f"done: {best}; {curves}\n{following}"
    return (
        f"done: {job.config.patience} evaluations brought no improvement; {best}; {curves}\n{following}\n"
        f"or go further with a larger --patience: {command}"
    )


def fit(job: Job, progress: Progress, logbook: Logbook) -> Outcome:
    """THE training loop, to `max_iters` ("finished"), until asked to stop, until validation is no better, or until
    the stage's verdict on an evaluation ends it.

    Every one of these leaves a checkpoint. Raises UserError for sick steps that the settings do not tolerate.
    """
    config, last, world = job.config, job.plan.max_iters, job.world
    cast = autocast(job.device, job.dtype)
    parameters = list(job.model.parameters())
    meter = Meter(config, job.plan, job.device, progress)
    job.model.train()
    with listening(config.max_minutes, world) as asked_for:
        while True:
            step = progress.step
            asked = asked_for(meter.saving_seconds)
            if asked == STOP:
                save(job, progress, logbook, meter, must=True)
                return "stopped"
            if outcome := housekeeping(job, progress, logbook, meter, asked == SAVE):
                return outcome
            if step >= last:
                return "finished"

            rate = learning_rate(step, config, last)
            for group in job.optimizer.param_groups:
                group["lr"] = rate
            batch = job.batches.step(step)
            loss = torch.zeros((), device=job.device)
            for number, micro_batch in enumerate(batch.micro_batches, start=1):
                with gradient_sync(job.forward, job.model, last=number == len(batch.micro_batches)):
                    with cast():
                        # The sum over this micro-batch, divided by the targets of the whole step: however the step is
                        # cut into micro-batches, every token weighs the same. Ranks are averaged, hence their number.
                        part = job.forward(*micro_batch, reduction="sum") * world.size / batch.n_targets
                    job.scaler.scale(part).backward()
                loss += part.detach()
            job.scaler.unscale_(job.optimizer)
            norm = whole(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or math.inf))
            loss = world.mean(loss)
            job.health.step(step, loss, norm, job.optimizer)
            job.scaler.update()
            job.optimizer.zero_grad(set_to_none=True)

            progress.step += 1
            meter.count(loss)
            if progress.step % config.log_interval == 0 or progress.step == last:
                look_after(job, logbook)
                meter.log(logbook, progress.step, rate, norm, job.measures())
            logbook.advance(progress.step)


def look_after(job: Job, logbook: Logbook) -> None:
    """Report the sick steps since the last look. Raises UserError when they are not tolerated or do not end."""
    for sick in job.health.sick_steps():
        documents = job.batches.documents(sick.step - 1)
        sentence = describe(sick, documents)
        loss, limit = (value if math.isfinite(value) else None for value in (sick.loss, sick.limit))
        logbook.note(
            {"step": sick.step, "skipped": sick.kind, "batch_loss": loss, "limit": limit, "documents": documents}
        )
        logbook.say(f"warning: {sentence}; skipped")
        if job.config.on_sick_step == "stop" or job.health.hopeless:
            raise give_up(sentence, job.config, job.health.hopeless)


def housekeeping(
    job: Job, progress: Progress, logbook: Logbook, meter: Meter, save_asked: bool = False
) -> Outcome | None:
    """What is due before the next step: save first, then evaluate, then sample. Returns why the run ends here, if it does."""
    config, step = job.config, progress.step
    final = step == job.plan.max_iters
    evaluation_due = step % config.eval_interval == 0 or final
    sampling_step = step in config.sample_iters or final or (job.samples_with_evaluations and evaluation_due)
    sampling_due = bool(config.sample_prompts) and sampling_step
    intervals = (config.checkpoint_interval or config.eval_interval, config.keep_interval)
    saving_due = (step > 0 or job.saves_start) and (
        evaluation_due or save_asked or any(n and step % n == 0 for n in intervals)
    )
    if not (evaluation_due or sampling_due or saving_due):
        return None
    saved = save(job, progress, logbook, meter, must=final) if saving_due else None
    if saved and save_asked:
        logbook.say(f"step {step:,} | saved {saved}, as asked")
    outcome = evaluate(job, progress, logbook, saved) if evaluation_due else None
    if sampling_due:
        job.sample(step)
    meter.restart()
    return outcome


def save(job: Job, progress: Progress, logbook: Logbook, meter: Meter, must: bool) -> Path | None:
    """Write a checkpoint. Where it cannot be written, raise OSError if nothing else `must` follow, else go on without."""
    look_after(job, logbook)
    progress.loss_sum, progress.loss_steps = meter.pending()
    began = time.perf_counter()
    try:
        saved = job.save(progress)
    except OSError as error:
        if must:
            raise
        logbook.say(
            f"warning: step {progress.step:,}: no checkpoint ({cli.explain(error)});"
            " training goes on and tries again at the next"
        )
        return None
    meter.saving_seconds = max(meter.saving_seconds, time.perf_counter() - began)
    return saved


def evaluate(job: Job, progress: Progress, logbook: Logbook, saved: Path | None) -> Outcome | None:
    """Validate, and point "best" at the checkpoint of this step if it is. Returns why the run ends here, if it does."""
    step = progress.step
    figures = job.evaluate()
    reason = job.verdict(figures)
    best = figures["val_loss"] < progress.best_val_loss and not reason
    progress.stale_evaluations = 0 if best else progress.stale_evaluations + 1
    if best and saved:
        progress.best_val_loss, progress.best_step = figures["val_loss"], step
        job.run.point("best", saved.name)
    tokens = step * job.plan.tokens_per_step
    seen = tokens / job.plan.train_tokens  # per unique token: the same as epochs
    record = {"step": step, "epoch": seen, "tokens": tokens, "tokens_per_unique_token": seen, **figures}
    gap, recent = "", job.health.recent_loss(step)
    if recent is not None:
        record |= {"train_loss": recent, "gap": figures["val_loss"] - recent}
        gap = f" | training {recent:.4f}, gap {record['gap']:+.4f}"
    logbook.metrics(record)
    others = "".join(f", {name} {value:.4f}" for name, value in figures.items() if not name.startswith("val_"))
    logbook.say(
        f"step {step:,} | validation {figures['val_loss']:.4f} nats per token, {figures['val_bpb']:.4f} bits per byte,"
        f" perplexity {figures['val_perplexity']:,.1f}{others}{' (best)' if best else ''}{gap}"
        f" | {short(tokens)} tokens, each unique token seen {seen:.2f} times"
    )
    if reason:
        logbook.say(f"step {step:,} | the run ends here: {reason}")
        return "ended"
    return "no better" if job.config.patience and progress.stale_evaluations >= job.config.patience else None


if __name__ == "__main__":
    sys.exit(cli.run(main))
