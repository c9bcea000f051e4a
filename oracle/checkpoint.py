"""A run directory and its checkpoints, written so that a kill at any byte leaves the previous one whole.

    out/<run>/config.json            the resolved settings
    out/<run>/checkpoints/step-00000500/
        model.safetensors            weights, float32
        optimizer.safetensors        AdamW's moments by parameter name, and the random generators
        state.json                   step, best loss, hashes of data and of the files beside it; written last
        config.json  tokenizer.model
    out/<run>/checkpoints/pointers.json   {"last": "step-00000500", "best": "step-00000250"}

A checkpoint is written under a temporary name, fsync'd and renamed; then the pointer moves; only then are
checkpoints nobody points at removed. Nothing is pickled.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from oracle.cli import UserError
from oracle.config import to_json
from oracle.files import sha256, write_text
from oracle.settings import Config

FORMAT = 1
FOLDER, POINTERS, STATE = "checkpoints", "pointers.json", "state.json"
WEIGHTS, OPTIMIZER, TOKENIZER = "model.safetensors", "optimizer.safetensors", "tokenizer.model"


@dataclass
class Progress:
    """What a run knows of itself besides weights and moments."""

    step: int = 0  # optimizer steps done
    best_val_loss: float = float("inf")  # nats per token
    best_step: int = -1
    loss_sum: float = 0.0  # over the steps since the last log line
    loss_steps: int = 0


class RunDirectory:
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path / FOLDER

    def pointers(self) -> dict[str, str]:
        path = self.folder / POINTERS
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def find(self, which: str) -> Path:
        """Folder of the checkpoint that `which` ("last" or "best") points at. Raises UserError if there is none."""
        pointers = self.pointers()
        name = pointers.get(which) or pointers.get("last")
        if name is None:
            state = "has no checkpoint yet" if self.path.is_dir() else "does not exist"
            raise UserError(f"{self.path}: this run directory {state}; train it with python train.py <config>")
        return self.folder / name

    def save(
        self,
        progress: Progress,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        tokenizer: Path,
        identity: dict[str, str],
    ) -> Path:
        """Write a checkpoint and point "last" at it. Raises OSError (full disk, …) with the previous one untouched."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for stale in self.folder.glob("*.tmp"):
            shutil.rmtree(stale, ignore_errors=True)
        final = self.folder / f"step-{progress.step:08d}"
        if final.name in self.pointers().values():
            return final  # this step is safe already
        temporary = final.with_suffix(".tmp")
        try:
            temporary.mkdir()
            _save_tensors(model_tensors(model), temporary / WEIGHTS)
            _save_tensors(_optimizer_tensors(model, optimizer) | _random_state(), temporary / OPTIMIZER)
            shutil.copyfile(tokenizer, temporary / TOKENIZER)
            write_text(temporary / "config.json", to_json(config))
            files = {name: sha256(temporary / name) for name in (WEIGHTS, OPTIMIZER, TOKENIZER)}
            state = {"format": FORMAT, "progress": vars(progress), "identity": identity, "files": files}
            write_text(temporary / STATE, json.dumps(state, indent=1))
            _sync(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if final.exists():  # left by a kill between the rename and the pointer
            shutil.rmtree(final)
        temporary.rename(final)
        self.point("last", final.name)
        return final

    def point(self, which: str, name: str) -> None:
        """Move a pointer, then remove the checkpoints that no pointer names."""
        pointers = self.pointers() | {which: name}
        write_text(self.folder / POINTERS, json.dumps(pointers))
        _sync(self.folder)
        for folder in self.folder.glob("step-*"):
            if folder.name not in pointers.values():
                shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Checkpoint:
    """A checkpoint read back: verified when opened, tensors loaded when asked for."""

    path: Path
    progress: Progress
    identity: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Raises UserError if a file is missing, damaged or of another version."""
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path}: not a whole checkpoint, {STATE} cannot be read; use another checkpoint") from None
        if state["format"] != FORMAT:
            raise UserError(
                f"{path}: checkpoint format {state['format']}, this version reads {FORMAT}; use the version that wrote it"
            )
        for name, expected in state["files"].items():
            if not (path / name).exists():
                raise UserError(f"{path / name}: missing from the checkpoint; use another checkpoint")
            if sha256(path / name) != expected:
                raise UserError(f"{path / name}: bytes have changed since it was written; use another checkpoint")
        return cls(path, Progress(**state["progress"]), state["identity"])

    @property
    def tokenizer(self) -> Path:
        return self.path / TOKENIZER

    def config(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        return values

    def load_model(self, model: torch.nn.Module) -> None:
        """Copy the weights into `model`. Raises UserError naming what does not fit."""
        tensors = _load_tensors(self.path / WEIGHTS)
        wanted = {name: tuple(p.shape) for name, p in model.state_dict().items()}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        if wanted != found:
            differing = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
            shown = ", ".join(f"{n} {found.get(n, 'absent')} -> {wanted.get(n, 'absent')}" for n in differing[:3])
            raise UserError(
                f"{self.path}: the checkpoint's model has another shape ({shown}); set the sizes it was trained with"
            )
        model.load_state_dict(tensors)

    def load_optimizer(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Restore the moments, and the random generators from which dropout draws."""
        tensors = _load_tensors(self.path / OPTIMIZER)
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                key: tensors[f"{key}:{name}"].to(
                    parameter.device if key != "step" or optimizer.defaults["fused"] else "cpu"
                )
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
        torch.set_rng_state(tensors["random:cpu"])
        if torch.cuda.is_available() and "random:cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random:cuda"])


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{key}:{name}": tensor.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def _random_state() -> dict[str, torch.Tensor]:
    state = {"random:cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random:cuda"] = torch.cuda.get_rng_state()
    return state


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # its only failure here is the operating system's, in words of its own
        raise OSError(f"{path}: {error}; the previous checkpoint is whole: free some space and resume") from None
    _sync(path)


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def _sync(path: Path) -> None:
    """Make a file or a directory's entries durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
