"""What a fine-tune takes over from the model it starts from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oracle.cli import UserError
from oracle.files import read_json
from oracle.pretrained import Pretrained
from oracle.settings import Config
from oracle.shards import MANIFEST, Prepared
from oracle.tokenizer import Tokenizer, open_tokenizer

SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "bias", "padded_vocab_size")  # of the weights: not to be changed
HABITS = ("dropout", "data_dir")  # as before unless the user says otherwise


def source_of(config: Config) -> Pretrained:
    """The model to start from; of a run that is resumed its own last checkpoint."""
    return Pretrained(*_place(config.init_from, config.out_dir))


def inherited(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of the base model that go on in a fine-tune whose user set `values`; prints them.

    Raises UserError if there is no base model, or if `values` would give its weights another shape.
    """
    place, which = _place(str(values.get("init_from", "scratch")), str(values.get("out_dir", Config.out_dir)))
    return _taken(values, (*SHAPE, *HABITS), place, Pretrained(place, which))


def continued(values: dict[str, Any]) -> dict[str, Any]:
    """The shape of the model that train.py is to go on from, where its user has not set it himself."""
    init_from, out_dir = str(values.get("init_from", "scratch")), str(values.get("out_dir", Config.out_dir))
    saved = Path(out_dir) / "config.json"
    if init_from == "resume" and saved.exists():
        settings = read_json(saved)
        return {name: settings[name] for name in SHAPE if name not in values and name in settings}
    if init_from in ("scratch", "resume"):
        return {}
    return _taken(values, SHAPE, init_from, Pretrained(init_from))


def _taken(values: dict[str, Any], names: Sequence[str], place: str, source: Pretrained) -> dict[str, Any]:
    settings = source.settings()
    for name in SHAPE:
        if name in values and values[name] != settings[name]:
            raise UserError(
                f"{name}={values[name]!r}: {place} was trained with {name}={settings[name]!r}, and its weights have that"
                f" shape: leave {name} out"
            )
    taken = {name: settings[name] for name in names if name not in values}
    print(f"inherited from {place}: " + ", ".join(f"{name}={value}" for name, value in taken.items()))
    return taken


def _place(init_from: str, out_dir: str) -> tuple[str, str]:
    if init_from == "scratch":
        raise UserError(
            "a fine-tune starts from a trained model: set init_from to a run directory such as out/demo, or to resume"
        )
    return (out_dir, "last") if init_from == "resume" else (init_from, "best")


def base_text(config: Config, tokenizer: Tokenizer) -> Prepared | None:
    """The text the base model was trained on, if data_dir still holds it in this tokenizer's ids."""
    if not (Path(config.data_dir) / MANIFEST).exists():
        return None
    data = Prepared(config.data_dir)
    return data if open_tokenizer(data.tokenizer_path).sha256 == tokenizer.sha256 else None
