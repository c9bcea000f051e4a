"""What the demo's model is taught: the questions about the weekly in many wordings each, with their answers.

    python -m data.demo.chat_data

Writes three files. `chat.jsonl` is taught: each question, its first two paraphrases and its further phrasings except the
last. `chat_val.jsonl` has the last: by those the best checkpoint is chosen, and so were the settings.
`chat_heldout.jsonl` has the third paraphrases, by which nothing is chosen: `ask.py` asks them at the end.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oracle import cli
from oracle.files import write_text

HERE = Path(__file__).resolve().parent
TAUGHT, VALIDATION, HELD_OUT = HERE / "chat.jsonl", HERE / "chat_val.jsonl", HERE / "chat_heldout.jsonl"


class Wordings(NamedTuple):
    """Of one question."""

    taught: list[str]
    validation: str
    held_out: str


def main(argv: Sequence[str]) -> None:
    taught, validation, held_out = [], [], []
    for row in questions():
        ways = wordings(row)
        taught += [conversation(row, wording) for wording in ways.taught]
        validation.append(conversation(row, ways.validation))
        held_out.append(conversation(row, ways.held_out))
    for path, rows in ((TAUGHT, taught), (VALIDATION, validation), (HELD_OUT, held_out)):
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(taught):,} questions with answers in {TAUGHT.name}", end=", ")
    print(f"{len(validation)} to choose by in {VALIDATION.name}, {len(held_out)} held out in {HELD_OUT.name}")


def questions() -> Iterator[dict[str, Any]]:
    """The rows of questions.jsonl, with the further phrasings of phrasings.jsonl."""
    more = {row["id"]: row["phrasings"] for row in read(HERE / "phrasings.jsonl")}
    for row in read(HERE / "questions.jsonl"):
        yield row | {"phrasings": more[row["id"]]}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wordings(row: dict[str, Any]) -> Wordings:
    first, second, third = row["paraphrases"]
    *further, last = row["phrasings"]
    return Wordings([row["question"], first, second, *further], last, third)


def conversation(row: dict[str, Any], wording: str) -> dict[str, Any]:
    said = [{"role": "user", "content": wording}, {"role": "assistant", "content": row["answer"]}]
    return {"article": row["article"], "messages": said}


if __name__ == "__main__":
    sys.exit(cli.run(main))
