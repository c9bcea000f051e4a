"""Conversations that users agreed to give, as the training data of the next model.

Only with `--record=FILE`, only of those who agreed (`"store": true`, or /settings on Telegram), and only once the user
has rated the answer:

    FILE                    {"messages": […, the rated answer], "rating": "up"}     finetune_chat.py reads it as it is
    FILE's name -pairs      {"prompt": […], "chosen": […], "rejected": […]}         finetune_dpo.py reads it as it is

Only an answer rated up is learnt from. One rated down has weight 0, and so have the answers before it in the
conversation: they have ratings, and lines, of their own; and of them there is only the client's word that the model
said so. A pair is written when one answer was preferred to another to the same messages. What is written is what the
model said, which the server remembers for a while. No address or name is written.
"""

import contextlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from oracle.chat import Message
from oracle.cli import UserError

Rating = Literal["up", "down"]
REMEMBERED = 1000  # answers that may still be rated


class JsonLines:
    """A file of JSON lines that only grows. A line is written at once and on the disk when `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a file that this user may write") from None
        self._drop_torn_line()

    def append(self, value: dict[str, Any]) -> None:
        """Raises OSError, such as for a full disk, and then nothing of the line stays."""
        line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._handle).st_size
            try:
                if os.write(self._handle, line) < len(line):
                    raise OSError(f"{self.path}: the disk is full")
                os.fsync(self._handle)
            except OSError:
                os.ftruncate(self._handle, size)
                raise

    def close(self) -> None:
        os.close(self._handle)

    def _drop_torn_line(self) -> None:
        """A line cut off by a power failure is no conversation, and would spoil the next one."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._handle, whole)


@dataclass
class _Said:
    """An answer that may be rated."""

    messages: list[Message]  # what it answers
    text: str
    rating: Rating | None = None


class Recorder:
    """Remembers answers until they are rated, and writes those that are."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.conversations = JsonLines(path)
        self.pairs = JsonLines(path.with_name(f"{path.stem}-pairs{path.suffix or '.jsonl'}"))
        self._said: OrderedDict[str, _Said] = OrderedDict()
        self._paired: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def recall(self) -> None:
        """Remember the last answers that are in the file, so that those which come can make pairs with them."""
        rows = self.conversations.path.read_bytes().splitlines()[-REMEMBERED:]
        questions: dict[str, dict[str, _Said]] = {}
        for number, row in enumerate(rows):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # lines that somebody else wrote
                *asked, answer = ({"role": m["role"], "content": m["content"]} for m in json.loads(row)["messages"])
                said = _Said(asked, answer["content"], json.loads(row)["rating"])
                questions.setdefault(json.dumps(asked), {})[f"line {number}"] = said
        for answers in questions.values():
            self._said.update(answers)
            self._paired.update(_preferred(answers))

    def remember(self, answer_id: str, messages: list[Message], text: str) -> None:
        """The answer `text` to `messages` may be rated from now on, unless it is empty."""
        if not text.strip():
            return
        with self._lock:
            self._said[answer_id] = _Said(messages, text)
            while len(self._said) > REMEMBERED:
                gone, _ = self._said.popitem(last=False)
                self._paired = {pair for pair in self._paired if gone not in pair}

    def rate(self, answer_id: str, rating: Rating, versions: Sequence[str] | None = ()) -> bool:
        """Write down that a user rated an answer; False if it is not remembered.

        The first rating of an answer counts. `versions` are the ids of all the answers the user got to this question,
        None: all that are remembered. Those to the same messages that were rated up win against those rated down and
        those they replaced. Raises OSError when the disk is full.
        """
        with self._lock:
            said = self._said.get(answer_id)
            if said is None:
                return False
            if said.rating is None:
                self.conversations.append(_conversation(said, rating))
                said.rating = rating
            asked = None if versions is None else {answer_id, *versions}
            among = {  # by age
                name: known
                for name, known in self._said.items()
                if (asked is None or name in asked) and known.messages == said.messages
            }
            for better, worse in _preferred(among):
                if (better, worse) not in self._paired:
                    self.pairs.append(_pair(self._said[better], self._said[worse]))
                    self._paired.add((better, worse))
            return True

    def close(self) -> None:
        self.conversations.close()
        self.pairs.close()


def _preferred(versions: dict[str, _Said]) -> list[tuple[str, str]]:
    """(better, worse) of the answers to the same messages: rated up before rated down, and before the earlier unrated."""
    found = []
    ids = list(versions)
    for better in ids:
        for worse in ids:
            a, b = versions[better], versions[worse]
            replaced = b.rating is None and ids.index(worse) < ids.index(better)
            if a.rating == "up" and (b.rating == "down" or replaced) and a.text != b.text:
                found.append((better, worse))
    return found


def _conversation(said: _Said, rating: Rating) -> dict[str, Any]:
    answer: dict[str, Any] = {"role": "assistant", "content": said.text}
    if rating == "down":
        answer["weight"] = 0
    before = [{**message, "weight": 0} if message["role"] == "assistant" else message for message in said.messages]
    return {"messages": [*before, answer], "rating": rating, "time": int(time.time())}


def _pair(better: _Said, worse: _Said) -> dict[str, Any]:
    chosen, rejected = ([{"role": "assistant", "content": said.text}] for said in (better, worse))
    return {
        "prompt": better.messages,
        "chosen": chosen,
        "rejected": rejected,
        "kind": "rated",
        "time": int(time.time()),
    }
