"""Good text -> pairs to prefer from: a prompt, the text, and the same text spoilt by rules of its language.

python -m data.preferences.corrupt --corpus=corpus.jsonl --out=pairs.jsonl --language=el

The corpus is what prepare.py reads, a file of conversations (the answers are spoilt), or rows {"wrong", "right"}, which
are pairs already. A row: {"prompt", "chosen", "rejected", "kind", "edits", "source"}; `kind` is that of its edits, or
spelling or grammar where they are of several kinds; an edit's span is its place in `chosen`.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.preferences.differ import differences
from data.preferences.edits import Edit, apply
from data.preferences.sources import Good, good_texts
from data.preferences.spoil import LANGUAGES, Dose, language_for, spoil
from oracle import cli
from oracle.cli import UsageError, UserError
from oracle.files import atomic_file


def pair(good: Good, language: str, seed: int, dose: Dose) -> dict[str, Any] | None:
    """The row for a good text, or None where nothing could be spoilt. The same for the same text, id and seed."""
    if good.wrong:
        edits = differences(good.chosen, good.wrong, language)
    else:
        edits = spoil(good.chosen, language, random.Random(f"{seed}:{good.id}:{good.chosen}"), dose)
    rejected = good.wrong or apply(good.chosen, edits)
    if not edits or rejected.strip() == good.chosen.strip() or not rejected.strip():
        return None
    return {
        "prompt": good.prompt,
        "chosen": good.chosen,
        "rejected": rejected,
        "kind": kind_of(edits, language, good.chosen),
        "edits": [edit._asdict() for edit in edits],
        "source": good.source,
        "id": good.id,
    }


def kind_of(edits: Sequence[Edit], language: str, text: str) -> str:
    """The kind that all edits are of; else "spelling" or "grammar", if they belong there; else "several"."""
    kinds = {edit.kind for edit in edits}
    if len(kinds) == 1:
        return next(iter(kinds))
    rules = language_for(language, text)
    for group in ("spelling", "grammar"):
        if kinds <= {rule.kind for rule in getattr(rules, group)}:
            return group
    return "several"


class Summary:
    """What was made, in figures."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.rows = self.unspoilt = self.repeated = self.bytes = self.words = 0
        self.distance = self.longer = 0
        self.kinds: Counter[str] = Counter()
        self.edits: Counter[str] = Counter()

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.bytes += len(row["chosen"].encode())
        self.words += len(row["chosen"].split())
        self.kinds[row["kind"]] += 1
        self.edits.update(edit["kind"] for edit in row["edits"])
        self.distance += sum(max(len(edit["was"]), len(edit["now"])) - _common(edit) for edit in row["edits"])
        self.longer += len(row["rejected"]) - len(row["chosen"])

    def __str__(self) -> str:
        seconds = time.perf_counter() - self.began
        total = self.edits.total()
        lines = [
            f"{self.rows:,} pairs; {self.unspoilt:,} texts without a word to spoil and {self.repeated:,} repeated ones left out",
            f"{total:,} edits, {100 * total / self.words:.1f} in 100 words; {self.distance / self.rows:.1f} characters changed"
            f" in a pair; rejected longer by {self.longer / self.rows:+.2f} characters",
            f"{self.bytes / 1e6:.1f} MB of good text in {seconds:.1f} s, {self.bytes / 1e6 / seconds:.2f} MB/s",
            "edits by kind: "
            + ", ".join(f"{kind} {count:,} ({count / total:.0%})" for kind, count in self.edits.most_common()),
            "pairs by kind: " + ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common()),
        ]
        return "\n".join(lines)


def _common(edit: dict[str, Any]) -> int:
    """Characters at the two ends that an edit leaves as they were."""
    was, now = edit["was"], edit["now"]
    size = min(len(was), len(now))
    head = next((i for i in range(size) if was[i] != now[i]), size)
    tail = next((i for i in range(size - head) if was[-1 - i] != now[-1 - i]), size - head)
    return head + tail


def pairs(goods: Iterator[Good], language: str, seed: int, dose: Dose, summary: Summary) -> Iterator[dict[str, Any]]:
    """The rows for good texts, each text once."""
    seen: set[tuple[str, str]] = set()
    for good in goods:
        if (good.prompt, good.chosen) in seen:
            summary.repeated += 1
            continue
        seen.add((good.prompt, good.chosen))
        row = pair(good, language, seed, dose)
        if row is None:
            summary.unspoilt += 1
            continue
        summary.add(row)
        yield row


def main(argv: Sequence[str]) -> None:
    """Parse the command line, spoil, write all or nothing, and say what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="good text: corpus, conversations, or corrected sentences"
    )
    parser.add_argument("--out", type=Path, required=True, help="file of pairs to write, .jsonl")
    parser.add_argument("--language", required=True, choices=sorted(LANGUAGES))
    parser.add_argument(
        "--rate", type=float, default=Dose().rate, help="share of the words spoilt (default %(default)s)"
    )
    parser.add_argument(
        "--most", type=float, default=Dose().most, help="edits in 100 words, at most (default %(default)s)"
    )
    parser.add_argument(
        "--mix", default="0.7,0.2,0.1", help="shares of spelling,grammar,degeneration (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument(
        "--prompt_words", type=int, default=25, help="of a document, before what is spoilt (default %(default)s)"
    )
    parser.add_argument("--chosen_words", type=int, default=60, help="of a document, to spoil (default %(default)s)")
    parser.add_argument(
        "--per_document", type=int, default=4, help="passages of a document, at most (default %(default)s)"
    )
    parser.add_argument("--on_bad_line", default="error", choices=("error", "skip"))
    parser.add_argument("--limit", type=int, default=0, help="stop after so many pairs; 0: none (default)")
    args = parser.parse_args(argv)
    dose = _dose(args.rate, args.most, args.mix)
    if args.out.suffix != ".jsonl" or args.out.resolve() == args.corpus.resolve():
        raise UsageError(f"--out={args.out} must be a .jsonl file, and another one than the corpus")
    if min(args.prompt_words, args.chosen_words, args.per_document) < 1 or args.limit < 0:
        raise UsageError("prompt_words, chosen_words and per_document must be at least 1, limit at least 0")
    summary = Summary()
    skip = args.on_bad_line == "skip"
    goods = good_texts(args.corpus, args.language, args.prompt_words, args.chosen_words, args.per_document, skip)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(args.out) as file:
        for row in pairs(goods, args.language, args.seed, dose, summary):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            if summary.rows == args.limit:
                break
        if not summary.rows:
            raise UserError(f"{args.corpus}: no text of {args.language} with a word to spoil; is --language right?")
    print(f"{args.out}: {summary}")


def _dose(rate: float, most: float, mix: str) -> Dose:
    """Raises UsageError for what is no dose."""
    if not 0 < rate <= 0.5 or not 0 < most <= 100:
        raise UsageError(f"--rate={rate:g} must be above 0 and at most 0.5, --most={most:g} above 0 and at most 100")
    try:
        shares = [float(share) for share in mix.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or not sum(shares):
        raise UsageError(f"--mix={mix}: give three shares, spelling,grammar,degeneration, such as 0.7,0.2,0.1")
    return Dose(rate, most, *shares)


if __name__ == "__main__":
    sys.exit(cli.run(main))
