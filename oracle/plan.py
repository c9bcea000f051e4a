"""What a run will be, before it is one: sizes, steps, memory, hours. `train.py --dry_run` prints it and stops."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from model import GPTConfig, count_parameters, flops_per_token
from oracle.cli import UsageError
from oracle.config import names_of
from oracle.hardware import DTYPES, PEAK_TFLOPS
from oracle.logbook import duration, short
from oracle.preset import CARDS, in_words, memory_gib, micro_batch_sizes, preset
from oracle.settings import Config
from oracle.shards import MANIFEST, Prepared

ASSUMED_MFU = 0.45
EXAMPLE_GPUS = ("RTX 4090", "A100", "H200")


@dataclass(frozen=True)
class Plan:
    model: GPTConfig
    train_tokens: int  # one epoch; 0 when nobody knows yet
    tokens_per_step: int
    sequences_per_step: int
    micro_batches: int  # of each rank
    max_iters: int

    @property
    def epochs(self) -> float:
        return self.max_iters * self.tokens_per_step / self.train_tokens if self.train_tokens else 0.0


def model_shape(config: Config, tokenizer_vocab: int) -> GPTConfig:
    """The model the settings describe. Raises UsageError if the tokenizer has more pieces than it has rows."""
    rows = config.padded_vocab_size or -(-tokenizer_vocab // 128) * 128
    if rows < tokenizer_vocab:
        raise UsageError(
            f"padded_vocab_size={rows} holds fewer rows than the tokenizer has pieces ({tokenizer_vocab:,}): raise it, or set 0"
        )
    return GPTConfig(
        block_size=config.block_size,
        vocab_size=rows,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        dropout=config.dropout,
        bias=config.bias,
    )


def make_plan(config: Config, tokenizer_vocab: int, train_tokens: int, ranks: int = 1) -> Plan:
    """Derive what the settings leave open. Raises UsageError if they do not say how long to train, or cannot hold.

    While batch_size is auto, micro-batches are counted as single sequences.
    """
    model = model_shape(config, tokenizer_vocab)
    micro = (config.batch_size or 1) * config.block_size * ranks  # of all ranks together
    per_step = config.total_batch_size or micro
    if per_step % micro:
        raise UsageError(
            f"total_batch_size={per_step} tokens is not a whole number of micro-batches of batch_size={config.batch_size}"
            f" x block_size={config.block_size} on each of {ranks} ranks: lower batch_size, or start another number of ranks"
        )
    if not config.max_iters and not config.max_epochs:
        raise UsageError(
            "neither max_iters nor max_epochs says how long to train: set one, for instance --max_epochs=10"
        )
    if not config.max_iters and not train_tokens:
        raise UsageError(
            f"max_epochs={config.max_epochs:g} needs the corpus counted: run prepare.py, or set expected_tokens for a dry run"
        )
    max_iters = config.max_iters or math.ceil(config.max_epochs * train_tokens / per_step)
    if config.warmup_iters > max_iters:
        raise UsageError(
            f"warmup_iters={config.warmup_iters} is more than the {max_iters} steps of this run: lower it, or train longer"
        )
    return Plan(model, train_tokens, per_step, per_step // config.block_size, per_step // micro, max_iters)


def dry_run(config: Config) -> str:
    """The plan in words. Works before prepare.py has run, from the config's own expectations."""
    prepared = Prepared(config.data_dir, verify=False) if (Path(config.data_dir) / MANIFEST).exists() else None
    vocab = prepared.manifest["tokenizer"]["vocab_size"] if prepared else config.vocab_size
    tokens = prepared.train.tokens if prepared else config.expected_tokens
    source = f"counted in {config.data_dir}" if prepared else "expected; prepare.py has not counted yet"
    return plan_in_words(config, vocab, tokens, source, "train.py")


def plan_in_words(config: Config, vocab: int, tokens: int, source: str, script: str) -> str:
    """What a run of `script` would be, `tokens` being those of one epoch and `source` who counted them."""
    plan = make_plan(config, vocab, tokens)
    m, total = plan.model, plan.max_iters * plan.tokens_per_step
    flops = total * flops_per_token(m)
    dtype = DTYPES.get(config.dtype, torch.bfloat16)  # auto means that on most GPUs
    memory = memory_gib(m, config.batch_size or 1, config.loss_chunks, dtype)
    lines = [
        f"model        {count_parameters(m) / 1e6:.1f} M parameters,"
        f" {count_parameters(m, positions=False) / 1e6:.1f} M without the position table:"
        f" {m.n_layer} layers, {m.n_head} heads, {m.n_embd} wide, context {m.block_size}, {m.vocab_size:,} rows of vocabulary",
        f"data         {tokens:,} training tokens ({source})"
        if tokens
        else f"data         not prepared yet: {config.data_dir}",
        f"batch        {plan.tokens_per_step:,} tokens per step = {plan.sequences_per_step} sequences of {m.block_size}, "
        + (
            f"in {plan.micro_batches} micro-batches of {config.batch_size}"
            if config.batch_size
            else "in micro-batches as large as the device will like; the memory below is for one sequence"
            + (", by the GPU's memory:" if not config.loss_chunks else "")
        ),
        *(by_memory(plan, config, dtype) if not config.loss_chunks else ()),
        f"length       {plan.max_iters:,} steps = {short(total)} tokens"
        + (f" = {plan.epochs:.2f} epochs" if tokens else ""),
        f"learning     {config.learning_rate:g} after {config.warmup_iters:,} steps of warm-up,"
        f" {config.lr_schedule} to {config.min_lr:g}",
        f"memory       about {sum(memory.values()):.1f} GiB on the device: "
        + ", ".join(f"{name} {size:.1f}" for name, size in memory.items()),
        f"compute      {flops:.2e} FLOP, {flops_per_token(m) / 1e9:.3f} GFLOP per token",
        "time         estimated at "
        + f"{ASSUMED_MFU:.0%} of the peak: "
        + "; ".join(f"{gpu} {duration(flops / (ASSUMED_MFU * PEAK_TFLOPS[gpu] * 1e12))}" for gpu in EXAMPLE_GPUS),
        f"disk         {12 * count_parameters(m) / 1e9:.2f} GB per checkpoint; kept are the last, the best"
        + (f" and every {config.keep_interval:,} steps" if config.keep_interval else ""),
        "",
        "settings     (all others have their defaults)",
    ]
    defaults = Config()
    for name in names_of(script):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            lines.append(f"  {name} = {value!r}")
    return "\n".join(lines)


def by_memory(plan: Plan, config: Config, dtype: torch.dtype) -> list[str]:
    """What `loss_chunks=auto` would pick on GPUs of the usual sizes, a line for each."""
    sizes = [config.batch_size] if config.batch_size else micro_batch_sizes(plan.sequences_per_step)
    return [
        f"  {card:10} {in_words(plan.model, *preset(plan.model, sizes, gib, dtype), dtype)}"
        for card, gib in CARDS.items()
    ]


def resolved(config: Config, plan: Plan) -> Config:
    """`config` with the model's rows and the step's tokens filled in, so that a checkpoint says all about its run."""
    return dataclasses.replace(config, padded_vocab_size=plan.model.vocab_size, total_batch_size=plan.tokens_per_step)
