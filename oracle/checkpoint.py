"""A run directory and its checkpoints, written so that a kill at any byte leaves the previous one whole.

    out/<run>/config.json            the resolved settings
    out/<run>/checkpoints/step-00000500/
        model.safetensors            weights, float32
        optimizer.safetensors        AdamW's moments by parameter name, the random generators, the loop's own tensors
        state.json                   step, best loss, hashes of data and of the files beside it, versions; written last
        config.json  tokenizer.model (tokenizer.json in an imported model)
    out/<run>/checkpoints/pointers.json   {"last": "step-00000500", "best": "step-00000250"}

A checkpoint is written under a temporary name, fsync'd and renamed; then the pointer moves; only then are
checkpoints nobody points at removed, unless every Nth is kept. Nothing is pickled. With several ranks all of them
save, because sharded weights must be put together; rank 0 writes.
"""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from oracle.cli import UserError
from oracle.config import to_json
from oracle.dist import ALONE, World, placed_like, whole
from oracle.files import read_json, sha256, sync, write_text
from oracle.settings import Config
from oracle.tensors import save_tensors
from oracle.versions import versions

FORMAT = 1
FOLDER, POINTERS, STATE = "checkpoints", "pointers.json", "state.json"
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
TOKENIZERS = "tokenizer.model", "tokenizer.json"  # one of them: SentencePiece, or byte-level BPE of an imported model
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass
class Progress:
    """What a run knows of itself besides weights and moments."""

    step: int = 0  # optimizer steps done
    best_val_loss: float = float("inf")  # nats per token
    best_step: int = -1
    stale_evaluations: int = 0  # since the best one
    loss_sum: float = 0.0  # over the steps since the last log line
    loss_steps: int = 0


class RunDirectory:
    """Checkpoints of one run. Those of every `keep_interval` steps (0: of none) are never removed."""

    def __init__(self, path: str | Path, keep_interval: int = 0, world: World = ALONE) -> None:
        self.path = Path(path)
        self.folder = self.path / FOLDER
        self.keep_interval, self.world = keep_interval, world

    def pointers(self) -> dict[str, str]:
        path = self.folder / POINTERS
        return read_json(path) if path.exists() else {}

    def find(self, which: str) -> Path:
        """Folder of the checkpoint that `which` ("last", "best" or its own name) means. Raises UserError if there is none."""
        if (self.folder / which / STATE).exists():
            return self.folder / which
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
        loop: dict[str, torch.Tensor] | None = None,
        files: dict[str, str] | None = None,
    ) -> Path:
        """Write a checkpoint and point "last" at it; `loop` holds tensors that `load_optimizer` will return, `files`
        texts to be kept beside the weights.

        Raises OSError (full disk, no permission, …) with the previous checkpoint untouched.
        """
        final = self.folder / f"step-{progress.step:08d}"
        weights = model_tensors(model)
        others = _optimizer_tensors(model, optimizer) | self._random_states() | (loop or {})
        # A step that "last" names is safe already.
        if self.world.main and self.pointers().get("last") != final.name:
            self.sweep()
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = final.with_suffix(".tmp")
            try:
                temporary.mkdir()
                _save_tensors(weights, temporary / WEIGHTS)
                _save_tensors(others, temporary / OPTIMIZER)
                shutil.copyfile(tokenizer, temporary / tokenizer.name)
                sync(temporary / tokenizer.name)
                for name, text in ({"config.json": to_json(config)} | (files or {})).items():
                    write_text(temporary / name, text)
                state = {
                    "format": FORMAT,
                    "progress": vars(progress),
                    "identity": identity,
                    "versions": versions(),
                    "files": {name: sha256(temporary / name) for name in (WEIGHTS, OPTIMIZER, tokenizer.name)},
                }
                write_text(temporary / STATE, json.dumps(state, indent=1))
                sync(temporary)
                if final.exists():  # left by a kill between the rename and the pointer
                    _discard(final)
                temporary.rename(final)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            self.point("last", final.name)
        return final

    def point(self, which: str, name: str) -> None:
        """Move a pointer, then remove the checkpoints that no pointer names and no interval keeps."""
        if not self.world.main:
            return
        pointers = self.pointers() | {which: name}
        write_text(self.folder / POINTERS, json.dumps(pointers))
        sync(self.folder)
        for folder in self.folder.glob("step-????????"):
            kept = self.keep_interval and int(folder.name.removeprefix("step-")) % self.keep_interval == 0
            if folder.name not in pointers.values() and not kept:
                _discard(folder)

    def sweep(self) -> None:
        """Remove what a kill left half written."""
        for stale in (*self.path.glob("*.tmp"), *self.folder.glob("*.tmp")):
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)

    def _random_states(self) -> dict[str, torch.Tensor]:
        """The random generators of all ranks: dropout draws from them."""
        ranks = self.world.gather(_random_state())
        return {f"{name}{_of_rank(rank)}": state for rank, own in enumerate(ranks) for name, state in own.items()}


