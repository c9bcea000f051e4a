"""Train a language model from nothing on the shards prepare.py made.

    python train.py config/demo.py
    python train.py config/rizospastis.py --batch_size=auto --max_minutes=690
    python train.py config/rizospastis.py --init_from=resume
    torchrun --nproc_per_node=8 train.py config/rizospastis.py

The loop is `fit`, the only one in this repository.
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
from oracle.engine import Uncached, cached
from oracle.evaluate import Validation
from oracle.files import write_text
from oracle.generate import Engine, prompt_ids
from oracle.hardware import attention, autocast, compiled, device_name, machine, setup
from oracle.health import Health, describe, give_up
from oracle.loader import Batch, Batches, PretrainingBatches, Windows
from oracle.logbook import Logbook, short
from oracle.memory import measurement, naming_what_fits, settled
from oracle.meter import Meter
from oracle.optim import learning_rate, make_optimizer
from oracle.plan import Plan, dry_run, make_plan, resolved
from oracle.report import baselines_of, draw
from oracle.resume import changes, find_checkpoint, resume_command, same_steps
from oracle.sampling import SamplingParams
from oracle.settings import Config
from oracle.shards import Prepared
from oracle.signals import SAVE, STOP, listening
from oracle.tokenizer import Tokenizer

Outcome = Literal["finished", "stopped", "no better"]


@dataclass
class Job:
    """Everything `fit` needs; a fine-tune fills it differently."""

    config: Config
    plan: Plan
    model: GPT
    forward: torch.nn.Module  # the model, perhaps compiled, perhaps in parallel
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


def main(argv: Sequence[str]) -> None:
    call = load("train.py", argv)
    for warning in without_effect(call.config, "train.py"):
        print(f"warning: {warning}")
    if call.dry_run:
        print(dry_run(call.config))
    else:
        train(call.config, argv)


def train(config: Config, argv: Sequence[str]) -> None:
    """Pretraining from the settings: read the data, build or resume the model, run the loop, draw the curves."""
    world = World.from_environment()
    device, dtype = setup(config, world.local_rank)
    heads = (config.n_head, config.block_size, config.n_embd // config.n_head)
    with joined(world, device), attention(config.attention, heads, config.dropout, device, dtype) as kernel:
        data = Prepared(config.data_dir)
        tokenizer = Tokenizer(data.tokenizer_path)
        identity = {"data": data.sha256, "tokenizer": tokenizer.sha256}
        run = RunDirectory(config.out_dir, config.keep_interval, world)
        checkpoint = find_checkpoint(run, config, identity)
        config, plan, model = build(config, checkpoint, tokenizer, data, world, device, dtype)
        optimizer = make_optimizer(model, config)
        cast = autocast(device, dtype)
        windows = Windows(data.train, config.block_size, config.seed)
        batches = PretrainingBatches(windows, plan.sequences_per_step, config.batch_size, device, world)
        scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        health = Health(config, device, scaled=scaler.is_enabled())
        validation = Validation(data.val, config.block_size, config.batch_size, device, world)
        measure = None if config.fsdp else measurement(model, cast, device)
        with naming_what_fits(config.batch_size, plan.sequences_per_step // world.size, measure):
            forward: torch.nn.Module = model
            if config.compile:
                forward = compiled(
                    model, lambda candidate: probe(candidate, batches.step(0), cast), fullgraph=not config.fsdp
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
                config, plan, model, parallel(forward, world, device, config.fsdp), optimizer, batches,
                evaluate=lambda: validation(forward, cast),
                sample=lambda step: complete_prompts(model, tokenizer, config, cast, logbook, step),
                save=lambda state: run.save(
                    state, model, optimizer, config, tokenizer.path, identity, loop_tensors(scaler, health)
                ),
                run=run, device=device, dtype=dtype, scaler=scaler, health=health, world=world,
            )  # fmt: skip
            logbook.say(opening(job, data, kernel))
            try:
                outcome = fit(job, progress, logbook)
            finally:
                logbook.close()
    if world.main:
        print(farewell(outcome, progress, job, data, resume_command(argv, world)))
    leave(world)


def build(
    config: Config, checkpoint: Checkpoint | None, tokenizer: Tokenizer, data: Prepared,
    world: World, device: torch.device, dtype: torch.dtype,
) -> tuple[Config, Plan, GPT]:  # fmt: skip
    """Settings with nothing left open, what follows from them, and the fresh model on its device."""
    if checkpoint:
        config = same_steps(config, checkpoint)
    plan = make_plan(config, tokenizer.vocab_size, data.train.tokens, world.size)
    torch.manual_seed(config.seed)
    model = GPT(plan.model)
    config = settled(config, model, plan.sequences_per_step // world.size, device, dtype, world)
    plan = make_plan(config, tokenizer.vocab_size, data.train.tokens, world.size)
    config = resolved(config, plan)
    for note in changes(config, checkpoint) if checkpoint else ():
        print(f"note: {note}")
    if config.fsdp:
        shard(model, model.h, world, device)
    return config, plan, model.to(device)


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
    x, y = batch.micro_batches[0]
    with cast():
        loss = candidate(x, y, reduction="sum")
    loss.backward()
    candidate.zero_grad(set_to_none=True)


def opening(job: Job, data: Prepared, attention_kernel: str) -> str:
    size = sum(p.numel() for p in job.model.parameters())
    bits = ", ".join(f"{name} {value:.3f}" for name, value in baselines_of(data.manifest).items())
    ranks = f" on each of {job.world.size} ranks" if job.world.size > 1 else ""
    return (
        f"{short(size)} parameters on {device_name(job.device)} in {str(job.dtype).removeprefix('torch.')},"
        f" attention by the {attention_kernel} kernel;"
        f" {data.train.tokens:,} training tokens, {data.val.tokens:,} validation tokens\n"
        f"{job.plan.max_iters:,} steps of {job.plan.tokens_per_step:,} tokens"
        f" ({job.plan.micro_batches} micro-batches of {job.config.batch_size}{ranks}) = {job.plan.epochs:.2f} epochs\n"
        f"to beat, in bits per byte: {bits}"
    )


def farewell(outcome: Outcome, progress: Progress, job: Job, data: Prepared, command: str) -> str:
    if outcome == "stopped":
        return f"stopped at step {progress.step:,}, saved; go on with: {command}"
    best = f"best validation loss {progress.best_val_loss:.4f} at step {progress.best_step:,}"
    curves, following = draw(job.run.path, baselines_of(data.manifest)), f"next: python sample.py {job.run.path}"
    if outcome == "finished":
        return f"done: {best}; {curves}\n{following}"
    return (
        f"done: {job.config.patience} evaluations brought no improvement; {best}; {curves}\n{following}\n"
        f"or go further with a larger --patience: {command}"
    )


def fit(job: Job, progress: Progress, logbook: Logbook) -> Outcome:
    """THE training loop, to `max_iters` ("finished"), until asked to stop, or until validation is no better.

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
            if housekeeping(job, progress, logbook, meter, asked == SAVE):
                return "no better"
            if step >= last:
                return "finished"

            rate = learning_rate(step, config, last)
            for group in job.optimizer.param_groups:
                group["lr"] = rate
            batch = job.batches.step(step)
            loss = torch.zeros((), device=job.device)
            for number, (x, y) in enumerate(batch.micro_batches, start=1):
                with gradient_sync(job.forward, job.model, last=number == len(batch.micro_batches)):
                    with cast():
                        # The sum over this micro-batch, divided by the targets of the whole step: however the step is
                        # cut into micro-batches, every token weighs the same. Ranks are averaged, hence their number.
                        part = job.forward(x, y, reduction="sum") * world.size / batch.n_targets
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
                meter.log(logbook, progress.step, rate, norm)
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


