"""A checkpoint's weights in the number format the engine is to compute with."""

import torch
from safetensors.torch import load_file

from model import GPT, GPTConfig
from oracle.checkpoint import WEIGHTS, Checkpoint
from oracle.engine import Parts, parts_of
from oracle.hardware import pick_dtype


def load_parts(checkpoint: Checkpoint, config: GPTConfig, dtype: str, device: torch.device) -> Parts:
    """The network's parts in `dtype`; float32 weights are mapped from the file, not read."""
    kind = pick_dtype(dtype, device)
    tensors = load_file(checkpoint.path / WEIGHTS)
    with torch.device("meta"):
        checkpoint.check_shapes(tensors, GPT(config).state_dict())
    return parts_of(config, {name: t.to(device, kind) for name, t in tensors.items()})
