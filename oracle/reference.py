"""What the starting model thinks of all pairs, computed once: DPO holds the trained model against it at every step.

`reference.safetensors` in the run directory has "train" and "val", (pairs, 2) float32: summed log-probabilities of the
chosen and the rejected answers. Its header names the pairs and the weights it was computed from.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from model import GPT
from oracle.cli import UserError
from oracle.dpo import pair_logps
from oracle.files import atomic_file
from oracle.pairs import PairRows
from oracle.stage import Place

FILE = "reference.safetensors"


class Reference(NamedTuple):
    """Log-probabilities of the pairs trained on and of those held out, (pairs, 2)."""

    train: np.ndarray
    val: np.ndarray


def read_reference(run: Path, data: str, base: str) -> Reference | None:
    """The stored values, or None if there are none for the pairs `data` and the weights `base` (hashes; "" is any)."""
    try:
        with safe_open(run / FILE, framework="np") as file:
            made_for = file.metadata() or {}
            if made_for.get("data") != data or base not in ("", made_for.get("base")):
                return None
            return Reference(file.get_tensor("train"), file.get_tensor("val"))
    except (OSError, SafetensorError):
        return None


def write_reference(run: Path, reference: Reference, data: str, base: str) -> None:
    """Store values for the next time, all of them or nothing."""
    run.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(value) for name, value in reference._asdict().items()}
    with atomic_file(run / FILE) as file:
        file.write(save(tensors, metadata={"data": data, "base": base}))


def missing(run: Path) -> UserError:
    return UserError(
        f"{run / FILE}: missing, damaged or of other pairs, and this run has left the model it is held against: put the"
        " file back, or start a new run in another out_dir"
    )


@torch.no_grad()
def logps_of(model: GPT, rows: PairRows, batch_size: int, place: Place) -> np.ndarray:
    """Summed log-probabilities (pairs, 2) of all pairs; `batch_size` counts rows of texts. Ranks share the work.

    Leaves the model in training mode.
    """
    model.eval()
    out: np.ndarray = np.zeros((len(rows.texts), 2), dtype=np.float32)
    size = max(1, batch_size // 2)
    stride = size * place.world.size
    for first in range(place.world.rank * size, len(rows) + -len(rows) % stride, stride):
        numbers = [n if n < len(rows) else -1 for n in range(first, first + size)]
        x, y, places = (tensor.to(place.device) for tensor in rows.take(numbers))
        with place.cast():
            logps, _ = pair_logps(model, x, y, places, rows.most)
        for row, number in enumerate(numbers):
            here = rows.pairs([number])
            out[here] = logps[row, :, : len(here)].T.float().cpu().numpy()
    model.train()
    parts = place.world.gather({"logps": torch.from_numpy(out)})  # each rank has zeros where the others computed
    return torch.stack([part["logps"] for part in parts]).sum(0).numpy()
