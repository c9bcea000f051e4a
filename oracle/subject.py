"""A trained model to be measured: its checkpoint, and the data it was trained on if that is still here."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model import count_parameters
from oracle.checkpoint import STATE, Checkpoint, RunDirectory
from oracle.cli import UserError
from oracle.config import from_dict
from oracle.corpus import CorpusReader
from oracle.plan import model_shape
from oracle.settings import Config
from oracle.shards import Prepared, Split
from oracle.text import normalize
from oracle.tokenizer import Tokenizer, open_tokenizer


@dataclass(frozen=True)
class Subject:
    name: str
    run: Path  # run directory
    which: str  # checkpoint in it
    checkpoint: Checkpoint
    settings: Config  # that it was trained with
    data: Prepared | None
    no_data: str  # why there is none

    @classmethod
    def open(cls, place: str, which: str, data_dir: str = "") -> "Subject":
        """From a run directory, whose checkpoint `which` is taken, or from a checkpoint's own folder.

        The data is looked for where the run left it, or in `data_dir`. Raises UserError for no run or a damaged one.
        """
        run, name = Path(place), Path(place).resolve().name
        if (run / STATE).exists():
            run, which = run.parent.parent, run.name
            name = f"{run.resolve().name} {which}"
        checkpoint = Checkpoint.open(RunDirectory(run).find(which), verify=())
        checkpoint.verify(checkpoint.tokenizer.name)
        settings = from_dict(checkpoint.config(), str(checkpoint.path))
        data, reason = data_of(checkpoint.identity, data_dir or settings.data_dir, elsewhere=bool(data_dir))
        return cls(name, run, which, checkpoint, settings, data, reason)

    @property
    def block_size(self) -> int:
        return self.settings.block_size

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.checkpoint.tokenizer)

    @property
    def parameters(self) -> int:
        return count_parameters(model_shape(self.settings, self.tokenizer.vocab_size))

    @property
    def splits(self) -> Mapping[str, Split]:
        """The text it was not trained on, by name; none where the data is not here."""
        if not self.data:
            return {}
        found = {"validation": self.data.val, "held out": self.data.heldout}
        return {name: split for name, split in found.items() if split and split.tokens}


def data_of(identity: Mapping[str, str], folder: str, elsewhere: bool) -> tuple[Prepared | None, str]:
    """The prepared data in `folder`, or None and the reason.

    Where the run left it, it must be the very data; named by the user, it must have been made with the same tokenizer.
    """
    try:
        data = Prepared(folder)
    except UserError as error:
        return None, f"No text of its own, no copies: {error}."
    key, found = ("tokenizer", data.manifest["tokenizer"]["sha256"]) if elsewhere else ("data", data.sha256)
    if identity.get(key) == found:
        return data, ""
    what = "was made with another tokenizer than this run's" if elsewhere else "is not what this run was trained on"
    return None, f"No text of its own, no copies: {folder} {what}; name the right folder with --data_dir."


def read_text(name: str) -> list[str]:
    """The documents of a text file, corpus or folder. Raises UserError if there is no text in it."""
    texts = [normalize(document.text) for document in CorpusReader(Path(name))]
    if not any(text.strip() for text in texts):
        raise UserError(f"{name}: no text in it; give a text file, a corpus.jsonl or a folder with some")
    return texts
