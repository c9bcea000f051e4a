"""A training job as train.py makes it, without evaluation, samples and checkpoints: what is left is the loop."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

import train
from bench.fp8 import use_fp8
from oracle.checkpoint import RunDirectory
from oracle.hardware import attention, autocast, compiled, setup
from oracle.health import Health
from oracle.loader import PretrainingBatches, Windows
from oracle.logbook import Logbook
from oracle.optim import make_optimizer
from oracle.settings import Config
from oracle.shards import MANIFEST, Prepared, Split, token_dtype
from oracle.stage import Place, Stage

NEVER = 10**9
# What a measured run must not do between its steps, or decide for itself.
BARE = (
    f"--max_iters={NEVER}", "--max_epochs=0", f"--eval_interval={NEVER}", "--checkpoint_interval=0", "--keep_interval=0",
    "--sample_prompts=[]", "--patience=0", "--max_minutes=0", "--wandb_log=False",
)  # fmt: skip
RANDOM_TOKENS, RANDOM_DOCUMENT = 10_000_000, 400


class RandomSplit(Split):
    """Tokens that say nothing, in documents of a newspaper's length: as much work to load and to train on as text."""

    def __init__(self, vocab_size: int) -> None:
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, vocab_size, RANDOM_TOKENS).astype(token_dtype(vocab_size))
        self.tokens, self.bytes = len(tokens), 0
        self._maps = [tokens]
        self._starts: np.ndarray = np.arange(0, len(tokens), RANDOM_DOCUMENT)
        self._shard_starts: np.ndarray = np.array([0, len(tokens)])
        self.lengths: np.ndarray = np.diff(np.append(self._starts, len(tokens)))


@dataclass(frozen=True)
class Text:
    """What is trained on, with what `train.build` asks of a stage and of its tokenizer."""

    train: Split
    vocab_size: int
    note: str

    @property
    def tokenizer(self) -> "Text":
        return self

    @property
    def epoch_tokens(self) -> int:
        return self.train.tokens

    def weights(self, model: torch.nn.Module) -> None:
        """Random ones are as much work."""


def text_of(config: Config) -> Text:
    """The config's shards, or random tokens where they are not prepared."""
    if (Path(config.data_dir) / MANIFEST).exists():
        data = Prepared(config.data_dir, verify=False)
        vocab_size = data.manifest["tokenizer"]["vocab_size"]
        return Text(data.train, vocab_size, f"{data.train.tokens:,} tokens of {config.data_dir}")
    note = f"random tokens: {config.data_dir} is not prepared, and speed does not depend on what they say"
    return Text(RandomSplit(config.vocab_size), config.vocab_size, note)


class Quiet(Logbook):
    """Writes its files, says nothing."""

    def say(self, line: str) -> None:
        pass


class ForLoopAdamW(torch.optim.AdamW):
    """One small kernel after the other. It cannot leave out a sick step, so it does not hear of one."""

    def step(self, closure=None):
        self.found_inf = None
        return super().step(closure)


def optimizer_of(kind: str, model: torch.nn.Module, config: Config) -> torch.optim.AdamW:
    """`kind`: "fused", as training uses it, or "for-loop"."""
    optimizer = make_optimizer(model, config)
    if kind == "fused":
        return optimizer
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in optimizer.param_groups]
    return ForLoopAdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), foreach=False, fused=False)


def attending(config: Config) -> AbstractContextManager[str]:
    """The context of the config's attention kernel, in which a job must be made and run."""
    device, dtype = setup(config)
    heads = (config.n_head, config.block_size, config.n_embd // config.n_head)
    return attention(config.attention, heads, config.dropout, device, dtype)


def make_job(config: Config, text: Text, compile_mode: str = "", linears: str = "plain") -> train.Job:
    """A job that neither evaluates nor saves; `compile_mode` is torch.compile's, "" what train.py takes."""
    device, dtype = setup(config)
    config, plan, model = train.build(config, None, cast(Stage, text), Place(device, dtype))
    if linears == "fp8":
        use_fp8(model)
    cast_ = autocast(device, dtype)
    windows = Windows(text.train, config.block_size, config.seed)
    batches = PretrainingBatches(windows, plan.sequences_per_step, config.batch_size, device)
    forward: torch.nn.Module = model
    if compile_mode:
        forward = cast(torch.nn.Module, torch.compile(model, mode=compile_mode, fullgraph=True, dynamic=False))
        train.probe(forward, batches.step(0), cast_)
    elif config.compile:
        forward = compiled(model, lambda candidate: train.probe(candidate, batches.step(0), cast_))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    health, run = Health(config, device, scaled=scaler.is_enabled()), RunDirectory(config.out_dir)
    return train.Job(
        config, plan, model, forward, make_optimizer(model, config), batches,
        evaluate=lambda: {"val_loss": math.inf, "val_bpb": 0.0, "val_perplexity": 1.0}, sample=lambda step: None,
        save=lambda progress: Path(config.out_dir), run=run, device=device, dtype=dtype, scaler=scaler, health=health,
    )  # fmt: skip
