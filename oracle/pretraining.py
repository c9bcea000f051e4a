"""The first stage: to continue running text, on the shards prepare.py made."""

from collections.abc import Callable
from pathlib import Path

import torch

from model import GPT
from oracle.cli import UserError
from oracle.diary import write_samples
from oracle.dist import World
from oracle.evaluate import Validation
from oracle.files import sha256
from oracle.generate import prompt_ids
from oracle.loader import Batches, PretrainingBatches, Windows
from oracle.logbook import Logbook
from oracle.plan import Plan
from oracle.pretrained import Pretrained
from oracle.report import baselines_of
from oracle.settings import Config
from oracle.shards import Prepared
from oracle.stage import Place
from oracle.tokenizer import open_tokenizer


class Pretraining:
    """See `oracle.stage.Stage`."""

    script, samples_with_evaluations, saves_start = "train.py", False, False

    def __init__(self, config: Config, world: World) -> None:
        self.config, self.data = config, Prepared(config.data_dir)
        self.tokenizer = open_tokenizer(self.data.tokenizer_path)
        self.identity = {"data": self.data.sha256, "tokenizer": self.tokenizer.sha256}
        self.epoch_tokens, self.baselines = self.data.train.tokens, baselines_of(self.data.manifest)
        self.files: dict[str, str] = {}

    def weights(self, model: GPT) -> None:
        if self.config.init_from == "scratch":
            return
        source = Pretrained(self.config.init_from)
        if sha256(source.tokenizer) != self.tokenizer.sha256:
            raise UserError(
                f"init_from={self.config.init_from}: its tokenizer is not that of {self.config.data_dir}: prepare the"
                f" corpus with it, python prepare.py --tokenizer={source.tokenizer}"
            )
        source.load(model)

    def loss(self, model: GPT) -> torch.nn.Module:
        return model

    def batches(self, plan: Plan, batch_size: int, place: Place) -> Batches:
        windows = Windows(self.data.train, self.config.block_size, self.config.seed)
        return PretrainingBatches(windows, plan.sequences_per_step, batch_size, place.device, place.world)

    def evaluator(
        self, model: GPT, loss: torch.nn.Module, batch_size: int, place: Place
    ) -> Callable[[], dict[str, float]]:
        validation = Validation(self.data.val, self.config.block_size, batch_size, place.device, place.world)
        return lambda: validation(loss, place.cast)

    def sample(self, model: GPT, place: Place, logbook: Logbook, step: int) -> None:
        prompts = [prompt_ids(self.tokenizer, prompt) for prompt in self.config.sample_prompts]
        write_samples(model, self.tokenizer, prompts, self.config, place, logbook, step)

    def measures(self) -> dict[str, float]:
        return {}

    def verdict(self, figures: dict[str, float]) -> str:
        return ""

    def about(self) -> str:
        return f"{self.data.train.tokens:,} training tokens, {self.data.val.tokens:,} validation tokens"

    def following(self, run: Path) -> str:
        return f"python sample.py {run}"
