"""Pairs of answers, one better than the other, out of JSON lines in any of the shapes people keep them in.

{"prompt": "…", "chosen": "…", "rejected": "…"}                   texts, or lists of messages, the prompt's perhaps in both
{"instruction": "…", "input": "…", "chosen": "…", "rejected": "…"}                                 Alpaca
{"conversations": […], "chosen": {"from": "gpt", "value": "…"}, "rejected": {…}}                   ShareGPT
{"wrong": "…", "right": "…"}                                                                corrected texts, no prompt

What data/preferences/corrupt.py writes is the first, with "kind": what is wrong with the rejected side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oracle.chat import Message
from oracle.cli import UserError
from oracle.config import nearest
from oracle.conversations import checked, from_value, message_list, system_message, text_of
from oracle.jsonl import BadLineError
from oracle.shapes import Rows, read_rows

Said = list[dict[str, Any]]  # messages as they stand in a file
UNKNOWN = "unknown"  # kind of a pair that does not say


@dataclass(frozen=True)
class Pair:
    """Messages, and two answers to them."""

    id: str
    article: str  # the text it was made from, where that is known: its pairs stay on one side of the split
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    kind: str

    @property
    def question(self) -> str:
        """What the user says last; the better answer where nobody asks."""
        return next((m["content"] for m in reversed(self.prompt) if m["role"] == "user"), self.chosen)


def read_pairs(path: str | Path, skip: bool = False) -> Rows[Pair]:
    """Read a .jsonl file, plain or compressed. Raises UserError naming file and line; `skip` leaves single ones out."""
    return read_rows(path, "pairs", shape_of, _read, skip)


def _read(record: dict[str, Any], shape: str, name: str) -> tuple[set[str], Pair]:
    keys, convert = SHAPES[shape]
    return {*keys, "id", "source", "article", "kind", "edits"}, _pair(record, name, convert)


def shape_of(record: dict[str, Any]) -> str:
    """The name of the shape that `record` has. Raises BadLineError if it has none of them."""
    for shape, (keys, _) in SHAPES.items():
        if keys[0] in record:
            return shape
    near = next(filter(None, (nearest(key, ("chosen", "rejected", "wrong", "right")) for key in record)), "")
    raise BadLineError(
        f"no pair in the keys {', '.join(record) or '(none)'}{near};"
        " known are chosen and rejected with prompt, instruction or conversations, and wrong with right"
    )


def _pair(record: dict[str, Any], name: str, convert: Callable[[dict[str, Any]], tuple[Said, Said]]) -> Pair:
    chosen, rejected = (checked(said, answer_alone=True)[0] for said in convert(record))
    if chosen[:-1] != rejected[:-1]:
        raise BadLineError(
            "chosen and rejected answer different prompts; the messages before the last must be the same"
        )
    if chosen[-1] == rejected[-1]:
        raise BadLineError("chosen equals rejected; leave such pairs out")
    kind = record.get("kind", UNKNOWN)
    if not isinstance(kind, str) or not kind:
        raise BadLineError(f"kind={kind!r} is no text; write what is wrong with the rejected side, or leave it out")
    id = str(record.get("id") or name)
    article = str(record.get("article") or id.rpartition("/")[0])  # corrupt.py numbers a document's passages so
    return Pair(id, article, chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], kind)


def _answers(record: dict[str, Any], before: Said) -> tuple[Said, Said]:
    """The two conversations: `before`, and then what chosen and rejected hold."""
    return _continued(record, "chosen", before), _continued(record, "rejected", before)


def _continued(record: dict[str, Any], key: str, before: Said) -> Said:
    value = record.get(key)
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return [*before, *(from_value(m) if "from" in m else m for m in message_list(value, key))]
    return [*before, {"role": "assistant", "content": text_of(record, key)}]


def _plain(record: dict[str, Any]) -> tuple[Said, Said]:
    prompt = record.get("prompt", [])
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}] if prompt.strip() else []
    elif prompt:
        prompt = message_list(prompt, "prompt")
    return _answers(record, [*system_message(record), *prompt])


def _alpaca(record: dict[str, Any]) -> tuple[Said, Said]:
    asked = "\n\n".join(text_of(record, key) for key in ("instruction", "input") if record.get(key))
    return _answers(record, [*system_message(record), {"role": "user", "content": asked}])


def _sharegpt(record: dict[str, Any]) -> tuple[Said, Said]:
    said = message_list(record["conversations"], "conversations")
    return _answers(record, [*system_message(record), *map(from_value, said)])


def _corrected(record: dict[str, Any]) -> tuple[Said, Said]:
    right, wrong = (text_of(record, key) for key in ("right", "wrong"))
    return [{"role": "assistant", "content": right}], [{"role": "assistant", "content": wrong}]


# Shape -> keys it uses, the telling one first, and how it becomes two conversations; the last of each is the answer.
SHAPES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], tuple[Said, Said]]]] = {
    "Alpaca": (("instruction", "input", "chosen", "rejected", "system"), _alpaca),
    "ShareGPT": (("conversations", "chosen", "rejected", "system"), _sharegpt),
    "prompt, chosen, rejected": (("chosen", "rejected", "prompt", "system"), _plain),
    "wrong and right": (("wrong", "right"), _corrected),
}


def check_apart(train: Sequence[Pair], val: Sequence[Pair], path: str) -> None:
    """Raises UserError if a prompt of the held-out pairs in `path` is among those trained on."""
    known = {_what_is_answered(pair) for pair in train}
    shared = [pair for pair in val if _what_is_answered(pair) in known]
    if shared:
        raise UserError(
            f"{path}: {len(shared):,} of {len(val):,} held-out pairs have a prompt that is trained on, the first"
            f" {shared[0].id} ({shared[0].question[:40]!r}): take them out of one of the files, or leave val_pairs empty"
        )


def _what_is_answered(pair: Pair) -> tuple[str, ...]:
    return tuple(message["content"] for message in pair.prompt) or (pair.chosen,)
