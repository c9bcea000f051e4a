"""A model that asks and answers: one chat completion from any OpenAI-compatible server, come what may."""

import json
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import requests
import urllib3

from oracle.cli import UserError
from oracle.fetch import seconds_of

TRIES = 4  # of a request that the server failed; pauses between them are 1, 2, 4 seconds and a half more by chance
OVERLOADED_TRIES = 10  # of one that it put off
RUBBISH_TRIES = 3  # of an answer that is not what was asked for
LONGEST_WAIT = 600.0  # seconds that a server may put us off
MAX_BYTES = 4 << 20  # of an answer
FATAL = {
    401: "does not accept the key",
    403: "refuses this key or model",
    404: "knows no such address or model",
    402: "wants payment",
}

Message = dict[str, str]


class FailedError(Exception):
    """This article got no usable answer. `server`: because of the server, and so would others."""

    def __init__(self, reason: str, server: bool) -> None:
        super().__init__(reason)
        self.server = server


class Answer(NamedTuple):
    text: str
    tokens_in: int
    tokens_out: int


class Teacher:
    """Asks one model at `base_url`, such as http://localhost:11434/v1; may be used by many threads.

    `timeout` is in seconds of silence. Tokens are counted as the server counts them, the answers thrown away included.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str = "",
        timeout: float = 180.0,
        temperature: float = 0.7,
        max_tokens: int = 1500,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.model = model
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._closed = threading.Event()
        self._key, self._timeout, self._sleep = key, timeout, sleep or self._closed.wait
        self._body = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "stream": False}
        self._ready, self._lock = 0.0, threading.Lock()
        self.tokens_in = self.tokens_out = self.requests = 0

    def pairs(self, messages: list[Message]) -> list[tuple[str, str]]:
        """(question, answer) pairs that the model wrote; raises FailedError, or UserError where asking on is no use."""
        for _ in range(RUBBISH_TRIES):
            found = parse(self._insist(messages))
            if found:
                return found
        raise FailedError("no JSON list of questions and answers", server=False)

    def close(self) -> None:
        """Let nobody begin another try."""
        self._closed.set()

    def _insist(self, messages: list[Message]) -> str:
        failures = put_off = 0
        while True:
            self._wait()
            if self._closed.is_set():
                raise FailedError("stopped", server=False)
            try:
                answer = self._ask(messages)
            except _PutOffError as wait:
                put_off += 1
                if put_off == OVERLOADED_TRIES:
                    raise FailedError("overloaded (429)", server=True) from None
                self._hold(wait.seconds or min(60.0, 2.0**put_off))
            except _BrokenError as problem:
                failures += 1
                if failures == TRIES:
                    raise FailedError(str(problem), server=True) from None
                self._sleep(2.0 ** (failures - 1) * (1 + random.random() / 2))
            else:
                with self._lock:
                    self.tokens_in += answer.tokens_in
                    self.tokens_out += answer.tokens_out
                return answer.text

    def _ask(self, messages: list[Message]) -> Answer:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with self._lock:
            self.requests += 1
        try:
            with requests.post(
                self._url,
                json={**self._body, "messages": messages},
                headers=headers,
                timeout=(10.0, self._timeout),
                stream=True,
                allow_redirects=False,
            ) as response:
                body = response.raw.read(MAX_BYTES + 1, decode_content=True)
                promised = (
                    response.headers.get("Content-Length", "") if not response.headers.get("Content-Encoding") else ""
                )
                if promised.isdigit() and len(body) < min(MAX_BYTES, int(promised)):
                    raise _BrokenError("an answer cut short")
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as problem:
            raise _BrokenError(_plain(problem)) from None
        if response.status_code == 429:
            raise _PutOffError(self._checked(seconds_of(response.headers.get("Retry-After"))))
        if response.status_code in FATAL:
            raise UserError(
                f"{self._url} {FATAL[response.status_code]} (answer {response.status_code}); see to it and run the same command again"
            )
        if 400 <= response.status_code < 500:
            raise FailedError(f"answer {response.status_code}: {body[:200].decode('utf-8', 'replace')}", server=False)
        if response.status_code != 200:
            raise _BrokenError(f"answer {response.status_code}")
        return _completion(body)

    def _checked(self, seconds: float) -> float:
        if seconds > LONGEST_WAIT:
            raise UserError(f"{self._url} asks for a rest of {seconds:.0f} s; run the same command again after that")
        return seconds

    def _hold(self, seconds: float) -> None:
        """Nobody asks for so long: what one thread was told goes for all."""
        with self._lock:
            self._ready = max(self._ready, time.monotonic() + seconds)
        self._sleep(seconds)

    def _wait(self) -> None:
        with self._lock:
            left = self._ready - time.monotonic()
        if left > 0:
            self._sleep(left)


class _BrokenError(Exception):
    """No whole answer came; another try may help."""


class _PutOffError(Exception):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def _plain(problem: Exception) -> str:
    """A few words for what a request died of."""
    if isinstance(problem, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(problem, requests.ConnectionError) and "refused" in str(problem):
        return "nobody answers there"
    return "the connection broke"


def _completion(body: bytes) -> Answer:
    try:
        value = json.loads(body)
        text = value["choices"][0]["message"]["content"]
        usage = value.get("usage") or {}
        counts = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
        if not isinstance(text, str):
            raise TypeError
        return Answer(text, *counts)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _BrokenError("an answer that is no chat completion") from None


_THOUGHTS = re.compile(r"<think>.*?</think>", re.S)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.S)
_SPARE_COMMA = re.compile(r",\s*(?=[\]}])")
_KEYS = (("question", "answer"), ("q", "a"), ("ερώτηση", "απάντηση"), ("pytanie", "odpowiedź"), ("питање", "одговор"))


def parse(text: str) -> list[tuple[str, str]]:
    """The (question, answer) pairs in a model's answer, or none.

    Strict about what it holds, a JSON list of objects with question and answer, and lenient about what models put
    around it: thoughts, code fences, a sentence before or after, a comma too many, an object around the list.
    """
    text = _THOUGHTS.sub("", text)
    fenced = _FENCE.search(text)
    text = fenced[1] if fenced else text
    start, end = (
        min((i for i in (text.find("["), text.find("{")) if i >= 0), default=0),
        max(text.rfind("]"), text.rfind("}")),
    )
    try:
        value: Any = json.loads(_SPARE_COMMA.sub("", text[start : end + 1]), strict=False)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, dict):
        value = next((item for item in value.values() if isinstance(item, list)), [value])
    if not isinstance(value, list):
        return []
    found = []
    for item in value:
        for asked, answered in _KEYS:
            if isinstance(item, dict) and isinstance(item.get(asked), str) and isinstance(item.get(answered), str):
                found.append((item[asked].strip(), item[answered].strip()))
                break
    return found
