"""A run in pictures: PNGs from metrics.jsonl, one run or several in the same axes.

Every panel is readable at half size and in greyscale: runs differ in lightness, marker and dash, not in hue alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from oracle.files import atomic_file
from oracle.history import History, Record, number, read_history, shared_baselines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
DPI = 110
PLUNGE = 0.03  # of a run's tokens: the first fall from ln(vocabulary) may leave the axis at the top
SMOOTH_OVER = 1 / 40  # of a series, but at most 101 values
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib and has Greek and Cyrillic
    "font.size": 15,
    "axes.titlesize": 17,
    "legend.fontsize": 14,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.right": False,
    "text.parse_math": False,  # a run may be called $a$
}
MARKERS, DASHES = "os^DvP", ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))
BASELINE_DASHES = ((0, (7, 3)), (0, (1.5, 2)))


@dataclass(frozen=True)
class Scale:
    """A horizontal axis: what a record is worth on it."""

    label: str
    of: Callable[[History, Record], float | None]


TOKENS = Scale("training tokens", lambda run, record: run.tokens(record))
EPOCHS = Scale("epochs", lambda run, record: run.epoch(record))
MINUTES = Scale("minutes of work", lambda run, record: _scaled(run.seconds(record), 60))
HOURS = Scale("hours of work", lambda run, record: _scaled(run.seconds(record), 3600))
Panel = Callable[["Axes", "Drawing"], None]


def _scaled(seconds: float | None, unit: int) -> float | None:
    return None if seconds is None else seconds / unit


@dataclass(frozen=True)
class Drawing:
    """The runs of a figure, what they are to beat, and the axis they are drawn along."""

    runs: Sequence[History]
    baselines: dict[str, float]  # bits per byte
    scale: Scale = TOKENS

    @property
    def labels(self) -> list[str]:
        return distinct_names(self.runs)

    @property
    def tokens_per_epoch(self) -> float | None:
        """Where all runs agree on it to a thousandth."""
        lengths = [run.tokens_per_epoch for run in self.runs]
        known = [length for length in lengths if length]
        return known[0] if len(known) == len(lengths) and max(known) < 1.001 * min(known) else None

    def colour(self, index: int) -> Any:
        """From dark to light, so that a greyscale print keeps the runs apart; one run alone is red."""
        if len(self.runs) == 1:
            return "#b3001b"
        return mpl.colormaps["plasma"](0.8 * index / (len(self.runs) - 1))

    def line(self, index: int) -> dict[str, Any]:
        return {"color": self.colour(index), "linestyle": DASHES[index % len(DASHES)], "linewidth": 2.4}

    def points(self, index: int) -> dict[str, Any]:
        """A line with a marker at each evaluation, or at every few where they would run together."""
        every = max(1, len(self.runs[index].evaluations) // 20)
        return self.line(index) | {"marker": MARKERS[index % len(MARKERS)], "markersize": 7, "markevery": every}

    def raw(self, index: int) -> dict[str, Any]:
        """The unsmoothed values behind a line."""
        colour = "#5b84a6" if len(self.runs) == 1 else self.colour(index)
        return {"color": colour, "linewidth": 1, "alpha": 0.35}

    def series(self, run: History, records: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
        """Where and what: the finite values of `key`, float64."""
        pairs = [(self.scale.of(run, r), number(r.get(key))) for r in records]
        found = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)
        return found[:, 0], found[:, 1]


def distinct_names(runs: Sequence[History]) -> list[str]:
    """The runs' names; where two are called the same, their paths."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


# --- panels -----------------------------------------------------------------------------------------------------


def loss(axis: "Axes", drawing: Drawing) -> None:
    several = len(drawing.runs) > 1
    axis.set(title="Loss (thin: training)" if several else "Loss", ylabel="nats per token")
    for index, run in enumerate(drawing.runs):
        x, y = drawing.series(run, run.training, "loss")
        axis.plot(x, y, **drawing.raw(index))
        smooth = drawing.raw(index) | {"alpha": 0.7 if several else 1, "linewidth": 1.6}
        axis.plot(x, smoothed(y), **smooth, label=None if several else "training")
        label = drawing.labels[index] if several else "validation"
        axis.plot(*drawing.series(run, run.evaluations, "val_loss"), **drawing.points(index), label=label)
    _focus(axis)