def housekeeping(job: Job, progress: Progress, logbook: Logbook, meter: Meter, save_asked: bool = False) -> bool:
    """What is due before the next step: save first, then evaluate, then sample. True when patience is at its end."""
    config, step = job.config, progress.step
    final = step == job.plan.max_iters
    evaluation_due = step % config.eval_interval == 0 or final
    sampling_due = bool(config.sample_prompts) and (step in config.sample_iters or final)
    intervals = (config.checkpoint_interval or config.eval_interval, config.keep_interval)
    saving_due = step > 0 and (evaluation_due or save_asked or any(n and step % n == 0 for n in intervals))
    if not (evaluation_due or sampling_due or saving_due):
        return False
    saved = save(job, progress, logbook, meter, must=final) if saving_due else None
    if saved and save_asked:
        logbook.say(f"step {step:,} | saved {saved}, as asked")
    if evaluation_due:
        evaluate(job, progress, logbook, saved)
    if sampling_due:
        job.sample(step)
    meter.restart()
    return bool(evaluation_due and config.patience and progress.stale_evaluations >= config.patience)


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


def evaluate(job: Job, progress: Progress, logbook: Logbook, saved: Path | None) -> None:
    """Validate, and point "best" at the checkpoint of this step if it is."""
    step = progress.step
    figures = job.evaluate()
    best = figures["val_loss"] < progress.best_val_loss
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
    logbook.say(
        f"step {step:,} | validation {figures['val_loss']:.4f} nats per token, {figures['val_bpb']:.4f} bits per byte,"
        f" perplexity {figures['val_perplexity']:,.1f}{' (best)' if best else ''}{gap}"
        f" | {short(tokens)} tokens, each unique token seen {seen:.2f} times"
    )


def complete_prompts(
    model: GPT, tokenizer: Tokenizer, config: Config, cast: Callable, logbook: Logbook, step: int
) -> None:
    """Complete each of the fixed prompts and keep the texts: a run's own diary of what it has learnt."""
    model.eval()
    # Weights that are shared out among ranks come together only inside the model's own forward pass.
    engine = Engine(Uncached(model) if config.fsdp else cached(model), tokenizer)
    for number, prompt in enumerate(config.sample_prompts):
        params = SamplingParams(
            config.max_new_tokens, config.temperature, config.top_k, config.top_p, seed=config.seed + number
        )
        with cast():
            text = "".join(engine.stream(prompt_ids(tokenizer, prompt), params))
        logbook.sample({"step": step, "prompt": prompt, "text": text})
        logbook.say(f"step {step:,} | {prompt}>>{text[:160]!r}")
    model.train()


if __name__ == "__main__":
    sys.exit(cli.run(main))
