"""What all exports share: the model that leaves, its card, and folders that appear whole or not at all."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from model import GPT
from oracle.checkpoint import Checkpoint, RunDirectory
from oracle.cli import UserError
from oracle.config import from_dict
from oracle.files import sha256, sync, write_text
from oracle.history import read_history
from oracle.modelcard import card
from oracle.plan import model_shape
from oracle.settings import Config
from oracle.subject import data_of
from oracle.tokenizer import UNK, Tokenizer, open_tokenizer

EXPORT = "export.json"  # written last: names a folder as an export of ours, and every file in it with its hash
FORMAT = 1


@dataclass(frozen=True)
class Leaving:
    """The model of a run, on its way out."""

    run: Path
    checkpoint: Checkpoint
    settings: Config

    @classmethod
    def open(cls, place: str, which: str) -> "Leaving":
        """Raises UserError if there is no such checkpoint, or it is damaged."""
        checkpoint = Checkpoint.open(RunDirectory(place).find(which))
        return cls(Path(place), checkpoint, from_dict(checkpoint.config(), str(checkpoint.path)))

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.checkpoint.tokenizer)

    @cached_property
    def model(self) -> GPT:
        model = GPT(model_shape(self.settings, self.tokenizer.vocab_size)).eval()
        self.checkpoint.load_model(model)
        return model

    @cached_property
    def chat_template(self) -> str:
        """The Jinja template of a model that was taught to answer; empty for any other."""
        path = self.checkpoint.chat_template
        return path.read_text(encoding="utf-8") if path else ""

    @property
    def ends(self) -> list[int]:
        """The ids that end what it writes, the usual one first."""
        eos = self.tokenizer.eos
        return [self.tokenizer.chat_id("<|end|>"), eos] if self.chat_template else [eos]

    @property
    def special(self) -> dict[str, int]:
        """Ids by role. A byte-level tokenizer knows no unknown piece and no padding: it pads with its end mark."""
        ours = self.tokenizer.bos != self.tokenizer.eos
        pad = {"pad": 3, "unk": UNK} if ours else {"pad": self.tokenizer.eos}
        return {"bos": self.tokenizer.bos, "eos": self.tokenizer.eos, **pad}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name, linear ones (out, in), with a bias of zeros wherever the model has none."""
        found = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        for name, tensor in list(found.items()):
            bias = name.removesuffix("weight") + "bias"
            if name not in ("wte.weight", "wpe.weight") and name.endswith("weight") and bias not in found:
                found[bias] = torch.zeros(len(tensor))
        return found

    def own_text(self) -> list[str]:
        """Lines of its validation text, if that is still where it was trained; else none."""
        data, _ = data_of(self.checkpoint.identity, self.settings.data_dir, elsewhere=True)
        documents = (data.val.document(number) for number in range(min(200, len(data.val)))) if data else ()
        return [line for ids in documents for line in self.tokenizer.decode(ids.tolist()).split("\n")]

    def card(self, use: list[str]) -> str:
        """The model card, `use` being how it is run in this form."""
        try:
            return card(read_history(self.run), None, None, use)
        except UserError as error:  # an imported model has no history
            front = "---\nlanguage: und  # fill in\nlicense: unknown  # as where it came from\nlibrary_name: transformers\n---\n"
            return "\n".join([front, f"# {self.name}", "", f"A GPT-2. {error}.".replace("..", "."), "", *use, ""])


def write_folder(
    folder: Path, leaving: Leaving, fill: Callable[[Path], None], check: Callable[[Path], dict[str, Any]]
) -> None:
    """Fill a folder under a temporary name, check it there, and only then give it its name in place of an older export.

    Raises UserError if there is a folder of that name that no export made.
    """
    refuse_foreign(folder)
    temporary, old = (folder.with_name(f"{folder.name}.{kind}.tmp") for kind in ("export", "old"))
    for stale in (temporary, old):  # left by a kill
        shutil.rmtree(stale, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        found = {
            "format": FORMAT, "model": leaving.name, "checkpoint": leaving.checkpoint.path.name,
            "verified": check(temporary), "files": {p.name: sha256(p) for p in sorted(temporary.iterdir())},
        }  # fmt: skip
        write_text(temporary / EXPORT, json.dumps(found, ensure_ascii=False, indent=1))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Raises UserError if `folder` holds something that no export wrote."""
    if folder.exists() and not (folder / EXPORT).exists() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: is there and is no export of ours (it has no {EXPORT}); move it away or choose another --export_dir"
        )
