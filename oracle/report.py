"""A run on a page: `report.md`, its pictures and `MODEL_CARD.md`, from what the run directory holds.

python -m oracle.report out/demo
python -m oracle.report out/demo out/other --price_per_hour=0.40 --out=reports/

The report is the first run's; the others are drawn in the same axes and compared in the same tables.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from oracle import cli, modelcard
from oracle.cli import UsageError
from oracle.curves import distinct_names, draw_all
from oracle.curves import draw as draw  # train.py draws a run's curves at its end
from oracle.files import write_text
from oracle.history import XZ, History, number, read_history, shared_baselines
from oracle.history import baselines_of as baselines_of
from oracle.logbook import duration, short
from oracle.markdown import literal, shortened, table
from oracle.settings import Config

REPORT = "report.md"
UNKNOWN = "not recorded"
SAMPLE_COLUMNS, SAMPLE_CHARACTERS = 6, 500
CAPTIONS = {
    "loss.png": "Loss in training and on the whole validation split, and bits per UTF-8 byte against what any model has"
    " to beat. The ring is the best evaluation.",
    "generalization.png": "Perplexity, and validation minus training loss: where it grows while validation stands still,"
    " the model is learning by heart. The training loss is a mean over recent steps, with dropout where there is any.",
    "optimization.png": "The learning rate, and the gradient's norm before clipping.",
    "speed.png": "Tokens per second of the training steps alone, and what the time bought, evaluations and checkpoints"
    " included, pauses left out.",
    "loss_by_epoch.png": "The same losses by how often each training token was seen: an epoch is not as long for all of"
    " these runs.",
}


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    runs = [read_history(folder) for folder in options.runs]
    folder = options.out or options.runs[0]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [path.name for path in draw_all(runs, folder)]
    write_text(folder / REPORT, page(runs, pictures, options.price_per_hour))
    card = modelcard.write(folder, modelcard.card(runs[0], options.language, options.license))
    print(f"wrote {REPORT}, {', '.join(pictures)} and {card.name} into {folder}")
    if card.name != modelcard.CARD:
        print(f"note: {folder / modelcard.CARD} has been edited and stays as it is")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; usage: {self.usage}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UsageError for a wrong command line."""
    usage = "python -m oracle.report out/<run> [out/<other> ...] [--price_per_hour=0.40] [--out=DIR]"
    parser = Parser(
        usage=usage, allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="out/<run>", help="run directories; the report is the first one's")
    add("--price_per_hour", type=float, metavar="PRICE", help="of the whole machine, in any currency")
    add("--out", type=Path, metavar="DIR", help="where to write (default: the first run's directory)")
    add("--language", metavar="CODE", help="for the model card, such as el (default: the data card's)")
    add("--license", metavar="ID", help="for the model card, such as cc-by-4.0 (default: left for you to fill in)")
    options = parser.parse_args(argv)
    price = options.price_per_hour
    if price is not None and (number(price) is None or price < 0):
        raise UsageError(f"--price_per_hour={price}: must be a number, 0 or more, such as 0.40")
    twice = [str(run) for i, run in enumerate(options.runs) if run.resolve() in {r.resolve() for r in options.runs[:i]}]
    if twice:
        raise UsageError(f"{twice[0]}: given twice; name each run once")
    return options


def page(runs: Sequence[History], pictures: Sequence[str], price: float | None) -> str:
    """The report in Markdown; pictures are linked by file name."""
    first = runs[0]
    lines = [f"# {literal(first.name)}", "", *_results(runs, price), "", *_verdict(runs), "## Curves", ""]
    for name in pictures:
        lines += [f"![{Path(name).stem.replace('_', ' ')}]({name})", "", CAPTIONS[name], ""]
    for title, section in (
        ("Samples over time", _samples(first)),
        ("Data", _data(first)),
        ("Settings", _settings(runs)),
        ("Machine", _machine(runs)),
        ("Time and cost", _time(runs, price)),
    ):
        lines += [f"## {title}", "", *section, ""]
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _results(runs: Sequence[History], price: float | None) -> list[str]:
    """A table with a column for each run."""
    columns = [_figures(run, price) for run in runs]
    head = ["", *(literal(name) for name in distinct_names(runs))]
    return table(head, [[title, *(column[title] for column in columns)] for title in columns[0]])


