"""Where the bot's answers come from: a model in this process, or any address that speaks OpenAI's API."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import requests

from oracle.cli import UserError

if TYPE_CHECKING:  # the model's own modules load PyTorch, which a bot without a model in it does not need
    from oracle.sampling import SamplingParams
    from oracle.worker import Worker

Message = dict[str, str]
Cancelled = Callable[[], bool]
KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_LINE = 1 << 20  # bytes of one event
RESTS = 3  # times a busy server is asked again
POLL = 0.2  # seconds between two looks at whether the answer is still wanted


class NoAnswerError(Exception):
    """The model did not answer. The message is for the log and quotes nobody."""


@dataclass(frozen=True)
class Wish:
    """How an answer is to be written."""

    max_tokens: int
    temperature: float
    seed: int


class Backend(Protocol):
    """Answers conversations; its methods are called from several threads."""

    name: str

    def count(self, text: str) -> int:
        """Tokens in `text`, or a fair guess."""

    def answer(self, messages: Sequence[Message], wish: Wish, cancelled: Cancelled) -> Iterator[str]:
        """The answer as it is written; ends early when `cancelled()`. Raises NoAnswerError."""

    def close(self) -> None:
        """Nothing more will be asked."""


class InProcess:
    """The model in this process, written by its worker's thread."""

    def __init__(self, worker: "Worker", defaults: "SamplingParams", answer_seconds: float) -> None:
        engine = worker.engine
        if engine.template is None:
            raise UserError(
                f"{engine.name} is a base model, which continues texts and does not answer: teach it with python"
                " finetune_chat.py, and name the run that this makes"
            )
        self.name, self.worker, self.seconds = engine.name, worker, answer_seconds
        self._template, self._tokenizer, self._room = engine.template, engine.tokenizer, engine.block_size
        self._defaults = replace(defaults, stop_tokens=engine.template.stop_tokens)
        worker.start()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text))

    def answer(self, messages: Sequence[Message], wish: Wish, cancelled: Cancelled) -> Iterator[str]:
        from oracle.worker import LATE, QueueFullError

        tokens = min(wish.max_tokens, self._room // 2)
        prompt, _ = self._template.trimmed(messages, self._room - tokens)
        params = replace(self._defaults, max_new_tokens=tokens, temperature=wish.temperature, seed=wish.seed)
        try:
            answer = self.worker.ask(prompt, params, str(wish.seed), self.seconds)
        except QueueFullError as full:
            raise NoAnswerError(str(full)) from None
        some = False
        try:
            while not cancelled():
                piece = answer.next(POLL)
                if piece is None:
                    continue
                if piece.text:
                    some = True
                    yield piece.text
                if piece.end in ("stop", "length") or (piece.end == LATE and some):
                    return
                if piece.end:
                    raise NoAnswerError(f"the model's answer was {piece.end}")
        finally:
            answer.cancel()

    def close(self) -> None:
        self.worker.stop()


class Remote:
    """A server at `address` (up to and including /v1), such as serve.py's."""

    def __init__(self, address: str, model: str, answer_seconds: float, key: str = "") -> None:
        self.address, self.seconds = address.rstrip("/"), answer_seconds
        self._headers = {"Authorization": f"Bearer {key or os.environ.get(KEY_VARIABLE, '')}".strip()}
        self.name = model or self._first_model()

    def _first_model(self) -> str:
        try:
            reply = requests.get(f"{self.address}/models", headers=self._headers, timeout=10)
            reply.raise_for_status()
            return str(reply.json()["data"][0]["id"])
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"--api_url={self.address}: {_why(error)}; start the server first, give the address up to /v1, a key in"
                f" {KEY_VARIABLE} if it wants one, and --api_model if it does not list its models"
            ) from None

    def count(self, text: str) -> int:
        """A guess: pieces of a tokenizer made for the language have some four characters."""
        return -(-len(text) // 4)

    def answer(self, messages: Sequence[Message], wish: Wish, cancelled: Cancelled) -> Iterator[str]:
        """When the server finds the conversation too long (400), its oldest turns are left out; when busy, it may rest."""
        messages, rests = list(messages), 0
        try:
            while not cancelled():
                with self._ask(messages, wish) as reply:
                    first = 1 if messages[0]["role"] == "system" else 0
                    if reply.status_code == 400 and len(messages) > first + 2:
                        del messages[first : first + 2]
                    elif reply.status_code in (429, 503) and rests < RESTS:
                        rests += 1
                        time.sleep(_rest(reply))
                    else:
                        reply.raise_for_status()
                        yield from _pieces(reply, cancelled)
                        return
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise NoAnswerError(_why(error)) from None

    def _ask(self, messages: list[Message], wish: Wish) -> requests.Response:
        body = {
            "model": self.name, "messages": messages, "stream": True, "seed": wish.seed,
            "max_tokens": wish.max_tokens, "temperature": wish.temperature,
        }  # fmt: skip
        address = f"{self.address}/chat/completions"
        return requests.post(address, json=body, headers=self._headers, stream=True, timeout=(10, self.seconds))

    def close(self) -> None:
        pass


def _pieces(reply: requests.Response, cancelled: Cancelled) -> Iterator[str]:
    """The texts in a stream of server-sent events. Raises ValueError for one that breaks off."""
    for line in _lines(reply):
        if cancelled():
            return
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event: Any = json.loads(data)
        if "error" in event:
            raise ValueError("an error in the stream")
        text = event["choices"][0]["delta"].get("content") if event["choices"] else None
        if text:
            yield str(text)
    raise ValueError("the stream broke off")


def _lines(reply: requests.Response) -> Iterator[bytes]:
    rest = b""
    for chunk in reply.iter_content(None):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise ValueError("an event without end")
        yield from lines


def _rest(reply: requests.Response) -> float:
    """Seconds until a busy server is asked again: what it says, within reason."""
    said = reply.headers.get("Retry-After", "")
    return min(float(said), 20.0) if said.isdecimal() else 2.0


def _why(error: Exception) -> str:
    """What went wrong, without what a server or a user said."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return "the answer is malformed"
