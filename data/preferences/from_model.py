"""A chat model's own answers -> pairs to prefer from: its worse answer against a better one.

python -m data.preferences.from_model out/greek-chat --prompts=questions.jsonl --out=pairs.jsonl --words=corpus.jsonl

Each question is answered several times. Rejected is the answer that repeats itself most, has most words that the corpus
does not have, and is least like the reference; chosen is the reference, where the questions come with answers, else the
best of its own. Rows are those of corrupt.py, the kind being "own answer".
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data.preferences.sources import first_keys
from oracle import cli
from oracle.cli import UsageError, UserError
from oracle.conversations import read_conversations
from oracle.corpus import CorpusReader
from oracle.files import atomic_file
from oracle.generate import Engine, open_engine
from oracle.jsonl import BadLineError, read_lines
from oracle.repetition import ends_in_a_loop, repetition
from oracle.sampling import SamplingParams
from oracle.text import normalize

KIND, SOURCE = "own answer", "model"
GRAM = 4  # characters
_WORD = re.compile(r"[^\W\d_]+")


class Asked(NamedTuple):
    """A question, and a good answer to it or nothing."""

    id: str
    question: str
    reference: str


def read_questions(path: Path) -> list[Asked]:
    """Conversations in any shape, or rows with "question" or "prompt" alone. Raises UserError naming file and line."""
    keys = first_keys(path)
    if keys & {"question", "prompt"} and not keys & {"answer", "completion"}:
        return read_lines(path, _question, skip=False)[0]
    return [
        Asked(c.id, c.question, c.messages[-1]["content"])
        for c in read_conversations(path).items
        if len(c.messages) == 2
    ]


def _question(row: dict[str, Any]) -> Asked:
    text = row.get("question", row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        raise BadLineError('no "question" or "prompt" with a text')
    return Asked(str(row.get("id", "")), normalize(text).strip(), "")


@dataclass(frozen=True)
class Judge:
    """How bad an answer is, 0 at best: what repeats, what is no word, what is unlike the reference. Each part is 0 to 1."""

    words: frozenset[str]  # those that are right, in small letters; empty: misspelling is not judged

    def badness(self, answer: str, reference: str) -> float:
        said = answer.split()
        if not said:
            return 3.0
        repeated = max(repetition([answer]).repeated_4grams, float(ends_in_a_loop(said)))
        return repeated + self.misspelt(answer) + (1 - likeness(answer, reference) if reference else 0.0)

    def misspelt(self, answer: str) -> float:
        """Share of the words in small letters that are not known."""
        words = [word for word in _WORD.findall(answer) if word.islower()]
        return sum(word not in self.words for word in words) / len(words) if words and self.words else 0.0


def likeness(a: str, b: str) -> float:
    """F1 of the two texts' runs of `GRAM` characters, each counted as often as it stands there."""
    one, other = (Counter(text[i : i + GRAM] for i in range(len(text) - GRAM + 1)) for text in (a, b))
    both = (one & other).total()
    return 2 * both / max(1, one.total() + other.total())


def vocabulary(corpus: Path, least: int = 2) -> frozenset[str]:
    """Words in small letters that the corpus has `least` times or more: what it has once may be a misprint."""
    counts: Counter[str] = Counter()
    for document in CorpusReader(corpus):
        counts.update(word for word in _WORD.findall(normalize(document.text)) if word.islower())
    return frozenset(word for word, count in counts.items() if count >= least)


def pair(asked: Asked, answers: Sequence[str], judge: Judge, min_gap: float) -> dict[str, Any] | None:
    """The row for a question, or None where the answers do not differ enough."""
    ranked = sorted(answers, key=lambda answer: judge.badness(answer, asked.reference))
    chosen, rejected = asked.reference or ranked[0], ranked[-1]
    gap = judge.badness(rejected, asked.reference) - judge.badness(chosen, asked.reference)
    if not chosen.strip() or not rejected.strip() or chosen.strip() == rejected.strip() or gap < min_gap:
        return None
    return {
        "prompt": asked.question, "chosen": chosen, "rejected": rejected, "kind": KIND, "edits": [], "source": SOURCE,
        "id": asked.id, "gap": round(gap, 4),
    }  # fmt: skip


def pairs(
    engine: Engine, questions: Sequence[Asked], judge: Judge, samples: int, params: SamplingParams, min_gap: float
) -> Iterator[dict[str, Any]]:
    """Ask the model each question `samples` times, and yield what can be learnt from."""
    template = engine.template
    assert template
    for number, asked in enumerate(questions):
        each = [  # a seed for every answer: one seed would slip at the same place in all of them
            replace(params, seed=params.seed + number * samples + n, stop_tokens=template.stop_tokens)
            for n in range(samples)
        ]
        messages = [{"role": "user", "content": asked.question}]
        prompt, _ = template.trimmed(messages, max(1, engine.block_size - params.max_new_tokens))
        row = pair(asked, [answer.text.strip() for answer in engine.complete([prompt] * samples, each)], judge, min_gap)
        if row:
            yield row


def main(argv: Sequence[str]) -> None:
    """Parse the command line, ask, and write all or nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, help="run directory of a chat model, such as out/greek-chat")
    add("--prompts", type=Path, required=True, help="questions, with or without answers, .jsonl")
    add("--out", type=Path, required=True, help="file of pairs to write, .jsonl")
    add("--words", type=Path, help="corpus whose words count as rightly spelt (default: spelling is not judged)")
    add("--samples", type=int, default=4, help="answers to each question (default %(default)s)")
    add(
        "--temperature", type=float, default=1.0, help="above the usual: worse answers are wanted (default %(default)s)"
    )
    add("--max_new_tokens", type=int, default=120)
    add("--min_gap", type=float, default=0.03, help="least difference in badness (default %(default)s)")
    add("--limit", type=int, default=0, help="questions; 0: all (default)")
    add("--seed", type=int, default=1337)
    add("--device", default="cpu")
    args = parser.parse_args(argv)
    if args.samples < 1 or args.out.suffix != ".jsonl" or args.out.resolve() == args.prompts.resolve():
        raise UsageError("samples must be at least 1, and --out another .jsonl file than the prompts")
    params = SamplingParams(args.max_new_tokens, args.temperature, seed=args.seed)
    questions = read_questions(args.prompts)[: args.limit or None]
    judge = Judge(vocabulary(args.words) if args.words else frozenset())
    engine = open_engine(args.run, slots=args.samples, device=args.device)
    if not engine.template:
        raise UserError(f"{args.run} was not taught to answer; give the run directory of finetune_chat.py")
    made = 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(args.out) as file:
        for row in pairs(engine, questions, judge, args.samples, params, args.min_gap):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            made += 1
        if not made:
            raise UserError(
                f"no answer to {len(questions):,} questions was worse than another by {args.min_gap:g}; raise temperature or samples"
            )
    print(f"{args.out}: {made:,} pairs from {len(questions):,} questions, {args.samples} answers to each")


if __name__ == "__main__":
    sys.exit(cli.run(main))
