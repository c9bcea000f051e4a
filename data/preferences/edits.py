"""Edits of a text, and the words that may be edited.

A name that is spoilt teaches a wrong name, a number that is spoilt a wrong fact: only words in small letters of the
language's own alphabet are ever touched, away from addresses, digits and elisions.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple


class Edit(NamedTuple):
    """`was`, which stands at [start, end) of the good text, became `now`."""

    kind: str
    start: int
    end: int
    was: str
    now: str


class Word(NamedTuple):
    start: int
    end: int
    text: str


class Rule(NamedTuple):
    """One kind of error: the wrong forms of a word, which may depend on the word after it (empty: there is none).

    With `two`, the forms are of both words together, and the following word may be touched as well. Forms equal to the
    original are ignored; a form listed twice is twice as likely.
    """

    kind: str
    weight: float
    forms: Callable[[str, str], Sequence[str]]
    two: bool = False


class Language(NamedTuple):
    """Its small letters, for a regular expression; its rules, by what they spoil."""

    letters: str
    spelling: tuple[Rule, ...]
    grammar: tuple[Rule, ...]


_TOKEN = re.compile(
    r"(?P<address>(?:https?://|www\.)\S+|\S*[@#/\\_]\S*|\w+(?:\.\w+)*\.[a-z]{2,}\b)"
    r"|(?P<word>ό,τι\b|[^\W\d_]+)|\d\S*"
)
_GLUED = re.compile(r"[\w'’.]")  # what makes a run of letters part of something else: 3ος, απ’, κ.λπ


def words_of(text: str, letters: str) -> list[Word]:
    """The words of `text` that may be touched, in order."""
    own = re.compile(f"[{letters}]+(?:,[{letters}]+)?")
    found = []
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        if not match["word"] or not own.fullmatch(match[0]):
            continue
        before, after = text[start - 1 : start], text[end : end + 1]
        if _GLUED.match(before) or after in ("'", "’") or (after == "." and text[end + 1 : end + 2].isalpha()):
            continue
        found.append(Word(start, end, match[0]))
    return found


def apply(text: str, edits: Iterable[Edit]) -> str:
    """`text` spoilt by edits in order of place. Raises ValueError if they overlap or were made for another text."""
    parts, place = [], 0
    for edit in edits:
        if edit.start < place or text[edit.start : edit.end] != edit.was:
            raise ValueError(f"{edit} does not fit the text")
        parts += [text[place : edit.start], edit.now]
        place = edit.end
    return "".join([*parts, text[place:]])


def restore(spoilt: str, edits: Iterable[Edit]) -> str:
    """The text that `apply` spoilt."""
    back, shift = [], 0
    for edit in edits:
        start = edit.start + shift
        back.append(Edit(edit.kind, start, start + len(edit.now), edit.now, edit.was))
        shift += len(edit.now) - len(edit.was)
    return apply(spoilt, back)