def bits(axis: "Axes", drawing: Drawing) -> None:
    axis.set(title="Validation, whole split", ylabel="bits per byte of text")
    for index, run in enumerate(drawing.runs):
        at, lowest = drawing.series(run, [run.best] if run.best else [], "val_bpb")
        label = drawing.labels[index] + (f", best {lowest[0]:.3f}" if len(lowest) else "")
        axis.plot(*drawing.series(run, run.evaluations, "val_bpb"), **drawing.points(index), label=label)
        axis.plot(at, lowest, "o", markersize=15, markerfacecolor="none", color=drawing.colour(index))
    _focus(axis, near=list(drawing.baselines.values()))
    for (name, value), dash in zip(drawing.baselines.items(), BASELINE_DASHES, strict=False):
        above = ", above" if value > axis.get_ylim()[1] else ""
        axis.axhline(value, label=f"{name} {value:.3f}{above}", color="#444444", linestyle=dash, linewidth=1.8)


def perplexity(axis: "Axes", drawing: Drawing) -> None:
    axis.set(title="Validation perplexity", ylabel="perplexity per token")
    for index, run in enumerate(drawing.runs):
        series = drawing.series(run, run.evaluations, "val_perplexity")
        axis.plot(*series, **drawing.points(index), label=drawing.labels[index])
    _focus(axis)


def gap(axis: "Axes", drawing: Drawing) -> None:
    axis.set(title="Validation minus training loss", ylabel="nats per token")
    axis.axhline(0, color="#444444", linewidth=1)
    for index, run in enumerate(drawing.runs):
        records = [r | {"gap": run.gap(r)} for r in run.evaluations]
        axis.plot(*drawing.series(run, records, "gap"), **drawing.points(index), label=drawing.labels[index])
    _focus(axis, keep=[0])


def learning_rate(axis: "Axes", drawing: Drawing) -> None:
    axis.set(title="Learning rate", ylabel="learning rate")
    for index, run in enumerate(drawing.runs):
        axis.plot(*drawing.series(run, run.training, "lr"), **drawing.line(index), label=drawing.labels[index])
    _plain_ticks(axis.yaxis)
    axis.set_ylim(bottom=0)


def gradient_norm(axis: "Axes", drawing: Drawing) -> None:
    axis.set(title="Gradient norm before clipping", ylabel="global norm")
    for index, run in enumerate(drawing.runs):
        x, y = drawing.series(run, run.training, "grad_norm")
        axis.plot(x, y, **drawing.raw(index))
        axis.plot(x, smoothed(y), **drawing.line(index), label=drawing.labels[index])
    limits = {run.settings["grad_clip"] for run in drawing.runs}
    if len(limits) == 1 and (limit := limits.pop()):
        axis.axhline(limit, label=f"clipped at {limit:g}", color="#444444", linestyle=BASELINE_DASHES[0], linewidth=1.8)
    _logarithmic(axis)


def throughput(axis: "Axes", drawing: Drawing) -> None:
    axis.set(title="Throughput of the training steps", ylabel="tokens per second")
    for index, run in enumerate(drawing.runs):
        x, y = drawing.series(run, run.training, "tokens_per_second")
        axis.plot(x, y, **drawing.raw(index))
        axis.plot(x, smoothed(y), **drawing.line(index), label=drawing.labels[index])
    _plain_ticks(axis.yaxis)
    axis.set_ylim(0, 1.1 * axis.get_ylim()[1])


def smoothed(values: np.ndarray) -> np.ndarray:
    """Moving median, centred but at the very end: a spike does not move it, and the first plunge is not bent."""
    most = min(50, int(len(values) * SMOOTH_OVER / 2))
    halves = [min(most, i) for i in range(len(values))]
    return np.array([np.median(values[i - half : i + half + 1]) for i, half in enumerate(halves)])


def _focus(axis: "Axes", keep: Sequence[float] = (), near: Sequence[float] = ()) -> None:
    """Fit the axis to what follows the first plunge, and say in the title where the curve came from.

    Values in `keep` stay in view, those in `near` if they do not take more than half of the axis.
    """
    points = np.concatenate([np.zeros((0, 2)), *(line.get_xydata() for line in _data_lines(axis))])
    if not len(points):
        return
    late = points[points[:, 0] > PLUNGE * points[:, 0].max(), 1]
    if not len(late) or np.ptp(points[:, 1]) < 2 * np.ptp(late):
        late = points[:, 1]  # there is room for all of it
    seen = np.concatenate([late, list(keep)])
    bottom, top = seen.min(), seen.max()
    seen = np.concatenate([seen, [v for v in near if 2 * bottom - top <= v <= 2 * top - bottom]])
    margin = max(0.06 * (seen.max() - seen.min()), 0.001 * abs(top)) or 0.1
    axis.set_ylim(seen.min() - margin, seen.max() + margin)
    if (first := points[:, 1].max()) > seen.max() + margin:
        axis.set_title(f"{axis.get_title()}, from {first:,.{2 if first < 1000 else 0}f}")