def _figures(run: History, price: float | None) -> dict[str, str]:
    """What a run came to: title -> figure."""
    best, last = run.best or {}, max((*run.training, *run.evaluations), key=run.tokens)
    speeds, mfus, memory = (run.values(key) for key in ("tokens_per_second", "mfu", "peak_memory_gib"))
    figures = {
        "parameters": short(run.parameters) if run.parameters else UNKNOWN,
        "training tokens seen": short(run.tokens(last)),
        "epochs": _shown(run.epoch(last), ".2f"),
        "**best validation, bits per byte**": _shown(number(best.get("val_bpb")), ".4f"),
        "its loss, nats per token": _shown(number(best.get("val_loss")), ".4f"),
        "its perplexity per token": _shown(number(best.get("val_perplexity")), ",.2f"),
        "at step": _shown(best.get("step"), ","),
        "in epoch": _shown(run.epoch(best) if best else None, ".2f"),
        "validation minus training loss there": _shown(run.gap(best) if best else None, "+.4f"),
        "sick steps left out": f"{len(run.skipped):,}",
        "tokens per second, training steps": short(median(speeds)) if speeds else UNKNOWN,
        "MFU": _shown(median(mfus) if mfus else None, ".1%"),
        "peak memory, GiB": _shown(max(memory, default=None), ".1f"),
        "time": duration(run.clock.seconds),
    }
    if price is not None:
        figures[f"cost at {price:g} an hour"] = f"{run.clock.hours * price:.2f}"
    return figures


def _verdict(runs: Sequence[History]) -> list[str]:
    """What the figures say in words: baselines, overfitting, and what may be compared."""
    first, lines = runs[0], []
    if first.baselines:
        bits = ", ".join(f"{name} {value:.4f}" for name, value in first.baselines.items())
        lines.append(f"To beat on the same text, in bits per byte: {bits}.")
    if first.best and first.best is not first.evaluations[-1]:
        last = first.evaluations[-1]
        lines.append(
            f"Validation was best at step {first.best['step']:,}; at step {last['step']:,} its loss is"
            f" {last['val_loss'] - first.best['val_loss']:.4f} nats per token higher: the steps between did not help it."
        )
    if first.skipped:
        steps = ", ".join(f"{r['step']:,} ({r['skipped']})" for r in first.skipped[:10])
        lines.append(f"Sick steps were left out: {steps}{', …' if len(first.skipped) > 10 else ''}.")
    if len(runs) > 1 and XZ not in shared_baselines(runs):
        lines.append(
            "These runs were validated on different texts, or on one that is not here: their figures do not say which"
            " model is better."
        )
    elif len({run.manifest["tokenizer"]["sha256"] for run in runs if run.manifest}) > 1:
        lines.append("These runs have different tokenizers: only bits per byte compare, losses per token do not.")
    return [" ".join(lines), ""] if lines else []


def _samples(run: History) -> list[str]:
    """The same prompts at a few steps, side by side: the first, the last and some between."""
    if not run.samples:
        return ["None: set `sample_prompts` and `sample_iters`."]
    texts = {(s["prompt"], s["step"]): s["text"] for s in run.samples}
    steps = spread(sorted({s["step"] for s in run.samples}), SAMPLE_COLUMNS)
    rows = [
        [literal(prompt) or "(nothing)", *(literal(shortened(texts.get((prompt, s), ""), SAMPLE_CHARACTERS)) for s in steps)]
        for prompt in dict.fromkeys(s["prompt"] for s in run.samples)
    ]  # fmt: skip
    c = run.settings
    how = f"temperature {c['temperature']:g}, top_k {c['top_k']}, top_p {c['top_p']:g}"
    note = f"Sampled with {how}. `samples.jsonl` has every text in full."
    return [*table(["prompt", *(f"step {s:,}" for s in steps)], rows, numbers=False), "", note]


def spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of `values`, evenly spaced, both ends among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _data(run: History) -> list[str]:
    if run.manifest is None:
        return [run.no_manifest]
    m, lines = run.manifest, []
    corpus, tokenizer, report = m["corpus"], m["tokenizer"], m["report"]
    facts = [
        ("corpus", f"{corpus['documents']:,} documents, {report['words']:,} words, {corpus['bytes']:,} bytes"),
        ("tokenizer", f"{tokenizer['type']}, {tokenizer['vocab_size']:,} pieces, {tokenizer['sha256'][:12]}"),
        ("tokens per word", f"{report['tokens_per_word']:.2f}"),
        ("bytes per token", f"{report['bytes_per_token']:.2f}"),
        ("byte-fallback tokens", f"{report['byte_token_share']:.3%}"),
    ]
    lines += [f"- {name}: {value}" for name, value in facts + modelcard.provenance(run)]
    rows = [[name, *(f"{s[key]:,}" for key in ("documents", "tokens", "bytes"))] for name, s in m["splits"].items()]
    lines += ["", *table(["split", "documents", "tokens", "bytes"], rows)]
    if not run.datacard:
        return [*lines, "", "No `datacard.json` lies beside the corpus: how it was cleaned is not recorded."]
    rules = [
        [literal(rule["name"]), f"{rule.get('documents_dropped', 0):,}", f"{rule.get('documents_changed', 0):,}"]
        for rule in run.datacard.get("rules", [])
        if rule.get("documents_dropped") or rule.get("documents_changed")
    ]
    return [*lines, "", *table(["cleaning rule", "documents dropped", "documents changed"], rules)] if rules else lines


def _settings(runs: Sequence[History]) -> list[str]:
    """Those that are not the default in some run."""
    defaults = dataclasses.asdict(Config())
    names = dict.fromkeys(n for run in runs for n, v in run.settings.items() if _plain(v) != _plain(defaults.get(n)))
    several = len(runs) > 1

    def row(name: str) -> list[str]:
        values = [literal(repr(_plain(run.settings.get(name)))) for run in runs]
        title = f"**{name}**" if len(set(values)) > 1 else name
        return [title, *values, literal(repr(_plain(defaults[name]))) if name in defaults else "no such setting now"]

    head = ["setting", *(literal(n) for n in distinct_names(runs)), "default"]
    note = ["", "In bold: where these runs differ."] if several else []
    return [*table(head, [row(name) for name in names], numbers=False), *note]


def _plain(value: Any) -> Any:
    """JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value


def _machine(runs: Sequence[History]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.machine)
    if not names:
        asked = ", ".join(f"{name} {runs[0].settings[name]}" for name in ("device", "dtype", "compile"))
        return [f"Not recorded. Asked for: {asked}."]
    head = ["", *(literal(n) for n in distinct_names(runs))]
    rows = [[literal(n), *(literal(str(run.machine.get(n, UNKNOWN))) for run in runs)] for n in names]
    return table(head, rows, numbers=False)


def _time(runs: Sequence[History], price: float | None) -> list[str]:
    lines = []
    for name, run in zip(distinct_names(runs), runs, strict=True):
        clock = run.clock
        cost = f", {clock.hours * price:.2f} at {price:g} an hour" if price is not None else ""
        pauses = ", ".join(duration(pause) for pause in clock.pauses) or "none"
        lines.append(f"- {literal(name)}: {clock.hours:.2f} hours{cost}; pauses left out: {pauses} ({clock.rule})")
    hint = [] if price is not None else ["`--price_per_hour=0.40` adds what it cost."]
    note = "Counted between the first and the last record, by their time stamps: evaluations, checkpoints and samples"
    return [
        *lines,
        "",
        f"{note} are in it; what came before the first record, and steps lost to a kill, are not.",
        *hint,
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main))
