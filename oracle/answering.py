"""The second stage: to answer. Conversations in packed rows, and only what the assistant says is learnt."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from model import GPT, IGNORE
from oracle.chat import JINJA, Template
from oracle.checkpoint import CHAT_TEMPLATE
from oracle.cli import UserError
from oracle.conversations import Conversation, read_conversations, split
from oracle.diary import write_samples
from oracle.dist import World
from oracle.evaluate import Validation
from oracle.files import hash_of
from oracle.finetune import base_text, source_of
from oracle.loader import Batches, Windows
from oracle.logbook import Logbook
from oracle.packing import ConversationBatches, Fitted, PackedRows, Sample, fit
from oracle.plan import Plan
from oracle.settings import Config
from oracle.stage import Place


class Answering:
    """See `oracle.stage.Stage`."""

    script, samples_with_evaluations, saves_start = "finetune_chat.py", True, False

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.source = config, source_of(config)
        self.tokenizer = self.source.open_tokenizer()
        self.template = Template(self.tokenizer)
        self._read()
        self.identity = {
            "data": hash_of(
                self.read.sha256, self.val_sha256, config.chat_val_fraction, config.long_conversations,
                config.on_bad_line, config.prompt_loss_weight, config.pretrain_mix,
            ),
            "tokenizer": self.tokenizer.sha256,
        }  # fmt: skip
        self.rows = PackedRows(self.train.samples, config.block_size, config.prompt_loss_weight)
        self.epoch_tokens = round(len(self.rows) * config.block_size / (1 - config.pretrain_mix))
        self.text = base_text(config, self.tokenizer)
        if config.pretrain_mix and not self.text:
            raise UserError(
                f"pretrain_mix={config.pretrain_mix:g} wants the base model's text, and {config.data_dir} does not hold it:"
                " set data_dir to what prepare.py made for the base model, or pretrain_mix to 0"
            )
        self.baselines: dict[str, float] = {}
        self.files = {CHAT_TEMPLATE: JINJA}

    def _read(self) -> None:
        """The conversations, split and as tokens. Raises UserError if nothing is left to learn or to measure."""
        c = self.config
        if not c.conversations:
            raise UserError("no conversations given: set conversations to a .jsonl file")
        self.read = read_conversations(c.conversations, c.on_bad_line == "skip")
        self.val_sha256 = ""
        if c.val_conversations:
            held_out = read_conversations(c.val_conversations, c.on_bad_line == "skip")
            self.val_sha256 = held_out.sha256
            sides = self.read.items, held_out.items
        else:
            sides = split(self.read.items, c.chat_val_fraction)
        self.train, self.val = (self._fitted(side) for side in sides)
        for name, fitted in (("train on", self.train), ("measure with", self.val)):
            if not fitted.samples:
                raise UserError(
                    f"{c.conversations}: no conversation to {name} ({fitted}): the context is {c.block_size} tokens;"
                    " give shorter or more conversations, or --long_conversations=cut"
                )

    def _fitted(self, items: Sequence[Conversation]) -> Fitted:
        samples = []
        for c in items:
            ids, mask = self.template.render(c.messages, c.learn)
            samples.append(Sample(c.id, np.array(ids, dtype=self.tokenizer.dtype), np.array(mask)))
        return fit(samples, self.config.block_size, self.config.long_conversations == "cut")

    def weights(self, model: GPT) -> None:
        self.source.load(model)

    def loss(self, model: GPT) -> nn.Module:
        if self.config.neftune_alpha:
            add_noise(model.wte, self.config.neftune_alpha)
        return WeightedLoss(model) if self.config.prompt_loss_weight else model

    def batches(self, plan: Plan, batch_size: int, place: Place) -> Batches:
        c = self.config
        windows = Windows(self.text.train, c.block_size, c.seed) if c.pretrain_mix and self.text else None
        return ConversationBatches(
            self.rows, plan.sequences_per_step, batch_size, c.seed, place, c.pretrain_mix, windows
        )

    def evaluator(self, model: GPT, loss: nn.Module, batch_size: int, place: Place) -> Callable[[], dict[str, float]]:
        answers = AnswerValidation(self.val.samples, self.tokenizer.piece_bytes, model, batch_size, place)
        text = self.text
        kept = Validation(text.val, self.config.block_size, batch_size, place.device, place.world) if text else None

        def figures() -> dict[str, float]:
            found = answers()
            return found | {"base_bpb": kept(model, place.cast)["val_bpb"]} if kept else found

        return figures

    def sample(self, model: GPT, place: Place, logbook: Logbook, step: int) -> None:
        prompts = [self.template.prompt([{"role": "user", "content": q}]) for q in self.config.sample_prompts]
        write_samples(model, self.tokenizer, prompts, self.config, place, logbook, step, self.template.stop_tokens)

    def measures(self) -> dict[str, float]:
        return {}

    def verdict(self, figures: dict[str, float]) -> str:
        return ""

    def about(self) -> str:
        filled = sum(len(s.ids) - 1 for s in self.train.samples) / (len(self.rows) * self.config.block_size)
        return (
            f"{self.read}\nto train on: {self.train}, in {len(self.rows):,} rows, {filled:.1%} full; held out: {self.val}"
            + (
                ""
                if self.text
                else f"; no text of the base model in {self.config.data_dir}, so forgetting is not measured"
            )
        )

    def following(self, run: Path) -> str:
        return f"python sample.py {run} --chat"


class WeightedLoss(nn.Module):
    """The model's loss with a weight for each target."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, places: torch.Tensor, weights: torch.Tensor, *, reduction: str
    ) -> torch.Tensor:
        """Sum (scalar) of the targets' losses, each times its weight; all of shape (B, T)."""
        assert reduction == "sum"
        losses: torch.Tensor = self.model(x, y, places, reduction="none")
        return (losses * weights.flatten()).sum()


