"""Probes: sentences that differ in one thing only, and does the model prefer the right one?

A file has one probe a line. A minimal pair, as in BLiMP (Warstadt et al. 2020), and a gap with its choices, the right
one first:

    {"language": "el", "kind": "final-n", "good": "Μπήκαν στην τάξη.", "bad": "Μπήκαν στη τάξη."}
    {"language": "el", "kind": "cloze", "text": "Το πλοίο έδεσε στο ___.", "choices": ["λιμάνι", "βουνό"]}

A model is right when the right sentence has the highest probability of all. The sum of log-probabilities favours
short sentences, so the same is also counted per UTF-8 byte.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle.cli import UsageError, UserError
from oracle.text import normalize

FOLDER = Path(__file__).parents[1] / "data" / "probes"
GAP = "___"


@dataclass(frozen=True)
class Probe:
    kind: str
    sentences: tuple[str, ...]  # the right one first


@dataclass(frozen=True)
class Score:
    """Of all probes of one kind."""

    kind: str
    probes: int
    chance: float  # accuracy of guessing
    by_length: float  # of taking the sentence of fewest tokens: what a tokenizer alone knows of spelling
    accuracy: float  # by the sum of log-probabilities
    accuracy_per_byte: float


def probe_file(language: str) -> Path:
    """Where the probes of a language are. Raises UsageError for one that has none."""
    path = FOLDER / f"{language}.jsonl"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.jsonl")))
        raise UsageError(
            f"language {language!r} has no probes; there are some for {known}, or name a file with --probes"
        )
    return path


def read_probes(path: Path) -> list[Probe]:
    """The probes of a file. Raises UserError naming the line that is none, and for an empty file."""
    if not path.is_file():
        raise UserError(
            f'{path}: no such file of probes; it has lines such as {{"kind": "…", "good": "…", "bad": "…"}}'
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: invalid UTF-8 at byte {error.start}; convert the file to UTF-8") from None
    probes = [_probe(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not probes:
        raise UserError(f'{path}: no probe in it; write lines such as {{"kind": "…", "good": "…", "bad": "…"}}')
    return probes


def _probe(line: str, where: str) -> Probe:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    sentences = _sentences(row if isinstance(row, dict) else {})
    if not sentences or not isinstance(row.get("kind"), str) or not all(isinstance(s, str) and s for s in sentences):
        raise UserError(
            f'{where}: not a probe; it needs "kind", and "good" and "bad" or "text" with {GAP} and "choices"'
        )
    if len(set(sentences)) < max(2, len(sentences)):
        raise UserError(f"{where}: its sentences must all be different")
    return Probe(row["kind"], tuple(map(normalize, sentences)))


def _sentences(row: dict[str, Any]) -> list[Any]:
    if "good" in row:
        return [row["good"], row.get("bad")]
    text, choices = row.get("text"), row.get("choices")
    if not isinstance(text, str) or text.count(GAP) != 1 or not isinstance(choices, list):
        return []
    return [text.replace(GAP, choice) if isinstance(choice, str) else None for choice in choices]


def score(
    probes: Sequence[Probe],
    nats: Callable[[Sequence[str]], Sequence[float]],
    lengths: Callable[[Sequence[str]], Sequence[int]],
) -> list[Score]:
    """Accuracy by kind, in the order of the file.

    `nats` says what each of some sentences costs the model, `lengths` how many tokens it has.
    """
    sentences = [sentence for probe in probes for sentence in probe.sentences]
    costs, tokens = iter(nats(sentences)), iter(lengths(sentences))
    marks: dict[str, list[tuple[float, ...]]] = {}
    for probe in probes:
        cost, count = ([next(values) for _ in probe.sentences] for values in (costs, tokens))
        per_byte = [c / len(s.encode()) for c, s in zip(cost, probe.sentences, strict=True)]
        shortest = count[0] == min(count)
        mark = (1 / len(cost), shortest / count.count(min(count)), _first_is_least(cost), _first_is_least(per_byte))
        marks.setdefault(probe.kind, []).append(mark)
    return [Score(kind, len(of_kind), *_means(of_kind)) for kind, of_kind in marks.items()]


def _first_is_least(costs: Sequence[float]) -> bool:
    """A tie is no preference."""
    return costs[0] < min(costs[1:])


def _means(marks: Sequence[tuple[float, ...]]) -> list[float]:
    return [sum(column) / len(marks) for column in zip(*marks, strict=True)]
