"""The page that evaluate.py writes: what was measured of one run, or of several side by side, in Markdown."""

from collections.abc import Callable, Sequence
from typing import Any

from oracle.logbook import short
from oracle.markdown import literal, shortened, table
from oracle.memorisation import SEED
from oracle.writing import RECITED, SPEED_TOKENS

Result = dict[str, Any]  # what evaluate.py measured of one run, as it stands in evaluation.json
MISSING = "–"
SHOWN_CHARACTERS = 500


def page(results: Sequence[Result]) -> str:
    """The sections for which anything was measured."""
    lines = ["# Evaluation", "", *_runs(results), ""]
    for title, section in (
        ("Text", _texts(results)),
        ("Probes", _probes(results)),
        ("Samples", _style(results)),
        ("Verbatim copies", _copies(results)),
        ("Questions", _questions(results)),
        ("Speed", _speed(results)),
    ):
        if section:
            lines += [f"## {title}", "", *section, ""]
    return "\n".join(lines)


def _table(results: Sequence[Result], first: str, rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    return table([first, *(literal(r["run"]) for r in results)], [[literal(title), *cells] for title, cells in rows])


def _cells(results: Sequence[Result], form: str, *path: str) -> list[str]:
    """What stands at `path` in each result, in the given format."""
    cells = []
    for found in results:
        value: Any = found
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        cells.append(MISSING if value is None else format(value, form))
    return cells


def _rows(
    results: Sequence[Result], figures: Sequence[tuple[str, str, tuple[str, ...]]]
) -> list[tuple[str, list[str]]]:
    """A row for each (title, format, path) that any run has."""
    rows = [(title, _cells(results, form, *path)) for title, form, path in figures]
    return [(title, cells) for title, cells in rows if set(cells) != {MISSING}]


def _runs(results: Sequence[Result]) -> list[str]:
    shown: list[tuple[str, Callable[[Result], str]]] = [
        ("step", lambda r: f"{r['step']:,}"),
        ("parameters", lambda r: short(r["parameters"])),
        ("weights", lambda r: r["dtype"]),
        ("on", lambda r: literal(r["device"])),
        ("context, tokens", lambda r: f"{r['context']:,}"),
        ("stride, tokens", lambda r: f"{r['stride']:,}"),
    ]
    lines = _table(results, "", [(title, [show(r) for r in results]) for title, show in shown])
    notes = [f"- {literal(r['run'])}: {literal(note)}" for r in results for note in r["notes"]]
    return [*lines, "", *notes]


def _texts(results: Sequence[Result]) -> list[str]:
    names = dict.fromkeys(name for r in results for name in r["texts"])
    if not names:
        return []
    figures = (("bits per byte", ".4f", "bpb"), ("nats per token", ".4f", "loss"), ("perplexity", ",.2f", "perplexity"))
    rows = _rows(results, [(f"{n}: {title}", form, ("texts", n, key)) for n in names for title, form, key in figures])
    rows += _rows(results, [(f"{n}: bytes", ",", ("texts", n, "bytes")) for n in names])
    several = len({r["tokenizer"] for r in results}) > 1
    return [
        *_table(results, "", rows),
        "",
        "Every byte is counted once. Windows of the whole context begin a stride apart, and each scores what the one"
        " before it has not; the context runs on from one document into the next. Ends of text are scored, beginnings"
        " are not. Validation and held-out text are each run's own."
        + (" These runs have different tokenizers: only bits per byte compare." if several else ""),
    ]


def _probes(results: Sequence[Result]) -> list[str]:
    by_kind = [{s["kind"]: s for s in r["probes"]} for r in results]
    kinds = dict.fromkeys(kind for scores in by_kind for kind in scores)
    if not kinds:
        return []
    rows = []
    for kind in kinds:
        scores = [[of_kind[kind]] if kind in of_kind else [] for of_kind in by_kind]
        rows.append([literal(kind), *_counted(scores), *map(_accuracy, scores)])
    pairs = [[s for s in of_kind.values() if s["chance"] == 0.5] for of_kind in by_kind]
    if len(kinds) > 1 and any(pairs):
        rows.append(["**all pairs**", *_counted(pairs), *map(_accuracy, pairs)])
    return [
        *table(["kind", "probes", "by length", *(literal(r["run"]) for r in results)], rows),
        "",
        "Share of the probes in which the right sentence is the likeliest: by the sum of log-probabilities / by the sum"
        " per byte. By length: the share for which it has the fewest tokens, which is all that a model without any"
        f" training knows{' (of the first of these runs)' if len(results) > 1 else ''}; a tokenizer has seen no misspelt"
        " words. Guessing gives 50% of pairs, 25% of four choices.",
    ]


def _counted(scores: Sequence[Sequence[Result]]) -> list[str]:
    """How many probes, and the share right by length alone, of the first run that has some."""
    first = next(some for some in scores if some)
    number = sum(s["probes"] for s in first)
    return [f"{number}", f"{sum(s['by_length'] * s['probes'] for s in first) / number:.0%}"]


def _accuracy(scores: Sequence[Result]) -> str:
    """Over all probes of `scores`, each probe weighing the same."""
    number = sum(s["probes"] for s in scores)
    if not number:
        return MISSING
    both = (sum(s[key] * s["probes"] for s in scores) / number for key in ("accuracy", "accuracy_per_byte"))
    return " / ".join(f"{share:.1%}" for share in both)


def _style(results: Sequence[Result]) -> list[str]:
    if not any("writing" in r for r in results):
        return []
    figures = []
    for source, suffix in (("samples", ""), ("unseen", ", in unseen text")):
        for title, form, key in (
            ("distinct pairs of words", ".3f", "distinct_2"),
            ("repeated runs of four words", ".1%", "repeated_4grams"),
            ("ending in a loop", ".1%", "loops"),
            ("stopping by themselves", ".1%", "stopped"),
            ("letters of the language's script", ".1%", "script_share"),
        ):
            figures.append((f"{title}{suffix}", form, ("writing", "style", source, key)))
    drawn = next(r["writing"]["drawn"] for r in results if "writing" in r)
    lines = [
        *_table(results, "", _rows(results, figures)),
        "",
        f"{drawn['count']} texts of at most {drawn['max_new_tokens']} tokens, begun from nothing at temperature"
        f" {drawn['temperature']:g}; unseen text: the beginnings of as many validation documents, where there are so many."
        " The first of the texts:",
    ]
    for r in results:
        if "writing" in r:
            text = literal(shortened(r["writing"]["samples"][0], SHOWN_CHARACTERS))
            lines += ["", f"{literal(r['run'])}:", "", f"> {text}"]
    return lines


def _copies(results: Sequence[Result]) -> list[str]:
    figures: list[tuple[str, str, tuple[str, ...]]] = [
        (f"{title}{suffix}", form, ("writing", "copies", source, key))
        for source, suffix in (("samples", ""), ("unseen", ", in unseen text"))
        for title, form, key in (
            ("longest copy, tokens", ",", "longest_tokens"),
            ("longest copy, characters", ",", "longest_characters"),
            ("longest copy of a text, median, tokens", ",g", "median_tokens"),
        )
    ]
    figures += [
        (f"{title} {of}", form, ("writing", "copies", source, "recited", key))
        for source, of in (("samples", "training texts"), ("unseen", "unseen texts"))
        for title, form, key in (
            ("tokens recited, mean, of", ".2f", "mean_tokens"),
            ("recited as far as asked, of", ".1%", "whole"),
        )
    ]
    rows = _rows(results, figures)
    if not rows:
        return []
    lines = [
        *_table(results, "", rows),
        "",
        f"Copies: the longest run of tokens that stands word for word in the training text too; runs under {SEED} tokens"
        f" are everyday phrases and count as 0. Recited: given the first {RECITED} tokens of a text (or half a context),"
        " how many of as many that follow are the text's own, up to the first other one, always taking the likeliest."
        " Unseen text shows how much of both is mere custom.",
    ]
    for r in results:
        longest = r.get("writing", {}).get("copies", {}).get("samples")
        if longest and longest["longest_tokens"]:
            text = literal(shortened(longest["longest_text"], SHOWN_CHARACTERS))
            lines += ["", f"{literal(r['run'])}, from document {literal(longest['document'])}:", "", f"> {text}"]
    return lines


def _questions(results: Sequence[Result]) -> list[str]:
    rows = _rows(
        results,
        [
            ("right answers", ".1%", ("questions", "accuracy")),
            ("to the questions as written", ".1%", ("questions", "on_questions")),
            ("to their paraphrases", ".1%", ("questions", "on_paraphrases")),
            ("answers that end by themselves", ".1%", ("questions", "stopped")),
        ],
    )
    note = ["", "An answer is right when the fact stands in it word for word. All answers are in evaluation.json."]
    return [*_table(results, "", rows), *note] if rows else []


def _speed(results: Sequence[Result]) -> list[str]:
    rows = [
        ("tokens per second", _cells(results, ",.1f", "speed", "tokens_per_second")),
        ("bytes of weights read per token", _cells(results, ",", "speed", "bytes_per_token")),
    ]
    return [
        *_table(results, "", rows),
        "",
        f"One text at a time, {SPEED_TOKENS} tokens, on this machine as busy as it was.",
    ]
