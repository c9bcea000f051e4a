"""Where the bot's answers come from: a model in this process, or any address that speaks OpenAI's API."""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import requests
import urllib3

from oracle.cli import UserError

if TYPE_CHECKING:  # the model's own modules load PyTorch, which a bot without a model in it does not need
    from oracle.sampling import SamplingParams
    from oracle.worker import Worker

log = logging.getLogger("nanooracle.telegram")

Message = dict[str, str]
Cancelled = Callable[[], bool]
KEY_VARIABLE = "OPENAI_API_KEY"
LONGEST_LINE = 1 << 20  # bytes of one event
LONGEST_TOKEN = 20  # characters; more than that times max_tokens is no answer to what was asked
CHUNK = 1 << 16  # bytes read at once
RESTS = 3  # times a busy server is asked again
# Of the connection, and of answers that are not what was asked for.
FAILURES = (
    requests.RequestException, urllib3.exceptions.HTTPError, ValueError, LookupError, TypeError, AttributeError,
)  # fmt: skip
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
        self.name = self._find(model)

    def _find(self, model: str) -> str:
        """The model's name. Raises UserError when there is no server, no such model, or one that cannot answer."""
        try:
            with requests.get(f"{self.address}/models", headers=self._headers, stream=True, timeout=10) as reply:
                if model and reply.status_code == 404:  # a server that does not list its models
                    return model
                reply.raise_for_status()
                listed = json.loads(_whole(reply))["data"]
            known = {str(entry["id"]): entry for entry in listed}
            name = model or str(listed[0]["id"])
            base = known[name].get("chat") is False if name in known else False
        except FAILURES as error:
            raise UserError(
                f"--api_url={self.address}: {_why(error)}; start the server first, give the address up to /v1, a key in"
                f" {KEY_VARIABLE} if it wants one, and --api_model if it does not list its models"
            ) from None
        if base:  # serve.py says so
            raise UserError(
                f"--api_url={self.address}: {name} is a base model, which continues texts and does not answer: teach it"
                " with python finetune_chat.py, and serve the run that this makes"
            )
        if name not in known:  # perhaps another name for one of them
            log.warning("--api_model=%s is not among the server's models: %s", name, ", ".join(known) or "none")
        return name

    def count(self, text: str) -> int:
        """A guess: pieces of a tokenizer made for the language have some four characters."""
        return -(-len(text) // 4)

    def answer(self, messages: Sequence[Message], wish: Wish, cancelled: Cancelled) -> Iterator[str]:
        """When the server finds the conversation too long, its oldest turns are left out; when busy, it may rest."""
        messages, rests, deadline = list(messages), 0, time.monotonic() + self.seconds
        try:
            while not cancelled():
                with self._ask(messages, wish) as reply:
                    first = 1 if messages[0]["role"] == "system" else 0
                    if reply.status_code in (400, 413) and len(messages) > first + 2:
                        del messages[first : first + 2]
                    elif reply.status_code in (429, 503) and rests < RESTS:
                        rests += 1
                        time.sleep(_rest(reply))
                    else:
                        reply.raise_for_status()
                        yield from _bounded(_pieces(reply), wish.max_tokens * LONGEST_TOKEN, deadline, cancelled)
                        return
        except FAILURES as error:
            raise NoAnswerError(_why(error)) from None

    def _ask(self, messages: list[Message], wish: Wish) -> requests.Response:
        body = {
            "model": self.name, "messages": messages, "stream": True, "seed": wish.seed,
            "max_tokens": wish.max_tokens, "temperature": wish.temperature,
        }  # fmt: skip
        # As UTF-8: escaped, a Greek letter takes three times the room, and servers limit bodies.
        data = json.dumps(body, ensure_ascii=False).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        address = f"{self.address}/chat/completions"
        return requests.post(address, data=data, headers=headers, stream=True, timeout=(10, self.seconds))

    def close(self) -> None:
        pass


def _whole(reply: requests.Response) -> bytes:
    """A body of a size that can be what was asked for."""
    body = b""
    while chunk := reply.raw.read1(CHUNK, decode_content=True):
        body += chunk
        if len(body) > LONGEST_LINE:
            raise ValueError("a body without end")
    return body


def _bounded(pieces: Iterator[str], characters: int, deadline: float, cancelled: Cancelled) -> Iterator[str]:
    """Pieces until there are `characters` or the time is over: a server may send for ever, or send and say nothing.

    Raises NoAnswerError when the time is over and nothing was said.
    """
    said = 0
    for piece in pieces:
        said += len(piece)
        if piece:
            yield piece
        if cancelled() or said > characters:
            return
        if time.monotonic() > deadline:
            if said:
                return
            raise NoAnswerError("no answer in time")


def _pieces(reply: requests.Response) -> Iterator[str]:
    """The texts in a stream of server-sent events, empty ones too. Raises ValueError for one that breaks off."""
    for line in _lines(reply):
        if not line.startswith(b"data:"):
            yield ""
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        event: Any = json.loads(data)
        if "error" in event:
            raise ValueError("an error in the stream")
        text = event["choices"][0]["delta"].get("content") if event["choices"] else None
        yield str(text or "")
    raise ValueError("the stream broke off")


def _lines(reply: requests.Response) -> Iterator[bytes]:
    """Lines as they come, and an empty one whenever something came, so that whoever reads can look at the clock."""
    rest = b""
    # Not reply.iter_content: without chunks in the protocol, it waits for a piece of the size it is told.
    while chunk := reply.raw.read1(CHUNK, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            raise ValueError("an event without end")
        yield b""
        yield from lines


def _rest(reply: requests.Response) -> float:
    """Seconds until a busy server is asked again: what it says, within reason."""
    said = reply.headers.get("Retry-After", "")
    return min(float(said), 20.0) if said.isdecimal() else 2.0


def _why(error: Exception) -> str:
    """What went wrong, without what a server or a user said."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError | urllib3.exceptions.HTTPError):
        return "no connection"
    return "the answer is malformed"
