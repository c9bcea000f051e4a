"""Conversations out of JSON lines, in any of the shapes people keep them in.

{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}      OpenAI
{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}          ShareGPT
{"instruction": "…", "input": "…", "output": "…"}                                            Alpaca
{"question": "…", "answer": "…"}          and "context", which stands before the question
{"prompt": "…", "completion": "…"}        texts, or lists of messages
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from oracle.chat import Message
from oracle.config import nearest
from oracle.jsonl import BadLineError
from oracle.shapes import Rows, read_rows
from oracle.text import normalize

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
MESSAGE_KEYS = {"role", "content", "weight", "name", "from", "value"}


@dataclass(frozen=True)
class Conversation:
    """Messages, the assistant's last; `learn` says which of them are answers to learn from."""

    id: str
    article: str  # the text it is about, where that is known: its conversations stay on one side of the split
    messages: tuple[Message, ...]
    learn: tuple[bool, ...]

    @property
    def question(self) -> str:
        """What the user says first."""
        return next(m["content"] for m in self.messages if m["role"] == "user")


def read_conversations(path: str | Path, skip: bool = False) -> Rows[Conversation]:
    """Read a .jsonl file, plain or compressed. Raises UserError naming file and line; `skip` leaves single ones out."""
    return read_rows(path, "conversations", shape_of, _read, skip)


def _read(record: dict[str, Any], shape: str, name: str) -> tuple[set[str], Conversation]:
    keys, convert = SHAPES[shape]
    messages, learn = checked(convert(record))
    row = Conversation(str(record.get("id") or name), str(record.get("article") or ""), messages, learn)
    return {*keys, "id", "source", "article"}, row


def shape_of(record: dict[str, Any]) -> str:
    """The name of the shape that `record` has. Raises BadLineError if it has none of them."""
    for shape, (keys, _) in SHAPES.items():
        if next(iter(keys)) in record:
            return shape
    known = [next(iter(keys)) for keys, _ in SHAPES.values()]
    near = next(filter(None, (nearest(key, known) for key in record)), "")
    raise BadLineError(
        f"no conversation in the keys {', '.join(record) or '(none)'}{near};"
        " known are messages, conversations, instruction with output, question with answer, prompt with completion"
    )


def _openai(record: dict[str, Any]) -> list[dict[str, Any]]:
    return message_list(record["messages"], "messages")


def _sharegpt(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [*system_message(record), *(from_value(m) for m in message_list(record["conversations"], "conversations"))]


def _alpaca(record: dict[str, Any]) -> list[dict[str, Any]]:
    history = record.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise BadLineError("history is no list of [question, answer]")
    asked = "\n\n".join(text_of(record, key) for key in ("instruction", "input") if record.get(key))
    return [
        *system_message(record),
        *(m for pair in history for m in _turn(*pair)),
        *_turn(asked, text_of(record, "output")),
    ]


def _question_answer(record: dict[str, Any]) -> list[dict[str, Any]]:
    asked = "\n\n".join(text_of(record, key) for key in ("context", "question") if record.get(key))
    return [*system_message(record), *_turn(asked, text_of(record, "answer"))]


def _prompt_completion(record: dict[str, Any]) -> list[dict[str, Any]]:
    prompt, completion = record["prompt"], record.get("completion")
    if isinstance(prompt, list) or isinstance(completion, list):
        return [*message_list(prompt, "prompt"), *message_list(completion, "completion")]
    return _turn(text_of(record, "prompt"), text_of(record, "completion"))


# Shape -> keys it uses, the telling one first, and how it becomes messages.
SHAPES: dict[str, tuple[dict[str, None], Callable[[dict[str, Any]], list[dict[str, Any]]]]] = {
    "OpenAI messages": (dict.fromkeys(("messages",)), _openai),
    "ShareGPT": (dict.fromkeys(("conversations", "system")), _sharegpt),
    "Alpaca": (dict.fromkeys(("instruction", "input", "output", "system", "history")), _alpaca),
    "question and answer": (dict.fromkeys(("question", "answer", "context", "system")), _question_answer),
    "prompt and completion": (dict.fromkeys(("prompt", "completion")), _prompt_completion),
}


def system_message(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text_of(record, "system")}] if record.get("system") else []


def _turn(asked: Any, answered: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def from_value(message: dict[str, Any]) -> dict[str, Any]:
    """ShareGPT's words for role and content, in ours."""
    return {**message, "role": message.get("from"), "content": message.get("value")}


def text_of(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadLineError(f"{key} is {'missing' if value is None else 'no text'}")
    return value


def message_list(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise BadLineError(f"{name} is no list of messages")
    return value


def checked(said: Sequence[dict[str, Any]], answer_alone: bool = False) -> tuple[tuple[Message, ...], tuple[bool, ...]]:
    """Messages in canonical form, and which answers are learnt from; `answer_alone` allows one that nobody asked for.

    Raises BadLineError naming the message at fault.
    """
    messages: list[Message] = []
    learn = []
    for number, message in enumerate(said, start=1):
        if strange := message.keys() - MESSAGE_KEYS:
            raise BadLineError(f"message {number} has an unknown key {min(strange)!r}; known are role, content, weight")
        if message.get("role") not in ROLES:
            raise BadLineError(
                f"message {number}: unknown role {message.get('role')!r}; roles are system, user, assistant"
            )
        role, content = ROLES[message["role"]], message.get("content")
        if not isinstance(content, str) or not normalize(content).strip():
            raise BadLineError(f"message {number}: the {role}'s content is empty or no text")
        if role == "system" and messages:
            raise BadLineError(f"message {number}: a system message stands first or not at all")
        before = messages[-1]["role"] if messages else "system"
        unasked = role == "assistant" and before == "system" and not (answer_alone and len(said) == 1)
        if unasked or role == before == "user" or role == before == "assistant":
            raise BadLineError(
                f"message {number}: {role} after {before}; user and assistant take turns, the user first"
            )
        if message.get("weight", 1) not in (0, 1):
            raise BadLineError(
                f"message {number}: weight {message['weight']!r}; 0 leaves an answer out of the loss, 1 keeps it"
            )
        messages.append({"role": role, "content": normalize(content).strip()})
        learn.append(role == "assistant" and bool(message.get("weight", 1)))
    if not messages or messages[-1]["role"] != "assistant":
        raise BadLineError("no answer at the end; the last message is the assistant's")
    return tuple(messages), tuple(learn)


class Asked(Protocol):
    """Something that was asked, perhaps of an article."""

    @property
    def article(self) -> str: ...

    @property
    def question(self) -> str: ...


T = TypeVar("T", bound=Asked)


def split(items: Sequence[T], val_fraction: float) -> tuple[list[T], list[T]]:
    """(training, validation) by a hash of what each is about: its article, else its first question.

    Neither an article nor a question is on both sides; which side does not depend on order or on what else there is,
    except that a question asked of two articles ties them together. Both sides hold something if that is possible.
    """
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    names = [(f"a{c.article}" if c.article else f"q{c.question}", f"q{c.question}") for c in items]
    for about, question in names:
        one, other = sorted((find(about), find(question)))
        parent[other] = one
    place = {
        name: int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12 for name in {find(a) for a, _ in names}
    }
    limit = val_fraction if min(place.values(), default=1) < val_fraction else min(place.values(), default=0)
    sides: tuple[list[T], list[T]] = ([], [])
    for item, (about, _) in zip(items, names, strict=True):
        value = place[find(about)]
        sides[value < val_fraction or (value == limit and len(place) > 1)].append(item)
    return sides
