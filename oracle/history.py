"""What a run left behind, read back: settings, metrics, samples, and the data it was trained on.

Runs of older versions lack some of it and runs of newer ones hold more, so whatever is absent is None here and
"not recorded" in a report. A run directory is only read, never changed.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

from model import GPTConfig, count_parameters
from oracle.checkpoint import FOLDER, POINTERS, STATE
from oracle.cli import UserError
from oracle.files import sha256
from oracle.logbook import METRICS, SAMPLES, read
from oracle.settings import Config
from oracle.shards import MANIFEST

Record = dict[str, Any]
DATACARD, XZ = "datacard.json", "xz -9"
PAUSE_SECONDS, PAUSE_FACTOR = 600, 5  # without session records, a longer gap than both allow is a pause


@dataclass(frozen=True)
class Clock:
    """How long a run worked, by the time stamps of its records."""

    elapsed: list[float | None]  # seconds of work before each record, pauses left out; None without a time stamp
    pauses: list[float]  # seconds each
    rule: str  # what was taken for a pause

    @property
    def seconds(self) -> float:
        return max((s for s in self.elapsed if s is not None), default=0.0)

    @property
    def hours(self) -> float:
        return self.seconds / 3600


@dataclass(frozen=True)
class History:
    folder: Path
    settings: dict[str, Any]  # config.json over the defaults
    metrics: list[Record]
    samples: list[Record]
    manifest: dict[str, Any] | None = None
    datacard: dict[str, Any] | None = None
    machine: dict[str, Any] = field(default_factory=dict)  # device, versions, as far as noted
    no_manifest: str = ""  # why there is no manifest

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def training(self) -> list[Record]:
        return [r for r in self.metrics if "loss" in r and "step" in r]

    @cached_property
    def evaluations(self) -> list[Record]:
        return [r for r in self.metrics if number(r.get("val_loss")) is not None and "step" in r]

    @cached_property
    def skipped(self) -> list[Record]:
        """Steps that were left out because their loss or gradient was sick."""
        return [r for r in self.metrics if "skipped" in r and "step" in r]

    @cached_property
    def best(self) -> Record | None:
        """The evaluation of lowest validation loss."""
        return min(self.evaluations, key=lambda r: r["val_loss"], default=None)

    @cached_property
    def tokens_per_step(self) -> float:
        for record in reversed(self.training):
            if record["step"] and number(record.get("tokens")):
                return record["tokens"] / record["step"]
        sequences = number(self.settings["batch_size"]) or 1  # it may be "auto"
        return self.settings["total_batch_size"] or sequences * self.settings["block_size"]

    @cached_property
    def tokens_per_epoch(self) -> float | None:
        for record in reversed(self.metrics):
            if number(record.get("epoch")) and "step" in record:
                return self.tokens(record) / record["epoch"]
        return self.manifest["splits"]["train"]["tokens"] if self.manifest else None

    def tokens(self, record: Record) -> float:
        """Training tokens seen when `record` was written."""
        known = number(record.get("tokens"))
        return record["step"] * self.tokens_per_step if known is None else known

    def epoch(self, record: Record) -> float | None:
        per_epoch = self.tokens_per_epoch
        return self.tokens(record) / per_epoch if per_epoch else None

    def gap(self, evaluation: Record) -> float | None:
        """Validation loss minus recent training loss, in nats per token, as the run noted it.

        Older runs did not: minus the mean training loss since the evaluation before, or the last one logged.
        """
        noted = number(evaluation.get("gap"))
        if noted is not None:
            return noted
        until = evaluation["step"]
        since = max((r["step"] for r in self.evaluations if r["step"] < until), default=-1)
        before = [r for r in self.training if r["step"] <= until and number(r["loss"]) is not None]
        losses = [r["loss"] for r in before if r["step"] > since] or [r["loss"] for r in before[-1:]]
        return evaluation["val_loss"] - fmean(losses) if losses else None

    @property
    def parameters(self) -> int | None:
        """None where the settings do not say how many rows the embedding has."""
        values = {f.name: self.settings[f.name] for f in dataclasses.fields(GPTConfig) if f.name != "vocab_size"}
        rows = self.settings["padded_vocab_size"]
        return count_parameters(GPTConfig(**values, vocab_size=rows)) if rows else None

    @property
    def baselines(self) -> dict[str, float]:
        return baselines_of(self.manifest) if self.manifest else {}

    def values(self, key: str) -> list[float]:
        """The finite values of `key` in the training records."""
        return [value for r in self.training if (value := number(r.get(key))) is not None]

    @cached_property
    def clock(self) -> Clock:
        return measure(self.metrics)

    def seconds(self, record: Record) -> float | None:
        """Seconds of work before `record`, one of `metrics`."""
        return next(s for r, s in zip(self.metrics, self.clock.elapsed, strict=True) if r is record)


def number(value: Any) -> float | None:
    """`value` if it is a finite number; a run that diverged logs NaN, and an older one nothing."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def baselines_of(manifest: dict[str, Any]) -> dict[str, float]:
    """The manifest's baselines, in bits per byte, under the names a reader sees."""
    values = manifest["baselines"]
    return {"token frequencies": values["unigram_bits_per_byte"], XZ: values["xz_bits_per_byte"]}


