"""Weights to start from, by the name a user gives them."""

from pathlib import Path
from typing import Any

from model import GPT
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UserError
from oracle.hf import as_run
from oracle.tokenizer import Tokenizer, open_tokenizer


def tokenizer_file(place: str) -> Path:
    """The tokenizer that a file, a run directory or a model from elsewhere has."""
    path = Path(place)
    return path if path.is_file() and path.suffix in (".model", ".json") else Pretrained(place).tokenizer


class Pretrained:
    """A trained model to start from: settings, tokenizer file, weights.

    `place` is a run directory, `which` says which of its checkpoints; or a model from elsewhere, which is made one.
    Raises UserError for anything else.
    """

    def __init__(self, place: str, which: str = "best") -> None:
        run = as_run(place)
        if not Path(run).is_dir():
            raise UserError(
                f"{place}: no such run directory; give scratch, resume, a run such as out/demo, gpt2 (-medium,"
                " -large, -xl), or the folder of a Hugging Face GPT-2"
            )
        self.checkpoint = Checkpoint.open(RunDirectory(run).find(which))
        self.tokenizer: Path = self.checkpoint.tokenizer

    def open_tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.tokenizer)

    def settings(self) -> dict[str, Any]:
        """The settings it was trained with."""
        return self.checkpoint.config()

    def load(self, model: GPT) -> None:
        """Copy its weights into `model`. Raises UserError naming what does not fit."""
        self.checkpoint.load_model(model)
