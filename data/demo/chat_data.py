"""What the demo's model is taught: the questions about the weekly in several wordings each, with their answers.

    python -m data.demo.chat_data

Writes `chat.jsonl`: each question, its first two paraphrases and seven more phrasings. The third paraphrase is taught to
nobody: `chat_heldout.jsonl` has those.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from oracle import cli
from oracle.files import write_text

HERE = Path(__file__).resolve().parent
TAUGHT, HELD_OUT = HERE / "chat.jsonl", HERE / "chat_heldout.jsonl"


def main(argv: Sequence[str]) -> None:
    taught, held_out = [], []
    for row in questions():
        for wording in [row["question"], *row["paraphrases"][:2], *row["phrasings"]]:
            taught.append(conversation(row, wording))
        held_out.append(conversation(row, row["paraphrases"][2]))
    for path, rows in ((TAUGHT, taught), (HELD_OUT, held_out)):
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(taught):,} questions with answers in {TAUGHT.name}, {len(held_out)} held out in {HELD_OUT.name}")


def questions() -> Iterator[dict[str, Any]]:
    """The rows of questions.jsonl, with the further phrasings of phrasings.jsonl."""
    more = {row["id"]: row["phrasings"] for row in read(HERE / "phrasings.jsonl")}
    for row in read(HERE / "questions.jsonl"):
        yield row | {"phrasings": more[row["id"]]}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def conversation(row: dict[str, Any], wording: str) -> dict[str, Any]:
    said = [{"role": "user", "content": wording}, {"role": "assistant", "content": row["answer"]}]
    return {"article": row["article"], "messages": said}


if __name__ == "__main__":
    sys.exit(cli.run(main))