def shared_baselines(runs: Sequence[History]) -> dict[str, float]:
    """Those that are the same for all `runs`. That of xz is the held-out text's own, whatever the tokenizer."""
    first, *others = (run.baselines for run in runs)
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def measure(records: Sequence[Record]) -> Clock:
    """Working time of a run.

    Where a run notes the machine at the start of each session, the gap before such a record is a pause and nothing
    else is. Older runs do not: there, a gap longer than ten minutes and than five times the median gap is one.
    """
    times = [r["time"] for r in records if number(r.get("time")) is not None]
    gaps = [max(0.0, after - before) for before, after in pairwise(times)]
    sessions = any("machine" in r for r in records)
    limit = max(PAUSE_SECONDS, PAUSE_FACTOR * median(gaps)) if gaps else PAUSE_SECONDS
    elapsed: list[float | None] = []
    pauses, worked, before = [], 0.0, None
    for record in records:
        now = number(record.get("time"))
        if now is not None and before is not None:
            gap = max(0.0, now - before)  # a clock may be set back
            if "machine" in record if sessions else gap > limit:
                pauses.append(gap)
            else:
                worked += gap
        before = before if now is None else now
        elapsed.append(None if now is None else worked)
    if sessions:
        return Clock(elapsed, pauses, "the time between the last record of a session and the start of the next")
    return Clock(elapsed, pauses, f"a gap of more than {limit / 60:.0f} minutes between two records")


def read_history(folder: Path) -> History:
    """Read a run directory. Raises UserError if there is no run, or nothing recorded yet."""
    config = folder / "config.json"
    if not config.exists():
        raise UserError(f"{folder}: no config.json there, so no run directory; name one that train.py made")
    settings = dataclasses.asdict(Config()) | _json(config)
    metrics = [r for r in read(folder / METRICS) if isinstance(r, dict)]
    samples = [r for r in read(folder / SAMPLES) if isinstance(r, dict) and {"step", "prompt", "text"} <= r.keys()]
    state = _checkpoint_state(folder)
    manifest, reason = _manifest(settings, state.get("identity", {}).get("data"))
    noted = [r["machine"] for r in metrics if isinstance(r.get("machine"), dict)]
    machine = state.get("versions", {}) | (noted[-1] if noted else {})
    datacard = _datacard(manifest["fingerprint"]["corpus"]) if manifest else None
    history = History(folder, settings, metrics, samples, manifest, datacard, machine, reason)
    if not history.training and not history.evaluations:
        raise UserError(f"{folder / METRICS}: no metrics recorded yet; train first")
    return history


def _manifest(settings: dict[str, Any], trained_on: str | None) -> tuple[dict[str, Any] | None, str]:
    """The manifest of what the run was trained on, or None and a sentence that says why not."""
    path = Path(settings["data_dir"]) / MANIFEST
    if not path.exists():
        return None, f"{path} is not here: no figures of the corpus, no baselines."
    if trained_on and trained_on != (now := sha256(path)):
        return None, (
            f"{path} has been made anew since ({now[:12]}, the run was trained on {trained_on[:12]}):"
            " no figures of the corpus, no baselines."
        )
    return _json(path), ""


def _datacard(corpus: str) -> dict[str, Any] | None:
    """What a cleaner wrote beside the corpus that prepare.py read."""
    path = (Path(corpus) if Path(corpus).is_dir() else Path(corpus).parent) / DATACARD
    return _json(path) if path.exists() else None


def _checkpoint_state(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint remembers besides tensors; empty without a checkpoint."""
    pointers = folder / FOLDER / POINTERS
    name = _json(pointers).get("last") if pointers.exists() else None
    state = folder / FOLDER / name / STATE if name else None
    return _json(state) if state and state.exists() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; restore it from a checkpoint or a backup")
    return value
