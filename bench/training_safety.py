"""What it costs that a run cannot be lost: the loop with all its care against a bare one, and the time of a save.

    python -m bench.training_safety [config/demo.py] [--rounds=5] [--steps=60] [--save=gpt2|gpt2-medium] [--name=value …]

Each round times the same optimizer steps twice, in turns: `fit` as a run has it (verdicts on every loss, signals,
clock, log lines; neither evaluation nor saving) and a loop of forward, backward and optimizer alone. `--save` then
writes one checkpoint of that size, with moments, into a temporary folder. On a CPU the loops are timed in seconds of
this process (take --threads=1), which other programs on the machine do not disturb.
"""

import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import train
from bench.jobs import BARE, Quiet, make_job, text_of
from bench.options import read
from model import GPT, GPTConfig
from oracle import cli
from oracle.checkpoint import Progress, RunDirectory
from oracle.config import load
from oracle.hardware import autocast
from oracle.optim import learning_rate, make_optimizer
from oracle.settings import Config
from oracle.shards import Prepared

SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024)}


def clock(job: train.Job) -> float:
    return time.process_time() if job.device.type == "cpu" else time.perf_counter()


def bare(job: train.Job, steps: int) -> float:
    """Seconds of the same steps with nothing that watches over them."""
    cast = autocast(job.device, job.dtype)
    parameters = list(job.model.parameters())
    job.model.train()
    began = clock(job)
    for step in range(steps):
        for group in job.optimizer.param_groups:
            group["lr"] = learning_rate(step, job.config, steps)
        batch = job.batches.step(step)
        for micro_batch in batch.micro_batches:
            with cast():
                loss = job.model(*micro_batch, reduction="sum") / batch.n_targets
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, job.config.grad_clip or math.inf)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
    loss.item()
    return clock(job) - began


def careful(job: train.Job, steps: int) -> float:
    Path(job.config.out_dir).mkdir(parents=True, exist_ok=True)
    logbook = Quiet(Path(job.config.out_dir), job.config, 0, steps)
    began = clock(job)
    train.fit(job, Progress(), logbook)
    elapsed = clock(job) - began
    logbook.close()
    return elapsed


def seconds_to_save(size: str, config: Config) -> tuple[float, float]:
    """(seconds, bytes) of one checkpoint of random weights and moments."""
    n_layer, n_head, n_embd = SIZES[size]
    shape = GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    with torch.device("meta"):
        model = GPT(shape)
    model = model.to_empty(device="cpu")
    optimizer = make_optimizer(model, config)
    for p in model.parameters():
        p.data.normal_()
        optimizer.state[p] = {
            "step": torch.tensor(1.0), "exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p)
        }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=".") as folder:
        run = RunDirectory(folder)
        tokenizer = Prepared(config.data_dir, verify=False).tokenizer_path
        began = time.perf_counter()
        saved = run.save(Progress(1), model, optimizer, config, tokenizer, {"data": "", "tokenizer": ""})
        elapsed = time.perf_counter() - began
        return elapsed, sum(path.stat().st_size for path in saved.iterdir())


def main(argv: Sequence[str]) -> None:
    options = read(argv, {"rounds": "5", "steps": "60", "save": ""})
    steps = options.number("steps")
    settings = [*options.settings, *BARE, "--warmup_iters=0", f"--max_iters={steps}"]
    asked = load("train.py", [options.place, *settings]).config
    text = text_of(asked)
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(asked, out_dir=folder)
        for number in range(options.number("rounds")):
            both = [careful, bare] if number % 2 else [bare, careful]
            seconds = {way.__name__: way(make_job(config, text), steps) for way in both}
            pairs.append((seconds["bare"], seconds["careful"]))
    tokens = make_job(config, text).plan.tokens_per_step
    overhead = statistics.median(b / a - 1 for a, b in pairs)
    result: dict[str, object] = {
        "bench": "training_safety",
        "config": options.place,
        "overrides": options.settings,
        "steps": steps,
    }
    for name, values in zip(("bare", "careful"), zip(*pairs, strict=True), strict=True):
        result[name] = round(tokens * steps / statistics.median(values))
        print(
            f"{name:8} {result[name]:10,} tokens/s  ({tokens * steps / max(values):,.0f} to {tokens * steps / min(values):,.0f})"
        )
    result["overhead"] = round(overhead, 4)
    print(f"overhead of each pair, median: {overhead:+.2%}")
    if options.own["save"]:
        elapsed, size = seconds_to_save(options.own["save"], config)
        result |= {"save": options.own["save"], "save_seconds": round(elapsed, 2), "save_gb": round(size / 1e9, 2)}
        print(f"{options.own['save']}: {size / 1e9:.2f} GB saved in {elapsed:.1f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(cli.run(main))
