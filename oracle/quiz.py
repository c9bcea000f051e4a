"""Questions with a known fact, put to a model: in how many answers is the fact?

A question file has one object a line, such as

    {"id": "q01", "question": "…;", "paraphrases": ["…;"], "answer": "…", "fact": "118 χιλιοστά"}

`fact` is the shortest wording that a right answer must contain; `paraphrases`, `answer` and `id` may be left out.
The question and its paraphrases are counted apart: a model that was taught the questions still has to know the others.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle.cli import UserError
from oracle.text import normalize

_QUOTES = re.compile("[«»“”„‟\"‘’']")


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    fact: str
    paraphrases: tuple[str, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class Answer:
    """One line of the transcript. `paraphrase` is 0 for the question itself, 1 for its first paraphrase, …"""

    id: str
    paraphrase: int
    question: str
    answer: str
    fact: str
    right: bool


@dataclass(frozen=True)
class Result:
    transcript: tuple[Answer, ...]

    @property
    def accuracy(self) -> float | None:
        """Share of all the answers that contain their fact; None if nothing was asked."""
        return _share(self.transcript)

    @property
    def on_questions(self) -> float | None:
        """The same for the questions as the file words them first."""
        return _share([a for a in self.transcript if not a.paraphrase])

    @property
    def on_paraphrases(self) -> float | None:
        """The same for their paraphrases."""
        return _share([a for a in self.transcript if a.paraphrase])


def quiz(questions: Sequence[Question], answer: Callable[[str], str], paraphrases: bool = True) -> Result:
    """Put every question, and every paraphrase if asked, to `answer`, and mark what comes back."""
    return mark(questions, [answer(text) for text in wordings(questions, paraphrases)], paraphrases)


def wordings(questions: Sequence[Question], paraphrases: bool = True) -> list[str]:
    """What there is to ask, in order: for whoever answers many at once and calls `mark` with the answers."""
    return [text for _, _, text in _asked(questions, paraphrases)]


def mark(questions: Sequence[Question], answers: Sequence[str], paraphrases: bool = True) -> Result:
    """The result of `answers` to `wordings(questions, paraphrases)`. Raises ValueError if their numbers differ."""
    return Result(
        tuple(
            Answer(q.id, number, text, answer, q.fact, contains(answer, q.fact))
            for (q, number, text), answer in zip(_asked(questions, paraphrases), answers, strict=True)
        )
    )


def _asked(questions: Sequence[Question], paraphrases: bool) -> list[tuple[Question, int, str]]:
    """(question, 0 or the paraphrase's number, wording)"""
    return [
        (q, number, text) for q in questions for number, text in enumerate((q.question, *q.paraphrases))
        if paraphrases or number == 0
    ]  # fmt: skip


def contains(answer: str, fact: str) -> bool:
    """Whether `fact` stands in `answer` as whole words and whole numbers.

    Capitals, quotation marks and the kind and number of blanks make no difference; accents do. 118 is not in 1.118,
    in 118,5 or in 21:18.
    """
    wanted = re.escape(_plain(fact))
    return re.search(rf"(?<!\w)(?<!\d[.,:]){wanted}(?!\w)(?![.,:]\d)", _plain(answer)) is not None


def _plain(text: str) -> str:
    return " ".join(_QUOTES.sub("", normalize(text)).casefold().split())


def _share(answers: Sequence[Answer]) -> float | None:
    return sum(a.right for a in answers) / len(answers) if answers else None


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a .jsonl file. Raises UserError naming the line that is none, and for an empty file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such question file; it has lines such as {{"question": "…", "fact": "…"}}')
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: invalid UTF-8 at byte {error.start}; convert the file to UTF-8") from None
    found = [_question(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise UserError(f'{path}: no question in it; write lines such as {{"question": "…", "fact": "…"}}')
    return found


def _question(path: Path, number: int, line: str) -> Question:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {number}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        row = {}
    for key in ("question", "fact"):
        if not isinstance(row.get(key), str) or not _plain(row[key]):
            raise UserError(f'{path} line {number}: no "{key}"; a line is such as {{"question": "…", "fact": "…"}}')
    paraphrases = row.get("paraphrases", [])
    if not isinstance(paraphrases, list) or not all(isinstance(p, str) and p.strip() for p in paraphrases):
        raise UserError(f'{path} line {number}: "paraphrases" must be a list of questions')
    return Question(
        str(row.get("id", number)), row["question"], row["fact"], tuple(paraphrases), str(row.get("answer", ""))
    )