def add_noise(embedding: nn.Embedding, alpha: float) -> None:
    """Uniform noise of alpha / sqrt(T C) on what the embedding gives, while training (NEFTune, arXiv 2310.05914)."""

    def noisy(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return out
        size = alpha / math.sqrt(out.shape[-2] * out.shape[-1])
        return out + torch.empty_like(out).uniform_(-size, size)

    embedding.register_forward_hook(noisy)


class AnswerValidation:
    """The held-out answers, all of them, every time: loss, bits per byte, and how many tokens are the likeliest."""

    def __init__(
        self, samples: Sequence[Sample], piece_bytes: Sequence[bytes], model: GPT, batch_size: int, place: Place
    ) -> None:
        self.model, self.place = model, place
        self.rows = PackedRows(samples, model.config.block_size)
        # Whole logits are needed here, which a loss in chunks is there to avoid.
        self.batch_size = max(1, batch_size // model.loss_chunks)
        said = [token for s in samples for token in s.ids[s.mask].tolist()]
        self.n_targets, self.n_bytes = len(said), sum(len(piece_bytes[token]) for token in said)

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Leaves the model in training mode. Ranks share the rows, and all have as many batches."""
        self.model.eval()
        world, nats, right = self.place.world, 0.0, 0.0
        stride = self.batch_size * world.size
        for first in range(0, len(self.rows), stride):
            own = range(first + world.rank * self.batch_size, first + (world.rank + 1) * self.batch_size)
            arrays = self.rows.take([n if n < len(self.rows) else -1 for n in own])
            x, y, places = (torch.from_numpy(array).to(self.place.device) for array in arrays[:3])
            with self.place.cast():
                logits = self.model(x, None, places)
            logits, y = logits.float().flatten(0, 1), y.flatten()
            nats += float(F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="sum"))
            right += float((logits.argmax(1) == y).sum())
        self.model.train()
        nats, right = world.total(nats), world.total(right)
        loss = nats / self.n_targets
        return {
            "val_loss": loss,
            "val_bpb": nats / math.log(2) / max(1, self.n_bytes),
            "val_perplexity": math.exp(min(loss, 50)),
            "token_accuracy": right / self.n_targets,
        }
