"""GPT-2 models from elsewhere: a Hugging Face folder, a .safetensors file or a published name becomes a run directory.

    python -m oracle.hf gpt2 --out_dir=out/gpt2
    python -m oracle.hf path/to/folder

From then on it is a model like any other: sample.py, train.py, finetune_chat.py, export.py and the rest take it.
`--init_from=gpt2` in those does the same on the way, into out/gpt2, once.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from model import GPT, GPTConfig
from oracle import cli
from oracle.byte_level import from_folder
from oracle.checkpoint import FOLDER, Checkpoint, Progress, RunDirectory
from oracle.cli import UsageError, UserError
from oracle.config import to_json
from oracle.files import hash_of, read_json, sha256, write_text
from oracle.settings import Config
from oracle.tokenizer import open_tokenizer

PUBLISHED = {
    "gpt2": (12, 12, 768),
    "gpt2-medium": (24, 16, 1024),
    "gpt2-large": (36, 20, 1280),
    "gpt2-xl": (48, 25, 1600),
}
HUB = "hf:"  # before the name of any other model on the Hub
ROWS = 128  # the embedding has a multiple of so many
# What our network does. Another value in a config.json means another network.
EXPECTED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,), "tie_word_embeddings": (True,),
    "layer_norm_epsilon": (1e-5,),
}  # fmt: skip
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def main(argv: Sequence[str]) -> None:
    places = [word for word in argv if not word.startswith("--")]
    folders = [word.removeprefix("--out_dir=") for word in argv if word.startswith("--out_dir=")]
    if len(places) != 1 or len(folders) > 1 or len(places) + len(folders) != len(argv):
        raise UsageError(
            f"usage: python -m oracle.hf {'|'.join(PUBLISHED)}|{HUB}owner/name|folder|file.safetensors [--out_dir=out/name]"
        )
    print(f"next: python sample.py {as_run(places[0], folders[0] if folders else '')}")


def as_run(place: str, out_dir: str = "") -> str:
    """The run directory of a model: `place` itself, or, for a model from elsewhere, the one it is imported into.

    That is `out_dir`, by default out/<name>; an import that is there already is taken as it is. Raises UserError
    for a model of another kind, and for an out_dir that holds something else.
    """
    if not _is_foreign(place):
        return place
    source = Source.find(place)
    run = Path(out_dir or Path("out") / source.name)
    if run.exists():
        if _imported(run) != source.sha256:
            raise UserError(
                f"{run}: is there already and is not {place}; move it away, or name another folder:"
                f" python -m oracle.hf {place} --out_dir=…"
            )
        return str(run)
    source.write(run)
    print(f"imported {place} into {run}")
    return str(run)


def _is_foreign(place: str) -> bool:
    path = Path(place)
    if path.is_dir():
        return not (path / FOLDER).exists() and any(path.glob("*.safetensors"))
    return place in PUBLISHED or place.startswith(HUB) or path.suffix == ".safetensors"


def _imported(run: Path) -> str | None:
    """Hash of the files that a run directory was imported from; None for any other folder."""
    try:
        return Checkpoint.open(RunDirectory(run).find("last")).identity.get("imported")
    except UserError:
        return None


def download(name: str) -> Path:
    """The folder of a model on the Hub, fetched into its cache if it is not there. Raises UserError if it cannot be."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name}: fetching a model needs the package huggingface_hub: pip install -r requirements-serve.txt,"
            " or give a local folder"
        ) from None
    try:
        wanted = ["config.json", "*.safetensors", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # HTTP and connection errors are OSErrors there
        raise UserError(f"{name}: cannot be fetched ({str(error).splitlines()[0]}); give a local folder") from None


@dataclass(frozen=True)
class Source:
    """The files of a model from elsewhere."""

    name: str
    folder: Path
    weights: list[Path]
    config: dict[str, Any]  # config.json; empty beside a lone .safetensors file

    @classmethod
    def find(cls, place: str) -> "Source":
        if place in PUBLISHED or place.startswith(HUB):
            folder, name = download(place.removeprefix(HUB)), place.removeprefix(HUB).rpartition("/")[2]
            weights = sorted(folder.glob("*.safetensors"))
        else:
            path = Path(place)
            if not path.exists():
                raise UserError(f"init_from={place}: no such file; give a .safetensors file or a Hugging Face folder")
            folder, name = (path, path.resolve().name) if path.is_dir() else (path.parent, path.stem)
            weights = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
        _check(config, place)
        return cls(name, folder, weights, config)

    @property
    def sha256(self) -> str:
        return hash_of(*map(sha256, self.weights))

    def write(self, run: Path) -> None:
        """Make a run directory of it, all or nothing."""
        temporary = run.with_name(f"{run.name}.{os.getpid()}.tmp")
        run.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                self._write(RunDirectory(temporary), Path(scratch))
            if not run.exists():  # another process may have been faster
                temporary.rename(run)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, run: RunDirectory, scratch: Path) -> None:
        tokenizer = self._tokenizer(scratch)
        opened = open_tokenizer(tokenizer)
        tensors = translate(self.tensors(), self.folder.name)
        with_rows(tensors, opened.vocab_size)
        shape = shape_of(tensors, self.config.get("n_head"))
        with torch.device("meta"):
            model = GPT(shape)
        model.load_state_dict(tensors, assign=True)
        config = Config(
            out_dir=str(run.path), n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd, bias=shape.bias,
            block_size=shape.block_size, padded_vocab_size=shape.vocab_size,
        )  # fmt: skip
        identity = {"imported": self.sha256, "data": self.sha256, "tokenizer": opened.sha256}
        run.save(Progress(), model, torch.optim.AdamW(model.parameters()), config, tokenizer, identity)
        write_text(run.path / "config.json", to_json(config))

    def tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for path in self.weights:
            try:
                tensors |= load_file(path)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: no whole safetensors file ({error}); fetch it again") from None
        return tensors

    def _tokenizer(self, scratch: Path) -> Path:
        """Our own exports carry tokenizer.model; others get a tokenizer.json with the chat tokens."""
        if (self.folder / "tokenizer.model").exists():
            return self.folder / "tokenizer.model"
        path = scratch / "tokenizer.json"
        path.write_text(from_folder(self.folder), encoding="utf-8")
        return path