def _data_lines(axis: "Axes") -> list[Any]:
    """The curves, without the horizontal lines that run from edge to edge."""
    return [line for line in axis.get_lines() if line.get_transform() is axis.transData and len(line.get_xdata())]


def _logarithmic(axis: "Axes") -> None:
    """A log axis labelled in plain numbers, 1, 2, 5, 10, …, where the values span more than a factor of ten."""
    values = np.concatenate([np.zeros(0), *(line.get_ydata() for line in _data_lines(axis))])
    values = values[values > 0]
    if not len(values) or values.max() < 10 * values.min():
        return
    axis.set_yscale("log")
    axis.set_ylabel(f"{axis.get_ylabel()} (log)")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(_plain))


def _plain_ticks(axis: Any) -> None:
    """At most six steps of 1, 2 or 5, in plain numbers, on an x- or y-axis."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(_plain))


def _plain(value: float, _: int = 0) -> str:
    """Tick labels without powers of ten: 0.00005, 20, 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return np.format_float_positional(value, precision=4, unique=False, fractional=False, trim="-")


# --- figures ----------------------------------------------------------------------------------------------------

FIGURES: dict[str, tuple[Panel, ...]] = {
    "loss.png": (loss, bits),
    "generalization.png": (perplexity, gap),
    "optimization.png": (learning_rate, gradient_norm),
    "speed.png": (throughput, bits),  # the second against time
}


def draw(run: Path, baselines: dict[str, float]) -> Path:
    """Write `curves.png` beside the metrics: loss, bits per byte against the baselines, learning rate."""
    drawing = Drawing([read_history(run)], baselines)
    return save(run / CURVES, [(panel, drawing) for panel in (loss, bits, learning_rate)])


def draw_all(runs: Sequence[History], folder: Path) -> list[Path]:
    """Write every figure into `folder`, all runs in the same axes.

    Tokens are the axis, with epochs along the top where an epoch is as long for all runs; where it is not, one more
    figure has epochs as its axis. Baselines are drawn where they are the same for all.
    """
    baselines = shared_baselines(runs)
    by_tokens = Drawing(runs, baselines)
    time = HOURS if max(run.clock.seconds for run in runs) >= 7200 else MINUTES
    cells = {name: [(panel, by_tokens) for panel in panels] for name, panels in FIGURES.items()}
    cells["speed.png"] = [(throughput, by_tokens), (bits, Drawing(runs, baselines, time))]
    if by_tokens.tokens_per_epoch is None and all(run.tokens_per_epoch for run in runs):
        cells["loss_by_epoch.png"] = [(panel, Drawing(runs, baselines, EPOCHS)) for panel in (loss, bits)]
    return [save(folder / name, row) for name, row in cells.items()]


def save(path: Path, cells: Sequence[tuple[Panel, Drawing]]) -> Path:
    """Draw panels side by side and write them as a PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.6 * len(cells), 5.6), layout="constrained")
        if len(cells[0][1].runs) == 1:  # several are named by the legends
            figure.suptitle(cells[0][1].labels[0], fontsize=18)
        for axis, (panel, drawing) in zip(np.atleast_1d(figure.subplots(1, len(cells))), cells, strict=True):
            axis.set_xlabel(drawing.scale.label)
            _plain_ticks(axis.xaxis)
            panel(axis, drawing)
            _finish(axis, drawing)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=DPI)
    with atomic_file(path) as file:
        file.write(picture.getvalue())
    return path


def _finish(axis: "Axes", drawing: Drawing) -> None:
    """Epochs along the top, a legend where there is something to tell apart, a word where there is nothing."""
    if not _data_lines(axis):
        axis.text(0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", fontsize=18, color="#666666")
        return
    axis.set_xlim(left=-0.03 * axis.get_xlim()[1])  # all panels of a figure begin at 0
    per_epoch = drawing.tokens_per_epoch
    if drawing.scale is TOKENS and per_epoch:
        top = axis.secondary_xaxis("top", functions=(lambda t: t / per_epoch, lambda e: e * per_epoch))
        top.set_xlabel(EPOCHS.label)
        _plain_ticks(top.xaxis)
    if len(axis.get_legend_handles_labels()[0]) > 1:
        axis.legend(framealpha=0.85)