@dataclass
class Checkpoint:
    """A checkpoint read back: verified when opened, tensors loaded when asked for."""

    path: Path
    progress: Progress
    identity: dict[str, str]
    versions: dict[str, str]  # of code and packages that wrote it
    hashes: dict[str, str]  # name of a file beside the state -> its sha256 as it was written

    @classmethod
    def open(cls, path: Path, verify: Collection[str] | None = None) -> "Checkpoint":
        """Raises UserError if a file is missing, damaged or of another version; all are read, or those to `verify`."""
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{path}: not a whole checkpoint, {STATE} cannot be read; use another checkpoint") from None
        if state["format"] != FORMAT:
            raise UserError(
                f"{path}: checkpoint format {state['format']}, this version reads {FORMAT}; use the version that wrote it"
            )
        checkpoint = cls(
            path, Progress(**state["progress"]), state["identity"], state.get("versions", {}), state["files"]
        )
        for name in state["files"] if verify is None else verify:
            checkpoint.verify(name)
        return checkpoint

    def verify(self, name: str) -> None:
        """Raises UserError unless the file is what was written."""
        path = self.path / name
        if not path.exists():
            raise UserError(f"{path}: missing from the checkpoint; use another checkpoint")
        if sha256(path) != self.hashes[name]:
            raise UserError(f"{path}: bytes have changed since it was written; use another checkpoint")

    @property
    def tokenizer(self) -> Path:
        return next(path for path in map(self.path.joinpath, TOKENIZERS) if path.exists())

    @property
    def chat_template(self) -> Path | None:
        """The file that says how conversations are rendered, in a checkpoint of a model that was taught to answer."""
        path = self.path / CHAT_TEMPLATE
        return path if path.exists() else None

    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")

    def load_model(self, model: torch.nn.Module) -> None:
        """Copy the weights into `model`. Raises UserError naming what does not fit."""
        tensors = _load_tensors(self.path / WEIGHTS)
        self.check_shapes(tensors, model.state_dict())
        parameters = dict(model.named_parameters())
        model.load_state_dict({n: placed_like(t, parameters[n]) if n in parameters else t for n, t in tensors.items()})

    def check_shapes(self, tensors: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]) -> None:
        """Raises UserError naming the tensors of the checkpoint that do not fit those of a model."""
        found, wanted = ({name: tuple(t.shape) for name, t in some.items()} for some in (tensors, model))
        if wanted != found:
            differing = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
            shown = ", ".join(f"{n} {found.get(n, 'absent')} -> {wanted.get(n, 'absent')}" for n in differing[:3])
            raise UserError(
                f"{self.path}: the checkpoint's model has another shape ({shown}); set the sizes it was trained with"
            )

    def load_optimizer(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, world: World = ALONE
    ) -> dict[str, torch.Tensor]:
        """Restore the moments and this rank's random generators, from which dropout draws; returns the other tensors.

        A rank that the saved run did not have keeps the generators it has.
        """
        tensors = _load_tensors(self.path / OPTIMIZER)
        for name, parameter in model.named_parameters():
            if f"step:{name}" in tensors:  # absent from a run stopped before its first step
                optimizer.state[parameter] = {
                    "step": tensors.pop(f"step:{name}").to(parameter.device if optimizer.defaults["fused"] else "cpu"),
                    "exp_avg": placed_like(tensors.pop(f"exp_avg:{name}"), parameter),
                    "exp_avg_sq": placed_like(tensors.pop(f"exp_avg_sq:{name}"), parameter),
                }
        cpu, cuda = (tensors.get(f"random:{kind}{_of_rank(world.rank)}") for kind in ("cpu", "cuda"))
        if cpu is not None:
            torch.set_rng_state(cpu)
        if torch.cuda.is_available() and cuda is not None:
            torch.cuda.set_rng_state(cuda)
        return tensors


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: whole(tensor.detach()).cpu().contiguous() for name, tensor in model.state_dict().items()}


def _optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{key}:{name}": whole(tensor.detach()).cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def _of_rank(rank: int) -> str:
    return f":{rank}" if rank else ""


def _random_state() -> dict[str, torch.Tensor]:
    state = {"random:cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random:cuda"] = torch.cuda.get_rng_state()
    return state


def _discard(folder: Path) -> None:
    """Remove a checkpoint; renamed first, so that a kill on the way leaves nothing that looks like one."""
    try:
        doomed = folder.rename(folder.with_name(f"{folder.name}.old.tmp"))  # not the name of one being written
    except OSError as error:
        print(f"warning: {folder} is no longer needed and cannot be removed ({error.strerror})")
    else:
        shutil.rmtree(doomed, ignore_errors=True)


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_tensors(tensors, path)
    except OSError as error:
        raise OSError(f"{error}; the previous checkpoint is whole: free some space and resume") from None


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors
