"""A checkpoint's weights in the number format the engine is to compute with."""

import torch
from safetensors.torch import load_file

from model import GPT, GPTConfig
from oracle.checkpoint import WEIGHTS, Checkpoint
from oracle.cli import UsageError
from oracle.engine import Parts, parts_of
from oracle.hardware import DTYPES


def load_parts(checkpoint: Checkpoint, config: GPTConfig, dtype: str, device: torch.device) -> Parts:
    """The network's parts in `dtype`; float32 weights are mapped from the file, not read."""
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"dtype={dtype}: must be auto, {', '.join(DTYPES)}")
    tensors = load_file(checkpoint.path / WEIGHTS)
    with torch.device("meta"):
        checkpoint.check_shapes(tensors, GPT(config).state_dict())
    kind = torch.float32 if dtype == "auto" else DTYPES[dtype]
    return parts_of(config, {name: t.to(device, kind) for name, t in tensors.items()})
