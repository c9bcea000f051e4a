"""Curves from a run's metrics.jsonl.

python -m oracle.report out/demo
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oracle import cli
from oracle.cli import UsageError, UserError
from oracle.logbook import METRICS, read

CURVES = "curves.png"


def draw(run: Path, baselines: dict[str, float]) -> Path:
    """Write `curves.png` beside the metrics: losses, bits per byte against the baselines, learning rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = read(run / METRICS)
    train, val = [r for r in records if "loss" in r], [r for r in records if "val_loss" in r]
    if not train and not val:
        raise UserError(f"{run / METRICS}: no metrics to draw yet; train first")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    left.plot(*_series(train, "loss"), label="training", color="#9db4c0", linewidth=1.5)
    left.plot(*_series(val, "val_loss"), label="validation", color="#c1121f", linewidth=2, marker="o", markersize=3)
    left.set(title="Loss", ylabel="nats per token")
    middle.plot(*_series(val, "val_bpb"), label="this model", color="#c1121f", linewidth=2, marker="o", markersize=3)
    for (name, bits), style in zip(baselines.items(), ("--", ":"), strict=False):
        middle.axhline(bits, label=name, color="#555555", linestyle=style)
    middle.set(title="Validation", ylabel="bits per byte")
    right.plot(*_series(train, "lr"), color="#003049", linewidth=2)
    right.set(title="Learning rate", ylabel="learning rate")
    for axis in (left, middle, right):
        axis.set_xlabel("optimizer step")
        axis.grid(alpha=0.25)
        for item in (axis.title, axis.xaxis.label, axis.yaxis.label):
            item.set_fontsize(13)
    left.legend(fontsize=12)
    middle.legend(fontsize=12)
    figure.suptitle(run.name, fontsize=14)
    figure.savefig(run / CURVES, dpi=110)
    plt.close(figure)
    return run / CURVES


def _series(records: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    return [r["step"] for r in records], [r[key] for r in records]


def baselines_of(manifest: dict[str, Any]) -> dict[str, float]:
    """The manifest's baselines under the names a reader sees."""
    values = manifest["baselines"]
    return {"token frequencies": values["unigram_bits_per_byte"], "xz -9": values["xz_bits_per_byte"]}


def main(argv: Sequence[str]) -> None:
    if len(argv) != 1 or argv[0].startswith("-"):
        raise UsageError("usage: python -m oracle.report out/<run>")
    run = Path(argv[0])
    config = run / "config.json"
    if not config.exists():
        raise UserError(f"{run}: no config.json there, so no run directory; name one that train.py made")
    data = Path(json.loads(config.read_text(encoding="utf-8"))["data_dir"]) / "manifest.json"
    manifest = json.loads(data.read_text(encoding="utf-8")) if data.exists() else None
    print(f"wrote {draw(run, baselines_of(manifest) if manifest else {})}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
