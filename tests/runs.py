"""What tests ask of a run directory."""

from pathlib import Path

import torch

from oracle.checkpoint import RunDirectory
from oracle.logbook import read

ROOT = Path(__file__).parents[1]


def run_dir(args: list[str]) -> Path:
    return Path(next(a for a in args if a.startswith("--out_dir=")).partition("=")[2])


def metrics(args: list[str]) -> list[dict]:
    return [
        {k: v for k, v in r.items() if k not in ("time", "tokens_per_second")}
        for r in read(run_dir(args) / "metrics.jsonl")
        if "machine" not in r
    ]


def weights(args: list[str], which: str = "last") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(RunDirectory(run_dir(args)).find(which) / "model.safetensors")