def _check(config: Mapping[str, Any], place: str) -> None:
    """Raises UserError for a model that is no GPT-2 as `model.py` has it."""
    kind = (config.get("architectures") or [config.get("model_type", "gpt2")])[0]
    if config and config.get("model_type", "gpt2") != "gpt2":
        raise UserError(f"{place}: this folder holds {kind}, and only GPT-2 (GPT2LMHeadModel) can be imported")
    for name, allowed in EXPECTED.items():
        if name in config and config[name] not in allowed:
            raise UserError(
                f"{place}: its config.json says {name}={json.dumps(config[name])}, and this GPT-2 is built for"
                f" {' or '.join(json.dumps(value) for value in allowed)}; use another model"
            )
    if config.get("n_inner") not in (None, 4 * config.get("n_embd", 0)):
        raise UserError(f"{place}: its MLP is {config['n_inner']} wide, not 4 x n_embd; use another model")


def translate(tensors: Mapping[str, torch.Tensor], place: str) -> dict[str, torch.Tensor]:
    """OpenAI's and transformers' names and layouts as ours, float32; Conv1D weights (in, out) become (out, in).

    The output head must be the embedding. Raises UserError naming what is missing or differs.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        for prefix in ("_orig_mod.", "module.", "transformer."):
            name = name.removeprefix(prefix)
        if not name.endswith((".attn.bias", ".attn.masked_bias")):  # buffers of the causal mask
            found[name] = tensor
    if "wte.weight" not in found or "wpe.weight" not in found or "h.0.attn.c_attn.weight" not in found:
        raise UserError(f"{place}: holds no GPT-2, its tensors begin with {', '.join(sorted(tensors)[:3])}")
    head = found.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, found["wte.weight"]):
        raise UserError(f"{place}: its output head is not its embedding (untied), and this GPT-2 has one for both")
    width = found["wte.weight"].shape[1]
    conv1d = found["h.0.attn.c_attn.weight"].shape[0] == width
    return {
        name: (t.t() if conv1d and name.endswith(TRANSPOSED) else t).float().contiguous() for name, t in found.items()
    }


def with_rows(tensors: dict[str, torch.Tensor], pieces: int) -> None:
    """Give the embedding rows for all `pieces` and up to the next multiple of ROWS; the new ones are the mean row.

    Rows of zeros would not do: GPT-2's logits lie far below 0, and theirs would be the likeliest.
    """
    table = tensors["wte.weight"]
    missing = -(-max(pieces, len(table)) // ROWS) * ROWS - len(table)
    if missing:
        tensors["wte.weight"] = torch.cat([table, table.mean(0, keepdim=True).expand(missing, -1)])


def shape_of(tensors: Mapping[str, torch.Tensor], n_head: int | None = None) -> GPTConfig:
    """The shape of a model's tensors. Raises UserError if they are not those of one."""
    rows, width = tensors["wte.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("h."))
    shape = GPTConfig(
        len(tensors["wpe.weight"]), rows, layers, n_head or max(1, width // 64), width, 0.0, "ln_f.bias" in tensors
    )
    with torch.device("meta"):
        wanted = GPT(shape).state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors or name not in wanted or tensors[name].shape != wanted[name].shape:
            has, wants = (tuple(some[name].shape) if name in some else "absent" for some in (tensors, wanted))
            raise UserError(f"{name} is {has} where GPT-2 has {wants}: not a whole GPT-2; fetch the model again")
    return shape


if __name__ == "__main__":
    sys.exit(cli.run(main))
