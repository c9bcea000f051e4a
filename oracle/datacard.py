"""The data card: what a cleaning run kept, and what each rule dropped or changed, with examples.

`datacard.json` is for programs, `datacard.md` for people; both are written by the run that wrote the corpus
and carry its SHA-256.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 10  # of each rule
_EXCERPT = 160  # characters of an example
_CONTEXT = 50  # of these, characters before the first difference


def _difference_at(before: str, after: str) -> int:
    """Index of the first character that differs."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if before[low:middle] == after[low:middle] else (low, middle - 1)
    return low


def _excerpts(before: str, after: str) -> tuple[str, str]:
    start = max(0, _difference_at(before, after) - _CONTEXT)
    return before[start : start + _EXCERPT], after[start : start + _EXCERPT]


def _characters_changed(before: str, after: str) -> int:
    """Characters that went or came, whichever are more; order is not looked at, so it is never too high."""
    had, has = Counter(before), Counter(after)
    return max((had - has).total(), (has - had).total())


@dataclass
class Tally:
    """What one rule did. Tallies of parts add up to the tally of the whole, in any order.

    The examples are those documents whose hashed ids are smallest: the same ones in every run, from anywhere
    in the corpus and not only from its first day.
    """

    documents_dropped: int = 0
    characters_dropped: int = 0
    documents_changed: int = 0
    characters_changed: int = 0
    examples: dict[str, dict[str, str]] = field(default_factory=dict)  # hash of the id -> example

    def add_drop(self, identity: str, text: str, reason: str = "") -> None:
        """Count a dropped document; `reason` says more than the rule's name (the id kept instead)."""
        self.documents_dropped += 1
        self.characters_dropped += len(text)
        example = {"id": identity, "before": text[:_EXCERPT]}
        self._show(identity, example | ({"reason": reason} if reason else {}))

    def add_change(self, identity: str, before: Sequence[str], after: Sequence[str]) -> None:
        """Count a changed document, given its changed fields before and after."""
        self.documents_changed += 1
        self.characters_changed += sum(map(_characters_changed, before, after))
        old, new = _excerpts(before[-1], after[-1])
        self._show(identity, {"id": identity, "before": old, "after": new})

    def merge(self, other: "Tally") -> None:
        """Add the counts and examples of `other`."""
        self.documents_dropped += other.documents_dropped
        self.characters_dropped += other.characters_dropped
        self.documents_changed += other.documents_changed
        self.characters_changed += other.characters_changed
        self.examples |= other.examples
        self._trim()

    def _show(self, identity: str, example: dict[str, str]) -> None:
        self.examples[hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()] = example
        self._trim()

    def _trim(self) -> None:
        while len(self.examples) > EXAMPLES:
            del self.examples[max(self.examples)]

    def as_json(self) -> dict[str, Any]:
        """The counts and the examples in a fixed order."""
        return {
            "documents_dropped": self.documents_dropped,
            "characters_dropped": self.characters_dropped,
            "documents_changed": self.documents_changed,
            "characters_changed": self.characters_changed,
            "examples": [self.examples[key] for key in sorted(self.examples)],
        }


@dataclass
class Totals:
    """Counts over the documents of the finished corpus."""

    documents: int = 0
    characters: int = 0
    words: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    years: Counter[str] = field(default_factory=Counter)
    sections: Counter[str] = field(default_factory=Counter)
    first_date: str = ""
    last_date: str = ""

    def add(self, document: Mapping[str, Any], language: str) -> None:
        """Count a document of the corpus."""
        self.documents += 1
        self.characters += len(document["text"])
        self.words += len(document["text"].split())
        self.languages[language] += 1
        self.sections[document.get("section") or "none"] += 1
        date = document.get("date") or ""
        self.years[date[:4] or "none"] += 1
        if date:
            self.first_date = min(self.first_date or date, date)
            self.last_date = max(self.last_date, date)

    def as_json(self) -> dict[str, Any]:
        """The counts; sections and languages by size, years in order."""
        return {
            "documents": self.documents,
            "characters": self.characters,
            "words": self.words,
            "first_date": self.first_date or None,
            "last_date": self.last_date or None,
            "languages": dict(self.languages.most_common()),
            "years": dict(sorted(self.years.items())),
            "sections": dict(self.sections.most_common()),
        }


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "0.00 %"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ruler, *rows)]


def _count(number: int) -> str:
    return f"{number:,}"


def _share(part: int, whole: int) -> str:
    return f"{_count(part)} ({_percent(part, whole)})"


def _cell(text: str) -> str:
    """A text as it can stand in a code span: on one line, without back quotes."""
    return text.replace("\n", " ⏎ ").replace("`", "ˋ")


def _rules_section(rules: Sequence[Mapping[str, Any]], read: Mapping[str, int]) -> list[str]:
    head = ("rule", "documents dropped", "characters dropped", "documents changed", "characters changed")
    rows = [
        (
            rule["name"],
            _share(rule["documents_dropped"], read["documents"]),
            _share(rule["characters_dropped"], read["characters"]),
            _share(rule["documents_changed"], read["documents"]),
            _count(rule["characters_changed"]),
        )
        for rule in rules
    ]
    return ["## What each rule did, in order", "", *_table(head, rows), ""]


def _examples_section(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["## Examples", ""]
    for rule in rules:
        if not rule["examples"]:
            continue
        lines += [f"### {rule['name']}", "", rule["why"], ""]
        for example in rule["examples"]:
            reason = f" ({example['reason']})" if "reason" in example else ""
            after = f" → `{_cell(example['after'])}`" if "after" in example else ""
            lines.append(f"- {example['id']}{reason}: `{_cell(example['before'])}`{after}")
        lines.append("")
    return lines


def as_markdown(card: Mapping[str, Any]) -> str:
    """The card of `oracle.cleaning.clean` for people. Percentages are of what was read."""
    read, kept = card["read"], card["kept"]
    facts = [
        ("source", card["source"]),
        ("licence", card["licence"]),
        ("language", card["language"]),
        ("written", card["written"]),
        ("dates", f"{kept['first_date']} to {kept['last_date']}" if kept["first_date"] else "none"),
        ("file", f"{card['bytes']:,} bytes, SHA-256 {card['sha256']}"),
    ]
    totals = [
        ("read", _count(read["documents"]), _count(read["characters"]), "100.00 %"),
        (
            "kept",
            _count(kept["documents"]),
            _count(kept["characters"]),
            _percent(kept["characters"], read["characters"]),
        ),
    ]
    lines = [f"# Data card: {card['name']}", "", *(f"- {name}: {value}" for name, value in facts), ""]
    lines += [*_table(("", "documents", "characters", "of the characters"), totals), ""]
    lines += [
        f"{_count(read['items'])} items were read; {_count(read['empty'])} of them held no document.",
        "",
    ]
    lines += _rules_section(card["rules"], read)
    for name in ("languages", "years", "sections"):
        rows = [(key, _count(count)) for key, count in kept[name].items()]
        lines += [f"## {name.capitalize()}", "", *_table((name[:-1], "documents"), rows), ""]
    return "\n".join(lines + _examples_section(card["rules"]))
