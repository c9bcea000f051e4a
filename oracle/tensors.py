"""Tensors on disk: safetensors files that others may read, and failures in one kind of exception."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from oracle.files import sync


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; it is on the disk on return. Raises OSError, as for a full disk.

    Whom the user's umask lets read files may read it: the library writes for its owner alone, and a service that runs
    as another user could not serve such weights.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:  # its only failure here is the operating system's, in words of its own
        raise OSError(f"{path}: {error}") from None
    path.chmod(mode)
    sync(path)
